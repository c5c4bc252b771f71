"""Percentages that add up to 100: not nearly, and not only before they are rounded."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np

__all__ = ["closed_percent"]

Array = np.ndarray[Any, Any]

_STEPS_OF_A_PERCENT = 2**46
"""100 of them still fit into a float64 to the last step, so that sums of such numbers are exact in any order."""


def closed_percent(parts: Iterable[float], *, decimals: int | None = None) -> Array:
    """Return ``parts`` in per cent of their sum, so that they add up to exactly 100.

    Each is rounded down to a whole number of steps, and the steps that are then missing go to those that lost most
    (largest remainders, the first of equal ones first). A step is 2^-46 (1.4e-14), where floats add up without
    rounding, or the last of ``decimals`` that are printed.

    Parameters
    ----------
    parts
        Numbers (n,) of 0 or more, one over 0: pixels, or weights.
    decimals
        Number of decimals to be printed.

    Returns
    -------
    ndarray
        (n,) float64. A part of 0 stays 0.

    Notes
    -----
    Memory: some hundred bytes a part.

    References
    ----------
    Balinski and Young, Fair Representation (1982), for the method of largest remainders (Hamilton's).
    """
    exact = [Fraction(part if isinstance(part, int) else float(part)) for part in parts]
    steps = _STEPS_OF_A_PERCENT if decimals is None else 10**decimals
    shares = [100 * steps * part / sum(exact) for part in exact]
    whole = [share.__floor__() for share in shares]
    lost = sorted(range(len(whole)), key=lambda place: (whole[place] - shares[place], place))
    for place in lost[: 100 * steps - sum(whole)]:
        whole[place] += 1
    return np.array([number / steps for number in whole], dtype=np.float64)
