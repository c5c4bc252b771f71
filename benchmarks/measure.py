"""Measure one side's step on one map, in a process of its own, or make what it reads.

    python -m benchmarks.measure '{"step": "pca", "side": "eds_chunked", "case": {"folder": "data", ...}}'

The process takes a tiny map through the step first, so that kernels are compiled and libraries loaded. What the step
reads must be there: ``{"make": ["store"], "case": ...}`` makes it, for the map and for the tiny one.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from time import perf_counter
from typing import Any

from benchmarks import rocks
from benchmarks.apart import Lap, timed
from benchmarks.contest import Contestant
from benchmarks.contestants import CONTESTANTS
from benchmarks.rocks import Case
from eds_chunked import memory


def measure(contestant: Contestant, case: Case) -> Lap:
    """Run a step on a tiny map, then once on the map of the case; judge the result when all is measured."""
    tiny = contestant.prepare(case.at(*rocks.TINY))
    start = perf_counter()
    tiny()
    first = perf_counter() - start
    del tiny
    lap, found = timed(contestant.prepare(case), n_pixels=case.pixels, first_seconds=first)
    return replace(lap, quality=contestant.judge(case, found))


def do(task: dict[str, Any]) -> Lap:
    """Measure, or make what is read."""
    case = Case(**task["case"] | {"shape": tuple(task["case"]["shape"])})
    if "make" in task:
        for one in (case.at(*rocks.TINY), case):
            rocks.make(one, task["make"])
        return Lap()
    return measure(CONTESTANTS[task["step"], task["side"]], case)


def main() -> None:
    """Do the task on the command line."""
    # As the command line does; it decides what fresh memory costs.
    memory.return_freed_memory_to_the_system()
    lap = do(json.loads(sys.argv[1]))
    print(json.dumps(asdict(lap)))


if __name__ == "__main__":
    main()
