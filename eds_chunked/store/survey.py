"""The survey: what one look at every count gives, gathered while the map is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from eds_chunked.kernels.reduce import channel_sums, max_spectrum, pixel_sums
from eds_chunked.kernels.sparse import Csr

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TileSurvey:
    """Survey of one tile at rows ``ys`` and columns ``xs``; ``owner`` is a raster index of the whole map."""

    ys: slice
    xs: slice
    sums: Array
    totals: Array
    largest: Array
    owner: Array


def survey_tile(tile: Csr, ys: slice, xs: slice, map_width: int) -> TileSurvey:
    """Survey the pixels of a tile, given in raster order within it."""
    shape = (ys.stop - ys.start, xs.stop - xs.start)
    largest, owner = max_spectrum(tile)
    row, column = np.divmod(owner, shape[1])
    owner = np.where(owner < 0, -1, (row + ys.start) * map_width + column + xs.start)
    return TileSurvey(ys, xs, channel_sums(tile), pixel_sums(tile).reshape(shape), largest.astype(np.uint64), owner)


class Survey:
    """Survey of the map so far; the order in which tiles are added does not matter."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._width = shape[1]
        self.sum_spectrum = np.zeros(shape[2], np.uint64)
        self.max_spectrum = np.zeros(shape[2], np.uint64)
        self._owner = np.full(shape[2], -1, np.int64)
        self.total_counts = np.zeros(shape[:2], np.uint64)

    def add(self, tile: TileSurvey) -> None:
        self.sum_spectrum += tile.sums
        self.total_counts[tile.ys, tile.xs] = tile.totals
        first = (tile.largest == self.max_spectrum) & (tile.owner >= 0) & (tile.owner < self._owner)
        better = (tile.largest > self.max_spectrum) | first
        self.max_spectrum[better] = tile.largest[better]
        self._owner[better] = tile.owner[better]

    def crop(self, height: int) -> None:
        """Leave out the rows from ``height`` on, to which nothing was added."""
        self.total_counts = self.total_counts[:height]

    @property
    def max_spectrum_pixel(self) -> Array:
        """(channels, 2) int32 row and column of the first pixel that owns the maximum; -1 for an empty channel."""
        row, column = np.divmod(self._owner, self._width)
        pixels = np.stack([row, column], axis=-1)
        pixels[self._owner < 0] = -1
        return pixels.astype(np.int32)


def narrowest(values: Array) -> Array:
    """Return unsigned ``values`` in the smallest unsigned dtype that holds them."""
    return values.astype(np.min_scalar_type(values.max(initial=0)))
