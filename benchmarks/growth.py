"""Does time grow as the pixels, and memory not at all? Each step of the workflow on synthetic rocks of growing size.

    python -m benchmarks growth [--sizes 300x400 600x800 900x1200] [--counts 20] [--memory 2GB]

Run it from the project's folder, on an otherwise idle Linux machine. Every number comes from a fresh process that has
taken a tiny map through the same step before. The table goes to stdout, progress to stderr.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.tasks import NEEDS, STEPS, Measurement, Task
from eds_chunked.memory import MB, n_cpus
from eds_chunked.store.provenance import versions

SIZES = ((300, 400), (450, 600), (600, 800), (900, 1200))
PROJECT = Path(__file__).parents[1]


def measure_apart(task: Task) -> Measurement:
    """Measure in a fresh process; end with what it said where it fails."""
    command = [sys.executable, "-m", "benchmarks.measure", json.dumps(asdict(task))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{task.step} on {task.shape} failed:\n{done.stderr}")
    return Measurement(**json.loads(done.stdout.splitlines()[-1]))


def measurements(
    sizes: Sequence[tuple[int, int]],
    *,
    steps: Sequence[str],
    channels: int,
    counts: float,
    memory: str,
    passes: int,
) -> Iterator[Measurement]:
    """Yield the measurement of every step on every size; a store lives only as long as its size is at work."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            for step in steps:
                store = str(Path(folder) / "rock.zarr")
                yield measure_apart(Task(step, store, (*size, channels), counts, memory, passes))


def exponent(pixels: Sequence[float], values: Sequence[float]) -> float:
    """Return p of the best fit of ``values ~ pixels ** p``, by least squares of the logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(values), 1)[0])


def table(found: Sequence[Measurement]) -> str:
    """Return the measurements as two Markdown tables: a row a step, a column a size, then the exponent of growth."""
    return "\n".join(
        [
            "Time: us a pixel. The exponent is that of the whole time: 1 where time a pixel is flat.",
            "",
            *_rows(found, lambda one: one.seconds, lambda one: f"{1e6 * one.seconds / one.pixels:.3g}"),
            "",
            "Peak resident memory: MB, in brackets those above the idle process. The exponent is that of the whole",
            "peak: 0 where it does not grow.",
            "",
            *_rows(
                found,
                lambda one: float(one.peak_bytes),
                lambda one: f"{one.peak_bytes / MB:.0f} ({(one.peak_bytes - one.idle_bytes) / MB:.0f})",
            ),
            "",
            "`draw` makes the counts of the synthetic rock and drops them; `convert` makes them too.",
        ]
    )


def _rows(
    found: Sequence[Measurement], value: Callable[[Measurement], float], text: Callable[[Measurement], str]
) -> Iterator[str]:
    sizes = sorted({one.pixels for one in found})
    yield f"| step | {' | '.join(f'{pixels / 1000:.4g} kpx' for pixels in sizes)} | exponent |"
    yield "|---" + "|---:" * (len(sizes) + 1) + "|"
    for step in STEPS:
        row = sorted((one for one in found if one.step == step), key=lambda one: one.pixels)
        if row:
            power = exponent([one.pixels for one in row], [value(one) for one in row])
            yield f"| {step} | {' | '.join(map(text, row))} | {power:.2f} |"


def with_needs(steps: Sequence[str]) -> list[str]:
    """Return the steps, and those that they build on, in the order of the workflow."""
    wanted = {needed for step in steps for needed in (*NEEDS[step], step)}
    return [step for step in STEPS if step in wanted]


def _size(text: str) -> tuple[int, int]:
    rows, columns = text.split("x")
    return int(rows), int(columns)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks growth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=_size, nargs="+", default=SIZES, metavar="ROWSxCOLUMNS", help="at least two")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS, help="default: all; needs are added")
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--counts", type=float, default=20.0, help="mean counts a pixel")
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--passes", type=int, default=2, help="the best time and the highest peak of so many are told")
    given = parser.parse_args(arguments)
    if len({rows * columns for rows, columns in given.sizes}) < 2:
        parser.error("--sizes: growth needs two sizes at least")

    found = []
    for one in measurements(
        given.sizes,
        steps=with_needs(given.steps),
        channels=given.channels,
        counts=given.counts,
        memory=given.memory,
        passes=given.passes,
    ):
        found.append(one)
        print(f"{one.pixels} px  {one.step:<8} {one.seconds:8.2f} s {one.peak_bytes / MB:6.0f} MB", file=sys.stderr)

    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    print(f"{given.counts:g} counts a pixel, {given.channels} channels, memory {given.memory}; best of {given.passes};")
    print(f"{n_cpus()} processors, Python {platform.python_version()}, {used}.\n")
    print(table(found))


if __name__ == "__main__":
    main()
