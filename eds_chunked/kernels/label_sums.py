"""Sums over a block of counts per label, for any number of labels, and where each label lies."""

from __future__ import annotations

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array, Csr


@njit(nogil=True, cache=True)
def _label_sums(indptr: Array, channel: Array, value: Array, row: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        if row[i] >= 0:
            sums = out[row[i]]
            for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
                sums[channel[k]] += value[k]


@njit(nogil=True, cache=True)
def _label_extents(row: Array, tile_row: Array, n_pixels: Array, first: Array, last: Array) -> None:
    for y in range(row.shape[0]):
        for x in range(row.shape[1]):
            r = row[y, x]
            if r >= 0:
                n_pixels[r] += 1
                first[r] = min(first[r], tile_row[y])
                last[r] = max(last[r], tile_row[y])


def label_sums(csr: Csr, row: Array, out: Array) -> None:
    """Add the counts of every pixel to the row of ``out`` (rows, channels) that it belongs to, in place.

    Parameters
    ----------
    csr
        Counts of a block.
    row
        (pixels,) int64 row of ``out`` of each pixel; pixels under 0 belong to none.
    out
        Sums so far; its dtype must hold them.
    """
    _label_sums(csr.indptr, csr.channel, csr.value, row, out)


def label_extents(row: Array, tile_row: Array, n_pixels: Array, first: Array, last: Array) -> None:
    """Count the pixels of every label in a strip of a map, and widen the rows of tiles that it reaches, in place.

    Parameters
    ----------
    row
        (y, x) int64 number of the label of each pixel from 0 on; pixels under 0 have none.
    tile_row
        (y,) row of tiles that each row of pixels lies in.
    n_pixels, first, last
        (labels,) int64 so far; ``first`` and ``last`` begin with the largest and the smallest number.
    """
    _label_extents(row, tile_row, n_pixels, first, last)
