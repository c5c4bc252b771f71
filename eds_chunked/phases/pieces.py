"""The connected pieces of a label map, who touches whom, and which lie wholly inside another phase.

The map is read in strips of rows; what is kept is a few numbers a piece, and one row of pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from skimage.measure import label as label_image

from eds_chunked.kernels.enclosure import outer_neighbours

__all__ = ["Pieces", "PiecesOfStrips"]

Array = np.ndarray[Any, Any]

_AROUND = 1 << 20
"""Label of what lies around the map: none that a pixel can have."""


@dataclass(frozen=True)
class Pieces:
    """Pieces of one label, connected by pixel sides, in no order that means something.

    ``label`` and ``n_pixels`` (pieces,), ``contacts`` (pairs, 2): numbers of pieces that share a pixel side, each pair
    once. ``host`` (pieces,): the label that surrounds a piece, or -1 where there are several or the map's border cuts
    it. What lies in a hole of the piece does not count.
    """

    label: Array
    n_pixels: Array
    contacts: Array
    host: Array


class PiecesOfStrips:
    """Takes strips of rows of a label map from top to bottom and joins their pieces."""

    def __init__(self) -> None:
        self._labels: list[Array] = []
        self._sizes: list[Array] = []
        self._at_border: list[Array] = []
        self._joined: list[Array] = [np.empty((0, 2), np.int64)]
        self._touching: list[Array] = [np.empty((0, 2), np.int64)]
        self._n = 0
        self._above: tuple[Array, Array] | None = None

    def add(self, strip: Array) -> None:
        """Take the next rows (rows, x), labels from 0."""
        numbers = label_image(strip, background=-1, connectivity=1)
        n = int(numbers.max())
        numbers = numbers.astype(np.int64) + (self._n - 1)
        flat = numbers.ravel() - self._n
        labels = np.empty(n, np.int64)
        labels[flat] = strip.ravel()
        self._labels.append(labels)
        self._sizes.append(np.bincount(flat, minlength=n))
        edge = [numbers[:, 0], numbers[:, -1]]
        if self._above is None:
            edge.append(numbers[0])
        else:
            above_strip, above = self._above
            same = above_strip == strip[0]
            self._joined.append(_pairs(above[same], numbers[0][same]))
            self._touching.append(_pairs(above[~same], numbers[0][~same]))
        self._at_border += [np.unique(part) for part in edge]
        for one, other in ((numbers[:, :-1], numbers[:, 1:]), (numbers[:-1], numbers[1:])):
            differ = one != other
            self._touching.append(_pairs(one[differ], other[differ]))
        self._n += n
        self._above = strip[-1].copy(), numbers[-1].copy()

    def join(self) -> Pieces:
        """Return the pieces of all strips."""
        if self._above is not None:
            self._at_border.append(np.unique(self._above[1]))
        one, other = np.concatenate(self._joined).T
        graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(self._n, self._n))
        n, piece = connected_components(graph, directed=False)
        piece = piece.astype(np.int64)
        label, n_pixels = np.empty(n, np.int64), np.zeros(n, np.int64)
        label[piece] = np.concatenate(self._labels)
        np.add.at(n_pixels, piece, np.concatenate(self._sizes))
        touching = piece[np.concatenate(self._touching)]
        contacts = _pairs(touching[:, 0], touching[:, 1])
        at_border = np.unique(piece[np.concatenate(self._at_border)])
        return Pieces(label, n_pixels, contacts, _hosts(label, contacts, at_border))


def _pairs(one: Array, other: Array) -> Array:
    """Return the different pairs (pairs, 2), the smaller number first."""
    if len(one) == 0:
        return np.empty((0, 2), np.int64)
    low, high = np.minimum(one, other), np.maximum(one, other)
    first, span = int(low.min()), int(high.max()) - int(low.min()) + 1
    # One number a pair sorts many times faster than rows do; spans are below 2^31 pieces.
    code = np.unique((low - first) * span + (high - first))
    return np.stack([code // span, code % span], axis=1) + first


def _hosts(label: Array, contacts: Array, at_border: Array) -> Array:
    # Node 0 is what lies around the map, piece i is node i + 1.
    around = np.stack([np.zeros(len(at_border), np.int64), at_border + 1])
    one, other = np.concatenate([around, contacts.T + 1], axis=1)
    n = len(label) + 1
    begin, end = np.concatenate([one, other]), np.concatenate([other, one])
    order = np.lexsort((end, begin))
    start = np.concatenate([[0], np.cumsum(np.bincount(begin, minlength=n))]).astype(np.int64)
    labels = np.concatenate([[_AROUND], label]).astype(np.int64)
    smallest, largest = outer_neighbours(start, end[order].astype(np.int64), labels)
    host: Array = np.where((smallest == largest) & (smallest < _AROUND), smallest, -1)[1:]
    return host
