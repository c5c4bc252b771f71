"""The exclusive phase of a pixel: whose share of the counts is the largest, and how clearly."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["decide_by_share"]

Array = np.ndarray[Any, Any]


@njit(nogil=True, cache=True)
def _decide(
    loadings: Array, masks: Array, factor_sums: Array, mixed_margin: float, mixed: int, label: Array, margin: Array
) -> None:
    n = loadings.shape[0]
    for pixel in range(loadings.shape[1]):
        total, best, second, best_in_mask = 0.0, 0.0, 0.0, 0.0
        winner, held = 0, 0
        for component in range(n):
            value = np.float64(loadings[component, pixel])
            counts = 0.0
            if 0.0 < value < np.inf:
                counts = value * factor_sums[component]
            total += counts
            if counts > best:
                second, best = best, counts
            elif counts > second:
                second = counts
            if masks[component, pixel]:
                held += 1
                # The first mask wins with any count, zero included; a later one needs more than those before it.
                if winner == 0 or counts > best_in_mask:
                    winner, best_in_mask = component + 1, counts
        label[pixel], margin[pixel] = 0, 0
        if total > 0:
            clear = (best - second) / total
            margin[pixel] = clear
            label[pixel] = mixed if held > 1 and clear < mixed_margin else winner


def decide_by_share(
    loadings: Array, masks: Array, factor_sums: Array, *, mixed_margin: float, mixed: int
) -> tuple[Array, Array]:
    """Give every pixel the mask that has most of its counts, 0 where there is none.

    Parameters
    ----------
    loadings
        (components, pixels), float32 or float64; what is negative or not finite has no counts.
    masks
        (components, pixels), bool.
    factor_sums
        (components,), float64: counts of a unit loading.
    mixed_margin
        Margin under which several masks do not decide.
    mixed
        Label of a pixel where they do not.

    Returns
    -------
    label : (pixels,) uint8
    margin : (pixels,) float32
        Best share less the second best, over all components; 0 without counts, where the label is 0 too.
    """
    n_pixels = loadings.shape[1]
    label, margin = np.empty(n_pixels, np.uint8), np.empty(n_pixels, np.float32)
    _decide(
        np.ascontiguousarray(loadings),
        np.ascontiguousarray(masks),
        np.ascontiguousarray(factor_sums, np.float64),
        float(mixed_margin),
        int(mixed),
        label,
        margin,
    )
    return label, margin
