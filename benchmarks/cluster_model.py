"""A model of a pass on a cluster: lanes on workers, results on their way to be joined, a scheduler that takes its time.

A worker does one lane after the other. A join runs where its first part is, and the other part is sent there; what
comes to a worker comes one after the other, beside its work, as dask does it. Every task costs the scheduler, which is
one thread, a fixed time. What a lane and a join take, and how large a result is, is measured on this machine
(:mod:`benchmarks.scaling`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

GROUP = 16
"""Lanes of a group, as :mod:`eds_chunked.engine.lanes` has them."""


@dataclass(frozen=True)
class Pass:
    """What one pass over the counts is made of: seconds of a lane, of a join and of the end, bytes of a result."""

    n_lanes: int
    lane: float
    join: float
    finish: float
    result_bytes: float


@dataclass(frozen=True)
class Machines:
    """Workers, bytes a second between two of them, and what the scheduler takes for a task."""

    workers: int
    bandwidth: float
    per_task: float


@dataclass(frozen=True)
class Outcome:
    """How long a pass takes, how busy the scheduler and the workers are with it, and what travels."""

    seconds: float
    n_tasks: int
    scheduler_share: float
    worker_share: float
    bytes_sent: float


def simulate(work: Pass, machines: Machines) -> Outcome:
    """Go through a pass event by event."""
    free = [(0.0, number) for number in range(machines.workers)]
    heapq.heapify(free)
    busy = scheduler = sent = 0.0
    done: list[tuple[float, int]] = []
    for _ in range(work.n_lanes):
        at, worker = heapq.heappop(free)
        scheduler += machines.per_task
        begin = max(at, scheduler)
        done.append((begin + work.lane, worker))
        busy += work.lane
        heapq.heappush(free, (begin + work.lane, worker))
    n_tasks = work.n_lanes + 1
    transfer = work.result_bytes / machines.bandwidth
    arriving = dict.fromkeys(range(machines.workers), 0.0)
    level = done
    while len(level) > 1:
        joined = []
        for first in range(0, len(level), GROUP):
            ready, worker = level[first]
            for other, its_worker in level[first + 1 : first + GROUP]:
                if its_worker != worker:
                    sent += work.result_bytes
                    other = arriving[worker] = max(other, arriving[worker]) + transfer
                ready = max(ready, other) + work.join
                busy += work.join
                n_tasks += 1
            joined.append((ready, worker))
        level = joined
    seconds = max(level[0][0] + work.finish, n_tasks * machines.per_task)
    return Outcome(
        seconds=seconds,
        n_tasks=n_tasks,
        scheduler_share=n_tasks * machines.per_task / seconds,
        worker_share=busy / (machines.workers * seconds),
        bytes_sent=sent,
    )
