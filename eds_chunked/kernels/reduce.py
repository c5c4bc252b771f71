"""Sums over a block of counts: per channel, per pixel, per mask, and the maximum-pixel spectrum.

Loops over values run over unsigned numbers: of a signed index numba asks every time whether it is negative, which takes
as long as the sum.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array, Csr


@njit(nogil=True, cache=True)
def _channel_sums(channel: Array, value: Array, out: Array) -> None:
    for k in range(len(channel)):
        out[channel[k]] += value[k]


@njit(nogil=True, cache=True)
def _weighted_channel_sums(indptr: Array, channel: Array, value: Array, weight: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            out[channel[k]] += weight[i] * value[k]


@njit(nogil=True, cache=True)
def _pixel_sums(indptr: Array, value: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            out[i] += value[k]


@njit(nogil=True, cache=True)
def _mask_sums(indptr: Array, channel: Array, value: Array, mask: Array, out: Array) -> None:
    for row in range(mask.shape[0]):
        inside, sums = mask[row], out[row]
        for i in range(len(indptr) - 1):
            if inside[i]:
                for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
                    sums[channel[k]] += value[k]


@njit(nogil=True, cache=True)
def _max_spectrum(indptr: Array, channel: Array, value: Array, largest: Array, owner: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            c = channel[k]
            if value[k] > largest[c]:
                largest[c] = value[k]
                owner[c] = i


def sum_dtype(csr: Csr) -> type[np.uint64] | type[np.float64]:
    """Sums of integer counts are exact in uint64; anything else is summed in float64."""
    return np.uint64 if csr.value.dtype.kind == "u" else np.float64


def channel_sums(csr: Csr) -> Array:
    """Sum over pixels: (channels,), exact for integers."""
    out = np.zeros(csr.n_channels, sum_dtype(csr))
    _channel_sums(csr.channel, csr.value, out)
    return out


def weighted_channel_sums(csr: Csr, weight: Array) -> Array:
    """Sum over pixels of weight times counts: (channels,) float64."""
    out = np.zeros(csr.n_channels)
    _weighted_channel_sums(csr.indptr, csr.channel, csr.value, weight, out)
    return out


def pixel_sums(csr: Csr) -> Array:
    """Sum over channels: (pixels,), exact for integers."""
    out = np.zeros(csr.n_pixels, sum_dtype(csr))
    _pixel_sums(csr.indptr, csr.value, out)
    return out


def mask_sums(csr: Csr, mask: Array) -> Array:
    """Sum over the pixels of each of the masks (masks, pixels), which may overlap: (masks, channels)."""
    out = np.zeros((mask.shape[0], csr.n_channels), sum_dtype(csr))
    _mask_sums(csr.indptr, csr.channel, csr.value, mask, out)
    return out


def max_spectrum(csr: Csr) -> tuple[Array, Array]:
    """Return the largest count of each channel and the first pixel that has it (-1 where the channel is empty)."""
    largest = np.zeros(csr.n_channels, csr.value.dtype)
    owner = np.full(csr.n_channels, -1, np.int64)
    _max_spectrum(csr.indptr, csr.channel, csr.value, largest, owner)
    return largest, owner
