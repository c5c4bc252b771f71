"""The steps of the workflow on one rock: time, peak memory beside that of a process that only opened it, tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.engine.blocks import blocks_of

MEMORY = "1GB"


def _pca(ds: Any, results: dict[str, Any]) -> object:
    return edc.pca(ds, n_components=10, memory=MEMORY)


def _nmf(ds: Any, results: dict[str, Any]) -> object:
    return edc.nmf(ds, n_components=4, memory=MEMORY)


def _phases(ds: Any, results: dict[str, Any]) -> object:
    return edc.segment_phases(results[schema.NMF], memory=MEMORY)


def _spectra(ds: Any, results: dict[str, Any]) -> object:
    return edc.phase_spectra(ds, phases=results[schema.PHASES], memory=MEMORY)


def _grains(ds: Any, results: dict[str, Any]) -> object:
    return edc.separate_grains(results[schema.PHASES], ds=ds, memory=MEMORY)


def _residual(ds: Any, results: dict[str, Any]) -> object:
    return edc.residual(ds, results[schema.NMF], memory=MEMORY).load()


STEPS: dict[str, Callable[[Any, dict[str, Any]], object]] = {
    "pca": _pca,
    "nmf": _nmf,
    "phases": _phases,
    "spectra": _spectra,
    "grains": _grains,
    "residual": _residual,
}


class _OnAStore:
    """A rock that is converted once, in the folder where asv keeps what is made for all runs."""

    shape = (256, 324, 2048)
    counts_per_pixel = 100.0

    def setup_cache(self) -> str:
        store = str(Path("rock.zarr").resolve())
        scale = 0.01 * 2048 / self.shape[2]
        rock = edc.synthetic.rock(self.shape, counts_per_pixel=self.counts_per_pixel, energy_scale=scale, blur=1.0)
        ds = edc.convert(rock, store, memory=MEMORY)
        nmf = edc.nmf(ds, n_components=4, memory=MEMORY)
        edc.save(nmf, store)
        edc.save(edc.segment_phases(nmf, memory=MEMORY), store)
        return store

    def open(self, store: str) -> None:
        self.ds = edc.open(store)
        # What is made goes to a scratch folder: the store is used again.
        self.ds.encoding.pop("source", None)
        self.results = {step: edc.load(store, step) for step in (schema.NMF, schema.PHASES)}
        for result in self.results.values():
            result.encoding.pop("source", None)


class Steps(_OnAStore):
    """Every step, from a store to its result."""

    params = tuple(STEPS)
    param_names = ("step",)

    def setup(self, store: str, step: str) -> None:
        self.open(store)
        self.step = STEPS[step]

    def time_step(self, store: str, step: str) -> None:
        self.step(self.ds, self.results)

    def peakmem_step(self, store: str, step: str) -> None:
        self.step(self.ds, self.results)


class Reference(_OnAStore):
    """What the peaks above are to be seen beside, and what dask is given to do."""

    def setup(self, store: str) -> None:
        self.open(store)

    def peakmem_reference(self, store: str) -> None:
        """Import everything and open the store."""

    def track_tasks_of_a_pass(self, store: str) -> int:
        return len(blocks_of(self.ds).lanes())

    def track_tasks_of_the_model(self, store: str) -> int:
        return len(edc.reconstruct(self.results[schema.NMF]).__dask_graph__())

    track_tasks_of_a_pass.unit = track_tasks_of_the_model.unit = "tasks"  # type: ignore[attr-defined]


class Convert:
    """From row bands to a store; drawing the rock is within the time."""

    shape = (256, 324, 2048)

    def setup(self) -> None:
        self.rock = edc.synthetic.rock(self.shape, counts_per_pixel=100.0, energy_scale=0.01 * 2048 / self.shape[2])

    def time_convert(self) -> None:
        edc.convert(self.rock, "made.zarr", memory=MEMORY, overwrite=True)

    def peakmem_convert(self) -> None:
        self.time_convert()
