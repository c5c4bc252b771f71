"""Calibration of a map: its coordinates and metadata, never a count."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.readers.selection import check_energy_scale
from eds_chunked.store.backend import Location, location_text, zarr_store
from eds_chunked.store.consolidation import forget_consolidated
from eds_chunked.store.lock import locked
from eds_chunked.store.opening import check_store, open_map
from eds_chunked.store.provenance import event, fingerprint
from eds_chunked.store.run_log import recorded
from eds_chunked.store.zero_peak import zero_peak_channel

Array = np.ndarray[Any, Any]

_SIGNAL_TYPES = {"SEM": schema.SEM, "TEM": schema.TEM}

_SYMBOLS = frozenset(schema.PERIODIC_TABLE)


@recorded("calibrate")
def calibrate(
    store: Location,
    *,
    energy_scale: float | None = None,
    energy_offset: float | None = None,
    zero_peak: Literal["auto"] | None = None,
    pixel_size: float | tuple[float, float] | None = None,
    beam_energy: float | None = None,
    signal_type: Literal["SEM", "TEM"] | None = None,
    elements: Iterable[str] | None = None,
    title: str | None = None,
) -> xr.Dataset:
    """Set the axes and metadata of a stored map; what is not given stays as it is, and no count is read or changed.

    The change is noted in the map's history. Results that were saved before are stale from then on. Broken off at any
    moment, the same call again puts everything right; until then no result of the map is fresh and no step runs.

    Parameters
    ----------
    store
        Path or URL of the store.
    energy_scale
        keV per channel of the map; where channels were binned, of a bin. Channel 0 of the file stays where it is.
    energy_offset
        keV at the centre of channel 0 of the file, as the microscope states it: also where the store holds a part of
        the channels, or bins of them. So the same values are right for a map and for what was cut out of it.
    zero_peak
        ``"auto"`` finds the zero (strobe) peak in the sum spectrum and sets the offset so that it lies at 0 keV.
    pixel_size
        Size of a pixel in um: one number, or (height, width).
    beam_energy
        keV.
    signal_type
        ``"SEM"`` or ``"TEM"``.
    elements
        Symbols of all elements in the sample; an empty list forgets them.
    title
        Name of the map.

    Returns
    -------
    The map, opened lazily, with its new coordinates in um and keV.

    Raises
    ------
    ParameterError
        Nothing to set, a value that cannot be, or no zero peak.
    StoreNotFoundError, StoreError
        There is no store, or its conversion did not finish.
    StoreBusyError
        Another process is writing into the store.
    """
    given: dict[str, Any] = {
        "energy_scale": energy_scale,
        "energy_offset": energy_offset,
        "zero_peak": zero_peak,
        "pixel_size": pixel_size,
        "beam_energy": beam_energy,
        "signal_type": signal_type,
        "elements": None if elements is None else _symbols(elements),
        "title": title,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        raise ParameterError(
            "calibrate", found="nothing to set", expected="at least one value", fix="--energy-offset -0.4724"
        )
    attrs = _new_attrs(given)
    check_store(store)
    with locked(store):
        ds, axes = _as_before(open_map(store))
        if given.keys() & {"energy_scale", "energy_offset", "zero_peak"}:
            given["energy_offset"], scale = _offset_and_scale(ds, given)
            channels = _channels_before(ds) + np.arange(ds.sizes[schema.ENERGY])
            axes[schema.ENERGY] = given["energy_offset"] + scale * channels, schema.KEV
        if schema.PIXEL_SIZE in attrs:
            sizes = schema.pixel_size(ds)
            for axis, old, new in zip((schema.Y, schema.X), sizes[:2], attrs[schema.PIXEL_SIZE], strict=True):
                axes[axis] = (float(ds[axis][0]) / old + np.arange(ds.sizes[axis])) * new, schema.MICROMETRE
        _write(store, ds, axes, attrs, event("calibrate", **given))
    return open_map(store)


def _as_before(ds: xr.Dataset) -> tuple[xr.Dataset, dict[str, tuple[Array, str]]]:
    """Return the map with the axes that it had before a calibration that was broken off, and these axes."""
    axes = {
        axis: (np.asarray(stored["values"], float), str(stored["units"]))
        for axis, stored in ds.attrs.get(schema.BEFORE_CALIBRATION, {}).items()
    }
    return _with_axes(ds, axes), axes


def _with_axes(ds: xr.Dataset, axes: dict[str, tuple[Array, str]]) -> xr.Dataset:
    for axis, (values, unit) in axes.items():
        ds = ds.assign_coords({axis: (axis, values, {**ds[axis].attrs, "units": unit})})
    return ds


def _write(
    store: Location,
    ds: xr.Dataset,
    axes: dict[str, tuple[Array, str]],
    attrs: dict[str, Any],
    done: dict[str, Any],
) -> None:
    """Write the coordinates between two puts of the document of the map.

    The first one notes the axes as they were, and a fingerprint that no result has: until the second, with the new
    fingerprint, no result of this map is fresh. A crash in between leaves what the next call begins with.
    """
    forget_consolidated(store)
    group = zarr.open_group(zarr_store(store), path=schema.MAP_GROUP, mode="r+")
    stored = group.attrs.asdict()
    if axes:
        before = {axis: {"values": ds[axis].values.tolist(), "units": ds[axis].attrs.get("units")} for axis in axes}
        nobodys = f"being calibrated {uuid.uuid4().hex}"
        group.attrs.put(stored | {schema.FINGERPRINT: nobodys, schema.BEFORE_CALIBRATION: before})
    for axis, (values, unit) in axes.items():
        array = zarr.open_array(zarr_store(store), path=f"{schema.MAP_GROUP}/{axis}", mode="r+")
        array[:] = values
        array.attrs["units"] = unit
    stored.pop(schema.BEFORE_CALIBRATION, None)
    history = [*ds.attrs.get(schema.HISTORY, []), done]
    new = fingerprint(_with_axes(ds, axes).assign_attrs(attrs))
    group.attrs.put(stored | attrs | {schema.HISTORY: history, schema.FINGERPRINT: new})


def _new_attrs(given: dict[str, Any]) -> dict[str, Any]:
    """Check the values that are given, replacing them by what is stored, and return the attributes that they make."""
    if "energy_offset" in given and "zero_peak" in given:
        raise ParameterError("energy offset", found="energy_offset and zero_peak", expected="one", fix="leave one out")
    if given.get("zero_peak", "auto") != "auto":
        raise ParameterError("zero_peak", found=repr(given["zero_peak"]), expected="'auto'", fix="--zero-peak auto")
    for name, unit, fix in (
        ("energy_scale", "keV per channel", "--energy-scale 0.01"),
        ("beam_energy", "keV", "--beam-energy 20"),
    ):
        if name in given:
            given[name] = _positive(name, given[name], unit=unit, fix=fix)
    if "energy_offset" in given:
        given["energy_offset"] = _finite("energy_offset", given["energy_offset"], unit="keV", fix="--energy-offset 0")
    attrs: dict[str, Any] = {}
    if "pixel_size" in given:
        pair = np.ravel(np.asarray(given["pixel_size"], object)).tolist()
        if len(pair) not in (1, 2):
            raise ParameterError(
                "pixel_size", found=repr(given["pixel_size"]), expected="one size or (height, width)", fix="(1.5, 2.0)"
            )
        sizes = [_positive("pixel_size", size, unit="um", fix="--pixel-size 1.5") for size in pair]
        attrs[schema.PIXEL_SIZE] = given["pixel_size"] = [sizes[0], sizes[-1]]
    if "beam_energy" in given:
        attrs[schema.BEAM_ENERGY] = given["beam_energy"]
    if "signal_type" in given:
        if given["signal_type"] not in _SIGNAL_TYPES:
            raise ParameterError(
                "signal_type", found=repr(given["signal_type"]), expected="SEM or TEM", fix="--signal-type SEM"
            )
        attrs[schema.SIGNAL_TYPE] = _SIGNAL_TYPES[given["signal_type"]]
    if "elements" in given:
        attrs[schema.ELEMENTS] = given["elements"]
    if "title" in given:
        attrs[schema.TITLE] = given["title"] = schema.text(given["title"])
    return attrs


def _finite(name: str, value: Any, *, unit: str, fix: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ParameterError(name, found=repr(value), expected=f"a number ({unit})", fix=fix)
    return number


def _positive(name: str, value: Any, *, unit: str, fix: str) -> float:
    number = _finite(name, value, unit=unit, fix=fix)
    if number <= 0:
        raise ParameterError(name, found=repr(value), expected=f"a number above 0 ({unit})", fix=fix)
    return number


def _symbols(elements: Iterable[str]) -> list[str]:
    symbols = [elements] if isinstance(elements, str) else list(elements)
    for symbol in symbols:
        if symbol not in _SYMBOLS:
            meant = str(symbol).strip().capitalize()
            raise ParameterError(
                "elements",
                found=repr(symbol),
                expected="symbols of elements, one each",
                fix=f"write {meant}" if meant in _SYMBOLS else "--elements Si,Al,O",
            )
    # In one order, since the same elements are the same calibration.
    return sorted(set(symbols))


def _channels_before(ds: xr.Dataset) -> float:
    """Return how many channels, as wide as those of the map, lie between channel 0 of the file and the first stored."""
    return float(ds.attrs.get(schema.CHANNEL_ORIGIN, 0.0)) / _binned(ds)


def _binned(ds: xr.Dataset) -> int:
    return int(ds.attrs.get(schema.CHANNELS_BINNED, 1))


def _offset_and_scale(ds: xr.Dataset, given: dict[str, Any]) -> tuple[float, float]:
    """Return the keV of channel 0 of the file, and the keV per channel of the map."""
    old, before = ds[schema.ENERGY].values, _channels_before(ds)
    calibrated = ds[schema.ENERGY].attrs.get("units") == schema.KEV
    if not calibrated and "energy_scale" not in given:
        raise ParameterError(
            "energy_scale",
            found=f"a map in {location_text(ds.encoding['source'])} whose energies count channels",
            expected="the keV per channel as well",
            fix="--energy-scale 0.01",
        )
    if len(old) == 1 and before and not given.keys() >= {"energy_scale", "energy_offset"}:
        raise ParameterError(
            "energy_scale and energy_offset",
            found="one of them, for a map of one channel that was cut out of others",
            expected="both: one channel does not tell how far away channel 0 of the file is",
            fix="--energy-scale 0.01 --energy-offset -0.48",
        )
    # To 13 digits, and the offset to a millionth of an eV: rounding must not make another map of the same calibration.
    present = float(f"{float(old[-1] - old[0]) / max(1, len(old) - 1):.13g}")
    scale = float(given.get("energy_scale", present))
    if "energy_scale" in given:
        check_energy_scale(scale, binned=_binned(ds))
    offset = round(float(old[0]) - present * before, 9) if before else float(old[0])
    if not calibrated:
        # An axis that counts channels counts those of the file, and may begin at another than 0.
        offset *= scale / _binned(ds)
    if "energy_offset" in given:
        offset = given["energy_offset"]
    if "zero_peak" in given:
        # An offset of exactly 0 is what formats without one say; one that goes with another scale is not known either.
        known = calibrated and "energy_scale" not in given and offset != 0
        spectrum = ds[schema.SUM_SPECTRUM].values
        offset = -scale * zero_peak_channel(spectrum, scale=scale, offset=offset if known else None, before=before)
    return offset, scale
