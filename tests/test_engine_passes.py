"""Passes over the counts: every pixel once, and one answer for every chunking, thread and worker."""

import sys
import threading
import time
import warnings
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds_chunked import schema
from eds_chunked.engine import blocks as blocks_module
from eds_chunked.engine import scratch
from eds_chunked.engine.blocks import ArraySource, blocks_of
from eds_chunked.engine.lanes import run_pass, stream
from eds_chunked.errors import ChunkLayoutError, CountsError, ParameterError, StoreError
from eds_chunked.kernels.reduce import channel_sums, pixel_sums, weighted_channel_sums
from eds_chunked.kernels.sparse import to_dense
from eds_chunked.memory import Need, Plan
from eds_chunked.store import conversion
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.source import CountsSource
from tests.made_maps import MadeReader, made_counts

SHAPE = (71, 101, 61)
COUNTS = made_counts(SHAPE)
SIDE = 8


@pytest.fixture(scope="module")
def small_tiles():
    """Tiles of 8 x 8 and lanes of 32 x 32 pixels: many of both in a small map."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (conversion, blocks_module, scratch):
            patch.setattr(module, "tile_shape", lambda n_channels: (SIDE, SIDE, n_channels))
        yield


@pytest.fixture(scope="module")
def store(small_tiles, tmp_path_factory):
    store = tmp_path_factory.mktemp("engine") / "map.zarr"
    convert(MadeReader(COUNTS), store)
    return store


@pytest.fixture
def ds(store):
    return open_map(store)[[schema.COUNTS]]


def planned(workers):
    return Plan(Need("test", 0, 1), 10**9, 0, workers)


def work_sums(lane, blocks):
    """Exact sums, and a floating-point sum whose last bits depend on the order."""
    spectrum, weighted, squares, pixels = 0, 0.0, 0.0, []
    for block in blocks:
        spectrum = spectrum + channel_sums(block.counts)
        weighted = weighted + weighted_channel_sums(block.counts, 1 / (1 + np.arange(block.counts.n_pixels)) / 3)
        squares += float(np.sqrt(pixel_sums(block.counts)).sum())
        pixels.append((block.ys.start, block.xs.start))
    return spectrum, weighted, squares, pixels


def join_sums(left, right):
    return tuple(a + b for a, b in zip(left, right, strict=True))


def sums(ds, workers=2):
    return run_pass(blocks_of(ds), work_sums, join_sums, plan=planned(workers))


def work_seen(lane, blocks, *, out):
    for block in blocks:
        assert lane.ys.start <= block.ys.start < block.ys.stop <= lane.ys.stop
        assert lane.xs.start <= block.xs.start < block.xs.stop <= lane.xs.stop
        assert block.counts.n_pixels == block.shape[0] * block.shape[1]
        out[block.ys, block.xs] += to_dense(block.counts).reshape(*block.shape, -1)
    return 1


def seen(ds, workers=2):
    """What the pass was given, each pixel put (added) where the block says that it is."""
    out = np.zeros(ds[schema.COUNTS].shape, float)
    run_pass(blocks_of(ds), partial(work_seen, out=out), lambda a, b: a + b, plan=planned(workers))
    return out


def ragged(length):
    """Chunk lengths that add up to ``length``."""
    cuts = st.sets(st.integers(1, length - 1), max_size=4) if length > 1 else st.just(set())
    return cuts.map(lambda inner: tuple(np.diff([0, *sorted(inner), length]).tolist()))


def drawn_box(data):
    firsts = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    lasts = [data.draw(st.integers(first + 1, n)) for first, n in zip(firsts, SHAPE, strict=True)]
    return tuple(map(slice, firsts, lasts))


many = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@many
@given(st.data())
def test_every_pixel_comes_once_for_drawn_selections_and_chunks(ds, scratches, data):
    box = drawn_box(data)
    ds = ds.isel(dict(zip(("y", "x", "energy"), box, strict=True)))
    chunks = tuple(data.draw(ragged(n)) for n in ds[schema.COUNTS].shape)
    assert np.array_equal(seen(ds.chunk(dict(zip(("y", "x", "energy"), chunks, strict=True)))), COUNTS[box])
    assert scratches == []


@pytest.fixture(autouse=True)
def scratches(monkeypatch):
    """The scratch stores that a test made."""
    made: list[str] = []
    original = scratch.scratch_folder
    monkeypatch.setattr(scratch, "scratch_folder", lambda: made.append(original()) or made[-1])
    return made


def test_lanes_are_squares_of_tiles_from_the_corner_of_the_selection(ds):
    blocks = blocks_of(ds.isel(y=slice(3, 50), x=slice(6, 80)))
    assert (blocks.shape, blocks.n_pixels, blocks.n_channels, blocks.lane_side) == ((47, 74, 61), 47 * 74, 61, 32)
    assert [(lane.ys.start, lane.xs.start) for lane in blocks.lanes()] == [(y, x) for y in (0, 32) for x in (0, 32, 64)]
    assert sum(lane.shape[0] * lane.shape[1] for lane in blocks.lanes()) == blocks.n_pixels
    # Within a lane the blocks end where the tiles of the store do.
    rows = sorted({(ys.start, ys.stop) for ys, _ in blocks.pieces(blocks.lanes()[0])})
    assert rows == [(0, 5), (5, 13), (13, 21), (21, 29), (29, 32)]
    assert blocks.are_counts


CHUNKS = [
    {},
    {"y": 7, "x": 13},
    {"y": 71, "x": 101},
    {"energy": 10},
    {"y": 1},
    {"y": 50, "x": 1, "energy": 47},
]


@pytest.mark.parametrize(
    "box", [{}, {"y": slice(3, 60), "x": slice(5, 97), "energy": slice(2, 50)}], ids=["all", "box"]
)
def test_the_answer_is_the_same_to_the_bit_for_every_chunking_and_thread(ds, scratches, box):
    expected = sums(ds.isel(box), workers=1)
    assert np.array_equal(expected[0], ds.isel(box)[schema.COUNTS].values.sum(axis=(0, 1), dtype=np.uint64))
    for number, chunks in enumerate(CHUNKS):
        found = sums(ds.isel(box).chunk(chunks), workers=2 - number % 2)
        assert np.array_equal(found[0], expected[0])
        assert np.array_equal(found[1], expected[1])
        assert found[2:] == expected[2:]
    assert scratches == []


def test_counts_in_memory_and_staged_counts_give_the_same_sums(ds):
    expected = COUNTS.sum(axis=(0, 1), dtype=np.uint64)
    numpy_backed = ds.compute()
    ours = {
        "numpy": numpy_backed,
        "numpy u2": numpy_backed.astype(np.uint16),
        "big endian": numpy_backed.astype(">u4"),
        "signed": numpy_backed.astype(np.int32),
        "dask of another": numpy_backed.chunk(y=9, x=50, energy=7),
        "persisted": ds.persist(),
        "staged": ds * 1,
        "staged sum": ds.astype(np.uint16) + 0,
        "reversed": ds.isel(y=slice(None, None, -1), x=slice(None, None, -1)),
        "a map of floats": numpy_backed.astype(np.float32),
        "half precision": numpy_backed.astype(np.float16),
    }
    for name, other in ours.items():
        assert np.array_equal(sums(other)[0], expected), name
    assert np.array_equal(sums(ds.astype(np.uint16) * 2)[0], 2 * expected)


def test_what_was_computed_first_comes_where_it_belongs(ds, scratches):
    assert np.array_equal(seen(ds.isel(y=slice(None, None, -2), x=slice(3, 90, 3))), COUNTS[::-2, 3:90:3])
    assert len(scratches) == 1
    kept = COUNTS.sum(axis=2) > 3
    assert np.array_equal(seen(ds.where(xr.DataArray(kept, dims=("y", "x")), 0)), COUNTS * kept[:, :, None])
    swapped = ds.transpose("x", "y", "energy").rename(x="y", y="x")
    assert np.array_equal(seen(swapped), COUNTS.transpose(1, 0, 2))
    assert np.array_equal(seen(ds.compute().isel(y=slice(None, None, -1))), COUNTS[::-1])


def test_lanes_are_joined_in_their_order(ds):
    def first_pixel(lane, blocks):
        list(blocks)
        # The first lanes take longest.
        time.sleep(0.002 * (16 - lane.ys.start // 8 - lane.xs.start // 16))
        return [(lane.ys.start, lane.xs.start)]

    for workers in (1, 2, 4):
        found = run_pass(blocks_of(ds), first_pixel, lambda a, b: a + b, plan=planned(workers))
        assert found == [(y, x) for y in (0, 32, 64) for x in (0, 32, 64, 96)]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_more_lanes_run_at_once_than_planned(ds, workers):
    lock, running, most = threading.Lock(), [0], [0]

    def held(lane, blocks):
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        for _ in blocks:
            pass
        with lock:
            running[0] -= 1
        return 1

    assert run_pass(blocks_of(ds), held, lambda a, b: a + b, plan=planned(workers)) == 12
    assert most[0] == workers


def test_results_of_lanes_do_not_pile_up(ds):
    """Each result is joined soon after it was made: memory does not grow with the number of lanes."""
    lock, alive, most = threading.Lock(), [0], [0]

    class Result:
        def __init__(self):
            with lock:
                alive[0] += 1
                most[0] = max(most[0], alive[0])

        def __del__(self):
            with lock:
                alive[0] -= 1

    def result(lane, blocks):
        time.sleep(0.005 * (1 + (lane.xs.start // 32) % 2))
        return Result()

    run_pass(blocks_of(ds), result, lambda a, b: Result(), plan=planned(2))
    # Two in work, the sum so far, the next sum, and one that waits for it.
    assert most[0] <= 6


def test_an_error_in_a_lane_comes_out_as_itself(ds):
    class OwnError(Exception):
        pass

    def fails(lane, blocks):
        for block in blocks:
            if block.ys.start >= 32:
                raise OwnError(f"at {block.ys.start}")
        return 1

    for workers in (1, 2):
        with pytest.raises(OwnError, match="at 32"):
            run_pass(blocks_of(ds), fails, lambda a, b: a + b, plan=planned(workers))
    # And the next pass works.
    assert np.array_equal(sums(ds)[0], COUNTS.sum(axis=(0, 1), dtype=np.uint64))


def test_stream_gives_every_block_once_in_order(ds):
    blocks = blocks_of(ds.isel(y=slice(3, 60), x=slice(5, 97)))
    expected = [piece for lane in blocks.lanes() for piece in blocks.pieces(lane)]
    for workers in (1, 2, 5):
        out = np.zeros(blocks.shape, int)
        found = []
        for block in stream(blocks, plan=planned(workers)):
            found.append((block.ys, block.xs))
            out[block.ys, block.xs] += to_dense(block.counts).reshape(*block.shape, -1)
        assert found == expected
        assert np.array_equal(out, COUNTS[3:60, 5:97])


def test_stream_can_be_left_and_does_not_read_all_ahead(ds, monkeypatch):
    reads = []
    original = CountsSource.__getitem__
    monkeypatch.setattr(CountsSource, "__getitem__", lambda self, key: reads.append(key) or original(self, key))
    blocks = blocks_of(ds)
    reads.clear()
    for number, _ in enumerate(stream(blocks, plan=planned(2))):
        if number == 3:
            break
    assert len(reads) <= 4 + 2 + 1
    assert threading.active_count() < 50


def test_a_damaged_tile_stops_the_pass_and_is_named(tmp_path):
    convert(MadeReader(COUNTS), tmp_path / "map.zarr")
    ds = open_map(tmp_path / "map.zarr")
    tile = tmp_path / "map.zarr/map/counts/c/5/2/0"
    tile.write_bytes(tile.read_bytes()[:-7])
    for attempt in (lambda: sums(ds), lambda: list(stream(blocks_of(ds), plan=planned(2)))):
        with pytest.raises(
            StoreError, match=rf"tile at y 40:48, x 16:24, energy 0:61 of map/counts in {tmp_path}.*--overwrite"
        ):
            attempt()
    tile.unlink()
    with pytest.raises(StoreError, match=r"tile at y 40:48, x 16:24.*is absent"):
        sums(ds)
    assert np.array_equal(sums(ds.isel(y=slice(0, 40)))[0], COUNTS[:40].sum(axis=(0, 1), dtype=np.uint64))


@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
@pytest.mark.parametrize(
    ("value", "dtype"), [(np.nan, "f4"), (-1.0, "f8"), (np.inf, "f8"), (-np.inf, "f4"), (-3, "i2"), (np.nan, "f2")]
)
def test_values_that_no_count_can_have_are_refused(value, dtype, lazy):
    counts = COUNTS.astype(dtype)
    counts[33, 50, 7] = value
    ds = xr.Dataset({schema.COUNTS: (("y", "x", "energy"), counts)})
    with pytest.raises(CountsError, match=r"counts at y 33, x 50, channel 7: found -?(nan|inf|1|3).*at least 0"):
        sums(ds.chunk(y=20) if lazy else ds)


def test_fractions_are_kept_as_they_are():
    counts = (COUNTS * 0.25).astype(np.float32)
    ds = xr.Dataset({schema.COUNTS: (("y", "x", "energy"), counts)})
    assert not blocks_of(ds).are_counts
    np.testing.assert_allclose(sums(ds)[0], counts.sum(axis=(0, 1), dtype=float), rtol=1e-12)


def test_signed_counts_become_unsigned():
    ds = xr.Dataset({schema.COUNTS: (("y", "x", "energy"), COUNTS.astype(np.int64))})
    blocks = blocks_of(ds)
    assert blocks.are_counts
    assert isinstance(blocks.source, ArraySource)
    assert {block.counts.value.dtype for block in stream(blocks, plan=planned(1))} == {np.dtype(np.uint64)}


@pytest.mark.parametrize("empty", [{"y": slice(0, 0)}, {"energy": slice(5, 5)}])
def test_an_empty_selection_is_refused(ds, empty):
    with pytest.raises(ParameterError, match=r"selection of counts: found .*at least one pixel and one channel"):
        blocks_of(ds.isel(empty))


def test_what_are_no_counts_is_refused(ds):
    with pytest.raises(ChunkLayoutError, match="variable 'counts'"):
        blocks_of(ds.drop_vars(schema.COUNTS))
    with pytest.raises(ChunkLayoutError, match="found dimensions"):
        blocks_of(ds.isel(y=3))
    with pytest.raises(ChunkLayoutError, match="found dimensions"):
        blocks_of(ds.transpose("x", "y", "energy"))
    for dtype in (bool, complex, "U3"):
        with pytest.raises(CountsError, match="expected numbers"):
            blocks_of(ds.astype(dtype))


def test_a_cut_window_costs_the_memory_of_a_whole_tile(ds):
    whole, cut = blocks_of(ds), blocks_of(ds.isel(energy=slice(0, 5)))
    assert whole.bytes_of_a_block == 64 * 61 * (2 + 1 + 2)
    # The tile compressed and inflated, all of it as CSR, and the window's CSR.
    assert cut.bytes_of_a_block == 64 * 61 * 2 + 64 * 61 * 3 + 64 * 5 * 3


def test_a_cluster_gives_equal_sums(ds, tmp_path):
    distributed = pytest.importorskip("distributed")
    expected = sums(ds, workers=1)
    with (
        warnings.catch_warnings(),
        dask.config.set({"distributed.worker.use-file-locking": False, "temporary-directory": str(tmp_path)}),
    ):
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster) as client,
        ):
            for other in (ds, ds.chunk(y=13, x=101), ds.compute()):
                found = sums(other)
                assert np.array_equal(found[0], expected[0])
            assert np.array_equal(sums(ds.chunk(y=13))[1], expected[1])
            workers = client.run(lambda: "eds_chunked.engine.lanes" in sys.modules)
            assert list(workers.values()) == [True, True]
            with pytest.raises(CountsError, match=r"counts at y \d+, x \d+, channel 0: found nan"):
                sums(ds * np.nan)


def test_lazy_maps_stay_lazy_and_a_task_has_its_piece(ds):
    """dask does not look into tasks: it would compute what is lazy in them, all of it before the first lane."""
    blocks = blocks_of(ds)
    lazy = da.map_blocks(lambda: 1 / 0, chunks=((50, 21), (101,)), dtype=float, meta=np.empty((0, 0)))

    def work(lane, its_blocks, piece):
        assert piece.shape == lane.shape
        return isinstance(piece, da.Array), sum(block.counts.n_pixels for block in its_blocks)

    found = run_pass(
        blocks,
        work,
        lambda a, b: (a[0] and b[0], a[1] + b[1]),
        plan=planned(2),
        maps=lambda lane: lazy[lane.ys, lane.xs],
    )
    assert found == (True, SHAPE[0] * SHAPE[1])


def test_lanes_may_be_strips(ds):
    blocks = blocks_of(ds)
    strips = [lane._replace(xs=slice(0, SHAPE[1])) for lane in blocks.lanes() if lane.xs.start == 0]
    seen = run_pass(blocks, work_sums, lambda a, b: (a[0] + b[0], 0, 0, a[3] + b[3]), plan=planned(2), lanes=strips)
    np.testing.assert_array_equal(seen[0], COUNTS.sum(axis=(0, 1), dtype=np.uint64))
    assert seen[3] == sorted(seen[3])
