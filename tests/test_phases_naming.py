"""Phases with names, and phases that are one mineral: on the command line, and in everything that is made of them."""

import json
import shlex
import warnings

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import MemoryBudgetError
from eds_chunked.grains.statistics import FewGrainsWarning
from eds_chunked.phases.naming import merge_phases, phase_names
from eds_chunked.store.results import load, load_fresh, newest, refresh_command, why_stale
from tests.decomposition_maps import ArrayReader, rock_counts, small_rock

NAMED = ["feldspar", "quartz", "unassigned", "mixed"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("named") / "map.zarr")
    ds = edc.convert(ArrayReader(rock_counts(small_rock((61, 83, 131), n_phases=3, counts_per_pixel=150))), path)
    edc.save(edc.nmf(ds, n_components=3, max_epochs=1), path)
    return path


def call(*words, code=0):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewGrainsWarning)
        done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == code, done.output
    return done


def answer(*words):
    return json.loads(call(*words, "--json").stdout)


def names(rows):
    return [row[schema.PHASE] for row in rows]


def test_merge_of_the_verb_names_saved_phases_and_all_that_is_made_of_them(store):
    made = answer("phases", store, "--min-size", 9, "--threshold", "otsu,triangle,otsu")
    assert made["address"] == "phases/k3.r1"
    merged = answer("phases", store, "--merge", "feldspar=1,3", "--merge", "quartz=2")
    assert merged["address"] == "phases/k3-merged.r1"
    assert names(merged["modal"]) == NAMED
    before, after = load(store, "phases/k3"), load_fresh(store, "phases")
    # With the thresholds of what was saved, not with others.
    np.testing.assert_array_equal(after[schema.MASK][1], before[schema.MASK][1])
    np.testing.assert_array_equal(after[schema.MASK][0], before[schema.MASK][0] | before[schema.MASK][2])
    assert after.attrs[schema.PARENT] == "phases/k3.r1"

    assert names(answer("modal", store)["modal"]) == NAMED
    contacts = answer("association", store)["surfaces"]
    assert names(contacts) == NAMED
    spectra = load(store, answer("spectra", store)["address"])
    grains = load(store, answer("grains", store)["address"])
    for result in (spectra, grains):
        assert phase_names(result) == NAMED[:2]
        assert result.attrs[schema.PARENT] == "phases/k3-merged.r1"
    # Grains are held to the size that pieces of masks had.
    assert grains.attrs[schema.PARAMETERS]["min_size"] == 9


def test_numbers_are_those_of_the_phases_before_they_were_merged(store):
    call("phases", store, "--name", "first")
    call("phases", store, "--merge", "a=1,2", "--name", "wrong")
    again = answer("phases", store, "--merge", "b=2,3")
    assert again["address"] == "phases/first-merged.r1"
    assert names(again["modal"]) == ["1", "b", "unassigned", "mixed"]
    # Unless it is said what they are of.
    further = answer("phases", store, "--from", "phases/first-merged", "--merge", "all=1,2", "--name", "one")
    assert names(further["modal"]) == ["all", "unassigned", "mixed"]


