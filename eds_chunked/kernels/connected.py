"""Connected pieces of a label map: numbered in raster order, with the box of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["connected_pieces", "piece_boxes"]

Array = np.ndarray[Any, Any]


@njit(nogil=True, cache=True)
def _root(parent: Array, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def connected_pieces(label: Array, counted: Array) -> tuple[Array, int]:
    """Number the pieces of one label that connect by pixel sides, from 1 on, in the order of their first pixels.

    Parameters
    ----------
    label
        (y, x), fewer than 2^31 pixels.
    counted
        (labels,) bool: the labels whose pieces are numbered; the pixels of others get 0.

    Returns
    -------
    piece, n
        (y, x) int32, and the number of pieces.
    """
    n_rows, n_columns = label.shape
    piece = np.empty(n_rows * n_columns, np.int32)
    for y in range(n_rows):
        for x in range(n_columns):
            i = y * n_columns + x
            piece[i] = i
            if not counted[label[y, x]]:
                continue
            root = i
            if x > 0 and label[y, x - 1] == label[y, x]:
                root = _root(piece, i - 1)
                piece[i] = root
            if y > 0 and label[y - 1, x] == label[y, x]:
                above = _root(piece, i - n_columns)
                # The smaller index stays a root, so that a root is the first pixel of its piece.
                if above < root:
                    piece[root] = above
                    piece[i] = above
                elif root < above:
                    piece[above] = root
    n = 0
    for y in range(n_rows):
        for x in range(n_columns):
            i = y * n_columns + x
            if not counted[label[y, x]]:
                piece[i] = 0
            elif piece[i] == i:
                n += 1
                piece[i] = -n
            else:
                # It was numbered before, as it comes before in the array.
                piece[i] = piece[piece[i]]
    for i in range(len(piece)):
        piece[i] = -piece[i]
    return piece.reshape(n_rows, n_columns), n


@njit(nogil=True, cache=True)
def piece_boxes(piece: Array, n: int) -> Array:
    """Return the box and the first pixel of each piece.

    Parameters
    ----------
    piece
        (y, x) numbers 1..n, 0 for none.
    n
        Number of pieces.

    Returns
    -------
    array
        (n, 5) int64: first row, row after the last, first column, column after the last, column of the first pixel of
        the first row.
    """
    n_rows, n_columns = piece.shape
    box = np.empty((n, 5), np.int64)
    box[:, 0] = -1
    for y in range(n_rows):
        for x in range(n_columns):
            i = piece[y, x] - 1
            if i < 0:
                continue
            if box[i, 0] < 0:
                box[i, 0], box[i, 2], box[i, 3], box[i, 4] = y, x, x + 1, x
            box[i, 1] = y + 1
            box[i, 2] = min(box[i, 2], x)
            box[i, 3] = max(box[i, 3], x + 1)
    return box
