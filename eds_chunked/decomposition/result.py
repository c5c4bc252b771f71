"""What PCA and NMF results have in common: how they are declared, named and checked."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.exclusion import analysed_part
from eds_chunked.engine.output import empty_maps
from eds_chunked.errors import ChunkLayoutError, ParameterError

Array = np.ndarray[Any, Any]

_AXES = (schema.Y, schema.X, schema.ENERGY)


def check_n_components(n_components: int, ds: xr.Dataset) -> int:
    """Return the number as an int (NumPy's cannot be stored); raise ParameterError if the map can't have it.

    What is left out of the map gives no component.
    """
    schema.require(ds, schema.COUNTS)
    height, width, n_channels = ds[schema.COUNTS].shape
    n_pixels = height * width
    if n_pixels * n_channels:
        pixels, channels = (analysed_part(ds, name) for name in (schema.ANALYSED_PIXEL, schema.ANALYSED_CHANNEL))
        n_pixels = n_pixels if pixels is None else int(pixels.sum())
        n_channels = n_channels if channels is None else int(channels.sum())
    most = min(n_pixels, n_channels)
    if most == 0:
        raise ParameterError(
            "selection of counts",
            found=f"{height} x {width} pixels x {n_channels} channels",
            expected="at least one pixel and one channel",
            fix="select within the axes of the map",
        )
    if not isinstance(n_components, Integral) or not 1 <= n_components <= most:
        raise ParameterError(
            "number of components",
            found=n_components,
            expected=f"a whole number from 1 to {most} for {n_pixels} pixels and {n_channels} channels",
            fix=f"n_components={min(4, most)}",
        )
    return int(n_components)


def variable(name: str, values: Any) -> tuple[tuple[str, ...], Any, dict[str, str]]:
    """Return a Dataset entry for ``name`` with its dimensions and attributes."""
    return schema.VARIABLES[name].dims, values, schema.attributes(name)


def template(ds: xr.Dataset, blocks: Blocks, n_components: int) -> xr.Dataset:
    """Return a result without values: factors and loadings on the coordinates of ``ds``, and what is analysed of it.

    The axes are those of the selection, what is left out included: factors go through :meth:`Blocks.spread`.
    """
    coords: dict[str, Any] = {axis: ds[axis].variable for axis in _AXES if axis in ds.coords}
    if blocks.pixels is not None:
        coords[schema.ANALYSED_PIXEL] = variable(schema.ANALYSED_PIXEL, blocks.pixels.used)
    if blocks.channels is not None:
        coords[schema.ANALYSED_CHANNEL] = variable(schema.ANALYSED_CHANNEL, blocks.channels)
    return xr.Dataset(
        {
            schema.FACTORS: variable(schema.FACTORS, np.zeros((n_components, blocks.shape[2]))),
            schema.LOADINGS: variable(schema.LOADINGS, empty_maps(blocks, n_components)),
        },
        coords={**coords, schema.COMPONENT: np.arange(1, n_components + 1)},
    )


def check_same_axes(ds: xr.Dataset, result: xr.Dataset, *, what: str = "result") -> None:
    """Check that a map and a result are of the same pixels and, where the result has them, the same channels.

    Parameters
    ----------
    ds
        Map.
    result
        Result of a step; only axes that it has are compared.
    what
        What the error calls the result.

    Raises
    ------
    ChunkLayoutError
        Another energy window, another region or other bins; the message has the call that makes them fit.
    """
    bins = [1, 1, 1]
    mine, its = (list(data.attrs.get(schema.REBIN, bins)) for data in (ds, result))
    for axis in _AXES:
        if axis not in result.dims:
            continue
        found, expected = (
            data[axis].values if axis in data.coords else np.arange(data.sizes[axis], dtype=float)
            for data in (result, ds)
        )
        if np.array_equal(found, expected):
            continue
        if mine != its:
            fix = "bin the map as for the {}: eds_chunked.rebin(ds, y={}, x={}, energy={})".format(what, *its)
            if its == bins:
                fix = f"take the map without rebin, as for the {what}"
        else:
            fix = f"select the same {'energies' if axis == schema.ENERGY else 'region'} of the map as for the {what}"
            if _is_part(found, expected):
                fix += f": ds.sel({axis}={_slice_text(found)})"
        raise ChunkLayoutError(
            f"{what} along {axis}",
            found=_axis_text(found, result, axis),
            expected=f"{_axis_text(expected, ds, axis)}, at the same positions, as in the map",
            fix=fix,
        )


def _is_part(found: Array, axis: Array) -> bool:
    """Tell whether ``found`` is a run of neighbours of ``axis``."""
    first: Any = np.flatnonzero(axis == found[0]) if len(found) else []
    return len(first) == 1 and np.array_equal(axis[first[0] : first[0] + len(found)], found)


def _slice_text(values: Array) -> str:
    # Half a step more at both ends, so that digits that are not printed do not matter.
    half = float(values[-1] - values[0]) / max(1, len(values) - 1) / 2
    return f"slice({float(values[0]) - half:.8g}, {float(values[-1]) + half:.8g})"


def _axis_text(values: Array, ds: xr.Dataset, axis: str) -> str:
    unit = str(ds[axis].attrs.get("units", "")) if axis in ds.coords else ""
    what = "channels" if axis == schema.ENERGY else "pixels"
    bins = ds.attrs.get(schema.REBIN)
    of_bins = f" of {bins[_AXES.index(axis)]} each" if bins is not None else ""
    ends = f" from {float(values[0]):.6g} to {float(values[-1]):.6g} {unit}".rstrip() if len(values) else ""
    return f"{len(values)} {what}{of_bins}{ends}"
