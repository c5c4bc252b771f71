"""What a reader is: a header that describes the map, and an iterator of row bands.

A new format needs one file in this folder with a class that fulfils :class:`Reader`, and one line in
:mod:`eds_chunked.readers`. A reader never holds the map: ``bands`` yields a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from eds_chunked.schema import SEM

if TYPE_CHECKING:  # describing a file must not import numba
    from eds_chunked.kernels.sparse import Csr


@dataclass(frozen=True)
class MapHeader:
    """What is known of a spectrum image without reading its counts.

    ``shape`` is (rows, columns, channels). Energies are keV, ``energy_offset`` is the centre of channel 0. Pixel sizes
    are um, None where the file has none. ``metadata`` is everything else worth keeping, as JSON types.

    ``origin`` is the (y, x) of the first pixel's centre, and ``binned`` the rows and columns of the file that one pixel
    is made of: um, or pixels of the file where it has no pixel size. In the same way ``channel_origin`` is the channel
    of the file at the centre of channel 0, and ``channels_binned`` how many of the file's make one. ``parameters`` is
    what was asked of the counts that are read (region, energy, rebin, ...), as JSON types, for the history of the
    store, and ``left_out`` the rows, columns and channels at the end that were kept but fill no bin.
    """

    source: str
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    energy_scale: float
    energy_offset: float
    energy_calibrated: bool = True
    pixel_size: tuple[float, float] | None = None
    title: str = ""
    signal_type: str = SEM
    beam_energy: float | None = None
    elements: tuple[str, ...] = ()
    live_time: float | None = None
    real_time: float | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    origin: tuple[float, float] = (0.0, 0.0)
    binned: tuple[int, int] = (1, 1)
    channel_origin: float = 0.0
    channels_binned: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)


class Box(NamedTuple):
    """The rows, columns and channels of a map that are read; of slices with a start, a stop and no step."""

    ys: slice
    xs: slice
    channels: slice

    @classmethod
    def whole(cls, shape: tuple[int, int, int], *, first_row: int = 0) -> Box:
        """Return the box of a whole map, or of what it has from a row on."""
        height, width, n_channels = shape
        return cls(slice(first_row, height), slice(0, width), slice(0, n_channels))

    @property
    def shape(self) -> tuple[int, int, int]:
        rows, columns, channels = (axis.stop - axis.start for axis in self)
        return rows, columns, channels


@dataclass(frozen=True)
class Band:
    """Rows ``y0 : y0 + rows`` of the map: the columns and channels of the box that was asked for.

    Dense, of shape (rows, columns, channels), or as CSR of rows * columns pixels in raster order. A CSR has only values
    above 0, and the channels of each pixel rise strictly: each at most once, and below the number of channels.
    """

    y0: int
    rows: int
    counts: np.ndarray[Any, Any] | Csr


@dataclass(frozen=True)
class ElectronImage:
    """A 2-D image that comes with the map (BSE, SE, ...), on its own grid; pixel size (height, width) in um."""

    name: str
    pixels: np.ndarray[Any, Any]
    pixel_size: tuple[float, float] | None = None


class Reader(Protocol):
    """A source of counts in row order."""

    header: MapHeader

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that reading bands of ``rows`` rows holds at most, over the idle process."""
        ...

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of the whole map) in order, ``rows`` at a time; the last may be shorter.

        What lies outside the box is not materialised. A source that turns out to be damaged raises SourceError after
        all whole rows before the damage have been yielded.
        """
        ...

    def images(self) -> Iterator[ElectronImage]:
        """Yield the electron images of the file, if any."""
        ...
