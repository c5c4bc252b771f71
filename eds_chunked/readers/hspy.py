"""HyperSpy's .hspy: HDF5, streamed with h5py alone."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from eds_chunked.errors import SourceError
from eds_chunked.readers import experiments
from eds_chunked.readers.base import MapHeader

Array = np.ndarray[Any, Any]


class HspyReader(experiments.ExperimentsReader):
    """Stream one spectrum image of a .hspy file; see :class:`eds_chunked.readers.experiments.ExperimentsReader`."""

    def __init__(self, path: str | Path, *, pick: str | int | None = None, memory: str | int | None = None) -> None:
        super().__init__(_Hdf5(Path(path)), pick=pick, memory=memory)


def describe(path: str | Path) -> tuple[MapHeader, ...]:
    """Return the headers of all spectrum images in a .hspy file, reading no counts."""
    return experiments.describe(_Hdf5(Path(path)))


def is_hspy(path: Path) -> bool:
    """Say whether an HDF5 file states that HyperSpy's format is its own."""
    with _Hdf5(path).open() as file:
        stated = file.attrs.get("file_format", "")
    return str(stated.decode() if isinstance(stated, bytes) else stated).lower() == "hyperspy"


class _Hdf5:
    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> h5py.File:
        try:
            # No chunk cache: every slab holds whole chunks. Locks fail on read-only network drives.
            return h5py.File(self.path, "r", rdcc_nbytes=0, locking="best-effort")
        except OSError as error:
            raise SourceError(
                str(self.path),
                found=f"a file that HDF5 cannot open ({error})",
                expected="an undamaged .hspy file",
                fix="copy the file again",
            ) from error

    def names(self, group: h5py.Group) -> list[str]:
        return list(group)

    def values(self, array: h5py.Dataset) -> Array | None:
        if h5py.check_string_dtype(array.dtype):
            return np.ravel(array.asstr(errors="replace")[()])
        return array[()] if array.dtype.kind in "biuf" else None

    def read(self, array: h5py.Dataset, window: tuple[slice, ...], out: Array) -> None:
        array.read_direct(out, window)

    def scratch_bytes(self, array: h5py.Dataset) -> int:
        if not array.chunks or array.id.get_create_plist().get_nfilters() == 0:
            return 0  # Chunks without filters are read in place.
        # HDF5 undoes one filter after the other, each into a new buffer, and inflating doubles its buffer as it goes;
        # 2.4 chunks were measured with gzip and shuffle.
        return int(4 * math.prod(array.chunks) * array.dtype.itemsize)
