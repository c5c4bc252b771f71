"""Where the grains are, and of which phase: any row can be computed alone.

Grains are the Voronoi cells of one point per square of a grid, placed at random within its square (Worley, SIGGRAPH
1996); the squares two away on each side hold every point that can be the nearest. Points and phases are hashes of the
square's position, so that nothing is stored and rows and columns outside the map exist too.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

# Squares are numbered from here, so that grain numbers are positive on both sides of the map's edge.
_ORIGIN = 1 << 20
_REACH = 2


def _hash(seed: int, stream: int, cy: Array, cx: Array) -> Array:
    """Return 64 random bits for every square."""
    bits = np.full(np.broadcast(cy, cx).shape, seed, np.uint64)
    for word in (np.array(stream, np.uint64), (cy + _ORIGIN).astype(np.uint64), (cx + _ORIGIN).astype(np.uint64)):
        bits = (bits ^ word) + np.uint64(0x9E3779B97F4A7C15)
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        bits ^= bits >> np.uint64(31)
    return bits


def _fraction(bits: Array) -> Array:
    return (bits >> np.uint64(11)) * 2.0**-53


def random_pixel(seed: int, ny: int, nx: int) -> tuple[int, int]:
    """Return the row and column of one pixel of the map."""
    bits = _hash(seed, 4, np.arange(2), np.zeros(2, np.int64))
    y, x = _fraction(bits) * (ny, nx)
    return int(y), int(x)


def pixel_fraction(y: Array, x: Array, *, seed: int) -> Array:
    """Return a random number of [0, 1) for every pixel."""
    return _fraction(_hash(seed, 5, y, x))


def voronoi_cells(y: Array, x: Array, *, size: float, seed: int) -> tuple[Array, Array]:
    """Return row and column of the grid square whose point is nearest to each pixel of rows ``y`` and columns ``x``."""
    cy, cx = np.floor(y / size).astype(np.int64), np.floor(x / size).astype(np.int64)
    # The points of the squares in reach, computed once: a square covers many pixels.
    grid_y = np.arange(cy[0] - _REACH, cy[-1] + _REACH + 1)
    grid_x = np.arange(cx[0] - _REACH, cx[-1] + _REACH + 1)
    point_y = (grid_y[:, None] + _fraction(_hash(seed, 1, grid_y[:, None], grid_x))) * size
    point_x = (grid_x + _fraction(_hash(seed, 2, grid_y[:, None], grid_x))) * size
    nearest = np.full((len(y), len(x)), np.inf)
    which = np.zeros((len(y), len(x)), np.int8)
    for step in range((2 * _REACH + 1) ** 2):
        dy, dx = divmod(step, 2 * _REACH + 1)
        square = np.ix_(cy - cy[0] + dy, cx - cx[0] + dx)
        distance = (y[:, None] - point_y[square]) ** 2 + (x - point_x[square]) ** 2
        closer = distance < nearest
        np.copyto(nearest, distance, where=closer)
        which[closer] = step
    down, right = np.divmod(which, np.int8(2 * _REACH + 1))
    return cy[:, None] + down - _REACH, cx + right - _REACH


def grain_number(cy: Array, cx: Array) -> Array:
    """Return a positive int64 for every square."""
    return ((cy + _ORIGIN) << 32) + cx + _ORIGIN


def grain_phase(cy: Array, cx: Array, *, shares: Array, seed: int) -> Array:
    """Return the phase (0..n-1, uint8) of every square's grain, drawn with the area ``shares``."""
    draw = _fraction(_hash(seed, 3, cy, cx))
    return np.searchsorted(np.cumsum(shares)[:-1], draw, side="right").astype(np.uint8)


def band_phase(y: Array, *, ny: int, shares: Array) -> Array:
    """Return the phase (0..n-1, uint8) of rows, one band a phase from the top; outside the map that of the edge."""
    depth = (np.clip(y, 0, ny - 1) + 0.5) / ny
    return np.searchsorted(np.cumsum(shares)[:-1], depth, side="right").astype(np.uint8)


def blurred_shares(phase: Array, *, n_phases: int, taps: Array) -> Array:
    """Return the shares of the phases (rows, columns, n_phases) after a blur; smaller by the reach of the taps."""
    rows, columns = (n - len(taps) + 1 for n in phase.shape)
    shares = np.zeros((rows, columns, n_phases))
    for p in range(n_phases):
        here = phase == p
        along_y = np.zeros((rows, phase.shape[1]))
        for k, tap in enumerate(taps):
            along_y += tap * here[k : k + rows]
        for k, tap in enumerate(taps):
            shares[:, :, p] += tap * along_y[:, k : k + columns]
    return shares
