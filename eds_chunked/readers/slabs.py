"""Row bands of any height out of slabs of any height, each slab read once."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from eds_chunked import memory as machine
from eds_chunked.errors import SourceError
from eds_chunked.memory import MB, RESERVE
from eds_chunked.readers.base import Band, Box
from eds_chunked.readers.whole import scratch_bytes, store_counts

Array = np.ndarray[Any, Any]

# A row of chunks is read whole, and each chunk once, up to this size; beyond it memory comes first.
_SLAB_BYTES = 64 << 20
# The same where the budget is known: this share of what it leaves once everything is imported.
_SHARE = 8
_IMPORTED = 250 * MB


def slab_bytes(memory: str | int | None) -> int:
    """Return the bytes that a slab may have within a budget of the whole process."""
    return max(0, machine.resolve_limit(memory) - _base()) // _SHARE


def smallest_memory(slab: int) -> int:
    """Return the budget within which a slab of so many bytes is read whole, rounded up so that it can be typed."""
    return -(-(_base() + _SHARE * slab) // (10 * MB)) * 10 * MB


def _base() -> int:
    return max(machine.resident(), _IMPORTED) + RESERVE


def chunk_edges(
    box: Box, *, chunk: int | None, rows: int, row_bytes: int, largest_slab: int | None = None
) -> list[int]:
    """Return the rows at which slabs begin, and the row after the last: rows of chunks if they fit, else parts of them.

    Parameters
    ----------
    box
        What is read of the map.
    chunk
        Rows of a chunk of the file, None where it has none.
    rows
        Rows of a band.
    row_bytes
        Bytes of a row of the box, as it is stored.
    largest_slab
        Bytes that a slab may have if it is to be higher than a band.
    """
    start, stop = box.ys.start, box.ys.stop
    step = min(rows, stop - start)
    if chunk is None:
        return [*range(start, stop, step), stop]
    largest = _SLAB_BYTES if largest_slab is None else largest_slab
    # As many whole rows of chunks as a band has room for, one at least.
    aligned = part = chunk * max(1, step // chunk)
    if aligned > step and min(aligned, stop - start) * row_bytes > largest:
        # Equal parts, as few as there may be: each of them unpacks the whole chunks.
        part = -(-chunk // -(-chunk // max(step, largest // row_bytes)))
    inner = (y for top in range(start // aligned * aligned, stop, aligned) for y in range(top, top + aligned, part))
    return [start, *(y for y in inner if start < y < stop), stop]


def most_readings(edges: Sequence[int], *, chunk: int) -> int:
    """Return how many slabs have a part of the same row of chunks, at most."""
    return max(Counter(y // chunk for y in edges[:-1]).values())


def bytes_of_bands(rows: int, box: Box, *, dtype: np.dtype[Any], stored: np.dtype[Any]) -> int:
    """Return what a loop over bands holds beside its slab: two bands, and what turns ``stored`` values into counts."""
    height, width, channels = box.shape
    rows = min(rows, height)
    bands: int = min(2, math.ceil(height / rows)) * rows * width * channels * dtype.itemsize
    return bands + scratch_bytes(stored, values=width * channels) + (1 << 20)


def bands_of_slabs(
    read: Callable[[int, int], Array],
    *,
    edges: Sequence[int],
    box: Box,
    dtype: np.dtype[Any],
    rows: int,
    source: str,
) -> Iterator[Band]:
    """Yield bands of ``rows`` rows, reading the slabs between ``edges`` one after the other.

    Where a slab cannot be read, its rows are tried one by one, so that all whole rows before the damage come out.

    Parameters
    ----------
    read
        Called with the first row and the row after the last of a slab; returns (rows, columns, channels) of the box in
        any type and any strides.
    edges
        Where slabs begin and end, from the first row of the box to the row after its last: the file's own chunk rows,
        so that no chunk is decompressed twice.
    box, dtype
        Of the counts that come out.
    """
    _, width, channels = box.shape
    edges = list(edges)
    slab, begin, end, at = None, 0, box.ys.start, 0
    for y0 in range(box.ys.start, box.ys.stop, rows):
        y1 = min(y0 + rows, box.ys.stop)
        counts = np.empty((y1 - y0, width, channels), dtype)
        y = y0
        while y < y1:
            if y == end:
                slab = None  # Let go of the old slab before the new one is made.
                begin, end = edges[at], edges[at + 1]
                try:
                    slab = read(begin, end)
                except SourceError:
                    if end - begin > 1:
                        edges[at + 1 : at + 1] = range(begin + 1, end)
                        end = begin
                        continue
                    if y > y0:
                        yield Band(y0, y - y0, counts[: y - y0])
                    raise
                at += 1
            assert slab is not None
            stop = min(y1, end)
            store_counts(
                slab[y - begin : stop - begin],
                counts[y - y0 : stop - y0],
                source=source,
                y0=y,
                x0=box.xs.start,
                channel0=box.channels.start,
            )
            y = stop
        yield Band(y0, y1 - y0, counts)
        # The caller has the band now; a second name would keep it alive while the next one is made.
        del counts
