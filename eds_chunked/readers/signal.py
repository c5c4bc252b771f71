"""A signal as HyperSpy describes it (axes and a metadata tree): which axis is which, and what the header says.

Shared by the .hspy and .zspy readers and by the formats that come through RosettaSciIO, which use this description.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.readers.base import Box, ElectronImage, MapHeader
from eds_chunked.readers.units import in_kev, in_um
from eds_chunked.readers.whole import counts_dtype
from eds_chunked.schema import ENERGY, SEM, TEM, X, Y

Array = np.ndarray[Any, Any]
Axis = Mapping[str, Any]

# Longer lists in a metadata tree are measurements or histories, which belong to the source file.
_LONGEST_LIST = 256

_ROW_NAMES = (Y, "height")
_COLUMN_NAMES = (X, "width")


class NotAMapError(Exception):
    """The signal is no EDS spectrum image; the text says what it is."""


@dataclass(frozen=True)
class Layout:
    """Which axes of an array are rows, columns and energy; a line scan has no rows and is read as one row."""

    row: int | None
    column: int
    energy: int

    def shape(self, stored: Sequence[int]) -> tuple[int, int, int]:
        """Return (rows, columns, channels) of an array of shape ``stored``."""
        return 1 if self.row is None else int(stored[self.row]), int(stored[self.column]), int(stored[self.energy])

    def window(self, box: Box) -> tuple[slice, ...]:
        """Return the index of a box of the map."""
        places = {self.row: box.ys, self.column: box.xs, self.energy: box.channels}
        return tuple(places[axis] for axis in range(2 if self.row is None else 3))

    def as_map(self, block: Array) -> Array:
        """View a block, cut out by :meth:`window`, as (rows, columns, channels)."""
        if self.row is None:
            return block.transpose(self.column, self.energy)[np.newaxis]
        return block.transpose(self.row, self.column, self.energy)


def find_layout(axes: Sequence[Axis], *, shape: Sequence[int], dtype: np.dtype[Any], signal_type: str) -> Layout:
    """Return which axis is which.

    The energy axis is the one in eV or keV, else the one named energy, else the only signal axis. Of the other two
    the first is y, unless their names say x and y the other way round.

    Raises
    ------
    NotAMapError
        It is a plain spectrum, an image, a stack of more dimensions, or not counts.
    """
    sizes = " x ".join(map(str, shape))
    if dtype.kind not in "iuf":
        raise NotAMapError(f"{sizes} values of type {dtype}")
    if signal_type.upper() == "EELS":
        raise NotAMapError(f"an EELS signal {sizes}")
    if len(axes) != len(shape) or len(shape) not in (2, 3):
        raise NotAMapError(f"{len(shape)} dimension{'s' * (len(shape) != 1)} ({sizes})")
    if 0 in shape:
        raise NotAMapError(f"an empty array ({sizes})")
    energy = _energy_axis(axes, sizes)
    if axes[energy].get("axis") is not None or axes[energy].get("expression") is not None:
        raise NotAMapError(f"a map {sizes} whose energy axis is not uniform")
    if len(shape) == 2:
        return Layout(None, 1 - energy, energy)
    first, second = (i for i in range(3) if i != energy)
    if _name(axes[first]) in _COLUMN_NAMES and _name(axes[second]) in _ROW_NAMES:
        first, second = second, first
    return Layout(first, second, energy)


def _energy_axis(axes: Sequence[Axis], sizes: str) -> int:
    signal = [i for i, axis in enumerate(axes) if not axis.get("navigate", False)]
    for found in (
        [i for i, axis in enumerate(axes) if in_kev(1.0, axis.get("units")) is not None],
        [i for i, axis in enumerate(axes) if _name(axis).startswith(ENERGY)],
        signal,
    ):
        if len(found) == 1:
            return found[0]
    raise NotAMapError(f"an array {sizes} with {len(signal)} signal axes and no energy axis")


def _name(axis: Axis) -> str:
    return str(axis.get("name")).strip().lower()


@dataclass(frozen=True)
class Signal:
    """One signal of a file: its name, its array as stored (or what knows its shape and dtype), and what describes it.

    ``data`` is None where there is an array that cannot be opened.
    ``metadata`` is HyperSpy's tree (Acquisition_instrument, General, Sample, Signal), ``original`` what the file said.
    """

    name: str
    data: Any
    axes: Sequence[Axis]
    metadata: Mapping[str, Any]
    original: Mapping[str, Any]


class FoundMap(NamedTuple):
    """A signal that is a spectrum image."""

    header: MapHeader
    layout: Layout
    signal: Signal


def find_maps(source: str, signals: Iterable[Signal]) -> tuple[list[FoundMap], list[str]]:
    """Return the spectrum images among the signals of a file, and a word on each other signal."""
    maps, others = [], []
    for number, signal in enumerate(signals, 1):
        if signal.data is None:
            others.append(f"{signal.name!r}: data of a type or codec that is not known")
            continue
        shape, dtype = signal.data.shape, signal.data.dtype
        try:
            layout = find_layout(
                signal.axes, shape=shape, dtype=dtype, signal_type=str(at(signal.metadata, "Signal", "signal_type"))
            )
        except NotAMapError as reason:
            others.append(f"{signal.name or f'signal {number}'!r}: {reason}")
        else:
            maps.append(FoundMap(_header(source, signal, layout), layout, signal))
    return maps, others


def _header(source: str, signal: Signal, layout: Layout) -> MapHeader:
    """Describe a spectrum image; without an energy unit the scale is 1 and the offset 0: energies count channels."""
    axes, metadata = signal.axes, signal.metadata
    energy = axes[layout.energy]
    scale, offset = (in_kev(_number(energy.get(key)) or 0.0, energy.get("units")) for key in ("scale", "offset"))
    calibrated = scale is not None and offset is not None and scale > 0
    beam, live, real = (
        _instrument(metadata, *keys) for keys in (("beam_energy",), (*_EDS, "live_time"), (*_EDS, "real_time"))
    )
    title = str(at(metadata, "General", "title") or signal.name)
    return MapHeader(
        source=source,
        shape=layout.shape(signal.data.shape),
        dtype=counts_dtype(signal.data.dtype, source=source),
        energy_scale=scale if calibrated and scale is not None else 1.0,
        energy_offset=offset if calibrated and offset is not None else 0.0,
        energy_calibrated=calibrated,
        pixel_size=pixel_size(None if layout.row is None else axes[layout.row], axes[layout.column]),
        title="" if title == _UNTITLED else title,
        signal_type=_signal_type(metadata),
        beam_energy=beam,
        elements=_elements(metadata),
        live_time=live,
        real_time=real,
        metadata=plain(
            {
                **metadata,
                "axes": [{k: axis[k] for k in _AXIS_KEYS if k in axis} for axis in axes],
                "original_metadata": signal.original,
            }
        ),
    )


# What HyperSpy calls a signal that has no title.
_UNTITLED = "__unnamed__"
_EDS = ("Detector", "EDS")
_AXIS_KEYS = ("name", "size", "scale", "offset", "units", "navigate")


def pixel_size(row: Axis | None, column: Axis) -> tuple[float, float] | None:
    """Return (height, width) of a pixel in um; a line scan's pixel, or one with a size missing, is taken as square."""
    sizes = [
        in_um(abs(_number(axis.get("scale")) or 0.0), axis.get("units")) or None if axis is not None else None
        for axis in (row, column)
    ]
    height, width = sizes[0] or sizes[1], sizes[1] or sizes[0]
    return None if height is None or width is None else (height, width)


