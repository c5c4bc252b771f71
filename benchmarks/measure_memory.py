"""One step in one budget, measured in a process of its own: a cell of the grid of :mod:`benchmarks.memory`."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import eds_chunked as edc
from eds_chunked import memory, schema, workflow
from eds_chunked.dry_run import noted_plans
from eds_chunked.errors import MemoryBudgetError

N_PHASES = 4
_PARENT = {step: f"{step}/k{N_PHASES}" for step in (schema.NMF, schema.PHASES, schema.GRAINS)}
_AGAIN = "again"
"""Name of the runs that are measured: what they build on stays the newest of its own."""


@dataclass(frozen=True)
class Cell:
    """One step on one map, in one budget, on so many threads."""

    step: str
    store: str
    shape: tuple[int, int, int]
    counts: float
    budget: str
    threads: int


@dataclass(frozen=True)
class Held:
    """The largest peak that its plans projected, and the one that was measured; bytes."""

    cell: Cell
    projected: int
    measured: int
    allowed: int

    @property
    def is_kept(self) -> bool:
        """Whether the projection is a bound, and a useful one."""
        return self.measured <= self.projected <= 2 * self.measured and self.measured <= self.allowed


def rock_of(cell: Cell) -> edc.synthetic.Rock:
    """Return the synthetic rock of a cell."""
    scale = 0.01 * 2048 / cell.shape[2]
    return edc.synthetic.rock(cell.shape, counts_per_pixel=cell.counts, n_phases=N_PHASES, energy_scale=scale)


def _beside(cell: Cell, name: str) -> str:
    return str(Path(tempfile.mkdtemp(dir=Path(cell.store).parent)) / name)


STEPS: dict[str, Callable[[Cell], object]] = {
    "convert": lambda cell: edc.convert(rock_of(cell), _beside(cell, "new.zarr"), memory=cell.budget),
    "pca": lambda cell: workflow.pca_step(cell.store, memory=cell.budget, name=_AGAIN),
    "pca, randomized": lambda cell: workflow.pca_step(
        cell.store, memory=cell.budget, name=_AGAIN, solver="randomized", n_components=5
    ),
    "nmf": lambda cell: workflow.nmf_step(cell.store, memory=cell.budget, name=_AGAIN, n_components=N_PHASES),
    "nmf, blockwise": lambda cell: workflow.nmf_step(
        cell.store, memory=cell.budget, name=_AGAIN, n_components=N_PHASES, solver="blockwise", max_epochs=2
    ),
    "model": lambda cell: workflow.model_step(cell.store, memory=cell.budget, name=_AGAIN, parent=_PARENT["nmf"]),
    "phases": lambda cell: workflow.phases_step(cell.store, memory=cell.budget, name=_AGAIN, parent=_PARENT["nmf"]),
    "cluster": lambda cell: workflow.cluster_step(
        cell.store, memory=cell.budget, name=_AGAIN, parent=_PARENT["nmf"], n_clusters=N_PHASES
    ),
    "spectra": lambda cell: workflow.spectra_step(
        cell.store, memory=cell.budget, name=_AGAIN, parent=_PARENT["phases"]
    ),
    "grains": lambda cell: workflow.grains_step(cell.store, memory=cell.budget, name=_AGAIN, parent=_PARENT["phases"]),
    "grain spectra": lambda cell: workflow.spectra_step(
        cell.store, memory=cell.budget, name=_AGAIN, parent=_PARENT["grains"], of_grains=True
    ),
    "export": lambda cell: edc.export(cell.store, _beside(cell, "map.hspy"), memory=cell.budget),
    "export, .zarr": lambda cell: edc.export(cell.store, _beside(cell, "copy.zarr"), memory=cell.budget),
    "export, .npz": lambda cell: workflow.export_step(
        cell.store, _beside(cell, "k.npz"), memory=cell.budget, parent=_PARENT["nmf"]
    ),
    "verify": lambda cell: edc.verify(cell.store, memory=cell.budget),
    "report": lambda cell: workflow.report_step(cell.store, _beside(cell, "results"), memory=cell.budget),
}


def prepare(cell: Cell) -> None:
    """Make the store that the steps of a map read."""
    edc.convert(rock_of(cell), cell.store)
    workflow.nmf_step(cell.store, n_components=N_PHASES)
    workflow.phases_step(cell.store, parent=_PARENT["nmf"])
    workflow.spectra_step(cell.store, parent=_PARENT["phases"])
    workflow.grains_step(cell.store, parent=_PARENT["phases"])


def hold(cell: Cell) -> Held | str:
    """Run the step of a cell in this process; return the refusal where its budget is too small."""
    memory.n_cpus = lambda: cell.threads
    memory.return_freed_memory_to_the_system()
    try:
        with noted_plans() as made, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            STEPS[cell.step](cell)
    except MemoryBudgetError as refused:
        return str(refused)
    peak = memory.peak_resident()
    return Held(cell, max(plan.peak for plan in made), peak, memory.parse_size(cell.budget))
