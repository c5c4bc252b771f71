"""The leading components of a PCA from a random start, in several passes and without a channels x channels matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import linalg
from threadpoolctl import threadpool_limits

from eds_chunked.decomposition.exact import PrincipalFit, principal_fit, variance_left
from eds_chunked.decomposition.krylov import MOST_PASSES, Space, Stop, settled
from eds_chunked.decomposition.leading_noise import UnitNoise, leading_noise_ratios
from eds_chunked.decomposition.noise_edge import CHANNEL_FLOOR, noise_edge
from eds_chunked.decomposition.product_pass import ChannelSums, ProductWork, join_products
from eds_chunked.decomposition.scaling import POISSON, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.lanes import run_pass
from eds_chunked.memory import Need, Plan

Array = np.ndarray[Any, Any]

_OVERSAMPLING = 10
_SEED = 0


RANDOMIZED_PASSES = (1, 2 * MOST_PASSES)
"""Passes of a fit at least, where the first one says all, and at most: for the components and for the noise rule."""


def block_width(n_channels: int, n_components: int) -> int:
    """Return the number of vectors that a pass multiplies."""
    return min(n_channels, n_components + _OVERSAMPLING)


def randomized_need(blocks: Blocks, n_components: int) -> Need:
    """Memory of the randomized solver: all vectors so far, what they became, copies of both, and a product a lane."""
    block = 8 * blocks.n_channels * block_width(blocks.n_channels, n_components)
    return Need("pca", 4 * MOST_PASSES * block, 2 * block + blocks.bytes_of_a_block)


def fit_randomized(
    blocks: Blocks, n_components: int, noise: str | None, how: Plan, *, centre: bool = False
) -> PrincipalFit:
    """Fit in as many passes as the components need to settle; see :func:`eds_chunked.pca`.

    Block Krylov iteration (Musco & Musco 2015): a pass multiplies the newest vectors by the Gram matrix G of the scaled
    counts, what comes out is made orthogonal to all vectors before and is the next block, and the components are the
    best that all vectors together hold (Rayleigh-Ritz). The same then for the noise rule, which scales in another way:
    what was gathered brings it there in two passes or three. The first pass is taken before the channel sums are known;
    its random vectors are those of the unscaled channels, and both sides are scaled afterwards.
    """
    poisson = noise == POISSON
    start = np.random.default_rng(_SEED).standard_normal(
        (blocks.n_channels, block_width(blocks.n_channels, n_components))
    )
    product, sums = run_pass(blocks, ProductWork(start, poisson, is_first=True), join_products, plan=how)
    assert sums is not None
    check_not_empty(sums.counts)
    root = np.sqrt(nonzero_or_one(sums.counts)) if poisson else np.ones(blocks.n_channels)
    mean = sums.rooted / (root * blocks.n_used) if centre else None
    total_variance = float(np.sum(sums.squares / root**2))
    if mean is not None:
        total_variance = variance_left(total_variance, total_variance - blocks.n_used * float(mean @ mean))

    def scaled(product: Array, vectors: Array) -> Array:
        image = product / root[:, None]
        return image if mean is None else image - np.outer(blocks.n_used * mean, mean @ vectors)

    def image_of(vectors: Array) -> Array:
        work = ProductWork(vectors / root[:, None], poisson)
        return scaled(run_pass(blocks, work, join_products, plan=how).product, vectors)

    # A dead channel has no part in any component.
    start = np.where(sums.counts > 0, root, 0.0)[:, None] * start
    has_edge = poisson and blocks.are_counts
    with threadpool_limits(1, user_api="blas"):
        stop = Stop(n_components, _NoiseEdge.of(sums, root).n_signal if has_edge else None)
        space = settled(Space.of(start, scaled(product, start)), image_of, stop, what="component", stacklevel=4)
        eigenvalues, vectors = space.components(n_components)
        ratios = None
        if has_edge and not centre:
            ratios = np.full(n_components, np.nan)
            unit = UnitNoise.of(sums)
            if len(unit.channels):
                start = unit.leading(space, root, start.shape[1])
                del space
                ratios = leading_noise_ratios(blocks, unit, start, n_components, how)
    return principal_fit(vectors, eigenvalues, total_variance, root, blocks.n_used, noise_ratio=ratios, mean=mean)


class _NoiseEdge(NamedTuple):
    """The noise rule of the exact solver, for the vectors of a space: how many components may be more than noise."""

    ratio: Array
    edge: float

    @classmethod
    def of(cls, sums: ChannelSums, root: Array) -> _NoiseEdge:
        n_channels = max(1, int(np.count_nonzero(sums.counts >= CHANNEL_FLOOR)))
        return cls(sums.weighted / root**2, noise_edge(max(1, sums.n_bright), n_channels))

    def n_signal(self, space: Space, _: Array, changes: Array) -> int:
        """Return how many components may be above the edge: estimates rise, by some times their last change at most."""
        unit = space.vectors.T @ (self.ratio[:, None] * space.vectors)
        values = linalg.eigh(space.projected, unit, eigvals_only=True, check_finite=False)[::-1][: len(changes)]
        above = np.flatnonzero(values * (1 + 3 * changes[: len(values)]) > self.edge)
        return int(above[-1]) + 1 if len(above) else 0