def electron_image(signal: Signal, pixels: Array) -> ElectronImage:
    """Return a signal for which :func:`is_image` holds as an image."""
    return ElectronImage(signal.name, pixels, pixel_size(signal.axes[0], signal.axes[1]))


def is_image(signal: Signal) -> bool:
    """Say whether the signal is a single grey image: two signal axes and no other."""
    if signal.data is None:
        return False
    shape, dtype = signal.data.shape, signal.data.dtype
    return (
        len(shape) == len(signal.axes) == 2
        and min(shape) > 1
        and dtype.kind in "iuf"
        and not any(axis.get("navigate", False) for axis in signal.axes)
    )


def _signal_type(metadata: Mapping[str, Any]) -> str:
    stated = str(at(metadata, "Signal", "signal_type")).upper()
    if "TEM" in stated or "SEM" in stated:
        return TEM if "TEM" in stated else SEM
    instrument = at(metadata, "Acquisition_instrument") or {}
    return TEM if "TEM" in instrument and "SEM" not in instrument else SEM


def _instrument(metadata: Mapping[str, Any], *keys: str) -> float | None:
    for kind in ("SEM", "TEM"):
        value = _number(at(metadata, "Acquisition_instrument", kind, *keys))
        if value is not None and value > 0:
            return value
    return None


def _elements(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    elements = at(metadata, "Sample", "elements")
    return tuple(map(str, elements)) if isinstance(elements, list | tuple | np.ndarray) else ()


def at(tree: Any, *keys: str) -> Any:
    """Return what a tree has under keys within keys, or None."""
    for key in keys:
        tree = tree.get(key) if isinstance(tree, Mapping) else None
    return tree


def _number(value: Any) -> float | None:
    if isinstance(value, bool | str | bytes) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def plain(value: Any) -> Any:
    """Return a metadata tree as JSON types; what has no such form, and long lists, are left out (None)."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist()) if value.size <= _LONGEST_LIST else None
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value] if len(value) <= _LONGEST_LIST else None
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool) else None
