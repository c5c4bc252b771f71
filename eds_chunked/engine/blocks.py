"""The one door to the counts: a Dataset goes in, blocks of counts in CSR come out.

Counts that are a selection of a store are read from it tile by tile, from the stored bytes straight to CSR; counts in
memory are cut where they are.
Anything else (``ds * 2``, ``ds.where(...)``, another library's lazy array) is computed once into a scratch store. So
there is one way to read, the grid of blocks follows from the map alone, and the user's chunks cannot change an answer.

Pixels and channels that are left out (:mod:`eds_chunked.engine.exclusion`) do not come out of the door: the channels
of a block are those that are analysed, moved together, and a pixel that is left out has no counts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked.engine.exclusion import analysed_part
from eds_chunked.engine.scratch import stage
from eds_chunked.engine.window import Window, find_window
from eds_chunked.errors import CountsError, ParameterError
from eds_chunked.kernels.sparse import Csr, channel_dtype, from_dense, keep, take_pixels
from eds_chunked.memory import Reads, Stored
from eds_chunked.schema import ANALYSED_CHANNEL, ANALYSED_PIXEL, COUNTS, ENERGY, MAP_GROUP, X, Y, require
from eds_chunked.store.layout import tile_shape
from eds_chunked.store.provenance import check_calibrated
from eds_chunked.store.source import CountsSource, CountsToCome

_LANE_SIDE = 4
"""A lane is a square of so many tiles on a side."""


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Counts that are in memory already; of a part of them the first pixel is at ``corner``."""

    array: np.ndarray[Any, Any]
    tile: tuple[int, int, int]
    corner: tuple[int, int] = (0, 0)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    def stored_bytes(self, y: int, x: int) -> int:
        """Return the bytes of a tile that are read from a disk: none."""
        return 0

    def load(self, ys: slice, xs: slice, channels: slice) -> Csr:
        """Return the counts of a box."""
        return from_dense(self._box(ys, xs)[:, :, channels].reshape(-1, channels.stop - channels.start))

    def part(self, ys: slice, xs: slice) -> ArraySource:
        """Return what a task needs that works on these rows and columns."""
        return replace(self, array=self._box(ys, xs), corner=(ys.start, xs.start))

    def _box(self, ys: slice, xs: slice) -> np.ndarray[Any, Any]:
        y0, x0 = self.corner
        return self.array[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0]


class Block(NamedTuple):
    """Counts of the pixels at rows ``ys`` and columns ``xs`` of the selection, in raster order.

    ``used`` (pixels,) tells which of them are analysed, None that all are; the counts of the others are left out.
    """

    ys: slice
    xs: slice
    counts: Csr
    used: np.ndarray[Any, Any] | None = None

    @property
    def shape(self) -> tuple[int, int]:
        return self.ys.stop - self.ys.start, self.xs.stop - self.xs.start

    def within(self, lane: Lane) -> tuple[slice, slice]:
        """Return where the block is in a map of its lane."""
        y0, x0 = lane.ys.start, lane.xs.start
        return slice(self.ys.start - y0, self.ys.stop - y0), slice(self.xs.start - x0, self.xs.stop - x0)

    @property
    def analysed_counts(self) -> Csr:
        """The counts of the analysed pixels alone, for work that must not meet the others as empty pixels."""
        return self.counts if self.used is None else take_pixels(self.counts, np.flatnonzero(self.used))


class Lane(NamedTuple):
    """A square of blocks that one task works through; also the chunk of every map that is written."""

    ys: slice
    xs: slice

    @property
    def shape(self) -> tuple[int, int]:
        return self.ys.stop - self.ys.start, self.xs.stop - self.xs.start


class PixelMask(NamedTuple):
    """Which pixels are analysed: bool (y, x), its first value that of pixel (y0, x0) of the selection."""

    used: np.ndarray[Any, Any]
    y0: int = 0
    x0: int = 0

    def within(self, ys: slice, xs: slice) -> PixelMask:
        part = self.used[ys.start - self.y0 : ys.stop - self.y0, xs.start - self.x0 : xs.stop - self.x0]
        return PixelMask(part, ys.start, xs.start)


