"""What a reader is: a header that describes the map, and an iterator of row bands.

A new format needs one file in this folder with a class that fulfils :class:`Reader`, and one line in
:mod:`eds_chunked.readers`. A reader never holds the map: ``bands`` yields a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eds_chunked.schema import SEM

if TYPE_CHECKING:  # describing a file must not import numba
    from eds_chunked.kernels.sparse import Csr


@dataclass(frozen=True)
class MapHeader:
    """What is known of a spectrum image without reading its counts.

    ``shape`` is (rows, columns, channels). Energies are keV, ``energy_offset`` is the centre of channel 0. Pixel sizes
    are um, None where the file has none. ``metadata`` is everything else worth keeping, as JSON types.
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


@dataclass(frozen=True)
class Band:
    """Whole rows ``y0 : y0 + rows`` of the map, dense (rows, columns, channels) or as CSR of rows * columns pixels."""

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

    def peak_bytes(self, rows: int) -> int:
        """Bytes that reading bands of ``rows`` rows holds at most, over the idle process."""
        ...

    def bands(self, rows: int) -> Iterator[Band]:
        """Yield all rows from the first to the last, ``rows`` at a time; the last band may be shorter."""
        ...

    def images(self) -> Iterator[ElectronImage]:
        """Yield the electron images of the file, if any."""
        ...
