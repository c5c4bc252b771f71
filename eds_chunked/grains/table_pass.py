"""One pass that sums the counts of any number of labels into a table that is never held whole.

The map is read in strips, each some rows of tiles high. A chunk of the table (some labels that follow one another) is
opened at the first row of tiles with a pixel of it and written after the last. What a strip has of chunks that reach
into another strip it hands on, and whoever joins the last piece writes the chunk. Labels that are numbered about as
they come, row by row, keep few chunks open; which ones is known from the labels alone, and so is the memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.engine.blocks import Block, Blocks, Lane
from eds_chunked.engine.lazy_maps import piece
from eds_chunked.kernels.label_sums import label_extents, label_sums
from eds_chunked.memory import Need
from eds_chunked.phases.label_maps import LabelMap, LabelRows
from eds_chunked.store.drafts import MapTarget
from eds_chunked.store.spectra_table import write_spectra_chunk

Array = np.ndarray[Any, Any]

_STRIP = 2
"""Rows of tiles that one task goes through. Higher strips hand less on, lower ones keep all processors busy."""


@dataclass(frozen=True)
class Strips:
    """How a map is cut: strips of whole width, and in each the rows of tiles, by number from the top."""

    lanes: tuple[Lane, ...]
    bands: tuple[slice, ...]
    """Rows of pixels of each row of tiles."""

    def bands_of(self, lane: Lane) -> range:
        """Return the rows of tiles of a strip."""
        first = next(i for i, band in enumerate(self.bands) if band.start == lane.ys.start)
        stop = next(i for i, band in enumerate(self.bands) if band.stop == lane.ys.stop) + 1
        return range(first, stop)


def strips_of(blocks: Blocks) -> Strips:
    """Cut a map into strips along the tiles of its source: the same for every chunking and every machine."""
    height, width, _ = blocks.shape
    edge = Lane(slice(0, height), slice(0, 1))
    bands = tuple(ys for ys, _ in blocks.pieces(edge))
    lanes = tuple(
        Lane(slice(bands[i].start, bands[min(i + _STRIP, len(bands)) - 1].stop), slice(0, width))
        for i in range(0, len(bands), _STRIP)
    )
    return Strips(lanes, bands)


# ------------------------------------------------------------------------------------------------ what the labels say
class Extents(NamedTuple):
    """Of each label its pixels, the first and last row of tiles that it reaches, and its live time (0: not known)."""

    n_pixels: Array
    first: Array
    last: Array
    live_time: Array


def extents_of(labels: LabelMap, blocks: Blocks, strips: Strips, live: Any) -> Extents:
    """Go through the labels once, strip by strip; ``live`` (y, x) where every pixel has its own live time."""
    n = len(labels.rows.ids)
    n_pixels = np.zeros(n, np.int64)
    first, last = np.full(n, len(strips.bands), np.int64), np.full(n, -1, np.int64)
    seconds = np.zeros(n)
    for lane in strips.lanes:
        row = labels.of_pixels(lane.ys, lane.xs)
        if blocks.pixels is not None:
            row[~blocks.pixels.within(lane.ys, lane.xs).used] = -1
        bands = strips.bands_of(lane)
        height = [strips.bands[band].stop - strips.bands[band].start for band in bands]
        label_extents(row, np.repeat(np.array(bands), height), n_pixels, first, last)
        if live is not None:
            inside = row >= 0
            seconds += np.bincount(row[inside], piece(live, lane.ys, lane.xs)[inside], n)
    return Extents(n_pixels, first, last, seconds)


@dataclass(frozen=True)
class Table:
    """The table that is made: where it goes, how it is cut, and when each of its chunks is complete.

    Parameters
    ----------
    target
        Array (labels, channels), in chunks of ``rows`` labels.
    n_labels, n_channels, rows, dtype
        Shape, chunk and type of the table.
    first, last
        (chunks,) first and last row of tiles with a pixel of the chunk; a chunk without pixels is that of the first.
    """

    target: MapTarget
    n_labels: int
    n_channels: int
    rows: int
    dtype: np.dtype[Any]
    first: Array
    last: Array

    def size(self, chunk: int) -> int:
        """Return how many labels a chunk has."""
        return min(self.rows, self.n_labels - chunk * self.rows)

    def most_open(self, bands: range) -> int:
        """Return how many chunks are open at once, at most, in the rows of tiles of a strip."""
        return max(int(np.count_nonzero((self.first <= band) & (self.last >= band))) for band in bands)


def chunk_extents(extents: Extents, rows: int) -> tuple[Array, Array]:
    """Return the first and the last row of tiles of each chunk of ``rows`` labels."""
    starts = np.arange(0, len(extents.first), rows)
    first, last = np.minimum.reduceat(extents.first, starts), np.maximum.reduceat(extents.last, starts)
    empty = last < 0
    return np.where(empty, 0, first), np.where(empty, 0, last)


def table_need(table: Table, extents: Extents, blocks: Blocks, strips: Strips) -> Need:
    """Return what the pass holds: of each worker a block and its open chunks, and what strips hand on."""
    row = table.n_channels * table.dtype.itemsize
    pool = max(table.most_open(strips.bands_of(lane)) for lane in strips.lanes) * table.rows * row
    chunk_last = np.repeat(table.last, table.rows)[: table.n_labels]
    handed_on = max(
        int(np.count_nonzero((extents.first <= lane_end) & (chunk_last > lane_end)))
        for lane_end in (strips.bands_of(lane)[-1] for lane in strips.lanes)
    )
    width, height = strips.lanes[0].shape[1], max(lane.shape[0] for lane in strips.lanes)
    # Labels, their numbers, and where they go in the open chunks.
    labels = 8 * 5 * width * height
    # Joining makes a new piece of two, and the strips after it may be done already.
    return Need(
        "grain spectra", 8 * 8 * table.n_labels + 3 * handed_on * row, blocks.bytes_of_a_block + 2 * pool + labels
    )


# ------------------------------------------------------------------------------------------------ the pass
class Piece(NamedTuple):
    """Some rows of a chunk: their numbers in it, and their sums so far."""

    rows: Array
    sums: Array


@dataclass(frozen=True)
class Strip:
    """What is left of a strip, or of several joined: pieces of chunks that go on, and the counts of labels.

    ``totals`` has (chunk, counts of its labels) of every chunk that was written; ``first`` and ``last`` are the rows of
    tiles that it begins and ends with.
    """

    first: int
    last: int
    pieces: dict[int, Piece]
    totals: tuple[tuple[int, Array], ...]


@dataclass(frozen=True)
class TableWork:
    """Sums the counts of a strip by the labels of its pixels, and writes the chunks that are complete."""

    table: Table
    rows: LabelRows
    strips: Strips

    def __call__(self, lane: Lane, blocks: Iterator[Block], labels: Any) -> Strip:
        bands = self.strips.bands_of(lane)
        row = self.rows.of(piece(labels))
        chunks = _OpenChunks(self.table, bands)
        by_band = groupby(blocks, key=lambda block: block.ys.start)
        for band, (top, of_band) in zip(bands, by_band, strict=True):
            chunks.open_for(band)
            # Where in the open chunks the row of each pixel is.
            rows = self.strips.bands[band]
            at = chunks.place(row[top - lane.ys.start : rows.stop - lane.ys.start])
            for block in of_band:
                place = at[:, block.xs].ravel()
                label_sums(block.counts, place if block.used is None else np.where(block.used, place, -1), chunks.sums)
            chunks.close_after(band)
        return Strip(bands[0], bands[-1], chunks.pieces, tuple(chunks.totals))


class _OpenChunks:
    """The chunks of the table that a strip works on, in memory that is used again and again."""

    def __init__(self, table: Table, bands: range) -> None:
        self.table, self._bands = table, bands
        n_open = table.most_open(bands)
        self._room = np.zeros((n_open, table.rows, table.n_channels), table.dtype)
        self._free = list(range(n_open))
        self._slot: dict[int, int] = {}
        self._slots = np.full(len(table.first), -1, np.int64)
        self._target = table.target.open()
        self.pieces: dict[int, Piece] = {}
        self.totals: list[tuple[int, Array]] = []

    @cached_property
    def sums(self) -> Array:
        """All open chunks as one table."""
        return self._room.reshape(-1, self.table.n_channels)

    def open_for(self, band: int) -> None:
        """Make room for the chunks that have pixels in a row of tiles."""
        for chunk in np.flatnonzero((self.table.first <= band) & (self.table.last >= band)).tolist():
            if chunk not in self._slot:
                self._slot[chunk] = self._slots[chunk] = self._free.pop()

    def place(self, row: Array) -> Array:
        """Return where in ``sums`` the rows of the table are; -1 stays."""
        chunk, within = np.divmod(row, self.table.rows)
        return np.where(row >= 0, self._slots[chunk] * self.table.rows + within, -1)

    def close_after(self, band: int) -> None:
        """Write the chunks that are complete after a row of tiles, and lay aside pieces of those that are not."""
        at_end = band == self._bands[-1]
        for chunk, slot in list(self._slot.items()):
            if self.table.last[chunk] > band and not at_end:
                continue
            sums = self._room[slot, : self.table.size(chunk)]
            if self.table.last[chunk] <= band and self.table.first[chunk] >= self._bands[0]:
                self.totals.append(_write(self._target, self.table, chunk, sums))
            else:
                rows = np.flatnonzero(sums.any(axis=1))
                self.pieces[chunk] = Piece(rows, sums[rows])
            sums[:] = 0
            del self._slot[chunk]
            self._free.append(slot)


def _write(target: Any, table: Table, chunk: int, sums: Array) -> tuple[int, Array]:
    write_spectra_chunk(target, chunk, sums)
    return chunk, sums.sum(axis=1, dtype=np.uint64 if sums.dtype.kind == "u" else np.float64)


@dataclass(frozen=True)
class JoinStrips:
    """Adds what a strip has of chunks to what those above it have, and writes the chunks that are then complete."""

    table: Table

    def __call__(self, above: Strip, below: Strip) -> Strip:
        pieces, totals = dict(above.pieces), [*above.totals, *below.totals]
        target = None
        for chunk, piece_below in below.pieces.items():
            found = [one for one in (pieces.pop(chunk, None), piece_below) if one is not None]
            pieces[chunk] = _added(found)
        # Strips are joined in groups: a chunk may have begun above the first of them.
        complete = [
            chunk for chunk in pieces if self.table.first[chunk] >= above.first and self.table.last[chunk] <= below.last
        ]
        for chunk in complete:
            one = pieces.pop(chunk)
            whole = np.zeros((self.table.size(chunk), self.table.n_channels), self.table.dtype)
            whole[one.rows] = one.sums
            target = self.table.target.open() if target is None else target
            totals.append(_write(target, self.table, chunk, whole))
        return Strip(above.first, below.last, pieces, tuple(totals))


def _added(pieces: list[Piece]) -> Piece:
    if len(pieces) == 1:
        return pieces[0]
    above, below = pieces
    rows = np.union1d(above.rows, below.rows)
    sums = np.zeros((len(rows), above.sums.shape[1]), above.sums.dtype)
    sums[np.searchsorted(rows, above.rows)] = above.sums
    sums[np.searchsorted(rows, below.rows)] += below.sums
    return Piece(rows, sums)
