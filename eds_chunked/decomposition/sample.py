"""A random sample of the pixels, in memory, as a function of the map alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.engine.blocks import Block, Lane
from eds_chunked.kernels.reduce import channel_sums
from eds_chunked.kernels.sparse import Csr, gather_pixels, take_pixels

Array = np.ndarray[Any, Any]


class SampleSums(NamedTuple):
    """Channel sums of all pixels, and of the drawn ones the counts and where they come in the shuffled order."""

    channel: Array
    order: tuple[Array, ...]
    counts: tuple[Csr, ...]

    def shuffled(self) -> Csr:
        """Return the drawn pixels in their shuffled order."""
        return gather_pixels(self.counts, np.argsort(np.concatenate(self.order), kind="stable"))


@dataclass(frozen=True)
class SampleWork:
    """Draws about ``size`` of ``n_pixels`` pixels, each by a hash of its index: never by lane, worker or chunk.

    The hash also is the order in which the pixels will be seen, so a map in bands is shuffled across all of it.
    """

    n_channels: int
    n_pixels: int
    width: int
    size: int
    seed: int

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> SampleSums:
        total = np.zeros(self.n_channels)
        order, drawn = [], []
        for block in blocks:
            total += channel_sums(block.counts)
            rows = np.arange(block.ys.start, block.ys.stop, dtype=np.uint64)
            columns = np.arange(block.xs.start, block.xs.stop, dtype=np.uint64)
            keys = _hash((rows[:, None] * np.uint64(self.width) + columns).ravel(), self.seed)
            taken = np.flatnonzero(keys < self._limit) if self.size < self.n_pixels else np.arange(len(keys))
            order.append(keys[taken])
            drawn.append(take_pixels(block.counts, taken))
        return SampleSums(total, tuple(order), tuple(drawn))

    @property
    def _limit(self) -> np.uint64:
        return np.uint64(int(self.size / self.n_pixels * 2**64))


def join_samples(total: SampleSums, lane: SampleSums) -> SampleSums:
    """Put the samples of two lanes together."""
    return SampleSums(total.channel + lane.channel, total.order + lane.order, total.counts + lane.counts)


def _hash(index: Array, seed: int) -> Array:
    """splitmix64 (Steele, Lea & Flood 2014) of pixel indices: 64 random bits each, all different."""
    with np.errstate(over="ignore"):
        z = index * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed + 1) * np.uint64(0xD1B54A32D192ED03)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
