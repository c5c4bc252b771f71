"""Run a part of a benchmark in a fresh process, within limits, and keep what it measured.

A process is started as ``python -m MODULE JSON``; the last line on its stdout is a :class:`Lap` as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import psutil

from benchmarks.machine import PROJECT, forget_peak, machine
from eds_chunked import memory, progress

_POLL = 0.2
FAILED = "failed"


@dataclass(frozen=True)
class Lap:
    """One run in a process of its own; ``ended`` says why where it did not come to its end.

    ``first_seconds`` are those of the process's first call, on a tiny map; ``map_passes`` tells how often the pixels of
    the map were read by the engine, ``quality`` how true the result is.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    idle_bytes: int = 0
    peak_bytes: int = 0
    first_seconds: float = 0.0
    map_passes: float = 0.0
    quality: dict[str, float] = field(default_factory=dict)
    ended: str = ""


# ------------------------------------------------------------------------------------------------ inside
@contextmanager
def _pixels_read() -> Iterator[list[int]]:
    """Note how many pixels every block has that the engine reads."""
    read: list[int] = []

    @contextmanager
    def step(description: str, total: int, *, unit: str = "pixels") -> Iterator[Callable[[int], None]]:
        yield read.append if unit == "pixels" else lambda done: None

    before = progress.step
    progress.step = step
    try:
        yield read
    finally:
        progress.step = before


def timed(run: Callable[[], Any], *, n_pixels: int, first_seconds: float = 0.0) -> tuple[Lap, Any]:
    """Run a step once in this process; return what it took, and its result."""
    memory.release()
    forget_peak()
    idle = memory.resident()
    with _pixels_read() as read:
        start, cpu = perf_counter(), process_time()
        found = run()
        seconds, cpu = perf_counter() - start, process_time() - cpu
    peak = memory.peak_resident()
    return Lap(seconds, cpu, idle, peak, first_seconds, sum(read) / n_pixels), found


# ------------------------------------------------------------------------------------------------ outside
@dataclass(frozen=True)
class Limits:
    """What a process and its children may take before they are stopped."""

    seconds: float = float("inf")
    n_bytes: float = float("inf")


def run_apart(module: str, task: dict[str, Any], *, limits: Limits = Limits(), cold: bool = False) -> Lap:
    """Run a module in a fresh process, with ``cold`` one that finds no compiled kernels; a failure is a Lap as well."""
    with tempfile.TemporaryDirectory() as folder:
        environment = os.environ | ({"NUMBA_CACHE_DIR": folder} if cold else {})
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", module, json.dumps(task)],
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
                family = _family(process.pid)
                peak = max(peak, sum(map(_resident, family)))
                ended = _over(limits, perf_counter() - start, peak)
                if ended:
                    for one in family:
                        one.kill()
                    process.communicate()
                    return Lap(perf_counter() - start, peak_bytes=peak, ended=ended)
            else:
                break
    if process.returncode < 0:
        return Lap(perf_counter() - start, peak_bytes=peak, ended=f"killed: {signal.Signals(-process.returncode).name}")
    if process.returncode:
        return Lap(ended=f"{FAILED}: {(err.strip() or f'exit {process.returncode}').splitlines()[-1]}")
    return Lap(**json.loads(out.splitlines()[-1]))


def _family(pid: int) -> list[psutil.Process]:
    """Return a process and those that it started."""
    try:
        parent = psutil.Process(pid)
        return [*parent.children(recursive=True), parent]
    except psutil.NoSuchProcess:
        return []


def _resident(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
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
    """What a run measured: a side's step on a map, and the how-manieth run it is; ``cold`` without compiled kernels."""

    step: str
    side: str
    shape: tuple[int, int, int]
    counts: float
    texture: str
    memory: str
    number: int = 0
    cold: bool = False

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]


Runs = dict[Cell, Lap]


class Record:
    """The runs so far, kept in a JSON file with the machine and the recipe of the data."""

    def __init__(self, file: Path, recipe: dict[str, Any]) -> None:
        self.file = file
        self.recipe = recipe
        self.runs: Runs = {}
        if file.exists():
            for entry in json.loads(file.read_text())["runs"]:
                cell = entry["cell"]
                self.runs[Cell(**cell | {"shape": tuple(cell["shape"])})] = Lap(**entry["lap"])

    def is_done(self, cell: Cell) -> bool:
        """Whether the run is there; one that failed may be mended, and is tried again."""
        return cell in self.runs and not self.runs[cell].ended.startswith(FAILED)

    def add(self, cell: Cell, lap: Lap) -> None:
        """Keep a run."""
        self.runs[cell] = lap
        entries = [{"cell": asdict(one), "lap": asdict(what)} for one, what in self.runs.items()]
        part = self.file.with_name(f"{self.file.name}.part")
        part.write_text(json.dumps({"machine": machine(), "data": self.recipe, "runs": entries}, indent=1))
        part.replace(self.file)


@dataclass(frozen=True)
class Row:
    """All runs of one side's step on one map."""

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
        spread = f" ({short(times[0])}-{short(times[-1])})" if len(times) > 1 else ""
        return short(self.seconds) + spread


def short(seconds: float) -> str:
    """Write seconds with three digits or so."""
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"
