"""HyperSpy's tree of signals, which a .hspy keeps in HDF5 and a .zspy in Zarr: one group a signal under Experiments."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from eds_chunked.errors import SourceError
from eds_chunked.memory import MB
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.readers.choice import choose
from eds_chunked.readers.signal import Signal, electron_image, find_maps, is_image
from eds_chunked.readers.slabs import (
    bands_of_slabs,
    bytes_of_bands,
    chunk_edges,
    most_readings,
    slab_bytes,
    smallest_memory,
)

Array = np.ndarray[Any, Any]
Tree = dict[str, Any]

# Longer arrays among the metadata are measurements, which belong to the source file.
_LARGEST_ARRAY = 4096


class Container(Protocol):
    """The kind of file that holds the tree. Its groups and arrays have the interface that h5py and Zarr share."""

    path: Path

    def open(self) -> AbstractContextManager[Any]:
        """Open the file for reading; gives its root group, or raises SourceError."""
        ...

    def names(self, group: Any) -> list[str]:
        """Return the names of what is in a group, in an order that is always the same."""
        ...

    def values(self, array: Any) -> Array | None:
        """Return a small array of numbers or texts (as ``str``), or None where it is neither."""
        ...

    def read(self, array: Any, window: tuple[slice, ...], out: Array) -> None:
        """Read a part of an array of counts into ``out``; raises what its library raises."""
        ...

    def scratch_bytes(self, array: Any) -> int:
        """Bytes that :meth:`read` holds at most beside ``out``."""
        ...


class ExperimentsReader:
    """Stream one spectrum image of a file that HyperSpy wrote.

    Parameters
    ----------
    container
        The file.
    pick
        Name or 1-based number of the spectrum image, where the file has several.
    memory
        Budget of the whole process: what it leaves says how many rows of chunks that hold many are read at once.

    Raises
    ------
    SourceError
        Not a file of this kind, damaged, without a spectrum image, or with several and no ``pick``.

    Notes
    -----
    The data may have its axes in any order (the counts are transposed band by band), any chunks and any type.
    A line scan is a map of one row. Nothing is ever unpickled.
    """

    def __init__(self, container: Container, *, pick: str | int | None = None, memory: str | int | None = None) -> None:
        self._container = container
        self._largest_slab = slab_bytes(memory)
        path = str(container.path)
        with container.open() as root:
            maps, others = find_maps(path, _signals(root, container))
            index = choose(path, maps=[(m.signal.name, m.header.shape) for m in maps], pick=pick, others=others)
            self.header, self._layout, signal = maps[index]
            self._name = signal.name
            self._stored = np.dtype(signal.data.dtype).newbyteorder("=")
            chunks = signal.data.chunks
            self._chunk_rows = None if chunks is None or self._layout.row is None else int(chunks[self._layout.row])
            self._scratch = container.scratch_bytes(signal.data)
            self._told = False

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that a loop over ``bands(rows, box)`` holds at most: two bands, one slab as stored, and its chunks."""
        whole = box or Box.whole(self.header.shape)
        slab = max(b - a for a, b in pairwise(self._edges(rows, whole)))
        bands = bytes_of_bands(rows, whole, dtype=self.header.dtype, stored=self._stored)
        return bands + slab * self._row_bytes(whole) + self._scratch

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of the whole map), ``rows`` at a time, in unsigned integers.

        Warns, once, where memory is too small to unpack each chunk only once.

        Raises
        ------
        CountsError
            A signed or float value is negative, not whole, NaN or too large.
        SourceError
            A chunk is damaged; all whole rows before it have been yielded.
        """
        whole = box or Box.whole(self.header.shape)
        self._tell_of_readings(rows, whole)
        with self._container.open() as root:
            data = root["Experiments"][self._name]["data"]

            def read(y0: int, y1: int) -> Array:
                window = self._layout.window(whole._replace(ys=slice(y0, y1)))
                block = np.empty([axis.stop - axis.start for axis in window], self._stored)
                try:
                    self._container.read(data, window, block)
                except MemoryError:
                    raise  # of this machine, not of the file
                # What a decompressor says of bytes that make no sense is its own choice.
                except Exception as error:
                    raise SourceError(
                        str(self._container.path),
                        found=f"damaged data in row{f' {y0}' if y1 == y0 + 1 else f's {y0} to {y1 - 1}'} ({error})",
                        expected="readable chunks",
                        fix="copy the file again",
                    ) from error
                return self._layout.as_map(block)

            yield from bands_of_slabs(
                read,
                edges=self._edges(rows, whole),
                box=whole,
                dtype=self.header.dtype,
                rows=rows,
                source=str(self._container.path),
            )

    def images(self) -> Iterator[ElectronImage]:
        """Yield the two-dimensional signals of the file."""
        with self._container.open() as root:
            for signal in _signals(root, self._container):
                if is_image(signal):
                    yield electron_image(signal, np.asarray(signal.data[...]))

    def _edges(self, rows: int, box: Box) -> list[int]:
        return chunk_edges(
            box, chunk=self._chunk_rows, rows=rows, row_bytes=self._row_bytes(box), largest_slab=self._largest_slab
        )

    def _row_bytes(self, box: Box) -> int:
        _, width, channels = box.shape
        return int(width * channels * self._stored.itemsize)

    def _tell_of_readings(self, rows: int, box: Box) -> None:
        # What is not packed is read in parts, too, at no cost.
        if self._told or self._chunk_rows is None or not self._scratch:
            return
        times = most_readings(self._edges(rows, box), chunk=self._chunk_rows)
        if times > 1:
            self._told = True
            slab = min(self._chunk_rows, box.shape[0]) * self._row_bytes(box)
            warnings.warn(
                f"{self._container.path}: its chunks hold {self._chunk_rows} rows, more than there is memory for, so "
                f"that each is unpacked {times} times; once with --memory {smallest_memory(slab) // MB}MB",
                stacklevel=3,
            )


def describe(container: Container) -> tuple[MapHeader, ...]:
    """Return the headers of all spectrum images of a file, at least one, reading no counts."""
    with container.open() as root:
        maps, others = find_maps(str(container.path), _signals(root, container))
    if not maps:
        choose(str(container.path), maps=[], pick=None, others=others)
    return tuple(found.header for found in maps)


def _signals(root: Any, container: Container) -> Iterator[Signal]:
    experiments = root.get("Experiments")
    for name, group in [] if experiments is None else _children(experiments, container):
        if _is_array(group) or "data" not in container.names(group):
            continue
        data = _child(group, "data")
        metadata, original = (
            _tree(group[key], container) if key in group else {} for key in ("metadata", "original_metadata")
        )
        yield Signal(name, data, _axes(group, container), metadata, original)


def _axes(group: Any, container: Container) -> list[Tree]:
    axes: list[Tree] = []
    while f"axis-{len(axes)}" in group:
        axes.append(_tree(group[f"axis-{len(axes)}"], container))
    return axes


def _is_array(node: Any) -> bool:
    return hasattr(node, "shape")


def _child(group: Any, name: str) -> Any:
    """Return a group or array, or None where there is none that its library can open."""
    try:
        return group[name]
    except MemoryError:
        raise  # of this machine, not of the file
    except Exception:  # a broken link, a type or codec that is not known: each library has its own words for it
        return None


def _children(group: Any, container: Container) -> Iterator[tuple[str, Any]]:
    for name in container.names(group):
        child = _child(group, name)
        if child is not None:
            yield name, child


def _tree(group: Any, container: Container) -> Tree:
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
    for key, item in _children(group, container):
        kind, name = _kind(key, not _is_array(item))
        if _is_array(item):
            if not key.startswith(("_bs_", "_sig_", "_ragged_shapes_")):
                small = item.size is not None and item.size <= _LARGEST_ARRAY
                tree[name] = container.values(item) if small else None
        elif kind:
            tree[name] = [value for _, value in sorted(_tree(item, container).items(), key=_list_order)]
        elif not key.startswith("_sig_"):
            tree[key] = _tree(item, container)
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
