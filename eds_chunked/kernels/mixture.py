"""Counts of pixels under each of many given spectra: how likely they are, and how they add up by spectrum."""

from __future__ import annotations

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array, Csr

_NEGLIGIBLE = 1e-8
"""Probability below which a pixel is not added to a spectrum: it would move one count in a hundred million."""


@njit(nogil=True, cache=True)
def _sum_logs(indptr: Array, channel: Array, value: Array, logs: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for at in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            c = channel[at]
            x = np.float64(value[at])
            for g in range(logs.shape[1]):
                out[i, g] += x * logs[c, g]


def log_likelihoods(csr: Csr, logs: Array) -> Array:
    """Return ``sum_j x_ij logs_jg``, how likely the counts of each pixel are under each spectrum: (pixels, spectra).

    What depends on the counts alone is left out.

    Parameters
    ----------
    csr
        Counts, (pixels, channels).
    logs
        float64 (channels, spectra): logarithms of the spectra, each of which sums to one.
    """
    out = np.zeros((csr.n_pixels, logs.shape[1]))
    _sum_logs(csr.indptr, csr.channel, csr.value, np.ascontiguousarray(logs), out)
    return out


@njit(nogil=True, cache=True)
def _add_counts(indptr: Array, channel: Array, value: Array, probability: Array, out: Array) -> None:
    likely = np.empty(probability.shape[1], np.int64)
    for i in range(len(indptr) - 1):
        n_likely = 0
        for g in range(probability.shape[1]):
            if probability[i, g] > _NEGLIGIBLE:
                likely[n_likely] = g
                n_likely += 1
        for at in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            c = channel[at]
            for n in range(n_likely):
                out[c, likely[n]] += value[at] * probability[i, likely[n]]


def add_counts_by_spectrum(csr: Csr, probability: Array, out: Array) -> None:
    """Add ``sum_i x_ij p_ig`` to ``out`` (channels, spectra), with p (pixels, spectra) to which a pixel belongs.

    Of most pixels few probabilities are more than nothing, and the time goes with those.
    """
    _add_counts(csr.indptr, csr.channel, csr.value, probability, out)
