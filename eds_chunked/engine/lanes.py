"""Passes over the counts.

A lane is one task that works through its blocks one after the other and gives one result. Which pixels form a lane
follows from the map alone, and lanes are joined in a fixed order: floating-point sums come out the same for any number
of threads or workers. At most as many lanes run at once as the memory budget allows. With an active
``distributed.Client`` the lanes run on its workers, which read and write the stores themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import count
from typing import Any, Protocol, TypeVar, runtime_checkable

import dask
import zarr

from eds_chunked import progress
from eds_chunked.engine.blocks import Block, Blocks, Lane
from eds_chunked.engine.scheduling import scheduler, zarr_limits
from eds_chunked.memory import Plan

T = TypeVar("T")
Work = Callable[[Lane, Iterator[Block]], T]

_tickers: dict[int, Callable[[int], None]] = {}
_ticker_ids = count()


@runtime_checkable
class OfLane(Protocol):
    """Work that knows maps, of which a task needs the pixels of its lane."""

    def of_lane(self, lane: Lane) -> Any:
        """Return the work of one lane."""
        ...


def run_pass(
    blocks: Blocks,
    work: Work[T],
    join: Callable[[T, T], T],
    *,
    plan: Plan,
    lanes: Sequence[Lane] | None = None,
) -> T:
    """Read every block once: ``work`` turns the blocks of a lane into a result, ``join`` adds two results.

    ``join`` must return a new object: a cluster may run it again after a worker is lost. ``lanes`` cut the selection in
    another way than into squares.
    """
    lanes = blocks.lanes() if lanes is None else lanes
    ticker = next(_ticker_ids)
    delayed: Any = dask.delayed
    join_task = delayed(join, pure=False, traverse=False)
    with progress.step(plan.need.what, blocks.n_pixels) as done, zarr.config.set(zarr_limits(plan.workers)):
        _tickers[ticker] = done
        try:
            total = None
            for lane in lanes:
                own = work.of_lane(lane) if isinstance(work, OfLane) else work
                result = delayed(_LaneTask(blocks.of_lane(lane), lane, own, ticker), pure=False, traverse=False)()
                total = result if total is None else join_task(total, result)
            (answer,) = dask.compute(total, **scheduler(plan.workers))
        finally:
            del _tickers[ticker]
    result_of_pass: T = answer
    return result_of_pass


class _LaneTask:
    """One lane, as an object that dask does not look into: it would compute the lazy maps of the work, whole."""

    def __init__(self, blocks: Blocks, lane: Lane, work: Work[Any], ticker: int) -> None:
        self._blocks, self._lane, self._work, self._ticker = blocks, lane, work, ticker

    def __call__(self) -> Any:
        return self._work(self._lane, _counted(self._blocks.read(self._lane), self._ticker))


def _counted(blocks: Iterator[Block], ticker: int) -> Iterator[Block]:
    # On a worker of a cluster there is no bar to move.
    done: Callable[[int], None] = _tickers.get(ticker, lambda n_pixels: None)
    for block in blocks:
        yield block
        done(block.counts.n_pixels)


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
