"""Measure grains: one row of the grain table per grain, by counting over the label map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import MissingResultError

Array = np.ndarray[Any, Any]


def grain_columns(
    grain_label: Array, phase: Array, *, y: Array, x: Array, size: tuple[float, float], unit: str
) -> xr.Dataset:
    """Measure every grain of a map.

    The axes are those of the ellipse with the second central moments of the pixel centres, as in
    ``skimage.measure.regionprops``: a line one pixel wide has a minor axis of 0. All sums are over whole pixels, so
    they are exact up to the moments, which are taken about each grain's own centroid.

    Parameters
    ----------
    grain_label
        (y, x) grain numbers 1..n, 0 where there is no grain.
    phase
        (n,) phase of each grain.
    y, x
        Coordinates of the rows and columns, in ``unit``.
    size
        Height and width of a pixel, in ``unit``.
    unit
        ``um``, or ``pixel`` for a map without calibration.

    Returns
    -------
    Dataset
        The columns of :data:`eds_chunked.schema.GRAIN_COLUMNS` for ``unit``, over ``grain``.
    """
    n = len(phase)
    row, column = np.nonzero(grain_label)
    grain = grain_label[row, column] - 1
    n_pixels = np.bincount(grain, minlength=n)
    mean_row = np.bincount(grain, weights=row, minlength=n) / n_pixels
    mean_column = np.bincount(grain, weights=column, minlength=n) / n_pixels

    off_y = (row - mean_row[grain]) * size[0]
    off_x = (column - mean_column[grain]) * size[1]
    var_y = np.bincount(grain, weights=off_y * off_y, minlength=n) / n_pixels
    var_x = np.bincount(grain, weights=off_x * off_x, minlength=n) / n_pixels
    cov = np.bincount(grain, weights=off_y * off_x, minlength=n) / n_pixels
    middle = (var_y + var_x) / 2
    spread = np.hypot((var_y - var_x) / 2, cov)

    at_edge = np.zeros(n + 1, dtype=bool)
    for border in (grain_label[0], grain_label[-1], grain_label[:, 0], grain_label[:, -1]):
        at_edge[border] = True

    area = n_pixels * (size[0] * size[1])
    columns: dict[str, Array] = {
        schema.GRAIN_ID: np.arange(1, n + 1, dtype=np.int32),
        schema.PHASE: np.asarray(phase, dtype=np.int16),
        schema.N_PIXELS: n_pixels.astype(np.int64),
        schema.measured(schema.AREA, unit): area,
        schema.measured(schema.ECD, unit): 2 * np.sqrt(area / np.pi),
        schema.measured(schema.MAJOR, unit): 4 * np.sqrt(middle + spread),
        # Rounding can push the smaller moment of a line below zero.
        schema.measured(schema.MINOR, unit): 4 * np.sqrt(np.maximum(middle - spread, 0)),
        schema.measured(schema.CENTROID_X, unit): np.interp(mean_column, np.arange(len(x)), x),
        schema.measured(schema.CENTROID_Y, unit): np.interp(mean_row, np.arange(len(y)), y),
        schema.TOUCHES_EDGE: at_edge[1:],
    }
    return xr.Dataset(
        {name: ((schema.GRAIN,), values, schema.column_attributes(name)) for name, values in columns.items()}
    )


def grain_unit(grains: xr.Dataset) -> str:
    """Return the unit of the grain table's lengths, ``um`` or ``pixel``; MissingResultError if there is no table."""
    for unit in (schema.MICROMETRE, schema.UNCALIBRATED):
        if schema.measured(schema.ECD, unit) in grains:
            return unit
    raise MissingResultError(
        "grain table",
        found=f"a Dataset with {sorted(map(str, grains.variables))}",
        expected=f"a column {schema.measured(schema.ECD, schema.MICROMETRE)!r} over {schema.GRAIN!r}",
        fix="pass what separate_grains(phases) returned",
    )


def grain_table(grains: xr.Dataset, *, phase: int | None = None) -> pd.DataFrame:
    """Return the grain table as a DataFrame, one row a grain.

    Lengths and areas carry their unit in the column's name: ``ecd_um``, ``area_um2``, or ``ecd_px``, ``area_px`` for a
    map without calibration.

    Parameters
    ----------
    grains
        What :func:`eds_chunked.separate_grains` returned.
    phase
        Only the grains of this phase, 1..n; by default all grains.

    Returns
    -------
    DataFrame
        Rows in the order of ``grain_id``; empty where the phase has no grain.

    Raises
    ------
    MissingResultError
        ``grains`` has no grain table.
    """
    grain_unit(grains)
    # Columns in the registry's order, since a reloaded store may list them in another.
    names = [name for name in schema.GRAIN_COLUMNS if name in grains.variables]
    table = pd.DataFrame({name: np.asarray(grains[name].values) for name in names})
    if phase is not None:
        table = table[table[schema.PHASE] == phase].reset_index(drop=True)
    return table
