"""Sums, outlines and convex hulls of the numbered grains of a window: all that their table is computed from.

Whatever is summed is a whole number relative to a grain's own first pixel: a grain comes out the same, to the last bit,
in whichever window it lies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["HULL", "OUTLINE", "SUMS", "grain_hulls", "grain_outlines", "grain_sums"]

Array = np.ndarray[Any, Any]

SUMS = ("n", "top", "first", "bottom", "left", "right", "y", "x", "yy", "xx", "yx", "rows", "columns", "down", "up")
"""What ``grain_sums`` gives: pixels; first row and the column of its first pixel, last row, outermost columns; sums of
row and column, counted from the first pixel, and of their products; crossings of the outline by lines along rows,
columns and the diagonals that go down and up to the right."""

OUTLINE = ("along_x", "along_y", "corners", "enclosed")
"""What ``grain_outlines`` gives: pixel sides along x and along y, corners as ImageJ counts them, pixels enclosed."""

HULL = ("feret", "y", "x", "rise", "run", "min_feret", "area")
"""What ``grain_hulls`` gives: longest distance; its left end, counted from the grain's first row and leftmost column,
and the way to the other end, up and to the right, in pixels; smallest width; area in pixels."""

_N, _TOP, _FIRST, _BOTTOM, _LEFT, _RIGHT = range(6)


@njit(nogil=True, cache=True)
def grain_sums(grain: Array, n: int) -> Array:
    """Sum over the pixels of each grain.

    Parameters
    ----------
    grain
        (y, x) numbers 1..n, 0 where there is none; what lies beyond the array is no grain.
    n
        Number of grains.

    Returns
    -------
    array
        (n, 15) int64, the columns of :data:`SUMS`.
    """
    n_rows, n_columns = grain.shape
    out = np.zeros((n, 15), np.int64)
    for y in range(n_rows):
        for x in range(n_columns):
            own = grain[y, x]
            if own == 0:
                continue
            sums = out[own - 1]
            if sums[_N] == 0:
                sums[_TOP], sums[_FIRST], sums[_LEFT], sums[_RIGHT] = y, x, x, x
            sums[_N] += 1
            sums[_BOTTOM] = y
            sums[_LEFT] = min(sums[_LEFT], x)
            sums[_RIGHT] = max(sums[_RIGHT], x)
            dy, dx = y - sums[_TOP], x - sums[_FIRST]
            sums[6] += dy
            sums[7] += dx
            sums[8] += dy * dy
            sums[9] += dx * dx
            sums[10] += dy * dx
            above, below, before, behind = y == 0, y == n_rows - 1, x == 0, x == n_columns - 1
            sums[11] += (before or grain[y, x - 1] != own) + (behind or grain[y, x + 1] != own)
            sums[12] += (above or grain[y - 1, x] != own) + (below or grain[y + 1, x] != own)
            sums[13] += above or before or grain[y - 1, x - 1] != own
            sums[13] += below or behind or grain[y + 1, x + 1] != own
            sums[14] += below or before or grain[y + 1, x - 1] != own
            sums[14] += above or behind or grain[y - 1, x + 1] != own
    return out


@njit(nogil=True, cache=True)
def _is(grain: Array, y: int, x: int, own: int) -> bool:
    return bool(0 <= y < grain.shape[0] and 0 <= x < grain.shape[1] and grain[y, x] == own)


@njit(nogil=True, cache=True)
def _ahead(grain: Array, y: int, x: int, direction: int, own: int) -> bool:
    """Tell whether the pixel to the right of a step from corner (y, x) is the grain's."""
    # Of the four pixels around a corner: to the right the lower right one, up the upper right one, and so on around.
    above, before = direction == 1 or direction == 2, direction >= 2
    return bool(_is(grain, y - above, x - before, own))


@njit(nogil=True, cache=True)
def _turned(grain: Array, y: int, x: int, direction: int, own: int) -> int:
    """Return where the outline goes on from corner (y, x): 0 right, 1 up, 2 left, 3 down, the grain at the right hand.

    Where two pixels of the grain touch at a corner only it stays with the one that it came along.
    """
    if not _ahead(grain, y, x, direction, own):
        return (direction + 3) % 4
    left = (direction + 1) % 4
    return left if _ahead(grain, y, x, left, own) else direction


