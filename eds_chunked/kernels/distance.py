"""Distances to the nearest pixel of another label, exact, for all labels at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["squared_distances"]

Array = np.ndarray[Any, Any]


@njit(nogil=True, cache=True)
def squared_distances(label: Array, counted: Array, aspect: float) -> Array:
    """Compute the squared distance from each pixel to the nearest one of another label.

    What lies beyond the array is not known and is no other label. Two separable passes: down the columns, then along
    each row the lower envelope of parabolas. A run of one label in a row ends at pixels of distance 0, so one call
    gives the distances of every label.

    Parameters
    ----------
    label
        (y, x).
    counted
        (labels,) bool: of which labels distances are wanted; they are 0 for the others.
    aspect
        Height of a pixel in pixel widths.

    Returns
    -------
    array
        (y, x) float64, in squared pixel widths; infinite where the array has one label only. Whole numbers where
        ``aspect`` is 1.

    References
    ----------
    P. Felzenszwalb and D. Huttenlocher, Distance transforms of sampled functions, Theory Comput. 8 (2012) 415.
    """
    n_rows, n_columns = label.shape
    out = np.empty((n_rows, n_columns))
    out[0] = np.inf
    for y in range(1, n_rows):
        for x in range(n_columns):
            out[y, x] = out[y - 1, x] + 1 if label[y, x] == label[y - 1, x] else 1.0
    for y in range(n_rows - 2, -1, -1):
        for x in range(n_columns):
            below = out[y + 1, x] + 1 if label[y, x] == label[y + 1, x] else 1.0
            out[y, x] = min(out[y, x], below)

    site = np.empty(n_columns + 2, np.int64)
    floor = np.empty(n_columns + 2)
    begin = np.empty(n_columns + 3)
    for y in range(n_rows):
        start = 0
        while start < n_columns:
            stop = start + 1
            while stop < n_columns and label[y, stop] == label[y, start]:
                stop += 1
            if not counted[label[y, start]]:
                out[y, start:stop] = 0
                start = stop
                continue
            last = -1
            for x in range(start - 1 if start > 0 else start, stop + 1 if stop < n_columns else stop):
                low = 0.0
                if start <= x < stop:
                    low = out[y, x] * aspect
                    low *= low
                if low == np.inf:
                    continue
                cross = -np.inf
                while last >= 0:
                    before = site[last]
                    cross = ((low + x * x) - (floor[last] + before * before)) / (2 * (x - before))
                    if cross > begin[last]:
                        break
                    last -= 1
                    cross = -np.inf
                last += 1
                site[last], floor[last], begin[last] = x, low, cross
            begin[last + 1] = np.inf
            at = 0
            for x in range(start, stop):
                if last < 0:
                    out[y, x] = np.inf
                    continue
                while begin[at + 1] < x:
                    at += 1
                out[y, x] = floor[at] + (x - site[at]) * (x - site[at])
            start = stop
    return out