@dataclass(frozen=True, eq=False)
class Blocks:
    """The analysed counts: a box of a source, cut into lanes and blocks, without what is left out of it.

    ``pixels`` and ``channels`` (bool, over the channels of the box) tell what is analysed; None is everything.
    """

    source: CountsSource | ArraySource
    start: tuple[int, int, int]
    stop: tuple[int, int, int]
    pixels: PixelMask | None = None
    channels: np.ndarray[Any, Any] | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and channels of the box, what is left out included: the axes of a result."""
        (y0, x0, e0), (y1, x1, e1) = self.start, self.stop
        return y1 - y0, x1 - x0, e1 - e0

    @property
    def n_pixels(self) -> int:
        """Pixels that are read, those that are left out included."""
        return self.shape[0] * self.shape[1]

    @property
    def n_used(self) -> int:
        """Pixels that are analysed."""
        return self.n_pixels if self.pixels is None else int(np.count_nonzero(self.pixels.used))

    @property
    def n_channels(self) -> int:
        """Channels that are analysed; those of the counts of a block."""
        return self.shape[2] if self.channels is None else int(np.count_nonzero(self.channels))

    def of_all_pixels(self) -> Blocks:
        """Return the same blocks with the pixels that are left out, to project them too."""
        return replace(self, pixels=None)

    def of_all_channels(self) -> Blocks:
        """Return the same blocks with the channels that are left out."""
        return replace(self, channels=None)

    def of_lane(self, lane: Lane) -> Blocks:
        """Return what is needed to read one lane: of the mask of pixels, and of counts in memory, its piece."""
        pixels = None if self.pixels is None else self.pixels.within(lane.ys, lane.xs)
        return replace(self, source=self._source_of(lane), pixels=pixels)

    def _source_of(self, lane: Lane) -> CountsSource | ArraySource:
        if isinstance(self.source, CountsSource):
            return self.source
        y0, x0, _ = self.start
        return self.source.part(
            slice(lane.ys.start + y0, lane.ys.stop + y0), slice(lane.xs.start + x0, lane.xs.stop + x0)
        )

    def spread(self, spectra: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Put spectra (..., analysed channels) back on the whole axis (..., channels), NaN in what is left out."""
        if self.channels is None:
            return spectra
        whole = np.full((*spectra.shape[:-1], self.shape[2]), np.nan, spectra.dtype)
        whole[..., self.channels] = spectra
        return whole

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
        left_out = "".join(f" {name} {digest}" for name, digest in self.mask_digests.items())
        return f"{what} {self.start} {self.stop}{left_out}"

    @property
    def mask_digests(self) -> dict[str, str]:
        """Digests of what is analysed, by ``analysed_pixel`` and ``analysed_channel``; empty if that is everything."""
        masks = {ANALYSED_PIXEL: self.pixels and self.pixels.used, ANALYSED_CHANNEL: self.channels}
        return {
            name: hashlib.sha256(f"{mask.shape}".encode() + np.packbits(mask).tobytes()).hexdigest()[:16]
            for name, mask in masks.items()
            if mask is not None
        }

    @property
    def bytes_of_a_block(self) -> int:
        """Most bytes that a block holds while it is read: the tile compressed and inflated, its CSR, and the window's.

        Inflated it is dense, or encoded, which is never larger.
        """
        pixels, depth = self.source.tile[0] * self.source.tile[1], self.source.shape[2]
        itemsize = self.source.dtype.itemsize
        whole = pixels * depth * (itemsize + channel_dtype(depth).itemsize)
        window = pixels * self.shape[2] * (itemsize + channel_dtype(self.shape[2]).itemsize)
        copies = (self.shape[2] < depth) + (self.pixels is not None or self.channels is not None)
        return 2 * pixels * depth * itemsize + whole + copies * window

    def reads(self, passes: int = 1, *, most: int | None = None, lanes: Sequence[Lane] | None = None) -> Reads:
        """Return what so many passes read; ``lanes`` as for :func:`eds_chunked.engine.lanes.run_pass`."""

        def stored() -> Stored:
            return self.stored(place for lane in lanes or self.lanes() for place in self.pieces(lane))

        what = "tiles to come, at most" if isinstance(self.source, CountsToCome) else "tiles of the map"
        return Reads(what, stored, passes, most)

    def stored(self, places: Iterable[tuple[slice, slice]]) -> Stored:
        """Return how many blocks these are, and the stored bytes of their tiles; nothing is stored of an array."""
        pieces = n_bytes = 0
        y0, x0, _ = self.start
        for ys, xs in places:
            pieces += 1
            n_bytes += self.source.stored_bytes(ys.start + y0, xs.start + x0)
        return Stored(pieces, n_bytes)

    @property
    def lane_side(self) -> int:
        return _LANE_SIDE * self.source.tile[0]

    @property
    def whole(self) -> Lane:
        """The selection as one lane, in which no tile is cut."""
        return Lane(slice(0, self.shape[0]), slice(0, self.shape[1]))

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
        used = None
        if self.pixels is not None:
            used = self.pixels.within(ys, xs).used.ravel()
            used = None if used.all() else used
        if used is not None or self.channels is not None:
            counts = keep(counts, pixels=used, channels=self.channels)
        return Block(ys, xs, counts if counts.value.dtype.kind == "u" else self._checked(counts, ys, xs), used)

    def _checked(self, counts: Csr, ys: slice, xs: slice) -> Csr:
        """Refuse values that no count can have; signed integers become unsigned ones."""
        wrong = np.flatnonzero(~((counts.value > 0) & (counts.value < np.inf)))
        if wrong.size:
            pixel = int(np.searchsorted(counts.indptr, wrong[0], side="right")) - 1
            row, column = divmod(pixel, xs.stop - xs.start)
            channel = int(counts.channel[wrong[0]])
            channel = channel if self.channels is None else int(np.flatnonzero(self.channels)[channel])
            raise CountsError(
                f"counts at y {ys.start + row}, x {xs.start + column}, channel {channel}",
                found=f"{counts.value[wrong[0]]}",
                expected="a finite value of at least 0",
                fix="mask or correct the values first, for example ds.where(np.isfinite(ds.counts), 0).clip(min=0)",
            )
        if counts.value.dtype.kind == "i":
            return counts._replace(value=counts.value.astype(f"u{counts.value.dtype.itemsize}"))
        return counts


