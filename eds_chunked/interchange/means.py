"""The mean that a centred decomposition took off, as HyperSpy keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.errors import ChunkLayoutError

Array = np.ndarray[Any, Any]

CENTRE = "centre"
MEAN = "mean"
POISSON_SCALED = "poissonian_noise_normalized"
NAVIGATION_MASK = "navigation_mask"
SIGNAL_MASK = "signal_mask"
# HyperSpy's names.

MEAN_IS_FIRST = "mean_is_first_component"
"""Ours, beside HyperSpy's: the first component is no component but the mean.

HyperSpy 2.5 cannot rebuild its own model where the mean is a spectrum (``get_decomposition_model`` takes any mean for
one number a pixel), and of scaled counts what was taken off is another multiple of the spectrum in each pixel. As a
component it is neither, and the model is right.
"""

OVER_PIXELS = "navigation"
"""HyperSpy's word for a mean spectrum; scikit-learn's estimators leave one, too."""
_OVER_CHANNELS = "signal"


class Mean(NamedTuple):
    """What was taken off: ``spectrum`` (channels,) times ``loading`` (pixels)."""

    spectrum: Array
    loading: Array

    @property
    def variance(self) -> float:
        """What it explains of counts that are not scaled: its sum of squares a pixel that is not masked."""
        return float(np.nansum(self.spectrum**2) * np.nanmean(self.loading**2))


def is_first_component(found: Mapping[str, Any]) -> bool:
    """Tell whether the mean is the first component; it is no more after another decomposition of the same signal."""
    return bool(found.get(MEAN_IS_FIRST)) and found.get(CENTRE) is not None and found.get(MEAN) is None


def is_lost(found: Mapping[str, Any]) -> bool:
    """Tell whether there was a mean that is not known, so that loadings . factors are no model of the counts."""
    return found.get(CENTRE) is not None and found.get(MEAN) is None and not is_first_component(found)


def is_a_number_a_pixel(found: Mapping[str, Any]) -> bool:
    """Tell whether the mean is one over the channels of every pixel; else it is a spectrum."""
    return found.get(CENTRE) == _OVER_CHANNELS


def with_whole_mean(found: Mapping[str, Any], *, n_pixels: int, n_channels: int, where: str) -> dict[str, Any]:
    """Return HyperSpy's members with the mean of all pixels (n_pixels,) or channels (n_channels,).

    HyperSpy's is of those that it did not mask; the others are NaN here. The mean of scaled counts is left out: it is
    not scaled back in HyperSpy, and the scales are lost.

    Raises
    ------
    ChunkLayoutError
        It has another number of values.
    """
    members = dict(found)
    if members.get(MEAN) is None:
        return members
    members[CENTRE] = members.get(CENTRE) or OVER_PIXELS
    mean = np.asarray(members.pop(MEAN), np.float64).ravel()
    of_pixels = is_a_number_a_pixel(members)
    size = n_pixels if of_pixels else n_channels
    left_out = members.get(NAVIGATION_MASK if of_pixels else SIGNAL_MASK)
    used = np.ones(size, np.bool_) if left_out is None else ~np.asarray(left_out, np.bool_).ravel()
    if mean.size not in (size, used.sum()):
        raise ChunkLayoutError(
            f"{MEAN} in {where}",
            found=f"{mean.size} values",
            expected=f"{size}, one for each {'pixel' if of_pixels else 'channel'}, or for those that are not masked",
            fix="save the learning results again",
        )
    if not members.get(POISSON_SCALED):
        members[MEAN] = np.full(size, np.nan)
        members[MEAN][used if mean.size < size else slice(None)] = mean
    return members


def mean_of(found: Mapping[str, Any], *, pixels: Array, channels: Array) -> Mean | None:
    """Return the mean of :func:`with_whole_mean` as a product; ``pixels`` and ``channels`` tell where a model is."""
    if found.get(MEAN) is None:
        return None
    mean = np.asarray(found[MEAN], np.float64).ravel()
    if is_a_number_a_pixel(found):
        return Mean(np.where(channels, 1.0, np.nan), mean)
    return Mean(mean, np.where(pixels, 1.0, np.nan))
