"""The grains of one window: distances, seeds, watershed. All of it is two-dimensional and in memory."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from eds_chunked.grains.windows import IS_PHASE, Layer, Window
from eds_chunked.kernels.connected import connected_pieces, piece_boxes
from eds_chunked.kernels.distance import squared_distances
from eds_chunked.kernels.flooding import flood, local_peaks, summits

__all__ = ["PIXEL_BYTES", "SeparatedWindow", "separate_window"]

Array = np.ndarray[Any, Any]

PIXEL_BYTES = 24
"""Memory of a pixel of a window at its peak; measured: 13, and 18 where pixels are not square."""


class SeparatedWindow(NamedTuple):
    """Grains (y, x) int32 of a window, numbered 1..n in no order that means something, and its labels (y, x).

    ``unsplit`` is the phase of the one piece that fills the whole map, and was not split.
    """

    grain: Array
    n: int
    label: Array
    unsplit: int | None = None


def separate_window(layer: Layer, window: Window, *, h: float | None, aspect: float) -> SeparatedWindow:
    """Separate the grains of a window's own pieces; 3 x 3 peaks are the seeds where ``h`` is None."""
    label = layer.read(window.ys, window.xs)
    piece, n_pieces = connected_pieces(label, IS_PHASE)
    if n_pieces == 1 and bool((piece == 1).all()):
        # There is no boundary to measure distances from.
        return SeparatedWindow(piece, 1, label, int(label[0, 0]))
    kept = window.kept(piece_boxes(piece, n_pieces))
    if not kept.all():
        piece = np.where(np.append(False, kept), np.arange(n_pieces + 1, dtype=np.int32), np.int32(0))[piece]
    rank, height = _ranks(label, aspect)
    seed = local_peaks(rank, label, piece) if h is None else summits(rank, piece, height, h)
    seed *= label
    grain, n = connected_pieces(seed, IS_PHASE)
    flood(rank, grain, piece, len(height))
    # Of the peaks a piece can have none: where a corner of it touches a higher piece.
    missed = np.flatnonzero((piece > 0) & (grain == 0))
    if len(missed):
        pieces, which = np.unique(piece.reshape(-1)[missed], return_inverse=True)
        grain.reshape(-1)[missed] = n + 1 + which
        n += len(pieces)
    return SeparatedWindow(grain, n, label)


def _ranks(label: Array, aspect: float) -> tuple[Array, Array]:
    """Return the rank (y, x) int32 of each pixel's distance, and the distances (ranks,) in pixel widths, rising."""
    squared = squared_distances(label, IS_PHASE, aspect)
    if aspect != 1:
        distance = np.sqrt(squared, out=squared)
        heights = np.unique(distance)
        rank = np.empty(label.shape, np.int32)
        # Row by row, since positions are found as 64 bits.
        for y, row in enumerate(distance):
            rank[y] = np.searchsorted(heights, row)
        return rank, heights
    whole = squared.astype(np.int32)
    del squared
    there = np.zeros(int(whole.max()) + 1, np.bool_)
    there[whole] = True
    return (np.cumsum(there, dtype=np.int32) - np.int32(1))[whole], np.sqrt(np.flatnonzero(there))
