"""The index of a version-2 Bruker map: where in its stream a row begins."""

from __future__ import annotations

import struct
from collections.abc import Generator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.readers.bruker_container import Container

Array = np.ndarray[Any, Any]

_HEAD = 8
# The index holds the place of a record's second field; the row's number of pixels comes before its first record.
_INTO_RECORD, _ROW_HEAD = 4, 4


class RowStart(NamedTuple):
    """Where a row begins in the stream, and the bytes that must stand there."""

    offset: int
    expected: bytes


def find_row(container: Container, index: str, row: int, *, shape: tuple[int, int]) -> RowStart | None:
    """Look up ``row`` of a map of ``shape`` (rows, columns) in the file ``index``.

    Rows without any pixel are not in the index. The row is then found by the next one that has a pixel, since empty
    rows take four bytes each; None if there is none.

    Memory: one block of the index (512 KiB in all files of the vendor) and one row of it.

    Raises
    ------
    SourceError
        The index is damaged.
    """
    height, width = shape
    empty = 0
    with closing(_rows(container, index, row, width)) as rows:
        for places in rows:
            (occupied,) = np.nonzero(places != -1)
            if len(occupied):
                x = int(occupied[0])
                offset = int(places[x]) - _INTO_RECORD - _ROW_HEAD * (1 + empty)
                return RowStart(offset, bytes(_ROW_HEAD * empty) + struct.pack("<II", len(occupied), x))
            empty += 1
            if row + empty == height:
                return None
    container.fail(index, found=f"the end after {row + empty} rows", expected=f"{height} rows")


def _rows(container: Container, index: str, row: int, width: int) -> Generator[Array]:
    """Yield the rows of the index from ``row`` on."""
    held = bytearray()
    for block in container.blocks(index, _HEAD + 8 * width * row):
        held += block
        whole = len(held) // (8 * width)
        yield from np.frombuffer(bytes(held[: 8 * width * whole]), "<i8").reshape(whole, width)
        del held[: 8 * width * whole]
