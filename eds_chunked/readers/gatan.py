"""Gatan .dm3 and .dm4 maps: described by RosettaSciIO, whose tags also say where in the file the counts stand."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

import numpy as np

from eds_chunked.errors import SourceError
from eds_chunked.readers.flat import FlatCounts
from eds_chunked.readers.signal import FoundMap, Layout, at

_SUFFIXES = (".dm3", ".dm4")
_DATA = ("ImageList", "TagGroup0", "ImageData", "Data")
_BY_IMAGE, _BY_VECTOR = Layout(row=1, column=2, energy=0), Layout(row=0, column=1, energy=2)


def bare_counts(path: Path, found: FoundMap) -> FlatCounts | None:
    """Return the counts of a Gatan map, or None for another format and for axes in another order.

    Raises
    ------
    SourceError
        The file ends before its counts do.
    """
    place = at(found.signal.original, *_DATA)
    if path.suffix.lower() not in _SUFFIXES or place is None or found.layout not in (_BY_IMAGE, _BY_VECTOR):
        return None

    def fail(n_bytes: int, expected: int) -> NoReturn:
        raise SourceError(
            str(path),
            found=f"{n_bytes} bytes",
            expected=f"at least {expected} bytes, by the sizes in its tags",
            fix="copy the file again, it is truncated",
        )

    counts = FlatCounts(
        path,
        offset=int(place["offset"]),
        shape=found.header.shape,
        stored=np.dtype(found.signal.data.dtype).newbyteorder(place["endian"]),
        by_image=found.layout == _BY_IMAGE,
        fail=fail,
    )
    n_bytes = path.stat().st_size
    if n_bytes < counts.end:
        fail(n_bytes, counts.end)
    return counts
