"""Scratch stores: files that live as long as this process needs them."""

from __future__ import annotations

import atexit
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from itertools import product
from typing import Any

import dask
import dask.array as da
import numpy as np
import zarr
from zarr.codecs import BloscCodec

from eds_chunked import progress
from eds_chunked.dask_cluster import active_client, losses_told
from eds_chunked.dry_run import is_dry
from eds_chunked.engine.planning import budget
from eds_chunked.engine.scheduling import scheduler, zarr_limits
from eds_chunked.errors import ClusterError
from eds_chunked.memory import MB, Need, Plan, Reads, Stored
from eds_chunked.schema import COUNTS
from eds_chunked.store.backend import zarr_store
from eds_chunked.store.layout import tile_shape
from eds_chunked.store.source import CountsSource, CountsToCome, counts_source


def scratch_folder() -> str:
    """Make a folder that is removed when the process ends; in dask's ``temporary-directory`` where that is set.

    Raises
    ------
    ClusterError
        A worker of the active cluster does not see it.
    """
    folder = tempfile.mkdtemp(prefix="eds_chunked-", dir=dask.config.get("temporary-directory", None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    client = active_client()
    if client is not None:
        blind = [worker for worker, sees in client.run(os.path.isdir, folder).items() if not sees]
        if blind:
            raise ClusterError(
                f"scratch folder {folder}",
                found=f"{len(blind)} workers that do not see it, {blind[0]} among them",
                expected="a folder that all workers share",
                fix="DASK_TEMPORARY_DIRECTORY=/a/shared/folder where the step is started",
            )
    return folder


_MAP_CHUNK = 512


IN_MEMORY = 2**22
"""Pixels up to which masks and labels are in memory, as the grains of such a map are."""


def scratch_map(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
    """Return an array (..., y, x) of zeros on disk, in layers of squares, which is deleted when the process ends."""
    return zarr.create_array(
        zarr_store(scratch_folder()),
        name=name,
        shape=shape,
        chunks=(*(1 for _ in shape[:-2]), *(min(_MAP_CHUNK, length) for length in shape[-2:])),
        dtype=dtype,
        compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
        fill_value=0,
    )


def lazy_on(target: Any) -> da.Array:
    """Return an array on disk as a lazy one, in chunks of four of its own."""
    side = 2 * _MAP_CHUNK
    return da.from_array(target, chunks=(*(1 for _ in target.shape[:-2]), side, side))


def kept_on_disk(maps: Mapping[str, da.Array]) -> list[da.Array]:
    """Compute maps (..., y, x) into scratch stores, all of them at once, and return them lazy on these.

    On a cluster workers write them: nothing of them comes to the client.
    """
    targets = [scratch_map(name, values.shape, values.dtype) for name, values in maps.items()]
    sources = [values.rechunk(target.chunks) for values, target in zip(maps.values(), targets, strict=True)]
    da.store(sources, targets, lock=False)
    return [lazy_on(target) for target in targets]


Cell = tuple[int, int]

_staged: dict[str, CountsSource] = {}

_COPIES = 3
"""Times the bytes of a chunk that whatever makes it may hold; what it does is the user's, and cannot be known."""

_WORTH_TELLING = 2.0
"""Times that everything is computed, on average, from which a warning says so."""


def stage(counts: da.Array, *, memory: str | int | None = None) -> CountsSource:
    """Compute a dask array once, some of its chunks at a time, into a scratch store of tiles.

    It is computed in cells of whole tiles, one after the other. A chunk that lies in several cells is made for each of
    them, so cells are as large as it takes to avoid that, and the budget allows. dask names an array by what it
    computes, so the same array is not computed again for the next pass or step.

    Raises
    ------
    MemoryBudgetError
        Of the smallest cell, or of one chunk, there is too much.
    """
    if counts.name in _staged:
        return _staged[counts.name]
    tile = tile_shape(counts.shape[2])
    cell, how = _plan(counts, tile, memory)
    _tell_of_repetition(counts, tile, cell, how)
    if is_dry():
        return CountsToCome.of(counts.shape, tile, counts.dtype)
    folder = scratch_folder()
    target = zarr.create_array(
        zarr_store(folder),
        name=COUNTS,
        shape=counts.shape,
        chunks=tile,
        dtype=counts.dtype,
        compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    height, width, _ = counts.shape
    places = list(product(_spans(height, cell[0]), _spans(width, cell[1])))
    with (
        progress.step(how.need.what, height * width) as done,
        zarr.config.set(zarr_limits(how.workers)),
        losses_told(how.need.what),
    ):
        for ys, xs in places:
            # Copied, since a view of a part would keep all of its chunk.
            part = counts[ys, xs].map_blocks(np.array, dtype=counts.dtype, meta=counts._meta).rechunk(tile)
            da.store(part, target, regions=(ys, xs, slice(None)), lock=False, **scheduler(how.workers))
            done((ys.stop - ys.start) * (xs.stop - xs.start))
    _staged[counts.name] = counts_source(folder, version=counts.name, path=COUNTS)
    return _staged[counts.name]


def _plan(counts: da.Array, tile: tuple[int, int, int], memory: str | int | None) -> tuple[Cell, Plan]:
    """Return the rows and columns of a cell, and how many chunks are made at once.

    Of all that fit, those which take the least time, by the pixels that each thread computes; then the largest cells.
    """
    cells = list(product(_sides(counts.shape[0], tile[0]), _sides(counts.shape[1], tile[1])))
    needs = {cell: _need(counts, tile, cell) for cell in cells}
    allowed = budget(memory)
    fitting = [
        (_computed(counts, cell) / workers, -cell[0] * cell[1], -workers, cell)
        for cell, need in needs.items()
        for workers in range(1, allowed.workers(need) + 1)
    ]
    # Where nothing fits, the plan of what takes the least says so.
    cell = min(fitting)[-1] if fitting else min(cells, key=lambda cell: needs[cell].fixed)
    reads = [Reads("chunks that are computed", lambda: Stored(math.prod(counts.numblocks), counts.nbytes))]
    return cell, allowed.plan(needs[cell], reads=reads, writes=counts.nbytes, goes_on=True)


def _tell_of_repetition(counts: da.Array, tile: tuple[int, int, int], cell: Cell, how: Plan) -> None:
    height, width, _ = counts.shape
    times = _computed(counts, cell) / (height * width)
    if times < _WORTH_TELLING:
        return
    whole = _need(counts, tile, (height, width))
    smallest = -(-(how.idle + whole.fixed + whole.per_worker) // (10 * MB)) * 10
    chunk = " x ".join(str(max(sizes)) for sizes in counts.chunks)
    warnings.warn(
        f"{how.need.what}: in chunks of {chunk} each is computed {times:.0f} times, since there is too little memory "
        f"for more; once with --memory {smallest}MB, or in chunks of y={tile[0]}, x={tile[1]}, energy=-1",
        stacklevel=5,
    )


def _sides(length: int, side: int) -> list[int]:
    """Return the sides that a cell may have: a tile, twice, four times ... as much, and all."""
    n_tiles = -(-length // side)
    return sorted({side * min(n_tiles, 2**power) for power in range(n_tiles.bit_length() + 1)})


def _spans(length: int, side: int) -> list[slice]:
    return [slice(first, min(length, first + side)) for first in range(0, length, side)]


def _computed(counts: da.Array, cell: Cell) -> int:
    """Return how many pixels are computed, those of chunks that lie in several cells once for each."""
    return math.prod(_length_computed(counts.chunks[axis], cell[axis]) for axis in (0, 1))


def _length_computed(chunks: tuple[int, ...], side: int) -> int:
    ends = np.cumsum((0, *chunks))
    spans = _spans(int(ends[-1]), side)
    first = np.searchsorted(ends, [span.start for span in spans], side="right") - 1
    last = np.searchsorted(ends, [span.stop for span in spans])
    return int(np.sum(ends[last] - ends[first]))


def _need(counts: da.Array, tile: tuple[int, int, int], cell: Cell) -> Need:
    """Return what a cell takes: its values as parts of chunks, on their way, and as tiles; and whole chunks in work."""
    itemsize, depth = counts.dtype.itemsize, counts.shape[2]
    height, width = (min(side, length) for side, length in zip(cell, counts.shape, strict=False))
    a_chunk = math.prod(max(sizes) for sizes in counts.chunks)
    a_tile = math.prod(min(side, length) for side, length in zip(tile, counts.shape, strict=True))
    fixed, per_worker = 3 * height * width * depth, _COPIES * a_chunk + 2 * a_tile
    return Need("counts that were changed", itemsize * fixed, itemsize * per_worker)
