"""The Gram matrix of a sparse block, and its product with a few spectra.

Loops over values run over unsigned numbers, for the reason that :mod:`eds_chunked.kernels.reduce` gives.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array, Csr

FULL = 0.25
"""A channel that is not zero in more than this share of the pixels is worked on as a dense column."""

FEWEST_FULL = 64
"""With fewer such channels there is nothing to gain from them."""

MOST_COLUMNS = 512
"""Full channels that are worked on together; bounds the memory."""

_CACHED_BYTES = 600_000
"""Dense columns of so many pixels are held at once that they stay in the second-level cache."""


@njit(nogil=True, cache=True)
def _pixels_by_channel(channel: Array, n_pixels: Array) -> None:
    for k in range(len(channel)):
        n_pixels[channel[k]] += 1


@njit(nogil=True, cache=True)
def _entries_by_channel(indptr: Array, channel: Array, start: Array, pixel: Array, entry: Array) -> None:
    for k in range(len(channel)):
        start[channel[k] + 1] += 1
    for c in range(len(start) - 1):
        start[c + 1] += start[c]
    fill = start[:-1].copy()
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            at = fill[channel[k]]
            pixel[at] = i
            entry[at] = k
            fill[channel[k]] += 1


@njit(nogil=True, cache=True, fastmath={"contract"})
def _upper_gram(
    indptr: Array, channel: Array, value: Array, weight: Array, start: Array, pixel: Array, entry: Array, gram: Array
) -> None:
    # Channel by channel, so that one row of the matrix stays in the first-level cache while it is added to.
    for c in range(gram.shape[0]):
        row = gram[c]
        for at in range(start[c], start[c + 1]):
            i = pixel[at]
            k = entry[at]
            scaled = weight[i] * value[k]
            for j in range(np.uint64(k), np.uint64(indptr[i + 1])):
                row[channel[j]] += scaled * value[j]


@njit(nogil=True, cache=True)
def _set_apart(
    indptr: Array, channel: Array, value: Array, full: Array, rest_indptr: Array, rest_channel: Array, rest_value: Array
) -> None:
    k_rest = 0
    rest_indptr[0] = 0
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            if not full[channel[k]]:
                rest_channel[k_rest] = channel[k]
                rest_value[k_rest] = value[k]
                k_rest += 1
        rest_indptr[i + 1] = k_rest


@njit(nogil=True, cache=True)
def _scatter_columns(indptr: Array, channel: Array, value: Array, column: Array, dense: Array) -> None:
    for i in range(len(indptr) - 1):
        row = dense[i]
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            at = column[channel[k]]
            if at >= 0:
                row[at] = value[k]


@njit(nogil=True, cache=True, fastmath={"contract"})
def _times_columns(
    value: Array, weight: Array, start: Array, pixel: Array, entry: Array, first: Array, dense: Array, out: Array
) -> None:
    # Four pixels at a time: one load and store of the row for four products.
    for c in range(len(start) - 1):
        f = first[c]
        row = out[c, f:]
        at, stop = start[c], start[c + 1]
        while at + 4 <= stop:
            i0, i1, i2, i3 = pixel[at], pixel[at + 1], pixel[at + 2], pixel[at + 3]
            s0 = weight[i0] * value[entry[at]]
            s1 = weight[i1] * value[entry[at + 1]]
            s2 = weight[i2] * value[entry[at + 2]]
            s3 = weight[i3] * value[entry[at + 3]]
            d0, d1, d2, d3 = dense[i0, f:], dense[i1, f:], dense[i2, f:], dense[i3, f:]
            for j in range(len(row)):
                row[j] += s0 * d0[j] + s1 * d1[j] + s2 * d2[j] + s3 * d3[j]
            at += 4
        while at < stop:
            scaled = weight[pixel[at]] * value[entry[at]]
            single = dense[pixel[at], f:]
            for j in range(len(row)):
                row[j] += scaled * single[j]
            at += 1


@njit(nogil=True, cache=True)
def _add_columns(columns: Array, first: Array, out: Array, gram: Array) -> None:
    # Sixteen rows at a time: below the diagonal they are neighbours in a row of the upper triangle.
    n = out.shape[0]
    for c0 in range(0, n, 16):
        c1 = min(n, c0 + 16)
        for j in range(len(columns)):
            d = columns[j]
            for c in range(c0, c1):
                if j >= first[c]:
                    if d >= c:
                        gram[c, d] += out[c, j]
                    else:
                        gram[d, c] += out[c, j]


def add_gram(csr: Csr, weight: Array, gram: Array) -> None:
    """Add ``X' diag(weight) X`` of the block to the upper triangle of ``gram`` (channels, channels), in place.

    Pairs of non-zero values, one after the other; but where many channels are rarely zero these are taken as dense
    columns, and only the pairs of the other channels are left.

    Parameters
    ----------
    csr
        Counts X of the block, (pixels, channels).
    weight
        float64 (pixels,); a pixel of weight 0 adds nothing.
    gram
        float64 (channels, channels); only its upper triangle is touched.
    """
    n_pixels = np.zeros(csr.n_channels, np.int64)
    _pixels_by_channel(csr.channel, n_pixels)
    full = n_pixels > FULL * csr.n_pixels
    columns = np.flatnonzero(full)
    if len(columns) < FEWEST_FULL:
        _add_pairs(csr, weight, gram)
        return
    n_groups = -(-len(columns) // MOST_COLUMNS)
    for group in np.array_split(columns, n_groups):
        _add_full(csr, weight, full, group, gram)
    n_rest = int(n_pixels[~full].sum())
    rest = csr._replace(
        indptr=np.empty_like(csr.indptr),
        channel=np.empty(n_rest, csr.channel.dtype),
        value=np.empty(n_rest, csr.value.dtype),
    )
    _set_apart(csr.indptr, csr.channel, csr.value, full, rest.indptr, rest.channel, rest.value)
    _add_pairs(rest, weight, gram)


def _add_pairs(csr: Csr, weight: Array, gram: Array) -> None:
    start, pixel, entry = _by_channel(csr)
    _upper_gram(csr.indptr, csr.channel, csr.value, weight, start, pixel, entry, gram)


def _add_full(csr: Csr, weight: Array, full: Array, group: Array, gram: Array) -> None:
    """Add the pairs of every channel with those of ``group``; of two full channels the pair counts once."""
    column = np.full(csr.n_channels, -1, np.int32)
    column[group] = np.arange(len(group))
    first = np.zeros(csr.n_channels, np.int32)
    first[full] = np.searchsorted(group, np.flatnonzero(full))
    out = np.zeros((csr.n_channels, len(group)))
    # Counts of 16 bits are exact in 32.
    narrow = csr.value.dtype.itemsize <= 2 or csr.value.dtype == np.float32
    dtype = np.dtype(np.float32 if narrow else np.float64)
    step = max(64, _CACHED_BYTES // (len(group) * dtype.itemsize))
    for i in range(0, csr.n_pixels, step):
        indptr = csr.indptr[i : i + step + 1]
        values = slice(indptr[0], indptr[-1])
        part = Csr(indptr - indptr[0], csr.channel[values], csr.value[values], csr.n_channels)
        dense = np.zeros((part.n_pixels, len(group)), dtype)
        _scatter_columns(part.indptr, part.channel, part.value, column, dense)
        start, pixel, entry = _by_channel(part)
        _times_columns(part.value, weight[i : i + step], start, pixel, entry, first, dense, out)
    _add_columns(group, first, out, gram)


def _by_channel(csr: Csr) -> tuple[Array, Array, Array]:
    """Return where the entries of each channel begin, and of every entry its pixel and its place in the rows."""
    n = len(csr.channel)
    start = np.zeros(csr.n_channels + 1, np.int64)
    pixel = np.empty(n, np.int32)
    entry = np.empty(n, np.int32 if n < 2**31 else np.int64)
    _entries_by_channel(csr.indptr, csr.channel, start, pixel, entry)
    return start, pixel, entry


def symmetrise(gram: Array) -> None:
    """Copy the upper triangle onto the lower one, in place."""
    n = len(gram)
    for first in range(0, n, 256):
        rows = slice(first, min(n, first + 256))
        gram[rows.stop :, rows] = gram[rows, rows.stop :].T
        square = gram[rows, rows]
        gram[rows, rows] = np.triu(square) + np.triu(square, 1).T


@njit(nogil=True, cache=True)
def _project(indptr: Array, channel: Array, value: Array, spectra: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            c = channel[k]
            for j in range(spectra.shape[1]):
                out[i, j] += value[k] * spectra[c, j]


def project(csr: Csr, spectra: Array) -> Array:
    """Return ``X @ spectra`` for spectra (channels, components): (pixels, components) float64."""
    out = np.zeros((csr.n_pixels, spectra.shape[1]))
    _project(csr.indptr, csr.channel, csr.value, np.ascontiguousarray(spectra, np.float64), out)
    return out


@njit(nogil=True, cache=True)
def _back_project(indptr: Array, channel: Array, value: Array, weighted: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for at in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            c = channel[at]
            for k in range(weighted.shape[1]):
                out[c, k] += value[at] * weighted[i, k]


def add_back_projection(csr: Csr, weighted: Array, out: Array) -> None:
    """Add ``X' W`` for W (pixels, components) to ``out`` (channels, components), in place."""
    _back_project(csr.indptr, csr.channel, csr.value, weighted, out)


