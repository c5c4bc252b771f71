"""The one pass of the exact PCA: the Gram matrix of the scaled counts, and what the noise rule needs beside it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import sparse

from eds_chunked.decomposition.scaling import nonzero_or_one
from eds_chunked.engine.blocks import Block, Lane
from eds_chunked.kernels.gram import add_gram
from eds_chunked.kernels.reduce import channel_sums, pixel_sums, weighted_channel_sums
from eds_chunked.kernels.sparse import take_pixels

Array = np.ndarray[Any, Any]

PIXEL_FLOOR = 3
"""Pixels of fewer counts are left out of the noise rule: their scaled noise has a long tail."""


class GramSums(NamedTuple):
    """Sums over pixels: additive, so lanes join by adding.

    ``gram`` is the upper triangle of X' diag(w) X, ``channel`` the counts of each channel, ``rooted`` sums
    sqrt(w_i) X_ij, of which the mean spectrum is made. Of the pixels under the floor ``faint`` is the same matrix
    (sparse, whole) and ``faint_channel`` the counts; ``weighted`` sums X_ij / a_i over the others.
    """

    gram: Array
    channel: Array
    rooted: Array
    faint: Any
    faint_channel: Array
    weighted: Array
    n_bright: int

    def plus(self, other: GramSums) -> GramSums:
        return GramSums(*(mine + its for mine, its in zip(self, other, strict=True)))


@dataclass(frozen=True)
class GramWork:
    """Sums the Gram matrix of a lane; with ``poisson`` every pixel is weighted by one over its counts."""

    n_channels: int
    poisson: bool

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> GramSums:
        gram = np.zeros((self.n_channels, self.n_channels))
        channel = np.zeros(self.n_channels)
        rooted = np.zeros(self.n_channels)
        faint: Any = sparse.csr_array((self.n_channels, self.n_channels))
        faint_channel = np.zeros(self.n_channels)
        weighted = np.zeros(self.n_channels)
        n_bright = 0
        for block in blocks:
            counts = block.counts
            total = pixel_sums(counts)
            weight = 1.0 / nonzero_or_one(total) if self.poisson else np.ones(len(total))
            add_gram(counts, weight, gram)
            channel += channel_sums(counts)
            rooted += weighted_channel_sums(counts, np.sqrt(weight))
            bright = total >= PIXEL_FLOOR
            n_bright += int(bright.sum())
            weighted += weighted_channel_sums(counts, np.where(bright, weight, 0.0))
            dim = np.flatnonzero((total > 0) & ~bright)
            if len(dim):
                rows = take_pixels(counts, dim)
                matrix = sparse.csr_array((rows.value.astype(float), rows.channel.astype(np.int64), rows.indptr),
                                          shape=(len(dim), self.n_channels))  # fmt: skip
                faint = faint + matrix.T @ sparse.diags_array(weight[dim]) @ matrix
                faint_channel += channel_sums(rows)
        return GramSums(gram, channel, rooted, faint, faint_channel, weighted, n_bright)


def join_gram(total: GramSums, lane: GramSums) -> GramSums:
    """Add the sums of two lanes."""
    return total.plus(lane)
