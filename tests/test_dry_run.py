"""A dry run tells the plan that the run goes by, what the run then reads, and leaves everything as it is."""

import inspect
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from sklearn.cluster import MiniBatchKMeans

import eds_chunked as edc
from eds_chunked import memory, schema, workflow
from eds_chunked.cli import main
from eds_chunked.dry_run import DryRun, noted_plans, plan
from eds_chunked.errors import EdsError, MemoryBudgetError, ParameterError, SourceError
from eds_chunked.store.chunks import StoredTiles
from eds_chunked.store.source import CountsSource
from tests.made_maps import MadeReader

SHAPE = (71, 331, 64)
ROCK = {"counts_per_pixel": 90, "n_phases": 3, "grain_size": 12, "energy_scale": 0.3}

warnings.filterwarnings("ignore", category=UserWarning)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("dry") / "map.zarr")
    edc.convert(edc.synthetic.rock(SHAPE, **ROCK), path)
    workflow.nmf_step(path, n_components=3)
    workflow.phases_step(path)
    workflow.grains_step(path)
    return path


@pytest.fixture(autouse=True)
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process holds does not depend on what it did before."""
    monkeypatch.setattr(memory, "resident", lambda: 200 * memory.MB)


@pytest.fixture
def tiles(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each tile of a map that is read."""
    seen: list[int] = []
    read = StoredTiles.read

    def counted(self: StoredTiles, row: int, column: int) -> bytes:
        found = read(self, row, column)
        seen.append(len(found))
        return found

    whole = CountsSource.__getitem__

    def counted_whole(self: CountsSource, key: Any) -> Any:
        seen.append(self.stored_bytes(key[0].start, key[1].start))
        return whole(self, key)

    monkeypatch.setattr(StoredTiles, "read", counted)
    monkeypatch.setattr(CountsSource, "__getitem__", counted_whole)
    return seen


def content(*places: object) -> dict[str, bytes]:
    """All files there, with what they hold."""
    files = [path for place in places for path in Path(str(place)).rglob("*") if path.is_file()]
    return {str(path): path.read_bytes() for path in files}


def part(store: str) -> xr.Dataset:
    """A part whose lanes end within tiles: some tiles are read twice in a pass."""
    return edc.open(store).isel(x=slice(9, None), y=slice(3, None))


Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
CALLS: dict[str, Callable[[str, Path], Call]] = {
    "convert": lambda store, folder: (edc.convert, (edc.synthetic.rock(SHAPE, **ROCK), folder / "new.zarr"), {}),
    "pca": lambda store, folder: (edc.pca, (part(store),), {"n_components": 3}),
    "pca, gram": lambda store, folder: (edc.pca, (edc.open(store),), {"n_components": 3, "solver": "gram"}),
    "pca, centred": lambda store, folder: (edc.pca, (part(store),), {"n_components": 3, "centre": True}),
    "pca, randomized": lambda store, folder: (edc.pca, (part(store),), {"n_components": 3, "solver": "randomized"}),
    "pca, incremental": lambda store, folder: (edc.pca, (part(store),), {"n_components": 3, "solver": "incremental"}),
    "nmf": lambda store, folder: (edc.nmf, (part(store),), {"n_components": 3, "max_epochs": 2}),
    "nmf, blockwise": lambda store, folder: (
        edc.nmf,
        (part(store),),
        {"n_components": 3, "max_epochs": 2, "solver": "blockwise"},
    ),
    "nmf, fixed factors": lambda store, folder: (
        edc.nmf,
        (edc.open(store).eds.window(0.2, None),),
        {"fixed_factors": edc.load(store, "nmf")},
    ),
    "component_stability": lambda store, folder: (edc.component_stability, (part(store),), {"n_components": [2]}),
    "decompose": lambda store, folder: (
        edc.decompose,
        (part(store), MiniBatchKMeans(3, n_init=1, random_state=0)),
        {"epochs": 2},
    ),
    "residual": lambda store, folder: (
        edc.residual,
        (edc.open(store).eds.window(0.2, None), edc.load(store, "nmf")),
        {},
    ),
    "segment_phases": lambda store, folder: (edc.segment_phases, (edc.load(store, "nmf"),), {}),
    "cluster": lambda store, folder: (edc.cluster, (edc.load(store, "nmf"),), {"n_clusters": 3}),
    "merge_phases": lambda store, folder: (
        edc.merge_phases,
        (edc.load(store, "phases"),),
        {"merges": {"both": [1, 2]}},
    ),
    "phase_spectra": lambda store, folder: (
        edc.phase_spectra,
        (edc.open(store),),
        {"phases": edc.load(store, "phases")},
    ),
    "separate_grains": lambda store, folder: (
        edc.separate_grains,
        (edc.load(store, "phases"),),
        {"ds": edc.open(store)},
    ),
    "grain_spectra": lambda store, folder: (
        edc.grain_spectra,
        (edc.open(store),),
        {"grains": edc.load(store, "grains")},
    ),
    "write_learning_results": lambda store, folder: (
        edc.write_learning_results,
        (edc.load(store, "nmf"), folder / "new.npz"),
        {},
    ),
    "export": lambda store, folder: (edc.export, (store, folder / "new.hspy"), {}),
    "export, recoded": lambda store, folder: (edc.export, (store, folder / "new.zarr"), {"codec": "zstd"}),
    "verify": lambda store, folder: (edc.verify, (store,), {}),
    "write_model": lambda store, folder: (workflow.write_model, (store, folder / "model.zarr"), {}),
}
DRAWN = {"write_report", "write_results", "run"}
"""Those that draw figures, which take long: tested below, or up to their plan."""


