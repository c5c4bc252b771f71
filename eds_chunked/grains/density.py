"""Histogram and kernel density of diameters, with classes of equal width on a chosen scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import gaussian_kde

from eds_chunked.errors import ParameterError

Array = np.ndarray[Any, Any]

NORMALISED = "normalised"
BIN_RULES = ("auto", "fd", "doane", "scott", "stone", "rice", "sturges", "sqrt")
BANDWIDTH_RULES = ("silverman", "scott")
MOST_CLASSES = 100_000
USUAL_PRECISION = 0.1
FEWEST_POINTS, ENOUGH_POINTS, MOST_POINTS = 512, 2048, 100_000


class Scale(NamedTuple):
    """A scale of sizes: there, where classes are equally wide, and back to the unit of the diameters."""

    forward: Callable[[Array], Array]
    backward: Callable[[Array], Array]


def _same(values: Array) -> Array:
    return values


SCALES: dict[str, Scale] = {
    "linear": Scale(_same, _same),
    "log": Scale(np.log, np.exp),
    "log10": Scale(np.log10, lambda values: np.power(10.0, values)),
    # The class of a single size is one unit wide and may begin below zero.
    "sqrt": Scale(np.sqrt, lambda values: np.square(np.maximum(values, 0))),
}


class Histogram(NamedTuple):
    """Class edges (n + 1,) in the unit of the diameters, counts and density (n,); width and density on the scale."""

    edges: Array
    counts: Array
    density: Array
    width: float
    rule: str


class Density(NamedTuple):
    """Kernel density: grid, its largest step and mode in the unit of the diameters, the rest on the scale."""

    grid: Array
    density: Array
    mode: float
    bandwidth: float
    rule: str
    precision: float


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _constant(sizes: Array) -> bool:
    """Tell whether the sizes differ by no more than rounding: then a spread cannot be divided by."""
    return bool(np.ptp(sizes) <= 1e-12 * np.max(np.abs(sizes)))


def histogram(values: Array, *, bins: str | int | float, scale: Scale) -> Histogram:
    """Count diameters in classes: by a rule of NumPy, by a number of classes (int) or by their width (float)."""
    sizes = scale.forward(values)
    smallest, largest = sizes.min(), sizes.max()
    if isinstance(bins, str) and bins in BIN_RULES:
        edges = np.array([-0.5, 0.5]) + smallest if _constant(sizes) else np.histogram_bin_edges(sizes, bins)
        rule = f"numpy {bins}"
    elif _is_number(bins) and float(bins) > 0 and np.isfinite(float(bins)):
        by_width = not isinstance(bins, int | np.integer)
        count = max(int(np.ceil((largest - smallest) / float(bins))), 1) if by_width else int(bins)
        if count > MOST_CLASSES:
            raise ParameterError(
                "bins",
                found=f"{bins!r}, which makes {count} classes",
                expected=f"at most {MOST_CLASSES} classes",
                fix="bins='auto'",
            )
        if by_width:
            edges = smallest + float(bins) * np.arange(count + 1)
            edges[-1] = max(edges[-1], largest)
        else:
            edges = np.linspace(smallest - 0.5 * _constant(sizes), largest + 0.5 * _constant(sizes), count + 1)
        rule = "given width" if by_width else "given number"
    else:
        raise ParameterError(
            "bins",
            found=repr(bins),
            expected=f"a rule ({', '.join(BIN_RULES)}), a number of classes (int) or their width (float), over 0",
            fix="bins='auto'",
        )
    counts, _ = np.histogram(sizes, edges)
    return Histogram(
        edges=scale.backward(edges),
        counts=counts,
        density=counts / (len(sizes) * np.diff(edges)),
        width=float(edges[1] - edges[0]),
        rule=rule,
    )


def kernel_density(values: Array, *, bandwidth: str | float, precision: float | None, scale: Scale) -> Density:
    """Estimate the density with a Gaussian kernel and find its peak.

    No step of the grid is over ``precision``, and it has 512 points at least; without ``precision`` the step is 0.1,
    but the grid has 512 to 2048 points. The peak is then looked for between its points. Diameters that are all equal
    have no density: grid and density are empty.
    """
    if not (isinstance(bandwidth, str) and bandwidth in BANDWIDTH_RULES) and not (
        _is_number(bandwidth) and 0 < float(bandwidth) < np.inf
    ):
        raise ParameterError(
            "bandwidth",
            found=repr(bandwidth),
            expected=f"{' or '.join(map(repr, BANDWIDTH_RULES))}, or a width over 0",
            fix="bandwidth='silverman'",
        )
    if precision is not None and not (_is_number(precision) and 0 < precision < np.inf):
        raise ParameterError("precision", found=repr(precision), expected="a step over 0", fix="precision=0.1")
    sizes = scale.forward(values)
    rule = bandwidth if isinstance(bandwidth, str) else "given"
    if _constant(sizes):
        width = 0.0 if isinstance(bandwidth, str) else float(bandwidth)
        return Density(np.empty(0), np.empty(0), float(values[0]), width, rule, 0.0)

    spread = np.std(sizes, ddof=1)
    kde = gaussian_kde(sizes, bandwidth if isinstance(bandwidth, str) else float(bandwidth) / spread)
    points = _points(values, precision, scale)
    grid = np.linspace(sizes.min(), sizes.max(), points)
    density = kde(grid)
    top = int(density.argmax())
    bounds = (grid[max(top - 1, 0)], grid[min(top + 1, points - 1)])
    exactly = {"xatol": 1e-4 * (grid[1] - grid[0])}
    peak = minimize_scalar(lambda size: -kde(size)[0], bounds=bounds, method="bounded", options=exactly).x
    back = scale.backward(grid)
    return Density(
        grid=back,
        density=density,
        mode=float(scale.backward(np.asarray(peak))),
        bandwidth=float(kde.factor * spread),
        rule=rule,
        precision=float(np.diff(back).max()),
    )


def _points(values: Array, precision: float | None, scale: Scale) -> int:
    smallest, largest = values.min(), values.max()
    # A unit in the last place more than the range is no mistake of the user's.
    if precision is not None and precision > (largest - smallest) * (1 + 1e-12):
        raise ParameterError(
            "precision",
            found=f"{precision:g}, above the range of the sizes",
            expected=f"a step of at most {largest - smallest:.4g}, from {smallest:.4g} to {largest:.4g}",
            fix=f"precision={(largest - smallest) / 1000:.1g}",
        )
    step = min(USUAL_PRECISION if precision is None else precision, largest - smallest)
    # On no scale do steps shrink towards large sizes, so that the last one is the widest.
    ends = scale.forward(np.array([smallest, largest - step, largest]))
    points = (ends[2] - ends[0]) / (ends[2] - ends[1]) + 1
    if precision is None:
        points = min(points, ENOUGH_POINTS)
    elif not points <= MOST_POINTS:
        raise ParameterError(
            "precision",
            found=f"{precision:g}, which needs a grid of {points:.3g} points",
            expected=f"at most {MOST_POINTS} points",
            fix="a larger precision, or none",
        )
    return max(int(np.ceil(points)), FEWEST_POINTS)
