"""Seeds on a distance map, and the watershed that is flooded from them.

Heights are ranks: a whole number for every different distance, rising with it. Pixels of rank -1 are not flooded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["flood", "local_peaks", "summits"]

Array = np.ndarray[Any, Any]


@njit(nogil=True, cache=True)
def local_peaks(rank: Array, label: Array, piece: Array) -> Array:
    """Find the pixels that none of their eight neighbours of the same label exceeds.

    Parameters
    ----------
    rank
        (y, x) int32.
    label
        (y, x): a neighbour of another label lies lower, whatever its rank.
    piece
        (y, x): 0 where no peak is wanted.

    Returns
    -------
    array
        (y, x) uint8, 1 at the peaks.
    """
    n_rows, n_columns = rank.shape
    peak = np.zeros((n_rows, n_columns), np.uint8)
    for y in range(n_rows):
        for x in range(n_columns):
            if piece[y, x] == 0:
                continue
            highest = True
            for v in range(max(y - 1, 0), min(y + 2, n_rows)):
                for u in range(max(x - 1, 0), min(x + 2, n_columns)):
                    if label[v, u] == label[y, x] and rank[v, u] > rank[y, x]:
                        highest = False
            if highest:
                peak[y, x] = 1
    return peak


@njit(nogil=True, cache=True)
def _top(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def summits(rank: Array, piece: Array, height: Array, h: float) -> Array:
    """Find one pixel of each summit that rises more than ``h`` above the pass to a higher one.

    Pixels are added from the highest down and joined to those beside them (pixel sides). Where two summits meet is
    the pass between them: the lower one then either stands out, or is part of the higher one. These are the h-maxima
    that a morphological reconstruction of ``height - h`` finds. Of equal summits the first in raster order is higher.

    Parameters
    ----------
    rank
        (y, x) int32, from 0 where there is a piece.
    piece
        (y, x): 0 where nothing is looked for. Pieces touch at corners at most.
    height
        (ranks,) float64, rising.
    h
        Height that a summit needs.

    Returns
    -------
    array
        (y, x) uint8, 1 at the first of the highest pixels of each summit; at least one a piece.

    References
    ----------
    P. Soille, Morphological Image Analysis, 2nd ed. (2004), section 6.3 (h-maxima).
    """
    n_rows, n_columns = rank.shape
    ranks, pieces = rank.reshape(-1), piece.reshape(-1)
    # Sorted by counting: from the highest rank down, in raster order within a rank.
    start = np.zeros(len(height) + 1, np.int64)
    for i in range(len(ranks)):
        if pieces[i]:
            start[len(height) - ranks[i]] += 1
    for k in range(len(height)):
        start[k + 1] += start[k]
    order = np.empty(start[len(height)], np.int32)
    for i in range(len(ranks)):
        if pieces[i]:
            place = len(height) - 1 - ranks[i]
            order[start[place]] = i
            start[place] += 1

    parent = np.full(len(ranks), -1, np.int32)
    summit = np.zeros(len(ranks), np.uint8)
    beside = np.array([-n_columns, -1, 1, n_columns])
    for i in order:
        parent[i] = i
        x = i % n_columns
        for k in range(4):
            j = i + beside[k]
            if j < 0 or j >= len(ranks) or (k == 1 and x == 0) or (k == 2 and x == n_columns - 1):
                continue
            if parent[j] < 0 or pieces[j] != pieces[i]:
                continue
            one, other = _top(parent, i), _top(parent, j)
            if one == other:
                continue
            lower, upper = one, other
            if ranks[one] > ranks[other] or (ranks[one] == ranks[other] and one < other):
                lower, upper = other, one
            # A pixel that only joined on is as high as the pass, and never a summit.
            if height[ranks[i]] < height[ranks[lower]] - h:
                summit[lower] = 1
            parent[lower] = upper
    for i in order:
        if parent[i] == i:
            summit[i] = 1
    return summit.reshape(n_rows, n_columns)


@njit(nogil=True, cache=True)
def flood(rank: Array, basin: Array, piece: Array, n_ranks: int) -> None:
    """Flood pieces from their seeds, from the highest rank down; ``basin`` is filled in place.

    A pixel goes to the basin that reaches it first. Pixels wait in one queue a rank, seeds at the head of it in raster
    order, the others as they were reached; a pixel that is higher than the one it was reached from waits with that
    one. That is the order of scikit-image's heap of (value, age) where no two seeds have the same value, so
    nothing is left to chance, and what is flooded elsewhere changes nothing here.

    Parameters
    ----------
    rank
        (y, x) int32, from 0 where there is a piece.
    basin
        (y, x) int32: the number of its basin at every seed pixel, 0 elsewhere.
    piece
        (y, x): 0 where nothing is flooded.
    n_ranks
        Number of ranks.

    References
    ----------
    L. Vincent and P. Soille, Watersheds in digital spaces, IEEE PAMI 13 (1991) 583.
    """
    n_columns = rank.shape[1]
    ranks, basins, pieces = rank.reshape(-1), basin.reshape(-1), piece.reshape(-1)
    head, tail = np.full(n_ranks, -1, np.int32), np.full(n_ranks, -1, np.int32)
    after = np.empty(len(ranks), np.int32)
    for i in range(len(ranks)):
        if basins[i]:
            after[i] = -1
            if head[ranks[i]] < 0:
                head[ranks[i]] = i
            else:
                after[tail[ranks[i]]] = i
            tail[ranks[i]] = i
    beside = np.array([-n_columns, -1, 1, n_columns])
    for level in range(n_ranks - 1, -1, -1):
        i = head[level]
        while i >= 0:
            x = i % n_columns
            for k in range(4):
                j = i + beside[k]
                if j < 0 or j >= len(ranks) or (k == 1 and x == 0) or (k == 2 and x == n_columns - 1):
                    continue
                if basins[j] or pieces[j] != pieces[i]:
                    continue
                basins[j] = basins[i]
                after[j] = -1
                wait = min(ranks[j], level)
                if head[wait] < 0:
                    head[wait] = j
                else:
                    after[tail[wait]] = j
                tail[wait] = j
            i = after[i]
