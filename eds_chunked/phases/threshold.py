"""Thresholds of the component maps: rules on histograms that are summed over blocks, or the user's own numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from skimage.filters import threshold_multiotsu, threshold_otsu

from eds_chunked import schema
from eds_chunked.errors import ParameterError

__all__ = ["OTSU", "RULES", "Histogram", "Threshold", "check_thresholds", "loading_histograms", "loading_thresholds"]

Array = np.ndarray[Any, Any]

OTSU = "otsu"
MULTI_OTSU = "multiotsu"
TRIANGLE = "triangle"
RULES = (OTSU, MULTI_OTSU, TRIANGLE)

Threshold = str | float | Sequence[str | float]
"""A rule or a number for all components, or one for each of them."""

# scikit-image's default number of bins; another number is another threshold.
_BINS = 256

_CLASSES = 3


@dataclass(frozen=True, eq=False)
class Histogram:
    """Pixels of one map in equal bins between its smallest and largest finite value.

    ``counts`` (bins,) is int64, ``centers`` (bins,) has the dtype of the map.
    """

    counts: Array
    centers: Array

    def threshold(self, rule: str) -> float:
        """Return the threshold that one of the rules gives; ValueError where there are fewer values than classes."""
        if rule == MULTI_OTSU:
            # As shares of the pixels, and so rounded as scikit-image rounds those of an image.
            shares = self.counts / self.counts.sum()
            return float(threshold_multiotsu(classes=_CLASSES, hist=(shares, self.centers))[-1])
        if rule == TRIANGLE:
            return self._triangle()
        return float(threshold_otsu(hist=(self.counts, self.centers)))

    def _triangle(self) -> float:
        filled = np.flatnonzero(self.counts)
        peak = int(self.counts.argmax())
        # The line goes from the peak to the end that is farther; equally far, to the lower one.
        end = int(filled[0] if peak - filled[0] >= filled[-1] - peak else filled[-1])
        step = 1 if end < peak else -1
        from_end = np.arange(abs(peak - end))
        heights = self.counts[end + step * from_end]
        highest, width = int(self.counts[peak]), abs(peak - end)
        # Of unit length, so that ties are rounded, and so broken, as scikit-image does it.
        length = math.sqrt(highest**2 + width**2)
        below = highest / length * from_end - width / length * heights
        return float(self.centers[end + step * int(below.argmax())])


def loading_histograms(nmf: xr.Dataset) -> list[Histogram]:
    """Compute the histogram of every loading map.

    Two passes over the blocks: smallest and largest value, then counts in 256 bins between them. Values stay in the
    map's own dtype, and so do the edges: rounded otherwise, a value at an edge changes its bin and Otsu's threshold
    moves. NaN and infinite pixels are left out.

    Parameters
    ----------
    nmf
        Has ``loadings`` (component, y, x), floating point, NumPy or dask.

    Returns
    -------
    list of Histogram
        One a component, equal to ``numpy.histogram`` of the whole map for every chunking.

    Raises
    ------
    ParameterError
        A map is constant, or its values lie too close together for 256 bins, or it has no finite pixel. The error names
        the component.

    Notes
    -----
    Memory: one block, twice again, and its histogram a thread.
    """
    return [histogram for _, histogram in _histograms(nmf, list(range(nmf.sizes.get(schema.COMPONENT, 0))))]


def _histograms(nmf: xr.Dataset, places: list[int]) -> list[tuple[str, Histogram]]:
    """Return what errors call the components at some places, and their histograms."""
    schema.require(nmf, schema.LOADINGS)
    maps = da.asarray(nmf[schema.LOADINGS].data)
    if maps.dtype.kind != "f":
        raise ParameterError(
            f"dtype of {schema.LOADINGS!r}",
            found=maps.dtype,
            expected="floating point",
            fix="pass the Dataset that eds_chunked.nmf returned",
        )
    names = [component_names(nmf)[place] for place in places]
    maps = maps if len(places) == len(maps) else maps[places]
    infinity = maps.dtype.type(np.inf)
    finite = da.isfinite(maps)
    low, high = dask.compute(
        da.where(finite, maps, infinity).min(axis=(1, 2)),
        da.where(finite, maps, -infinity).max(axis=(1, 2)),
    )
    edges = [_bin_edges(name, *limits) for name, *limits in zip(names, low, high, strict=True)]
    low, high = (da.from_array(limits, chunks=(maps.chunks[0],)) for limits in (low, high))
    counts = da.blockwise(
        _block_counts,
        (0, 1, 2, 3),
        *(maps, (0, 1, 2)),
        *(low, (0,)),
        *(high, (0,)),
        new_axes={3: _BINS},
        adjust_chunks={1: 1, 2: 1},
        dtype=np.int64,
        meta=np.empty((0, 0, 0, 0), np.int64),
    )
    counts = counts.sum(axis=(1, 2)).compute()
    return [(name, Histogram(n, (e[:-1] + e[1:]) / 2)) for name, n, e in zip(names, counts, edges, strict=True)]


def loading_thresholds(nmf: xr.Dataset, *, threshold: Threshold = OTSU) -> Array:
    """Compute the threshold of every loading map; a pixel at or above it belongs to the phase.

    Otsu's rule cuts between two kinds of pixel. Where a map has three (a mineral, another one with some of the
    component, and the rest; or a rare mineral over an uneven ground), ``"multiotsu"`` cuts below the brightest of them.
    The triangle is for a rare phase: it cuts where the flank of the one large peak of the histogram ends.

    Parameters
    ----------
    nmf
        Has ``loadings`` (component, y, x), NumPy or dask.
    threshold
        ``"otsu"``, ``"multiotsu"`` (three classes, of which the upper threshold), ``"triangle"`` or a number, for all
        components; or a list with one of these for each component in its order.

    Returns
    -------
    numpy.ndarray
        Thresholds (component,), float64, in the units of the loadings. Those of a rule are what
        ``skimage.filters.threshold_otsu``, ``threshold_multiotsu(classes=3)[-1]`` and ``threshold_triangle`` give for
        the finite pixels of the whole map.

    Raises
    ------
    ParameterError
        Unknown rule, wrong number of thresholds, a threshold that is not finite, or a map that a rule cannot divide.

    Notes
    -----
    Memory: one block, twice again, and its histogram a thread. The loadings are read twice where there is a rule.

    References
    ----------
    N. Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62-66, doi:10.1109/TSMC.1979.4310076; P.-S. Liao, T.-S. Chen &
    P.-C. Chung, J. Inf. Sci. Eng. 17 (2001) 713-727 (several thresholds); G. W. Zack, W. E. Rogers & S. A. Latt,
    J. Histochem. Cytochem. 25 (1977) 741-753, doi:10.1177/25.7.70454 (triangle).
    """
    schema.require(nmf, schema.LOADINGS)
    given = check_thresholds(threshold, nmf.sizes[schema.COMPONENT])
    values = np.array([np.nan if isinstance(one, str) else one for one in given], np.float64)
    places = [place for place, one in enumerate(given) if isinstance(one, str)]
    if places:
        for place, (name, histogram) in zip(places, _histograms(nmf, places), strict=True):
            values[place] = _by_rule(name, histogram, str(given[place]))
    return values


def check_thresholds(threshold: Threshold, n_components: int) -> list[str | float]:
    """Return the rule or the number of each component, or raise ParameterError."""
    if isinstance(threshold, str | float | int | np.number) and not isinstance(threshold, bool):
        given = [threshold] * n_components
    else:
        try:
            given = np.asarray(threshold, object).tolist()
        except ValueError:
            raise _threshold_error(repr(threshold), n_components) from None
        if not isinstance(given, list) or any(isinstance(one, list) for one in given):
            raise _threshold_error(repr(threshold), n_components)
        if len(given) != n_components:
            raise _threshold_error(f"{len(given)} of them", n_components)
    checked: list[str | float] = []
    for one in given:
        if isinstance(one, str) and one in RULES:
            checked.append(one)
        elif isinstance(one, float | int | np.number) and not isinstance(one, bool) and np.isfinite(one):
            checked.append(float(one))
        else:
            raise _threshold_error(repr(one), n_components)
    return checked


def _by_rule(name: str, histogram: Histogram, rule: str) -> float:
    n_values = int(np.count_nonzero(histogram.counts))
    if rule == MULTI_OTSU and n_values < _CLASSES:
        raise ParameterError(
            f"loadings of {name}",
            found=f"pixels in {n_values} of {_BINS} bins",
            expected=f"at least {_CLASSES} kinds of pixels for {MULTI_OTSU!r}",
            fix=f"threshold={OTSU!r}, or a list with another rule or a number for this component",
        )
    return histogram.threshold(rule)


def component_names(nmf: xr.Dataset) -> list[str]:
    """Return what errors call the components: by their coordinate, else by their place from 1."""
    if schema.COMPONENT in nmf.coords:
        return [f"component {number}" for number in nmf[schema.COMPONENT].values.tolist()]
    return [f"component {number}" for number in range(1, nmf.sizes[schema.COMPONENT] + 1)]


def _bin_edges(name: str, low: np.floating[Any], high: np.floating[Any]) -> Array:
    if low > high:
        raise ParameterError(
            f"loadings of {name}",
            found="no finite pixel",
            expected="a map with finite values",
            fix="leave the component out, for example nmf.isel(component=[0, 1, ...])",
        )
    found = f"{low} in every finite pixel"
    if low < high:
        try:
            # The empty array only carries the dtype, in which NumPy then makes the edges.
            return np.histogram_bin_edges(np.empty(0, low.dtype), _BINS, (low, high))  # type: ignore[arg-type]
        except ValueError:
            found = f"values from {low} to {high}, too close together for {_BINS} bins"
    raise ParameterError(
        f"loadings of {name}",
        found=found,
        expected="a map that a threshold can divide",
        fix="ask for fewer components, or pass threshold=[...] with a number for this component",
    )


def _block_counts(block: Array, low: Array, high: Array) -> Array:
    counts = np.empty((len(block), 1, 1, _BINS), np.int64)
    for image, first, last, row in zip(block, low, high, counts, strict=True):
        row[0, 0] = np.histogram(image[np.isfinite(image)], _BINS, (first, last))[0]
    return counts


def _threshold_error(found: object, n_components: int) -> ParameterError:
    return ParameterError(
        "threshold",
        found=found,
        expected=f"{', '.join(map(repr, RULES))} or a finite number, or a list of {n_components}, one a component",
        fix=f"threshold={OTSU!r}, or a list such as threshold=[0.5, {OTSU!r}, ...]",
    )
