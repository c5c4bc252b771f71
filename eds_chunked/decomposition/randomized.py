"""The leading components of a PCA from a random start, in several passes and without a channels x channels matrix."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from operator import add
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg
from threadpoolctl import threadpool_limits

from eds_chunked.decomposition.exact import PrincipalFit, principal_fit, variance_left
from eds_chunked.decomposition.gram_pass import PIXEL_FLOOR
from eds_chunked.decomposition.noise_edge import CHANNEL_FLOOR, noise_edge
from eds_chunked.decomposition.scaling import POISSON, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Block, Blocks, Lane
from eds_chunked.engine.lanes import run_pass
from eds_chunked.kernels.gram import add_product
from eds_chunked.kernels.reduce import channel_sums, pixel_sums, weighted_channel_sums
from eds_chunked.memory import Need, Plan

Array = np.ndarray[Any, Any]

MOST_PASSES = 40

SIGNAL_CHANGE, NOISE_CHANGE = 4e-7, 5e-3
"""Change of an eigenvalue from one pass to the next at which it stands still, as a share of it.

The error shrinks to two thirds a pass or less, so what is left is at most twice the change: under 1e-6 and 2 %.
"""

_OVERSAMPLING = 10
_SEED = 0


class UnsettledComponentsWarning(UserWarning):
    """Components of a randomized PCA still moved when its passes were used up."""


def block_width(n_channels: int, n_components: int) -> int:
    """Return the number of vectors that a pass multiplies."""
    return min(n_channels, n_components + _OVERSAMPLING)


def randomized_need(blocks: Blocks, n_components: int) -> Need:
    """Memory of the randomized solver: all vectors so far, what they became, copies of both, and a product a lane."""
    block = 8 * blocks.n_channels * block_width(blocks.n_channels, n_components)
    return Need("pca", 4 * MOST_PASSES * block, 2 * block + blocks.bytes_of_a_block)


class ProductSums(NamedTuple):
    """Sums over pixels of weight w: additive, so lanes join by adding.

    ``product`` is X' diag(w) X V. The others, zero but in the first pass: ``channel`` sums X_ij, ``rooted``
    sqrt(w_i) X_ij, ``weighted`` w_i X_ij and ``squares`` w_i X_ij^2; ``n_bright`` counts pixels above the noise
    rule's floor.
    """

    product: Array
    channel: Array
    rooted: Array
    weighted: Array
    squares: Array
    n_bright: int

    def plus(self, other: ProductSums) -> ProductSums:
        return ProductSums(*map(add, self, other))


@dataclass(frozen=True)
class ProductWork:
    """Multiplies vectors (channels, width) by the Gram matrix of a lane, which is never made."""

    vectors: Array
    poisson: bool
    is_first: bool

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> ProductSums:
        product = np.zeros(self.vectors.shape)
        sums = np.zeros((4, len(self.vectors)))
        n_bright = 0
        for block in blocks:
            counts = block.counts
            total = pixel_sums(counts)
            weight = 1.0 / nonzero_or_one(total) if self.poisson else np.ones(len(total))
            add_product(counts, weight, self.vectors, product)
            if self.is_first:
                sums[0] += channel_sums(counts)
                sums[1] += weighted_channel_sums(counts, np.sqrt(weight))
                sums[2] += weighted_channel_sums(counts, weight)
                squared = counts._replace(value=counts.value.astype(np.float64) ** 2)
                sums[3] += weighted_channel_sums(squared, weight)
                n_bright += int(np.count_nonzero(total >= PIXEL_FLOOR))
        return ProductSums(product, sums[0], sums[1], sums[2], sums[3], n_bright)


def join_products(total: ProductSums, lane: ProductSums) -> ProductSums:
    """Add the sums of two lanes."""
    return total.plus(lane)


def fit_randomized(
    blocks: Blocks, n_components: int, noise: str | None, how: Plan, *, centre: bool = False
) -> PrincipalFit:
    """Fit in as many passes as the components need to settle; see :func:`eds_chunked.pca`.

    Block Krylov iteration (Musco & Musco 2015): a pass multiplies the newest vectors by the Gram matrix G of the scaled
    counts, what comes out is made orthogonal to all vectors before and is the next block, and the components are the
    best that all vectors together hold (Rayleigh-Ritz). The first pass is taken before the channel sums are known: its
    random vectors are those of the unscaled channels, and both sides are scaled afterwards.
    """
    poisson = noise == POISSON
    start = np.random.default_rng(_SEED).standard_normal(
        (blocks.n_channels, block_width(blocks.n_channels, n_components))
    )
    sums = run_pass(blocks, ProductWork(start, poisson, is_first=True), join_products, plan=how)
    check_not_empty(sums.channel)
    root = np.sqrt(nonzero_or_one(sums.channel)) if poisson else np.ones(blocks.n_channels)
    mean = sums.rooted / (root * blocks.n_used) if centre else None
    total_variance = float(np.sum(sums.squares / root**2))
    if mean is not None:
        total_variance = variance_left(total_variance, total_variance - blocks.n_used * float(mean @ mean))

    def scaled(product: Array, vectors: Array) -> Array:
        image = product / root[:, None]
        return image if mean is None else image - np.outer(blocks.n_used * mean, mean @ vectors)

    # A dead channel has no part in any component.
    start = np.where(sums.channel > 0, root, 0.0)[:, None] * start
    with threadpool_limits(1, user_api="blas"):
        space = _Space.of(start, scaled(sums.product, start))
        edge = _NoiseEdge.of(sums, root) if poisson and blocks.are_counts else None
        stop = _Stop(n_components, edge)
        for _ in range(MOST_PASSES - 1):
            if stop.reached(space):
                break
            newest = space.next_block()
            if newest.shape[1] == 0:
                break  # The vectors hold all that G has: the components are exact.
            work = ProductWork(newest / root[:, None], poisson, is_first=False)
            sums = run_pass(blocks, work, join_products, plan=how)
            space = space.grown(newest, scaled(sums.product, newest))
        else:
            if not stop.reached(space):
                warnings.warn(stop.complaint(), UnsettledComponentsWarning, stacklevel=3)
        eigenvalues, vectors = space.components(n_components)
    return principal_fit(vectors, eigenvalues, total_variance, root, blocks.n_used, mean=mean)


class _Space(NamedTuple):
    """Orthonormal vectors V (channels, any number), the last ``newest`` of them new, and their images G V."""

    vectors: Array
    images: Array
    newest: int

    @classmethod
    def of(cls, vectors: Array, images: Array) -> _Space:
        """Make vectors orthonormal, and their images those of the new ones; what depends on others is left out."""
        left, sizes, right = np.linalg.svd(vectors, full_matrices=False)
        kept = sizes > 1e-8 * sizes[0]
        return cls(left[:, kept], images @ (right[kept].T / sizes[kept]), int(np.count_nonzero(kept)))

    def grown(self, vectors: Array, images: Array) -> _Space:
        return _Space(np.hstack([self.vectors, vectors]), np.hstack([self.images, images]), vectors.shape[1])

    @property
    def projected(self) -> Array:
        """V' G V."""
        inner: Array = self.vectors.T @ self.images
        return (inner + inner.T) / 2

    def components(self, n_components: int) -> tuple[Array, Array]:
        """Return the leading eigenvalues, falling, and vectors; where the space is smaller, zeros and what fills up."""
        values, within = np.linalg.eigh(self.projected)
        vectors = self.vectors @ within[:, ::-1][:, :n_components]
        values = values[::-1][:n_components]
        missing = n_components - len(values)
        if missing > 0:
            spare, _ = linalg.qr(self.vectors)
            vectors = np.hstack([vectors, spare[:, self.vectors.shape[1] :][:, :missing]])
            values = np.concatenate([values, np.zeros(missing)])
        return values, vectors

    def next_block(self) -> Array:
        """Return an orthonormal basis of what the newest images have beyond the space."""
        beyond = self._beyond(self.images[:, -self.newest :])
        basis, triangle, _ = linalg.qr(beyond, mode="economic", pivoting=True)
        largest = float(np.abs(self.projected).max())
        kept = np.abs(np.diagonal(triangle)) > 1e-13 * largest
        room = len(beyond) - self.vectors.shape[1]
        # Of what was nearly nothing rounding has left a part in the space.
        return np.asarray(linalg.qr(self._beyond(basis[:, kept][:, :room]), mode="economic")[0])

    def _beyond(self, block: Array) -> Array:
        for _ in range(2):
            block = block - self.vectors @ (self.vectors.T @ block)
        return block


