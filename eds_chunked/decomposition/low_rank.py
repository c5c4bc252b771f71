"""The low-rank model of the counts, as a lazy array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.store.layout import tile_shape

Array = np.ndarray[Any, Any]


def reconstruct(result: xr.Dataset, *, components: Sequence[int] | None = None) -> xr.DataArray:
    """Return the model loadings . factors of a PCA or NMF result; lazy, computes nothing.

    Index it before you compute it: ``reconstruct(nmf).isel(y=3, x=5)`` is one spectrum and
    ``.sel(energy=slice(6.3, 6.5))`` an image series. The whole model is as large as the map in float32.

    Parameters
    ----------
    result
        Dataset with ``factors`` (component, energy) and ``loadings`` (component, y, x).
    components
        Numbers of the components to use, from 1; all by default.

    Returns
    -------
    DataArray (y, x, energy) of counts, float32, in dask chunks of one tile each.

    Raises
    ------
    ParameterError
        A component that the result does not have.

    Notes
    -----
    Memory: none until it is computed, then one tile (at most 32 MiB) for each thread.
    """
    schema.require(result, schema.FACTORS, schema.LOADINGS)
    if result.attrs.get(schema.PARAMETERS, {}).get("solver") == "incremental":
        raise ParameterError(
            "model",
            found="a PCA by the incremental solver, which is centred",
            expected="an NMF, or a PCA by the exact solver",
            fix="pca(ds, solver='gram')",
        )
    known = [int(number) for number in result[schema.COMPONENT].values]
    chosen = known if components is None else list(components)
    missing = [number for number in chosen if number not in known]
    if missing or not chosen:
        raise ParameterError(
            "components",
            found=missing or "none",
            expected=f"some of 1 to {len(known)}",
            fix=f"components={known[:2]}",
        )
    part = result.sel({schema.COMPONENT: chosen})
    side_y, side_x, _ = tile_shape(part.sizes[schema.ENERGY])
    loadings = da.asarray(part[schema.LOADINGS].data).rechunk((-1, side_y, side_x))
    factors = da.asarray(part[schema.FACTORS].data).astype(loadings.dtype).rechunk(-1)
    # Not da.einsum: it cuts what comes out to the size of what goes in, a hundred pieces a tile.
    model = da.blockwise(
        _product, "yxe", loadings, "kyx", factors, "ke", concatenate=True, meta=np.empty((0, 0, 0), loadings.dtype)
    )
    coords = {axis: result[axis] for axis in (schema.Y, schema.X, schema.ENERGY) if axis in result.coords}
    return xr.DataArray(
        model,
        dims=schema.VARIABLES[schema.COUNTS].dims,
        coords=coords,
        name=schema.MODEL,
        attrs=schema.attributes(schema.MODEL),
    )


def _product(loadings: Array, factors: Array) -> Array:
    return np.tensordot(loadings, factors, axes=(0, 0))
