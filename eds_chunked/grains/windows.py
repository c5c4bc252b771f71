"""Windows of a label map, each with many whole pieces, so that grains can be separated without the map in memory.

What is computed of a connected piece inside its box and one pixel around it, never beyond the map's edge, is what comes
out on the whole map. Every piece belongs to one window, in which it is whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from eds_chunked import schema
from eds_chunked.engine.lazy_maps import piece
from eds_chunked.errors import ParameterError
from eds_chunked.kernels.connected import connected_pieces, piece_boxes

__all__ = ["IS_PHASE", "Layer", "Window", "windows_of"]

Array = np.ndarray[Any, Any]

IS_PHASE = np.arange(schema.MIXED + 1) % schema.MIXED != schema.UNASSIGNED
"""Which labels are phases."""

# A piece that begins in a tile and is no larger than one reaches at most one tile to the left, right and below.
_TILES_REACHED = 6
_STRIPS = 4
"""Strips of a quarter of a window's pixels leave room for the numbers of their pieces."""

_TOP, _BOTTOM, _LEFT, _RIGHT, _FIRST = range(5)


@dataclass(frozen=True)
class Layer:
    """Labels (y, x), lazy or in memory, whose pieces are grains or several: the label map, or the mask of one phase."""

    values: Any
    phase: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        n_rows, n_columns = self.values.shape
        return int(n_rows), int(n_columns)

    def read(self, ys: slice, xs: slice) -> Array:
        """Return the labels of a box (y, x) uint8."""
        part = piece(self.values, ys, xs)
        if self.phase is None:
            if part.itemsize > 1 and part.size and not 0 <= part.min() <= part.max() <= schema.MIXED:
                raise ParameterError(
                    f"values of {schema.LABEL!r}",
                    found=f"{part.min()} to {part.max()}",
                    expected="0 unassigned, 1..254 phase, 255 mixed",
                    fix="pass what segment_phases returned",
                )
            return np.ascontiguousarray(part, np.uint8)
        return np.where(part.astype(np.bool_), np.uint8(self.phase), np.uint8(schema.UNASSIGNED))


@dataclass(frozen=True)
class Window:
    """A box of the map, one pixel around its pieces included, and which of the pieces in it are its own.

    ``first`` is the box in which their first pixels lie, and ``largest`` the longest side that they may have; where
    ``own`` is given they are those whose first pixels have these numbers (rising).
    """

    ys: slice
    xs: slice
    shape: tuple[int, int]
    first: tuple[slice, slice] | None = None
    largest: int = 0
    own: Array | None = field(default=None, repr=False)

    @property
    def n_pixels(self) -> int:
        return int((self.ys.stop - self.ys.start) * (self.xs.stop - self.xs.start))

    def kept(self, boxes: Array) -> Array:
        """Tell which pieces (n, 5), with boxes as of :func:`piece_boxes` within the window, belong to it."""
        n_rows, n_columns = self.shape
        whole: Array = (boxes[:, _TOP] > 0) | (self.ys.start == 0)
        whole &= (boxes[:, _BOTTOM] < self.ys.stop - self.ys.start) | (self.ys.stop == n_rows)
        whole &= (boxes[:, _LEFT] > 0) | (self.xs.start == 0)
        whole &= (boxes[:, _RIGHT] < self.xs.stop - self.xs.start) | (self.xs.stop == n_columns)
        y, x = boxes[:, _TOP] + self.ys.start, boxes[:, _FIRST] + self.xs.start
        if self.own is not None:
            number = y * n_columns + x
            at = np.minimum(np.searchsorted(self.own, number), len(self.own) - 1)
            whole &= self.own[at] == number
        elif self.first is not None:
            ys, xs = self.first
            whole &= (y >= ys.start) & (y < ys.stop) & (x >= xs.start) & (x < xs.stop)
            whole &= _sides(boxes).max(axis=1, initial=0) <= self.largest
        return whole


