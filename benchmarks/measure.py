"""Measure one step of the workflow on one map, in a process of its own.

    python -m benchmarks.measure '{"step": "pca", "store": "rock.zarr", "shape": [300, 400, 2048], ...}'

The fields are those of :class:`benchmarks.tasks.Task`; the last line on stdout is a Measurement as JSON.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

import eds_chunked as edc
from benchmarks.tasks import CONVERT, DRAW, NEEDS, TINY, Measurement, Task
from eds_chunked import memory, schema, workflow

N_PHASES = 4
BAND_ROWS = 64


def rock_of(task: Task) -> edc.synthetic.Rock:
    """Return the synthetic rock of a task."""
    n_channels = task.shape[2]
    # The same energy range for any number of channels, so that every phase keeps its lines.
    return edc.synthetic.rock(
        task.shape, counts_per_pixel=task.counts, n_phases=N_PHASES, energy_scale=0.01 * 2048 / n_channels
    )


def _draw(task: Task) -> None:
    """Make the counts and drop them: the part of convert that is the rock's and not the package's."""
    for band in rock_of(task).bands(BAND_ROWS):
        del band


_RUN: dict[str, Callable[[Task], object]] = {
    DRAW: _draw,
    CONVERT: lambda task: edc.convert(rock_of(task), task.store, memory=task.memory),
    schema.PCA: lambda task: workflow.pca_step(task.store, memory=task.memory),
    schema.NMF: lambda task: workflow.nmf_step(task.store, n_components=N_PHASES, memory=task.memory),
    schema.PHASES: lambda task: workflow.phases_step(task.store, memory=task.memory),
    schema.SPECTRA: lambda task: workflow.spectra_step(task.store, memory=task.memory),
    schema.GRAINS: lambda task: workflow.grains_step(task.store),
}


def warm_up(task: Task) -> None:
    """Take a tiny map through the step and those before it: imports, compiled kernels, caches of libraries."""
    with tempfile.TemporaryDirectory() as folder:
        # All channels, since they decide dtypes and so what is compiled.
        tiny = replace(task, store=str(Path(folder) / "tiny.zarr"), shape=(*TINY, task.shape[2]))
        for step in (*NEEDS[task.step], task.step):
            _RUN[step](tiny)


def forget_peak() -> None:
    """Start the peak of this process anew."""
    # The warm-up's peak would hide that of a small map, and with it any growth. On Linux a process can reset its own.
    Path("/proc/self/clear_refs").write_text("5")


def measure(task: Task) -> Measurement:
    """Run a step on a warm process ``task.passes`` times."""
    memory.return_freed_memory_to_the_system()
    memory.release()
    forget_peak()
    idle = memory.resident()
    seconds = []
    for _ in range(task.passes):
        if task.step == CONVERT:
            # Before the clock starts: deleting grows with the map too.
            shutil.rmtree(task.store, ignore_errors=True)
        start = perf_counter()
        _RUN[task.step](task)
        seconds.append(perf_counter() - start)
    pixels = task.shape[0] * task.shape[1]
    return Measurement(task.step, pixels, min(seconds), idle, memory.peak_resident())


def main() -> None:
    """Measure the task on the command line."""
    given = json.loads(sys.argv[1])
    task = Task(**given | {"shape": tuple(given["shape"])})
    warm_up(task)
    print(json.dumps(asdict(measure(task))))


if __name__ == "__main__":
    main()
