"""A pass of the randomized PCA: vectors times the Gram matrix of the scaled counts, which is never made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import add
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.decomposition.gram_pass import PIXEL_FLOOR
from eds_chunked.decomposition.scaling import nonzero_or_one
from eds_chunked.engine.blocks import Block, Lane
from eds_chunked.kernels.gram import add_product
from eds_chunked.kernels.reduce import channel_sums, pixel_sums, weighted_channel_sums
from eds_chunked.kernels.sparse import take_pixels

Array = np.ndarray[Any, Any]


class ChannelSums(NamedTuple):
    """Sums over pixels of weight w, for each channel j.

    ``counts`` X_ij, ``rooted`` sqrt(w_i) X_ij, ``weighted`` w_i X_ij and ``squares`` w_i X_ij^2; of the pixels under
    the noise rule's floor alone ``faint_counts`` and ``faint_weighted``. ``n_bright`` counts the others.
    """

    counts: Array
    rooted: Array
    weighted: Array
    squares: Array
    faint_counts: Array
    faint_weighted: Array
    n_bright: int

    def plus(self, other: ChannelSums) -> ChannelSums:
        return ChannelSums(*map(add, self, other))


class ProductSums(NamedTuple):
    """Sums over pixels, additive, so that lanes join by adding: ``product`` is X' diag(w) X V."""

    product: Array
    channels: ChannelSums | None


@dataclass(frozen=True)
class ProductWork:
    """Multiplies vectors (channels, width) by the Gram matrix of a lane.

    Parameters
    ----------
    vectors
        In counts: what the channels are scaled by is in them.
    poisson
        Weigh every pixel by one over its counts.
    is_first
        Sum the channels besides.
    only_bright
        Leave out pixels under the floor of the noise rule.
    """

    vectors: Array
    poisson: bool
    is_first: bool = False
    only_bright: bool = False

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> ProductSums:
        product = np.zeros(self.vectors.shape)
        sums = np.zeros((6, len(self.vectors)))
        n_bright = 0
        for block in blocks:
            counts = block.counts
            total = pixel_sums(counts)
            bright = total >= PIXEL_FLOOR
            if self.only_bright and not bright.all():
                counts, total = take_pixels(counts, np.flatnonzero(bright)), total[bright]
            weight = 1.0 / nonzero_or_one(total) if self.poisson else np.ones(len(total))
            add_product(counts, weight, self.vectors, product)
            if self.is_first:
                dim = np.flatnonzero((total > 0) & ~bright)
                faint = take_pixels(counts, dim)
                squared = counts._replace(value=counts.value.astype(np.float64) ** 2)
                sums += (
                    channel_sums(counts),
                    weighted_channel_sums(counts, np.sqrt(weight)),
                    weighted_channel_sums(counts, weight),
                    weighted_channel_sums(squared, weight),
                    channel_sums(faint),
                    weighted_channel_sums(faint, weight[dim]),
                )
                n_bright += int(np.count_nonzero(bright))
        counted, rooted, weighted, squares, faint_counts, faint_weighted = sums
        channels = ChannelSums(counted, rooted, weighted, squares, faint_counts, faint_weighted, n_bright)
        return ProductSums(product, channels if self.is_first else None)


def join_products(total: ProductSums, lane: ProductSums) -> ProductSums:
    """Add the sums of two lanes."""
    both = None if total.channels is None or lane.channels is None else total.channels.plus(lane.channels)
    return ProductSums(total.product + lane.product, both)
