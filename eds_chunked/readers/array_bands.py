"""Row bands out of an array, in memory or of dask, of which only the chunks of a few rows are computed at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from eds_chunked.readers.base import Band, Box
from eds_chunked.readers.signal import Layout
from eds_chunked.readers.slabs import bands_of_slabs, bytes_of_bands, chunk_edges

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, eq=False)
class ArrayBands:
    """Bands of the counts in an array.

    Parameters
    ----------
    data
        NumPy or dask array.
    layout
        Which of its axes are rows, columns and energy.
    dtype
        Of the counts that come out.
    source
        What errors call the map.
    largest_slab
        Bytes that rows of chunks may have to be computed whole if they are higher than a band; default 64 MiB.
    """

    data: Any
    layout: Layout
    dtype: np.dtype[Any]
    source: str
    largest_slab: int | None = None

    @property
    def stored(self) -> np.dtype[Any]:
        """Type of the array."""
        stored: np.dtype[Any] = np.dtype(self.data.dtype)
        return stored

    def peak_of_bands(self, rows: int, box: Box) -> int:
        """Bytes of a loop over bands, without what it takes to compute the array."""
        return bytes_of_bands(rows, box, dtype=self.dtype, stored=self.stored)

    def peak_bytes(self, rows: int, box: Box) -> int:
        """Bytes that a loop over ``bands(rows, box)`` holds at most, over what the process holds now."""
        bands = self.peak_of_bands(rows, box)
        if isinstance(self.data, np.ndarray):
            return bands
        _, width, channels = box.shape
        slab = max(b - a for a, b in pairwise(self._edges(rows, box))) * width * channels * self.stored.itemsize
        # dask joins the parts of a slab by a copy; of a chunk that cannot be cut while it is made all is there.
        chunk = math.prod(max(sizes) for sizes in self.data.chunks) * self.stored.itemsize
        return int(bands + 2 * slab + chunk)

    def bands(self, rows: int, box: Box) -> Iterator[Band]:
        """Yield the rows of a box, ``rows`` at a time; lazy counts are computed on this thread.

        Raises
        ------
        CountsError
            A signed or float value is negative, not whole, NaN or too large.
        """

        def read(y0: int, y1: int) -> Array:
            block = self.data[self.layout.window(box._replace(ys=slice(y0, y1)))]
            if not isinstance(block, np.ndarray):
                block = np.asarray(block.compute(scheduler="synchronous"))
            return self.layout.as_map(block)

        edges = self._edges(rows, box)
        yield from bands_of_slabs(read, edges=edges, box=box, dtype=self.dtype, rows=rows, source=self.source)

    def _edges(self, rows: int, box: Box) -> list[int]:
        _, width, channels = box.shape
        row_bytes = width * channels * self.stored.itemsize
        if isinstance(self.data, np.ndarray) or self.layout.row is None:
            return chunk_edges(box, chunk=None, rows=rows, row_bytes=row_bytes)
        if self.data.npartitions == 1:
            # Nothing says that a part of it can be had for less than all of it.
            return [box.ys.start, box.ys.stop]
        chunk = max(self.data.chunks[self.layout.row])
        return chunk_edges(box, chunk=chunk, rows=rows, row_bytes=row_bytes, largest_slab=self.largest_slab)
