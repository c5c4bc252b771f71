"""Counts that are computed first: the same whatever the pieces, within their memory, and refused before the work."""

import json
import math
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import MiniBatchNMF

from eds_chunked import memory, schema
from eds_chunked.decomposition.estimators import decompose
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.residuals import residual
from eds_chunked.decomposition.stability import component_stability
from eds_chunked.engine import blocks as blocks_module
from eds_chunked.engine import scratch
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.errors import MemoryBudgetError
from eds_chunked.kernels.sparse import to_dense
from eds_chunked.memory import MB
from eds_chunked.phases.sums import phase_spectra
from tests.decomposition_maps import as_map, made_counts, ragged_chunks

SHAPE = (53, 71, 31)
COUNTS = made_counts(SHAPE, dose=20, seed=31)
TILE = 8


@pytest.fixture
def small_tiles(monkeypatch):
    for module in (blocks_module, scratch):
        monkeypatch.setattr(module, "tile_shape", lambda n_channels: (TILE, TILE, n_channels))


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(scratch, "_staged", {})


def read(blocks):
    out = np.zeros(blocks.shape, np.uint64)
    for lane in blocks.lanes():
        for block in blocks.read(lane):
            out[block.ys, block.xs] = to_dense(block.counts).reshape(*block.shape, -1)
    return out


def changed(chunks, seen=None):
    """The counts in chunks of which it is noted when they are computed."""

    def made(block, block_info=None):
        if seen is not None and block.size:
            seen.append(tuple(block_info[0]["chunk-location"]))
        return block * np.uint16(3)

    counts = da.from_array(COUNTS, chunks=chunks).map_blocks(made, dtype=np.uint16, meta=np.empty((0, 0, 0), np.uint16))
    ds = as_map(COUNTS)
    ds[schema.COUNTS] = ds[schema.COUNTS].dims, counts
    return ds


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(chunks=ragged_chunks(SHAPE), cell=st.tuples(st.sampled_from([8, 16, 32, 56]), st.sampled_from([8, 16, 64, 72])))
def test_pieces_do_not_change_a_count(small_tiles, chunks, cell):
    ds, seen = changed(chunks, seen := []), seen
    with pytest.MonkeyPatch.context() as patch:
        plan = memory.plan(memory.Need("test", 0, 1))
        patch.setattr(scratch, "_plan", lambda *_: (cell, plan))
        patch.setattr(scratch, "_WORTH_TELLING", math.inf)
        np.testing.assert_array_equal(read(blocks_of(ds)), 3 * COUNTS.astype(np.uint64))
    # As often as was foretold, in pixels.
    heights, widths, depths = chunks
    assert sum(heights[y] * widths[x] for y, x, _ in seen) == len(depths) * scratch._computed(ds.counts.data, cell)


def chosen(ds, budget):
    return scratch._plan(ds[schema.COUNTS].data, (TILE, TILE, SHAPE[2]), budget)


