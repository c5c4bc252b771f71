"""What a store says about its map and images beside the pixels: coordinates, survey and metadata."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.readers.base import ElectronImage, MapHeader
from eds_chunked.store.provenance import event, fingerprint
from eds_chunked.store.survey import Survey, narrowest


def grid_coords(
    shape: tuple[int, int],
    pixel_size: tuple[float, float] | None,
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    binned: tuple[int, int] = (1, 1),
) -> dict[str, Any]:
    """Return coordinates y and x in um, or in pixels of the file where the pixel size is not known."""
    unit = {"units": schema.MICROMETRE if pixel_size else schema.UNCALIBRATED}
    dy, dx = pixel_size or binned
    return {
        schema.Y: (schema.Y, origin[0] + np.arange(shape[0]) * float(dy), unit),
        schema.X: (schema.X, origin[1] + np.arange(shape[1]) * float(dx), unit),
    }


def _variable(name: str, values: np.ndarray[Any, Any]) -> tuple[tuple[str, ...], np.ndarray[Any, Any], dict[str, str]]:
    return schema.VARIABLES[name].dims, values, schema.attributes(name)


def describe_image(image: ElectronImage) -> xr.Dataset:
    """Return an electron image on its own grid."""
    return xr.Dataset(
        {schema.IMAGE: _variable(schema.IMAGE, image.pixels)},
        coords=grid_coords(image.pixels.shape, image.pixel_size),
        attrs={schema.TITLE: image.name},
    )


def describe_header(header: MapHeader, *, what: str) -> xr.Dataset:
    """Return the coordinates and the metadata of a map; its history begins with ``what`` was done to have it."""
    height, width, n_channels = header.shape
    energy = header.energy_offset + header.energy_scale * np.arange(n_channels)
    energy_unit = {"units": schema.KEV if header.energy_calibrated else schema.CHANNEL}
    parameters = dict(header.parameters)
    if header.left_out:
        parameters[schema.LEFT_OUT] = dict(header.left_out)
    attrs = {
        schema.TITLE: header.title,
        schema.SIGNAL_TYPE: header.signal_type,
        schema.BEAM_ENERGY: header.beam_energy,
        schema.ELEMENTS: list(header.elements),
        schema.PIXEL_SIZE: [float(size) for size in header.pixel_size or header.binned],
        schema.LIVE_TIME: header.live_time,
        schema.REAL_TIME: header.real_time,
        schema.CHANNEL_ORIGIN: header.channel_origin,
        schema.CHANNELS_BINNED: header.channels_binned,
        schema.SOURCE_METADATA: dict(header.metadata),
        schema.HISTORY: [event(what, source=header.source, **parameters)],
    }
    return xr.Dataset(
        coords={
            **grid_coords((height, width), header.pixel_size, origin=header.origin, binned=header.binned),
            schema.ENERGY: (schema.ENERGY, energy, energy_unit),
        },
        attrs={name: value for name, value in attrs.items() if value is not None},
    )


def describe_map(header: MapHeader, survey: Survey) -> xr.Dataset:
    """Return the coordinates, the survey and the metadata of a map, without its counts."""
    ds = describe_header(header, what="convert").assign(
        {
            schema.SUM_SPECTRUM: _variable(schema.SUM_SPECTRUM, survey.sum_spectrum),
            schema.MAX_SPECTRUM: _variable(schema.MAX_SPECTRUM, narrowest(survey.max_spectrum)),
            schema.MAX_SPECTRUM_PIXEL: _variable(schema.MAX_SPECTRUM_PIXEL, survey.max_spectrum_pixel),
            schema.TOTAL_COUNTS: _variable(schema.TOTAL_COUNTS, narrowest(survey.total_counts)),
        }
    )
    ds.attrs[schema.FINGERPRINT] = fingerprint(ds)
    return ds
