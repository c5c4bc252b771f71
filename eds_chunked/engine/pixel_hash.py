"""Random bits for pixels, by their place in the map: what is drawn by them never depends on chunks or workers."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def random_keys(place: Array, *, seed: int, epoch: int = 0) -> Array:
    """Return 64 random bits for each place, different for all: splitmix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        start = np.uint64(seed + 1) * np.uint64(0xD1B54A32D192ED03) + np.uint64(epoch) * np.uint64(0xABC98388FB8FAC03)
        z = place.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))
