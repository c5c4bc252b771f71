"""The modal table: how much of the map every phase takes, with nothing left out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import stats

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.phases.densities import DENSITY_COLUMN, Densities, checked_densities
from eds_chunked.phases.naming import LEFT_OUT_ROW, MIXED_ROW, UNASSIGNED_ROW, phase_names
from eds_chunked.phases.percent import closed_percent

__all__ = ["LEFT_OUT_ROW", "MIXED_ROW", "UNASSIGNED_ROW", "label_rows", "modal_table"]

Array = np.ndarray[Any, Any]

LEFT_OUT_LABEL = schema.LEFT_OUT_LABEL

CONFIDENCE = 0.95
INTERVAL = "interval"
"""Attribute of the table: how its confidence intervals came about."""
_RESAMPLES = 2000
_FEWEST_BLOCKS = 4


def modal_table(
    phases: xr.Dataset, *, densities: Densities | None = None, blocks: int = 25, seed: int = 0
) -> pd.DataFrame:
    """Compute the area of every phase from the exclusive labels, with confidence intervals, and weights if wanted.

    Every pixel has one label and is counted once, as an integer. ``area_percent`` is 100 times that count over the
    number of pixels, to 1.4e-14, and adds up to exactly 100.0 in any order. Area percent is volume percent only for a
    section that is a fair sample of the rock.

    Pixels are no independent samples: neighbours are of one grain. So the interval comes from a bootstrap of square
    blocks of the map, drawn with replacement. It is right where a block is larger than the grains, and too narrow where
    grains, veins or layers are larger; it knows nothing of what the section does not show.

    Parameters
    ----------
    phases
        ``label`` (y, x) and ``mask`` (phase, y, x), as :func:`eds_chunked.segment_phases` returns them, or a selection
        of its rows and columns.
    densities
        Densities in g/cm3 by number or name of the phase, or the path of a CSV file with the columns ``phase`` and
        ``density_g_cm3``. Unassigned and mixed may have one too; without it they are not weighed.
    blocks
        About how many blocks the map is cut into for the bootstrap.
    seed
        What the blocks are drawn with.

    Returns
    -------
    pandas.DataFrame
        A row a phase, then ``unassigned``, then ``mixed``, always both, then ``left out`` if pixels without a phase
        were left out of the analysis. Columns: ``phase`` (text: a name, else the number), ``n_pixels``, ``area_um2``
        (``area_px`` on a map without pixel size), ``area_percent``, and ``mask_percent``: the share of the map under
        the phase's own mask, NaN in the last rows. Masks overlap, so that column may add up to any number. Then
        ``area_percent_low`` and ``area_percent_high``, the 95 % interval (NaN where the map has fewer than 4 blocks);
        the attribute ``interval`` says how it came about.

        With ``densities`` also ``density_g_cm3``, ``weight_percent`` and ``weight_reason``, which says why a weight is
        NaN. Weights are shares of what is weighed and add up to exactly 100. Where a phase with pixels has no density,
        no weight is known.

    Raises
    ------
    ChunkLayoutError
        ``phases`` lacks a variable or has other dimensions.
    ParameterError
        A label that is none of the phases, a selection without pixels, densities that are none or of no phase, or
        ``blocks`` or ``seed`` that is no whole number.

    Notes
    -----
    Memory: 9 bytes a pixel of a strip of rows while labels are counted, and those of the masks.

    References
    ----------
    Hall (1985), Resampling a coverage pattern, Stochastic Processes and their Applications 20, 231; Hesterberg (2015),
    What teachers should know about the bootstrap, The American Statistician 69, 371 (expanded percentile interval).
    """
    schema.require(phases, schema.LABEL, schema.MASK)
    if not isinstance(blocks, int | np.integer) or blocks < 1:
        raise ParameterError("blocks", found=repr(blocks), expected="a whole number from 1", fix="blocks=25")
    if not isinstance(seed, int | np.integer) or seed < 0:
        raise ParameterError("seed", found=repr(seed), expected="a whole number from 0", fix="seed=0")
    height, width, unit = schema.pixel_size(phases)
    _check_there_are_pixels(phases)
    # Integers: sums over blocks are those of the map.
    per_block = _counts_of_blocks(phases, blocks, height / width)
    counts = per_block.sum(axis=0)
    order, rows = label_rows(phases, left_out=bool(counts[LEFT_OUT_LABEL]))
    check_labels(counts, phases.sizes[schema.PHASE])
    per_block = per_block[:, order]
    n_pixels = counts[order]
    total = int(n_pixels.sum())
    low, high = _intervals(per_block, seed)
    mask_pixels = phases[schema.MASK].sum((schema.Y, schema.X)).values
    table = pd.DataFrame(
        {
            schema.PHASE: rows,
            schema.N_PIXELS: n_pixels,
            schema.measured(schema.AREA, unit): n_pixels * (height * width),
            "area_percent": closed_percent(n_pixels.tolist()),
            "mask_percent": [*(100 * mask_pixels / total), *[np.nan] * (len(rows) - len(mask_pixels))],
            "area_percent_low": low,
            "area_percent_high": high,
        }
    )
    if densities is not None:
        n_phases = len(mask_pixels)
        table = _weighed(table, checked_densities(densities, rows, n_phases=n_phases), n_phases)
    found = len(per_block)
    table.attrs[INTERVAL] = (
        f"95 %, bootstrap of {found} blocks, {_RESAMPLES} samples, seed {seed}"
        if found >= _FEWEST_BLOCKS
        else f"none: {found} blocks, {_FEWEST_BLOCKS} are needed"
    )
    return table


def label_rows(phases: xr.Dataset, *, left_out: bool) -> tuple[list[int], list[str]]:
    """Return the labels in the order in which tables list them, and their names: phases, then what is none."""
    names = phase_names(phases)
    order = [*range(1, len(names) + 1), schema.UNASSIGNED, schema.MIXED]
    rows = [*names, UNASSIGNED_ROW, MIXED_ROW]
    return ([*order, LEFT_OUT_LABEL], [*rows, LEFT_OUT_ROW]) if left_out else (order, rows)


def labels_of_rows(phases: xr.Dataset, top: int, bottom: int) -> Array:
    """Return labels (rows, x) int16 from row ``top`` to before ``bottom``; a pixel left out that has no phase is 256.

    A pixel that was left out of the fit but was given loadings, and so a phase, on request, keeps it.
    """
    part = phases.isel({schema.Y: slice(top, bottom)})
    labels: Array = part[schema.LABEL].values.astype(np.int16)
    if schema.ANALYSED_PIXEL in phases.coords:
        labels[(labels == schema.UNASSIGNED) & ~part[schema.ANALYSED_PIXEL].values.astype(bool)] = LEFT_OUT_LABEL
    return labels


def check_labels(counts: Array, n_phases: int) -> None:
    """Raise ParameterError if pixels were counted, by label, of one that is no phase."""
    unknown = np.flatnonzero(counts[n_phases + 1 : schema.MIXED]) + n_phases + 1
    if len(unknown):
        raise ParameterError(
            f"values of {schema.LABEL!r}",
            found=unknown.tolist(),
            expected=f"{schema.UNASSIGNED}, 1 to {n_phases}, or {schema.MIXED}",
            fix="make label and mask in one call of eds_chunked.segment_phases, and keep every phase when you select",
        )


def _check_there_are_pixels(phases: xr.Dataset) -> None:
    if phases[schema.LABEL].size == 0:
        raise ParameterError(
            f"selection of {schema.LABEL!r}",
            found="no pixels",
            expected="at least one",
            fix="check the ranges of ds.sel(y=..., x=...)",
        )


def _counts_of_blocks(phases: xr.Dataset, blocks: int, aspect: float) -> Array:
    """Return pixels (block, label) int64 of blocks about as high as wide (not in pixels, in length)."""
    n_rows, n_columns = phases[schema.LABEL].shape
    side = np.sqrt(n_rows * n_columns * aspect / blocks)  # in pixel widths
    cuts = []
    for n, length in ((n_rows, n_rows * aspect), (n_columns, n_columns)):
        cuts.append(np.linspace(0, n, min(n, max(1, round(length / side))) + 1).round().astype(int))
    counts = []
    for top, bottom in zip(cuts[0][:-1], cuts[0][1:], strict=True):
        strip = labels_of_rows(phases, int(top), int(bottom))
        for left, right in zip(cuts[1][:-1], cuts[1][1:], strict=True):
            counts.append(np.bincount(strip[:, left:right].ravel(), minlength=LEFT_OUT_LABEL + 1))
    return np.array(counts)


def _intervals(per_block: Array, seed: int) -> tuple[Array, Array]:
    n_blocks, n_rows = per_block.shape
    if n_blocks < _FEWEST_BLOCKS:
        return np.full(n_rows, np.nan), np.full(n_rows, np.nan)
    drawn = np.random.default_rng(seed).multinomial(n_blocks, np.full(n_blocks, 1 / n_blocks), size=_RESAMPLES)
    pixels = drawn @ per_block
    shares = 100 * pixels / pixels.sum(axis=1, keepdims=True)
    # Of few blocks the plain percentile interval is too narrow, as a normal one with the standard deviation over n is.
    student = stats.t.ppf((1 - CONFIDENCE) / 2, n_blocks - 1) * np.sqrt(n_blocks / (n_blocks - 1))
    tail = 100 * stats.norm.cdf(student)
    low, high = np.percentile(shares, [tail, 100 - tail], axis=0)
    return low, high


def _weighed(table: pd.DataFrame, densities: dict[str, float], n_phases: int) -> pd.DataFrame:
    rows, n_pixels = table[schema.PHASE].tolist(), table[schema.N_PIXELS].to_numpy()
    density = np.array([densities.get(name, np.nan) for name in rows])
    unknown = [name for name, n in zip(rows[:n_phases], n_pixels, strict=False) if n and name not in densities]
    weight = n_pixels * density
    total = np.nansum(weight)
    reasons = []
    for place, name in enumerate(rows):
        if name not in densities:
            reasons.append("no density" if place < n_phases else "no phase, not weighed")
        elif unknown:
            reasons.append(f"no density of phase {', '.join(unknown)}: total not known")
        else:
            reasons.append("" if total else "nothing to weigh")
    known = np.array([reason == "" for reason in reasons])
    table[DENSITY_COLUMN] = density
    percent = np.full(len(rows), np.nan)
    if known.any():
        percent[known] = closed_percent(weight[known].tolist())
    table["weight_percent"] = percent
    table["weight_reason"] = reasons
    return table
