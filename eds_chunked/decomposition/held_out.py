"""Counts that a factorisation never sees, to tell when it begins to learn the noise.

Run to convergence, a factorisation drifts away from the true spectra, and its own objective goes on falling. What gets
worse then is how well it foretells counts that it was not fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.decomposition.losses import Loss
from eds_chunked.kernels.likelihood import add_ratios
from eds_chunked.kernels.sparse import Csr

Array = np.ndarray[Any, Any]

_SEEN = 0.9
"""Share of the counts of a pixel that its loadings are found from: most, since the factors are meant for pixels with
all their counts. Noisier loadings foretell better from spectra that are too much alike."""
_UNSEEN_TO_SEEN = (1 - _SEEN) / _SEEN
UNIFORM = 1e-3
"""Share of a flat spectrum that is mixed to the factors when they are judged: a count where they have none is unlikely,
not impossible."""


class Judgement(NamedTuple):
    """Kullback-Leibler divergence of each pixel that was held out, and the counts of all of them."""

    of_pixels: Array
    n_counts: float

    @property
    def divergence(self) -> float:
        """Divergence a count."""
        return float(self.of_pixels.sum()) / self.n_counts

    def is_worse_than(self, other: Judgement) -> bool:
        """Tell whether these factors foretell worse than others did, beyond what the choice of pixels may make it.

        Where two are about as good, the one that was fitted longer is nearer to the truth: loadings found from noisy
        counts foretell best with spectra that are a little too much alike.
        """
        difference = self.of_pixels - other.of_pixels
        uncertainty = np.sqrt(np.sum((difference - difference.mean()) ** 2))
        return bool(difference.sum() > uncertainty)


@dataclass(frozen=True)
class HeldOut:
    """Pixels left out of the fit, their counts thinned in two parts: one to find the loadings, one to judge them."""

    seen: Csr
    unseen: Csr
    loss: Loss

    def judge(self, factors: Array) -> Judgement:
        """Return how far the unseen part is from the model of the seen one."""
        loadings = self.loss.loadings(self.seen, factors)
        flat = factors.sum(axis=1, keepdims=True) / factors.shape[1]
        mixed = (1 - UNIFORM) * factors + UNIFORM * flat
        ratios = np.zeros((factors.shape[1], len(factors)))
        return Judgement(add_ratios(self.unseen, mixed, loadings * _UNSEEN_TO_SEEN, ratios), self.n_counts)

    @property
    def n_counts(self) -> float:
        return max(1.0, float(self.unseen.value.sum(dtype=np.float64)))


def hold_out(counts: Csr, loss: Loss, *, seed: int) -> HeldOut:
    """Thin the counts of pixels: each count goes to one part or the other, at random.

    The parts of a Poisson number are independent Poisson numbers.
    """
    seen = np.random.default_rng(seed).binomial(counts.value, _SEEN).astype(counts.value.dtype)
    return HeldOut(_with_values(counts, seen), _with_values(counts, counts.value - seen), loss)


def _with_values(counts: Csr, value: Array) -> Csr:
    filled = value > 0
    before = np.concatenate([[0], np.cumsum(filled)])
    return Csr(before[counts.indptr], counts.channel[filled], value[filled], counts.n_channels)
