"""How far the counts of a block are from a low-rank model of them, in units of the counting noise of the model."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array, Csr


class ChiSquare(NamedTuple):
    """Sums of squared residuals over the variance that the model foretells, and of the channels that the model has.

    A channel of a pixel whose model mean is under the floor counts in part: its mean over the floor. With the true
    model the expected value of every sum of squares is the sum of channels beside it.
    """

    of_pixel: Array
    channels_of_pixel: Array
    of_channel: Array
    pixels_of_channel: Array


# The work is three loops over all channels of a pixel, which the compiler turns into vector instructions: the model is
# summed in single precision (that of loadings in the store), everything else in double. No value is NaN.
@njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nnan", "nsz"})
def _add(
    indptr: Array,
    channel: Array,
    value: Array,
    loadings: Array,
    factors: Array,
    floor: Array,
    of_pixel: Array,
    channels_of_pixel: Array,
    of_channel: Array,
    pixels_of_channel: Array,
) -> None:
    n_channels = factors.shape[1]
    mean = np.empty(n_channels, np.float32)
    zero, one = np.float32(0), np.float32(1)
    for i in range(len(indptr) - 1):
        mean[:] = zero
        for k in range(factors.shape[0]):
            weight = loadings[i, k]
            if weight != zero:
                factor = factors[k]
                for c in range(n_channels):
                    mean[c] += weight * factor[c]
        lowest = np.float32(floor[i])
        per_floor = one / lowest
        total = 0.0
        channels = 0.0
        # What a channel adds without counts, m^2 / max(m, floor); those with counts get the difference below.
        for c in range(n_channels):
            m = max(mean[c], zero)
            mean[c] = m
            part = min(m * per_floor, one)
            square = m * part
            total += square
            channels += part
            of_channel[c] += square
            pixels_of_channel[c] += part
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            c = channel[k]
            x = float(value[k])
            m = float(mean[c])
            more = x * (x - 2.0 * m) / max(m, float(lowest))
            total += more
            of_channel[c] += more
        of_pixel[i] = total
        channels_of_pixel[i] = channels


def chi_square(csr: Csr, loadings: Array, factors: Array, floor: Array) -> ChiSquare:
    """Sum ``(x - m)^2 / max(m, floor)`` over channels and over pixels, m = loadings . factors where that is positive.

    Parameters
    ----------
    csr
        Counts x of the block, (pixels, channels).
    loadings, factors
        float32 (pixels, components) and (components, channels), finite.
    floor
        float64 (pixels,), positive: the least variance that a channel of the pixel is taken to have.

    References
    ----------
    Pearson (1900), Philosophical Magazine 50, 157: the variance of a count is its mean under the model. With the count
    itself in its place (Neyman 1949) a sum over low counts falls short, at 0.05 counts a channel by 20 times.
    """
    sums = ChiSquare(*(np.zeros(n) for n in (csr.n_pixels, csr.n_pixels, csr.n_channels, csr.n_channels)))
    _add(csr.indptr, csr.channel, csr.value, loadings, factors, floor, *sums)
    return sums
