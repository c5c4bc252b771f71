"""Spectra by the likelihood of a mixture: what fraction of a pixel is which phase is not fitted, but averaged over.

To fit every pixel's loadings beside the spectra is to fit as many numbers as there are data, and where counts are few
their noise does not average out: the spectra drift apart, however large the map. So a pixel is taken to be a draw from
a distribution of shares, on a grid of pure phases and of mixtures of them, that is fitted with the spectra. Then more
pixels do bring the truth nearer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np

from eds_chunked.decomposition.held_out import UNIFORM, Judgement
from eds_chunked.decomposition.sample import HELD_OUT_PIXELS
from eds_chunked.decomposition.scaling import nonzero_or_one
from eds_chunked.in_order import in_order
from eds_chunked.kernels.mixture import add_counts_by_spectrum, log_likelihoods
from eds_chunked.kernels.reduce import pixel_sums
from eds_chunked.kernels.sparse import Csr, take_pixels

Array = np.ndarray[Any, Any]

_STEPS_OF_ALL = 6
_STEPS_OF_TWO = (8, 4, 2)
"""Steps from one pure phase to another, on the grid of all mixtures, and where that is too large on that of two."""
_MOST_SPECTRA = 210
_UPDATES = 10
"""Updates of the spectra a pass: they cost next to nothing, as they see sums over the pixels only."""
_FIRST_ROUNDS, _ROUNDS = 50, 10
"""Rounds in which the weights settle before the spectra move, at the start and in each pass."""
_TINY = 1e-6
"""Share of a flat spectrum in each of the mixture, so that no count is impossible."""
_MOST_WORK = 1e9
"""Most values times spectra of a pass, and"""
_MOST_LIKELIHOODS = 4e6
"""most pixels times spectra: where they are many, so are the counts of fewer pixels."""
_PIECE = 8192


@dataclass(frozen=True)
class Mixture:
    """Spectra of phases (components, channels), each of which sums to one, and how often each mixture of them is met.

    References
    ----------
    Kiefer & Wolfowitz (1956), Annals of Mathematical Statistics 27, 887: with a free distribution of what belongs to
    one pixel alone, the likelihood finds the rest. Laird (1978), Journal of the American Statistical Association 73,
    805: the distribution, on a grid. Dempster, Laird & Rubin (1977), Journal of the Royal Statistical Society B 39, 1.
    """

    factors: Array
    weights: Array

    @classmethod
    def of(cls, factors: Array, counts: Csr, *, workers: int) -> Mixture:
        """Start from factors (components, channels), with the weights that suit some pixels best."""
        shares = mixing_shares(len(factors))
        pure = shares.max(axis=1) == 1
        weights = np.where(pure, 1 / pure.sum(), 1 / max(1, np.sum(~pure)))
        mixture = cls(factors / nonzero_or_one(factors.sum(axis=1))[:, None], weights / weights.sum())
        likelihoods = [one for one, _ in mixture._likelihoods(counts, _TINY, workers)]
        return cls(mixture.factors, _settled(mixture.weights, likelihoods, _FIRST_ROUNDS))

    def improved(self, counts: Csr, *, workers: int) -> tuple[Mixture, float]:
        """Return a mixture of at least the likelihood, and what this one leaves unexplained: divergence a count."""
        found = self._likelihoods(counts, _TINY, workers)
        likelihoods = [one for one, _ in found]
        log_likelihood = sum(float((np.log(one @ self.weights) + largest).sum()) for one, largest in found)
        weights = _settled(self.weights, likelihoods, _ROUNDS)

        def by_channel(first: int) -> Array:
            its = likelihoods[first // _PIECE] * weights
            its /= its.sum(axis=1, keepdims=True)
            sums = np.zeros((counts.n_channels, len(weights)))
            add_counts_by_spectrum(_piece(counts, first), its, sums)
            return sums

        sums = reduce(np.add, in_order(by_channel, _pieces(counts), workers=workers))
        shares = mixing_shares(len(self.factors))
        factors = self.factors
        for _ in range(_UPDATES):
            factors = factors * (shares.T @ (sums / nonzero_or_one((shares @ factors).T)).T)
            factors /= nonzero_or_one(factors.sum(axis=1))[:, None]
        divergence = float(_entropy(counts).sum()) - log_likelihood
        return Mixture(factors, weights), divergence / max(1.0, float(counts.value.sum(dtype=np.float64)))

    def judge(self, counts: Csr, *, workers: int) -> Judgement:
        """Return how far the counts of pixels that were held out are from what the mixture foretells."""
        found = self._likelihoods(counts, UNIFORM, workers)
        foretold = np.concatenate([np.log(one @ self.weights) + largest for one, largest in found])
        return Judgement(_entropy(counts) - foretold, max(1.0, float(counts.value.sum(dtype=np.float64))))

    def _likelihoods(self, counts: Csr, flat: float, workers: int) -> list[tuple[Array, Array]]:
        """Return for each piece the likelihoods (pixels, spectra) over the largest of a pixel, and its logarithm."""
        spectra = mixing_shares(len(self.factors)) @ self.factors
        logs = np.log((1 - flat) * spectra + flat / spectra.shape[1]).T

        def of(first: int) -> tuple[Array, Array]:
            likelihood = log_likelihoods(_piece(counts, first), logs)
            largest = likelihood.max(axis=1)
            return np.exp(likelihood - largest[:, None]), largest

        return list(in_order(of, _pieces(counts), workers=workers))


def _settled(weights: Array, likelihoods: list[Array], rounds: int) -> Array:
    """Return weights of more likelihood, the spectra unmoved."""
    for _ in range(rounds):
        met = sum(one.T @ (1 / (one @ weights)) for one in likelihoods) * weights
        weights = met / met.sum()
    return weights


def mixing_shares(n_components: int) -> Array:
    """Return the shares of the components in each spectrum of a mixture, (spectra, components), pure ones first.

    Of few components all combinations by sixths; of more, those of two, in steps as fine as keeps the spectra few.
    """
    pure = np.eye(n_components)
    if math.comb(_STEPS_OF_ALL + n_components - 1, _STEPS_OF_ALL) <= _MOST_SPECTRA:
        parts = combinations_with_replacement(range(n_components), _STEPS_OF_ALL)
        shares = np.array([np.bincount(one, minlength=n_components) for one in parts]) / _STEPS_OF_ALL
        return np.concatenate([pure, shares[shares.max(axis=1) < 1]])
    pairs = list(combinations(range(n_components), 2))
    fits = (steps for steps in _STEPS_OF_TWO if n_components + (steps - 1) * len(pairs) <= _MOST_SPECTRA)
    steps = next(fits, _STEPS_OF_TWO[-1])
    mixed = [
        first / steps * pure[one] + (1 - first / steps) * pure[other]
        for one, other in pairs
        for first in range(1, steps)
    ]
    return np.concatenate([pure, mixed])


def pixels_of_a_mixture(counts: Csr, n_components: int) -> int:
    """Return how many pixels of a sample a mixture is fitted to: all, unless that is too much work or memory."""
    n_spectra = len(mixing_shares(n_components))
    values_a_pixel = max(1.0, len(counts.value) / max(1, counts.n_pixels))
    return int(min(counts.n_pixels, _MOST_LIKELIHOODS / n_spectra, _MOST_WORK / (n_spectra * values_a_pixel)))


def bytes_of_a_mixture(n_components: int, n_channels: int) -> tuple[int, int]:
    """Return the memory of a fit and of judging it: of all workers together, and of each."""
    n_spectra = len(mixing_shares(n_components))
    return 8 * (int(_MOST_LIKELIHOODS) + HELD_OUT_PIXELS * n_spectra), 8 * n_spectra * (2 * _PIECE + 2 * n_channels)


def _pieces(counts: Csr) -> range:
    return range(0, counts.n_pixels, _PIECE)


def _piece(counts: Csr, first: int) -> Csr:
    return take_pixels(counts, np.arange(first, min(first + _PIECE, counts.n_pixels)))


def _entropy(counts: Csr) -> Array:
    """Return sum_j x_j log(x_j / N) of each pixel: the likelihood of a spectrum that is its own."""
    value = counts.value.astype(np.float64)
    before = np.concatenate([[0.0], np.cumsum(value * np.log(value))])
    total = np.asarray(pixel_sums(counts), np.float64)
    return np.asarray(np.diff(before[counts.indptr]) - total * np.log(nonzero_or_one(total)))