@njit(nogil=True, cache=True)
def grain_outlines(grain: Array, sums: Array) -> Array:
    """Walk once around each grain, along the sides of its pixels; holes are not seen.

    Corners are counted as ImageJ does for its perimeter: those that follow another one after a single side do not
    count. Like there the walk starts at the right end of the grain's first run of pixels, downwards.

    Parameters
    ----------
    grain
        (y, x) numbers 1..n.
    sums
        What :func:`grain_sums` gave.

    Returns
    -------
    array
        (n, 4) int64, the columns of :data:`OUTLINE`.
    """
    out = np.zeros((len(sums), 4), np.int64)
    step_y, step_x = np.array([0, -1, 0, 1]), np.array([1, 0, -1, 0])
    for i in range(len(sums)):
        own = i + 1
        y, x = sums[i, _TOP], sums[i, _FIRST]
        while _is(grain, y, x, own):
            x += 1
        y += 1
        direction = 3
        turned = _turned(grain, y, x, direction, own)
        while turned == direction:
            y += 1
            turned = _turned(grain, y, x, direction, own)
        first_y, first_x, first = y, x, turned
        corners, side, counted = 1, 0, True
        along_x, along_y, enclosed = 0, 0, 0
        direction = turned
        while True:
            y += step_y[direction]
            x += step_x[direction]
            side += 1
            along_x += step_x[direction] != 0
            along_y += step_y[direction] != 0
            enclosed += x * step_y[direction]
            turned = _turned(grain, y, x, direction, own)
            if y == first_y and x == first_x and turned == first:
                break
            if turned != direction:
                counted = side > 1 or not counted
                corners += counted
                side = 0
                direction = turned
        out[i, 0], out[i, 1], out[i, 2], out[i, 3] = along_x, along_y, corners, enclosed
    return out


@njit(nogil=True, cache=True)
def _add(hull_y: Array, hull_x: Array, n: int, floor: int, y: int, x: int, side: int) -> int:
    """Put a corner on a chain that turns to one side only; return how many it then has."""
    while n - floor >= 2:
        cross = (hull_x[n - 1] - hull_x[n - 2]) * (y - hull_y[n - 2]) - (hull_y[n - 1] - hull_y[n - 2]) * (
            x - hull_x[n - 2]
        )
        if side * cross > 0:
            break
        n -= 1
    hull_y[n], hull_x[n] = y, x
    return n + 1


@njit(nogil=True, cache=True)
def grain_hulls(grain: Array, sums: Array, height: float, width: float) -> Array:
    """Measure the convex hull of each grain's pixels, corners included.

    Parameters
    ----------
    grain
        (y, x) numbers 1..n.
    sums
        What :func:`grain_sums` gave.
    height, width
        Size of a pixel.

    Returns
    -------
    array
        (n, 7) float64, the columns of :data:`HULL`; lengths in the unit of the pixel's size. Of several longest
        distances it is the first, clockwise from the upper right corner on.
    """
    n_rows, n_columns = grain.shape
    start = np.zeros(len(sums) + 1, np.int64)
    longest = 0
    for i in range(len(sums)):
        rows = sums[i, _BOTTOM] - sums[i, _TOP] + 1
        start[i + 1] = start[i] + rows
        longest = max(longest, rows)
    left, right = np.full(start[-1], n_columns, np.int32), np.full(start[-1], -1, np.int32)
    for y in range(n_rows):
        for x in range(n_columns):
            own = grain[y, x] - 1
            if own >= 0:
                row = start[own] + y - sums[own, _TOP]
                left[row] = min(left[row], x)
                right[row] = max(right[row], x + 1)

    out = np.zeros((len(sums), 7))
    hull_y, hull_x = np.empty(2 * longest + 4, np.int64), np.empty(2 * longest + 4, np.int64)
    for i in range(len(sums)):
        rows = start[i + 1] - start[i]
        # Down the right side, then up the left one; in each row of corners the outermost.
        n = 0
        for y in range(rows + 1):
            x = -1
            if y > 0:
                x = max(x, right[start[i] + y - 1])
            if y < rows:
                x = max(x, right[start[i] + y])
            if x >= 0:
                n = _add(hull_y, hull_x, n, 0, y, x - sums[i, _LEFT], 1)
        floor = n
        for y in range(rows, -1, -1):
            x = n_columns
            if y > 0:
                x = min(x, left[start[i] + y - 1])
            if y < rows:
                x = min(x, left[start[i] + y])
            if x < n_columns:
                n = _add(hull_y, hull_x, n, floor, y, x - sums[i, _LEFT], 1)

        area, longest_squared, narrowest = 0, 0.0, np.inf
        one, other = 0, 0
        for k in range(n):
            after = k + 1 if k + 1 < n else 0
            edge_y, edge_x = hull_y[after] - hull_y[k], hull_x[after] - hull_x[k]
            area += hull_x[k] * hull_y[after] - hull_x[after] * hull_y[k]
            widest = 0
            for m in range(n):
                dy, dx = hull_y[m] - hull_y[k], hull_x[m] - hull_x[k]
                widest = max(widest, abs(edge_x * dy - edge_y * dx))
                if m > k:
                    squared = (dx * width) * (dx * width) + (dy * height) * (dy * height)
                    if squared > longest_squared:
                        longest_squared, one, other = squared, k, m
            length = np.sqrt((edge_x * width) * (edge_x * width) + (edge_y * height) * (edge_y * height))
            narrowest = min(narrowest, widest * height * width / length)
        if hull_x[other] < hull_x[one] or (hull_x[other] == hull_x[one] and hull_y[other] < hull_y[one]):
            one, other = other, one
        out[i, 0] = np.sqrt(longest_squared)
        out[i, 1], out[i, 2] = hull_y[one], hull_x[one]
        out[i, 3], out[i, 4] = hull_y[one] - hull_y[other], hull_x[other] - hull_x[one]
        out[i, 5], out[i, 6] = narrowest, abs(area) / 2
    return out
