"""A map in a Dataset as a source that can be converted to a store."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError
from eds_chunked.readers.array_bands import ArrayBands
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.readers.signal import Layout
from eds_chunked.readers.whole import counts_dtype
from eds_chunked.store.conversion import STATED_TOTAL

_LAYOUT = Layout(row=0, column=1, energy=2)
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
        self.header = _header(ds)
        self._bands = ArrayBands(ds[schema.COUNTS].data, _LAYOUT, self.header.dtype, self.header.source)

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that a loop over ``bands(rows, box)`` holds at most, over what the process holds now."""
        return self._bands.peak_bytes(rows, box or Box.whole(self.header.shape))

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of the whole map), ``rows`` at a time, in unsigned integers.

        Raises
        ------
        CountsError
            A value is negative, not whole, NaN or too large.
        """
        return self._bands.bands(rows, box or Box.whole(self.header.shape))

    def images(self) -> Iterator[ElectronImage]:
        """Yield nothing: a map in a Dataset has no electron images."""
        yield from ()


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
