"""``spectra`` and ``export`` of spectra on the command line."""

import json
import shlex

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from rsciio.msa import file_reader

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.store.results import newest, refresh_command
from tests.decomposition_maps import ArrayReader, made_counts

N_PIXELS = {1: 31 * 20, 2: 31 * 27}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("spectra") / "map.zarr")
    reader = ArrayReader(made_counts())
    object.__setattr__(reader.header, "live_time", 29.14)
    ds = edc.convert(reader, path)
    label = np.where(np.arange(47) < 20, 1, 2).astype(np.uint8) * np.ones((31, 1), np.uint8)
    made = xr.Dataset(coords={axis: ds[axis] for axis in (schema.Y, schema.X)})
    made.attrs = {schema.FINGERPRINT: ds.attrs[schema.FINGERPRINT]} | {
        schema.STEP: schema.PHASES,
        schema.RUN: "k2",
        schema.RESULT_ID: "p",
        schema.PHASE_NAMES: {"2": "a/b"},
    }
    mask = np.stack([label == 1, label >= 1])
    made = made.assign_coords({schema.PHASE: [1, 2]}).assign(
        {schema.LABEL: ((schema.Y, schema.X), label), schema.MASK: ((schema.PHASE, schema.Y, schema.X), mask)}
    )
    edc.save(made, path)
    phases = edc.load(path, "phases")
    grains = phases[[schema.LABEL]].rename({schema.LABEL: schema.GRAIN_LABEL}).astype(np.int32)
    grains[schema.GRAIN_ID] = (schema.GRAIN, [1, 2])
    grains.attrs = phases.attrs | {schema.STEP: schema.GRAINS, schema.RESULT_ID: "g", schema.PARENT_ID: "p"}
    edc.save(grains, path)
    return path


def run(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def answer(*words):
    done = run(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_spectra_of_phases_with_totals_and_live_time(store):
    told = answer("spectra", store)
    assert told["address"] == "spectra/k2.r1"
    found = edc.load(store, "spectra/k2")
    counts = made_counts()
    for row, part in zip(told["spectra"], (counts[:, :20], counts[:, 20:]), strict=True):
        assert row[schema.N_PIXELS] == N_PIXELS[row[schema.PHASE]]
        assert row["counts"] == part.sum()
        assert row[schema.LIVE_TIMES] == pytest.approx(29.14 * row[schema.N_PIXELS] / (31 * 47))
    np.testing.assert_array_equal(found[schema.TOTAL_COUNTS], [row["counts"] for row in told["spectra"]])
    assert "counts a second" in run("spectra", store, "--of", "label").stdout
    masks = answer("spectra", store, "--of", "mask", "--name", "masks")
    assert [row[schema.N_PIXELS] for row in masks["spectra"]] == [N_PIXELS[1], 31 * 47]


def test_spectra_of_grains_are_made_and_made_again(store):
    told = answer("spectra", store, "--grains", "--name", "all")
    assert told["address"].startswith("grain_spectra/all.r")
    assert (told["grains"], told[schema.N_PIXELS], told["counts"]) == (2, 31 * 47, int(made_counts().sum()))
    again = shlex.split(refresh_command(store, newest(store, told["address"])))
    assert again == ["eds-chunked", "spectra", store, "--grains", "--from", "grains/k2", "--name", "all"]
    done = run(*again[1:])
    assert done.exit_code == 0, done.stderr
    assert "2 x 61 uint32" in done.stdout
    assert newest(store, "grain_spectra/all").number == newest(store, told["address"]).number + 1
    assert "grain_spectra/all" in run("info", store).stdout
    # What takes the last spectra takes those of phases.
    assert schema.SPECTRUM in edc.load(store, "spectra")


def test_export_of_spectra(store, tmp_path):
    answer("spectra", store)
    told = answer("export", store, tmp_path / "k2.msa")
    assert told["files"] == [str(tmp_path / "k2_1.msa"), str(tmp_path / "k2_2.msa")]
    (read,) = file_reader(told["files"][1])
    np.testing.assert_array_equal(read["data"], made_counts()[:, 20:].sum(axis=(0, 1)))
    assert read["metadata"]["General"]["title"] == "phase 2 a/b"
    answer("spectra", store, "--grains")
    done = run("export", store, tmp_path / "g.csv", "--from", "grain_spectra", "--numbers", "2", "--per", "pixel")
    assert done.exit_code == 0, done.stderr
    assert "g.csv" in done.stdout
    table = pd.read_csv(tmp_path / "g.csv")
    assert list(table) == ["energy_keV", "grain_2_counts_per_pixel"]
    np.testing.assert_allclose(table.iloc[:, 1], made_counts()[:, 20:].mean(axis=(0, 1)), rtol=1e-12)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("spectra", "--grains", "--of", "mask"), "expected it without --grains"),
        (("spectra", "--grains", "--from", "phases"), "variable 'grain_label'"),
        (("spectra", "--from", "grains"), "variable 'label'"),
        (("export", "o.msa", "--codec", "zstd"), "leave --codec out"),
        (("export", "o.hspy", "--per", "pixel"), "only for spectra"),
        (("export", "o.npz", "--numbers", "1"), "only for spectra"),
        (("export", "o.hspy", "--from", "nmf"), "leave --from out"),
        (("export", "o.msa", "--from", "phases"), "expected 'spectrum' or 'grain_spectrum'"),
        (("export", "o.csv", "--numbers", "7"), "phase to write: found 7"),
    ],
)
def test_bad_input_is_one_clear_line(store, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    answer("spectra", store)
    done = run(words[0], store, *words[1:])
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
