"""What was compared, as Markdown: every map, who is faster, goals, first calls, growth, and cost by dose."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np

from benchmarks.apart import Cell, Row, Runs, short
from benchmarks.contest import LIMIT, OURS
from benchmarks.limits import COPY, GEMM, READ, SYRK
from benchmarks.ours import NMF_FROBENIUS, NMF_POISSON
from benchmarks.peers import LAZY
from benchmarks.rocks import TINY
from eds_chunked import schema
from eds_chunked.memory import MB

Key = tuple[str, str]
Map = tuple[tuple[int, int, int], float, str]
_LIMITS = (READ, COPY, GEMM, SYRK)


def rows_of(runs: Runs, where: Map) -> dict[Key, Row]:
    """Return what was measured on a map, by step and side, in order."""
    found: dict[Key, list[Cell]] = {}
    for cell in runs:
        if (cell.shape, cell.counts, cell.texture) == where and not cell.cold:
            found.setdefault((cell.step, cell.side), []).append(cell)
    return {key: Row(tuple(runs[cell] for cell in cells)) for key, cells in found.items()}


def exponent(pixels: Sequence[float], values: Sequence[float]) -> float:
    """Return p of the best fit of ``values ~ pixels ** p``, by least squares of the logarithms."""
    return float(np.polyfit(np.log(pixels), np.log(values), 1)[0])


def map_table(where: Map, rows: dict[Key, Row]) -> Iterator[str]:
    """Yield what every step took on a map, as multiples of ours and of the limits, and how true it is."""
    shape, counts, texture = where
    yield f"{' x '.join(map(str, shape))}, {counts:g} counts a pixel, {texture}; the last columns are multiples:"
    yield ""
    yield f"| step | side | wall s | CPU s | peak MB | passes | quality | {OURS} | {' | '.join(_LIMITS)} |"
    yield "|---|---|---:|---:|---:|---:|---|" + "---:|" * (1 + len(_LIMITS))
    for (step, side), row in rows.items():
        peak = f"{row.peak_bytes / MB:.0f}" if row.peak_bytes else ""
        if row.ended:
            yield f"| {step} | {side} | {row.ended} | | {peak} | | |{' |' * (1 + len(_LIMITS))}"
            continue
        bases = [rows.get(key) for key in ((step, OURS), *((limit, LIMIT) for limit in _LIMITS))]
        passes = max(lap.map_passes for lap in row.laps)  # Converting tells rows, not pixels: next to nothing.
        quality = ", ".join(f"{name} {value:.4g}" for name, value in row.laps[-1].quality.items())
        ratios = (f"{row.seconds / base.seconds:.3g}" if base and not base.ended else "" for base in bases)
        yield (
            f"| {step} | {side} | {row.told_seconds()} | {short(row.cpu_seconds)} | {peak} | "
            f"{f'{passes:.3g}' if passes > 0.1 else ''} | {quality} | {' | '.join(ratios)} |"
        )
    yield ""


def faster_table(rows: dict[Key, Row]) -> Iterator[str]:
    """Yield every peer that is faster than our step."""
    faster = []
    for (step, side), row in rows.items():
        ours = rows.get((step, OURS))
        if ours and not ours.ended and not row.ended and row.seconds < ours.seconds:
            sides = (f"{short(one.seconds)} | {one.peak_bytes / MB:.0f}" for one in (row, ours))
            faster.append(f"| {step} | {side} | {' | '.join(sides)} |")
    if faster:
        yield from ("| step | who is faster | wall s | peak MB | ours: wall s | peak MB |", "|---|---|" + "---:|" * 4)
        yield from (*faster, "")


def settings_table(keys: Sequence[Key], settings: dict[Key, str]) -> Iterator[str]:
    """Yield what every side was asked to do."""
    yield "| step | side | settings |"
    yield "|---|---|---|"
    for step, side in dict.fromkeys(keys):
        yield f"| {step} | {side} | {settings[step, side]} |"
    yield ""


@dataclass(frozen=True)
class Goal:
    """What ``step`` is to reach: seconds of one step by those of another, at most or at least."""

    step: Key
    beside: Key
    most: float = float("inf")
    least: float = 0.0


GOALS = (
    Goal((schema.PCA, OURS), (GEMM, LIMIT), most=0.5),
    Goal((schema.NMF, OURS), (GEMM, LIMIT), most=0.6),
    Goal((NMF_FROBENIUS, OURS), (GEMM, LIMIT), most=0.7),
    Goal((NMF_POISSON, OURS), (GEMM, LIMIT), most=2.0),
    Goal((schema.PCA, LAZY), (schema.PCA, OURS), least=5.0),
    Goal((schema.NMF, LAZY), (schema.NMF, OURS), least=20.0),
)
"""Beside the products on the full map, beside HyperSpy on 1/16 of it."""
_MOST_BYTES = 10**9
_DECOMPOSITIONS = (schema.PCA, schema.NMF, NMF_FROBENIUS, NMF_POISSON)


def goal_table(rows: dict[Key, Row]) -> Iterator[str]:
    """Yield the goals that can be judged, missed ones in bold."""
    judged = []
    for goal in GOALS:
        ours, beside = rows.get(goal.step), rows.get(goal.beside)
        # A contestant that was stopped took at least so long.
        if ours and beside and not beside.ended and (not ours.ended or ours.ended.startswith("stopped after")):
            found = ours.seconds / beside.seconds
            bound = f"<= {goal.most:g}" if goal.least == 0 else f">= {goal.least:g}"
            reached = goal.least <= found <= goal.most
            judged.append(_goal(f"{' '.join(goal.step)} / {' '.join(goal.beside)} {bound}", found, reached))
    for step in _DECOMPOSITIONS:
        row = rows.get((step, OURS))
        if row and not row.ended:
            goal_name = f"{step} peak MB <= {_MOST_BYTES / MB:.0f}"
            judged.append(_goal(goal_name, row.peak_bytes / MB, row.peak_bytes <= _MOST_BYTES))
    if judged:
        yield from ("| goal (products: on the full map, HyperSpy: on 1/16) | found |", "|---|---:|", *judged, "")


def _goal(name: str, found: float, reached: bool) -> str:
    told = f"{found:.3g}"
    return f"| {name} | {told if reached else f'**{told}**'} |"


def first_call_table(runs: Runs) -> Iterator[str]:
    """Yield what the first call of a process takes on the tiny map."""
    compiling = {cell.step: lap for cell, lap in runs.items() if cell.cold and not lap.ended}
    if compiling:
        yield f"First call on a map of {TINY[0]} x {TINY[1]} pixels, seconds:"
        yield ""
        yield "| step | compiles | compiled by an earlier process | second call |"
        yield "|---|---:|---:|---:|"
        for step, lap in compiling.items():
            cached = [
                one.first_seconds
                for cell, one in runs.items()
                if (cell.step, cell.side) == (step, OURS) and not cell.cold and not one.ended
            ]
            told = short(median(cached)) if cached else ""
            yield f"| {step} | {short(lap.first_seconds)} | {told} | {lap.seconds:.2f} |"
        yield ""


def _columns(
    by_column: dict[float, dict[Key, Row]],
    value: Callable[[Row, float], float],
    *,
    heads: Sequence[str],
    power: Callable[[list[float], list[Row]], float] | None,
) -> Iterator[str]:
    """Yield a row a step and side, a column a map, and the exponent where there is one."""
    yield f"| step | side | {' | '.join(heads)} |{' exponent |' if power else ''}"
    yield "|---|---" + "|---:" * (len(heads) + bool(power)) + "|"
    for key in dict.fromkeys(key for rows in by_column.values() for key in rows):
        good = {at: rows[key] for at, rows in by_column.items() if key in rows and not rows[key].ended}
        if len(good) > 1:
            texts = (f"{value(good[at], at):.3g}" if at in good else "" for at in by_column)
            fitted = f" {power(list(good), list(good.values())):z.2f} |" if power else ""
            yield f"| {' | '.join(key)} | {' | '.join(texts)} |{fitted}"
    yield ""


def growth_tables(runs: Runs) -> Iterator[str]:
    """Yield time a pixel and peak memory, a column a size, with the exponents of their growth, for every dose."""
    for counts in dict.fromkeys(cell.counts for cell in runs if not cell.cold):
        of_dose = {cell: lap for cell, lap in runs.items() if cell.counts == counts and not cell.cold}
        maps = sorted({(cell.pixels, cell.shape, cell.texture) for cell in of_dose})
        by_size = {float(pixels): rows_of(of_dose, (shape, counts, texture)) for pixels, shape, texture in maps}
        if len(by_size) > 1:
            heads = [f"{shape[0]} x {shape[1]}" for _, shape, _ in maps]
            yield f"{counts:g} counts a pixel; us a pixel; the exponent is that of the time, 1 where it is flat:"
            yield ""
            yield from _columns(
                by_size,
                lambda row, pixels: 1e6 * row.seconds / pixels,
                heads=heads,
                power=lambda pixels, rows: exponent(pixels, [row.seconds for row in rows]),
            )
            yield "Peak resident memory of the whole process in MB; 0 where it is flat:"
            yield ""
            yield from _columns(
                by_size,
                lambda row, _: row.peak_bytes / MB,
                heads=heads,
                power=lambda pixels, rows: exponent(pixels, [row.peak_bytes for row in rows]),
            )


def dose_tables(runs: Runs) -> Iterator[str]:
    """Yield seconds by dose, for every size of which there are several doses."""
    for shape in dict.fromkeys(cell.shape for cell in runs if not cell.cold):
        maps = sorted({(cell.counts, cell.texture) for cell in runs if cell.shape == shape and not cell.cold})
        if len(maps) > 1:
            yield f"{' x '.join(map(str, shape))}, seconds by counts a pixel:"
            yield ""
            by_dose = {counts: rows_of(runs, (shape, counts, texture)) for counts, texture in maps}
            yield from _columns(
                by_dose, lambda row, _: row.seconds, heads=[f"{counts:g}" for counts in by_dose], power=None
            )


def tables(runs: Runs, settings: dict[Key, str]) -> str:
    """Return all tables of the runs."""
    lines: list[str] = []
    maps = dict.fromkeys((cell.shape, cell.counts, cell.texture) for cell in runs if not cell.cold)
    for where in maps:
        rows = rows_of(runs, where)
        lines += [*map_table(where, rows), *faster_table(rows), *goal_table(rows)]
    lines += [*first_call_table(runs), *growth_tables(runs), *dose_tables(runs)]
    lines += settings_table([(cell.step, cell.side) for cell in runs], settings)
    return "\n".join(lines)
