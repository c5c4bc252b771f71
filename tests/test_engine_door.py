"""From a tile's bytes straight to CSR: a way that every selection takes, with the answers of the dense way."""

from __future__ import annotations

import numpy as np
import pytest

from eds_chunked import schema
from eds_chunked.engine import blocks as blocks_module
from eds_chunked.engine import scratch
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.kernels.sparse import to_dense
from eds_chunked.memory import Need, Plan
from eds_chunked.store import chunks, conversion
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.source import CountsSource
from tests.made_maps import MadeReader, made_counts

SHAPE = (71, 101, 61)
COUNTS = made_counts(SHAPE)
SIDE = 8
ROWS, COLUMNS = 9, 13


@pytest.fixture(scope="module", params=["counts", "counts in shards", "zstd", "lz4"])
def store(request, small_tiles, tmp_path_factory):
    store = tmp_path_factory.mktemp("door") / "map.zarr"
    codec, *shards = request.param.split(" in ")
    convert(MadeReader(COUNTS), store, codec=codec, shards=bool(shards))
    return store


@pytest.fixture(scope="module")
def small_tiles():
    with pytest.MonkeyPatch.context() as patch:
        for module in (conversion, blocks_module, scratch):
            patch.setattr(module, "tile_shape", lambda n_channels: (SIDE, SIDE, n_channels))
        yield


@pytest.fixture
def doors(monkeypatch):
    """How many blocks came straight from bytes, and how many dense reads there were."""
    taken = {"direct": 0, "dense": 0}
    load, dense = chunks.StoredTiles.load, CountsSource.__getitem__

    def counted_load(self, ys, xs, channels):
        taken["direct"] += 1
        return load(self, ys, xs, channels)

    def counted_dense(self, key):
        taken["dense"] += 1
        return dense(self, key)

    monkeypatch.setattr(chunks.StoredTiles, "load", counted_load)
    monkeypatch.setattr(CountsSource, "__getitem__", counted_dense)
    return taken


def gathered(ds):
    """All counts of a selection, as a pass sees them."""
    blocks = blocks_of(ds)
    out = np.zeros(blocks.shape, np.int64)

    def work(lane, parts):
        n = 0
        for block in parts:
            out[block.ys, block.xs] += to_dense(block.counts).reshape(*block.shape, -1)
            n += 1
        return n

    plan = Plan(Need("test", 0, 1), 10**9, 0, 2)
    return out, run_pass(blocks, work, lambda a, b: a + b, plan=plan)


SELECTIONS = {
    "whole": (slice(None), slice(None), slice(None)),
    "whole tiles": (slice(8, 40), slice(16, 64), slice(None)),
    "a window of energies": (slice(None), slice(None), slice(7, 43)),
    "anything": (slice(3, 66), slice(5, 97), slice(11, 12)),
}


@pytest.mark.parametrize("selection", SELECTIONS)
def test_a_selection_takes_the_fast_way_block_by_block(store, doors, selection):
    ys, xs, channels = SELECTIONS[selection]
    ds = open_map(store).isel({schema.Y: ys, schema.X: xs, schema.ENERGY: channels})
    counts, n_blocks = gathered(ds)
    np.testing.assert_array_equal(counts, COUNTS[ys, xs, channels])
    assert n_blocks >= len(range(*ys.indices(71))) * len(range(*xs.indices(101))) / SIDE**2
    assert doors == {"direct": n_blocks, "dense": 0}


def test_the_whole_map_is_read_tile_by_tile(store, doors):
    assert gathered(open_map(store))[1] == ROWS * COLUMNS
    assert doors["direct"] == ROWS * COLUMNS


def test_rechunking_and_energy_labels_are_selections_too(store, doors):
    ds = open_map(store).chunk({schema.Y: 17, schema.X: 5, schema.ENERGY: 13}).sel({schema.ENERGY: slice(0.05, 0.4)})
    counts, n_blocks = gathered(ds)
    energy = open_map(store)[schema.ENERGY].values
    np.testing.assert_array_equal(counts, COUNTS[:, :, (energy >= 0.05) & (energy <= 0.4)])
    assert doors == {"direct": n_blocks, "dense": 0}


@pytest.mark.parametrize("change", [lambda ds: ds * 2, lambda ds: ds.isel(y=slice(None, None, -1))])
def test_what_is_no_selection_goes_the_dense_way(store, doors, change):
    ds = open_map(store)[[schema.COUNTS]]
    counts, _ = gathered(change(ds))
    np.testing.assert_array_equal(counts, change(ds)[schema.COUNTS].values)
    assert doors["direct"] == 0
    assert doors["dense"] > 0
