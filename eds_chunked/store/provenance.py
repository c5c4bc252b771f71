"""Where a map and its results come from: versions, history, and the fingerprint that tells fresh from stale."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import StoreError

_PACKAGES = ("eds-chunked", "numpy", "xarray", "zarr", "dask", "numba", "scikit-learn", "scikit-image")

CALIBRATION_ATTRS = (
    schema.TITLE,
    schema.SIGNAL_TYPE,
    schema.BEAM_ENERGY,
    schema.ELEMENTS,
    schema.PIXEL_SIZE,
    schema.LIVE_TIME,
    schema.REAL_TIME,
)


def versions() -> dict[str, str]:
    """Versions of this package and of those that decide numbers."""
    return {name: version(name) for name in _PACKAGES}


def now() -> str:
    """The time, as text with the zone; fine enough to order results that follow one another at once."""
    return datetime.now(UTC).isoformat(timespec="microseconds")


def event(what: str, **parameters: Any) -> dict[str, Any]:
    """One line of a history: what was done, when, with what."""
    return {"what": what, "when": now(), "parameters": parameters, "versions": versions()}


def fingerprint(ds: xr.Dataset) -> str:
    """Return a digest of the survey, the coordinates and the calibration of a map.

    Two maps with the same fingerprint hold the same counts in every channel sum and every pixel sum, on the same axes.
    """
    digest = hashlib.sha256()
    for name in (schema.SUM_SPECTRUM, schema.MAX_SPECTRUM, schema.TOTAL_COUNTS, schema.Y, schema.X, schema.ENERGY):
        values = np.ascontiguousarray(ds[name].values)
        digest.update(f"{name}{values.shape}".encode())
        # As text where the stored dtype may vary with the library, as 64 bits where the value counts.
        digest.update(values.astype(np.uint64 if values.dtype.kind == "u" else np.float64).tobytes())
    calibration = {name: ds.attrs.get(name) for name in CALIBRATION_ATTRS}
    units = {axis: ds[axis].attrs.get("units") for axis in (schema.Y, schema.X, schema.ENERGY)}
    digest.update(json.dumps([calibration, units], sort_keys=True, default=list).encode())
    return digest.hexdigest()


def check_calibrated(attrs: Mapping[str, Any], store: str) -> None:
    """Raise StoreError if the axes of a map are those of a calibration that was broken off."""
    if schema.BEFORE_CALIBRATION in attrs:
        raise StoreError(
            f"map in {store}",
            found="a calibration that did not finish, with new values on some of its axes",
            expected="a map with its axes",
            fix=f"eds-chunked calibrate {store}, with the same values again",
        )


_CARRIED = (schema.FINGERPRINT, *CALIBRATION_ATTRS, schema.REBIN, schema.PHASE_NAMES)


def carried_attributes(ds: xr.Dataset) -> dict[str, Any]:
    """Attributes that results keep: what the map is, in which state, and what phases are called."""
    return {name: ds.attrs[name] for name in _CARRIED if name in ds.attrs}


def result_attributes(source: xr.Dataset, step: str, parameters: dict[str, Any], content: str = "") -> dict[str, Any]:
    """Attributes of the result that ``step`` made from ``source``, a map or another result.

    A result takes over the name of its parent's run. Its id is a digest of what made it, from the map on: by the id a
    saved child finds the address of its parent, and the same recipe gives the same result with the same attributes.
    ``content`` tells apart counts that come from one map.
    """
    attrs = carried_attributes(source) | {schema.STEP: step, schema.PARAMETERS: parameters}
    for own, of_source in ((schema.RUN, schema.RUN), (schema.PARENT_ID, schema.RESULT_ID)):
        if of_source in source.attrs:
            attrs[own] = source.attrs[of_source]
    digest = hashlib.sha256(json.dumps(attrs, sort_keys=True, default=np.ndarray.tolist).encode())
    digest.update(content.encode())
    for axis in (schema.Y, schema.X, schema.ENERGY, schema.COMPONENT, schema.PHASE):
        if axis in source.coords:
            digest.update(np.ascontiguousarray(source[axis].values).tobytes())
    return attrs | {schema.RESULT_ID: digest.hexdigest()[:32]}
