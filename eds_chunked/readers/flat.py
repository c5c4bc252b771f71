"""Counts that stand bare in a file, one value after the other: read in row bands with plain reads.

The file is never mapped: mapped pages count as resident memory, and the system maps more of them than were asked for.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np

from eds_chunked.readers.base import Band, Box
from eds_chunked.readers.whole import counts_dtype, needs_check, scratch_bytes, store_counts

Array = np.ndarray[Any, Any]

# Planes are read in groups of about this size: large enough for long runs of writes, small beside a band.
_GROUP_BYTES = 4 << 20
_GROUP_CHANNELS = 64


class FlatCounts:
    """The counts of a map, recorded by vector (y, x, energy) or by image (energy, y, x).

    Parameters
    ----------
    path
        The file.
    offset
        Byte of the first value.
    shape
        Rows, columns and channels, however they are recorded.
    stored
        Type of the values, with their byte order.
    by_image
        Whether there is one plane after the other, instead of one spectrum after the other.
    fail
        Raises the SourceError of a file that is shorter than it should be; called with the bytes that it has and
        those that it should have.
    """

    def __init__(
        self,
        path: Path,
        *,
        offset: int,
        shape: tuple[int, int, int],
        stored: np.dtype[Any],
        by_image: bool,
        fail: Callable[[int, int], NoReturn],
    ) -> None:
        self._path, self._offset, self._shape = path, offset, shape
        self._stored, self._by_image, self._fail = stored, by_image, fail
        self._dtype = counts_dtype(stored, source=str(path))
        self.row_bytes = shape[1] * shape[2] * stored.itemsize

    @property
    def end(self) -> int:
        """Bytes that the file has up to the last value."""
        return self._offset + self._shape[0] * self.row_bytes

    @property
    def whole_rows(self) -> int:
        """Whole rows from the first one on that the file has, recorded by vector."""
        return self._rows_in(self._path.stat().st_size)

    def peak_bytes(self, rows: int, box: Box) -> int:
        """Bytes that a loop over ``bands(rows, box)`` holds at most: the caller's band, the next one, and scratch."""
        height, width, channels = box.shape
        rows = min(rows, height)
        band = rows * width * channels * self._dtype.itemsize
        if self._by_image:
            group = self._group_channels(rows, box)
            scratch = rows * width * group * self._stored.itemsize
            if width < self._shape[1]:
                scratch += rows * self._shape[1] * self._stored.itemsize
            scratch += scratch_bytes(self._stored, values=width * group)
        elif self._in_place(box):
            scratch = 0
        else:
            scratch = width * self._shape[2] * self._stored.itemsize
            scratch += scratch_bytes(self._stored, values=width * channels)
        # NumPy's own buffers when it swaps bytes, and the interpreter's small objects.
        return min(2, math.ceil(height / rows)) * band + scratch + (1 << 18)

    def bands(self, rows: int, box: Box) -> Iterator[Band]:
        """Yield the rows of a box, ``rows`` at a time, in unsigned integers.

        Raises
        ------
        CountsError
            A signed or float value is negative, not whole, NaN or too large.
        SourceError
            The file is cut off, or became shorter while it was read; recorded by vector, all whole rows that it has
            have been yielded.
        """
        _, width, channels = box.shape
        with open(self._path, "rb", buffering=0) as file:
            for y0 in range(box.ys.start, box.ys.stop, rows):
                wanted = there = min(rows, box.ys.stop - y0)
                if not self._by_image:
                    there = max(0, min(wanted, self._rows_in(os.fstat(file.fileno()).st_size) - y0))
                if there:
                    counts = np.empty((there, width, channels), self._dtype)
                    if self._by_image:
                        self._fill_by_image(file, counts, box, y0)
                    else:
                        self._fill_by_vector(file, counts, box, y0)
                    yield Band(y0, there, counts)
                    # The caller has the band now; a second name would keep it alive while the next one is made.
                    del counts
                if there < wanted:
                    self._fail(os.fstat(file.fileno()).st_size, self.end)

    def _rows_in(self, file_size: int) -> int:
        return min(self._shape[0], max(0, file_size - self._offset) // self.row_bytes)

    def _in_place(self, box: Box) -> bool:
        """Say whether what is read by vector can go straight to where it belongs."""
        return not needs_check(self._stored) and box.channels == slice(0, self._shape[2])

    def _fill_by_vector(self, file: BinaryIO, counts: Array, box: Box, y0: int) -> None:
        _, width, channels = self._shape
        in_place = self._in_place(box)
        if in_place and box.xs == slice(0, width):
            file.seek(self._offset + y0 * self.row_bytes)
            self._read(file, counts)
        else:
            row = np.empty((1, 0 if in_place else counts.shape[1], channels), self._stored)
            for i in range(len(counts)):
                file.seek(self._offset + (y0 + i) * self.row_bytes + box.xs.start * channels * self._stored.itemsize)
                if in_place:
                    self._read(file, counts[i])
                    continue
                self._read(file, row)
                store_counts(
                    row[:, :, box.channels],
                    counts[i : i + 1],
                    source=str(self._path),
                    y0=y0 + i,
                    x0=box.xs.start,
                    channel0=box.channels.start,
                )
        if in_place and not self._stored.isnative:
            counts.byteswap(inplace=True)

    def _fill_by_image(self, file: BinaryIO, counts: Array, box: Box, y0: int) -> None:
        height, width, _ = self._shape
        rows, columns, channels = counts.shape
        step = self._group_channels(rows, box)
        planes = np.empty((step, rows, columns), self._stored)
        plane = np.empty((rows, width), self._stored) if columns < width else None
        for c0 in range(0, channels, step):
            group = planes[: min(step, channels - c0)]
            for c, part in enumerate(group, box.channels.start + c0):
                file.seek(self._offset + (c * height + y0) * width * self._stored.itemsize)
                if plane is None:
                    self._read(file, part)
                else:
                    self._read(file, plane)
                    part[...] = plane[:, box.xs]
            store_counts(
                group.transpose(1, 2, 0),
                counts[:, :, c0 : c0 + len(group)],
                source=str(self._path),
                y0=y0,
                x0=box.xs.start,
                channel0=box.channels.start + c0,
            )

    def _group_channels(self, rows: int, box: Box) -> int:
        _, width, channels = box.shape
        plane = rows * width * self._stored.itemsize
        return min(channels, _GROUP_CHANNELS, max(8, _GROUP_BYTES // plane))

    def _read(self, file: BinaryIO, out: Array) -> None:
        view = out.reshape(-1).view(np.uint8).data
        done = 0
        while done < len(view):
            # One read gives 2 GB at most, and may give less.
            n = file.readinto(view[done:])  # type: ignore[attr-defined]
            if not n:
                self._fail(os.fstat(file.fileno()).st_size, self.end)
            done += n
