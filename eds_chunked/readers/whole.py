"""Counts as unsigned integers: what a file stores as signed or float is checked, value by value, before it is cast."""

from __future__ import annotations

from typing import Any

import numpy as np

from eds_chunked.errors import CountsError, SourceError

Array = np.ndarray[Any, Any]

# No detector counts four thousand million X-rays of one channel in one pixel, so wider types are narrowed to this.
LARGEST = int(np.iinfo(np.uint32).max)


def counts_dtype(stored: np.dtype[Any], *, source: str) -> np.dtype[Any]:
    """Return the unsigned type, of at most 32 bits, that holds the counts of a file whose values are ``stored``."""
    if stored.kind in "iu":
        return np.dtype(f"u{min(stored.itemsize, 4)}")
    if stored.kind == "f":
        return np.dtype(np.uint32)
    raise SourceError(
        source,
        found=f"values of type {stored}",
        expected="integers or floats",
        fix="export the map again as unsigned integers",
    )


def needs_check(stored: np.dtype[Any]) -> bool:
    """Say whether values of this type can be anything but counts of at most 32 bits."""
    return stored.kind != "u" or stored.itemsize > 4


def scratch_bytes(stored: np.dtype[Any], *, values: int) -> int:
    """Bytes that :func:`store_counts` needs beside its arguments, for a block with ``values`` values a row."""
    # The whole part and a mask of one row; integers are judged by their extremes alone.
    return values * (stored.itemsize + 2) if stored.kind == "f" else 0


def store_counts(block: Array, out: Array, *, source: str, y0: int, x0: int = 0, channel0: int = 0) -> None:
    """Copy ``block`` into ``out``, both (rows, columns, channels), or raise CountsError at the first value of no count.

    ``y0``, ``x0`` and ``channel0`` are where the block's first value is in the map, for the message.
    """
    if not needs_check(block.dtype):
        out[...] = block
        return
    for i in range(len(block)):
        row = block[i]
        if not _is_counts(row):
            _report(row, source=source, y=y0 + i, x0=x0, channel0=channel0)
        with np.errstate(invalid="ignore"):
            out[i] = row


def _is_counts(values: Array) -> bool:
    with np.errstate(invalid="ignore"):
        # A NaN makes both extremes NaN, and no comparison with NaN holds.
        if not (values.min() >= 0 and values.max() <= LARGEST):
            return False
        return values.dtype.kind != "f" or bool((values == np.trunc(values)).all())


def _report(row: Array, *, source: str, y: int, x0: int, channel0: int) -> None:
    with np.errstate(invalid="ignore"):
        good = (row >= 0) & (row <= LARGEST)
        if row.dtype.kind == "f":
            good &= row == np.trunc(row)
    x, channel = (int(i) for i in np.argwhere(~good)[0])
    raise CountsError(
        f"counts of {source}",
        found=f"{row[x, channel]} at y={y}, x={x0 + x}, channel={channel0 + channel}",
        expected=f"whole numbers from 0 to {LARGEST}",
        fix="export the raw counts, not normalised, smoothed or background-subtracted ones",
    )
