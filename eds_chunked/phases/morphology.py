"""Opening and closing of masks, chunk by chunk and yet as on the whole map."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
from dask_image.ndmorph import binary_dilation, binary_erosion

from eds_chunked.errors import ParameterError

Array = np.ndarray[Any, Any]


def open_mask(mask: da.Array | Array, *, size: int) -> da.Array:
    """Remove what is narrower than about ``2 * size`` pixels: erode, then dilate, ``size`` times; lazy.

    Parameters
    ----------
    mask
        (y, x), bool, in chunks of any shape.
    size
        Times that the 3 x 3 cross is applied; 0 leaves the mask as it is.

    Returns
    -------
    dask.array.Array
        (y, x), bool. Equal to scikit-image's ``opening`` with a diamond of that size on the whole map, for every
        chunking: beyond the map's edge the mask counts as going on.
    """
    mask = da.asarray(mask)
    return _dilate(_erode(mask, size), size) if check_size(size, "opening") else mask


def close_mask(mask: da.Array | Array, *, size: int) -> da.Array:
    """Close gaps narrower than about ``2 * size`` pixels: dilate, then erode, ``size`` times; lazy.

    Parameters and result are those of :func:`open_mask`, with scikit-image's ``closing``.
    """
    mask = da.asarray(mask)
    return _erode(_dilate(mask, size), size) if check_size(size, "closing") else mask


def check_size(size: int, what: str) -> int:
    """Return ``size`` if it is a whole number from 0, else raise ParameterError."""
    if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 0:
        raise ParameterError(what, found=repr(size), expected="a whole number from 0", fix=f"{what}=1")
    return int(size)


def _erode(mask: da.Array, times: int) -> da.Array:
    # True beyond the edge: an object that the map cuts is not worn away from there.
    return binary_erosion(mask, iterations=times, border_value=1).astype(bool)


def _dilate(mask: da.Array, times: int) -> da.Array:
    return binary_dilation(mask, iterations=times, border_value=0).astype(bool)
