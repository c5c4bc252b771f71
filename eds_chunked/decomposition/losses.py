"""What a factorisation minimises: least squares on scaled counts, or the Poisson likelihood of the counts as they are.

Factors (components, channels) and loadings (pixels, components) are in counts throughout: the weights of least squares
are part of the loss. A loss knows the best loadings of pixels for given factors, and how factors become better ones
from sums over the pixels, so a pass over the map needs to keep nothing of a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from eds_chunked.decomposition.scaling import nonzero_or_one
from eds_chunked.kernels.gram import add_back_projection, project, weighted_squares
from eds_chunked.kernels.likelihood import add_ratios, solve_poisson
from eds_chunked.kernels.nnls import solve_nonnegative
from eds_chunked.kernels.reduce import pixel_sums
from eds_chunked.kernels.sparse import Csr

Array = np.ndarray[Any, Any]

FROBENIUS, POISSON_LIKELIHOOD, MIXTURE = "frobenius", "poisson", "mixture"
LOSSES = (MIXTURE, POISSON_LIKELIHOOD, FROBENIUS)


class FactorSums(NamedTuple):
    """Sums over pixels from which factors are improved: additive, so lanes join by adding.

    ``by_component`` (components, components) or (components,), ``by_channel`` (channels, components). ``objective`` is
    what the factors leave unexplained, and what it is a share of.
    """

    by_component: Array
    by_channel: Array
    objective: Array

    def plus(self, other: FactorSums) -> FactorSums:
        return FactorSums(*(mine + its for mine, its in zip(self, other, strict=True)))


class Loss(Protocol):
    """A way to measure what factors leave unexplained."""

    def loadings(self, counts: Csr, factors: Array) -> Array:
        """Return the best loadings (pixels, components), non-negative."""

    def fit(self, counts: Csr, factors: Array) -> tuple[Array, Array]:
        """Return the best loadings, and of the block what is left unexplained and what it is a share of."""

    def sums(self, counts: Csr, factors: Array) -> FactorSums:
        """Sum over the pixels of a block, at their best loadings."""

    def improve(self, factors: Array, sums: FactorSums) -> Array:
        """Return factors that explain the summed pixels at least as well, with the same loadings."""


@dataclass(frozen=True)
class LeastSquares:
    """Sum of squares over ``a_i root_j^2``: of the Poisson-scaled counts, or with ``by_pixel`` false of plain rows.

    Loadings and factors are both solved exactly, in turn (alternating non-negative least squares; Paatero & Tapper
    1994, Environmetrics 5, 111). Given the loadings, channels do not meet, and the weight of a channel drops out.
    """

    root: Array
    by_pixel: bool

    def loadings(self, counts: Csr, factors: Array) -> Array:
        return solve_nonnegative(*self._normal_equations(counts, factors))

    def fit(self, counts: Csr, factors: Array) -> tuple[Array, Array]:
        gram, target = self._normal_equations(counts, factors)
        loadings = solve_nonnegative(gram, target)
        squares = weighted_squares(counts, 1 / self.root**2)
        residual = squares + np.sum(loadings * (loadings @ gram - 2 * target), axis=1)
        weight = self._pixel_weights(counts)
        return loadings, np.array([residual @ weight, squares @ weight])

    def sums(self, counts: Csr, factors: Array) -> FactorSums:
        loadings, objective = self.fit(counts, factors)
        weighted = loadings * self._pixel_weights(counts)[:, None]
        by_channel = np.zeros((counts.n_channels, len(factors)))
        add_back_projection(counts, weighted, by_channel)
        return FactorSums(loadings.T @ weighted, by_channel, objective)

    def improve(self, factors: Array, sums: FactorSums) -> Array:
        return solve_nonnegative(sums.by_component, sums.by_channel).T

    def _normal_equations(self, counts: Csr, factors: Array) -> tuple[Array, Array]:
        scaled = factors / self.root
        return scaled @ scaled.T, project(counts, (scaled / self.root).T)

    def _pixel_weights(self, counts: Csr) -> Array:
        return 1 / nonzero_or_one(pixel_sums(counts)) if self.by_pixel else np.ones(counts.n_pixels)


@dataclass(frozen=True)
class PoissonLikelihood:
    """Kullback-Leibler divergence of the counts from the model, which is minus the Poisson log-likelihood.

    Loadings are solved exactly; factors take one multiplicative step (Lee & Seung 2001), which never worsens them.
    """

    def loadings(self, counts: Csr, factors: Array) -> Array:
        return solve_poisson(counts, factors)

    def fit(self, counts: Csr, factors: Array) -> tuple[Array, Array]:
        loadings = self.loadings(counts, factors)
        return loadings, self._with_ratios(counts, factors, loadings)[1]

    def sums(self, counts: Csr, factors: Array) -> FactorSums:
        loadings = self.loadings(counts, factors)
        ratios, objective = self._with_ratios(counts, factors, loadings)
        return FactorSums(loadings.sum(axis=0), ratios, objective)

    def improve(self, factors: Array, sums: FactorSums) -> Array:
        return np.asarray(factors * sums.by_channel.T / nonzero_or_one(sums.by_component)[:, None])

    @staticmethod
    def _with_ratios(counts: Csr, factors: Array, loadings: Array) -> tuple[Array, Array]:
        ratios = np.zeros((counts.n_channels, len(factors)))
        divergence = add_ratios(counts, factors, loadings, ratios)
        return ratios, np.array([divergence.sum(), float(counts.value.sum(dtype=np.float64))])
