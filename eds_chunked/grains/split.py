"""Separate the grains of a phase map: distance transform, seeds, watershed, in windows of many whole pieces."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import progress, schema
from eds_chunked.dask_cluster import on_one_worker
from eds_chunked.engine.planning import budget
from eds_chunked.engine.scratch import lazy_on, scratch_map
from eds_chunked.errors import MemoryBudgetError, ParameterError
from eds_chunked.grains.measure import GrainShapes, Grid, grain_columns, measure_window
from eds_chunked.grains.numbering import BLOCK_BYTES, Numbered, number_grains, put_window
from eds_chunked.grains.separation import PIXEL_BYTES, separate_window
from eds_chunked.grains.windows import Layer, Window, windows_of
from eds_chunked.memory import MB, Need, Plan, format_size
from eds_chunked.phases.cleaning import min_size_in_pixels
from eds_chunked.phases.sums import check_same_map
from eds_chunked.store.provenance import result_attributes
from eds_chunked.store.results import reads_of

Array = np.ndarray[Any, Any]

H_MAXIMA = "h-maxima"
PRACTICAL = "practical"

WINDOW_PIXELS = 2**22
"""Largest window, in which the full-size map (1295 x 1820) lies whole."""
SMALLEST_WINDOW = 2**18
"""Pixels of a window below which a budget is refused."""
_BYTES_OF_A_GRAIN = 8 * len(schema.GRAIN_COLUMNS)


class UnsplitPhaseWarning(UserWarning):
    """One phase fills the whole map, so there is no boundary to measure distances from."""


class GiantPieceWarning(UserWarning):
    """A connected piece of a phase is larger than a window, so that memory grows with it."""


def separate_grains(
    phases: xr.Dataset,
    *,
    ds: xr.Dataset | None = None,
    source: Literal["label", "mask"] = "label",
    method: str = H_MAXIMA,
    h: float = 1.0,
    min_size: int | str | None = None,
    memory: str | int | None = None,
) -> xr.Dataset:
    """Separate the grains of every phase and measure them (computes at once; two-dimensional).

    Each phase's pixels are split by a watershed of their distance to other pixels, flooded from one seed a grain, with
    neighbours across pixel sides only (connectivity 1). Distances are in pixels; where pixels are not square they are
    in pixel widths. Every pixel of a phase belongs to exactly one grain, so grain areas add up to phase areas. Touching
    grains whose outline has no neck cannot be told apart by their shape.

    Parameters
    ----------
    phases
        ``label (y, x)``: 0 unassigned, 1..n phase, 255 mixed; or ``mask (phase, y, x)``; with coordinates where the map
        is calibrated.
    ds
        The map of the phases. With it the table has the ``total_counts`` of each grain, over all channels of the
        stored map.
    source
        ``"label"``: grains of the exclusive phases, whose areas add up to those of the modal table. ``"mask"``: grains
        of each mask by threshold, as in the practical. Masks may overlap, so each phase has a map of its own.
    method
        How seeds are found. ``"h-maxima"``: summits of the distance map that rise more than ``h`` above the pass to a
        higher summit; a wavy outline does not split a grain. ``"practical"``: all peaks in a 3 x 3 neighbourhood, which
        splits grains more often. In the latter, pieces without a peak of their own (a corner of theirs touches a larger
        one) become grains too.
    h
        Height of a summit in pixels, for ``"h-maxima"``.
    min_size
        Grains of fewer pixels, or of a smaller area such as ``"50um2"``, are left out of size statistics and diameter
        files. The map and the table keep all. Default: as the phases were made with.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset
        ``grain_label (y, x)`` int32, numbered from 1 by phase, then in raster order of a grain's first pixel, and with
        ``source="mask"`` ``(phase, y, x)``; in memory up to 4 million pixels, else lazy on a scratch store that lives
        as long as the process. And the grain table as columns over ``grain`` (see :func:`eds_chunked.grain_table`),
        lengths in um, or in pixels when the map is uncalibrated. A grain that could not be measured has NaN and a
        ``reason``. ``n_neighbours`` counts grains of any phase, of masks those of the same phase.

    Raises
    ------
    ParameterError
        Unknown method or source, negative ``h`` or ``min_size``, or labels that are not whole numbers.
    ChunkLayoutError
        ``phases`` has no ``label`` over (y, x), or no ``mask`` over (phase, y, x); ``ds`` is on another grid.
    StaleResultError
        ``phases`` was made from another map than ``ds``.
    MemoryBudgetError
        The budget is too small, or a connected piece of a phase is too large for it; what it takes is named.

    Warns
    -----
    UnsplitPhaseWarning
        A phase fills the whole map: it stays one grain.
    GiantPieceWarning
        A connected piece does not fit into a window of 4 million pixels, or the smaller one that the budget allows.

    Notes
    -----
    Memory: windows of at most 4 million pixels, each with many whole connected pieces, at 24 bytes a pixel, 70 MB, and
    about 600 bytes a grain. A piece whose own box is larger takes a window of
    its size: where a phase is connected from edge to edge, the whole map.

    The result does not depend on windows, chunks or memory: distances and peaks of a connected piece are the same on
    the whole map and in the piece's own box, and seeds of equal height are flooded in raster order (a plain watershed
    takes them in its heap's order, which a distant grain can change). Pixels are those of scikit-image's ``watershed``
    of the whole map, seeds made different by their raster order.

    References
    ----------
    L. Vincent and P. Soille, Watersheds in digital spaces, IEEE PAMI 13 (1991) 583; P. Soille, Morphological Image
    Analysis, 2nd ed. (2004), section 6.3 (h-maxima).

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> y, x = np.mgrid[:21, :37]
    >>> discs = ((y - 10) ** 2 + (x - 10) ** 2 <= 64) | ((y - 10) ** 2 + (x - 24) ** 2 <= 64)
    >>> grains = separate_grains(xr.Dataset({"label": (("y", "x"), discs.astype("uint8"))}))
    >>> grains.sizes["grain"], bool(grains["n_pixels"].sum() == discs.sum())
    (2, True)
    """
    _check_parameters(source, method, h)
    schema.require(phases, source)
    layers = _layers(phases, source)
    if min_size is None:
        min_size = phases.attrs.get(schema.PARAMETERS, {}).get("min_size", 0)
    min_size = min_size_in_pixels(min_size, pixel_size=schema.pixel_size(phases))
    counts = None
    if ds is not None:
        schema.require(ds, schema.TOTAL_COUNTS)
        check_same_map(ds, phases, what="phases", fix="run nmf and segment_phases again")
        counts = ds[schema.TOTAL_COUNTS].variable
    grid = Grid.of(phases)
    n_pixels = len(layers) * grid.shape[0] * grid.shape[1]
    how, most = _planned(
        grid,
        n_layers=len(layers),
        memory=memory,
        reads=[reads_of(phases, source, 2), *([] if ds is None else [reads_of(ds, schema.TOTAL_COUNTS)])],
        writes=4 * n_pixels + _BYTES_OF_A_GRAIN * (n_pixels // max(1, min_size)) + 8 * sum(grid.shape),
    )

    in_memory = len(layers) * grid.shape[0] * grid.shape[1] <= WINDOW_PIXELS
    places = [None if in_memory else scratch_map(schema.GRAIN_LABEL, grid.shape, np.dtype(np.int32)) for _ in layers]
    work = _Separation(grid, h if method == H_MAXIMA else None, how, most)
    targets, parts, numbers = on_one_worker(work, layers, places, counts)
    shapes = GrainShapes.joined(parts)
    grains = grain_columns(
        shapes,
        grid=grid,
        n_neighbours=_of_all(numbers, "n_neighbours"),
        total_counts=None if counts is None else _of_all(numbers, "total_counts"),
    )
    if source == schema.MASK:
        # A dimension of that name beside a column of that name: xarray wants the column to be a coordinate.
        grains = grains.set_coords(schema.PHASE)
    grains[schema.GRAIN_LABEL] = _label_variable(targets, source)
    coords = {axis: phases.coords[axis] for axis in (schema.Y, schema.X) if axis in phases.coords}
    grains = grains.assign_coords(coords)
    parameters: dict[str, object] = {"source": source, "method": method, "min_size": min_size}
    if method == H_MAXIMA:
        parameters["h"] = float(h)
    n_phases = max(int(phases.sizes.get(schema.PHASE, 0)), int(shapes.phase.max(initial=0)))
    grains.attrs = result_attributes(phases, schema.GRAINS, parameters) | {schema.N_PHASES: n_phases}
    return grains


@dataclass(frozen=True)
class _Separation:
    """Separates, measures and numbers the grains of all layers; on a cluster one worker does: it is two-dimensional."""

    grid: Grid
    h: float | None
    how: Plan
    most: int

    def __call__(
        self, layers: list[Layer], places: list[Any], counts: xr.Variable | None
    ) -> tuple[list[Any], list[GrainShapes], list[Numbered]]:
        shape = self.grid.shape
        targets, parts, numbers = [], [], []
        above = 0
        with progress.step(schema.GRAINS, len(layers) * shape[0] * shape[1]) as done:
            for layer, place in zip(layers, places, strict=True):
                target = np.zeros(shape, np.int32) if place is None else place
                shapes = _shapes_of(layer, target, above, self.grid, h=self.h, how=self.how, most=self.most)
                numbered = number_grains(target, shapes, above=above, counts=counts)
                parts.append(shapes.taken(numbered.order))
                numbers.append(numbered)
                targets.append(target)
                above += len(shapes)
                done(shape[0] * shape[1])
        return targets, parts, numbers


def _check_parameters(source: str, method: str, h: float) -> None:
    if source not in (schema.LABEL, schema.MASK):
        raise ParameterError("source", found=repr(source), expected="'label' or 'mask'", fix="source='label'")
    if method not in (H_MAXIMA, PRACTICAL):
        raise ParameterError(
            "method", found=repr(method), expected=f"{H_MAXIMA!r} or {PRACTICAL!r}", fix=f"method={H_MAXIMA!r}"
        )
    if not (np.isfinite(h) and h >= 0):
        raise ParameterError("h", found=h, expected="a height in pixels, 0 or more", fix="h=1.0")


def _layers(phases: xr.Dataset, source: str) -> list[Layer]:
    values = phases[source].data
    if phases[source].size == 0:
        raise ParameterError(
            f"selection of {source!r}",
            found=dict(phases[source].sizes),
            expected="at least one phase and one pixel",
            fix="check the ranges of ds.sel(y=..., x=...)",
        )
    if source == schema.MASK:
        numbers = phases[schema.PHASE].values if schema.PHASE in phases.coords else range(1, len(values) + 1)
        return [Layer(mask, int(number)) for mask, number in zip(values, numbers, strict=True)]
    if values.dtype.kind not in "iu":
        raise ParameterError(
            f"variable {schema.LABEL!r}",
            found=f"dtype {values.dtype}",
            expected="whole numbers: 0 unassigned, 1..n phase, 255 mixed",
            fix="pass what segment_phases returned, or .astype('uint8')",
        )
    return [Layer(values)]


def _planned(grid: Grid, *, n_layers: int, memory: str | int | None, **told: Any) -> tuple[Plan, int]:
    """Return the plan, and the pixels of the largest window that is made where no piece needs a larger one.

    A window takes what the budget leaves, up to the largest that is of use.
    """
    n_pixels = grid.shape[0] * grid.shape[1]
    fixed = BLOCK_BYTES + 4 * min(n_layers * n_pixels, WINDOW_PIXELS)
    allowed = budget(memory)
    smallest, largest = (PIXEL_BYTES * min(n_pixels, pixels) for pixels in (SMALLEST_WINDOW, WINDOW_PIXELS))
    window = min(largest, max(smallest, allowed.room - fixed))
    how = allowed.plan(Need(schema.GRAINS, fixed, window), max_workers=1, **told)
    return how, window // PIXEL_BYTES


def _shapes_of(
    layer: Layer, target: Any, above: int, grid: Grid, *, h: float | None, how: Plan, most: int
) -> GrainShapes:
    """Separate and measure the grains of a layer, and put them on ``target`` as they come."""
    windows = windows_of(layer, most=most)
    _check_room(windows, grid, how=how, most=most)
    parts = []
    n = above
    for window in windows:
        found = separate_window(layer, window, h=h, aspect=grid.aspect)
        if found.unsplit is not None:
            warnings.warn(
                f"Phase {found.unsplit} fills the map of {grid.shape[0]} x {grid.shape[1]} pixels and is left as one "
                "grain.",
                UnsplitPhaseWarning,
                stacklevel=5,
            )
        corner = window.ys.start, window.xs.start
        parts.append(measure_window(found.grain, found.n, found.label, size=grid.size, corner=corner))
        put_window(target, window.ys, window.xs, found.grain, above=n)
        n += found.n
    return GrainShapes.joined(parts)


def _check_room(windows: list[Window], grid: Grid, *, how: Plan, most: int) -> None:
    """Refuse a piece that is too large for the budget before anything is separated, and warn of a large one."""
    largest = max(windows, key=lambda window: window.n_pixels, default=None)
    if largest is None or largest.n_pixels <= 2 * most:
        return
    needed = PIXEL_BYTES * largest.n_pixels
    room = how.spare + how.need.per_worker
    n_rows, n_columns = largest.ys.stop - largest.ys.start, largest.xs.stop - largest.xs.start
    spans = f"{n_rows} x {n_columns} of the map's {grid.shape[0]} x {grid.shape[1]} pixels"
    if needed > room:
        smallest = -(-(how.limit - room + needed) // (10 * MB)) * 10 * MB
        raise MemoryBudgetError(
            "memory for grains",
            found=f"a connected piece of a phase that spans {spans}, for whose window {format_size(room)} are left of "
            f"{format_size(how.limit)}",
            expected=f"{format_size(needed)} for it, at least {smallest // MB} MB in all",
            fix=f"--memory {smallest // MB}MB, or cut the piece: --opening of eds-chunked phases",
        )
    warnings.warn(
        f"A connected piece of a phase spans {spans}. It is separated exactly, in a window that takes "
        f"{format_size(needed)} instead of {format_size(PIXEL_BYTES * most)}.",
        GiantPieceWarning,
        stacklevel=6,
    )


def _label_variable(targets: list[Any], source: str) -> xr.Variable:
    maps = [target if isinstance(target, np.ndarray) else lazy_on(target) for target in targets]
    dims: tuple[str, ...] = (schema.Y, schema.X)
    if source == schema.LABEL:
        return xr.Variable(dims, maps[0], schema.attributes(schema.GRAIN_LABEL))
    stack = np.stack if isinstance(maps[0], np.ndarray) else da.stack
    return xr.Variable((schema.PHASE, *dims), stack(maps), schema.attributes(schema.GRAIN_LABEL))


def _of_all(numbers: list[Numbered], name: str) -> Array:
    return np.concatenate([getattr(one, name) for one in numbers])
