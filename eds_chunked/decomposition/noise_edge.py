"""How many components are more than counting noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from eds_chunked.decomposition.gram_pass import GramSums

Array = np.ndarray[Any, Any]

CHANNEL_FLOOR = 10
"""Channels of fewer counts are left out: their scaled noise is not Gaussian."""

_TRACY_WIDOM_99 = 2.02


def noise_edge(n_pixels: int, n_channels: int) -> float:
    """Return the largest eigenvalue that noise alone gives in 99 of 100 maps, for unit noise averaged over pixels.

    Parameters
    ----------
    n_pixels, n_channels
        Size of the matrix whose Gram matrix is meant.

    References
    ----------
    Johnstone (2001), Annals of Statistics 29, 295: the largest eigenvalue of a white Wishart matrix follows the
    Tracy-Widom law about (sqrt(N) + sqrt(E))^2.
    """
    s = np.sqrt(n_pixels) + np.sqrt(n_channels)
    width = s * (1 / np.sqrt(n_pixels) + 1 / np.sqrt(n_channels)) ** (1 / 3)
    return float((s**2 + _TRACY_WIDOM_99 * width) / n_pixels)


def kept_channels(counts: Array, weighted: Array, n_pixels: int) -> Array:
    """Return the indices of the channels that the rule looks at; none if fewer than two pixels or channels are left.

    Parameters
    ----------
    counts, weighted
        Of each channel the sum of X_ij, and of X_ij / a_i, over pixels that are not too faint.
    n_pixels
        Number of those pixels.
    """
    keep = np.flatnonzero((counts >= CHANNEL_FLOOR) & (weighted > 0))
    return keep if len(keep) >= 2 and n_pixels >= 2 else keep[:0]


def unit_noise(gram: Array, sums: GramSums) -> Array:
    """Return the Gram matrix of the counts scaled so that the noise of every channel is 1.

    Its eigenvalues over :func:`noise_edge` of as many pixels and channels are signal above 1. The matrix is scaled by
    u_j = sum_i X_ij / a_i, which makes the noise of a channel 1 whatever the brightness of the pixels; the
    Keenan-Kotula scaling does so only if all phases are equally bright. Pixels and channels with too few counts are
    left out first.

    Parameters
    ----------
    gram
        float64 (channels, channels), whole: X' diag(1/a) X.
    sums
        The sums of the same pass.

    Returns
    -------
    float64 (channels left, channels left); empty if fewer than two pixels or channels are left.
    """
    keep = kept_channels(sums.channel - sums.faint_channel, sums.weighted, sums.n_bright)
    if len(keep) == 0:
        return np.empty((0, 0))
    scaled: Array = gram[np.ix_(keep, keep)] - sums.faint[keep][:, keep].toarray()
    root = np.sqrt(sums.weighted[keep])
    scaled /= root[:, None]
    scaled /= root
    return scaled
