"""What becomes stale when a step is run again: for each pair of steps, in info and for the steps that would go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import StaleResultError
from eds_chunked.store.calibration import calibrate
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import load, load_fresh, revisions, why_stale
from eds_chunked.synthetic import rock
from eds_chunked.workflow import grains_step, model_step, nmf_step, pca_step, phases_step, spectra_step, write_model

pytestmark = pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning")


def _source(seed: int) -> Any:
    return rock((37, 43, 64), energy_scale=0.1, n_phases=2, grain_size=12, counts_per_pixel=200, seed=seed)


AGAIN: dict[str, Callable[[str], object]] = {
    "convert": lambda store: convert(_source(1), store, overwrite=True),
    "convert the same": lambda store: convert(_source(0), store, overwrite=True),
    "calibrate": lambda store: calibrate(store, energy_offset=-0.45),
    "calibrate a title": lambda store: calibrate(store, title="another"),
    schema.PCA: lambda store: pca_step(store, n_components=3),
    schema.NMF: lambda store: nmf_step(store, n_components=2),
    schema.MODEL: lambda store: model_step(store, components=[1, 2]),
    schema.PHASES: lambda store: phases_step(store, min_size=3),
    schema.SPECTRA: spectra_step,
    schema.GRAINS: grains_step,
    schema.GRAIN_SPECTRA: lambda store: spectra_step(store, of_grains=True),
}

# An estimator is an object of Python, and no command makes its result again.
STEPS = [step for step in schema.STEPS if step != schema.DECOMPOSE]
ALL = set(STEPS)
OF_NMF = {schema.MODEL, schema.PHASES, schema.SPECTRA, schema.GRAINS, schema.GRAIN_SPECTRA}
DESCENDANTS = {
    "convert": ALL,
    "convert the same": set(),
    "calibrate": ALL,
    "calibrate a title": ALL,
    schema.PCA: set(),
    schema.NMF: OF_NMF,
    schema.MODEL: set(),
    schema.PHASES: {schema.SPECTRA, schema.GRAINS, schema.GRAIN_SPECTRA},
    schema.SPECTRA: set(),
    schema.GRAINS: {schema.GRAIN_SPECTRA},
    schema.GRAIN_SPECTRA: set(),
}

FIRST = dict.fromkeys(OF_NMF, schema.NMF)
"""Of results of another map, what has to be made again first."""

BUILDING: dict[str, list[Callable[[str], object]]] = {
    schema.PCA: [nmf_step],
    schema.NMF: [phases_step, model_step, lambda store: write_model(store, f"{store}-model")],
    schema.MODEL: [],
    schema.PHASES: [spectra_step, grains_step],
    schema.SPECTRA: [],
    schema.GRAINS: [lambda store: spectra_step(store, of_grains=True)],
    schema.GRAIN_SPECTRA: [],
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A store with all results, and copies of it in which one step was run again."""
    folder = tmp_path_factory.mktemp("stale")
    begun = str(folder / "begun.zarr")
    convert(_source(0), begun)
    for step in STEPS:
        AGAIN[step](begun)
    made = {}
    for number, (name, run_again) in enumerate(AGAIN.items()):
        made[name] = str(shutil.copytree(begun, folder / f"{number}.zarr"))
        run_again(made[name])
    return made


def info(store: str) -> dict[str, dict[str, Any]]:
    """What info says of the newest result of each step."""
    done = CliRunner().invoke(main, ["info", store, "--json"])
    assert done.exit_code == 0, done.stderr
    return {result["address"].split("/")[0]: result for result in json.loads(done.stdout)["results"]}


def copy(stores: dict[str, str], again: str, tmp_path: Path) -> str:
    return str(shutil.copytree(stores[again], tmp_path / "map.zarr"))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("again", AGAIN)
def test_exactly_the_descendants_are_stale(stores: dict[str, str], again: str, step: str) -> None:
    store = stores[again]
    stale = step in DESCENDANTS[again]
    newest = [revision for revision in revisions(store) if revision.step == step][-1]
    assert (why_stale(store, newest) is not None) == stale
    assert (info(store)[step]["stale"] is not None) == stale
    if not stale:
        assert load_fresh(store, step).attrs[schema.STEP] == step
        return
    of_phases = again == schema.NMF and step != schema.MODEL
    first = FIRST.get(step, step) if DESCENDANTS[again] == ALL else schema.PHASES if of_phases else step
    if step == schema.GRAIN_SPECTRA:
        # Two steps below the phases; the verb is that of all spectra.
        first = {schema.PHASES: schema.GRAINS, schema.GRAINS: schema.SPECTRA}.get(again, first)
    refresh = rf"Fix: eds-chunked {first} {store} .*--name"
    with pytest.raises(StaleResultError, match=refresh):
        load_fresh(store, step)
    for build in BUILDING[step]:
        with pytest.raises(StaleResultError, match=refresh):
            build(store)
    if step == schema.GRAINS:
        refused = CliRunner().invoke(main, ["sizes", store])
        assert (refused.exit_code, "is stale" in refused.stderr or "a stale one" in refused.stderr) == (2, True)
    assert len(revisions(store)) == len(ALL) + (again in ALL)


@pytest.mark.parametrize("again", [name for name, stale in DESCENDANTS.items() if stale])
def test_the_commands_of_info_make_all_of_it_fresh(stores: dict[str, str], again: str, tmp_path: Path) -> None:
    store = copy(stores, again, tmp_path)
    for result in info(store).values():
        if result["stale"]:
            done = CliRunner().invoke(main, result["refresh"].split()[1:])
            assert done.exit_code == 0, done.stderr
    found = info(store)
    assert {step for step, result in found.items() if result["stale"]} == set()
    # Nothing is mixed: every result was made from the newest of its parent.
    assert [found[step][schema.PARENT] for step in (schema.MODEL, schema.PHASES, schema.SPECTRA, schema.GRAINS)] == [
        found[schema.NMF]["address"],
        found[schema.NMF]["address"],
        found[schema.PHASES]["address"],
        found[schema.PHASES]["address"],
    ]
    fingerprints = {load(store, step).attrs[schema.FINGERPRINT] for step in STEPS}
    assert len(fingerprints) == 1
