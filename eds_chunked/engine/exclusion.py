"""Pixels and channels that are left out of an analysis: two boolean coordinates of the map.

``analysed_pixel`` (y, x) and ``analysed_channel`` (energy) follow every selection of the map, and the engine reads no
count where they are False. Results keep the whole axes, with NaN in what was left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError

Array = np.ndarray[Any, Any]

_SAME_CHANNEL = 1e-6
"""Channels by which an end of a window may miss the centre of a channel that it names, as in ``convert``."""


def exclude(
    ds: xr.Dataset,
    *,
    pixels: xr.DataArray | Array | da.Array | None = None,
    energy: Iterable[tuple[float, float]] | None = None,
    min_counts: float | None = None,
) -> xr.Dataset:
    """Leave pixels and channels of a map out of all analysis; lazy, reads no count of a stored map.

    Sets the coordinates ``analysed_pixel`` (y, x) and ``analysed_channel`` (energy), which every step honours. Calls
    add up: what is left out once stays so. ``ds.drop_vars(["analysed_pixel", "analysed_channel"])`` takes all back.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), any selection of it.
    pixels
        bool (y, x) on the pixels of ``ds``, True where a pixel is to be left out.
    energy
        Windows (low, high) to leave out, in the units of the energy axis (keV): channels whose centre lies between
        the two, both included. Either end may be infinite.
    min_counts
        Pixels of fewer counts are left out. The counts are those of the survey, ``total_counts``: over all channels
        of the stored map, whatever energies are selected. Where counts are in memory and there is no survey, they
        are summed over the channels of ``ds``.

    Returns
    -------
    The map with the two coordinates; the counts themselves are untouched.

    Raises
    ------
    ParameterError
        A window without a channel, a mask that is not boolean, or nothing that is left to analyse.
    ChunkLayoutError
        A mask on other pixels than those of ``ds``.

    Notes
    -----
    Memory: one byte a pixel.

    Phase spectra ignore excluded channels, so that they are whole, and honour excluded pixels.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> counts = np.ones((2, 3, 5), np.uint8)
    >>> ds = xr.Dataset({"counts": (("y", "x", "energy"), counts)}, coords={"energy": [0.0, 0.1, 0.2, 0.3, 0.4]})
    >>> part = exclude(ds, energy=[(0.1, 0.2)], pixels=np.array([[True, False, False]] * 2))
    >>> part["analysed_channel"].values.tolist(), int(part["analysed_pixel"].sum())
    ([True, False, False, True, True], 4)
    """
    schema.require(ds, schema.COUNTS)
    kept: Any = None
    if pixels is not None:
        kept = ~_pixel_mask(ds, pixels)
    if min_counts is not None:
        bright = _total_counts(ds) >= _positive(min_counts)
        kept = bright if kept is None else kept & bright
    if kept is not None:
        ds = _with(ds, schema.ANALYSED_PIXEL, kept)
    if energy is not None:
        ds = _with(ds, schema.ANALYSED_CHANNEL, ~_channels_within(ds, energy))
    return ds


def analysed_part(ds: xr.Dataset, name: str) -> Array | None:
    """Return ``analysed_pixel`` or ``analysed_channel`` of a map in memory, or None where nothing is left out.

    Raises
    ------
    ChunkLayoutError, ParameterError
        The coordinate has other dimensions or is not boolean, or leaves nothing.
    """
    if name not in ds.variables:
        return None
    schema.require(ds, name)
    _check_boolean(name, ds[name].dtype)
    mask = np.asarray(ds[name].values)
    _check_some_left(name, mask)
    return None if mask.all() else mask


def _with(ds: xr.Dataset, name: str, kept: Any) -> xr.Dataset:
    if name in ds.variables:
        kept = kept & ds[name].data
    if isinstance(kept, np.ndarray):
        _check_some_left(name, kept)
    return ds.assign_coords({name: (schema.VARIABLES[name].dims, kept, schema.attributes(name))})


def _check_some_left(name: str, mask: Array) -> None:
    if not mask.any():
        what = "pixels" if name == schema.ANALYSED_PIXEL else "channels"
        raise ParameterError(
            f"{what} to analyse",
            found=f"none of {mask.size}: all of them are left out",
            expected="at least one",
            fix=f"ds.drop_vars({name!r}) takes all of them back; then leave out fewer",
        )


def _check_boolean(name: str, dtype: np.dtype[Any]) -> None:
    if dtype != np.bool_:
        raise ParameterError(
            name, found=f"values of {dtype}", expected="a mask of True and False", fix="compare first: mask > 0"
        )


def _pixel_mask(ds: xr.Dataset, pixels: Any) -> Any:
    """Return the data of a mask given by the user, checked."""
    axes = schema.VARIABLES[schema.ANALYSED_PIXEL].dims
    shape = tuple(ds.sizes[axis] for axis in axes)
    if isinstance(pixels, xr.DataArray):
        if set(pixels.dims) != set(axes):
            raise ChunkLayoutError(
                "pixels",
                found=f"dimensions {tuple(map(str, pixels.dims))}",
                expected=f"{axes}",
                fix="give one value a pixel",
            )
        pixels = pixels.transpose(*axes)
        for axis in axes:
            if axis in pixels.coords and axis in ds.coords and not np.array_equal(pixels[axis], ds[axis]):
                raise ChunkLayoutError(
                    f"pixels along {axis}",
                    found=f"{pixels.sizes[axis]} pixels at other positions",
                    expected=f"the {ds.sizes[axis]} pixels of the map",
                    fix="select the same region of both, or pass pixels.values for a mask without positions",
                )
        pixels = pixels.data
    if not isinstance(pixels, da.Array):
        pixels = np.asarray(pixels)
    if pixels.shape != shape:
        raise ChunkLayoutError(
            "pixels",
            found=f"a mask of shape {pixels.shape}",
            expected=f"{shape}, rows and columns of the map",
            fix="make the mask on the pixels of ds; pixels.T if rows and columns are exchanged",
        )
    _check_boolean("pixels", pixels.dtype)
    return pixels


def _total_counts(ds: xr.Dataset) -> Any:
    if schema.TOTAL_COUNTS in ds:
        schema.require(ds, schema.TOTAL_COUNTS)
        data = ds[schema.TOTAL_COUNTS].data
        return data if isinstance(data, da.Array) else np.asarray(data)
    counts = ds[schema.COUNTS]
    if isinstance(counts.data, da.Array):
        raise ParameterError(
            "min_counts",
            found=f"lazy counts without {schema.TOTAL_COUNTS!r}",
            expected="a map that was opened from a store",
            fix="pixels=(ds.counts.sum('energy') < 10).compute() reads all counts for it",
        )
    return counts.sum(schema.ENERGY).values


def _positive(min_counts: float) -> float:
    try:
        value = float(min_counts)
    except (TypeError, ValueError):
        value = np.nan
    if not 0 < value < np.inf:
        raise ParameterError("min_counts", found=repr(min_counts), expected="a number above 0", fix="min_counts=10")
    return value


def _channels_within(ds: xr.Dataset, windows: Any) -> Array:
    axis = ds[schema.ENERGY].values if schema.ENERGY in ds.coords else np.arange(ds.sizes[schema.ENERGY], dtype=float)
    unit = str(ds[schema.ENERGY].attrs.get("units", schema.CHANNEL)) if schema.ENERGY in ds.coords else schema.CHANNEL
    near = _SAME_CHANNEL * abs(float(axis[-1] - axis[0])) / max(1, len(axis) - 1)
    inside = np.zeros(len(axis), np.bool_)
    for window in _pairs(windows):
        low, high = window
        found = (axis >= low - near) & (axis <= high + near)
        if not found.any():
            raise ParameterError(
                "energy to leave out",
                found=f"{low:g} to {high:g}, where there is no channel",
                expected=f"a part of {axis[0]:.4g} to {axis[-1]:.4g} {unit}",
                fix="energy=[(1.7, 1.8)], in the units of the axis",
            )
        inside |= found
    return inside


def _pairs(windows: Any) -> list[tuple[float, float]]:
    try:
        pairs = [(float(low), float(high)) for low, high in windows]
    except (TypeError, ValueError):
        pairs = [(np.nan, np.nan)]
    if not all(low <= high for low, high in pairs):
        raise ParameterError(
            "energy to leave out",
            found=repr(windows),
            expected="a list of windows (low, high), low first",
            fix="energy=[(1.7, 1.8)]",
        )
    return pairs
