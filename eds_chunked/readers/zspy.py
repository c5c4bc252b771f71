"""HyperSpy's .zspy: Zarr format 2, a folder or a zip file, streamed with zarr alone."""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.core.sync import sync
from zarr.storage import LocalStore, ZipStore

from eds_chunked.errors import SourceError
from eds_chunked.readers import experiments
from eds_chunked.readers.base import Band, Box, MapHeader

Array = np.ndarray[Any, Any]

# zarr decodes the chunks of one request side by side, so requests are cut to this size and number, one chunk at least.
_REQUEST_BYTES = 4 << 20
_REQUEST_CHUNKS = 256
_TASK_BYTES = 4096


class ZspyReader(experiments.ExperimentsReader):
    """Stream one spectrum image of a .zspy; see :class:`eds_chunked.readers.experiments.ExperimentsReader`.

    A chunk that is absent reads as zeros, as the format has it; since a copy that was broken off looks the same, the
    first pass over the counts warns of it. zarr refuses arrays of pickled objects.
    """

    def __init__(self, path: str | Path, *, pick: str | int | None = None, memory: str | int | None = None) -> None:
        super().__init__(_Zarr(Path(path)), pick=pick, memory=memory)
        self._chunks_counted = False

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of the whole map), ``rows`` at a time, in unsigned integers.

        Warns, once, where chunks are absent. Errors are those of
        :meth:`eds_chunked.readers.experiments.ExperimentsReader.bands`.
        """
        if not self._chunks_counted:
            self._chunks_counted = True
            with self._container.open() as root:
                array = root["Experiments"][self._name]["data"]
                n_chunks, there = math.prod(_grid(array)), _chunks_there(array)
            if there < n_chunks:
                warnings.warn(
                    f"{self._container.path}: {n_chunks - there} of {n_chunks} chunks are absent and read as zeros; "
                    "copy it again unless it was written without empty chunks",
                    stacklevel=2,
                )
        return super().bands(rows, box)


def describe(path: str | Path) -> tuple[MapHeader, ...]:
    """Return the headers of all spectrum images in a .zspy, reading no counts."""
    return experiments.describe(_Zarr(Path(path)))


class _Zarr:
    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def open(self) -> Iterator[zarr.Group]:
        try:
            zipped = self.path.is_file()
            store = ZipStore(self.path, mode="r") if zipped else LocalStore(self.path, read_only=True)
            root = zarr.open_group(store, mode="r", zarr_format=2)
        # Broken JSON, no group, an array where a group should be: each has another class.
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise SourceError(
                str(self.path),
                found=f"what zarr cannot open as a group of format 2 ({type(error).__name__}: {error})",
                expected="an undamaged .zspy",
                fix="copy it again",
            ) from error
        try:
            yield root
        finally:
            store.close()

    def names(self, group: zarr.Group) -> list[str]:
        # Not from zarr's own list of members: it opens them, and one that it cannot open ends the list.
        async def listed() -> list[str]:
            return [name async for name in group.store.list_dir(group.path)]

        # A folder lists its names in any order, and maps are picked by their number.
        return sorted(name for name in sync(listed()) if not name.startswith("."))

    def values(self, array: zarr.Array[Any]) -> Array | None:
        if array.dtype.kind in "biuf":
            return np.asarray(array[...])
        if array.dtype.kind in "OTSU":
            texts = [text.decode("utf-8", "replace") if isinstance(text, bytes) else text for text in _flat(array)]
            return np.array(texts, object) if all(isinstance(text, str) for text in texts) else None
        return None

    def read(self, array: zarr.Array[Any], window: tuple[slice, ...], out: Array) -> None:
        steps = _request(array)
        for corner in product(
            *(range(axis.start // n * n, axis.stop, n) for axis, n in zip(window, steps, strict=True))
        ):
            part = tuple(
                slice(max(axis.start, at), min(axis.stop, at + n))
                for axis, at, n in zip(window, corner, steps, strict=True)
            )
            place = tuple(slice(p.start - w.start, p.stop - w.start) for p, w in zip(part, window, strict=True))
            out[place] = array[part]

    def scratch_bytes(self, array: zarr.Array[Any]) -> int:
        # Of the chunks of a request: their compressed bytes, the filters' and the decoder's output, and the request.
        return 4 * math.prod(_request(array)) * array.dtype.itemsize + _REQUEST_CHUNKS * _TASK_BYTES


def _grid(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return the number of chunks along each axis."""
    return tuple(-(-size // n) for size, n in zip(array.shape, array.chunks, strict=True))


def _chunks_there(array: zarr.Array[Any]) -> int:
    """Count the chunks that are stored, from one listing that is never held."""
    grid, prefix = _grid(array), f"{array.path}/"

    async def counted() -> int:
        n = 0
        async for key in array.store.list_prefix(prefix):
            # "3.0.1" or "3/0/1"
            at = key.removeprefix(prefix).replace("/", ".").split(".")
            n += len(at) == len(grid) and all(i.isdecimal() and int(i) < size for i, size in zip(at, grid, strict=True))
        return n

    return sync(counted())


def _flat(array: zarr.Array[Any]) -> list[Any]:
    return list(np.ravel(np.asarray(array[...])))


def _request(array: zarr.Array[Any]) -> tuple[int, ...]:
    """Return the shape of the largest request: whole chunks, as many as fit along the last axes."""
    steps = list(array.chunks)
    room = min(_REQUEST_CHUNKS, _REQUEST_BYTES // (math.prod(steps) * array.dtype.itemsize))
    for axis in reversed(range(len(steps))):
        times = max(1, min(room, -(-array.shape[axis] // steps[axis])))
        steps[axis] *= times
        room //= times
    return tuple(steps)
