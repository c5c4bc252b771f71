"""Write small Gatan .dm3 and .dm4 files for tests: a tree of tags with one spectrum image and a thumbnail.

The layout is that of C. Boothroyd's public description of the format ("Description of the dm3 and dm4 file formats",
Forschungszentrum Juelich): a big-endian directory of tags around little-endian values.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

_DIRECTORY, _DATA = 20, 21
_ARRAY = 20
# Codes of the values in a tag, and of the pixels of an image.
_VALUES = {"i2": 2, "i4": 3, "u2": 4, "u4": 5, "f4": 6, "f8": 7, "b1": 8, "i1": 9, "u1": 10, "i8": 11, "u8": 12}
_PIXELS = {"i2": 1, "f4": 2, "u1": 6, "i4": 7, "i1": 9, "u2": 10, "u4": 11, "f8": 12}

Tree = dict[str, Any] | list[Any]


def write_dm(
    path: Path,
    counts: np.ndarray[Any, Any],
    *,
    energy: tuple[float, float, str] = (0.01, 48.0, "keV"),
    tags: dict[str, Any] | None = None,
) -> Path:
    """Write ``counts`` (y, x, energy) as a file of the version that the suffix names.

    As the vendor's software does, the spectrum image is a stack of one image for each channel. ``energy`` is its scale,
    the channel of 0 keV, and the unit; ``tags`` are added to those of the map.
    """
    version = int(path.suffix[-1])
    axes = [(0.25, 0.0, "nm"), (0.5, 0.0, "nm"), energy]
    thumbnail = {"ImageData": _image(np.zeros((5, 5), np.uint8), []), "ImageTags": {}, "Name": "thumbnail"}
    image = {
        "ImageData": _image(counts.transpose(2, 0, 1), axes),
        "ImageTags": {"Meta Data": {"Format": "Spectrum image", "Signal": "X-ray"}, **(tags or {})},
        "Name": "rock",
    }
    pieces = _Pieces(version)
    pieces.directory({"ImageList": [thumbnail, image], "Thumbnails": [{"ImageIndex": 0}]}, root=True)
    body = b"".join(pieces.parts) + bytes(8)
    head = struct.pack(">iii" if version == 3 else ">iqi", version, len(body), 1)
    path.write_bytes(head + body)
    return path


def _image(stack: np.ndarray[Any, Any], axes: list[tuple[float, float, str]]) -> dict[str, Any]:
    def calibration(scale: float, origin: float, units: str) -> dict[str, Any]:
        return {"Origin": np.float32(origin), "Scale": np.float32(scale), "Units": units}

    return {
        "Calibrations": {
            "Brightness": calibration(1.0, 0.0, ""),
            "Dimension": [calibration(*axis) for axis in axes],
        },
        "Data": np.ascontiguousarray(stack),
        "DataType": _PIXELS[stack.dtype.str[1:]],
        "Dimensions": [np.uint32(size) for size in reversed(stack.shape)],
        "PixelDepth": stack.dtype.itemsize,
    }


class _Pieces:
    """The bytes of a tree of tags."""

    def __init__(self, version: int) -> None:
        self.parts: list[bytes] = []
        self._version = version

    def directory(self, tree: Tree, *, root: bool = False) -> None:
        items = list(tree.items()) if isinstance(tree, dict) else [("", item) for item in tree]
        inner = _Pieces(self._version)
        for name, value in items:
            kind = _DIRECTORY if isinstance(value, dict | list) else _DATA
            inner.parts.append(struct.pack(">bh", kind, len(name)) + name.encode())
            if kind == _DIRECTORY:
                inner.directory(value)
            else:
                inner.value(value)
        body = [struct.pack(">bb", 0, 1), self._whole(len(items)), *inner.parts]
        if not root:
            self._length(body)
        self.parts += body

    def value(self, value: Any) -> None:
        if isinstance(value, str):
            value = np.frombuffer(value.encode("utf-16-le"), "<u2")
        elif not isinstance(value, np.ndarray):
            value = np.asarray(
                value, None if isinstance(value, np.generic) else "f8" if isinstance(value, float) else "i4"
            )
        code = _VALUES[value.dtype.str[1:]]
        info = [_ARRAY, code, value.size] if value.ndim else [code]
        body = [b"%%%%", self._whole(len(info)), *map(self._whole, info), value.tobytes()]
        self._length(body)
        self.parts += body

    def _whole(self, number: int) -> bytes:
        return struct.pack(">i" if self._version == 3 else ">q", number)

    def _length(self, body: list[bytes]) -> None:
        if self._version == 4:
            self.parts.append(struct.pack(">q", sum(map(len, body))))
