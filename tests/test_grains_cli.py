"""The verb ``grains``: its options reach the step, files are written, what cannot be is one line and exit code 2."""

import json

import pandas as pd
import pytest
from click.testing import CliRunner

import eds_chunked as edc
from eds_chunked.cli import main
from eds_chunked.grains import files
from eds_chunked.store.results import newest, refresh_command, revisions

pytestmark = pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("grains") / "rock.zarr")
    ds = edc.convert(edc.synthetic.rock((43, 59, 61), counts_per_pixel=80, n_phases=3, energy_scale=0.3), path)
    edc.save(edc.nmf(ds.eds.window(0.2, 20), n_components=3), path)
    edc.save(edc.segment_phases(edc.load(path, "nmf"), min_size=4), path)
    return path


def call(*words):
    return CliRunner().invoke(main, ["grains", *map(str, words)])


def test_grains_of_masks_go_to_the_store_and_to_files(store, tmp_path):
    done = call(store, "--of", "mask", "--method", "practical", "--min-size", 5, "--memory", "2GB", "--folder",
                tmp_path / "new", "--json")  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    saved = edc.load(store, found["address"])
    assert saved.attrs["parameters"] == {"source": "mask", "method": "practical", "min_size": 5}
    table = edc.grain_table(saved)
    assert table.total_counts.sum() > 0
    assert len(found["files"]) == 6
    written = [pd.read_csv(path) for path in found["files"] if path.endswith(".csv")]
    assert [len(rows) for rows in written] == [int((table.phase == phase).sum()) for phase in (1, 2, 3)]
    assert list(written[0].columns) == list(table.columns)


def test_what_makes_stale_grains_again_is_what_made_them(store):
    done = call(store, "--of", "mask", "--h", 2, "--json", "--name", "again")
    address = json.loads(done.stdout)["address"]
    command = refresh_command(store, newest(store, address))
    assert "--of mask --method h-maxima --min-size 4 --h 2.0 --name again" in command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--of", "loadings"), "source: found 'loadings'"),
        (("--memory", "100MB"), "memory for grains: found a budget of 100 MB"),
        (("--min-size", "5mm2"), "min_size: found '5mm2'"),
        (("--parquet",), "--parquet needs --folder"),
        (("--parquet", "--folder", "new"), "pip install 'eds-chunked[parquet]'"),
    ],
)
def test_what_cannot_be_is_one_line(store, monkeypatch, words, message):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    before = len(revisions(store))
    done = call(store, *words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.output
    assert len(revisions(store)) == before
