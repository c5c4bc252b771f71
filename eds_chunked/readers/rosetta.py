"""Every format that RosettaSciIO reads and we do not: as far as that library can, in bands."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eds_chunked.errors import SourceError
from eds_chunked.readers.ahead import Ahead, look_ahead
from eds_chunked.readers.array_bands import ArrayBands
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.readers.choice import choose
from eds_chunked.readers.gatan import bare_counts
from eds_chunked.readers.rosetta_log import rosetta_log
from eds_chunked.readers.signal import Signal, electron_image, find_maps, is_image
from eds_chunked.readers.slabs import slab_bytes

Array = np.ndarray[Any, Any]

# These have readers of their own here.
_OWN = ("HSPY", "ZSPY", "Ripple")
_RUN_CODE = ("netCDF",)
"""Plugins that evaluate text of the file as Python (`rsciio.netcdf` does with the history of old EELSLab files)."""
_OWN_SUFFIXES = (".bcf", ".spd")


class RosettaReader:
    """Read one spectrum image through RosettaSciIO.

    Where the format's plugin gives a dask array (.emd of the Berkeley kind, .nxs), only the chunks of a few rows are
    computed at a time, on this thread. Where it tells the place of the counts in the file (.dm3 and .dm4), they are
    read from there: its own array is mapped memory, of which far more becomes resident than is asked for. Where it can
    only load the whole map (.emd of Velox, .pts), that is done when the first band is asked for, and
    :meth:`peak_bytes` says what it takes before.

    Parameters
    ----------
    path
        The file.
    pick
        Name or 1-based number of the spectrum image, where the file has several.
    memory
        Budget of the whole process.

    Raises
    ------
    SourceError
        Unknown format, unreadable, without a spectrum image, or with several and no ``pick``.
    MemoryBudgetError
        The file must be loaded to know what is in it, and that may take more than the budget.
    """

    def __init__(self, path: str | Path, *, pick: str | int | None = None, memory: str | int | None = None) -> None:
        self._path = Path(path)
        self._ahead, self._signals = _look(self._path, memory=memory)
        maps, others = find_maps(str(path), self._signals)
        self._index = choose(str(path), maps=[(m.signal.name, m.header.shape) for m in maps], pick=pick, others=others)
        self.header, layout, signal = maps[self._index]
        self._bare = bare_counts(self._path, maps[self._index])
        # A slab is there twice while its parts are joined.
        largest_slab = slab_bytes(memory) // 2
        self._bands = ArrayBands(signal.data, layout, self.header.dtype, str(path), largest_slab)

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that a loop over ``bands(rows, box)`` holds at most, over what the process holds now.

        For a file that is still to be loaded whole, that includes loading it, whatever the box.
        """
        whole = box or Box.whole(self.header.shape)
        if self._bare is not None:
            return self._bare.peak_bytes(rows, whole)
        if self._ahead is not None:
            loaded: int = math.prod(self.header.shape) * self._bands.stored.itemsize
            return loaded + max(self._ahead.beside, self._bands.peak_of_bands(rows, whole))
        return self._bands.peak_bytes(rows, whole)

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of the whole map), ``rows`` at a time, in unsigned integers.

        Raises
        ------
        CountsError
            A signed or float value is negative, not whole, NaN or too large.
        SourceError
            A file that is loaded whole cannot be read.
        """
        whole = box or Box.whole(self.header.shape)
        if self._bare is not None:
            yield from self._bare.bands(rows, whole)
            return
        self._load_ahead()
        yield from self._bands.bands(rows, whole)

    def images(self) -> Iterator[ElectronImage]:
        """Yield the two-dimensional signals of the file."""
        self._load_ahead()
        for signal in self._signals:
            if is_image(signal):
                pixels = signal.data
                if not isinstance(pixels, np.ndarray):
                    pixels = np.asarray(pixels.compute(scheduler="synchronous"))
                yield electron_image(signal, pixels)

    def _load_ahead(self) -> None:
        if self._ahead is None:
            return
        self._signals = _load(self._path, self._ahead)
        maps, _ = find_maps(str(self._path), self._signals)
        data = maps[self._index].signal.data if self._index < len(maps) else None
        expected = self._bands.data
        if data is None or (data.shape, data.dtype) != (expected.shape, expected.dtype):
            raise SourceError(
                str(self._path),
                found="no map" if data is None else f"a map of {data.dtype} {data.shape}",
                expected=f"{expected.dtype} {expected.shape}, as the header says",
                fix="copy the file again, or export the map as .rpl/.raw",
            )
        self._bands, self._ahead = replace(self._bands, data=data), None


def describe(path: str | Path) -> tuple[MapHeader, ...]:
    """Return the headers of all spectrum images in the file.

    Formats whose plugin cannot wait are read whole; the others read no counts.
    """
    _, signals = _look(Path(path))
    maps, others = find_maps(str(path), signals)
    if not maps:
        choose(str(path), maps=[], pick=None, others=others)
    for found in maps:
        bare_counts(Path(path), found)
    return tuple(found.header for found in maps)


def suffixes() -> tuple[str, ...]:
    """Return the suffixes that RosettaSciIO reads for us, in lower case with their dot."""
    found = {f".{suffix}" for plugin in _plugins() for suffix in _suffixes_of(plugin)}
    return tuple(sorted(found.difference(_OWN_SUFFIXES)))


def _plugins() -> list[Mapping[str, Any]]:
    with rosetta_log():
        from rsciio import IO_PLUGINS
    return [plugin for plugin in IO_PLUGINS if plugin["name"] not in _OWN + _RUN_CODE]


def _suffixes_of(plugin: Mapping[str, Any]) -> set[str]:
    return {suffix.lower() for suffix in plugin["file_extensions"]}


def _look(path: Path, *, memory: str | int | None = None) -> tuple[Ahead | None, list[Signal]]:
    """Return the signals of a file: of one that is loaded whole without their counts, and what loading them takes."""
    with rosetta_log():
        ahead = look_ahead(path, memory=memory)
    return ahead, _load(path) if ahead is None else list(ahead.signals)


def _load(path: Path, ahead: Ahead | None = None) -> list[Signal]:
    """Return the signals of the file; of several plugins for one suffix, the first that can read it."""
    suffix = path.suffix.lower().lstrip(".")
    plugins = [plugin for plugin in _plugins() if suffix in _suffixes_of(plugin)]
    failures: list[str] = []
    missing = ""
    for plugin in plugins:
        with rosetta_log():
            # The plugins raise whatever their parsing meets, so every error means: not this one.
            try:
                read = importlib.import_module(plugin["api"]).file_reader
            except Exception as error:
                failures.append(f"{plugin['name']}: {type(error).__name__}: {error}")
                continue
            for options in _options(read) if ahead is None else [ahead.options]:
                try:
                    signals = [signal for signal in read(str(path), **options) if "data" in signal]
                except Exception as error:
                    missing = missing or (_package(error) if isinstance(error, ModuleNotFoundError) else "")
                    failures.append(f"{plugin['name']}: {type(error).__name__}: {error}")
                    continue
                # Some lazy modes give sparse arrays; those formats are read at once.
                if all(isinstance(s["data"], np.ndarray) or _is_dask(s["data"]) for s in signals):
                    return [_signal(signal) for signal in signals]
    if missing:
        raise SourceError(
            str(path),
            found=f"no package {missing!r}, without which RosettaSciIO does not read this format",
            expected=f"{missing} installed beside eds_chunked",
            fix=f"pip install {missing}",
        )
    raise SourceError(
        str(path),
        found="; ".join(dict.fromkeys(failures)) or f"the suffix {path.suffix!r}",
        expected=f"a file that RosettaSciIO reads as {' or '.join(p['name'] for p in plugins) or 'one of its formats'}",
        fix="copy the file again, or export the map as .rpl/.raw or .hspy",
    )


def _package(error: ModuleNotFoundError) -> str:
    # RosettaSciIO raises this by hand, too, with the name in quotes.
    quoted = str(error).split("'")
    return error.name or (quoted[1] if len(quoted) > 2 else "")


def _options(read: Any) -> list[dict[str, Any]]:
    return [{"lazy": True}, {"lazy": False}] if "lazy" in inspect.signature(read).parameters else [{}]


def _is_dask(data: Any) -> bool:
    return hasattr(data, "dask") and isinstance(getattr(data, "_meta", None), np.ndarray)


def _signal(found: Mapping[str, Any]) -> Signal:
    axes, n = list(found["axes"]), len(found["axes"])
    if all("index_in_array" in axis for axis in axes):
        # The index may be counted from the end: the energy axis of a .spd has -1.
        axes.sort(key=lambda axis: int(axis["index_in_array"]) % n)
    original = found.get("original_metadata", {})
    metadata = _mapped(found.get("metadata", {}), original, found.get("mapping", {}))
    name = str(metadata.get("General", {}).get("title", ""))
    return Signal(name, found["data"], axes, metadata, original)


def _mapped(metadata: Mapping[str, Any], original: Mapping[str, Any], mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata with what a plugin says that is to be had of the file's own (beam energy, live time, ...).

    ``mapping`` has, for a dotted path of the file's metadata, the path in HyperSpy's and a function or None.
    """
    tree: dict[str, Any] = copy.deepcopy(dict(metadata))
    for source, (target, convert) in mapping.items():
        value: Any = original
        for name in source.split("."):
            # A blank in a key of the file may be an underscore here.
            keys = value if isinstance(value, Mapping) else {}
            value = next((keys[key] for key in keys if key.replace(" ", "_") == name.replace(" ", "_")), None)
        try:
            value = convert(value) if value is not None and convert is not None else value
        except Exception:  # what a plugin makes of a value that it does not expect is its own choice
            continue
        if value is not None:
            *path, last = target.split(".")
            group = tree
            for name in path:
                group = group.setdefault(name, {})
            group[last] = value
    return tree
