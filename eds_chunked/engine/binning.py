"""Neighbouring pixels and channels added up at the time of the analysis."""

from __future__ import annotations

from operator import index
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import CountsError, ParameterError

Array = np.ndarray[Any, Any]

_AXES = (schema.Y, schema.X, schema.ENERGY)


def rebin(ds: xr.Dataset, *, y: int = 1, x: int = 1, energy: int = 1) -> xr.Dataset:
    """Add up blocks of pixels and channels of a map; lazy for a map that is.

    Sums of counts are counts, so the noise rule and the Poisson scaling hold for them. What does not fill a last bin
    is left out. A step on the result computes it once, into a scratch store; ``convert(..., rebin=...)`` makes a store
    of it, with the same counts.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), any selection of it. Bins are counted from its first pixel and channel.
    y, x, energy
        Rows, columns and channels that make one bin.

    Returns
    -------
    Map with ``counts`` in an unsigned type that holds every sum (float64 for counts that are no integers), coordinates
    at the centres of the bins, and ``total_counts`` and ``sum_spectrum`` added up where ``ds`` has them. A bin is
    analysed if all of its pixels, or channels, are (:func:`eds_chunked.exclude`). The attribute ``rebin`` says how many
    rows, columns and channels make one, all calls together.

    Raises
    ------
    ParameterError
        A bin that is no whole number above 0, or larger than the map.
    CountsError
        Negative or missing values, when they are met: a sum would hide them.

    Notes
    -----
    Memory: none until it is computed, then for each thread one chunk of the counts, its bins, and the neighbours of the
    chunk that the bins at its border reach into.
    """
    schema.require(ds, schema.COUNTS)
    bins = dict(zip(_AXES, (_size(ds, axis, n) for axis, n in zip(_AXES, (y, x, energy), strict=True)), strict=True))
    counts = ds[schema.COUNTS]
    dtype = _wide_enough(counts.dtype, bins)
    out = xr.Dataset(
        {schema.COUNTS: (counts.dims, _summed(counts, bins, dtype), counts.attrs)},
        coords={axis: _centres(ds[axis], bins[axis]) for axis in _AXES if axis in ds.coords},
        attrs=ds.attrs | _attributes(ds, bins),
    )
    out.encoding = dict(ds.encoding)
    for name in (schema.SUM_SPECTRUM, schema.TOTAL_COUNTS):
        if name in ds:
            values = _summed(ds[name], bins, _wide_enough(ds[name].dtype, bins))
            out[name] = (ds[name].dims, values, ds[name].attrs)
    for name in (schema.ANALYSED_PIXEL, schema.ANALYSED_CHANNEL):
        if name in ds.coords:
            in_bin = np.prod([bins[str(axis)] for axis in ds[name].dims])
            out.coords[name] = (ds[name].dims, _summed(ds[name], bins, np.dtype(np.uint32)) == in_bin, ds[name].attrs)
    return out


def _size(ds: xr.Dataset, axis: str, n: Any) -> int:
    try:
        size = 0 if isinstance(n, bool) else index(n)
    except TypeError:
        size = 0
    most = ds.sizes[axis]
    if not 1 <= size <= most:
        raise ParameterError(
            f"bins along {axis}",
            found=repr(n),
            expected=f"a whole number from 1 to {most}, the size of the map",
            fix="rebin(ds, y=2, x=2)",
        )
    return size


def _wide_enough(dtype: np.dtype[Any], bins: dict[str, int]) -> np.dtype[Any]:
    if dtype.kind not in "ui":
        return np.dtype(np.float64)
    largest = int(np.iinfo(dtype).max) * int(np.prod([*bins.values()], dtype=object))
    return np.min_scalar_type(min(largest, np.iinfo(np.uint64).max))


def _summed(values: xr.DataArray, bins: dict[str, int], dtype: np.dtype[Any]) -> Any:
    """Return the sums over bins along the axes that ``values`` has, lazy for lazy values."""
    sizes = [bins[str(axis)] for axis in values.dims]
    whole = values.isel(
        {axis: slice(0, values.sizes[axis] // n * n) for axis, n in zip(values.dims, sizes, strict=True)}
    )
    if not isinstance(whole.data, da.Array):
        return _sum_bins(np.asarray(whole.data), sizes, dtype)
    # A bin lies within one chunk: then the order of its sum does not depend on the chunks.
    chunks = tuple(_aligned(parts, n) for parts, n in zip(whole.data.chunks, sizes, strict=True))
    return whole.data.rechunk(chunks).map_blocks(
        _sum_bins,
        sizes,
        dtype,
        dtype=dtype,
        chunks=tuple(tuple(part // n for part in parts) for parts, n in zip(chunks, sizes, strict=True)),
        meta=np.empty((0,) * whole.ndim, dtype),
    )


def _aligned(parts: tuple[int, ...], n: int) -> tuple[int, ...]:
    """Move the ends of chunks back to ends of bins."""
    ends = np.unique(np.cumsum(parts) // n * n)
    return tuple(int(part) for part in np.diff(ends, prepend=0) if part)


def _sum_bins(values: Array, sizes: list[int], dtype: np.dtype[Any]) -> Array:
    if values.dtype.kind not in "ub" and values.size and not values.min() >= 0:
        raise CountsError(
            "counts to rebin",
            found=f"a value of {values.min()}",
            expected="values of at least 0",
            fix="correct the values first, for example ds.where(np.isfinite(ds.counts), 0).clip(min=0)",
        )
    out = np.zeros([length // n for length, n in zip(values.shape, sizes, strict=True)], dtype)
    # One slice after the other: where channels are binned, NumPy's sum over short axes takes five times as long.
    for place in np.ndindex(*sizes):
        part = values[tuple(slice(first, None, n) for first, n in zip(place, sizes, strict=True))]
        np.add(out, part, out=out, casting="unsafe")
    return out


def _centres(axis: xr.DataArray, n: int) -> xr.Variable:
    values = axis.values
    if n > 1:
        values = values[: len(values) // n * n].reshape(-1, n).mean(axis=1)
    return xr.Variable(axis.dims, values, axis.attrs)


def _attributes(ds: xr.Dataset, bins: dict[str, int]) -> dict[str, Any]:
    before = ds.attrs.get(schema.REBIN, (1, 1, 1))
    found: dict[str, Any] = {schema.REBIN: [int(b) * bins[axis] for axis, b in zip(_AXES, before, strict=True)]}
    if schema.PIXEL_SIZE in ds.attrs:
        sizes = ds.attrs[schema.PIXEL_SIZE]
        found[schema.PIXEL_SIZE] = [float(size) * bins[axis] for axis, size in zip(_AXES, sizes, strict=False)]
    if schema.CHANNELS_BINNED in ds.attrs:
        binned = int(ds.attrs[schema.CHANNELS_BINNED])
        found[schema.CHANNELS_BINNED] = binned * bins[schema.ENERGY]
        if schema.CHANNEL_ORIGIN in ds.attrs:
            found[schema.CHANNEL_ORIGIN] = ds.attrs[schema.CHANNEL_ORIGIN] + binned * (bins[schema.ENERGY] - 1) / 2
    return found
