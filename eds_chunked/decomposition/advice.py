"""How many components to take, said with the number that decides it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError

CLEAR = 1.05
"""Ratio to the noise edge from which a component counts; between 1 and this it is said to be borderline."""


@dataclass(frozen=True)
class ComponentAdvice:
    """Advice on the number of components.

    Attributes
    ----------
    n_components
        Eigenvalues clearly above the noise edge; at least 1.
    n_borderline
        More eigenvalues above the edge, but by less than 5 %.
    last_ratio, next_ratio
        The last eigenvalue that counts and the first that does not, over the noise edge.
    """

    n_components: int
    n_borderline: int
    last_ratio: float
    next_ratio: float

    def __str__(self) -> str:
        if self.last_ratio <= CLEAR:
            return (
                f"Nothing rises clearly above the counting noise, and {self.n_components} component is the least there "
                f"is: the largest eigenvalue has {self.last_ratio:.2f} times what noise alone gives (0.00: too few "
                "counts to tell)."
            )
        rise = "1 component rises" if self.n_components == 1 else f"{self.n_components} components rise"
        more = f" ({self.n_borderline} more borderline: compare with them)" if self.n_borderline else ""
        return (
            f"{rise} clearly above the counting noise: number {self.n_components} has {self.last_ratio:.2f} times the "
            f"largest eigenvalue that noise alone gives, the next {self.next_ratio:.2f}{more}. "
            "A phase of a few dozen pixels does not show here: look at the maximum-pixel spectrum."
        )


def advise_components(pca: xr.Dataset) -> ComponentAdvice:
    """Count the components of a PCA that are more than counting noise.

    The rule compares the eigenvalues with the edge of the spectrum of pure noise (Tracy-Widom, 99 %) and takes those
    that are 5 % above it. It does not over-count at low dose; it misses what lies under the edge.

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
    n_clear = max(1, int(np.sum(ratios > CLEAR)))
    n_borderline = max(0, int(np.sum(ratios > 1)) - n_clear)
    at = [*ratios, *(0.0, 0.0)]
    return ComponentAdvice(n_clear, n_borderline, float(at[n_clear - 1]), float(at[n_clear]))
