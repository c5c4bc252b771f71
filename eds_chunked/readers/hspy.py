"""HyperSpy's .hspy: HDF5 with one group a signal under ``Experiments``, streamed with h5py alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from eds_chunked.errors import SourceError
from eds_chunked.readers.base import Band, ElectronImage, MapHeader
from eds_chunked.readers.choice import choose
from eds_chunked.readers.signal import (
    Layout,
    NotAMapError,
    electron_image,
    find_layout,
    is_image,
    map_header,
    signal_type_of,
)
from eds_chunked.readers.slabs import bands_of_slabs
from eds_chunked.readers.whole import scratch_bytes

Array = np.ndarray[Any, Any]
Tree = dict[str, Any]

# A row of chunks is read whole, and each chunk once, up to this size; beyond it memory comes first.
_SLAB_BYTES = 64 << 20


class HspyReader:
    """Stream one spectrum image of a .hspy file.

    Parameters
    ----------
    path
        The file.
    pick
        Name or 1-based number of the spectrum image, where the file has several.

    Raises
    ------
    SourceError
        Not an HDF5 file, damaged, without a spectrum image, or with several and no ``pick``.

    Notes
    -----
    The data may have its axes in any order (the counts are transposed band by band), any chunks and any type.
    A line scan is a map of one row. Nothing is ever unpickled.
    """

    def __init__(self, path: str | Path, *, pick: str | int | None = None) -> None:
        self._path = Path(path)
        maps, others = _survey(self._path)
        index = choose(str(path), maps=[(name, header.shape) for name, header, _ in maps], pick=pick, others=others)
        self._name, self.header, self._layout = maps[index]
        with _open(self._path) as file:
            data = file["Experiments"][self._name]["data"]
            self._stored = data.dtype.newbyteorder("=")
            self._chunks = data.chunks
            self._filtered = data.id.get_create_plist().get_nfilters() > 0

    def peak_bytes(self, rows: int) -> int:
        """Bytes that a loop over ``bands(rows)`` holds at most: two bands, one slab as stored, and HDF5's chunks."""
        height, width, channels = self.header.shape
        rows = min(rows, height)
        values = rows * width * channels
        slab = max(b - a for a, b in pairwise(self._edges(rows)))
        peak: int = min(2, math.ceil(height / rows)) * values * self.header.dtype.itemsize
        peak += slab * width * channels * self._stored.itemsize
        if self._chunks and self._filtered:
            # HDF5 undoes one filter after the other, each into a new buffer, and inflating doubles its buffer as it
            # goes; 2.4 chunks were measured with gzip and shuffle. Chunks without filters are read in place.
            peak += 4 * math.prod(self._chunks) * self._stored.itemsize
        return peak + scratch_bytes(self._stored, values=width * channels) + (1 << 20)

    def bands(self, rows: int) -> Iterator[Band]:
        """Yield all rows from the first to the last, ``rows`` at a time, in unsigned integers.

        Raises
        ------
        CountsError
            A signed or float value is negative, not whole, NaN or too large.
        SourceError
            A chunk is damaged.
        """
        with _open(self._path) as file:
            data = file["Experiments"][self._name]["data"]

            def read(y0: int, y1: int) -> Array:
                window = self._layout.window(y0, y1)
                shape = [len(range(*s.indices(n))) for s, n in zip(window, data.shape, strict=True)]
                block = np.empty(shape, self._stored)
                try:
                    data.read_direct(block, window)
                except OSError as error:
                    raise SourceError(
                        str(self._path),
                        found=f"damaged data in rows {y0} to {y1 - 1} ({error})",
                        expected="readable HDF5 chunks",
                        fix="copy the file again",
                    ) from error
                return self._layout.as_map(block)

            yield from bands_of_slabs(
                read,
                edges=self._edges(rows),
                shape=self.header.shape,
                dtype=self.header.dtype,
                rows=rows,
                source=str(self._path),
            )

    def images(self) -> Iterator[ElectronImage]:
        """Yield the two-dimensional signals of the file."""
        with _open(self._path) as file:
            for name, group in file["Experiments"].items():
                axes = _axes(group)
                if is_image(axes, shape=group["data"].shape, dtype=group["data"].dtype):
                    yield electron_image(name, pixels=group["data"][()], axes=axes)

    def _edges(self, rows: int) -> list[int]:
        """Rows at which slabs begin, and the height: rows of chunks if they fit, else bands."""
        height, width, channels = self.header.shape
        step = min(rows, height)
        if self._chunks and self._layout.row is not None:
            chunk = min(self._chunks[self._layout.row], height)
            # As many whole rows of chunks as a band has room for, one at least.
            aligned = chunk * max(1, step // chunk)
            if aligned <= step or aligned * width * channels * self._stored.itemsize <= _SLAB_BYTES:
                step = aligned
        return [*range(0, height, step), height]


def describe(path: str | Path) -> tuple[MapHeader, ...]:
    """Return the headers of all spectrum images in a .hspy file, reading no counts."""
    maps, others = _survey(Path(path))
    if not maps:
        choose(str(path), maps=[], pick=None, others=others)
    return tuple(header for _, header, _ in maps)


def is_hspy(path: Path) -> bool:
    """Say whether an HDF5 file states that HyperSpy's format is its own."""
    with _open(path) as file:
        stated = file.attrs.get("file_format", "")
    return str(stated.decode() if isinstance(stated, bytes) else stated).lower() == "hyperspy"


def _open(path: Path) -> h5py.File:
    try:
        # No chunk cache: every slab holds whole chunks. Locks fail on read-only network drives.
        return h5py.File(path, "r", rdcc_nbytes=0, locking="best-effort")
    except OSError as error:
        raise SourceError(
            str(path),
            found=f"a file that HDF5 cannot open ({error})",
            expected="an undamaged .hspy file",
            fix="copy the file again",
        ) from error


def _survey(path: Path) -> tuple[list[tuple[str, MapHeader, Layout]], list[str]]:
    """Return name, header and layout of each spectrum image, and a word on each other signal."""
    maps, others = [], []
    with _open(path) as file:
        for name, group in file.get("Experiments", {}).items():
            if not isinstance(group, h5py.Group) or not isinstance(group.get("data"), h5py.Dataset):
                continue
            axes, data = _axes(group), group["data"]
            metadata = _tree(group["metadata"]) if "metadata" in group else {}
            original = _tree(group["original_metadata"]) if "original_metadata" in group else {}
            stated = signal_type_of(metadata)
            try:
                layout = find_layout(axes, shape=data.shape, dtype=data.dtype, signal_type=stated)
            except NotAMapError as reason:
                others.append(f"{name!r}: {reason}")
                continue
            if metadata.get("General", {}).get("title") == "__unnamed__":
                metadata["General"]["title"] = ""
            header = map_header(
                str(path),
                axes=axes,
                layout=layout,
                shape=data.shape,
                dtype=data.dtype,
                metadata=metadata,
                original=original,
                name="" if name == "__unnamed__" else name,
            )
            maps.append((name, header, layout))
    return maps, others


def _axes(group: h5py.Group) -> list[Tree]:
    axes: list[Tree] = []
    while f"axis-{len(axes)}" in group:
        axes.append(_tree(group[f"axis-{len(axes)}"]))
    return axes


def _tree(group: h5py.Group) -> Tree:
    """Return a group of HyperSpy's metadata as nested dicts and lists.

    The kind of a value is coded in its key: ``_list_``, ``_tuple_`` (with the length where it is a group), ``_bs_``
    for bytes (pickled objects, left out) and ``_sig_`` for whole signals (left out).
    """
    tree: Tree = {}
    for key, value in group.attrs.items():
        if key.startswith(("_list_empty_", "_tuple_empty_")):
            tree[key.split("_empty_", 1)[1]] = []
        elif not key.startswith(("_bs_", "_sig_")):
            tree[key] = _scalar(value)
    for key, item in group.items():
        kind, name = _kind(key, isinstance(item, h5py.Group))
        if isinstance(item, h5py.Dataset):
            if not key.startswith(("_bs_", "_sig_", "_ragged_shapes_")):
                tree[name] = _array(item)
        elif kind:
            tree[name] = [value for _, value in sorted(_tree(item).items(), key=_list_order)]
        elif not key.startswith("_sig_"):
            tree[key] = _tree(item)
    return tree


def _kind(key: str, group: bool) -> tuple[str, str]:
    for kind in ("_list_", "_tuple_"):
        if key.startswith(kind):
            name = key.removeprefix(kind)
            return kind, name.split("_", 1)[-1] if group else name
    return "", key


def _list_order(item: tuple[str, Any]) -> tuple[int, str]:
    return (int(item[0]), "") if item[0].isdecimal() else (0, item[0])


def _scalar(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind in "SO":
        return [_scalar(item) for item in value.ravel()]
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    return None if isinstance(value, str) and value == "_None_" else value


def _array(data: h5py.Dataset) -> Any:
    if data.size is None or data.size > 4096 or data.dtype.kind == "V":
        return None
    if h5py.check_string_dtype(data.dtype):
        return [_scalar(value) for value in np.ravel(data.asstr()[()])]
    if data.dtype.kind == "S":
        return [_scalar(value) for value in np.ravel(data[()])]
    return data[()] if data.dtype.kind in "biuf" else None