class _NoiseEdge(NamedTuple):
    """The noise rule of the exact solver, for the vectors of a space: how many components may be more than noise."""

    ratio: Array
    edge: float

    @classmethod
    def of(cls, sums: ProductSums, root: Array) -> _NoiseEdge:
        n_channels = max(1, int(np.count_nonzero(sums.channel >= CHANNEL_FLOOR)))
        return cls(sums.weighted / root**2, noise_edge(max(1, sums.n_bright), n_channels))

    def n_signal(self, space: _Space, changes: Array) -> int:
        """Return how many components may be above the edge: estimates rise, by some times their last change at most."""
        unit = space.vectors.T @ (self.ratio[:, None] * space.vectors)
        values = linalg.eigh(space.projected, unit, eigvals_only=True, check_finite=False)[::-1][: len(changes)]
        above = np.flatnonzero(values * (1 + 3 * changes[: len(values)]) > self.edge)
        return int(above[-1]) + 1 if len(above) else 0


class _Stop:
    """Tells when the eigenvalues stand still: those above the noise edge, all where there is none, and the others."""

    def __init__(self, n_components: int, edge: _NoiseEdge | None) -> None:
        self.n_components, self.edge = n_components, edge
        self.before = np.zeros(n_components)
        self.changes = np.full(n_components, np.inf)
        self.limits = np.full(n_components, SIGNAL_CHANGE)

    def reached(self, space: _Space) -> bool:
        values = np.zeros(self.n_components)
        found = np.linalg.eigvalsh(space.projected)[::-1][: self.n_components]
        values[: len(found)] = np.maximum(found, 0)
        # An eigenvalue that is nothing beside the first has nothing to settle.
        self.changes = np.abs(values - self.before) / np.maximum(values, 1e-12 * values[0] or 1.0)
        self.before = values
        if self.edge is not None:
            at = np.arange(self.n_components)
            self.limits = np.where(at < self.edge.n_signal(space, self.changes), SIGNAL_CHANGE, NOISE_CHANGE)
        return bool((self.changes <= self.limits).all())

    def complaint(self) -> str:
        worst = int(np.argmax(self.changes / self.limits))
        return (
            f"component {worst + 1} still moved by {self.changes[worst]:.1e} of its variance after {MOST_PASSES} "
            f"passes, expected {self.limits[worst]:.0e} at most; for an exact answer: solver='gram'"
        )
