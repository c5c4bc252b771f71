"""Random samples of the pixels, in memory, as a function of the map alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from eds_chunked.engine.blocks import Block, Lane
from eds_chunked.engine.pixel_hash import random_keys
from eds_chunked.kernels.reduce import channel_sums
from eds_chunked.kernels.sparse import Csr, concatenate, gather_pixels, take_pixels

Array = np.ndarray[Any, Any]

HELD_OUT_PIXELS = 16384
"""Most pixels that a fit leaves aside, to be judged by."""
_MOST_HELD_OUT = 0.1
_FEWEST_HELD_OUT = 100
"""A map that cannot spare so many is fitted whole: fewer would judge by chance."""
_COUNTS_TO_CLUSTER = 100
"""Counts by which pixels of different minerals can be told apart."""
_LARGEST_SIDE = 4
_SUMS = 2048
"""Sums that are made at once."""


@dataclass(frozen=True)
class Draw:
    """Which pixels are drawn for a sample and which are held out of a fit, each by a hash of its index.

    Never by lane, worker or chunk. The hash also is the order in which drawn pixels are seen, so a map in bands is
    shuffled across all of it. Where counts are few, squares of ``side`` x ``side`` neighbours are drawn together, so
    that they can be added up.
    """

    width: int
    seed: int
    share_drawn: float
    share_held_out: float
    side: int = 1

    @classmethod
    def of(cls, n_pixels: int, *, width: int, seed: int, fit_pixels: int, hold_out: bool, mean_counts: float) -> Draw:
        """Draw about ``fit_pixels`` of ``n_pixels``, and others to be held out: a tenth, of large maps less.

        ``mean_counts`` of a pixel decide how many neighbours are drawn together.
        """
        enough = hold_out and n_pixels * _MOST_HELD_OUT >= _FEWEST_HELD_OUT
        held_out = min(_MOST_HELD_OUT, HELD_OUT_PIXELS / n_pixels) if enough else 0.0
        return cls(width, seed, min(1 - held_out, fit_pixels / n_pixels), held_out, side_of(mean_counts))

    def keys(self, block: Block | Lane) -> Array:
        """Return 64 random bits for each pixel of a block or lane; the same for pixels that are drawn together."""
        rows = np.arange(block.ys.start, block.ys.stop, dtype=np.uint64) // np.uint64(self.side)
        columns = np.arange(block.xs.start, block.xs.stop, dtype=np.uint64) // np.uint64(self.side)
        return random_keys((rows[:, None] * np.uint64(self.width) + columns).ravel(), seed=self.seed)

    def drawn(self, keys: Array) -> Array:
        """Return the places of the pixels that are drawn."""
        if self.share_drawn >= 1:
            return np.arange(len(keys))
        return np.flatnonzero(keys < np.uint64(int(self.share_drawn * 2**64)))

    def held_out(self, keys: Array) -> Array:
        """Return for every pixel whether it is held out."""
        if not self.share_held_out:
            return np.zeros(len(keys), bool)
        return np.asarray(keys >= np.uint64(int((1 - self.share_held_out) * 2**64)))


def side_of(mean_counts: float) -> int:
    """Return the side of the squares of pixels that must be added up to be told apart, at most 4."""
    return int(np.clip(np.ceil(np.sqrt(_COUNTS_TO_CLUSTER / max(1.0, mean_counts))), 1, _LARGEST_SIDE))


class Sample(NamedTuple):
    """Counts of some pixels, in pieces, and the keys that say where they come in the shuffled order."""

    keys: tuple[Array, ...] = ()
    counts: tuple[Csr, ...] = ()

    def plus(self, other: Sample) -> Sample:
        return Sample(self.keys + other.keys, self.counts + other.counts)

    def shuffled(self) -> Csr:
        """Return the pixels in their shuffled order."""
        return gather_pixels(self.counts, np.argsort(np.concatenate(self.keys), kind="stable"))

    def summed(self, shuffled: Csr, most: int) -> Csr:
        """Return the sums of the pixels that were drawn together, the first ``most`` in the order of ``shuffled``."""
        keys = np.sort(np.concatenate(self.keys))
        edges = np.append(np.flatnonzero(np.diff(keys, prepend=~keys[:1])), len(keys))[: most + 1]
        return concatenate([_sums(shuffled, edges[i : i + _SUMS + 1]) for i in range(0, len(edges) - 1, _SUMS)])


def _sums(counts: Csr, edges: Array) -> Csr:
    """Return the sums of the pixels between edges, a row each; what is made in between is as small as the piece."""
    indptr = counts.indptr[edges[0] : edges[-1] + 1]
    span = slice(indptr[0], indptr[-1])
    pixels = sparse.csr_array(
        (counts.value[span].astype(np.float64), counts.channel[span].astype(np.int64), indptr - indptr[0]),
        shape=(len(indptr) - 1, counts.n_channels),
    )
    ones = np.ones(pixels.shape[0])
    adding = sparse.csr_array((ones, np.arange(len(ones)), edges - edges[0]), shape=(len(edges) - 1, len(ones)))
    sums = (adding @ pixels).tocsr()
    sums.sort_indices()
    dtype = np.uint32 if counts.value.dtype.kind == "u" else np.float64
    channel = sums.indices.astype(counts.channel.dtype)
    return Csr(sums.indptr.astype(np.int64), channel, sums.data.astype(dtype), counts.n_channels)


class SampleSums(NamedTuple):
    """Channel sums of all pixels, and the samples."""

    channel: Array
    drawn: Sample
    held_out: Sample


@dataclass(frozen=True)
class SampleWork:
    """Gathers the samples of a lane."""

    n_channels: int
    draw: Draw

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> SampleSums:
        total = np.zeros(self.n_channels)
        drawn, held_out = Sample(), Sample()
        for block in blocks:
            total += channel_sums(block.counts)
            keys = self.draw.keys(block)
            drawn = drawn.plus(_taken(block, keys, self.draw.drawn(keys)))
            held_out = held_out.plus(_taken(block, keys, np.flatnonzero(self.draw.held_out(keys))))
        return SampleSums(total, drawn, held_out)


def _taken(block: Block, keys: Array, places: Array) -> Sample:
    if block.used is not None:
        places = places[block.used[places]]  # What is left out is neither fitted nor judged by.
    return Sample((keys[places],), (take_pixels(block.counts, places),))


def join_samples(total: SampleSums, lane: SampleSums) -> SampleSums:
    """Put the samples of two lanes together."""
    return SampleSums(total.channel + lane.channel, total.drawn.plus(lane.drawn), total.held_out.plus(lane.held_out))
