"""Passes over the counts.

A lane is one task that works through its blocks one after the other and gives one result. Which pixels form a lane
follows from the map alone, and lanes are joined in a fixed order: floating-point sums come out the same for any number
of threads or workers. At most as many lanes run at once as the memory budget allows. With an active
``distributed.Client`` the lanes run on its workers, which read and write the stores themselves: what travels is the
work, once to each worker, the place of each lane, and results on their way to be joined.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar
from uuid import uuid4

import dask
import zarr

from eds_chunked import memory, progress
from eds_chunked.dask_cluster import Slots, active_client, result_of
from eds_chunked.engine.blocks import Block, Blocks, Lane
from eds_chunked.engine.scheduling import threads, zarr_limits
from eds_chunked.in_order import one_openmp_thread, one_thread_each
from eds_chunked.memory import Plan

T = TypeVar("T")
Work = Callable[..., T]

_GROUP = 16
"""Lanes that are joined one after the other; then so are the groups. Joining all in one row would have one worker of a
cluster add up all results, while the others wait for it."""

_tickers: dict[int, Callable[[int], None]] = {}
_ticker_ids = count()
_slots = Slots()


def run_pass(
    blocks: Blocks,
    work: Work[T],
    join: Callable[[T, T], T],
    *,
    plan: Plan,
    lanes: Sequence[Lane] | None = None,
    maps: Callable[[Lane], Any] | None = None,
    finish: Callable[[T], Any] | None = None,
) -> Any:
    """Read every block once: ``work`` turns the blocks of a lane into a result, ``join`` adds two results.

    Parameters
    ----------
    blocks
        What is read.
    work
        Called with a lane and its blocks, and with what ``maps`` gives for the lane where that is given. On a cluster
        it is sent to every worker once: maps of all pixels have no place in it.
    join
        Must return a new object: a cluster may run it again after a worker is lost.
    plan
        How many lanes may be in work at once.
    lanes
        Another way to cut the selection than into squares.
    maps
        The piece of a map that a lane needs, lazy or in memory.
    finish
        What to make of the sum of all lanes where that is large: it is called where the sum is, so that on a cluster
        only its answer comes to the client.

    Returns
    -------
    The sum of all lanes, or what ``finish`` makes of it.
    """
    lanes = blocks.lanes() if lanes is None else lanes
    client = active_client()
    with (
        progress.step(plan.need.what, blocks.n_pixels) as done,
        zarr.config.set(zarr_limits(plan.workers)),
        one_thread_each(),
    ):
        if client is None:
            run = _Run(next(_ticker_ids), plan.workers)
            _tickers[run.ticker] = done
            try:
                (answer,) = dask.compute(_graph(blocks, work, join, lanes, maps, finish, run), **threads(plan.workers))
            finally:
                del _tickers[run.ticker]
            return answer
        run = _Run(-1, plan.workers, f"eds_chunked-{uuid4().hex}")
        client.subscribe_topic(run.topic, lambda event: done(event[1]))
        try:
            future = client.compute(_graph(blocks, work, join, lanes, maps, finish, run))
            return result_of(client, future, what=plan.need.what)
        finally:
            if client.status == "running":
                client.unsubscribe_topic(run.topic)


@dataclass(frozen=True)
class _Run:
    """What a lane knows of its pass: where to tell its progress, and how many lanes may be in work in a process."""

    ticker: int
    at_once: int
    topic: str | None = None


def _graph(
    blocks: Blocks,
    work: Work[T],
    join: Callable[[T, T], T],
    lanes: Sequence[Lane],
    maps: Callable[[Lane], Any] | None,
    finish: Callable[[T], Any] | None,
    run: _Run,
) -> Any:
    """Return the pass as a dask object: a task for the work, one for each lane, and one for each join."""
    delayed: Any = dask.delayed
    shared = delayed(_Held(work), pure=False, traverse=False)
    join_task = delayed(join, pure=False, traverse=False)
    results = []
    for lane in lanes:
        task = _LaneTask(blocks.of_lane(lane), lane, () if maps is None else (maps(lane),), run)
        results.append(delayed(task, pure=False, traverse=False)(shared))
    while len(results) > 1:
        results = [_in_a_row(results[first : first + _GROUP], join_task) for first in range(0, len(results), _GROUP)]
    return results[0] if finish is None else delayed(finish, pure=False, traverse=False)(results[0])


def _in_a_row(results: Sequence[Any], join_task: Any) -> Any:
    total = results[0]
    for result in results[1:]:
        total = join_task(total, result)
    return total


class _Held:
    """Work, as an object that dask does not look into."""

    def __init__(self, work: Work[Any]) -> None:
        self.work = work


class _LaneTask:
    """One lane, as an object that dask does not look into: it would compute the lazy maps in it, whole."""

    def __init__(self, blocks: Blocks, lane: Lane, maps: tuple[Any, ...], run: _Run) -> None:
        self._blocks, self._lane, self._maps, self._run = blocks, lane, maps, run

    def __call__(self, held: _Held) -> Any:
        run = self._run
        on_a_worker = run.topic is not None
        if on_a_worker:
            memory.return_freed_memory_to_the_system()
            zarr.config.set(zarr_limits(run.at_once))
        with _slots.one_of(run.at_once) if on_a_worker else nullcontext(), one_openmp_thread():
            result = held.work(self._lane, self._counted(), *self._maps)
        if run.topic is not None:
            _tell(run.topic, self._lane)
        return result

    def _counted(self) -> Iterator[Block]:
        # On a worker of a cluster there is no bar to move.
        done: Callable[[int], None] = _tickers.get(self._run.ticker, lambda n_pixels: None)
        for block in self._blocks.read(self._lane):
            yield block
            done(block.counts.n_pixels)


def _tell(topic: str, lane: Lane) -> None:
    from distributed import get_worker

    get_worker().log_event(topic, lane.shape[0] * lane.shape[1])


def stream(blocks: Blocks, *, plan: Plan, order: Sequence[tuple[slice, slice]] | None = None) -> Iterator[Block]:
    """Yield every block once, for estimators that learn from one batch after the other.

    ``order`` says where the blocks are; by default lane by lane. The next ones are read ahead in threads while the
    caller works on this one.
    """
    places = order or [place for lane in blocks.lanes() for place in blocks.pieces(lane)]
    with (
        progress.step(plan.need.what, blocks.n_pixels) as done,
        zarr.config.set(zarr_limits(plan.workers)),
        ThreadPoolExecutor(plan.workers) as pool,
    ):
        ahead: deque[Future[Block]] = deque()
        for ys, xs in places:
            ahead.append(pool.submit(blocks.load, ys, xs))
            if len(ahead) > plan.workers:
                block = ahead.popleft().result()
                yield block
                done(block.counts.n_pixels)
        while ahead:
            block = ahead.popleft().result()
            yield block
            done(block.counts.n_pixels)