def test_a_cell_is_as_large_as_the_budget_allows(monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda: 100 * MB)
    idle = 100 * MB + memory.RESERVE
    tall = changed((-1, 3, -1))
    whole = scratch._need(tall[schema.COUNTS].data, (TILE, TILE, SHAPE[2]), (56, 72))
    assert whole.fixed == 3 * COUNTS.nbytes
    assert whole.per_worker == 3 * 53 * 3 * 31 * 2 + 2 * TILE * TILE * 31 * 2
    cell, how = chosen(tall, idle + whole.fixed + 2 * whole.per_worker)
    assert cell == (56, 72)
    assert how.peak <= how.limit
    # With less, columns of whole chunks are cut apart before a chunk is computed twice.
    cell, how = chosen(tall, idle + whole.fixed // 2 + whole.per_worker)
    assert cell[0] == 56
    assert cell[1] < 72
    assert how.peak <= how.limit
    smallest = scratch._need(tall[schema.COUNTS].data, (TILE, TILE, SHAPE[2]), (TILE, TILE))
    assert chosen(tall, idle + smallest.fixed + smallest.per_worker)[0] == (TILE, TILE)
    with pytest.raises(MemoryBudgetError, match="memory for counts that were changed"):
        chosen(tall, idle + smallest.fixed + smallest.per_worker - 1)


def test_chunks_that_are_computed_again_and_again_are_told(small_tiles, monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda: 100 * MB)
    seen = []
    ds = changed((-1, -1, 4), seen)
    need = scratch._need(ds[schema.COUNTS].data, (TILE, TILE, SHAPE[2]), (TILE, TILE))
    budget = 100 * MB + memory.RESERVE + need.fixed + need.per_worker
    with pytest.warns(UserWarning, match=r"chunks of 53 x 71 x 4 each is computed 63 times.*once with --memory 190MB"):
        blocks = blocks_of(ds, memory=budget)
    np.testing.assert_array_equal(read(blocks), 3 * COUNTS.astype(np.uint64))
    assert len(seen) == 63 * 8
    # The figure that is named is enough.
    seen.clear()
    scratch._staged.clear()
    blocks_of(ds, memory="190MB")
    assert len(seen) == 8


def labels():
    label = (np.arange(53 * 71).reshape(53, 71) % 2 + 1).astype(np.uint8)
    coords = {axis: as_map(COUNTS)[axis] for axis in (schema.Y, schema.X)}
    return xr.Dataset({schema.LABEL: ((schema.Y, schema.X), label)}, coords | {schema.PHASE: [1, 2]})


STEPS = {
    "pca": lambda ds, **budget: pca(ds, n_components=2, **budget),
    "nmf": lambda ds, **budget: nmf(ds, n_components=2, max_epochs=1, **budget),
    "decompose": lambda ds, **budget: decompose(ds, MiniBatchNMF(2), **budget),
    "residual": lambda ds, **budget: residual(ds, pca(as_map(3 * COUNTS), n_components=2), **budget),
    "stability": lambda ds, **budget: component_stability(ds, n_components=[2], **budget),
    "spectra": lambda ds, **budget: phase_spectra(ds, phases=labels(), **budget),
}


@pytest.mark.parametrize("step", STEPS)
def test_every_step_computes_them_within_its_budget(step):
    seen = []
    with pytest.raises(MemoryBudgetError, match=r"memory for counts that were changed: found a budget of 100 MB"):
        STEPS[step](changed((-1, 5, -1), seen), memory="100MB")
    assert seen == []


SCRIPT = """
import json, sys
import dask.array as da, numpy as np
from eds_chunked import memory
from eds_chunked.engine.blocks import blocks_of
from tests.decomposition_maps import as_map

shape, chunks, over = json.loads(sys.argv[1])
counts = da.ones(tuple(shape), chunks=tuple(chunks), dtype=np.uint16)
ds = as_map(np.zeros(shape, np.uint8)).drop_vars("counts")
ds["counts"] = ("y", "x", "energy"), counts * 2
memory.return_freed_memory_to_the_system()
idle = memory.resident()
blocks_of(ds, memory=idle + memory.RESERVE + over)
print(idle, memory.peak_resident())
"""


# Chunks of all rows, and planes of a few energies: whole, the map is more than twice as large as the budget.
@pytest.mark.parametrize("chunks", [[-1, 8, -1], [-1, -1, 32]])
def test_the_peak_stays_within_the_smallest_budget(chunks):
    shape = (1024, 128, 512)
    counts = da.ones(shape, chunks=tuple(chunks), dtype=np.uint16)
    need = scratch._need(counts, (64, 64, 512), (64, 64))
    # What is resident before differs from run to run.
    over = need.fixed + need.per_worker + 5 * MB
    assert over < counts.nbytes / 2
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, json.dumps([shape, chunks, over])]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    idle, peak = map(int, done.stdout.split())
    assert peak <= idle + memory.RESERVE + over
    # No more is asked for than is used, by and large.
    assert peak > idle + over / 3
