"""How many components to take, said with the numbers that decide it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.elbow import elbow_of_variance, is_centred
from eds_chunked.decomposition.scaling import POISSON
from eds_chunked.errors import ParameterError

Array = np.ndarray[Any, Any]

CLEAR = 1.05
"""Ratio to the noise edge from which a component counts; between 1 and this it is said to be borderline."""


@dataclass(frozen=True)
class ComponentAdvice:
    """Advice on the number of components, by three rules; the noise edge decides.

    Attributes
    ----------
    n_components
        Eigenvalues clearly above the noise edge; at least 1. None where the rule does not hold.
    n_borderline
        More eigenvalues above the edge, but by less than 5 %.
    last_ratio, next_ratio
        The last eigenvalue that counts and the first that does not, over the noise edge; NaN where the rule does not
        hold.
    refused
        Why the rule of the noise edge does not hold; empty where it does.
    elbow
        Components before the elbow of the explained variance; None where there is no elbow.
    critical_variance
        The ratio that the user gave, or None.
    n_critical
        Components whose explained variance ratio is above it, or None.
    n_known
        Components whose explained variance is known, and so the most that ``n_critical`` can be.
    remedy
        What to type where the rule does not hold, if a PCA made in another way would have it.
    """

    n_components: int | None
    n_borderline: int
    last_ratio: float
    next_ratio: float
    refused: str = ""
    elbow: int | None = None
    critical_variance: float | None = None
    n_critical: int | None = None
    n_known: int = 0
    remedy: str = ""

    def decided(self) -> int:
        """Return the number by the noise edge; raise ParameterError where that rule does not hold."""
        if self.n_components is None:
            elbow = "" if self.elbow is None else f" (the elbow of the explained variance says {self.elbow})"
            first = f"{self.remedy}; or " if self.remedy else ""
            k = self.elbow or 4
            raise ParameterError(
                "number of components",
                found=f"none given, and no noise edge: {self.refused}",
                expected="a number, or a PCA of integer counts, Poisson-scaled and not centred",
                fix=f"{first}give it yourself: nmf --components {k}, run --phases {k}{elbow}",
            )
        return self.n_components

    def __str__(self) -> str:
        return " ".join(part for part in (self._noise(), self._elbow(), self._critical()) if part)

    def _noise(self) -> str:
        if self.n_components is None:
            remedy = f" ({self.remedy})" if self.remedy else ""
            return f"The noise edge says nothing here: {self.refused}{remedy}."
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

    def _elbow(self) -> str:
        if self.elbow is None:
            return "The explained variance has no elbow."
        # One spectrum leaves noise alone after the first component, and the curve of noise bends somewhere too.
        doubt = ", which means nothing for a single spectrum" if self.n_components == 1 else ""
        return f"{self.elbow} come before the elbow of the explained variance{doubt}."

    def _critical(self) -> str:
        if self.critical_variance is None:
            return ""
        kept = ", all that were kept" if self.n_critical == self.n_known else ""
        explain = "1 explains" if self.n_critical == 1 else f"{self.n_critical} explain"
        each = "" if self.n_critical == 1 else " each"
        return f"{explain} more than {100 * self.critical_variance:.4g} % of the variance{each}{kept}."


def advise_components(pca: xr.Dataset, *, critical_variance: float | None = None) -> ComponentAdvice:
    """Count the components of a PCA that are more than counting noise, and say what other rules would take.

    The rule compares the eigenvalues with the edge of the spectrum of pure noise (Tracy-Widom, 99 %) and takes those
    that are 5 % above it. It does not over-count at low dose; it misses what lies under the edge. Beside it stand the
    elbow of the logarithm of the explained variance (Kneedle), and how many components are above a critical ratio. Both
    look at the Keenan-Kotula eigenvalues, which phases of different brightness lift above their noise, and no ratio is
    right for every dose.

    Parameters
    ----------
    pca
        Result of :func:`eds_chunked.pca`. The noise edge needs Poisson scaling of integer counts that are not centred,
        and of the randomized solver one component more than there is signal.
    critical_variance
        Share of the variance, between 0 and 1, above which a component is to count; default: that which the PCA was
        saved with, if any.

    Raises
    ------
    ParameterError
        ``critical_variance`` is no share.

    References
    ----------
    Keenan & Kotula (2004), Surface and Interface Analysis 36, 203; Johnstone (2001), Annals of Statistics 29, 295;
    Satopaa et al. (2011), ICDCS Workshops, 166.
    """
    schema.require(pca, schema.EXPLAINED_VARIANCE_RATIO)
    explained = _explained_ratios(pca)
    if critical_variance is None:
        critical_variance = pca.attrs.get(schema.PARAMETERS, {}).get(CRITICAL_VARIANCE)
    critical = None if critical_variance is None else check_critical_variance(critical_variance)
    n_clear, n_borderline, last, following = _above_the_edge(pca)
    refused, remedy = ("", "") if n_clear is not None else _why_no_edge(pca)
    return ComponentAdvice(
        n_clear,
        n_borderline,
        last,
        following,
        refused=refused,
        elbow=elbow_of_variance(pca),
        critical_variance=critical,
        n_critical=None if critical is None else int(np.sum(explained > critical)),
        n_known=len(explained),
        remedy=remedy,
    )


CRITICAL_VARIANCE = "critical_variance"
"""The parameter of a saved PCA that holds the user's critical ratio."""


