"""Rows of a Bruker map: the stream of pixel records, decoded band by band within a window and a bound of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np

from eds_chunked.kernels import bcf_decode as bcf
from eds_chunked.kernels.sparse import Csr, channel_dtype
from eds_chunked.readers.base import Band, Box
from eds_chunked.readers.bruker_blocks import Block

Array = np.ndarray[Any, Any]
Fail = Callable[[str, str, str], NoReturn]

_CHANNEL_BYTES, _WIDEST_VALUE = 2, 4
_BUFFER = 1 << 20
_NOWHERE = slice(0, 0)


class RowDecoder:
    """Decoder of the rows of a map stream from a row on.

    :meth:`fill` decodes rows, and :meth:`take` hands the whole ones out. If ``fill`` raises, the rows before the damage
    can still be taken.

    Parameters
    ----------
    blocks
        Pieces of the stream from ``row`` on.
    row, offset
        The row at which they begin, and the byte of the stream.
    width, n_channels
        Columns and channels of the map.
    box
        Columns and channels that are wanted; its rows play no part.
    guess
        How many values the first band may have; later ones are taken to have as many as the one before.
    most
        Bytes that the arrays of a band may have, at least :func:`smallest_band`.
    fail
        Raises the SourceError for a place, what was found and what was expected.
    """

    def __init__(
        self, blocks: Iterator[Block], *, row: int, offset: int, width: int, n_channels: int, box: Box, guess: int,
        most: int, fail: Fail,
    ) -> None:  # fmt: skip
        self.row = row
        self._blocks, self._width, self._n_channels, self._fail = blocks, width, n_channels, fail
        self._columns, self._channels = box.xs, box.channels
        self._guess, self._most = guess, most
        self._state, self._scratch = bcf.new_state(), bcf.new_scratch()
        # Bytes _offset : _offset + _filled of the stream; a block is put behind what is left.
        self._buffer, self._filled, self._offset = np.empty(_BUFFER, np.uint8), 0, offset
        # What there is already of the next row.
        self._indptr, self._value = np.empty(0, np.int64), np.empty(0, np.uint8)
        self._channel: Array = np.empty(0, channel_dtype(self._n_kept))

    @property
    def _n_kept(self) -> int:
        return int(self._channels.stop - self._channels.start)

    @property
    def _position(self) -> int:
        return int(self._state[bcf.POSITION])

    @property
    def rows(self) -> int:
        """Whole rows that :meth:`take` would return."""
        return int(self._state[bcf.ROW])

    def goes_on_with(self, start: bytes) -> bool:
        """Whether the next bytes of the stream are ``start``."""
        while self._filled - self._position < len(start) and self._more():
            pass
        return self._buffer[self._position : self._filled][: len(start)].tobytes() == start

    def bytes_left(self) -> int:
        """Read on to the end of the stream; return how many bytes there were."""
        return self._filled - self._position + sum(len(block) for block in self._blocks)

    def skip(self, rows: int) -> None:
        """Hop over rows; their records are followed but not decoded."""
        wanted, guess = self._columns, self._guess
        self._columns = _NOWHERE
        self.fill(rows)
        self.take()
        self._columns, self._guess = wanted, guess

    def fill(self, rows: int) -> None:
        """Decode up to ``rows`` rows: at least one, and fewer than all of them if they take too much memory.

        Raises
        ------
        SourceError
            A record is damaged, or the stream ends.
        """
        self._begin(rows)
        xs, channels = self._columns, self._channels
        while True:
            status = bcf.decode(
                self._buffer, self._filled, self._state, rows, self._width, self._n_channels, xs.start, xs.stop,
                channels.start, channels.stop, self._indptr, self._channel, self._value,
                np.iinfo(self._value.dtype).max, self._scratch,
            )  # fmt: skip
            if status == bcf.DONE:
                return
            if status == bcf.MORE:
                if not self._more():
                    self._fail_here("the end of the stream", "more records")
            elif status == bcf.FULL:
                if not self._move(3 * len(self._value) // 2, self._value.dtype):
                    return
            elif status == bcf.WIDEN and self._value.itemsize < _WIDEST_VALUE:
                if not self._move(len(self._value), np.dtype(f"u{2 * self._value.itemsize}")):
                    return
            else:
                self._fail_here(*_explain(status, int(self._state[bcf.FOUND]), int(self._state[bcf.LIMIT])))

    def take(self) -> Band:
        """Return the whole rows that were decoded; what there is of the next row stays."""
        state, rows = self._state, self.rows
        pixels, n = rows * (self._columns.stop - self._columns.start), int(state[bcf.ROW_VALUES])
        rest, pixel = slice(n, int(state[bcf.N_VALUES])), int(state[bcf.PIXEL])
        self._indptr[pixels] = n
        counts = Csr(self._indptr[: pixels + 1], self._channel[:n], _narrow(self._value[:n]), self._n_kept)
        band = Band(self.row, rows, counts)
        # Copies, for views would keep the whole band.
        self._indptr = self._indptr[pixels:pixel] - n
        self._channel, self._value = self._channel[rest].copy(), _narrow(self._value[rest].copy())
        state[bcf.N_VALUES], state[bcf.PIXEL] = rest.stop - n, max(0, pixel - pixels)
        state[[bcf.ROW, bcf.ROW_VALUES]] = 0
        self.row, self._guess = self.row + rows, n
        return band

    def _begin(self, rows: int) -> None:
        """Make room for a band, with what there is already of its first row in front."""
        self._move(self._guess + self._guess // 8 + 2 * self._n_kept, self._value.dtype)
        held = self._indptr
        self._indptr = np.empty(rows * (self._columns.stop - self._columns.start) + 1, np.int64)
        self._indptr[: len(held)] = held

    def _move(self, capacity: int, dtype: np.dtype[Any]) -> bool:
        """Move the values to arrays of another length or dtype; False if rows have to be taken before."""
        used = int(self._state[bcf.N_VALUES])
        needed = used + self._n_kept + 1
        capacity = max(needed, capacity)
        room = self._most // (_CHANNEL_BYTES + dtype.itemsize)
        if needed > room and self.rows:
            return False
        capacity = min(capacity, room)
        channel, value = np.empty(capacity, self._channel.dtype), np.empty(capacity, dtype)
        channel[:used], value[:used] = self._channel[:used], self._value[:used]
        self._channel, self._value = channel, value
        return True

    def _more(self) -> bool:
        """Put the next block into the buffer; False at the end of the stream."""
        block = next(self._blocks, None)
        if block is None:
            return False
        if self._filled + len(block) > len(self._buffer):
            done = self._position
            rest = self._buffer[done : self._filled]
            if 2 * (len(rest) + len(block)) > len(self._buffer):
                self._buffer = np.empty(2 * (len(rest) + len(block)), np.uint8)
            self._buffer[: len(rest)] = rest
            self._filled, self._offset, self._state[bcf.POSITION] = len(rest), self._offset + done, 0
        self._buffer[self._filled : self._filled + len(block)] = np.frombuffer(block, np.uint8)
        self._filled += len(block)
        return True

    def _fail_here(self, found: str, expected: str) -> NoReturn:
        where = f"row {self.row + self.rows}, byte {self._offset + self._position:#x} of the stream"
        self._fail(where, found, expected)


def smallest_band(*, columns: int, channels: int) -> int:
    """Bytes that the arrays of a band need at least: for one row, however many counts are in it."""
    return (_CHANNEL_BYTES + _WIDEST_VALUE) * (columns + 1) * channels


def _narrow(value: Array) -> Array:
    return value.astype(np.min_scalar_type(value.max(initial=0)), copy=False) if value.itemsize > 1 else value


def _explain(status: int, found: int, limit: int) -> tuple[str, str]:
    """What decode() found and what would have been right."""
    return {
        bcf.WIDEN: (f"a count of {found}", "counts below 2^32"),
        bcf.BAD_COUNT: ("a count above 2^32", "counts below 2^32"),
        bcf.ROW_TOO_LONG: (f"a row of {found} pixels", f"at most {limit}"),
        bcf.BAD_X: (f"a pixel at x = {found}", f"x of {limit} or more and room for the rest of the row"),
        bcf.BAD_FLAG: (f"pixel packing {found}", "0 to 3"),
        bcf.BAD_SIZE: (f"a pixel record of {found} bytes", f"a size that fits its content ({limit})"),
        bcf.BAD_BUNCH: (f"a broken bunch of channels ({found})", f"bunches that cover {limit} channels"),
        bcf.BAD_CHANNEL: (f"counts in channel {found}", f"0 to {limit - 1}"),
    }[status]
