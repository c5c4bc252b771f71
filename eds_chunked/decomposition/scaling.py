"""Poisson scaling: weights that make the counting noise of all pixels and channels alike."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from eds_chunked.errors import CountsError, ParameterError

Array = np.ndarray[Any, Any]
Noise = Literal["poisson"] | None

POISSON: Noise = "poisson"


def check_noise(noise: str | None) -> None:
    """Raise ParameterError for a noise model that there is none of."""
    if noise not in (POISSON, None):
        raise ParameterError("noise", found=repr(noise), expected="'poisson' or None", fix="noise='poisson'")


def nonzero_or_one(sums: Array) -> Array:
    """Return float64 sums with zeros replaced by one: a dead pixel or channel stays zero when it is scaled."""
    sums = np.asarray(sums, np.float64)
    return np.where(sums > 0, sums, 1.0)


def check_not_empty(channel_sums: Array) -> None:
    """Raise CountsError if there is nothing to decompose."""
    if not np.any(channel_sums):
        raise CountsError(
            "counts of the selection",
            found="zero in every pixel and channel",
            expected="a map with counts",
            fix="select another energy window or region",
        )
