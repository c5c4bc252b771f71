"""Rebinning: the counts of neighbouring pixels and channels added up, from CSR to CSR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array, Csr, channel_dtype, concatenate


@njit(nogil=True, cache=True)
def _merge(
    indptr: Array,
    channel: Array,
    value: Array,
    height: int,
    columns: int,
    per_bin: int,
    sums: Array,
    out_indptr: Array,
    out_channel: Array,
    out_value: Array,
) -> None:
    bins = len(out_indptr) - 1
    width = (len(indptr) - 1) // height
    n = 0
    for b in range(bins):
        # Only the part of the sums that was touched is looked at and set back to zero.
        first, last = len(sums), -1
        for row in range(height):
            begin = row * width + b * columns
            for k in range(indptr[begin], indptr[begin + columns]):
                c = int(channel[k]) // per_bin
                sums[c] += np.uint64(value[k])
                first = min(first, c)
                last = max(last, c)
        for c in range(first, last + 1):
            if sums[c]:
                out_channel[n] = c
                out_value[n] = sums[c]
                sums[c] = 0
                n += 1
        out_indptr[b + 1] = n


def merge_rows(rows: Sequence[Csr], *, columns: int, channels: int) -> Csr:
    """Add up one row of bins: all ``rows``, every ``columns`` pixels in them and every ``channels`` channels.

    Parameters
    ----------
    rows
        Blocks of one row of pixels each, of the same number of pixels and channels; both are multiples of what is
        merged.
    columns, channels
        Pixels along a row, and channels, that make one bin.

    Returns
    -------
    One pixel a bin. Sums are made in 64 bits; the values have the narrowest type that holds the largest of them.
    """
    block = concatenate(list(rows))
    n_channels = block.n_channels // channels
    bins = rows[0].n_pixels // columns
    # Every value adds to one bin, so there are no more sums than values.
    out_channel = np.empty(len(block.value), channel_dtype(n_channels))
    out_value = np.empty(len(block.value), np.uint64)
    indptr = np.zeros(bins + 1, np.int64)
    sums = np.zeros(n_channels, np.uint64)
    _merge(block.indptr, block.channel, block.value, len(rows), columns, channels, sums, indptr, out_channel, out_value)
    found = out_value[: indptr[-1]]
    dtype = np.min_scalar_type(int(found.max(initial=0)))
    return Csr(indptr, out_channel[: indptr[-1]].copy(), found.astype(dtype), n_channels)


def one_row(block: Csr, row: int, *, width: int) -> Csr:
    """Return a copy of row ``row`` of a block whose rows have ``width`` pixels."""
    indptr: Array = block.indptr[row * width : (row + 1) * width + 1]
    inside: Any = slice(indptr[0], indptr[-1])
    return Csr(indptr - indptr[0], block.channel[inside].copy(), block.value[inside].copy(), block.n_channels)
