"""A map in a Dataset as a source that can be converted to a store."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.readers.slabs import bands_of_slabs, chunk_edges
from eds_chunked.readers.whole import counts_dtype, scratch_bytes
from eds_chunked.store.conversion import STATED_TOTAL

Array = np.ndarray[Any, Any]

_UNEVEN = 1e-3
"""Share of a step by which a coordinate may be off the line through its ends."""


class DatasetReader:
    """Read a map in memory or in dask arrays, such as :func:`eds_chunked.from_hyperspy` returns, for ``convert``.

    ``edc.convert(edc.DatasetReader(edc.from_hyperspy(signal)), "map.zarr")`` puts a HyperSpy signal into a store, and
    ``edc.convert(edc.DatasetReader(ds), "part.zarr")`` any selection or transformation of a map, in row bands: of lazy
    counts only the chunks of a few rows are computed at a time, on one thread.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), whole numbers of at least 0 of any type. Coordinates, if any, have equal
        steps.

    Raises
    ------
    ChunkLayoutError
        ``counts`` is missing or has other dimensions, or a coordinate has unequal steps.
    SourceError
        Values that are no numbers. That they are counts is checked when they are read.

    Notes
    -----
    Memory: two bands, and one row of chunks; what makes a chunk of a lazy array cannot be known. An array of one chunk
    is computed whole: rechunk it, or load it with chunks, first.
    """

    def __init__(self, ds: xr.Dataset) -> None:
        schema.require(ds, schema.COUNTS)
        self._data: Any = ds[schema.COUNTS].data
        self._stored = np.dtype(self._data.dtype)
        self.header = _header(ds)

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that a loop over ``bands(rows, box)`` holds at most, over what the process holds now."""
        whole = box or Box.whole(self.header.shape)
        height, width, channels = whole.shape
        rows = min(rows, height)
        bands: int = min(2, math.ceil(height / rows)) * rows * width * channels * self.header.dtype.itemsize
        bands += scratch_bytes(self._stored, values=width * channels) + (1 << 20)
        if not isinstance(self._data, da.Array):
            return bands
        slab = max(b - a for a, b in pairwise(self._edges(rows, whole))) * width * channels * self._stored.itemsize
        # dask joins the parts of a slab by a copy; of a chunk that cannot be cut while it is made all is there.
        chunk = math.prod(max(sizes) for sizes in self._data.chunks) * self._stored.itemsize
        return int(bands + 2 * slab + chunk)

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of the whole map), ``rows`` at a time, in unsigned integers.

        Raises
        ------
        CountsError
            A value is negative, not whole, NaN or too large.
        """
        whole = box or Box.whole(self.header.shape)

        def read(y0: int, y1: int) -> Array:
            block = self._data[y0:y1, whole.xs, whole.channels]
            if isinstance(block, da.Array):
                block = block.compute(scheduler="synchronous")
            return np.asarray(block)

        yield from bands_of_slabs(
            read,
            edges=self._edges(rows, whole),
            box=whole,
            dtype=self.header.dtype,
            rows=rows,
            source=self.header.source,
        )

    def images(self) -> Iterator[ElectronImage]:
        """Yield nothing: a map in a Dataset has no electron images."""
        yield from ()

    def _edges(self, rows: int, box: Box) -> list[int]:
        _, width, channels = box.shape
        row_bytes = width * channels * self._stored.itemsize
        if not isinstance(self._data, da.Array):
            return chunk_edges(box, chunk=None, rows=rows, row_bytes=row_bytes)
        if self._data.npartitions == 1:
            # Nothing says that a part of it can be had for less than all of it.
            return [box.ys.start, box.ys.stop]
        return chunk_edges(box, chunk=max(self._data.chunks[0]), rows=rows, row_bytes=row_bytes)


def _header(ds: xr.Dataset) -> MapHeader:
    attrs = ds.attrs
    source = f"Dataset {schema.text(attrs.get(schema.TITLE, ''))!r}"
    (y0, x0, first), (_, _, step) = zip(
        *(_line(ds, axis) for axis in schema.VARIABLES[schema.COUNTS].dims), strict=True
    )
    rows, columns, channels = ds[schema.COUNTS].shape
    height, width, unit = schema.pixel_size(ds)
    calibrated = unit == schema.MICROMETRE
    return MapHeader(
        source=source,
        shape=(rows, columns, channels),
        dtype=counts_dtype(ds[schema.COUNTS].dtype, source=source),
        energy_scale=step,
        energy_offset=first,
        energy_calibrated=ds[schema.ENERGY].attrs.get("units") == schema.KEV,
        pixel_size=(height, width) if calibrated else None,
        title=str(attrs.get(schema.TITLE, "")),
        signal_type=str(attrs.get(schema.SIGNAL_TYPE, schema.SEM)),
        beam_energy=attrs.get(schema.BEAM_ENERGY),
        elements=tuple(map(str, attrs.get(schema.ELEMENTS, ()))),
        live_time=attrs.get(schema.LIVE_TIME),
        real_time=attrs.get(schema.REAL_TIME),
        # What the file of a larger map said of its counts is not said of a part of it.
        metadata={key: value for key, value in attrs.get(schema.SOURCE_METADATA, {}).items() if key != STATED_TOTAL},
        origin=(y0, x0),
        binned=(1, 1) if calibrated else (round(height), round(width)),
    )


def _line(ds: xr.Dataset, axis: str) -> tuple[float, float]:
    """Return the first value and the step of a coordinate."""
    values = np.asarray(ds[axis].values, np.float64)
    step = float(values[-1] - values[0]) / (len(values) - 1) if len(values) > 1 else 1.0
    if len(values) and (step <= 0 or np.abs(values[0] + step * np.arange(len(values)) - values).max() > _UNEVEN * step):
        raise ChunkLayoutError(
            f"coordinate {axis!r}",
            found="values that do not rise in equal steps",
            expected="a regular grid",
            fix=f"take a slice of {axis!r}, with one step",
        )
    return float(values[0]) if len(values) else 0.0, step
