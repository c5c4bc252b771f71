"""How long do our steps take, in how much memory, and how true are they, beside their peers and the machine's limits?

    python -m benchmarks compare --data FOLDER [--size 1/16 [1/64 ...]] [--steps pca nmf] [--peers flox dask+zarr|none]

Run it from the project's folder, on an otherwise idle Linux machine. The synthetic rock is made once in the folder
given by ``--data``, streamed, and used again. Every number comes from a fresh process on two processors that has taken
a tiny map through the same step before; sides take turns (A B C A B C ...). The peak is that of the whole process.

Peers do what their documentation recommends, with the settings in the last table. They are given 10 minutes and 20 GB,
and stopped beyond; one that was stopped is not run again. On more than 1/16 of the map they run once. One that is not
installed has a row that says so: ``pip install eds-chunked[benchmarks]``. With several sizes, exponents of growth are
told; with several ``--counts``, the cost by dose. ``--size 4`` is a map of four times the area.

Every run is kept in the JSON file as it ends, and what is there is not measured again: delete the file to start anew.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import rocks
from benchmarks.apart import FAILED, Cell, Lap, Limits, Record, Runs, run_apart
from benchmarks.contest import OURS, Contestant
from benchmarks.contestants import CONTESTANTS, PEER_NAMES, STEPS
from benchmarks.machine import machine, two_processors
from benchmarks.rocks import RECIPE, SIZES, TEXTURES, Case, size_of
from benchmarks.tables import tables
from eds_chunked.memory import MB

MODULE = "benchmarks.measure"
PEER_LIMITS = Limits(600.0, 20e9)
_PEERS_IN_TURN_UP_TO = 455 * 324
"""Pixels up to which peers run as often as we do."""
NONE = "none"


def cell_of(contestant: Contestant, case: Case, number: int = 0, *, cold: bool = False) -> Cell:
    """Return the key of a run."""
    return Cell(
        contestant.step, contestant.side, case.shape, case.counts, case.texture, case.memory, number=number, cold=cold
    )


def chosen(steps: Sequence[str] | None, peers: Sequence[str] | None) -> list[Contestant]:
    """Return who takes part: by default all; with ``peers`` we, the limits, and those."""
    return [
        one
        for one in CONTESTANTS.values()
        if (steps is None or one.step in steps) and (peers is None or not one.is_peer or one.side in peers)
    ]


def plan(
    contestants: Sequence[Contestant], cases: Sequence[Case], *, passes: int, cold: bool
) -> Iterator[tuple[Contestant, Case, Cell]]:
    """Yield the runs in their order: all sides in turn, ``passes`` times, then compiling on a tiny map."""
    for case in cases:
        for number in range(passes):
            for one in contestants:
                if number == 0 or not one.is_peer or case.pixels <= _PEERS_IN_TURN_UP_TO:
                    yield one, case, cell_of(one, case, number)
    if cold:
        tiny = cases[0].at(*rocks.TINY)
        for one in contestants:
            if one.side == OURS:
                yield one, tiny, cell_of(one, tiny, cold=True)


def _absent(contestant: Contestant) -> str:
    missing = [name for name in contestant.packages if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else ""


def measure_all(wanted: Sequence[tuple[Contestant, Case, Cell]], record: Record) -> Runs:
    """Measure what the record does not have; return the wanted runs."""
    there: set[tuple[Case, str]] = set()
    absent: Runs = {}
    for contestant, case, cell in wanted:
        if record.is_done(cell) or _was_stopped(contestant, cell, record.runs):
            continue
        if said := _absent(contestant):
            # Not kept: it may be installed before the next time.
            absent[cell] = Lap(ended=said)
            continue
        _make(case, contestant.needs, there)
        limits = PEER_LIMITS if contestant.is_peer else Limits()
        task = {"step": contestant.step, "side": contestant.side, "case": asdict(case)}
        lap = run_apart(MODULE, task, limits=limits, cold=cell.cold)
        record.add(cell, lap)
        told = lap.ended or f"{lap.seconds:8.2f} s {lap.peak_bytes / MB:6.0f} MB"
        size = "x".join(map(str, case.shape))
        print(f"{size} {case.counts:g}  {cell.step:<24} {cell.side:<26} {told}", file=sys.stderr, flush=True)
    found = absent | record.runs
    return {cell: found[cell] for _, _, cell in wanted if cell in found}


def _was_stopped(contestant: Contestant, cell: Cell, runs: Runs) -> bool:
    """Whether a peer did not come to the end of its first run, as it would not in any other."""
    first = runs.get(replace(cell, number=0))
    return contestant.is_peer and cell.number > 0 and first is not None and bool(first.ended)


def _make(case: Case, needs: Sequence[str], there: set[tuple[Case, str]]) -> None:
    missing = [kind for kind in needs if (case, kind) not in there]
    if missing:
        made = run_apart(MODULE, {"make": missing, "case": asdict(case)})
        if made.ended:
            sys.exit(f"the rock could not be made: {made.ended}")
        there.update((case, kind) for kind in missing)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="where the rocks are, or will be")
    parser.add_argument(
        "--size", type=size_of, nargs="+", default=[SIZES["1/16"]], help=f"{', '.join(SIZES)}, or ROWSxCOLUMNS"
    )
    parser.add_argument("--steps", nargs="+", choices=STEPS, metavar="STEP", help=f"default: all of {', '.join(STEPS)}")
    peer_help = f"default: all of {', '.join(PEER_NAMES)}"
    parser.add_argument("--peers", nargs="+", choices=(NONE, *PEER_NAMES), metavar="PEER", help=peer_help)
    parser.add_argument("--channels", type=int, default=2048)
    parser.add_argument("--counts", type=float, nargs="+", default=[400.0], help="mean counts a pixel")
    parser.add_argument("--texture", choices=TEXTURES, default="grains")
    parser.add_argument("--memory", default="1GB", help="what our steps may take")
    parser.add_argument("--passes", type=int, default=3, help="runs of every step; their median counts")
    parser.add_argument("--cold", action="store_true", help="also first calls that compile, on a tiny map")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the runs; default: compare.json in the folder")
    given = parser.parse_args(arguments)

    given.data.mkdir(parents=True, exist_ok=True)
    folder = given.data.resolve()
    base = Case(str(folder), (0, 0, given.channels), 0.0, given.texture, given.memory)
    cases = [replace(base, counts=counts).at(*size) for counts in given.counts for size in given.size]
    contestants = chosen(given.steps, given.peers)
    record = Record(given.json or folder / "compare.json", RECIPE)
    with two_processors():
        runs = measure_all(list(plan(contestants, cases, passes=given.passes, cold=given.cold)), record)
        about = machine()
    used = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    print(
        f"{given.texture}, memory {given.memory}; median of {given.passes} (least-most); {about['processor']}, ", end=""
    )
    print(f"{about['processors used']} processors used, Python {about['python']}, {used}.\n")
    print(tables(runs, {key: one.settings for key, one in CONTESTANTS.items()}))
    if any(lap.ended.startswith(FAILED) for lap in runs.values()):
        sys.exit("some runs failed; the same command tries them again")


if __name__ == "__main__":
    main()
