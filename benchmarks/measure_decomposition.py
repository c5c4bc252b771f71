"""Measure one decomposition of one map, in a process of its own.

    python -m benchmarks.measure_decomposition '{"step": "pca", "store": "rock-455x324x2048-400.zarr", ...}'

The fields are those of :class:`benchmarks.tasks.Task`; the last line on stdout is a Lap as JSON. The process takes a
tiny map through the step first, so that kernels are compiled and libraries loaded. What the steps read must be there:
the steps ``prepare`` and ``prepare-hyperspy`` make it, for the map and for the tiny one.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg.blas import sgemm

import eds_chunked as edc
from benchmarks.measure import N_PHASES, forget_peak, rock_of
from benchmarks.tasks import (
    GEMM,
    HYPERSPY_NMF,
    HYPERSPY_PCA,
    NMF_FROBENIUS,
    NMF_POISSON,
    PREPARE,
    PREPARE_HYPERSPY,
    RESIDUAL,
    SYRK,
    TINY,
    Lap,
    Task,
)
from eds_chunked import memory, progress, schema

Array = np.ndarray[Any, Any]
Run = Callable[[], object]

N_COMPONENTS = 20
_DENSE_ROWS = 16384
"""Pixels of a dense block: 134 MB at 2048 channels. Smaller ones are slower a pixel."""


# ------------------------------------------------------------------------------------------- what the steps read
def _prepare(task: Task) -> None:
    """Convert the rock, and save what the residual is of, unless that was done before."""
    part = Path(f"{task.store}.part")
    edc.convert(rock_of(task), str(part), memory=task.memory, overwrite=True)
    edc.save(edc.nmf(edc.open(part), n_components=N_PHASES, memory=task.memory), str(part))
    part.rename(task.store)


def _prepare_hyperspy(task: Task) -> None:
    """Write the map as HyperSpy does, with its own chunks."""
    from hyperspy.signals import Signal1D

    dense = np.asarray(edc.open(task.store)[schema.COUNTS])
    part = Path(f"{task.store}.part.hspy")
    Signal1D(dense).save(part, overwrite=True)
    part.rename(_hspy(task))


def _hspy(task: Task) -> Path:
    return Path(task.store).with_suffix(".hspy")


# -------------------------------------------------------------------------------------------------- the contestants
def _dense_block(task: Task) -> Array:
    """Return the first pixels of the map, dense."""
    ds = edc.open(task.store)
    rows = math.ceil(_DENSE_ROWS / task.shape[1])
    dense = np.asarray(ds.isel({schema.Y: slice(0, rows)})[schema.COUNTS]).reshape(-1, task.shape[2])
    return dense[:_DENSE_ROWS].astype(np.float32)


def over_all_pixels(task: Task, block: Array, multiply: Callable[[Array], object]) -> Run:
    """Return what multiplies the block so often that it stands for all pixels."""
    n_pixels = task.shape[0] * task.shape[1]

    def run() -> None:
        for first in range(0, n_pixels, len(block)):
            multiply(block[: n_pixels - first])

    return run


def add_product(X: Array, total: Array) -> None:
    """Add X.T @ X to a float32 matrix in Fortran's order, by BLAS's general product."""
    # The transposes are columns in memory, as Fortran wants them: nothing is copied.
    sgemm(1.0, X.T, X.T, beta=1.0, c=total, trans_b=True, overwrite_c=True)


def _gemm(task: Task) -> Run:
    total = np.zeros((task.shape[2], task.shape[2]), np.float32, order="F")
    return over_all_pixels(task, _dense_block(task), lambda X: add_product(X, total))


def _syrk(task: Task) -> Run:
    """NumPy's X.T @ X, which sees that both are the same array and takes half of the products (BLAS syrk)."""
    product = np.zeros((task.shape[2], task.shape[2]), np.float32)
    return over_all_pixels(task, _dense_block(task), lambda X: np.matmul(X.T, X, out=product))


def _pca(task: Task) -> Run:
    ds = edc.open(task.store)
    return lambda: edc.pca(ds, n_components=N_COMPONENTS, memory=task.memory)


def _nmf(**how: str) -> Callable[[Task], Run]:
    def contestant(task: Task) -> Run:
        ds = edc.open(task.store)
        nmf: Callable[..., object] = edc.nmf
        return lambda: nmf(ds, n_components=N_PHASES, memory=task.memory, **how)

    return contestant


def _residual(task: Task) -> Run:
    ds, result = edc.open(task.store), edc.load(task.store, f"{schema.NMF}/k{N_PHASES}")
    residual: Callable[..., Any] = edc.residual
    return lambda: residual(ds, result, memory=task.memory).load()


def _hyperspy(**how: Any) -> Callable[[Task], Run]:
    def contestant(task: Task) -> Run:
        import hyperspy.api as hs

        signal = hs.load(_hspy(task), lazy=True)
        # It decomposes floats only.
        signal.change_dtype("float32")
        return lambda: signal.decomposition(True, **how)

    return contestant


_CONTESTANTS: dict[str, Callable[[Task], Run]] = {
    GEMM: _gemm,
    SYRK: _syrk,
    schema.PCA: _pca,
    schema.NMF: _nmf(),
    NMF_FROBENIUS: _nmf(solver="blockwise", loss="frobenius"),
    NMF_POISSON: _nmf(solver="blockwise", loss="poisson"),
    RESIDUAL: _residual,
    HYPERSPY_PCA: _hyperspy(algorithm="SVD", output_dimension=N_COMPONENTS),
    HYPERSPY_NMF: _hyperspy(algorithm="NMF", output_dimension=N_PHASES),
}


# --------------------------------------------------------------------------------------------------------- measuring
@contextmanager
def _pixels_read() -> Iterator[list[int]]:
    """Note how many pixels every block has that the engine reads."""
    read: list[int] = []

    @contextmanager
    def step(description: str, total: int) -> Iterator[Callable[[int], None]]:
        yield read.append

    before = progress.step
    progress.step = step
    try:
        yield read
    finally:
        progress.step = before


def measure(task: Task) -> Lap:
    """Run a step on a tiny map, then once on the map of the task."""
    tiny = _CONTESTANTS[task.step](task.at(*TINY))
    start = time.perf_counter()
    tiny()
    first = time.perf_counter() - start
    del tiny
    run = _CONTESTANTS[task.step](task)
    memory.release()
    forget_peak()
    idle = memory.resident()
    with _pixels_read() as read:
        start, cpu = time.perf_counter(), time.process_time()
        _result = run()  # Kept: dropping it is no part of the step.
        seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    n_pixels = task.shape[0] * task.shape[1]
    return Lap(seconds, cpu, idle, memory.peak_resident(), first, sum(read) / n_pixels)


def prepare(task: Task) -> None:
    """Make what the steps read, of this size and of the tiny one, unless it is there."""
    for one in (task.at(*TINY), task):
        if not os.path.exists(one.store):
            _prepare(one)
        if task.step == PREPARE_HYPERSPY and not _hspy(one).exists():
            _prepare_hyperspy(one)


def main() -> None:
    """Measure the task on the command line, or make what it needs."""
    given = json.loads(sys.argv[1])
    task = Task(**given | {"shape": tuple(given["shape"])})
    # As the command line does; it decides what fresh memory costs.
    memory.return_freed_memory_to_the_system()
    if task.step in (PREPARE, PREPARE_HYPERSPY):
        prepare(task)
    else:
        print(json.dumps(asdict(measure(task))))


if __name__ == "__main__":
    main()
