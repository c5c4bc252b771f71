"""``xarray.open_dataset(file, engine="eds_chunked")``: microscope files as Datasets, read where they are looked at."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from xarray.backends import BackendArray, BackendEntrypoint
from xarray.core import indexing

import eds_chunked.accessor  # noqa: F401 - whoever opens a file this way finds `ds.eds` on it
from eds_chunked import schema
from eds_chunked.errors import SourceError
from eds_chunked.kernels.sparse import to_dense
from eds_chunked.readers import Box, Reader, open_source
from eds_chunked.store.description import describe_header
from eds_chunked.store.layout import ROOT_DOCUMENT

Array = np.ndarray[Any, Any]

_GUESSED = (".bcf", ".rpl", ".spd", ".hspy", ".zspy", ".pts", ".dm3", ".dm4", ".emd")
_CHUNK_BYTES = 2**25
_BAND_ROWS = 4
"""Few, since a band is there beside the counts that were asked for."""


class EdsChunkedBackend(BackendEntrypoint):
    """Opens what :func:`eds_chunked.readers.open_source` reads. A store is opened by :func:`eds_chunked.open`."""

    description = "Spectrum images of microscopes (.bcf .rpl .spd .hspy .zspy .dm4 .emd .pts ...), lazily"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = ("filename_or_obj", "drop_variables", "pick", "memory")

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        pick: str | int | None = None,
        memory: str | int | None = None,
    ) -> xr.Dataset:
        """Return a map as a Dataset: its counts are read when they are computed, and of the file only their rows.

        Parameters
        ----------
        filename_or_obj
            The file.
        drop_variables
            Variables to leave out.
        pick
            Name or 1-based number of the spectrum image, where the file has several.
        memory
            Budget of the whole process, for formats that must be loaded to know what is in them.

        Returns
        -------
        Dataset with ``counts`` (y, x, energy), coordinates in um and keV, and the metadata of the file. It has no
        survey, and a pass over all of it decodes the file each time: convert it once for an analysis.

        Raises
        ------
        SourceNotFoundError, SourceError, ParameterError, MemoryBudgetError
            See :func:`eds_chunked.readers.open_source`; or it is a store.

        Notes
        -----
        Memory: what is selected, dense, and a few rows of the file. With ``chunks={}`` a chunk is some whole rows of at
        most 32 MiB.
        """
        path = Path(filename_or_obj)
        if (path / ROOT_DOCUMENT).exists():
            raise SourceError(
                str(path), found="a Zarr store", expected="a microscope's file", fix=f'eds_chunked.open("{path}")'
            )
        reader = open_source(path, pick=pick, memory=memory)
        ds = describe_header(reader.header, what="open")
        counts = xr.Variable(
            schema.VARIABLES[schema.COUNTS].dims,
            indexing.LazilyIndexedArray(FileCounts(path, reader, pick=pick, memory=memory)),
            schema.attributes(schema.COUNTS),
            {"preferred_chunks": _preferred_chunks(reader)},
        )
        dropped = {drop_variables} if isinstance(drop_variables, str) else set(drop_variables or ())
        return ds.assign({schema.COUNTS: counts}).drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Tell by the suffix: a format that only spectrum images have, and xarray itself does not read."""
        return isinstance(filename_or_obj, str | os.PathLike) and Path(filename_or_obj).suffix.lower() in _GUESSED


def _preferred_chunks(reader: Reader) -> dict[str, int]:
    height, width, n_channels = reader.header.shape
    rows = max(1, _CHUNK_BYTES // (width * n_channels * reader.header.dtype.itemsize))
    return {schema.Y: min(rows, height), schema.X: width, schema.ENERGY: n_channels}


class FileCounts(BackendArray):
    """The counts (y, x, energy) of a file, of which a box is decoded when it is asked for."""

    def __init__(self, path: Path, reader: Reader, *, pick: str | int | None, memory: str | int | None) -> None:
        self._path, self._pick, self._memory = path, pick, memory
        self._reader: Reader | None = reader
        self._lock = Lock()
        self.shape = reader.header.shape
        self.dtype = reader.header.dtype

    def __getstate__(self) -> dict[str, Any]:
        # A reader belongs to its process, with what it has open.
        return {**self.__dict__, "_reader": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=Lock())

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.BASIC, self._read)

    def _read(self, key: tuple[int | slice, ...]) -> Array:
        """Read what whole numbers and slices, of any step, take."""
        boxed, inside = zip(*(_box_axis(k, n) for k, n in zip(key, self.shape, strict=True)), strict=True)
        box = Box(*boxed)
        counts = np.zeros(box.shape, self.dtype)
        if counts.size:
            # One reading at a time: a decoder fills the processors by itself.
            with self._lock:
                if self._reader is None:
                    self._reader = open_source(self._path, pick=self._pick, memory=self._memory)
                for band in self._reader.bands(_BAND_ROWS, box):
                    first = band.y0 - box.ys.start
                    rows = counts[first : first + band.rows]
                    dense = band.counts if isinstance(band.counts, np.ndarray) else to_dense(band.counts)
                    rows[...] = dense.reshape(rows.shape)
        found: Array = counts[inside]
        return found


def _box_axis(key: int | slice, size: int) -> tuple[slice, int | slice]:
    """Return the range of an axis that holds what ``key`` takes, and what to take of it."""
    if not isinstance(key, slice):
        return slice(int(key), int(key) + 1), 0
    taken = range(*key.indices(size))
    if not taken:
        return slice(0, 0), slice(0, 0)
    low, high = min(taken[0], taken[-1]), max(taken[0], taken[-1]) + 1
    return slice(low, high), slice(None, None, taken.step)


__all__ = ["EdsChunkedBackend", "FileCounts"]