def windows_of(layer: Layer, *, most: int) -> list[Window]:
    """Cut a layer into windows of at most ``most`` pixels, but for pieces whose own box is larger.

    One window where the map is no larger. Else the map is read once, in strips: small pieces go to the tile in which
    they begin, and large ones into windows that hold as many of them as fit. The largest window comes last.
    """
    n_rows, n_columns = layer.shape
    if n_rows * n_columns <= most:
        return [Window(slice(0, n_rows), slice(0, n_columns), layer.shape)]
    side = max(1, math.isqrt(most // _TILES_REACHED))
    found = _Found(layer.shape, side)
    for boxes in _pieces_of_strips(layer, rows=max(1, most // _STRIPS // n_columns)):
        found.add(boxes)
    return [*found.tiles(), *found.groups(most)]


def _sides(boxes: Array) -> Array:
    return np.stack([boxes[:, _BOTTOM] - boxes[:, _TOP], boxes[:, _RIGHT] - boxes[:, _LEFT]], axis=1)


def _pieces_of_strips(layer: Layer, *, rows: int) -> Iterator[Array]:
    """Yield the boxes (n, 5) of the pieces of a layer, on the map, as they are complete; read from top to bottom."""
    n_rows, n_columns = layer.shape
    open_boxes = np.empty((0, 5), np.int64)
    above_label, above = np.zeros(n_columns, np.uint8), np.zeros(n_columns, np.int64)
    for y in range(0, n_rows, rows):
        label = layer.read(slice(y, min(y + rows, n_rows)), slice(0, n_columns))
        numbers, n = connected_pieces(label, IS_PHASE)
        boxes = piece_boxes(numbers, n)
        boxes[:, :2] += y
        boxes = np.concatenate([open_boxes, boxes])
        joins = (above > 0) & (above_label == label[0])
        of_piece = _joined(len(boxes), above[joins] - 1, numbers[0][joins] + len(open_boxes) - 1)
        boxes = _united(boxes, of_piece, n_columns)
        above_label, last = label[-1], numbers[-1]
        reaching = np.zeros(len(boxes), np.bool_)
        if y + rows < n_rows:
            reaching[of_piece[last[last > 0] + len(open_boxes) - 1]] = True
        renumbered = np.cumsum(reaching)
        above = np.zeros(n_columns, np.int64)
        above[last > 0] = renumbered[of_piece[last[last > 0] + len(open_boxes) - 1]]
        open_boxes = boxes[reaching]
        yield boxes[~reaching]


def _joined(n: int, one: Array, other: Array) -> Array:
    """Return the piece (n,) of each part, parts that are joined being one."""
    graph = coo_array((np.ones(len(one), np.bool_), (one, other)), shape=(n, n))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _united(boxes: Array, of_piece: Array, n_columns: int) -> Array:
    """Return the boxes of pieces from those of their parts."""
    n = int(of_piece.max(initial=-1)) + 1
    out = np.empty((n, 5), np.int64)
    first = np.full(n, np.iinfo(np.int64).max)
    np.minimum.at(first, of_piece, boxes[:, _TOP] * n_columns + boxes[:, _FIRST])
    out[:, _TOP], out[:, _FIRST] = first // n_columns, first % n_columns
    out[:, _LEFT] = n_columns
    out[:, [_BOTTOM, _RIGHT]] = 0
    np.minimum.at(out[:, _LEFT], of_piece, boxes[:, _LEFT])
    np.maximum.at(out[:, _BOTTOM], of_piece, boxes[:, _BOTTOM])
    np.maximum.at(out[:, _RIGHT], of_piece, boxes[:, _RIGHT])
    return out


class _Found:
    """What is kept of the pieces of a map: how far the small ones of each tile reach, and the boxes of large ones."""

    def __init__(self, shape: tuple[int, int], side: int) -> None:
        self._shape, self._side = shape, side
        self._across = -(-shape[1] // side)
        n_tiles = -(-shape[0] // side) * self._across
        self._reach = np.empty((n_tiles, 4), np.int64)
        self._reach[:, [_TOP, _LEFT]] = max(shape)
        self._reach[:, [_BOTTOM, _RIGHT]] = 0
        self._large: list[Array] = []

    def add(self, boxes: Array) -> None:
        small = _sides(boxes).max(axis=1, initial=0) <= self._side
        self._large.append(boxes[~small])
        boxes = boxes[small]
        tile = boxes[:, _TOP] // self._side * self._across + boxes[:, _FIRST] // self._side
        for edge, reduce in ((_TOP, np.minimum), (_BOTTOM, np.maximum), (_LEFT, np.minimum), (_RIGHT, np.maximum)):
            reduce.at(self._reach[:, edge], tile, boxes[:, edge])

    def tiles(self) -> Iterator[Window]:
        side = self._side
        for number, reach in enumerate(self._reach):
            if reach[_BOTTOM] > 0:
                y, x = number // self._across * side, number % self._across * side
                first = slice(y, y + side), slice(x, x + side)
                yield Window(*self._around(reach), self._shape, first=first, largest=side)

    def groups(self, most: int) -> list[Window]:
        """Put large pieces into windows together where one lies in the window of another, or the window stays small."""
        boxes = np.concatenate([np.empty((0, 5), np.int64), *self._large])
        area = _sides(boxes).prod(axis=1)
        boxes = boxes[np.lexsort((boxes[:, _FIRST], boxes[:, _TOP], -area))]
        reach = np.empty((len(boxes), 4), np.int64)
        members: list[list[int]] = []
        for i, box in enumerate(boxes[:, :4]):
            known = reach[: len(members)]
            union = known.copy()
            union[:, [_TOP, _LEFT]] = np.minimum(known[:, [_TOP, _LEFT]], box[[_TOP, _LEFT]])
            union[:, [_BOTTOM, _RIGHT]] = np.maximum(known[:, [_BOTTOM, _RIGHT]], box[[_BOTTOM, _RIGHT]])
            size = (_sides(union) + 2).prod(axis=1)
            fits = np.flatnonzero((union == known).all(axis=1) | (size <= most))
            if len(fits):
                reach[fits[0]] = union[fits[0]]
                members[fits[0]].append(i)
            else:
                reach[len(members)] = box
                members.append([i])
        number = boxes[:, _TOP] * self._shape[1] + boxes[:, _FIRST]
        made = [
            Window(*self._around(around), self._shape, own=np.sort(number[inside]))
            for around, inside in zip(reach, members, strict=False)
        ]
        return sorted(made, key=lambda window: window.n_pixels)

    def _around(self, reach: Array) -> tuple[slice, slice]:
        top, bottom, left, right = (int(edge) for edge in reach)
        return (
            slice(max(top - 1, 0), min(bottom + 1, self._shape[0])),
            slice(max(left - 1, 0), min(right + 1, self._shape[1])),
        )
