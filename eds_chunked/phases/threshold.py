"""Thresholds of the component maps: Otsu from histograms that are summed over blocks, or the user's own numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import dask
import dask.array as da
import numpy as np
import xarray as xr
from skimage.filters import threshold_otsu

from eds_chunked import schema
from eds_chunked.errors import ParameterError

__all__ = ["OTSU", "Histogram", "loading_histograms", "loading_thresholds"]

Array = np.ndarray[Any, Any]

OTSU: Literal["otsu"] = "otsu"

# scikit-image's default number of bins; another number is another threshold.
_BINS = 256


@dataclass(frozen=True, eq=False)
class Histogram:
    """Pixels of one map in equal bins between its smallest and largest finite value.

    ``counts`` (bins,) is int64, ``centers`` (bins,) has the dtype of the map.
    """

    counts: Array
    centers: Array

    def otsu(self) -> float:
        """Return Otsu's threshold: the bin centre that maximises the variance between the two classes."""
        return float(threshold_otsu(hist=(self.counts, self.centers)))


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
    Memory: one block and its histogram a thread.
    """
    schema.require(nmf, schema.LOADINGS)
    maps = da.asarray(nmf[schema.LOADINGS].data)
    if maps.dtype.kind != "f":
        raise ParameterError(
            f"dtype of {schema.LOADINGS!r}",
            found=maps.dtype,
            expected="floating point",
            fix="pass the Dataset that eds_chunked.nmf returned",
        )
    infinity = maps.dtype.type(np.inf)
    finite = da.isfinite(maps)
    low, high = dask.compute(
        da.where(finite, maps, infinity).min(axis=(1, 2)),
        da.where(finite, maps, -infinity).max(axis=(1, 2)),
    )
    edges = [_bin_edges(name, *limits) for name, *limits in zip(component_names(nmf), low, high, strict=True)]
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
    return [Histogram(n, (e[:-1] + e[1:]) / 2) for n, e in zip(counts, edges, strict=True)]


def loading_thresholds(nmf: xr.Dataset, *, threshold: str | Sequence[float] = OTSU) -> Array:
    """Compute the threshold of every loading map; a pixel at or above it belongs to the phase.

    Parameters
    ----------
    nmf
        Has ``loadings`` (component, y, x), NumPy or dask.
    threshold
        ``"otsu"``, or one number a component in the order of the components.

    Returns
    -------
    numpy.ndarray
        Thresholds (component,), float64, in the units of the loadings. Otsu's are those of
        ``skimage.filters.threshold_otsu`` on the finite pixels of the whole map.

    Raises
    ------
    ParameterError
        Unknown method, wrong number of thresholds, a threshold that is not finite, or a map that Otsu cannot divide.

    References
    ----------
    N. Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62-66, doi:10.1109/TSMC.1979.4310076.
    """
    schema.require(nmf, schema.LOADINGS)
    n_components = nmf.sizes[schema.COMPONENT]
    if isinstance(threshold, str):
        if threshold != OTSU:
            raise _threshold_error(repr(threshold), n_components)
        return np.array([histogram.otsu() for histogram in loading_histograms(nmf)], np.float64)
    try:
        values = np.asarray(threshold, np.float64)
    except (TypeError, ValueError):
        raise _threshold_error(repr(threshold), n_components) from None
    if values.ndim != 1:
        raise _threshold_error(repr(threshold), n_components)
    if len(values) != n_components:
        raise _threshold_error(f"{len(values)} numbers", n_components)
    if not np.isfinite(values).all():
        raise _threshold_error(values.tolist(), n_components)
    return values


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
        expected="a map that Otsu's threshold can divide",
        fix="ask for fewer components, or pass threshold=[...] with one number a component",
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
        expected=f"'{OTSU}' or {n_components} finite numbers, one a component",
        fix=f"threshold='{OTSU}', or a list such as threshold=[0.5, 1.2, ...]",
    )
