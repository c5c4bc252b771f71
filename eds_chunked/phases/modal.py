"""The modal table: how much of the map every phase takes, with nothing left out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError

__all__ = ["MIXED_ROW", "UNASSIGNED_ROW", "modal_table"]

UNASSIGNED_ROW = "unassigned"
MIXED_ROW = "mixed"


def modal_table(phases: xr.Dataset) -> pd.DataFrame:
    """Compute the area of every phase from the exclusive labels.

    Every pixel has one label and is counted once, as an integer; ``area_percent`` is 100 times that count over the
    number of pixels and is not rounded, so the column adds up to 100 but for the last bit of a float64. Area percent
    is volume percent only for a section that is a fair sample of the rock.

    Parameters
    ----------
    phases
        ``label`` (y, x) and ``mask`` (phase, y, x), as :func:`eds_chunked.segment_phases` returns them, or a selection
        of its rows and columns.

    Returns
    -------
    pandas.DataFrame
        A row a phase, then ``unassigned``, then ``mixed``, always both. Columns: ``phase`` (text: "1".."n" or one of
        the two names), ``n_pixels``, ``area_um2`` (``area_px`` on a map without pixel size), ``area_percent``, and
        ``mask_percent``: the share of the map under the phase's own mask, NaN in the last two rows. Masks overlap, so
        that column may add up to any number.

    Raises
    ------
    ChunkLayoutError
        ``phases`` lacks a variable or has other dimensions.
    ParameterError
        A label that is none of the phases, or a selection without pixels.

    Notes
    -----
    Memory: 9 bytes a pixel while labels are counted.
    """
    schema.require(phases, schema.LABEL, schema.MASK)
    n_phases = phases.sizes[schema.PHASE]
    counts = np.bincount(phases[schema.LABEL].values.ravel(), minlength=schema.MIXED + 1)
    total = int(counts.sum())
    order = [*range(1, n_phases + 1), schema.UNASSIGNED, schema.MIXED]
    n_pixels = counts[order]
    if total == 0:
        raise ParameterError(
            f"selection of {schema.LABEL!r}",
            found="no pixels",
            expected="at least one",
            fix="check the ranges of ds.sel(y=..., x=...)",
        )
    if n_pixels.sum() != total:
        known = np.isin(np.arange(len(counts)), order)
        raise ParameterError(
            f"values of {schema.LABEL!r}",
            found=np.flatnonzero((counts > 0) & ~known).tolist(),
            expected=f"{schema.UNASSIGNED}, 1 to {n_phases}, or {schema.MIXED}",
            fix="make label and mask in one call of eds_chunked.segment_phases, and keep every phase when you select",
        )
    height, width, unit = schema.pixel_size(phases)
    area_column = "area_px" if unit == schema.UNCALIBRATED else f"area_{unit}2"
    mask_pixels = phases[schema.MASK].sum((schema.Y, schema.X)).values
    return pd.DataFrame(
        {
            "phase": [*map(str, range(1, n_phases + 1)), UNASSIGNED_ROW, MIXED_ROW],
            "n_pixels": n_pixels,
            area_column: n_pixels * (height * width),
            "area_percent": 100 * n_pixels / total,
            "mask_percent": [*(100 * mask_pixels / total), np.nan, np.nan],
        }
    )
