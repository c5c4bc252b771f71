"""PCA by scikit-learn's IncrementalPCA, one batch of random pixels after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import IncrementalPCA

from eds_chunked.dask_cluster import on_one_worker
from eds_chunked.decomposition.channel_sums import sum_channels
from eds_chunked.decomposition.exact import PrincipalFit, principal_fit
from eds_chunked.decomposition.scaling import POISSON, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.shuffle import pool_bytes, shuffled_batches
from eds_chunked.kernels.reduce import pixel_sums
from eds_chunked.kernels.sparse import Csr, to_dense
from eds_chunked.memory import Need, Plan

Array = np.ndarray[Any, Any]


def batch_size(n_components: int) -> int:
    """Return the most pixels of a batch. Its SVD costs batch^2 x channels, so the pass costs batch x channels a pixel:

    as small as the estimate of the components allows (scikit-learn's own default is five times the components).
    """
    return max(5 * n_components, 100)


def incremental_need(blocks: Blocks, n_components: int, filled: float) -> Need:
    """Memory of the incremental solver: the pool of pixels, the batch and its copies inside the SVD, and the blocks.

    ``filled`` is the mean number of channels of a pixel that are not zero.
    """
    batch = 8 * (batch_size(n_components) + n_components + 1) * blocks.n_channels
    return Need("pca", pool_bytes(blocks, filled) + 8 * batch + blocks.bytes_of_a_block, 2 * blocks.bytes_of_a_block)


def fit_incremental(blocks: Blocks, n_components: int, noise: str | None, how: Plan) -> PrincipalFit:
    """Fit in one pass for the channel sums (Poisson scaling needs them first) and one for the batches.

    Tile by tile the components of a map in bands would be those of its last band.
    """
    sums = sum_channels(blocks, how=how)
    check_not_empty(sums)
    return on_one_worker(_fit, blocks, n_components, noise, sums, how)


def _fit(blocks: Blocks, n_components: int, noise: str | None, sums: Array, how: Plan) -> PrincipalFit:
    root = np.sqrt(nonzero_or_one(sums)) if noise == POISSON else np.ones(blocks.n_channels)
    estimator = IncrementalPCA(n_components=n_components)
    for batch in shuffled_batches(blocks, size=batch_size(n_components), seed=0, plan=how):
        # A first batch of dead pixels has no variance, and one pixel has no spread: scikit-learn's ratios are 0 / 0.
        with np.errstate(divide="ignore", invalid="ignore"):
            estimator.partial_fit(_scaled(batch.counts, root, noise), check_input=False)
    squares = estimator.singular_values_**2
    ratio = np.nan_to_num(estimator.explained_variance_ratio_)
    total = float(squares[0] / ratio[0]) if ratio[0] > 0 else 0.0
    return principal_fit(estimator.components_.T, squares, total, root, blocks.n_used, mean=estimator.mean_)


def _scaled(batch: Csr, root: Array, noise: str | None) -> Array:
    dense = to_dense(batch, np.float64)
    dense /= root
    if noise == POISSON:
        dense /= np.sqrt(nonzero_or_one(pixel_sums(batch)))[:, None]
    return dense
