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
    ``.sel(energy=slice(6.3, 6.5))`` an image series. The whole model is as large as the map in float32; xarray writes
    it tile by tile, ``reconstruct(nmf).to_dataset().to_zarr("model.zarr", consolidated=False)``.

    Parameters
    ----------
    result
        Dataset with ``factors`` (component, energy) and ``loadings`` (component, y, x).
    components
        Numbers of the components to use, from 1; all by default.

    Returns
    -------
    DataArray (y, x, energy) of counts, float32, in dask chunks of one tile each; NaN where the result is, in what was
    left out of the analysis.

    Raises
    ------
    ParameterError
        A component that the result does not have, or a result that is centred or otherwise no product.

    Notes
    -----
    Memory: none until it is computed, then one tile (at most 32 MiB) for each thread.
    """
    part = model_part(result, components)
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


def model_part(result: xr.Dataset, components: Sequence[int] | None) -> xr.Dataset:
    """Return the chosen components of a result whose model is loadings . factors; refuse what has no such model."""
    schema.require(result, schema.FACTORS, schema.LOADINGS)
    parameters = result.attrs.get(schema.PARAMETERS, {})
    is_centred = "centre" in parameters and schema.MEAN_SPECTRUM not in result
    if is_centred or parameters.get("is_product") is False:
        estimator = parameters.get("estimator")
        raise ParameterError(
            "model",
            found=f"loadings of {estimator}, which times its factors are not the counts"
            if estimator
            else "a centred PCA without the mean spectrum that was taken off",
            expected="an NMF, or a PCA with its mean",
            fix="pca(ds)",
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
    return with_mean(part)


def with_mean(part: xr.Dataset) -> xr.Dataset:
    """Put the mean of a centred result before its components, as component 0: the model is a product again.

    A result that is not centred, or does not know its mean, stays as it is.
    """
    if schema.MEAN_SPECTRUM not in part:
        return part
    mean = {schema.FACTORS: schema.MEAN_SPECTRUM, schema.LOADINGS: schema.MEAN_LOADING}
    both = {
        name: xr.concat([part[its_mean].expand_dims({schema.COMPONENT: [0]}), part[name]], schema.COMPONENT)
        for name, its_mean in mean.items()
    }
    return part.drop_dims(schema.COMPONENT).drop_vars(mean.values()).assign(both)


def _product(loadings: Array, factors: Array) -> Array:
    return np.tensordot(loadings, factors, axes=(0, 0))
