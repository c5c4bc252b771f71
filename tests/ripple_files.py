"""Write small .rpl/.raw pairs for tests, every key under the test's control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

_TYPES = {"u": "unsigned", "i": "signed", "f": "float"}


def write_ripple(
    path: Path,
    counts: np.ndarray[Any, Any],
    *,
    record_by: str = "vector",
    byte_order: str = "little-endian",
    dtype: str | None = None,
    offset: int = 0,
    keys: dict[str, Any] | None = None,
) -> Path:
    """Write ``counts`` (y, x, energy) as ``path`` (.rpl) and its .raw; return ``path``.

    ``dtype`` is NumPy's name without byte order; ``keys`` adds keys, replaces them, and removes those that are None.
    """
    stored = np.dtype(dtype or counts.dtype)
    height, width, depth = counts.shape
    if stored.itemsize == 1:
        byte_order = "dont-care"
    table = {
        "width": width,
        "height": height,
        "depth": depth,
        "offset": offset,
        "data-length": stored.itemsize,
        "data-type": _TYPES[stored.kind],
        "byte-order": byte_order,
        "record-by": record_by,
        **(keys or {}),
    }
    lines = ["key\tvalue", *(f"{key}\t{value}" for key, value in table.items() if value is not None)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    cube = counts.transpose(2, 0, 1) if record_by == "image" else counts
    data = np.ascontiguousarray(cube).astype(stored.newbyteorder(">" if byte_order == "big-endian" else "<"))
    path.with_suffix(".raw").write_bytes(b"\xa5" * offset + data.tobytes())
    return path


def random_counts(shape: tuple[int, int, int], *, high: int = 250, seed: int = 0) -> np.ndarray[Any, Any]:
    """Sparse random counts, uint32, whose sums differ along every axis, so that a swapped axis shows."""
    rng = np.random.default_rng(seed)
    ramp = np.arange(1, np.prod(shape) + 1).reshape(shape) / np.prod(shape)
    counts = rng.integers(0, high + 1, shape) * (rng.random(shape) < 0.6 * ramp)
    counts[-1, 0, -1] = high
    return counts.astype(np.uint32)
