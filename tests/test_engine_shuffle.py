"""Random batches: every pixel once an epoch, well mixed, and a function of the map and the seed alone."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds_chunked import memory, schema
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.engine.dose import filled_channels, mean_filled
from eds_chunked.engine.exclusion import exclude
from eds_chunked.engine.pixel_hash import random_keys
from eds_chunked.engine.shuffle import POOL_BLOCKS, block_order, pool_bytes, shuffled_batches
from eds_chunked.kernels.sparse import from_dense, to_dense
from eds_chunked.store.conversion import convert
from eds_chunked.store.source import CountsToCome
from tests.decomposition_maps import ArrayReader, as_map, made_counts, ragged_chunks

WIDE = made_counts((67, 269, 31), dose=9)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return convert(ArrayReader(WIDE), tmp_path_factory.mktemp("shuffle") / "wide.zarr")


def batches(ds, *, size=500, seed=0, epoch=0):
    blocks = blocks_of(ds)
    how = memory.plan(memory.Need("test", 0, blocks.bytes_of_a_block))
    return list(shuffled_batches(blocks, size=size, seed=seed, epoch=epoch, plan=how))


def order(ds, **options):
    return np.concatenate([batch.place for batch in batches(ds, **options)])


# ------------------------------------------------------------------------------------------------- every pixel once
@pytest.mark.parametrize("size", [1, 7, 500, 4096, 18023, 10**6])
def test_every_pixel_once_with_its_own_counts(size):
    counts = WIDE if size > 1 else WIDE[:3, :70]
    found = batches(as_map(counts), size=size)
    place = np.concatenate([batch.place for batch in found])
    np.testing.assert_array_equal(np.sort(place), np.arange(counts.shape[0] * counts.shape[1]))
    flat = counts.reshape(-1, counts.shape[2])
    for batch in found:
        np.testing.assert_array_equal(to_dense(batch.counts), flat[batch.place])


@given(height=st.integers(1, 150), width=st.integers(1, 150), size=st.integers(1, 3000))
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_batches_are_equal_to_a_pixel(height, width, size):
    counts = np.ones((height, width, 1), np.uint8)
    found = [len(batch.place) for batch in batches(as_map(counts), size=size)]
    assert sum(found) == height * width
    assert max(found) - min(found) <= 1
    assert max(found) <= size
    assert len(found) == 1 or min(found) >= size // 2


def test_what_is_left_out_is_in_no_batch(store):
    pixels = np.zeros(WIDE.shape[:2], bool)
    pixels[:, :130] = True  # whole blocks
    pixels[40:, 200:211] = True
    low, high = (float(store[schema.ENERGY][channel]) for channel in (4, 9))
    found = batches(exclude(store, pixels=pixels, energy=[(low, high)]), size=700)
    place = np.concatenate([batch.place for batch in found])
    np.testing.assert_array_equal(np.sort(place), np.flatnonzero(~pixels))
    flat = np.delete(WIDE, slice(4, 10), axis=2).reshape(pixels.size, -1)
    for batch in found:
        np.testing.assert_array_equal(to_dense(batch.counts), flat[batch.place])
    assert max(len(batch.place) for batch in found) <= 700


# ------------------------------------------------------------------------------------- of the map and the seed alone
def by_hand(height, width, tile, *, seed, epoch):
    """Return the order that is promised, by sorting lists."""
    tiles = [(y, x) for y in range(0, height, tile) for x in range(0, width, tile)]
    cells = {}
    for y, x in tiles:
        cells.setdefault((4 * y // height, 4 * x // width), []).append((int(key(y * width + x, seed, epoch)), y, x))
    turns = []
    for (row, column), members in cells.items():
        begin = (4 * row + column) * (5**0.5 - 1) / 2 % 1
        for number, (bits, y, x) in enumerate(sorted(members)):
            turns.append(((number + begin) / len(members), bits, y, x))
    turns.sort()
    places = []
    n_pools = -(-len(turns) // 16)
    for number in range(n_pools):
        pool = [
            row * width + column
            for _, _, y, x in turns[len(turns) * number // n_pools : len(turns) * (number + 1) // n_pools]
            for row in range(y, min(height, y + tile))
            for column in range(x, min(width, x + tile))
        ]
        places += sorted(pool, key=lambda place: int(key(place, seed, epoch)))
    return places


def key(place, seed, epoch):
    mask = 2**64 - 1
    z = (place * 0x9E3779B97F4A7C15 + (seed + 1) * 0xD1B54A32D192ED03 + epoch * 0xABC98388FB8FAC03) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    return z ^ (z >> 31)


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (7, 3), (2**32 - 1, 1)])
def test_the_order_is_the_one_promised(seed, epoch):
    counts = np.ones((391, 533, 1), np.uint8)  # 63 blocks, four pools
    assert blocks_of(as_map(counts)).source.tile[0] == 64
    found = order(as_map(counts), size=4096, seed=seed, epoch=epoch)
    np.testing.assert_array_equal(found, by_hand(391, 533, 64, seed=seed, epoch=epoch))


def test_keys_are_those_of_splitmix64():
    place = np.array([0, 1, 12345, 2**31, 2**40 + 7])
    expected = [key(int(one), 5, 2) for one in place]
    assert random_keys(place, seed=5, epoch=2).tolist() == expected
    assert len(set(random_keys(np.arange(10**5), seed=0).tolist())) == 10**5


def test_seed_and_epoch_give_other_orders():
    ds = as_map(WIDE)
    first = order(ds)
    np.testing.assert_array_equal(order(ds), first)
    for other in (order(ds, seed=1), order(ds, epoch=1)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 0.05


def test_chunks_and_place_of_the_counts_do_not_matter(store):
    expected = order(as_map(WIDE))
    np.testing.assert_array_equal(order(store), expected)

    @settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ragged_chunks(WIDE.shape))
    def check(chunks):
        np.testing.assert_array_equal(order(as_map(WIDE, chunks=chunks)), expected)

    check()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_number_of_workers_does_not_matter(workers, monkeypatch):
    monkeypatch.setattr(memory, "n_cpus", lambda: workers)
    np.testing.assert_array_equal(order(as_map(WIDE)), by_hand(67, 269, 64, seed=0, epoch=0))


@pytest.mark.parametrize(("y", "x"), [(0, 0), (13, 57), (63, 64)])
def test_a_window_has_its_own_pixels_once(store, y, x):
    found = batches(store.isel(y=slice(y, None), x=slice(x, 251)), size=600)
    part = WIDE[y:, x:251]
    place = np.concatenate([batch.place for batch in found])
    np.testing.assert_array_equal(np.sort(place), np.arange(part.shape[0] * part.shape[1]))
    for batch in found:
        np.testing.assert_array_equal(to_dense(batch.counts), part.reshape(-1, part.shape[2])[batch.place])


# ---------------------------------------------------------------------------------------------------- well mixed
@pytest.mark.parametrize("along", ["y", "x"])
def test_every_batch_of_a_banded_map_has_all_bands(along):
    height, width = 1024, 960
    band = np.arange(height)[:, None] * 4 // height if along == "y" else np.arange(width) * 4 // width
    band = np.broadcast_to(band, (height, width))
    ds = as_map(np.ones((height, width, 1), np.uint8))
    shares = np.array(
        [np.bincount(band.ravel()[batch.place], minlength=4) / len(batch.place) for batch in batches(ds, size=4096)]
    )
    # Blocks drawn at random would have a spread of 0.11, and tiles in their order one of 0.43.
    assert shares.std() < 0.06
    assert shares.min() > 0.08


def test_blocks_come_in_turns_from_all_over_the_map():
    ds = as_map(np.ones((1024, 1024, 1), np.uint8))
    places = np.array([(ys.start, xs.start) for ys, xs in block_order(blocks_of(ds), seed=4)])
    assert len({tuple(place) for place in places.tolist()}) == 256
    for first in range(0, 256, POOL_BLOCKS):
        cells = {tuple(cell) for cell in (places[first : first + POOL_BLOCKS] // 256).tolist()}
        assert len(cells) == 16
    # Within a cell at random: no pool is the same place of all cells.
    assert len({tuple(place) for place in (places % 256).tolist()[:16]}) > 8


# --------------------------------------------------------------------------------------------------------- memory
def test_a_pool_is_bounded_by_what_is_said_of_it(store):
    blocks = blocks_of(store)
    said = pool_bytes(blocks, filled_channels(store, blocks))
    csr = from_dense(WIDE.reshape(-1, WIDE.shape[2]))
    assert csr.channel.nbytes + csr.value.nbytes <= said / 2
    # A map of any size needs the same.
    small, large = (blocks_of(as_map(np.ones((side, side, 8), np.uint8))) for side in (256, 2048))
    assert pool_bytes(small, 2.0) == pool_bytes(large, 2.0)
    # What is not known is taken to be a quarter.
    assert filled_channels(as_map(WIDE), blocks_of(as_map(WIDE))) == WIDE.shape[2] / 4


def test_of_a_map_to_come_the_counts_that_are_stated_fall_on_a_quarter_of_the_channels():
    rng = np.random.default_rng(7)
    hit = [np.unique(rng.integers(0, 128, rng.poisson(90))).size for _ in range(2000)]
    given = (31, 37, 512), (16, 16, 512), np.dtype(np.uint8)
    stated, unknown = (
        Blocks(source, (0, 0, 0), source.shape)
        for source in (CountsToCome.of(*given, mean_counts=90.0), CountsToCome.of(*given))
    )
    assert mean_filled(stated) == pytest.approx(np.mean(hit), rel=0.01)
    assert mean_filled(unknown) == 128


def test_blocks_are_let_go_of_as_pools_are_used():
    """At no time are more blocks read than those of a pool and those read ahead."""
    read = []

    class Counting(type(blocks_of(as_map(WIDE)))):
        def load(self, ys, xs):
            read.append((ys, xs))
            return super().load(ys, xs)

    ds = as_map(np.ones((512, 640, 1), np.uint8))
    plain = blocks_of(ds)
    blocks = Counting(plain.source, plain.start, plain.stop)
    how = memory.plan(memory.Need("test", 0, 1), max_workers=2)
    found = shuffled_batches(blocks, size=4096, seed=0, plan=how)
    next(found)
    assert len(read) <= POOL_BLOCKS + how.workers
    for _ in found:
        pass
    assert len(read) == 80
