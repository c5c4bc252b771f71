"""Phase spectra: one pass that sums the counts of each phase."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any, Literal, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.result import check_same_axes
from eds_chunked.engine.blocks import Block, Blocks, Lane, blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.lazy_maps import piece
from eds_chunked.engine.output import changed
from eds_chunked.engine.planning import plan
from eds_chunked.errors import ParameterError, StaleResultError
from eds_chunked.kernels.label_sums import label_sums
from eds_chunked.kernels.reduce import mask_sums, sum_dtype
from eds_chunked.memory import Need
from eds_chunked.phases.label_maps import LabelMap, LabelRows, check_labels
from eds_chunked.phases.live_times import live_time_of_pixels
from eds_chunked.store.provenance import result_attributes
from eds_chunked.store.results import reads_of

Array = np.ndarray[Any, Any]


def phase_spectra(
    ds: xr.Dataset,
    *,
    phases: xr.Dataset,
    source: Literal["label", "mask"] = "label",
    memory: str | int | None = None,
) -> xr.Dataset:
    """Sum the counts of each phase; computes, one pass for any number of phases.

    Blocks are added up as they are read: nothing of shape (phase, y, x, energy) ever exists. Sums are exact.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), on the pixels of ``phases``; its energy window may be another one. Pixels
        that :func:`eds_chunked.exclude` leaves out add nothing and are not counted; channels that it leaves out are
        summed all the same, so that a spectrum is whole. A map may have a ``live_time`` (y, x) of its pixels in s.
    phases
        Result of :func:`eds_chunked.segment_phases`, or any Dataset with ``label`` (y, x) or ``mask`` (phase, y, x) on
        the same pixels, the coordinate ``phase`` with the numbers of the phases, and the attributes of the map.
    source
        ``"label"`` sums exclusive phases (mixed and unassigned pixels belong to none), ``"mask"`` the masks by
        threshold, which may overlap.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset with ``spectrum`` (phase, energy; counts), uint64 for integer counts, ``n_pixels`` (phase), ``total_counts``
    (phase), and ``live_time`` (phase; s) where the map says how long its pixels were counted. A phase without pixels
    has a spectrum of zeros.

    Raises
    ------
    ParameterError
        There is no phase, or labels are not whole numbers.
    ChunkLayoutError
        ``phases`` is on another grid than ``ds``.
    StaleResultError
        ``phases`` was made from another map.
    MemoryBudgetError

    Notes
    -----
    Where the file states one live time for the whole acquisition, and the store holds all its pixels, each pixel is
    taken to have an equal share. :func:`eds_chunked.mean_spectra` gives counts a pixel, or a second of live time.

    Memory: for each worker one block, the labels or masks of one lane (256 x 256 pixels at 2048 channels), and one
    table of the spectra.
    """
    if source not in (schema.LABEL, schema.MASK):
        raise ParameterError("source", found=repr(source), expected="'label' or 'mask'", fix="source='label'")
    schema.require(ds, schema.COUNTS)
    schema.require(phases, source)
    check_same_map(ds, phases, what="phases", fix="run nmf and segment_phases again")
    numbers = _numbers(phases)
    blocks = blocks_of(ds, memory=memory).of_all_channels()
    live = live_time_of_pixels(ds)
    values = phases[source].data
    members: LabelMap | MaskMap = MaskMap(values)
    if source == schema.LABEL:
        check_labels(schema.LABEL, values.dtype, "0 unassigned, 1..n phase, 255 mixed")
        members = LabelMap(values, LabelRows(numbers))
    how = plan(
        _need(blocks, values, len(numbers)),
        memory=memory,
        reads=[blocks.reads(), reads_of(phases, source)],
        writes=8 * len(numbers) * (blocks.shape[2] + 4) + 8 * blocks.shape[2],
    )
    maps = _Maps(members, None if isinstance(live, float) else live)
    sums = run_pass(blocks, _PhaseSums(len(numbers)), _join, plan=how, maps=maps.of_lane)
    found = {schema.SPECTRUM: sums.counts, schema.N_PIXELS: sums.n_pixels}
    made = xr.Dataset(
        {name: (schema.VARIABLES[name].dims, array, schema.attributes(name)) for name, array in found.items()},
        coords={schema.PHASE: numbers, schema.ENERGY: ds[schema.ENERGY]},
        attrs=result_attributes(phases, schema.SPECTRA, {"source": source} | changed(ds, blocks), blocks.identity),
    )
    made[schema.TOTAL_COUNTS] = _column(schema.TOTAL_COUNTS, sums.counts.sum(axis=1))
    if live is not None:
        seconds = sums.n_pixels * live if isinstance(live, float) else sums.live_time
        made[schema.LIVE_TIMES] = _column(schema.LIVE_TIMES, seconds)
    return made


def check_same_map(ds: xr.Dataset, labels: xr.Dataset, *, what: str, fix: str) -> None:
    """Raise ChunkLayoutError or StaleResultError for labels that are not of the pixels of a map."""
    check_same_axes(ds, labels, what=what)
    if labels.attrs.get(schema.FINGERPRINT) != ds.attrs.get(schema.FINGERPRINT):
        raise StaleResultError(
            what,
            found=f"{what} of another map, or of this one before it was calibrated",
            expected=f"{what} of this map",
            fix=fix,
        )


def _numbers(phases: xr.Dataset) -> Array:
    numbers = np.asarray(phases[schema.PHASE].values) if schema.PHASE in phases.coords else np.empty(0, np.int64)
    if len(numbers) == 0:
        raise ParameterError(
            "phases",
            found=f"no coordinate {schema.PHASE!r} with a number",
            expected="at least one phase",
            fix="pass what segment_phases returned, or phases.assign_coords(phase=[1, 2, 3])",
        )
    return numbers


def _column(name: str, values: Array) -> tuple[tuple[str, ...], Array, dict[str, str]]:
    spec = schema.PHASE_COLUMNS[name]
    return spec.dims, values, {"long_name": spec.doc, "units": spec.units}


# ------------------------------------------------------------------------------------------------------- the pass
@dataclass(frozen=True)
class MaskMap:
    """Masks (phase, y, x), lazy or in memory, of the whole map or of a part."""

    values: Any
    y0: int = 0
    x0: int = 0

    def of(self, ys: slice, xs: slice) -> MaskMap:
        """Return the part of the map that a task needs."""
        part = self.values[:, ys.start - self.y0 : ys.stop - self.y0, xs.start - self.x0 : xs.stop - self.x0]
        return replace(self, values=part, y0=ys.start, x0=xs.start)

    def of_pixels(self, ys: slice, xs: slice) -> Array:
        """Return the masks of a box: bool (phase, y, x)."""
        return piece(self.of(ys, xs).values).astype(np.bool_)


class _Sums(NamedTuple):
    """Counts (phase, channels), pixels (phase,) and live time (phase,) of the phases."""

    counts: Array
    n_pixels: Array
    live_time: Array


def _join(total: _Sums, lane: _Sums) -> _Sums:
    return _Sums(*(mine + its for mine, its in zip(total, lane, strict=True)))


@dataclass(frozen=True)
class _Maps:
    """To which phases pixels belong, and ``live`` (y, x) where every pixel has its own: of the map or of a lane."""

    members: LabelMap | MaskMap
    live: Any

    def of_lane(self, lane: Lane) -> _Maps:
        live = None if self.live is None else self.live[lane.ys, lane.xs]
        return _Maps(self.members.of(lane.ys, lane.xs), live)


@dataclass(frozen=True)
class _PhaseSums:
    """Sums the counts of a lane by the phases of its pixels."""

    n_phases: int

    def __call__(self, lane: Lane, blocks: Iterator[Block], maps: _Maps) -> _Sums:
        live = None if maps.live is None else piece(maps.live)
        by_label = isinstance(maps.members, LabelMap)
        belongs = maps.members.of_pixels(lane.ys, lane.xs)

        def summed(block: Block) -> _Sums:
            here = block.within(lane)
            seconds = None if live is None else live[here].ravel()
            if by_label:
                return _by_label(block, belongs[here].ravel(), self.n_phases, seconds)
            return _by_mask(block, belongs[:, *here].reshape(self.n_phases, -1), seconds)

        return reduce(_join, map(summed, blocks))


def _by_label(block: Block, row: Array, n_phases: int, seconds: Array | None) -> _Sums:
    row = row if block.used is None else np.where(block.used, row, -1)
    counts = np.zeros((n_phases, block.counts.n_channels), sum_dtype(block.counts))
    label_sums(block.counts, row, counts)
    member = row[row >= 0]
    weights = np.zeros(len(member)) if seconds is None else seconds[row >= 0]
    return _Sums(counts, np.bincount(member, minlength=n_phases), np.bincount(member, weights, n_phases))


def _by_mask(block: Block, inside: Array, seconds: Array | None) -> _Sums:
    inside = inside if block.used is None else inside & block.used
    live = np.zeros(len(inside)) if seconds is None else np.array([seconds[own].sum() for own in inside], np.float64)
    return _Sums(mask_sums(block.counts, inside), np.count_nonzero(inside, axis=1), live)


def _need(blocks: Blocks, members: Any, n_phases: int) -> Need:
    table = 8 * n_phases * blocks.n_channels
    of_lane = blocks.lane_side**2 * max(8 * 3, n_phases)
    chunk = math.prod(members.chunksize) * members.dtype.itemsize if isinstance(members, da.Array) else 0
    return Need("spectra", 3 * table, blocks.bytes_of_a_block + of_lane + chunk + 3 * table)