@njit(nogil=True, cache=True, fastmath={"contract"})
def _add_product(indptr: Array, channel: Array, value: Array, weight: Array, spectra: Array, out: Array) -> None:
    projected = np.empty(spectra.shape[1])
    for i in range(len(indptr) - 1):
        projected[:] = 0
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            v, spectrum = float(value[k]), spectra[channel[k]]
            for j in range(len(projected)):
                projected[j] += v * spectrum[j]
        projected *= weight[i]
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            v, row = float(value[k]), out[channel[k]]
            for j in range(len(projected)):
                row[j] += v * projected[j]


def add_product(csr: Csr, weight: Array, spectra: Array, out: Array) -> None:
    """Add ``X' diag(weight) X @ spectra`` of the block to ``out``, in place; both float64 (channels, spectra)."""
    _add_product(csr.indptr, csr.channel, csr.value, weight, spectra, out)


@njit(nogil=True, cache=True)
def _weighted_squares(indptr: Array, channel: Array, value: Array, weight: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            v = float(value[k])
            out[i] += v * v * weight[channel[k]]


def weighted_squares(csr: Csr, weight: Array) -> Array:
    """Return the sum over channels of ``weight * X^2``: (pixels,) float64, for weights (channels,)."""
    out = np.zeros(csr.n_pixels)
    _weighted_squares(csr.indptr, csr.channel, csr.value, weight, out)
    return out
