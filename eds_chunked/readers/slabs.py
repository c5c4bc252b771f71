"""Row bands of any height out of slabs of any height, each slab read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from eds_chunked.readers.base import Band
from eds_chunked.readers.whole import store_counts

Array = np.ndarray[Any, Any]


def bands_of_slabs(
    read: Callable[[int, int], Array],
    *,
    edges: Sequence[int],
    shape: tuple[int, int, int],
    dtype: np.dtype[Any],
    rows: int,
    source: str,
) -> Iterator[Band]:
    """Yield bands of ``rows`` rows, reading the slabs between ``edges`` (0, ..., height) one after the other.

    Parameters
    ----------
    read
        Called with the first row and the row after the last of a slab; returns (rows, columns, channels) in any type
        and any strides.
    edges
        Where slabs begin and end: the file's own chunk rows, so that no chunk is decompressed twice.
    shape, dtype
        Of the map that comes out.
    """
    height, width, channels = shape
    slab, begin, end, at = None, 0, 0, 0
    for y0 in range(0, height, rows):
        y1 = min(y0 + rows, height)
        counts = np.empty((y1 - y0, width, channels), dtype)
        y = y0
        while y < y1:
            if y == end:
                slab = None  # Let go of the old slab before the new one is made.
                begin, end, at = edges[at], edges[at + 1], at + 1
                slab = read(begin, end)
            assert slab is not None
            stop = min(y1, end)
            store_counts(slab[y - begin : stop - begin], counts[y - y0 : stop - y0], source=source, y0=y)
            y = stop
        yield Band(y0, y1 - y0, counts)
        # The caller has the band now; a second name would keep it alive while the next one is made.
        del counts
