"""The zero (strobe) peak: pulses of no energy that the detector's electronics puts into the spectrum."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from eds_chunked.errors import ParameterError

Array = np.ndarray[Any, Any]

NEAR_ZERO_KEV = 0.15
"""How far from 0 keV a calibrated axis may show it. The first line of common elements is carbon's, 0.28 keV."""
FIRST_CHANNELS = 128
"""Where it is looked for on an axis whose offset is not known: detectors keep some 50 to 100 channels below 0 keV."""

_WIDEST_KEV = 0.12
_FOOT = 0.02
"""Electronics rejects the smallest X-ray pulses, so the peak stands alone: both its feet are below this share of it."""
_LEAST_COUNTS = 30
_MOST_SKEWED = 0.5
"""An edge where noise sets in has a skewness of 1 to 2, a Gaussian none."""


def zero_peak_channel(spectrum: Array, *, scale: float, offset: float | None, before: float = 0.0) -> float:
    """Find the zero peak and return its centroid in channels from channel 0, to a small fraction of a channel.

    It is the lowest peak of the spectrum that is narrow, symmetric, and stands alone: nothing below it, a gap above.

    Parameters
    ----------
    spectrum
        (channels,) counts.
    scale
        keV per channel.
    offset
        keV of channel 0 where it is known: the peak then is sought within 0.15 keV of 0. None: in the first channels.
    before
        Channels from channel 0 to the first of ``spectrum``, where that is a part.

    Raises
    ------
    ParameterError
        There is no such peak.
    """
    counts = np.asarray(spectrum, np.float64)
    channels = before + np.arange(len(counts))
    energy = (offset or 0.0) + scale * channels
    near = channels < FIRST_CHANNELS if offset is None else np.abs(energy) <= NEAR_ZERO_KEV
    for channel in np.flatnonzero(near):
        centroid = _centroid_of_lone_peak(counts, int(channel), scale)
        if centroid is not None:
            return before + centroid
    raise _no_peak(counts, scale, offset, before)


def _centroid_of_lone_peak(counts: Array, top: int, scale: float) -> float | None:
    """Return the centroid of the peak whose highest channel is ``top``, or None if there is none or it is another's."""
    height = counts[top]
    reach = max(2, math.ceil(NEAR_ZERO_KEV / scale))
    first = max(0, top - reach)
    left, right = counts[first : top + 1][::-1], counts[top : top + reach + 1]
    if height < _LEAST_COUNTS or height < max(left.max(), right.max()):
        return None
    if max(left.min(), right.min()) > _FOOT * height:
        return None
    foot = top - int(np.argmax(left <= _FOOT * height))
    if counts[:foot].sum() > _FOOT * counts[foot : top + reach + 1].sum():
        return None
    width = _half_width(left) + _half_width(right)
    if width * scale > _WIDEST_KEV + scale:
        return None
    # 1.5 widths hold all but 0.05 % of a Gaussian, so that where the window ends does not move the mean; what comes
    # after the valley beside the peak is something else.
    n = max(2, math.ceil(1.5 * width)) + 1
    left, right = counts[max(0, top - n) : top + 1][::-1], counts[top : top + n + 1]
    before, after = int(np.argmin(left)), int(np.argmin(right))
    channels = np.arange(top - before, top + after + 1)
    background = np.interp(channels, [channels[0], channels[-1]], [left[before], right[after]])
    peak = np.clip(counts[channels] - background, 0, None)
    centroid = float(peak @ channels / peak.sum())
    away = channels - centroid
    spread = math.sqrt(peak @ away**2 / peak.sum())
    skewness = float(peak @ away**3 / peak.sum()) / max(spread, 1e-9) ** 3
    return centroid if abs(skewness) <= _MOST_SKEWED else None


def _half_width(flank: Array) -> float:
    """Channels from the top, ``flank[0]``, to where a flank passes half of it."""
    under = int(np.argmax(flank <= flank[0] / 2))
    upper, lower = flank[under - 1], flank[under]
    return under - 1 + float((upper - flank[0] / 2) / (upper - lower))


def _no_peak(counts: Array, scale: float, offset: float | None, before: float) -> ParameterError:
    expected = "a narrow symmetric peak that stands alone"
    fix = "state energy_offset, the keV of channel 0, in place of zero_peak"
    if offset is None:
        return ParameterError(
            "zero_peak", found=f"no such peak in the first {FIRST_CHANNELS} channels", expected=expected, fix=fix
        )
    first, last = offset + scale * before, offset + scale * (before + len(counts) - 1)
    found = f"none within {NEAR_ZERO_KEV} keV of 0 on an axis from {first:.4g} to {last:.4g} keV"
    for channel in range(min(FIRST_CHANNELS, len(counts))):
        centroid = _centroid_of_lone_peak(counts, channel, scale)
        if centroid is not None:
            found += f", but one at {first + scale * centroid:.4g} keV"
            fix = f"energy_offset={-scale * (before + centroid):.6g}, if that is the zero peak"
            break
    return ParameterError("zero_peak", found=found, expected=expected, fix=fix)
