"""Is the projected peak of memory kept, and near? Each step on maps, budgets and numbers of threads.

    python -m benchmarks memory [--sizes 150x200 600x800] [--budgets smallest 1GB 4GB] [--threads 1 2 4] [--steps ...]

Run it from the project's folder, on Linux. Every cell is a process of its own, forked from one that has imported the
package and done nothing else. The table goes to stdout, progress to stderr; exit code 1 where in a cell not
measured <= projected <= 2 x measured. ``smallest`` is the budget that a refusal names.
"""

from __future__ import annotations

import argparse
import platform
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

from benchmarks.measure_memory import STEPS, Cell, Held, hold, prepare
from eds_chunked.memory import MB
from eds_chunked.store.provenance import versions

SMALLEST = "smallest"
SIZES = ((150, 200), (600, 800))
BUDGETS = (SMALLEST, "1GB", "4GB")
THREADS = (1, 2, 4)


def apart(work: Callable[[Cell], object], cell: Cell) -> object:
    """Do work in a process of its own."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.measure_memory"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(work, cell).result()


def held(cell: Cell) -> Held:
    """Measure a cell; with the budget ``smallest`` in that which refusals name, until there is none."""
    tried = replace(cell, budget="1MB") if cell.budget == SMALLEST else cell
    for _ in range(5):
        found = apart(hold, tried)
        if isinstance(found, Held):
            return replace(found, cell=cell)
        if cell.budget != SMALLEST:
            break
        tried = replace(tried, budget=re.findall(r"--memory (\d+MB)", str(found))[-1])
    raise SystemExit(f"{cell.step}, {cell.shape}, {cell.budget}: {found}")


def measurements(
    sizes: Sequence[tuple[int, int]],
    *,
    steps: Sequence[str],
    budgets: Sequence[str],
    threads: Sequence[int],
    channels: int,
    counts: float,
) -> Iterator[Held]:
    """Yield every cell of the grid; a store lives only as long as its size is at work."""
    for size in sizes:
        with tempfile.TemporaryDirectory() as folder:
            store = str(Path(folder) / "rock.zarr")
            apart(prepare, Cell("", store, (*size, channels), counts, "", 1))
            for step in steps:
                for budget in budgets:
                    # In the smallest budget there is one worker, whatever the threads.
                    for number in threads[:1] if budget == SMALLEST else threads:
                        yield held(Cell(step, store, (*size, channels), counts, budget, number))


def table(found: Sequence[Held]) -> str:
    """Return the cells as a Markdown table: a row a step and map, a column a budget and number of threads."""
    columns = list(dict.fromkeys((one.cell.budget, one.cell.threads) for one in found))
    rows = dict.fromkeys((one.cell.step, one.cell.shape[:2]) for one in found)
    cells = {(one.cell.step, one.cell.shape[:2], one.cell.budget, one.cell.threads): one for one in found}
    lines = [
        f"| step | map | {' | '.join(f'{budget}, {number}' for budget, number in columns)} |",
        "|---|---|" + "---:|" * len(columns),
    ]
    for step, size in rows:
        texts = [_text(cells.get((step, size, *column))) for column in columns]
        lines.append(f"| {step} | {size[0]} x {size[1]} | {' | '.join(texts)} |")
    return "\n".join(lines)


def _text(one: Held | None) -> str:
    if one is None:
        return ""
    text = f"{one.measured / MB:.0f} of {one.projected / MB:.0f}"
    return text if one.is_kept else f"**{text}**"


def _size(text: str) -> tuple[int, int]:
    rows, columns = text.split("x")
    return int(rows), int(columns)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", type=_size, nargs="+", default=SIZES, metavar="ROWSxCOLUMNS")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), metavar="STEP")
    parser.add_argument("--budgets", nargs="+", default=BUDGETS, metavar="SIZE", help="smallest, or a size")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--counts", type=float, default=100.0, help="mean counts a pixel")
    given = parser.parse_args(arguments)
    found = []
    for one in measurements(
        given.sizes,
        steps=given.steps,
        budgets=given.budgets,
        threads=given.threads,
        channels=given.channels,
        counts=given.counts,
    ):
        found.append(one)
        cell = one.cell
        where = f"{cell.shape[0]} x {cell.shape[1]}, {cell.step}, {cell.budget}, {cell.threads} threads"
        print(f"{where}: {_text(one)} MB", file=sys.stderr, flush=True)
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    print(f"{given.counts:g} counts a pixel, {given.channels} channels; MB measured of MB projected.")
    print(f"Python {platform.python_version()}, {used}.\n")
    print(table(found))
    return 0 if all(one.is_kept for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
