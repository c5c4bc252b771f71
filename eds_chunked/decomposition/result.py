"""What PCA and NMF results have in common: how they are declared, named and checked."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.output import empty_maps
from eds_chunked.errors import ParameterError

Array = np.ndarray[Any, Any]


def check_n_components(n_components: int, ds: xr.Dataset) -> int:
    """Return the number as an int (NumPy's cannot be stored); raise ParameterError if the map can't have it."""
    schema.require(ds, schema.COUNTS)
    height, width, n_channels = ds[schema.COUNTS].shape
    most = min(height * width, n_channels)
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
            expected=f"a whole number from 1 to {most} for {height * width} pixels and {n_channels} channels",
            fix=f"n_components={min(4, most)}",
        )
    return int(n_components)


def variable(name: str, values: Any) -> tuple[tuple[str, ...], Any, dict[str, str]]:
    """Return a Dataset entry for ``name`` with its dimensions and attributes."""
    return schema.VARIABLES[name].dims, values, schema.attributes(name)


def template(ds: xr.Dataset, blocks: Blocks, n_components: int) -> xr.Dataset:
    """Return a result without values: factors and loadings on the coordinates of ``ds``."""
    coords = {axis: ds[axis] for axis in (schema.Y, schema.X, schema.ENERGY) if axis in ds.coords}
    return xr.Dataset(
        {
            schema.FACTORS: variable(schema.FACTORS, np.zeros((n_components, blocks.n_channels))),
            schema.LOADINGS: variable(schema.LOADINGS, empty_maps(blocks, n_components)),
        },
        coords={**coords, schema.COMPONENT: np.arange(1, n_components + 1)},
    )