def test_every_step_with_a_budget_is_tried() -> None:
    with_budget = {
        name
        for name in edc.__all__
        if callable(step := getattr(edc, name))
        and not inspect.isclass(step)
        and "memory" in inspect.signature(step).parameters
    }
    assert with_budget == {name.split(",")[0] for name in CALLS} - {"write_model"} | DRAWN


@pytest.mark.parametrize("name", CALLS)
def test_a_dry_run_tells_what_the_run_does(name: str, store: str, tmp_path: Path, tiles: list[int]) -> None:
    step, given, parameters = CALLS[name](store, tmp_path)
    before = content(Path(store).parent, tmp_path)
    dry = plan(step, *given, **parameters, memory="2GB")
    looked = len(tiles)
    assert content(Path(store).parent, tmp_path) == before
    assert looked <= 9
    tiles.clear()
    with noted_plans() as made:
        result = step(*given, **parameters, memory="2GB")
    # The plans are those that the run went by.
    assert [(p.need.what, p.need.fixed, p.need.per_worker, p.workers, p.limit, p.writes) for p in made] == [
        (s.what, s.fixed_bytes, s.worker_bytes, s.workers, s.budget_bytes, s.written_bytes) for s in dry.steps
    ]
    # As many tiles were read as it said, and of as many bytes.
    reads = [read for one in dry.steps for read in one.reads if read.what.startswith("tiles")]
    fewest = sum(read.passes * read.pieces for read in reads)
    most = sum(read.most_passes * read.pieces for read in reads)
    assert fewest <= len(tiles) <= most
    assert sum(read.passes * read.stored_bytes for read in reads) <= sum(tiles)
    assert sum(tiles) <= sum(read.most_passes * read.stored_bytes for read in reads)
    # What a result holds is no more than it said, and not much less.
    result = result[0] if isinstance(result, tuple) and isinstance(result[0], xr.Dataset) else result
    if isinstance(result, xr.Dataset) and step is not edc.convert:
        assert result.nbytes <= dry.written_bytes
        if step is not edc.separate_grains:  # how many grains there will be nobody knows
            assert dry.written_bytes <= 1.2 * result.nbytes


