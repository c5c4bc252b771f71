"""The index of a version-2 Bruker map: where in its stream a row begins."""

from __future__ import annotations

import struct
from collections.abc import Generator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.readers.bruker_container import Container

Array = np.ndarray[Any, Any]

STREAM_HEADER = 0x1A0

_HEAD = 8
# The index holds the place of a record's second field; the row's number of pixels comes before its first record.
_INTO_RECORD, _ROW_HEAD = 4, 4
_SMALLEST_RECORD = 22


class RowStart(NamedTuple):
    """Where a row begins in the stream, and the bytes that must stand there."""

    offset: int
    expected: bytes


def find_row(container: Container, index: str, row: int, *, shape: tuple[int, int]) -> RowStart | None:
    """Look up ``row`` of a map of ``shape`` (rows, columns) in the file ``index``.

    Rows without any pixel are not in the index. The row is then found by the next one that has a pixel, since empty
    rows take four bytes each; None if there is none.

    The index is read from its beginning, since a single entry proves little: on a map without gaps all rows begin with
    the same bytes. Its first entry must be where the first record has to be, and from there every entry must leave room
    for the records and rows before it. So an index of another size, of another map, or one that is shifted is refused.
    What no look at the index can show, only a pass through the stream, is one that was made to lie: whose entries are
    right at first and from some row on those of a later row.

    Memory: a few times one block of the index (512 KiB in all files of the vendor) and one row of it.

    Raises
    ------
    SourceError
        The index is damaged, or does not fit the map.
    """
    height, width = shape
    top = container.read(index, _HEAD)
    if top != struct.pack("<II", height, width):
        said = " x ".join(map(str, struct.unpack("<II", top))) if len(top) == _HEAD else f"{len(top)} bytes"
        container.fail(index, found=said, expected=f"{height} x {width} pixels, as the map has")
    # Row and place of the last record; in front of the first one there is nothing but empty rows.
    last, done = (-1, STREAM_HEADER + _INTO_RECORD - _SMALLEST_RECORD), 0
    with closing(_pieces(container, index, shape=shape)) as pieces:
        for places in pieces:
            y, x = np.nonzero(places != -1)
            place = places[y, x]
            y += done
            done += len(places)
            first = int(np.searchsorted(y, row))
            if first < len(y):
                # What follows the row that was found plays no part.
                y = y[: np.searchsorted(y, y[first], side="right")]
            place = place[: len(y)]
            if len(y):
                _check(container, index, y, place, last=last)
                last = int(y[-1]), int(place[-1])
            if first < len(y):
                empty = int(y[first]) - row
                offset = int(place[first]) - _INTO_RECORD - _ROW_HEAD * (1 + empty)
                return RowStart(offset, bytes(_ROW_HEAD * empty) + struct.pack("<II", len(y) - first, int(x[first])))
    if done < height:
        container.fail(index, found=f"the end after {done} rows", expected=f"{height} rows")
    return None


def _check(container: Container, index: str, y: Array, place: Array, *, last: tuple[int, int]) -> None:
    """Check that every record leaves room for the one before it and the heads of the rows between."""
    rows, places = np.concatenate([[last[0]], y]), np.concatenate([[last[1]], place])
    steps, least = np.diff(places), _SMALLEST_RECORD + _ROW_HEAD * np.diff(rows)
    # A step from or to a negative place may have wrapped.
    wrong = (place < 0) | (steps < least)
    exactly = last[0] < 0
    wrong[0] |= exactly and steps[0] != least[0]
    if wrong.any():
        i = int(np.argmax(wrong))
        container.fail(
            index,
            found=f"row {y[i]} to have a record at byte {int(place[i]):#x} of the map",
            expected=f"byte {int(places[i]) + int(least[i]):#x}{'' if exactly and i == 0 else ' or behind'}",
        )


def _pieces(container: Container, index: str, *, shape: tuple[int, int]) -> Generator[Array]:
    """Yield the index in pieces of whole rows."""
    left, width = shape
    held = bytearray()
    for block in container.blocks(index, _HEAD):
        held += block
        whole = min(left, len(held) // (8 * width))
        if whole:
            yield np.frombuffer(bytes(held[: 8 * width * whole]), "<i8").reshape(whole, width)
            left -= whole
            del held[: 8 * width * whole]
        if not left:
            return
