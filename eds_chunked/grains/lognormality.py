"""Whether sizes are log-normal: a test by name, and the quantiles that a plot of them needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, Any]

MOST_FOR_SHAPIRO = 5000


@dataclass(frozen=True)
class LogNormality:
    """A test of log-normality by name: its statistic and p-value, both NaN for sizes that are all equal."""

    test: str
    statistic: float
    p_value: float


def log_normality(values: Array) -> LogNormality:
    """Test whether the logarithms of sizes (n,) are normal: Shapiro and Wilk to n = 5000, above it D'Agostino.

    A small p-value speaks against a log-normal population. With many grains it is small for departures that do not
    matter: the quantile plot shows how large they are.

    References
    ----------
    Royston, Appl. Stat. 44 (1995) 547, for the p-value of Shapiro and Wilk's W; D'Agostino and Pearson, Biometrika 60
    (1973) 613, for K2.
    """
    logs = np.log(values)
    few = len(logs) <= MOST_FOR_SHAPIRO
    name = "Shapiro-Wilk of logarithms" if few else "D'Agostino-Pearson of logarithms"
    if np.ptp(logs) <= 1e-12:
        return LogNormality(name, np.nan, np.nan)
    # Centred, since Shapiro and Wilk's sums lose digits where all sizes are large and alike.
    found = stats.shapiro(logs - logs.mean()) if few else stats.normaltest(logs)
    return LogNormality(name, float(found.statistic), float(found.pvalue))


def normal_quantiles(n: int) -> Array:
    """Return where ``n`` ordered values of a standard normal population are expected (Blom's positions)."""
    return np.asarray(stats.norm.ppf((np.arange(1, n + 1) - 0.375) / (n + 0.25)))
