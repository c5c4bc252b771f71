"""How fast are spectra of phases and of grains beside passes that only read? A synthetic rock, a process a run.

    python -m benchmarks spectra --data FOLDER [--size full|1/4|1/16|1/64] [--memory 1GB] [--passes 3]

Run it from the project's folder, on an otherwise idle Linux machine. The rock (4 phases, 400 counts a pixel) is that of
``compare``: made once in the folder, used again, and nothing is written into its store. Every number comes from a
fresh process on two processors that has taken a tiny map through the same step before; the steps take turns.

``CSR pass`` is the engine reading every tile to compressed rows, with no work; ``store pass`` is Zarr reading every
tile dense, as any program reads the store, into memory that was touched before. Nothing is done with what they read.

Grains are polygons around random points, on average 23.6 pixels large: 100 000 on the full map, and fewer on smaller
ones. They are numbered as ``separate_grains`` does, by phase and then row by row. Their spectra go to a scratch store,
within the time; the table is read back once, outside of it, and compared with the counts of the map.
"""

from __future__ import annotations

import argparse
import json
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

import eds_chunked as edc
from benchmarks.apart import Lap, run_apart, timed
from benchmarks.codec import DENSE, Reading, Truth
from benchmarks.machine import THREADS, machine, two_processors
from benchmarks.rocks import N_PHASES, SIZES, STORE, TINY, Case, size_of
from eds_chunked import memory, schema
from eds_chunked.engine.blocks import Block, Lane, blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.memory import MB

Array = np.ndarray[Any, Any]
Run = Callable[[], Any]

CSR_PASS, STORE_PASS = "CSR pass", "store pass"
OF_LABELS, OF_MASKS, OF_GRAINS = "4 phases", "4 masks", "grains"
STEPS = (CSR_PASS, STORE_PASS, OF_LABELS, OF_MASKS, OF_GRAINS)
GOALS = ((OF_LABELS, CSR_PASS, 1.3), (OF_MASKS, CSR_PASS, 1.3), (OF_GRAINS, STORE_PASS, 1.5))
"""A step, the pass beside it, and at most how many times its seconds."""
_PIXELS_OF_A_GRAIN = 1820 * 1295 / 100_000


# ----------------------------------------------------------------------------------------------------- what is summed
def grains_of(ds: xr.Dataset, *, seed: int = 0) -> xr.Dataset:
    """Return polygons of random sizes, numbered by phase and then in the order of their first pixels."""
    shape = ds.sizes[schema.Y], ds.sizes[schema.X]
    rng = np.random.default_rng(seed)
    points = rng.random((max(1, round(shape[0] * shape[1] / _PIXELS_OF_A_GRAIN)), 2)) * shape
    pixels = np.stack(np.meshgrid(*(np.arange(size) for size in shape), indexing="ij"), axis=-1).reshape(-1, 2)
    nearest = cKDTree(points).query(pixels)[1]
    met, first, cell = np.unique(nearest, return_index=True, return_inverse=True)
    number = np.empty(len(met), np.int32)
    number[np.lexsort((first, rng.integers(0, N_PHASES, len(met))))] = np.arange(1, len(met) + 1)
    return _on_the_map(ds, {schema.GRAIN_LABEL: number[cell].reshape(shape)}).assign(
        {schema.GRAIN_ID: (schema.GRAIN, np.arange(1, len(met) + 1))}
    )


def phases_of(ds: xr.Dataset, case: Case) -> xr.Dataset:
    """Return the true phases of the rock, as labels and as masks; its one-pixel mineral counts as the last."""
    label = np.minimum(case.label(), N_PHASES)
    numbers = np.arange(1, N_PHASES + 1)
    found = _on_the_map(ds, {schema.LABEL: label, schema.MASK: label == numbers[:, None, None]})
    return found.assign_coords({schema.PHASE: numbers})


def _on_the_map(ds: xr.Dataset, maps: dict[str, Array]) -> xr.Dataset:
    return xr.Dataset(
        {name: (schema.VARIABLES[name].dims, values) for name, values in maps.items()},
        coords={axis: ds[axis] for axis in (schema.Y, schema.X)},
        attrs={schema.FINGERPRINT: ds.attrs[schema.FINGERPRINT]},
    )


# ------------------------------------------------------------------------------------------------------ one process
def _contestant(step: str, case: Case) -> tuple[Run, Callable[[Any], None]]:
    """Return a step, and what tells whether its result has all counts of the map."""
    ds = edc.open(case.path(STORE))
    n_counts = int(ds[schema.SUM_SPECTRUM].sum())
    # What is made goes to a scratch store: the rock serves other benchmarks too.
    ds.encoding.pop("source", None)
    if step == CSR_PASS:
        blocks = blocks_of(ds)
        how = memory.plan(memory.Need("read", 0, blocks.bytes_of_a_block), memory=case.memory, max_workers=THREADS)
        return lambda: run_pass(blocks, _n_values, operator.add, plan=how), lambda found: _check(found > 0)
    if step == STORE_PASS:
        reading = Reading(str(case.path(STORE)), Truth(np.zeros(case.shape[:2], np.uint8), 0, n_counts))
        return lambda: reading.seconds(DENSE), lambda found: None
    if step == OF_GRAINS:
        grains = grains_of(ds)
        return (
            lambda: edc.grain_spectra(ds, grains=grains, memory=case.memory),
            lambda found: _check_table(found, n_counts),
        )
    phases = phases_of(ds, case)
    source: Any = schema.MASK if step == OF_MASKS else schema.LABEL
    return (
        lambda: edc.phase_spectra(ds, phases=phases, source=source, memory=case.memory),
        lambda found: _check(int(found[schema.SPECTRUM].sum()) == n_counts),
    )


