"""Grain spectra: one pass that sums the counts of every grain, for any number of grains."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.output import begin_result
from eds_chunked.engine.planning import plan
from eds_chunked.errors import ParameterError
from eds_chunked.grains.table_pass import (
    Extents,
    JoinStrips,
    Strips,
    Table,
    TableWork,
    chunk_extents,
    extents_of,
    strips_of,
    table_need,
)
from eds_chunked.phases.label_maps import LabelMap, LabelRows, check_labels
from eds_chunked.phases.live_times import live_time_of_pixels
from eds_chunked.phases.sums import check_same_map
from eds_chunked.store.drafts import MapTarget
from eds_chunked.store.results import reads_of
from eds_chunked.store.spectra_table import spectra_shape

Array = np.ndarray[Any, Any]


def grain_spectra(
    ds: xr.Dataset,
    *,
    grains: xr.Dataset,
    name: str | None = None,
    memory: str | int | None = None,
) -> xr.Dataset:
    """Sum the counts of each grain; computes, one pass over the counts for any number of grains.

    Sums are exact, and the same for every chunking, number of threads and cluster. Grains that are complete are written
    while the map is read: the table, which may be larger than the map, is never held.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), on the pixels of ``grains``; its energy window may be any. Pixels that
        :func:`eds_chunked.exclude` leaves out add nothing and are not counted; channels that it leaves out are summed
        all the same. A map may have a ``live_time`` (y, x) of its pixels in s.
    grains
        Result of :func:`eds_chunked.separate_grains`, or any Dataset with ``grain_label`` (y, x), whole numbers, 0
        where there is no grain, on the same pixels and with the attributes of the map. Where it has a grain table,
        the spectra are those of its rows.
    name
        Name of the run; by default that of ``grains``.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset over ``grain``, the numbers of the grains: ``grain_spectrum`` (grain, energy; counts), lazy, ``n_pixels``,
    ``total_counts``, ``phase`` where ``grains`` has it, and ``live_time`` (s) where the map says how long its pixels
    were counted. Sums are uint32, uint64 where the largest grain could overflow that, and float64 for counts that are
    no integers. A grain without pixels has a spectrum of zeros.

    Raises
    ------
    ParameterError
        There is no grain, a number is there twice, or labels are not whole numbers.
    ChunkLayoutError
        ``grains`` is on another grid than ``ds``.
    StaleResultError
        ``grains`` was made from another map.
    MemoryBudgetError
        More grains are open at once than the budget holds.

    Notes
    -----
    Memory: for each worker one block, and the spectra of the grains that reach into one row of tiles (64 rows of pixels
    at 2048 channels), in chunks of 2 MiB of grains whose numbers follow one another. Grains that are numbered as they
    come, row by row, of each phase or of all, need little; numbered at random all of them are open to the end, and
    the whole table has to fit.

    Live times are as in :func:`eds_chunked.phase_spectra`; :func:`eds_chunked.mean_spectra` gives counts a pixel or a
    second.

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> counts = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    >>> ds = xr.Dataset({"counts": (("y", "x", "energy"), counts)}, coords={"energy": [0.0, 0.1, 0.2, 0.3]})
    >>> labels = xr.Dataset({"grain_label": (("y", "x"), np.array([[1, 1, 0], [0, 7, 7]]))})
    >>> spectra = grain_spectra(ds, grains=labels)
    >>> spectra["grain"].values.tolist(), spectra["grain_spectrum"].values.tolist()
    ([1, 7], [[4, 6, 8, 10], [36, 38, 40, 42]])
    """
    run = schema.check_run_name(name or str(grains.attrs.get(schema.RUN, "main")))
    schema.require(ds, schema.COUNTS)
    schema.require(grains, schema.GRAIN_LABEL)
    check_same_map(ds, grains, what="grains", fix="run separate_grains again")
    values = grains[schema.GRAIN_LABEL].data
    check_labels(schema.GRAIN_LABEL, values.dtype, "0 where there is no grain, above it the number of the grain")
    blocks = blocks_of(ds, memory=memory).of_all_channels()
    strips = strips_of(blocks)
    labels = LabelMap(values, LabelRows(_ids(grains, LabelMap(values, LabelRows(np.zeros(1))), strips)))
    live = live_time_of_pixels(ds)
    extents = extents_of(labels, blocks, strips, None if isinstance(live, float) else live)
    dtype = _dtype(blocks, extents)
    shape = len(labels.rows.ids), blocks.shape[2]
    rows, _ = spectra_shape(*shape, dtype.itemsize)

    def table(target: MapTarget) -> Table:
        return Table(target, *shape, rows, dtype, *chunk_extents(extents, rows))

    # Nothing is written before it is known that there is memory for it.
    declared = _declared(
        ds, grains, labels.rows.ids, extents, da.empty(shape, dtype=dtype, chunks=(rows, shape[1])), live
    )
    how = plan(
        table_need(table(MapTarget("", "")), extents, blocks, strips),
        memory=memory,
        reads=[blocks.reads(lanes=strips.lanes), reads_of(grains, schema.GRAIN_LABEL, 2)],
        writes=declared.nbytes,
    )
    draft = begin_result(ds, schema.GRAIN_SPECTRA, run, declared, {}, blocks, parent=grains)
    try:
        made = table(draft.target(schema.GRAIN_SPECTRUM))
        work = TableWork(made, labels.rows, strips)
        done = run_pass(
            blocks,
            work,
            JoinStrips(made),
            plan=how,
            lanes=strips.lanes,
            maps=lambda lane: labels.values[lane.ys, lane.xs],
        )
    except BaseException:
        draft.discard()
        raise
    totals = np.concatenate([counts for _, counts in sorted(done.totals, key=lambda part: part[0])])
    draft.put(schema.TOTAL_COUNTS, totals)
    return draft.open()


def _ids(grains: xr.Dataset, every: LabelMap, strips: Strips) -> Array:
    """Return the numbers of the grains, in the order of the table: of its rows, or else rising."""
    if schema.GRAIN_ID in grains:
        ids = np.asarray(grains[schema.GRAIN_ID].values, np.int64)
        if (np.diff(np.sort(ids)) == 0).any():
            raise ParameterError(
                schema.GRAIN_ID,
                found="a number twice",
                expected="one row a grain",
                fix="pass what separate_grains returned",
            )
    else:
        found = np.zeros(0, np.int64)
        for lane in strips.lanes:
            found = np.union1d(found, every.labels(lane.ys, lane.xs))
        ids = found[found > 0]
    if len(ids) == 0:
        raise ParameterError(
            "grains",
            found="no grain",
            expected=f"{schema.GRAIN_LABEL} with a number above 0",
            fix="lower min_size of segment_phases, or look at the phase map: eds-chunked report STORE",
        )
    return ids


def _dtype(blocks: Blocks, extents: Extents) -> np.dtype[Any]:
    """Return a type that no sum can overflow: every pixel of the largest grain could have the largest count."""
    if not blocks.are_counts:
        return np.dtype(np.float64)
    largest = int(np.iinfo(blocks.source.dtype).max) * int(extents.n_pixels.max())
    return np.dtype(np.uint32 if largest <= np.iinfo(np.uint32).max else np.uint64)


def _declared(
    ds: xr.Dataset, grains: xr.Dataset, ids: Array, extents: Extents, spectra: da.Array, live: Any
) -> xr.Dataset:
    columns = {schema.N_PIXELS: extents.n_pixels}
    if schema.PHASE in grains.variables and grains[schema.PHASE].dims == (schema.GRAIN,):
        columns[schema.PHASE] = grains[schema.PHASE].values
    kind = np.uint64 if spectra.dtype.kind == "u" else np.float64
    columns[schema.TOTAL_COUNTS] = np.zeros(len(ids), kind)
    if live is not None:
        columns[schema.LIVE_TIMES] = extents.n_pixels * live if isinstance(live, float) else extents.live_time
    axes = {schema.GRAIN: (schema.GRAIN, ids), schema.ENERGY: ds[schema.ENERGY].variable}
    table = {name: ((schema.GRAIN,), values, schema.column_attributes(name)) for name, values in columns.items()}
    spectrum = schema.VARIABLES[schema.GRAIN_SPECTRUM].dims, spectra, schema.attributes(schema.GRAIN_SPECTRUM)
    return xr.Dataset({schema.GRAIN_SPECTRUM: spectrum, **table}, coords=axes)