@pytest.mark.parametrize("name", CALLS)
def test_a_dry_run_is_refused_as_the_run_is(name: str, store: str, tmp_path: Path) -> None:
    step, given, parameters = CALLS[name](store, tmp_path)
    said = []
    for call in (
        lambda **more: plan(step, *given, **parameters, **more),
        lambda **more: step(*given, **parameters, **more),
    ):
        with pytest.raises(MemoryBudgetError) as refused:
            call(memory="280MB")
        said.append(str(refused.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("step", "parameters"),
    [(edc.pca, {"n_components": 0}), (edc.nmf, {"n_components": 3, "loss": "no such"}), (edc.nmf, {"restarts": 2})],
)
def test_wrong_parameters_are_refused_alike(step: Callable[..., Any], parameters: dict[str, Any], store: str) -> None:
    ds = edc.open(store).eds.window(0.2, None)
    parameters = parameters if "n_components" in parameters else parameters | {"start": edc.load(store, "nmf")}
    said = []
    for call in (lambda: plan(step, ds, **parameters), lambda: step(ds, **parameters)):
        with pytest.raises(EdsError) as refused:
            call()
        said.append(str(refused.value))
    assert said[0] == said[1]


def test_what_is_computed_first_is_planned_too(store: str) -> None:
    ds = part(store)
    ds["counts"] = ds["counts"] * np.uint8(2)
    dry = plan(edc.pca, ds, n_components=3)
    assert [step.what for step in dry.steps] == ["counts that were changed", "pca"]
    assert dry.steps[0].written_bytes == ds["counts"].nbytes


@pytest.mark.parametrize(
    ("place", "shards"), [("folder", True), ("memory://dry-run", False), ("memory://dry-run", True)]
)
def test_bytes_are_those_that_are_read(place: str, shards: bool, tmp_path: Path, tiles: list[int]) -> None:
    where = str(tmp_path / "map.zarr") if place == "folder" else f"{place}/{shards}.zarr"
    ds = edc.convert(edc.synthetic.rock((61, 143, 48), **ROCK), where, shards=shards, codec="lz4")
    dry = plan(edc.component_stability, ds, n_components=[2], memory="2GB")
    tiles.clear()
    edc.verify(where)
    assert dry.read_bytes == sum(tiles) > 0
    assert dry.steps[0].reads[0].pieces == len(tiles)


def test_a_run_is_planned_from_the_header(tmp_path: Path) -> None:
    source = edc.synthetic.rock((61, 83, 64), **ROCK)
    dry = plan(edc.run, source, tmp_path / "map.zarr", n_phases=3, memory="2GB")
    assert list(tmp_path.iterdir()) == []
    steps = [step.what for step in dry.steps]
    assert steps == ["convert", "pca", "nmf", "phases", "spectra", "grains", "figures"]
    with noted_plans() as made:
        store = str(tmp_path / "map.zarr")
        edc.convert(source, store, memory="2GB")
        workflow.pca_step(store, memory="2GB")
        workflow.nmf_step(store, n_components=3, memory="2GB")
        workflow.phases_step(store, memory="2GB")
        workflow.spectra_step(store, memory="2GB")
        workflow.grains_step(store, memory="2GB")
    for step, real in zip(dry.steps, made, strict=False):
        assert step.what == real.need.what
        needed = real.need.fixed + real.need.per_worker
        assert needed <= step.fixed_bytes + step.worker_bytes
        passes = [(read.passes, read.most or read.passes) for read in real.reads if read.what.startswith("tiles")]
        foretold = [(read.passes, read.most_passes) for read in step.reads if read.what.startswith("tiles")]
        assert passes == foretold


def test_a_run_that_will_not_fit_is_refused_before_it_begins(tmp_path: Path) -> None:
    source = edc.synthetic.rock((61, 83, 64), **ROCK)
    said = []
    for call in (lambda *given, **more: plan(edc.run, *given, **more), edc.run):
        with pytest.raises(MemoryBudgetError, match="memory for run") as refused:
            call(source, tmp_path / "map.zarr", memory="300MB")
        said.append(str(refused.value))
    assert said[0] == said[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", [edc.calibrate, edc.modal_table, print])
def test_what_has_no_budget_is_not_called(step: Callable[..., Any]) -> None:
    with pytest.raises((ParameterError, ValueError)):
        plan(step, "anything")


def test_it_prints_and_goes_into_json(store: str) -> None:
    dry = plan(edc.pca, edc.open(store), n_components=3, solver="gram", memory="1GB")
    assert isinstance(dry, DryRun)
    step = dry.steps[0]
    assert repr(dry).splitlines()[:2] == ["<DryRun>", "pca"]
    assert f"{step.reads[0].pieces}, {memory.format_size(step.reads[0].stored_bytes)}, 2 passes" in str(dry)
    assert "of 1 GB: 280 MB the program" in str(dry)
    assert json.loads(json.dumps(dry.to_dict()))["peak_bytes"] == dry.peak_bytes == step.peak_bytes
    assert dry.read_bytes == 2 * step.reads[0].stored_bytes


VERBS = {
    "pca": ["STORE", "-k", "3"],
    "nmf": ["STORE", "-k", "3", "--rebin", "2"],
    "model": ["STORE"],
    "phases": ["STORE"],
    "cluster": ["STORE", "-k", "3"],
    "spectra": ["STORE"],
    "grains": ["STORE"],
    "report": ["STORE"],
    "export": ["STORE", "NEW.hspy"],
    "verify": ["STORE"],
    "demo": ["NEW", "--shape", "61x83x512"],
}


def test_every_verb_with_a_budget_has_a_dry_run() -> None:
    options = {name: {option.name for option in verb.params} for name, verb in main.commands.items()}
    with_budget = {name for name, has in options.items() if "memory" in has}
    assert with_budget == {name for name, has in options.items() if "plan_only" in has}
    assert with_budget == {*VERBS, "convert", "run"}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_tells_its_plan_and_writes_nothing(verb: str, store: str, tmp_path: Path) -> None:
    before = content(Path(store).parent)
    given = [text.replace("STORE", store).replace("NEW", str(tmp_path / "new")) for text in VERBS[verb]]
    done = CliRunner().invoke(main, [verb, *given, "--dry-run", "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["peak_bytes"] > 0
    assert content(Path(store).parent) == before
    assert list(tmp_path.iterdir()) == []


def test_a_conversion_that_is_begun_stays_as_it_is(store: str, tmp_path: Path) -> None:
    target = tmp_path / "map.zarr"
    shutil.copytree(store, target)
    before = content(target)
    source = edc.synthetic.rock(SHAPE, **ROCK)
    with pytest.raises(EdsError, match="found a store"):
        plan(edc.convert, source, target)
    for more in ({"overwrite": True}, {"overwrite": True, "resume": True}):
        assert [step.what for step in plan(edc.convert, source, target, **more).steps] == ["convert"]
    with pytest.warns(UserWarning, match="there was nothing to resume"):
        assert plan(edc.convert, source, target, resume=True).steps == ()
    assert content(target) == before
    assert [path.name for path in tmp_path.iterdir()] == ["map.zarr"]
    assert schema.TOTAL_COUNTS in edc.open(target)


def test_a_run_plans_by_the_counts_that_the_file_states():
    counts = np.ones((67, 71, 512), np.uint8)
    peaks = []
    for stated in (None, 30 * 67 * 71):
        reader = MadeReader(counts, metadata={} if stated is None else {"header_total_counts": stated})
        planned = plan(workflow.run, reader, "nothing.zarr", memory="4GB")
        peaks.append({step.what: step.peak_bytes for step in planned.steps})
    unknown, known = peaks
    assert known["nmf"] < unknown["nmf"]
    assert known["phases"] == unknown["phases"]


@pytest.mark.parametrize("shape", [(0, 5, 8), (7, 0, 8), (7, 5, 0)])
def test_a_run_of_an_empty_map_is_refused_by_name(tmp_path, shape):
    with pytest.raises(SourceError, match=r"found shape .*expected at least one pixel and channel"):
        workflow.run(MadeReader(np.zeros(shape, np.uint8)), tmp_path / "map.zarr")
    assert not list(tmp_path.iterdir())
