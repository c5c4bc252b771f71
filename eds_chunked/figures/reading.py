"""Large maps for display: read a strip of rows at a time, reduced to what a page can show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from eds_chunked.schema import ANALYSED_PIXEL, LABEL, LEFT_OUT_LABEL, UNASSIGNED, X, Y

if TYPE_CHECKING:
    import xarray as xr

Array = np.ndarray[Any, Any]

MOST_PIXELS = 1500
"""A map is drawn with at most this many pixels along its longer side."""

_STRIP_PIXELS = 2**20


def reduction(shown: xr.DataArray | xr.Dataset, most: int | None = None) -> int:
    """Return by how much a map (y, x) is reduced along each axis before it is drawn with ``most`` pixels a side."""
    return math.ceil(max(shown.sizes[Y], shown.sizes[X]) / min(most or MOST_PIXELS, MOST_PIXELS))


def strips(values: xr.DataArray) -> Iterator[tuple[int, Array]]:
    """Yield strips of rows of maps (..., y, x) with the number of their first row; lazy chunks are read once.

    Notes
    -----
    Memory: a row of chunks of lazy maps, or a million pixels if that is more.
    """
    rows = max(1, _STRIP_PIXELS // max(1, values.size // max(1, values.sizes[Y])))
    top = 0
    for height in _heights(values, rows):
        read = values.isel({Y: slice(top, top + height)}).values
        for inside in range(0, height, rows):
            yield top + inside, read[..., inside : inside + rows, :]
        top += height


def _heights(values: xr.DataArray, rows: int) -> Iterator[int]:
    """Yield how many rows to read at once: whole chunks of a lazy map, and at least ``rows``."""
    height = 0
    for chunk in (1,) * values.sizes[Y] if values.chunks is None else values.chunksizes[Y]:
        height += chunk
        if height >= rows:
            yield height
            height = 0
    if height:
        yield height


def every_nth(labels: xr.DataArray) -> Array:
    """Return labels (y, x) for display: every n-th pixel, since labels have no mean."""
    n = reduction(labels)
    # Copies: a view would keep its whole strip.
    return np.concatenate([rows[-top % n :: n, ::n].copy() for top, rows in strips(labels)])


def block_means(values: xr.DataArray, *, most: int | None = None) -> np.ma.MaskedArray[Any, Any]:
    """Return maps (..., y, x) for display: means over blocks, masked where there is nothing finite.

    They have at most ``most`` pixels a side, where they are drawn smaller than a page.
    """
    n = reduction(values, most)
    if n == 1:
        return np.ma.masked_invalid(values.values)
    shape = (*values.shape[:-2], *(math.ceil(values.sizes[axis] / n) for axis in (Y, X)))
    sums, numbers = np.zeros(shape), np.zeros(shape, np.int32)
    columns = np.arange(0, values.sizes[X], n)
    for top, rows in strips(values):
        block = (top + np.arange(rows.shape[-2])) // n
        first = np.flatnonzero(np.diff(block, prepend=-1))
        known = np.isfinite(rows)
        for total, part in ((sums, np.where(known, rows, 0).astype(np.float64)), (numbers, known.astype(np.int32))):
            total[..., block[first], :] += np.add.reduceat(np.add.reduceat(part, columns, axis=-1), first, axis=-2)
    return np.ma.masked_array(sums / np.maximum(numbers, 1), numbers == 0)


def shown_labels(phases: xr.Dataset) -> Array:
    """Return the labels (y, x) for display, int16: as in the modal table, 256 where a pixel was left out."""
    label = every_nth(phases[LABEL]).astype(np.int16)
    if ANALYSED_PIXEL in phases.coords:
        label[(label == UNASSIGNED) & ~every_nth(phases[ANALYSED_PIXEL]).astype(bool)] = LEFT_OUT_LABEL
    return label


def label_counts(phases: xr.Dataset) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the pixels (257,) of each label, the last of those that were left out, a few rows at a time."""
    counts = np.zeros(LEFT_OUT_LABEL + 1, dtype=np.int64)
    for top, rows in strips(phases[LABEL]):
        counts += np.bincount(rows.ravel(), minlength=len(counts))
        if ANALYSED_PIXEL in phases.coords:
            analysed = phases[ANALYSED_PIXEL].isel({Y: slice(top, top + len(rows))}).values.astype(bool)
            left_out = np.count_nonzero((rows == UNASSIGNED) & ~analysed)
            counts[[UNASSIGNED, LEFT_OUT_LABEL]] += (-left_out, left_out)
    return counts
