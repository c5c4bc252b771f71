"""Pieces of maps that may be lazy, for whoever works on a piece at a time."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np


def piece(values: Any, *place: slice) -> np.ndarray[Any, Any]:
    """Return a piece of an array in memory, or of a lazy one, whose chunks are read here, by this thread."""
    part = values[place] if place else values
    if isinstance(part, da.Array):
        part = part.compute(scheduler="synchronous")
    return np.asarray(part)
