"""How fast are PCA and NMF beside a dense matrix product, and beside HyperSpy's lazy ones? How do they grow?

    python -m benchmarks decomposition --data FOLDER [--size full|1/4|1/16|1/64] [--steps pca nmf] [--passes 3]
    python -m benchmarks decomposition --data FOLDER --growth

Run it from the project's folder, on an otherwise idle Linux machine. The synthetic rock is made once in the folder
given by ``--data`` and used again. Every number comes from a fresh process on two processors that has taken a tiny map
through the same step before; the steps take turns (A B C A B C ...). The peak is that of the whole process.

``gemm`` is X.T @ X of dense float32 blocks by BLAS's general product, ``syrk`` the same as NumPy does it, which sees
that both factors are one array and takes half of the products. Neither reads anything: their block was touched before.
HyperSpy takes part up to 1/16 of the map, is given 10 minutes and 20 GB, and stopped beyond.

Every run is kept in the JSON file as it ends, and what is there is not measured again: delete the file to start anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import psutil

from benchmarks.codec import machine, two_processors
from benchmarks.growth import PROJECT, exponent
from benchmarks.tasks import (
    DECOMPOSITIONS,
    GEMM,
    HYPERSPY,
    HYPERSPY_NMF,
    HYPERSPY_PCA,
    NMF_FROBENIUS,
    NMF_POISSON,
    OURS,
    PREPARE,
    PREPARE_HYPERSPY,
    SYRK,
    TINY,
    Lap,
    Task,
)
from eds_chunked import schema
from eds_chunked.memory import MB

SIZES = {"full": (1820, 1295), "1/4": (910, 648), "1/16": (455, 324), "1/64": (228, 162)}
"""Rows and columns."""
_MOST_PIXELS_OF_HYPERSPY = 455 * 324
_POLL = 0.2


@dataclass(frozen=True)
class Limits:
    """What a process may take before it is stopped."""

    seconds: float = float("inf")
    n_bytes: float = float("inf")


HYPERSPY_LIMITS = Limits(600.0, 20e9)


# ------------------------------------------------------------------------------------------------ one process
def run_apart(task: Task, *, limits: Limits = Limits(), cold: bool = False) -> Lap:
    """Measure in a fresh process, with ``cold`` one that finds no compiled kernels; a failure is a Lap that says so."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | ({"NUMBA_CACHE_DIR": folder} if cold else {})
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.measure_decomposition", json.dumps(asdict(task))],
            cwd=PROJECT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        start, peak = perf_counter(), 0
        while True:
            try:
                out, err = process.communicate(timeout=_POLL)
            except subprocess.TimeoutExpired:
                peak = max(peak, _resident(process.pid))
                ended = _over(limits, perf_counter() - start, peak)
                if ended:
                    process.kill()
                    process.communicate()
                    return Lap(perf_counter() - start, peak_bytes=peak, ended=ended)
            else:
                break
    if process.returncode:
        return Lap(ended=f"failed: {(err.strip() or f'exit {process.returncode}').splitlines()[-1]}")
    if task.step in (PREPARE, PREPARE_HYPERSPY):
        return Lap()
    return Lap(**json.loads(out.splitlines()[-1]))


def _resident(pid: int) -> int:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


def _over(limits: Limits, seconds: float, n_bytes: int) -> str:
    if seconds > limits.seconds:
        return f"stopped after {limits.seconds / 60:g} min"
    if n_bytes > limits.n_bytes:
        return f"stopped at {limits.n_bytes / 1e9:g} GB"
    return ""


# ------------------------------------------------------------------------------------------------ all runs
@dataclass(frozen=True)
class Cell:
    """What a run measured: a step on a rock, and the how-manieth run it is; ``cold`` without compiled kernels."""

    step: str
    shape: tuple[int, int, int]
    counts: float
    memory: str
    number: int
    cold: bool = False

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]


Runs = dict[Cell, Lap]


