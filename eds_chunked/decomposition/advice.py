"""How many components to take, said with the number that decides it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError

BORDERLINE = 1.05
"""A component under this ratio could be noise in one map of a few hundred, and is said to be borderline."""


@dataclass(frozen=True)
class ComponentAdvice:
    """Advice on the number of components.

    Attributes
    ----------
    n_components
        Eigenvalues above the noise edge; at least 1.
    last_ratio, next_ratio
        The last eigenvalue that is signal and the first that is noise, over the noise edge.
    """

    n_components: int
    last_ratio: float
    next_ratio: float

    @property
    def borderline(self) -> bool:
        """Whether the last component is only just above the edge."""
        return self.last_ratio < BORDERLINE

    def __str__(self) -> str:
        caution = " The last one is borderline: compare one component fewer." if self.borderline else ""
        return (
            f"{self.n_components} components rise above the counting noise: number {self.n_components} has "
            f"{self.last_ratio:.2f} times the largest eigenvalue that noise alone gives, the next "
            f"{self.next_ratio:.2f}.{caution} "
            "A phase of a few dozen pixels does not show here: look at the maximum-pixel spectrum."
        )


def advise_components(pca: xr.Dataset) -> ComponentAdvice:
    """Count the components of a PCA that are more than counting noise.

    The rule compares the eigenvalues with the edge of the spectrum of pure noise (Tracy-Widom, 99 %). It does not
    over-count at low dose; it misses what lies under the edge.

    Parameters
    ----------
    pca
        Result of :func:`eds_chunked.pca` with the exact solver and Poisson scaling, of integer counts.

    Raises
    ------
    ParameterError
        The result has no ``noise_ratio``: the rule holds for scaled integer counts only.
    """
    if schema.NOISE_RATIO not in pca:
        raise ParameterError(
            "number of components",
            found="a PCA without noise ratios",
            expected="one of integer counts, noise='poisson', solver='gram'",
            fix="give the number of components yourself: --components 4",
        )
    ratios = pca[schema.NOISE_RATIO].values
    ratios = ratios[np.isfinite(ratios)]
    n_signal = max(1, int(np.sum(ratios > 1)))
    at = [*ratios, *(0.0, 0.0)]
    return ComponentAdvice(n_signal, float(at[n_signal - 1]), float(at[n_signal]))