def blocks_of(ds: xr.Dataset, *, memory: str | int | None = None) -> Blocks:
    """Return the counts of ``ds`` as blocks; ``ds`` may be any selection or transformation of a map.

    What its coordinates ``analysed_pixel`` and ``analysed_channel`` leave out is not among them. Counts that are
    computed first are so within the budget ``memory`` of the step.

    Raises
    ------
    ChunkLayoutError
        ``counts`` is missing or has other dimensions.
    ParameterError
        The selection is empty, or all of it is left out.
    MemoryBudgetError
        Counts must be computed first, and the budget is too small for that.
    StoreError
        The map is in the middle of a calibration.
    """
    require(ds, COUNTS)
    check_calibrated(ds.attrs, str(ds.encoding.get("source", "memory")))
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
    used, channels = analysed_part(ds, ANALYSED_PIXEL), analysed_part(ds, ANALYSED_CHANNEL)
    pixels = None if used is None else PixelMask(used)
    if not isinstance(counts.data, da.Array):
        array = np.asarray(counts.data)
        return Blocks(ArraySource(array, tile_shape(array.shape[2])), (0, 0, 0), array.shape, pixels, channels)
    window = find_window(counts.data)
    if window is None:
        source = stage(counts.data, memory=memory)
        window = Window(source, (0, 0, 0), source.shape)
    return Blocks(window.source, window.start, window.stop, pixels, channels)
