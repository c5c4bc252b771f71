"""Write small EDAX .spd maps for tests, with the .spc and .ipr that calibrate them."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np


def write_spd(path: Path, counts: np.ndarray[Any, Any], *, offset: int = 1064, image: str = "") -> Path:
    """Write ``counts`` (y, x, energy); ``image`` is the name of the electron image that the header points at."""
    height, width, channels = counts.shape
    head = b"MAPSPECTRA_DATA\0" + struct.pack(
        "<3i5I120s", 1, height * width, width, height, channels, counts.itemsize, offset, 1, image.encode("latin-1")
    )
    path.write_bytes(head.ljust(offset, b"\0") + counts.astype(counts.dtype.newbyteorder("<")).tobytes())
    return path


def write_spc(
    path: Path, *, ev: int = 10, start: float = -0.25, kv: float = 20.0, elements: tuple[int, ...] = ()
) -> Path:
    """Write the sum spectrum of a map, of which only the header says something."""
    data = bytearray(20_740)
    struct.pack_into("<ff", data, 0, 0.61, 1.0)
    struct.pack_into("<i", data, 384, ev)
    struct.pack_into("<ff", data, 448, start, start + 4000 * ev / 1000)
    struct.pack_into("<ff", data, 456, 12.5, 3.0)
    struct.pack_into("<f", data, 472, 129.5)
    struct.pack_into("<ff", data, 508, 45.0, 35.0)
    struct.pack_into("<f", data, 532, kv)
    struct.pack_into(f"<h{len(elements)}H", data, 638, len(elements), *elements)
    path.write_bytes(data)
    return path


def write_ipr(path: Path, *, height: float, width: float) -> Path:
    """Write the description of an electron image: um of a pixel."""
    data = bytearray(252)
    struct.pack_into("<H", data, 0, 333)
    struct.pack_into("<ff", data, 64, width, height)
    path.write_bytes(data)
    return path
