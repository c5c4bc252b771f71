"""95 % confidence intervals of averages of a size distribution, each with the name of its method."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

Array = np.ndarray[Any, Any]

ARITHMETIC_MEAN = "arithmetic mean"
GEOMETRIC_MEAN = "geometric mean"
MEDIAN = "median"

CONFIDENCE = 0.95
_VALUES_AT_ONCE = 1 << 20
_TAIL = (1 - CONFIDENCE) / 2


@dataclass(frozen=True)
class Interval:
    """A confidence interval: of which average, by which method, from where to where."""

    measure: str
    method: str
    low: float
    high: float


def mean_by_clt(values: Array, measure: str) -> Interval:
    """Return the interval of the arithmetic mean by the central limit theorem (Student's t, n - 1)."""
    n = len(values)
    half = stats.t.ppf(1 - _TAIL, n - 1) * np.std(values, ddof=1) / np.sqrt(n)
    mean = np.mean(values)
    return Interval(measure, "CLT, Student t", float(mean - half), float(mean + half))


def mean_by_modified_cox(values: Array, measure: str) -> Interval:
    """Return the interval of a log-normal population's arithmetic mean (modified Cox; Armstrong 1992).

    It is centred, on a log scale, on exp(mean + variance / 2) of the logarithms, not on the sample's mean.
    """
    n = len(values)
    logs = np.log(values)
    variance = np.var(logs, ddof=1)
    centre = np.mean(logs) + variance / 2
    half = stats.t.ppf(1 - _TAIL, n - 1) * np.sqrt(variance / n * (1 + variance * n / (2 * (n + 1))))
    return Interval(measure, "modified Cox (log-normal)", float(np.exp(centre - half)), float(np.exp(centre + half)))


def geometric_mean_by_clt(values: Array, measure: str) -> Interval:
    """Return the interval of the geometric mean: the central limit theorem on the logarithms."""
    logs = mean_by_clt(np.log(values), measure)
    return Interval(measure, "CLT of logarithms, Student t", float(np.exp(logs.low)), float(np.exp(logs.high)))


def median_by_binomial(values: Array, measure: str) -> Interval:
    """Return the interval of the median between order statistics, by the binomial distribution of their ranks.

    Below six values even the smallest and the largest hold less than 95 %; the method's name states what they hold.
    """
    ordered, n = np.sort(values), len(values)
    rank = max(int(stats.binom.ppf(_TAIL, n, 0.5)), 1)
    coverage = 1 - 2 * stats.binom.cdf(rank - 1, n, 0.5)
    return Interval(measure, f"binomial ({coverage:.1%})", float(ordered[rank - 1]), float(ordered[n - rank]))


def median_by_rule_of_thumb(values: Array, measure: str) -> Interval:
    """Return the interval of the median by the rule of thumb of GrainSizeTools, to compare with its tables.

    Its ranks n/2 - z sqrt(n)/2 and 1 + n/2 + z sqrt(n)/2, rounded outwards, are counted from zero. That leaves the
    lower end right and puts the upper one a rank or two too high.
    """
    ordered, n = np.sort(values), len(values)
    half = stats.norm.ppf(1 - _TAIL) * np.sqrt(n) / 2
    low = max(int(np.floor(n / 2 - half)), 0)
    high = min(int(np.ceil(1 + n / 2 + half)), n - 1)
    return Interval(measure, "rule of thumb (GrainSizeTools)", float(ordered[low]), float(ordered[high]))


def by_bootstrap(values: Array, *, resamples: int, seed: int) -> tuple[Interval, ...]:
    """Return the percentile-bootstrap intervals of arithmetic mean, geometric mean and median.

    All three come from the same samples, each drawn with replacement. Values in ascending order give the same answer
    however they were ordered before.
    """
    n = len(values)
    logs = np.log(values)
    drawn = np.empty((3, resamples))
    rng = np.random.default_rng(seed)
    at_once = max(_VALUES_AT_ONCE // n, 1)
    for start in range(0, resamples, at_once):
        part = slice(start, min(start + at_once, resamples))
        chosen = rng.integers(0, n, (part.stop - start, n))
        sample = values[chosen]
        drawn[:, part] = sample.mean(axis=1), np.exp(logs[chosen].mean(axis=1)), np.median(sample, axis=1)
    ends = np.quantile(drawn, [_TAIL, 1 - _TAIL], axis=1)
    method = f"bootstrap, percentiles of {resamples} samples, seed {seed}"
    return tuple(
        Interval(measure, method, float(low), float(high))
        for measure, low, high in zip((ARITHMETIC_MEAN, GEOMETRIC_MEAN, MEDIAN), *ends, strict=True)
    )
