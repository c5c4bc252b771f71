"""Measure grains: what is summed over each window, and the columns of the grain table that follow from it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import MissingResultError
from eds_chunked.kernels.outline import HULL, OUTLINE, SUMS, grain_hulls, grain_outlines, grain_sums

__all__ = ["GrainShapes", "Grid", "grain_columns", "grain_table", "grain_unit", "measure_window"]

Array = np.ndarray[Any, Any]

REASONS = ("", "not in one piece", "not finite")
"""Why a grain has no measures, by the number in the column ``reason``."""

_PIXEL_MOMENT = 1 / 12
"""Second moment of a square of side 1 about its centre."""


@dataclass(frozen=True)
class Grid:
    """Where the pixels are: number, size and unit, and the coordinates of the centre of the first one."""

    shape: tuple[int, int]
    size: tuple[float, float]
    unit: str
    origin: tuple[float, float]
    step: tuple[float, float]

    @classmethod
    def of(cls, ds: xr.Dataset) -> Grid:
        """Read it from the coordinates of a Dataset."""
        height, width, unit = schema.pixel_size(ds)
        origin, step = [], []
        for axis, size in ((schema.Y, height), (schema.X, width)):
            at = np.asarray(ds[axis].values, np.float64) if axis in ds.coords else np.zeros(1)
            origin.append(float(at[0]))
            step.append(float(at[-1] - at[0]) / (len(at) - 1) if len(at) > 1 else size)
        shape = ds.sizes[schema.Y], ds.sizes[schema.X]
        return cls(shape, (height, width), unit, (origin[0], origin[1]), (step[0], step[1]))

    @property
    def aspect(self) -> float:
        """Height of a pixel in pixel widths; 1 for pixels that are square but for rounding."""
        height, width = self.size
        return 1.0 if math.isclose(height, width, rel_tol=1e-6) else height / width


@dataclass(frozen=True)
class GrainShapes:
    """What is known of grains: their phase, and the rows of the three tables of :mod:`eds_chunked.kernels.outline`."""

    phase: Array
    sums: Array
    outline: Array
    hull: Array

    def __len__(self) -> int:
        return len(self.phase)

    @property
    def first(self) -> tuple[Array, Array]:
        """Row and column of the first pixel of each grain."""
        return self.sums[:, SUMS.index("top")], self.sums[:, SUMS.index("first")]

    def taken(self, order: Array) -> GrainShapes:
        """Return the grains in another order."""
        return GrainShapes(self.phase[order], self.sums[order], self.outline[order], self.hull[order])

    @staticmethod
    def joined(parts: Sequence[GrainShapes]) -> GrainShapes:
        """Return the grains of several windows together."""
        none = measure_window(np.zeros((1, 1), np.int32), 0, np.zeros((1, 1), np.uint8), size=(1.0, 1.0), corner=(0, 0))
        columns = zip(*((one.phase, one.sums, one.outline, one.hull) for one in (none, *parts)), strict=True)
        return GrainShapes(*(np.concatenate(column) for column in columns))


def measure_window(
    grain: Array, n: int, label: Array, *, size: tuple[float, float], corner: tuple[int, int]
) -> GrainShapes:
    """Measure the grains of a window.

    Parameters
    ----------
    grain
        (y, x) int32, numbers 1..n; each grain is whole.
    n
        Number of grains.
    label
        (y, x) phases.
    size
        Height and width of a pixel.
    corner
        Row and column of the map where the window begins.
    """
    sums = grain_sums(grain, n)
    outline, hull = grain_outlines(grain, sums), grain_hulls(grain, sums, *size)
    rows, columns = (
        (SUMS.index(name) for name in ("top", "bottom")),
        (SUMS.index(name) for name in ("first", "left", "right")),
    )
    phase = label[sums[:, SUMS.index("top")], sums[:, SUMS.index("first")]].astype(np.int16)
    sums[:, list(rows)] += corner[0]
    sums[:, list(columns)] += corner[1]
    return GrainShapes(phase, sums, outline, hull)


def grain_columns(shapes: GrainShapes, *, grid: Grid, n_neighbours: Array, total_counts: Array | None) -> xr.Dataset:
    """Compute the columns of the grain table.

    The first ten are named and defined as in ImageJ: lengths of the hull are between corners of pixels, the perimeter
    of the circularity is that of the outer outline with its corners cut, and the ellipse has the second moments of the
    pixels' areas, so that a grain of one pixel is as long as wide. The others are defined as in
    ``skimage.measure.regionprops``: the ellipse is that of the pixel centres (a line one pixel wide has a minor axis of
    0), and the perimeter is ``perimeter_crofton``, here also for pixels that are not square. A mean over boundaries of
    all directions has no bias with it, where ImageJ's is 5 % too long. A side at the map's edge is boundary too.

    Parameters
    ----------
    shapes
        The grains, in the order of their numbers.
    grid
        The map's pixels.
    n_neighbours
        (n,).
    total_counts
        (n,) or None where they are not known.

    Returns
    -------
    Dataset
        The columns of :data:`eds_chunked.schema.GRAIN_COLUMNS` for the unit, over ``grain``.
    """
    height, width = grid.size
    unit = grid.unit
    of = dict(zip(SUMS, shapes.sums.T, strict=True))
    outline = dict(zip(OUTLINE, shapes.outline.T, strict=True))
    hull = dict(zip(HULL, shapes.hull.T, strict=True))
    n_pixels = of["n"]
    area = n_pixels * (height * width)
    mean_y, mean_x = of["y"] / n_pixels, of["x"] / n_pixels
    var_y = (of["yy"] - of["y"] * mean_y) / n_pixels * height**2
    var_x = (of["xx"] - of["x"] * mean_x) / n_pixels * width**2
    cov = (of["yx"] - of["y"] * mean_x) / n_pixels * (height * width)
    major, minor = _axes(var_y, var_x, cov)
    full_major, full_minor = _axes(var_y + _PIXEL_MOMENT * height**2, var_x + _PIXEL_MOMENT * width**2, cov)
    ratio = full_major / full_minor
    cut = outline["corners"] * (width + height - math.hypot(width, height))
    outer = outline["along_x"] * width + outline["along_y"] * height - cut
    angle = np.degrees(np.arctan2(hull["rise"] * height, hull["run"] * width))
    (y0, x0), (dy, dx) = grid.origin, grid.step

    measures: dict[str, Array] = {
        schema.GRAIN_AREA: area,
        schema.CIRC: np.minimum(4 * np.pi * area / outer**2, 1),
        schema.FERET: hull["feret"],
        # Corner i lies half a pixel before the centre of pixel i.
        schema.FERET_X: x0 + dx * (hull["x"] + of["left"] - 0.5),
        schema.FERET_Y: y0 + dy * (hull["y"] + of["top"] - 0.5),
        schema.FERET_ANGLE: np.where(angle < 0, angle + 180, angle),
        schema.MIN_FERET: hull["min_feret"],
        schema.AR: ratio,
        schema.ROUND: 1 / ratio,
        schema.SOLIDITY: n_pixels / hull["area"],
        schema.measured(schema.ECD, unit): 2 * np.sqrt(area / np.pi),
        schema.measured(schema.PERIMETER, unit): _crofton(of, height, width),
        schema.measured(schema.MAJOR, unit): major,
        schema.measured(schema.MINOR, unit): minor,
        schema.measured(schema.CENTROID_X, unit): x0 + dx * (of["first"] + mean_x),
        schema.measured(schema.CENTROID_Y, unit): y0 + dy * (of["top"] + mean_y),
    }
    reason = np.zeros(len(shapes), np.uint8)
    reason[~np.isfinite(np.array(list(measures.values()))).all(axis=0)] = REASONS.index("not finite")
    reason[outline["enclosed"] < n_pixels] = REASONS.index("not in one piece")
    for values in measures.values():
        values[reason > 0] = np.nan

    at_edge = (of["top"] == 0) | (of["left"] == 0)
    at_edge |= (of["bottom"] == grid.shape[0] - 1) | (of["right"] == grid.shape[1] - 1)
    columns = measures | {
        schema.GRAIN_ID: np.arange(1, len(shapes) + 1, dtype=np.int32),
        schema.PHASE: shapes.phase,
        schema.N_PIXELS: n_pixels,
        schema.TOUCHES_EDGE: at_edge,
        schema.N_NEIGHBOURS: n_neighbours.astype(np.int32),
        schema.TOTAL_COUNTS: np.full(len(shapes), np.nan) if total_counts is None else total_counts,
        schema.REASON: reason,
    }
    return xr.Dataset(
        {
            name: ((schema.GRAIN,), columns[name], _attributes(name, unit))
            for name in schema.GRAIN_COLUMNS
            if name in columns
        }
    )


def _axes(var_y: Array, var_x: Array, cov: Array) -> tuple[Array, Array]:
    """Return the axes of the ellipses with these second moments."""
    middle = (var_y + var_x) / 2
    spread = np.hypot((var_y - var_x) / 2, cov)
    # Rounding can push the smaller moment of a line below zero.
    return 4 * np.sqrt(middle + spread), 4 * np.sqrt(np.maximum(middle - spread, 0))


def _crofton(of: dict[str, Array], height: float, width: float) -> Array:
    """Return lengths of boundaries from how often lines in four directions cross them.

    A line counts with its distance to the next one and with the part of the half circle that its direction stands for.
    """
    diagonal = math.atan2(height, width)
    apart = height * width / math.hypot(height, width)
    across = of["rows"] * (diagonal * height) + of["columns"] * ((np.pi / 2 - diagonal) * width)
    return np.asarray(0.5 * (across + (of["down"] + of["up"]) * (np.pi / 4 * apart)))


def _attributes(name: str, unit: str) -> dict[str, Any]:
    attrs: dict[str, Any] = dict(schema.column_attributes(name))
    if name in schema.IMAGEJ_COLUMNS and unit == schema.UNCALIBRATED:
        attrs["units"] = attrs["units"].replace("um2", unit).replace(schema.MICROMETRE, unit)
    if name == schema.REASON:
        attrs["flag_values"] = list(range(len(REASONS)))
        attrs["flag_meanings"] = " ".join(reason.replace(" ", "_") or "measured" for reason in REASONS)
    return attrs


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

    First the columns that ImageJ has and GrainSizeTools reads, ``Area Circ Feret FeretX FeretY FeretAngle MinFeret AR
    Round Solidity``, then ``grain_id``, ``phase`` (its number), and measures with their unit in the name: ``ecd_um``,
    or ``ecd_px`` for a map without calibration. Lengths and areas of the first ten are in the same unit; ``FeretX`` and
    ``FeretY`` are coordinates of the map. What each column is stands in its attributes: ``grains["Circ"].attrs``.

    Parameters
    ----------
    grains
        What :func:`eds_chunked.separate_grains` returned.
    phase
        Only the grains of this phase, 1..n; by default all grains.

    Returns
    -------
    DataFrame
        Rows in the order of ``grain_id``; empty where the phase has no grain. A grain that could not be measured has
        NaN, and its ``reason`` says why; it is empty for the others.

    Raises
    ------
    MissingResultError
        ``grains`` has no grain table.
    """
    grain_unit(grains)
    # Columns in the registry's order, since a reloaded store may list them in another.
    names = [name for name in schema.GRAIN_COLUMNS if name in grains.variables]
    table = pd.DataFrame({name: np.asarray(grains[name].values) for name in names})
    if schema.REASON in table:
        table[schema.REASON] = pd.Series([REASONS[i] for i in table[schema.REASON]], dtype=object).astype(str)
    if phase is not None:
        table = table[table[schema.PHASE] == phase].reset_index(drop=True)
    return table
