"""The noise rule without the whole Gram matrix: its leading eigenvalues, in two or three passes."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from eds_chunked.decomposition.krylov import Space, Stop, settled
from eds_chunked.decomposition.noise_edge import kept_channels, noise_edge
from eds_chunked.decomposition.product_pass import ChannelSums, ProductWork, join_products
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.lanes import run_pass
from eds_chunked.memory import Plan

Array = np.ndarray[Any, Any]

RATIO_CHANGE = 1e-4
"""Change of a ratio above the edge at which it stands still: advice is given with three digits."""


class UnitNoise(NamedTuple):
    """The scaling that makes the noise of every channel 1: ``channels`` are looked at, and divided by ``root``."""

    channels: Array
    root: Array
    edge: float

    @classmethod
    def of(cls, sums: ChannelSums) -> UnitNoise:
        """Make it from the sums of the first pass; without channels if there are too few counts to tell."""
        counts, weighted = sums.counts - sums.faint_counts, sums.weighted - sums.faint_weighted
        channels = kept_channels(counts, weighted, sums.n_bright)
        edge = noise_edge(sums.n_bright, len(channels)) if len(channels) else np.inf
        return cls(channels, np.sqrt(weighted[channels])[:, None], edge)

    def leading(self, space: Space, root: Array, width: int) -> Array:
        """Return the first ``width`` vectors to look at, out of a space of counts that are divided by ``root``."""
        vectors = (space.vectors / root[:, None])[self.channels] * self.root
        left, sizes, right = np.linalg.svd(vectors, full_matrices=False)
        kept = sizes > 1e-8 * sizes[0]
        mixing = right[kept].T / sizes[kept]
        _, within = np.linalg.eigh(mixing.T @ space.projected @ mixing)
        return np.asarray(left[:, kept] @ within[:, ::-1][:, :width])


def leading_noise_ratios(blocks: Blocks, unit: UnitNoise, start: Array, n_components: int, how: Plan) -> Array:
    """Return the leading eigenvalues of the noise rule over its edge (n_components,), NaN where it has fewer.

    The rule is that of the exact solver, with the same floors: eigenvalues of the counts scaled so that the noise of
    every channel is 1 (:func:`eds_chunked.decomposition.noise_edge.unit_noise`). They are not those of the PCA, but the
    vectors that its iteration has gathered are nearly those that are wanted: from ``start``, the best of them, values
    above the edge are right to 1e-4, and the others to 2 %, in two passes or three.
    """
    ratios = np.full(n_components, np.nan)

    def image_of(vectors: Array) -> Array:
        of_counts = np.zeros((blocks.n_channels, vectors.shape[1]))
        of_counts[unit.channels] = vectors / unit.root
        work = ProductWork(of_counts, poisson=True, only_bright=True)
        product: Array = run_pass(blocks, work, join_products, plan=how).product
        return product[unit.channels] / unit.root

    def n_signal(_: Space, values: Array, changes: Array) -> int:
        # Estimates rise, by some times their last change at most.
        return int(np.count_nonzero(values * (1 + 3 * changes) > unit.edge))

    n_values = min(n_components, len(unit.channels))
    stop = Stop(n_values, n_signal, signal_change=RATIO_CHANGE)
    settled(Space.of(start, image_of(start)), image_of, stop, what="noise ratio", stacklevel=5)
    ratios[:n_values] = stop.values / unit.edge
    return ratios
