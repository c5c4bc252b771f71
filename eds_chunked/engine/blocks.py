"""The one door to the counts: a Dataset goes in, blocks of counts in CSR come out.

Counts that are a selection of a store are read from it tile by tile, from the stored bytes straight to CSR; counts in
memory are cut where they are.
Anything else (``ds * 2``, ``ds.where(...)``, another library's lazy array) is computed once into a scratch store. So
there is one way to read, the grid of blocks follows from the map alone, and the user's chunks cannot change an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked.engine.scratch import stage
from eds_chunked.engine.window import Window, find_window
from eds_chunked.errors import CountsError, ParameterError
from eds_chunked.kernels.sparse import Csr, channel_dtype, from_dense
from eds_chunked.schema import COUNTS, ENERGY, MAP_GROUP, X, Y, require
from eds_chunked.store.layout import tile_shape
from eds_chunked.store.source import CountsSource

_LANE_SIDE = 4
"""A lane is a square of so many tiles on a side."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Counts that are in memory already."""

    array: np.ndarray[Any, Any]
    tile: tuple[int, int, int]

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def load(self, ys: slice, xs: slice, channels: slice) -> Csr:
        """Return the counts of a box."""
        return from_dense(self.array[ys, xs, channels].reshape(-1, channels.stop - channels.start))


class Block(NamedTuple):
    """Counts of the pixels at rows ``ys`` and columns ``xs`` of the selection, in raster order."""

    ys: slice
    xs: slice
    counts: Csr

    @property
    def shape(self) -> tuple[int, int]:
        return self.ys.stop - self.ys.start, self.xs.stop - self.xs.start


class Lane(NamedTuple):
    """A square of blocks that one task works through; also the chunk of every map that is written."""

    ys: slice
    xs: slice

    @property
    def shape(self) -> tuple[int, int]:
        return self.ys.stop - self.ys.start, self.xs.stop - self.xs.start


@dataclass(frozen=True)
class Blocks:
    """The analysed counts: a box of a source, cut into lanes and blocks."""

    source: CountsSource | ArraySource
    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    @property
    def shape(self) -> tuple[int, int, int]:
        (y0, x0, e0), (y1, x1, e1) = self.start, self.stop
        return y1 - y0, x1 - x0, e1 - e0

    @property
    def n_pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def n_channels(self) -> int:
        return self.shape[2]

    @property
    def are_counts(self) -> bool:
        """Whether the values are integers, so that the statistics of counting apply to them."""
        return self.source.dtype.kind in "ui"

    @property
    def are_transformed(self) -> bool:
        """Whether the counts are no plain selection of a store or of an array in memory."""
        return isinstance(self.source, CountsSource) and self.source.path != f"{MAP_GROUP}/{COUNTS}"

    @property
    def identity(self) -> str:
        """Which counts these are, as far as it can be told without reading them."""
        what = self.source.version if isinstance(self.source, CountsSource) else "in memory"
        return f"{what} {self.start} {self.stop}"

    @property
    def bytes_of_a_block(self) -> int:
        """Most bytes that a block holds while it is read: the tile compressed and inflated, its CSR, and the window's.

        Inflated it is dense, or encoded, which is never larger.
        """
        pixels, depth = self.source.tile[0] * self.source.tile[1], self.source.shape[2]
        itemsize = self.source.dtype.itemsize
        whole = pixels * depth * (itemsize + channel_dtype(depth).itemsize)
        window = pixels * self.n_channels * (itemsize + channel_dtype(self.n_channels).itemsize)
        return 2 * pixels * depth * itemsize + whole + (window if self.n_channels < depth else 0)

    @property
    def lane_side(self) -> int:
        return _LANE_SIDE * self.source.tile[0]

    def lanes(self) -> list[Lane]:
        """Cut the selection into lanes, from its own corner on: the same for every chunking and every machine."""
        height, width, _ = self.shape
        side = self.lane_side
        return [
            Lane(slice(y, min(height, y + side)), slice(x, min(width, x + side)))
            for y in range(0, height, side)
            for x in range(0, width, side)
        ]

    def pieces(self, lane: Lane) -> Iterator[tuple[slice, slice]]:
        """Yield where the blocks of a lane are: its pieces of the tiles of the source, in raster order of the tiles."""
        for ys in self._cut(lane.ys, 0):
            for xs in self._cut(lane.xs, 1):
                yield ys, xs

    def read(self, lane: Lane) -> Iterator[Block]:
        """Yield the blocks of a lane."""
        for ys, xs in self.pieces(lane):
            yield self.load(ys, xs)

    def _cut(self, span: slice, axis: int) -> Iterator[slice]:
        offset, side = self.start[axis], self.source.tile[axis]
        first = span.start
        while first < span.stop:
            last = min(span.stop, ((first + offset) // side + 1) * side - offset)
            yield slice(first, last)
            first = last

    def load(self, ys: slice, xs: slice) -> Block:
        """Read one block."""
        y0, x0, e0 = self.start
        rows, columns = slice(ys.start + y0, ys.stop + y0), slice(xs.start + x0, xs.stop + x0)
        counts = self.source.load(rows, columns, slice(e0, self.stop[2]))
        return Block(ys, xs, counts if counts.value.dtype.kind == "u" else self._checked(counts, ys, xs))

    def _checked(self, counts: Csr, ys: slice, xs: slice) -> Csr:
        """Refuse values that no count can have; signed integers become unsigned ones."""
        wrong = np.flatnonzero(~((counts.value > 0) & (counts.value < np.inf)))
        if wrong.size:
            pixel = int(np.searchsorted(counts.indptr, wrong[0], side="right")) - 1
            row, column = divmod(pixel, xs.stop - xs.start)
            raise CountsError(
                f"counts at y {ys.start + row}, x {xs.start + column}, channel {int(counts.channel[wrong[0]])}",
                found=f"{counts.value[wrong[0]]}",
                expected="a finite value of at least 0",
                fix="mask or correct the values first, for example ds.where(np.isfinite(ds.counts), 0).clip(min=0)",
            )
        if counts.value.dtype.kind == "i":
            return counts._replace(value=counts.value.astype(f"u{counts.value.dtype.itemsize}"))
        return counts


def blocks_of(ds: xr.Dataset) -> Blocks:
    """Return the counts of ``ds`` as blocks; ``ds`` may be any selection or transformation of a map.

    Raises
    ------
    ChunkLayoutError
        ``counts`` is missing or has other dimensions.
    ParameterError
        The selection is empty.
    """
    require(ds, COUNTS)
    counts = ds[COUNTS]
    if min(counts.shape) == 0:
        raise ParameterError(
            "selection of counts",
            found=f"{dict(counts.sizes)}",
            expected="at least one pixel and one channel",
            fix=f"select within y, x and {ENERGY} of the map"
            if counts.sizes[ENERGY] == 0
            else f"select within {Y} and {X}",
        )
    if counts.dtype.kind not in "uif":
        raise CountsError("counts", found=f"dtype {counts.dtype}", expected="numbers", fix="convert them first")
    if not isinstance(counts.data, da.Array):
        array = np.asarray(counts.data)
        return Blocks(ArraySource(array, tile_shape(array.shape[2])), (0, 0, 0), array.shape)
    window = find_window(counts.data)
    if window is None:
        source = stage(counts.data)
        window = Window(source, (0, 0, 0), source.shape)
    return Blocks(window.source, window.start, window.stop)
