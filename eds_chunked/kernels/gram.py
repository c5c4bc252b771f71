"""The Gram matrix of a sparse block, and its projection on a few spectra.

Loops over values run over unsigned numbers, for the reason that :mod:`eds_chunked.kernels.reduce` gives.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array, Csr


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


def add_gram(csr: Csr, weight: Array, gram: Array) -> None:
    """Add ``X' diag(weight) X`` of the block to the upper triangle of ``gram`` (channels, channels), in place.

    Parameters
    ----------
    csr
        Counts X of the block, (pixels, channels).
    weight
        float64 (pixels,); a pixel of weight 0 adds nothing.
    gram
        float64 (channels, channels); only its upper triangle is touched.
    """
    n = len(csr.channel)
    start = np.zeros(csr.n_channels + 1, np.int64)
    pixel = np.empty(n, np.int32)
    entry = np.empty(n, np.int32 if n < 2**31 else np.int64)
    _entries_by_channel(csr.indptr, csr.channel, start, pixel, entry)
    _upper_gram(csr.indptr, csr.channel, csr.value, weight, start, pixel, entry, gram)


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
