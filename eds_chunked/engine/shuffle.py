"""All pixels of a map in random batches, for estimators that learn from one batch after the other.

Such an estimator remembers what it saw last: fed tile by tile, a map whose phases lie in bands is learned one phase
after the other. A shuffle of all pixels would read a tile for every one of its pixels; so tiles are read in random
order, a pool of them is held, and the pixels of the pool are shuffled. What comes out follows from the map, the
selection and the seed alone: never from chunks, threads or memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.engine.blocks import Block, Blocks
from eds_chunked.engine.lanes import stream
from eds_chunked.engine.pixel_hash import random_keys
from eds_chunked.kernels.sparse import Csr, concatenate, gather_pixels, take_pixels
from eds_chunked.memory import Plan, Reads

Array = np.ndarray[Any, Any]

_CELLS = 4
"""The map is seen as so many by so many cells, and every pool has about one block of each."""
POOL_BLOCKS = _CELLS**2
_GOLDEN = (5**0.5 - 1) / 2


class Batch(NamedTuple):
    """Some pixels: their places in the selection, ``row * width + column``, and their counts."""

    place: Array
    counts: Csr

    def part(self, first: int, last: int) -> Batch:
        return Batch(self.place[first:last].copy(), take_pixels(self.counts, np.arange(first, last)))


def shuffled_batches(blocks: Blocks, *, size: int, seed: int, epoch: int = 0, plan: Plan) -> Iterator[Batch]:
    """Yield all analysed pixels once, in batches of random ones; the next blocks are read ahead in threads.

    Batches are equal to a pixel, and have at most ``size`` pixels and at least half of that: a short rest would be
    worth as much as a whole batch to an estimator, and too small for some. Another ``epoch`` is another order.
    """
    ends = _even(blocks.n_used, size)
    end, done = next(ends), 0
    waiting: list[Batch] = []
    for pool in _pools(blocks, seed=seed, epoch=epoch, plan=plan):
        first = 0
        while first < len(pool.place):
            last = min(len(pool.place), first + end - done)
            waiting.append(pool.part(first, last))
            first, done = last, done + last - first
            if done == end:
                yield _joined(waiting)
                waiting, end = [], next(ends, end)


def _joined(parts: list[Batch]) -> Batch:
    if len(parts) == 1:
        return parts[0]
    return Batch(np.concatenate([part.place for part in parts]), concatenate([part.counts for part in parts]))


def _even(total: int, most: int) -> Iterator[int]:
    """Yield where parts of at most ``most``, equal to one, of ``total`` end."""
    n_parts = -(-total // most)
    return (total * number // n_parts for number in range(1, n_parts + 1))


def _pools(blocks: Blocks, *, seed: int, epoch: int, plan: Plan) -> Iterator[Batch]:
    held: list[Block] = []
    order = block_order(blocks, seed=seed, epoch=epoch)
    ends = set(_even(len(order), POOL_BLOCKS))
    for number, block in enumerate(stream(blocks, plan=plan, order=order), start=1):
        held.append(block)
        if number in ends:
            # The blocks are let go before the pool is used.
            pool, held = _shuffled(blocks, held, seed=seed, epoch=epoch), []
            yield pool


def _shuffled(blocks: Blocks, held: list[Block], *, seed: int, epoch: int) -> Batch:
    width = blocks.shape[1]
    places = [_places(block.ys, block.xs, width) for block in held]
    used = [own if block.used is None else own[block.used] for own, block in zip(places, held, strict=True)]
    place = np.concatenate(used)
    order = np.argsort(random_keys(place, seed=seed, epoch=epoch), kind="stable")
    return Batch(place[order], gather_pixels([block.analysed_counts for block in held], order))


def block_order(blocks: Blocks, *, seed: int, epoch: int = 0) -> list[tuple[slice, slice]]:
    """Return where all blocks are, in the random order in which they are read.

    The map is cut into 4 x 4 cells, the blocks of each are shuffled, and cells take turns: so each pool holds a bit of
    everywhere, and its share of a phase in a band differs from the map's by a third of what it would at random.
    """
    height, width, _ = blocks.shape
    pieces = list(blocks.pieces(blocks.whole))
    rows, columns = np.array([ys.start for ys, _ in pieces]), np.array([xs.start for _, xs in pieces])
    cell = rows * _CELLS // height * _CELLS + columns * _CELLS // width
    keys = random_keys(rows * width + columns, seed=seed, epoch=epoch)
    turn = np.empty(len(pieces))
    for number in np.unique(cell):
        members = np.flatnonzero(cell == number)
        # Cells of unequal size begin at times spread by the golden ratio, so that their blocks do not come in bunches.
        begin = number * _GOLDEN % 1
        turn[members[np.argsort(keys[members])]] = (np.arange(len(members)) + begin) / len(members)
    return [pieces[index] for index in np.lexsort((keys, turn))]


def reads_of_batches(blocks: Blocks, epochs: int = 1) -> Reads:
    """Return what so many rounds of shuffled batches read."""
    return blocks.reads(epochs, lanes=[blocks.whole])


def _places(ys: slice, xs: slice, width: int) -> Array:
    return np.asarray((np.arange(ys.start, ys.stop)[:, None] * width + np.arange(xs.start, xs.stop)).ravel())


def pool_bytes(blocks: Blocks, filled: float) -> int:
    """Return the bytes of a pool and its shuffled copy, where ``filled`` channels of a pixel are not zero."""
    rows, columns, _ = blocks.source.tile
    n_pixels = min(blocks.n_used, POOL_BLOCKS * rows * columns)
    # A channel number, a value, and the place and key of the pixel.
    return int(2 * n_pixels * (filled * (2 + blocks.source.dtype.itemsize) + 32))
