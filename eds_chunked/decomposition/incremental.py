"""PCA by scikit-learn's IncrementalPCA, one batch of pixels after the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.decomposition import IncrementalPCA

from eds_chunked.decomposition.exact import PrincipalFit, fix_signs
from eds_chunked.decomposition.scaling import POISSON, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Block, Blocks, Lane
from eds_chunked.engine.lanes import run_pass, stream
from eds_chunked.kernels.reduce import channel_sums, pixel_sums
from eds_chunked.kernels.sparse import Csr, concatenate, take_pixels, to_dense
from eds_chunked.memory import Need, Plan

Array = np.ndarray[Any, Any]


def batch_size(n_components: int) -> int:
    """Return the pixels of a batch. Its SVD costs batch^2 x channels, so the pass costs batch x channels a pixel:

    as small as the estimate of the components allows (scikit-learn's own default is five times the components).
    """
    return max(5 * n_components, 100)


def incremental_need(blocks: Blocks, n_components: int) -> Need:
    """Memory of the incremental solver: the batch, its copies inside the SVD, and the blocks read ahead."""
    batch = 8 * (batch_size(n_components) + n_components + 1) * blocks.n_channels
    return Need("pca", 8 * batch + blocks.bytes_of_a_block, 2 * blocks.bytes_of_a_block)


@dataclass(frozen=True)
class ChannelSumsWork:
    """Sums the counts of each channel over a lane."""

    n_channels: int

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> Array:
        total = np.zeros(self.n_channels)
        for block in blocks:
            total += channel_sums(block.counts)
        return total


def fit_incremental(blocks: Blocks, n_components: int, noise: str | None, how: Plan) -> PrincipalFit:
    """Fit in one pass for the channel sums (Poisson scaling needs them first) and one for the batches."""
    sums = run_pass(blocks, ChannelSumsWork(blocks.n_channels), np.add, plan=how)
    check_not_empty(sums)
    root = np.sqrt(nonzero_or_one(sums)) if noise == POISSON else np.ones(blocks.n_channels)
    estimator = IncrementalPCA(n_components=n_components)
    for batch in batches(stream(blocks, plan=how), batch_size(n_components)):
        # A first batch of dead pixels has no variance, and one pixel has no spread: scikit-learn's ratios are 0 / 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            estimator.partial_fit(_scaled(batch, root, noise), check_input=False)
    vectors = fix_signs(estimator.components_.T, root)
    variance = estimator.singular_values_**2 / blocks.n_pixels
    return PrincipalFit(
        factors=(vectors * root[:, None]).T,
        projector=vectors / root[:, None],
        explained_variance=variance,
        explained_variance_ratio=np.nan_to_num(estimator.explained_variance_ratio_),
        eigenvalues=variance,
        noise_ratio=None,
    )


def _scaled(batch: Csr, root: Array, noise: str | None) -> Array:
    dense = to_dense(batch, np.float64)
    dense /= root
    if noise == POISSON:
        dense /= np.sqrt(nonzero_or_one(pixel_sums(batch)))[:, None]
    return dense


def batches(blocks: Iterator[Block], size: int) -> Iterator[Csr]:
    """Cut a stream of blocks into batches of ``size`` pixels; the last one has up to twice as many.

    A short rest would be worth as much as a whole batch to an incremental estimator, and too small for some.
    """
    waiting: list[Csr] = []
    n_waiting = 0
    for block in blocks:
        waiting.append(block.counts)
        n_waiting += block.counts.n_pixels
        if n_waiting < 2 * size:
            continue
        pixels = concatenate(waiting)
        first = 0
        while n_waiting - first >= 2 * size:
            yield take_pixels(pixels, np.arange(first, first + size))
            first += size
        waiting = [take_pixels(pixels, np.arange(first, n_waiting))]
        n_waiting -= first
    if waiting:
        yield concatenate(waiting)