def test_the_refresh_command_merges_again(store):
    call("phases", store, "--name", "base", "--min-size", "2.5um2", "--threshold", "otsu,0.125,triangle")
    address = answer("phases", store, "--merge", "K-feldspar $=3,1", "--merge", "it's=2")["address"]
    revision = newest(store, address)
    assert why_stale(store, revision) is None
    renewed = newest(store, "phases/base")
    again = shlex.split(refresh_command(store, renewed))
    assert again[again.index("--min-size") + 1 :][:1] == ["2.5um2"]
    assert again.count("--min-size") == 1
    assert again[again.index("--threshold") + 1] == "otsu,0.125,triangle"
    call(*again[1:])
    assert why_stale(store, revision)
    command = refresh_command(store, revision)
    assert command.startswith("eds-chunked phases ")
    call(*shlex.split(command)[1:])
    fresh = load_fresh(store, "phases/base-merged")
    xr.testing.assert_equal(fresh, load(store, address))
    assert phase_names(fresh) == ["K-feldspar $", "it's"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--merge", "a=1", "--min-size", "5"], "found --merge and --min-size"),
        (["--merge", "a=1", "--mixed-margin", "0.2"], "found --merge and --mixed-margin"),
        (["--merge", "a=1,4"], "found [4], expected numbers of 1 to 3"),
        (["--merge", "a=1", "--merge", "b=1,2"], "found [1], expected numbers of 1 to 3, each once"),
        (["--merge", "mixed=1"], "name of a phase: found 'mixed'"),
        (["--merge", "a=1", "--from", "nmf/k3"], "expected saved phases, such as phases/k3"),
        (["--merge", "a=1", "--from", "phases/plain", "--name", "plain"], "--name plain-merged"),
        (["--merge", "a=1", "--memory", "20MB"], "memory for merge of phases"),
        (["--memory", "20MB"], "memory for phases"),
        (["--threshold", "otsu,0.5"], "threshold: found 2 of them, expected 'otsu', 'multiotsu', 'triangle'"),
        (["--threshold", "otzu"], "threshold: found 'otzu'"),
        (["--min-size", "5mm2"], "min_size: found '5mm2'"),
        (["--min-size", "2.5"], "min_size: found 2.5"),
    ],
)
def test_what_cannot_be_is_one_line(store, words, message):
    if not [r for r in edc.open_tree(store)["results/phases"] if r == "plain"]:
        call("phases", store, "--name", "plain")
    done = call("phases", store, *words, code=2)
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_saved_phases_there_is_nothing_to_merge(tmp_path):
    path = str(tmp_path / "map.zarr")
    edc.convert(ArrayReader(rock_counts(small_rock((11, 13, 61), n_phases=2))), path)
    done = call("phases", path, "--merge", "a=1", code=2)
    assert "expected a saved phases. Fix: eds-chunked phases" in done.stderr


def test_the_verb_says_which_phase_is_empty_and_why(store):
    said = call("phases", store, "--threshold", "otsu,1e9,otsu", "--min-size", 7, "--name", "gap").stdout
    assert "Phase 2 has no pixel: nothing of 7 pixels or more reaches its threshold 1e+09." in said
    assert "Phase 1 has no pixel" not in said


@pytest.mark.usefixtures("unrendered")
def test_a_run_names_phases_on_the_way(tmp_path):
    made = small_rock((61, 83, 131), n_phases=3, counts_per_pixel=150)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewGrainsWarning)
        summary = edc.run(
            made, tmp_path / "map.zarr", n_phases=3, min_size="9um2", merges={"feldspar": [1, 3], "quartz": [2]}
        )
    assert summary.modal[schema.PHASE].tolist() == NAMED
    assert "phases/k3-merged.r1" in summary.addresses
    grains = load_fresh(summary.store, "grains")
    assert grains.attrs[schema.PARENT] == "phases/k3-merged.r1"
    assert grains.attrs[schema.PARAMETERS]["min_size"] == 9
    # Thresholds are drawn as they were before phases were merged.
    drawn = [file.name for file in summary.files if "threshold" in file.name]
    assert len(drawn) == 3


def test_a_run_refuses_a_wrong_size_before_it_begins(tmp_path):
    made = small_rock((61, 83, 131), n_phases=3)
    with pytest.raises(ValueError, match="min_size: found '9mm2'"):
        edc.run(made, tmp_path / "map.zarr", n_phases=3, min_size="9mm2")
    assert not (tmp_path / "map.zarr").exists()


def test_names_go_by_number_whatever_is_selected():
    phases = xr.Dataset(
        {schema.LABEL: ((schema.Y, schema.X), np.array([[1, 2, 3]], np.uint8))},
        coords={schema.PHASE: [1, 2, 3]},
        attrs={schema.PHASE_NAMES: {"1": "quartz", "3": "garnet"}},
    )
    assert phase_names(phases) == ["quartz", "2", "garnet"]
    assert phase_names(phases.isel(phase=[2, 1])) == ["garnet", "2"]
    grains = xr.Dataset(attrs={schema.N_PHASES: 3, schema.PHASE_NAMES: {"2": "rutile"}})
    assert phase_names(grains) == ["1", "rutile", "3"]


def test_a_merge_that_does_not_fit_the_budget_is_refused():
    label = np.array([[1, 2, 3]], np.uint8)
    phases = xr.Dataset(
        {
            schema.LABEL: ((schema.Y, schema.X), label),
            schema.MASK: ((schema.PHASE, schema.Y, schema.X), label == np.array([1, 2, 3])[:, None, None]),
        },
        coords={schema.PHASE: [1, 2, 3]},
    )
    assert phase_names(merge_phases(phases, merges={"a": [1, 2]})) == ["a", "2"]
    with pytest.raises(MemoryBudgetError, match="merge of phases"):
        merge_phases(phases, merges={"a": [1, 2]}, memory="20MB")