def check_critical_variance(ratio: float) -> float:
    """Return the ratio if it is between 0 and 1, else raise ParameterError."""
    if not 0 < ratio < 1:
        raise ParameterError(
            CRITICAL_VARIANCE, found=ratio, expected="a share of the variance between 0 and 1", fix="0.003 for 0.3 %"
        )
    return float(ratio)


def _explained_ratios(pca: xr.Dataset) -> Array:
    """Return the explained variance ratio of the components, and of those that were not kept where that is known."""
    kept: Array = pca[schema.EXPLAINED_VARIANCE_RATIO].values
    if schema.EIGENVALUES not in pca or not kept.size or not kept[0] > 0:
        return kept
    eigenvalues = pca[schema.EIGENVALUES].values
    return np.concatenate([kept, eigenvalues[len(kept) :] * (kept[0] / eigenvalues[0])])


def _above_the_edge(pca: xr.Dataset) -> tuple[int | None, int, float, float]:
    if schema.NOISE_RATIO not in pca:
        return None, 0, math.nan, math.nan
    ratios = pca[schema.NOISE_RATIO].values
    ratios = ratios[np.isfinite(ratios)]
    above = int(np.sum(ratios > CLEAR))
    if above == pca.sizes[schema.RANK] and _has_few(pca):
        return None, 0, math.nan, math.nan
    n_clear = max(1, above)
    n_borderline = max(0, int(np.sum(ratios > 1)) - n_clear)
    at = [*ratios, *(0.0, 0.0)]
    return n_clear, n_borderline, float(at[n_clear - 1]), float(at[n_clear])


def _has_few(pca: xr.Dataset) -> bool:
    """Tell whether there are more eigenvalues than those that are known."""
    return schema.FACTORS in pca and pca.sizes[schema.RANK] < _n_channels(pca)


def _n_channels(pca: xr.Dataset) -> int:
    """Return the number of channels that were analysed."""
    return int(np.count_nonzero(np.isfinite(pca[schema.FACTORS].values[0])))


def _why_no_edge(pca: xr.Dataset) -> tuple[str, str]:
    """Return why the rule does not hold, and what to type for a PCA where it does."""
    parameters = pca.attrs.get(schema.PARAMETERS, {})
    if parameters.get("noise", POISSON) != POISSON:
        return "it holds for Poisson-scaled counts, and these were not scaled", "pca --noise poisson"
    if is_centred(pca):
        # The incremental solver cannot but centre.
        remedy = "pca --solver gram" if parameters.get("solver") == "incremental" else "pca, without --centre"
        return "it holds for a PCA that is not centred", remedy
    if schema.NOISE_RATIO in pca:
        kept = pca.sizes[schema.COMPONENT]
        return f"all {kept} components are above it", f"pca --components {min(2 * kept, _n_channels(pca))}"
    return "it holds for whole numbers of counts, and these are not", ""
