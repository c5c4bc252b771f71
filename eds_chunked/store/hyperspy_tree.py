"""A map as HyperSpy describes it: its axes and its trees of metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema

Tree = dict[str, Any]

_UNEVEN = 1e-3
"""Share of a step by which the values of an axis may be off the line through its ends."""

_DETECTOR = ("Detector", "EDS")
_PLACES: dict[str, tuple[tuple[str, ...], float]] = {
    "magnification": (("magnification",), 1.0),
    "working_distance_mm": (("working_distance",), 1.0),
    "detector_type": ((*_DETECTOR, "detector_type"), 1.0),
    "elevation_angle_deg": ((*_DETECTOR, "elevation_angle"), 1.0),
    "azimuth_angle_deg": ((*_DETECTOR, "azimuth_angle"), 1.0),
    "energy_resolution_mn_ka_ev": ((*_DETECTOR, "energy_resolution_MnKa"), 1.0),
    "stage_x_um": (("Stage", "x"), 1e-3),
    "stage_y_um": (("Stage", "y"), 1e-3),
    "stage_z_um": (("Stage", "z"), 1e-3),
    "stage_rotation_deg": (("Stage", "rotation"), 1.0),
    "stage_tilt_deg": (("Stage", "tilt_alpha"), 1.0),
}
"""Where HyperSpy keeps, below the microscope, what our own readers call by these names, and the factor to its unit."""


def axis_of(ds: xr.Dataset, name: str) -> Tree:
    """Return the axis ``name`` of a Dataset; one whose steps are not equal has its values in place of a scale."""
    values = np.asarray(ds[name].values, np.float64)
    energy = name == schema.ENERGY
    axis = {
        "name": "Energy" if energy else name,
        "size": len(values),
        "units": {schema.MICROMETRE: "µm", schema.KEV: "keV"}.get(ds[name].attrs.get("units", "")),
        "navigate": not energy,
        "is_binned": energy,
    }
    if len(values) > 1:
        step = float(values[-1] - values[0]) / (len(values) - 1)
    else:
        sizes = dict(zip((schema.Y, schema.X), ds.attrs.get(schema.PIXEL_SIZE, ()), strict=False))
        step = float(sizes.get(name, 1.0))
    even = values[0] + step * np.arange(len(values))
    if np.abs(values - even).max() > _UNEVEN * abs(step):
        return axis | {"_type": "DataAxis", "axis": values}
    return axis | {"_type": "UniformDataAxis", "scale": step, "offset": float(values[0])}


def metadata_tree(ds: xr.Dataset) -> Tree:
    """Return what HyperSpy's metadata says of a map, or of a result of it."""
    source, attrs = _branch(ds.attrs, schema.SOURCE_METADATA), ds.attrs
    kind = "TEM" if attrs.get(schema.SIGNAL_TYPE) == schema.TEM else "SEM"
    microscopes = _branch(source, "Acquisition_instrument")
    instrument = _branch(microscopes, kind) or next((m for m in microscopes.values() if isinstance(m, dict)), {})
    for name, (place, factor) in _PLACES.items():
        value = source.get(name)
        _put(instrument, place, value * factor if isinstance(value, int | float) else value)
    # What the store says goes last: it may have been calibrated since it was read.
    _put(instrument, ("beam_energy",), attrs.get(schema.BEAM_ENERGY))
    _put(instrument, (*_DETECTOR, "live_time"), attrs.get(schema.LIVE_TIME))
    _put(instrument, (*_DETECTOR, "real_time"), attrs.get(schema.REAL_TIME))
    elements = list(attrs.get(schema.ELEMENTS, []))
    sample = _branch(source, "Sample") | {"elements": elements}
    lines = sample.get("xray_lines")
    if isinstance(lines, list):
        sample["xray_lines"] = [line for line in lines if str(line).split("_")[0] in elements]
    sample = {name: value for name, value in sample.items() if value != []}
    return {
        "General": _branch(source, "General") | {"title": attrs.get(schema.TITLE, "")},
        "Signal": {"signal_type": attrs.get(schema.SIGNAL_TYPE, schema.SEM), "quantity": "X-rays (Counts)"},
        "Sample": sample,
        "Acquisition_instrument": {kind: instrument},
    }


def original_metadata_tree(ds: xr.Dataset) -> Tree:
    """Return what the microscope's file said, and the history of the map."""
    source = _branch(ds.attrs, schema.SOURCE_METADATA)
    original = _branch(source, "original_metadata") or source
    return original | {"eds_chunked": {schema.HISTORY: ds.attrs.get(schema.HISTORY, [])}}


def _branch(tree: Mapping[str, Any], name: str) -> Tree:
    """Return a copy of a branch, or an empty one."""
    branch = tree.get(name)
    return {key: _branch(branch, key) or value for key, value in branch.items()} if isinstance(branch, dict) else {}


def _put(tree: Tree, place: tuple[str, ...], value: Any) -> None:
    if value is None:
        return
    for name in place[:-1]:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[place[-1]] = value