class Record:
    """The runs so far, kept in a JSON file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.runs: Runs = {}
        if file.exists():
            for entry in json.loads(file.read_text())["runs"]:
                cell = entry["cell"]
                self.runs[Cell(**cell | {"shape": tuple(cell["shape"])})] = Lap(**entry["lap"])

    def is_done(self, cell: Cell) -> bool:
        """Whether the run is there; one that failed may be mended, and is tried again."""
        return cell in self.runs and not self.runs[cell].ended.startswith("failed")

    def add(self, cell: Cell, lap: Lap) -> None:
        """Keep a run."""
        self.runs[cell] = lap
        entries = [{"cell": asdict(one), "lap": asdict(what)} for one, what in self.runs.items()]
        part = self.file.with_name(f"{self.file.name}.part")
        part.write_text(json.dumps({"machine": machine(), "runs": entries}, indent=1))
        part.replace(self.file)


def cells(
    sizes: Iterable[tuple[int, int]],
    *,
    steps: Sequence[str] | None,
    channels: int,
    counts: float,
    memory: str,
    passes: int,
) -> list[Cell]:
    """Return the runs in their order: all steps on a size in turn, ``passes`` times, then compiling on a tiny map."""
    made = []
    for rows, columns in sizes:
        chosen = steps or [
            step for step in DECOMPOSITIONS if step not in HYPERSPY or rows * columns <= _MOST_PIXELS_OF_HYPERSPY
        ]
        made += [
            Cell(step, (rows, columns, channels), counts, memory, number) for number in range(passes) for step in chosen
        ]
    for step in OURS:
        if steps is None or step in steps:
            made.append(Cell(step, (*TINY, channels), counts, memory, 0, cold=True))
    return made


def measure_all(wanted: Sequence[Cell], folder: Path, record: Record) -> Runs:
    """Measure what the record does not have; return the wanted runs."""
    prepared: set[tuple[str, tuple[int, int, int]]] = set()
    for cell in wanted:
        if not record.is_done(cell):
            rows, columns, channels = cell.shape
            task = Task(cell.step, str(folder / "rock.zarr"), cell.shape, cell.counts, cell.memory, 1).at(rows, columns)
            _prepare(task, prepared)
            limits = HYPERSPY_LIMITS if cell.step in HYPERSPY else Limits()
            lap = run_apart(task, limits=limits, cold=cell.cold)
            record.add(cell, lap)
            told = lap.ended or f"{lap.seconds:8.2f} s {lap.peak_bytes / MB:6.0f} MB"
            print(f"{rows}x{columns}x{channels}  {cell.step:<14} {told}", file=sys.stderr, flush=True)
    return {cell: record.runs[cell] for cell in wanted}


def _prepare(task: Task, prepared: set[tuple[str, tuple[int, int, int]]]) -> None:
    step = PREPARE_HYPERSPY if task.step in HYPERSPY else PREPARE
    if (step, task.shape) not in prepared:
        made = run_apart(Task(step, task.store, task.shape, task.counts, task.memory, 1))
        if made.ended:
            sys.exit(f"the rock could not be made: {made.ended}")
        prepared.add((step, task.shape))


# ------------------------------------------------------------------------------------------------ telling
@dataclass(frozen=True)
class Row:
    """All runs of a step on one size."""

    laps: tuple[Lap, ...]

    @property
    def ended(self) -> str:
        return next((lap.ended for lap in self.laps if lap.ended), "")

    @property
    def seconds(self) -> float:
        return median(lap.seconds for lap in self.laps)

    @property
    def cpu_seconds(self) -> float:
        return median(lap.cpu_seconds for lap in self.laps)

    @property
    def peak_bytes(self) -> int:
        return max(lap.peak_bytes for lap in self.laps)

    def told_seconds(self) -> str:
        """Median, and least to most where there are several."""
        times = sorted(lap.seconds for lap in self.laps)
        spread = f" ({_short(times[0])}-{_short(times[-1])})" if len(times) > 1 else ""
        return _short(self.seconds) + spread


def rows_of(runs: Runs, shape: tuple[int, int, int]) -> dict[str, Row]:
    """Return the steps that were measured on a size, in their order."""
    found: dict[str, list[Lap]] = {}
    for cell, lap in runs.items():
        if cell.shape == shape and not cell.cold:
            found.setdefault(cell.step, []).append(lap)
    return {step: Row(tuple(found[step])) for step in DECOMPOSITIONS if step in found}


def _short(seconds: float) -> str:
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"


def size_table(shape: tuple[int, int, int], rows: dict[str, Row]) -> Iterator[str]:
    """Yield a Markdown table: what every step took, and how many times that of the products."""
    bases = [(rows[step].seconds if step in rows and not rows[step].ended else None) for step in (GEMM, SYRK)]
    yield f"{' x '.join(map(str, shape))}; ratios are those at {shape[2]} channels:"
    yield ""
    yield f"| step | wall s | CPU s | peak MB | of {GEMM} | of {SYRK} | passes |"
    yield "|---|---:|---:|---:|---:|---:|---:|"
    for step, row in rows.items():
        if row.ended:
            peak = f"{row.peak_bytes / MB:.0f}" if row.peak_bytes else ""
            yield f"| {step} | {row.ended} | | {peak} | | | |"
            continue
        ratios = " | ".join("" if base is None else f"{row.seconds / base:.2f}" for base in bases)
        passes = f"{max(lap.map_passes for lap in row.laps):.3g}" if step in OURS else ""
        peak = f"{row.peak_bytes / MB:.0f}"
        yield f"| {step} | {row.told_seconds()} | {_short(row.cpu_seconds)} | {peak} | {ratios} | {passes} |"
    yield ""


@dataclass(frozen=True)
class Goal:
    """What ``step`` is to reach: seconds of one step by those of another, at most or at least."""

    step: str
    beside: str
    most: float = float("inf")
    least: float = 0.0


GOALS = (
    Goal(schema.PCA, GEMM, most=0.5),
    Goal(schema.NMF, GEMM, most=0.6),
    Goal(NMF_FROBENIUS, GEMM, most=0.7),
    Goal(NMF_POISSON, GEMM, most=2.0),
    Goal(HYPERSPY_PCA, schema.PCA, least=5.0),
    Goal(HYPERSPY_NMF, schema.NMF, least=20.0),
)
"""Beside the products on the full map, beside HyperSpy on 1/16 of it."""
_MOST_BYTES = 10**9


def goal_table(rows: dict[str, Row]) -> Iterator[str]:
    """Yield a Markdown table of the goals that can be judged, missed ones in bold."""
    judged = []
    for goal in GOALS:
        ours, beside = rows.get(goal.step), rows.get(goal.beside)
        # A contestant that was stopped took at least so long.
        if ours and beside and not beside.ended and not ours.ended.startswith("failed"):
            found = ours.seconds / beside.seconds
            bound = f"<= {goal.most:g}" if goal.least == 0 else f">= {goal.least:g}"
            judged.append(_goal(f"{goal.step} / {goal.beside} {bound}", found, goal.least <= found <= goal.most))
    for step in OURS:
        if step in rows and not rows[step].ended:
            peak = rows[step].peak_bytes
            judged.append(_goal(f"{step} peak MB <= {_MOST_BYTES / MB:.0f}", peak / MB, peak <= _MOST_BYTES))
    if judged:
        yield from ("| goal (products: on the full map, HyperSpy: on 1/16) | found |", "|---|---:|", *judged, "")


def _goal(name: str, found: float, reached: bool) -> str:
    told = f"{found:.3g}"
    return f"| {name} | {told if reached else f'**{told}**'} |"


def first_call_table(runs: Runs) -> Iterator[str]:
    """Yield a Markdown table of what the first call of a process takes on the tiny map."""
    compiling = {cell.step: lap for cell, lap in runs.items() if cell.cold and not lap.ended}
    if compiling:
        yield f"First call on a map of {TINY[0]} x {TINY[1]} pixels, seconds:"
        yield ""
        yield "| step | compiles | compiled by an earlier process | second call |"
        yield "|---|---:|---:|---:|"
        for step, lap in compiling.items():
            cached = [one.first_seconds for cell, one in runs.items() if cell.step == step and not cell.cold]
            told = _short(median(cached)) if cached else ""
            yield f"| {step} | {_short(lap.first_seconds)} | {told} | {lap.seconds:.2f} |"
        yield ""


def growth_table(runs: Runs) -> Iterator[str]:
    """Yield two Markdown tables, time a pixel and peak, a column a size, with the exponents of their growth."""
    shapes = sorted({cell.shape for cell in runs if not cell.cold}, key=lambda shape: shape[0] * shape[1])
    found = {shape: rows_of(runs, shape) for shape in shapes}

    def table(value: Callable[[Row], float], told: Callable[[Row, int], str]) -> Iterator[str]:
        sizes = " | ".join(f"{rows} x {columns}" for rows, columns, _ in shapes)
        yield f"| step | {sizes} | exponent |"
        yield "|---" + "|---:" * (len(shapes) + 1) + "|"
        for step in DECOMPOSITIONS:
            rows = {shape: found[shape].get(step) for shape in shapes}
            good = {shape[0] * shape[1]: row for shape, row in rows.items() if row is not None and not row.ended}
            if len(good) > 1:
                texts = [
                    "" if row is None or row.ended else told(row, shape[0] * shape[1]) for shape, row in rows.items()
                ]
                power = exponent(list(good), [value(row) for row in good.values()])
                yield f"| {step} | {' | '.join(texts)} | {power:z.2f} |"
        yield ""

    yield "Microseconds a pixel; the exponent is that of the whole time, 1 where time a pixel is flat:"
    yield ""
    yield from table(lambda row: row.seconds, lambda row, pixels: f"{1e6 * row.seconds / pixels:.3g}")
    yield "Peak resident memory of the whole process in MB; 0 where it is flat:"
    yield ""
    yield from table(lambda row: float(row.peak_bytes), lambda row, _: f"{row.peak_bytes / MB:.0f}")


def tables(runs: Runs) -> str:
    """Return all tables of the runs."""
    lines: list[str] = []
    shapes = dict.fromkeys(cell.shape for cell in runs if not cell.cold)
    for shape in shapes:
        rows = rows_of(runs, shape)
        lines += [*size_table(shape, rows), *goal_table(rows)]
    lines += first_call_table(runs)
    if len(shapes) > 1:
        lines += growth_table(runs)
    return "\n".join(lines)


# ------------------------------------------------------------------------------------------------ command
def _size(text: str) -> tuple[int, int]:
    if text in SIZES:
        return SIZES[text]
    rows, columns = text.split("x")
    return int(rows), int(columns)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks decomposition", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="where the rocks are, or will be")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--size", type=_size, default=SIZES["full"], help=f"{', '.join(SIZES)}, or ROWSxCOLUMNS")
    size.add_argument("--growth", action="store_true", help="all sizes, and how time and memory grow")
    parser.add_argument("--steps", nargs="+", choices=DECOMPOSITIONS, help="default: all")
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--counts", type=float, default=400.0, help="mean counts a pixel")
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--passes", type=int, default=3, help="runs of every step; their median counts")
    parser.add_argument("--json", type=Path, help="file of the runs; default: decomposition.json in the folder")
    given = parser.parse_args(arguments)

    given.data.mkdir(parents=True, exist_ok=True)
    folder = given.data.resolve()
    record = Record(given.json or folder / "decomposition.json")
    sizes = sorted(SIZES.values()) if given.growth else [given.size]
    wanted = cells(
        sizes,
        steps=given.steps,
        channels=given.channels,
        counts=given.counts,
        memory=given.memory,
        passes=given.passes,
    )
    with two_processors():
        runs = measure_all(wanted, folder, record)
        about: dict[str, Any] = machine()
    used = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    print(f"{given.counts:g} counts a pixel, memory {given.memory}; median of {given.passes} (least-most);")
    print(f"{about['processor']}, {about['processors used']} processors used, Python {about['python']}, {used}.\n")
    print(tables(runs))


if __name__ == "__main__":
    main()
