"""Rows of a source gathered into rows of tiles: as CSR, checked against the header, within the memory budget."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eds_chunked import memory as machine
from eds_chunked.errors import MemoryBudgetError, SourceError
from eds_chunked.kernels.sparse import Csr, channel_dtype, concatenate, from_dense, take_pixels
from eds_chunked.memory import MB, RESERVE, Need, Reads, Stored, format_size, n_cpus
from eds_chunked.readers.base import Band, Box, MapHeader, Reader
from eds_chunked.store.journal import ConversionPlan
from eds_chunked.store.tile_codecs import TILE_CODECS

_TYPICAL_FILL = 0.1
"""Share of non-zero values that memory is planned for."""
_LEAST_FILL = 0.01
"""The same where the budget is small. A map that turns out denser is refused then, with what it takes to go on."""

_LOADED = 15 * MB
"""Code that a first conversion loads."""

_BANDS = 0.25
"""Share of what is free that the height of the bands may take."""

_COPIES = 5
"""Times the bytes of a tile as CSR that are held to write it: its pieces, the tile, and the stages of its encoding."""
_DENSE_COPIES = 3
"""Times the bytes of a dense tile that a stock codec holds: the values, and the stages of their compression."""


@dataclass(frozen=True)
class Budget:
    """How a source is read and written: band height, threads, and bytes for what is staged and being written."""

    rows: int
    workers: int
    room: int
    limit: int
    job: Job


@dataclass(frozen=True)
class Job:
    """What writing one unit of tiles holds."""

    unit: int
    dense: int

    def n_bytes(self, tile: int) -> int:
        """Bytes held for a unit whose tiles take ``tile`` bytes as CSR; encoded they take less than that."""
        return _COPIES * tile + self.dense + (self.unit * tile if self.unit > 1 else 0)


def plan_staging(reader: Reader, conversion: ConversionPlan, *, memory: str | int | None) -> Budget:
    """Share the budget between what is read and what is staged.

    A row of tiles is staged as CSR whatever the height of the bands, and twice: one is read while the one before is
    written. So the bands take a part of the budget that leaves room for that; bands of a few rows only cost calls.

    Raises
    ------
    MemoryBudgetError
        The smallest way to do it needs more.
    """
    height, width, n_channels = conversion.shape
    side = conversion.tile[0]
    itemsize = min(4, max(1, reader.header.dtype.itemsize))
    dense = 0 if TILE_CODECS[conversion.codec].independent_of_dtype else _DENSE_COPIES * side * side * n_channels
    unit = 1 if conversion.shard is None else conversion.shard[1] // conversion.tile[1]
    job = Job(min(unit, -(-width // side)), dense * itemsize)
    # The survey, its maps on their way into the store, and what is loaded when they are written.
    flat = _LOADED + 40 * height * width
    a_value = channel_dtype(n_channels).itemsize + itemsize
    rows = min(side, height)
    free = machine.resolve_limit(memory) - machine.resident() - RESERVE - flat
    while rows > 1 and reader.peak_bytes(rows) - reader.peak_bytes(1) > _BANDS * free:
        rows //= 2
    attempts = [(_TYPICAL_FILL, rows), (_LEAST_FILL, rows), (_LEAST_FILL, 1)]
    while True:
        fill, rows = attempts.pop(0)
        a_pixel = round(n_channels * fill * a_value) + 8
        fixed = reader.peak_bytes(rows) + flat
        need = Need("convert", fixed + 2 * min(side, height) * width * a_pixel, job.n_bytes(side * side * a_pixel))
        try:
            chosen = machine.plan(
                need,
                memory=memory,
                reads=[Reads("source", lambda: Stored(1, int(conversion.source.get("size", 0))))],
                writes=math.prod(conversion.shape) * itemsize + flat,
            )
        except MemoryBudgetError:
            if not attempts:
                raise
        else:
            return Budget(rows, chosen.workers, chosen.limit - chosen.idle - fixed, chosen.limit, job)


@dataclass(frozen=True)
class TileRow:
    """The counts of one row of tiles, or of what there is of it: rows ``ys`` of the map, in pieces of whole rows."""

    ys: slice
    pieces: tuple[tuple[slice, Csr], ...]
    width: int

    @property
    def largest(self) -> int:
        """The largest count."""
        return max(int(piece.value.max(initial=0)) for _, piece in self.pieces)

    def tile(self, xs: slice) -> Csr:
        """Return the pixels of a range of columns, in raster order."""
        columns = np.arange(xs.start, xs.stop)
        cut = [
            take_pixels(piece, (np.arange(ys.stop - ys.start)[:, None] * self.width + columns).ravel())
            for ys, piece in self.pieces
        ]
        return cut[0] if len(cut) == 1 else concatenate(cut)


class Staging:
    """Reads a source row of tiles by row of tiles.

    Parameters
    ----------
    reader
        The source.
    conversion
        What is converted.
    budget
        What may be held.
    salvage
        Whether damage ends the rows, once all whole ones were given, instead of raising an error.

    Attributes
    ----------
    damage
        The error of the source that ended the rows, or None.
    """

    def __init__(self, reader: Reader, conversion: ConversionPlan, budget: Budget, *, salvage: bool) -> None:
        self._reader, self._plan, self._budget, self._salvage = reader, conversion, budget, salvage
        self.damage: SourceError | None = None
        self._before = 0

    def rows(self, ys: slice) -> Iterator[TileRow]:
        """Yield the rows of tiles that hold rows ``ys`` of the map, which begin and end where tiles do."""
        height, width, _ = self._plan.shape
        side = self._plan.tile[0]
        pieces: list[tuple[slice, Csr]] = []
        top = read = ys.start
        for band in self._bands(ys):
            csr = _compressed(band, self._reader.header, read, ys.stop)
            pieces.extend(_split(band, csr, width, side))
            read += band.rows
            del band, csr
            self._check_room(pieces, top)
            while pieces and pieces[-1][0].stop >= min(top + side, height):
                bottom = min(top + side, height)
                row = TileRow(slice(top, bottom), tuple(p for p in pieces if p[0].start < bottom), width)
                pieces = [p for p in pieces if p[0].start >= bottom]
                self._before = _bytes_of(row.pieces)
                yield row
                top = bottom
        if read < ys.stop and self.damage is None:
            self.damage = SourceError(
                f"map in {self._reader.header.source}",
                found=f"{read} rows",
                expected=f"{height} rows",
                fix="get the whole file; eds-chunked convert FILE STORE --salvage keeps the whole rows before it ends",
            )
            if not self._salvage:
                raise self.damage
        if pieces:
            yield TileRow(slice(top, read), tuple(pieces), width)

    def _bands(self, ys: slice) -> Iterator[Band]:
        _, width, n_channels = self._plan.shape
        bands = self._reader.bands(self._budget.rows, Box(ys, slice(0, width), slice(0, n_channels)))
        try:
            # Not a loop of the caller around it: errors raised there are no damage of the source.
            yield from bands
        except SourceError as error:
            if not self._salvage:
                raise
            self.damage = error

    def _check_room(self, pieces: list[tuple[slice, Csr]], top: int) -> None:
        """Refuse to go on where the counts are denser than the budget allows."""
        budget, side = self._budget, self._plan.tile[0]
        staged, n_rows = _bytes_of(pieces), pieces[-1][0].stop - top
        # Of a row of tiles that is not complete what there is speaks for the rest.
        whole = staged * max(1, min(side, self._plan.shape[0]) / n_rows)
        tile = round(whole * min(1, side / self._plan.shape[1]))
        needed = max(staged, self._before) + staged + budget.workers * budget.job.n_bytes(tile)
        if needed <= budget.room:
            return
        # What comes may be a little denser still.
        staging = 2.1 * whole + n_cpus() * budget.job.n_bytes(tile)
        low, high = (self._reader.peak_bytes(rows) for rows in (1, min(side, self._plan.shape[0])))
        taken = budget.limit - budget.room - self._reader.peak_bytes(budget.rows)
        smallest = taken + min(staging + high, (staging + low) / (1 - _BANDS))
        raise MemoryBudgetError(
            "memory for convert",
            found=f"{format_size(staged)} of counts in the {n_rows} rows from {top} on",
            expected=f"at most {format_size(budget.room)} for two rows of tiles and what is being written",
            fix=f"--memory {int(-(-smallest // (10 * MB))) * 10}MB",
        )


def _bytes_of(pieces: Any) -> int:
    return sum(part.channel.nbytes + part.value.nbytes + part.indptr.nbytes for _, part in pieces)


def _compressed(band: Band, header: MapHeader, y0: int, stop: int) -> Csr:
    """Return the band as CSR; a reader that does not keep to its header would fill a map with wrong counts."""
    _, width, n_channels = header.shape
    counts = band.counts
    shape: tuple[int, ...]
    expected: tuple[int, ...]
    if isinstance(counts, Csr):
        # The kernels do not check their indices, so a channel beyond the last one counts as one more channel here.
        shape = (counts.n_pixels, max(counts.n_channels, int(counts.channel.max(initial=0)) + 1))
        expected, dtype = (band.rows * width, n_channels), counts.value.dtype
        if not counts.value.all():
            raise SourceError(
                f"map in {header.source}",
                found=f"a band with zeros among its values, at row {band.y0}",
                expected="values above 0 only",
                fix="correct the reader of this format",
            )
    else:
        shape, expected, dtype = counts.shape, (band.rows, width, n_channels), counts.dtype
    if band.y0 != y0 or not 0 < band.rows <= stop - y0 or shape != expected or dtype.kind != "u":
        raise SourceError(
            f"map in {header.source}",
            found=f"a band of {dtype} {shape} at row {band.y0}",
            expected=f"unsigned integers {expected} at row {y0} of {stop}",
            fix="correct the reader of this format",
        )
    return counts if isinstance(counts, Csr) else from_dense(counts.reshape(band.rows * width, n_channels))


def _split(band: Band, csr: Csr, width: int, side: int) -> Iterator[tuple[slice, Csr]]:
    """Return the band as CSR pieces that lie within one row of tiles each."""
    y0, stop = band.y0, band.y0 + band.rows
    while y0 < stop:
        y1 = min(stop, (y0 // side + 1) * side)
        if (y0, y1) == (band.y0, stop):
            yield slice(y0, y1), csr
        else:
            yield slice(y0, y1), take_pixels(csr, np.arange((y0 - band.y0) * width, (y1 - band.y0) * width))
        y0 = y1