def _n_values(lane: Lane, blocks: Iterator[Block]) -> int:
    return sum(len(block.counts.value) for block in blocks)


def _check(is_right: bool) -> None:
    if not is_right:
        raise ValueError("a pass that found other counts is no measurement")


def _check_table(found: xr.Dataset, n_counts: int) -> None:
    """Read the table back, some grains at a time."""
    table, total = found[schema.GRAIN_SPECTRUM], 0
    for first in range(0, table.sizes[schema.GRAIN], 4096):
        total += int(table.isel({schema.GRAIN: slice(first, first + 4096)}).values.sum(dtype=np.uint64))
    _check(total == n_counts == int(found[schema.TOTAL_COUNTS].sum()))


def measure(step: str, case: Case) -> Lap:
    """Run a step on a tiny map, then once on the map of the case."""
    tiny, check = _contestant(step, case.at(*TINY))
    start = perf_counter()
    check(tiny())
    first = perf_counter() - start
    del tiny, check
    run, check = _contestant(step, case)
    lap, found = timed(run, n_pixels=case.pixels, first_seconds=first)
    check(found)
    # The pass of the store is timed without what is made before it.
    return replace(lap, seconds=found) if step == STORE_PASS else lap


def measure_apart(step: str, case: Case) -> Lap:
    """Measure in a fresh process; end with what it said where it fails."""
    lap = run_apart("benchmarks.spectra", {"step": step, "case": asdict(case)})
    if lap.ended:
        sys.exit(f"{step} {lap.ended}")
    return lap


# ---------------------------------------------------------------------------------------------------------- telling
def tables(found: dict[str, list[Lap]], *, budget: int, n_grains: int) -> str:
    """Return what every step took and how it compares with the goals, missed ones in bold, as Markdown."""

    def peak(laps: list[Lap]) -> float:
        return max(lap.peak_bytes for lap in laps) / MB

    seconds = {step: median(lap.seconds for lap in laps) for step, laps in found.items()}
    lines = ["| step | wall s (least-most) | CPU s | peak MB | idle MB | of CSR pass | of store pass |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for step, laps in found.items():
        times = sorted(lap.seconds for lap in laps)
        name = f"{n_grains} grains" if step == OF_GRAINS else step
        cpu = median(lap.cpu_seconds for lap in laps)
        idle = max(lap.idle_bytes for lap in laps) / MB
        of = " | ".join(
            f"{seconds[step] / seconds[base]:.2f}" if base in seconds else "" for base in (CSR_PASS, STORE_PASS)
        )
        wall = f"{seconds[step]:.2f} ({times[0]:.2f}-{times[-1]:.2f})"
        lines.append(f"| {name} | {wall} | {cpu:.2f} | {peak(laps):.0f} | {idle:.0f} | {of} |")
    lines += ["", "| goal | found |", "|---|---:|"]
    for step, base, most in GOALS:
        if step in seconds and base in seconds:
            lines.append(_goal(f"{step} <= {most:g} of a {base}", seconds[step] / seconds[base], most))
    for step in (OF_LABELS, OF_MASKS, OF_GRAINS):
        if step in found:
            lines.append(_goal(f"{step} peak MB <= {budget / MB:.0f}", peak(found[step]), budget / MB))
    return "\n".join(lines)


def _goal(name: str, found: float, most: float) -> str:
    told = f"{found:.3g}"
    return f"| {name} | {told if found <= most else f'**{told}**'} |"


# ---------------------------------------------------------------------------------------------------------- command
def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks spectra", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="where the rocks are, or will be")
    parser.add_argument("--size", type=size_of, default=SIZES["full"], help=f"{', '.join(SIZES)}, or ROWSxCOLUMNS")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--counts", type=float, default=400.0, help="mean counts a pixel")
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--passes", type=int, default=3, help="runs of every step; their median counts")
    given = parser.parse_args(arguments)

    given.data.mkdir(parents=True, exist_ok=True)
    shape = (*given.size, given.channels)
    case = Case(str(given.data.resolve()), shape, given.counts, memory=given.memory)
    found: dict[str, list[Lap]] = {step: [] for step in given.steps}
    with two_processors():
        made = run_apart("benchmarks.measure", {"make": [STORE], "case": asdict(case)})
        if made.ended:
            sys.exit(f"the rock could not be made: {made.ended}")
        for _ in range(given.passes):
            for step in given.steps:
                lap = measure_apart(step, case)
                found[step].append(lap)
                print(f"{step:<12} {lap.seconds:7.2f} s {lap.peak_bytes / MB:5.0f} MB", file=sys.stderr, flush=True)
        about = machine()
    n_grains = len(grains_of(edc.open(case.path(STORE)))[schema.GRAIN_ID]) if OF_GRAINS in found else 0
    print(f"{' x '.join(map(str, shape))}, {given.counts:g} counts a pixel, memory {given.memory}; ", end="")
    print(f"median of {given.passes}; {about['processor']}, {about['processors used']} processors used.\n")
    print(tables(found, budget=memory.parse_size(given.memory), n_grains=n_grains))


def _measure_here() -> None:
    task = json.loads(sys.argv[1])
    # As the command line does; it decides what fresh memory costs.
    memory.return_freed_memory_to_the_system()
    case = Case(**task["case"] | {"shape": tuple(task["case"]["shape"])})
    print(json.dumps(asdict(measure(task["step"], case))))


if __name__ == "__main__":
    # A process that measures is given one argument, a task.
    _measure_here() if sys.argv[-1].startswith("{") else main()
