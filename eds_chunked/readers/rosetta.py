"""Every format that RosettaSciIO reads and we do not: as far as that library can, in bands."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

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
Signal = Mapping[str, Any]

# These have readers of their own here.
_OWN = ("HSPY", "Ripple")


class RosettaReader:
    """Read one spectrum image through RosettaSciIO.

    Where the format's plugin gives a dask array of several chunks along y, rows of chunks are computed one after the
    other on this thread. Where it gives one chunk, or an array in memory, the whole map is held, and
    :meth:`peak_bytes` says so.

    Parameters
    ----------
    path
        The file.
    pick
        Name or 1-based number of the spectrum image, where the file has several.

    Raises
    ------
    SourceError
        Unknown format, unreadable, without a spectrum image, or with several and no ``pick``.
    """

    def __init__(self, path: str | Path, *, pick: str | int | None = None) -> None:
        self._path = str(path)
        signals = _load(Path(path))
        maps, others = _survey(self._path, signals)
        index = choose(self._path, maps=[(h.title, h.shape) for h, _, _ in maps], pick=pick, others=others)
        self.header, self._layout, self._data = maps[index]
        self._stored = np.dtype(self._data.dtype)
        self._images = [signal for signal in signals if _is_image(signal)]
        height = self.header.shape[0]
        row = self._layout.row
        lazy = not isinstance(self._data, np.ndarray) and row is not None
        self._edges = [0, *np.cumsum(self._data.chunks[row]).tolist()] if lazy else [0, height]

    def peak_bytes(self, rows: int) -> int:
        """Bytes that opening the file and a loop over ``bands(rows)`` hold at most."""
        height, width, channels = self.header.shape
        rows = min(rows, height)
        values = rows * width * channels
        bands: int = min(2, math.ceil(height / rows)) * values * self.header.dtype.itemsize
        slab: int = max(b - a for a, b in pairwise(self._edges)) * width * channels * self._stored.itemsize
        # dask joins the chunks of a slab by a copy; a plugin that parses a whole file joins its pieces likewise.
        return bands + 2 * slab + scratch_bytes(self._stored, values=width * channels) + (1 << 20)

    def bands(self, rows: int) -> Iterator[Band]:
        """Yield all rows from the first to the last, ``rows`` at a time, in unsigned integers.

        Raises
        ------
        CountsError
            A signed or float value is negative, not whole, NaN or too large.
        """

        def read(y0: int, y1: int) -> Array:
            block = self._data[self._layout.window(y0, y1)]
            if not isinstance(block, np.ndarray):
                block = np.asarray(block.compute(scheduler="synchronous"))
            return self._layout.as_map(block)

        return bands_of_slabs(
            read,
            edges=self._edges,
            shape=self.header.shape,
            dtype=self.header.dtype,
            rows=rows,
            source=self._path,
        )

    def images(self) -> Iterator[ElectronImage]:
        """Yield the two-dimensional signals of the file."""
        for signal in self._images:
            pixels = signal["data"]
            if not isinstance(pixels, np.ndarray):
                pixels = np.asarray(pixels.compute(scheduler="synchronous"))
            yield electron_image(_title(signal), pixels=pixels, axes=_axes(signal))


def describe(path: str | Path) -> tuple[MapHeader, ...]:
    """Return the headers of all spectrum images in the file.

    Formats whose plugin cannot wait are read whole; the others read no counts.
    """
    maps, others = _survey(str(path), _load(Path(path)))
    if not maps:
        choose(str(path), maps=[], pick=None, others=others)
    return tuple(header for header, _, _ in maps)


def suffixes() -> tuple[str, ...]:
    """Return the suffixes that RosettaSciIO can read, in lower case with their dot."""
    from rsciio import IO_PLUGINS

    return tuple(sorted({f".{s.lower()}" for p in IO_PLUGINS if p["name"] not in _OWN for s in p["file_extensions"]}))


def _load(path: Path) -> list[Signal]:
    """Return the signals of the file; of several plugins for one suffix, the first that can read it."""
    from rsciio import IO_PLUGINS

    suffix = path.suffix.lower().lstrip(".")
    plugins = [
        plugin
        for plugin in IO_PLUGINS
        if plugin["name"] not in _OWN and suffix in (s.lower() for s in plugin["file_extensions"])
    ]
    failures: list[str] = []
    for plugin in plugins:
        # The plugins raise whatever their parsing meets, so every error means: not this one.
        try:
            read = importlib.import_module(plugin["api"]).file_reader
        except Exception as error:
            failures.append(f"{plugin['name']}: {type(error).__name__}: {error}")
            continue
        for options in _options(plugin["name"], read):
            try:
                signals: list[Signal] = list(read(str(path), **options))
            except Exception as error:
                failures.append(f"{plugin['name']}: {type(error).__name__}: {error}")
                continue
            # Some lazy modes give sparse arrays; those formats are read at once.
            if all(isinstance(s["data"], np.ndarray) or _is_dask(s["data"]) for s in signals if "data" in s):
                return signals
    raise SourceError(
        str(path),
        found="; ".join(dict.fromkeys(failures)) or f"the suffix {path.suffix!r}",
        expected=f"a file that RosettaSciIO reads as {' or '.join(p['name'] for p in plugins) or 'one of its formats'}",
        fix="copy the file again, or export the map as .rpl/.raw or .hspy",
    )


def _options(name: str, read: Any) -> list[dict[str, Any]]:
    if "lazy" not in inspect.signature(read).parameters:
        return [{}]
    # The lazy mode of .zspy opens for writing unless told otherwise.
    lazy = {"lazy": True, "mode": "r"} if name == "ZSPY" else {"lazy": True}
    return [lazy, {"lazy": False}]


def _is_dask(data: Any) -> bool:
    return hasattr(data, "dask") and isinstance(getattr(data, "_meta", None), np.ndarray)


def _survey(source: str, signals: list[Signal]) -> tuple[list[tuple[MapHeader, Layout, Any]], list[str]]:
    maps, others = [], []
    for number, signal in enumerate(signals, 1):
        if "data" not in signal:
            continue
        data, axes = signal["data"], _axes(signal)
        metadata = signal.get("metadata", {})
        try:
            layout = find_layout(axes, shape=data.shape, dtype=data.dtype, signal_type=signal_type_of(metadata))
        except NotAMapError as reason:
            others.append(f"{_title(signal) or f'signal {number}'!r}: {reason}")
            continue
        header = map_header(
            source,
            axes=axes,
            layout=layout,
            shape=data.shape,
            dtype=data.dtype,
            metadata=metadata,
            original=signal.get("original_metadata", {}),
        )
        maps.append((header, layout, data))
    return maps, others


def _axes(signal: Signal) -> list[Mapping[str, Any]]:
    axes = list(signal["axes"])
    if all("index_in_array" in axis for axis in axes):
        axes.sort(key=lambda axis: int(axis["index_in_array"]))
    return axes


def _title(signal: Signal) -> str:
    return str(signal.get("metadata", {}).get("General", {}).get("title", ""))


def _is_image(signal: Signal) -> bool:
    if "data" not in signal:
        return False
    data = signal["data"]
    return is_image(_axes(signal), shape=data.shape, dtype=data.dtype)
