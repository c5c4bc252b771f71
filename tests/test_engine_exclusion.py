"""Pixels and channels that are left out: set lazily, added up, and never read by a pass."""

import pickle
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.io import imsave

from eds_chunked import schema
from eds_chunked.engine import blocks as blocks_module
from eds_chunked.engine import scratch
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.exclusion import exclude
from eds_chunked.engine.lanes import run_pass, stream
from eds_chunked.engine.mask_file import read_pixel_mask
from eds_chunked.errors import ChunkLayoutError, CountsError, ParameterError
from eds_chunked.kernels.sparse import from_dense, keep, to_dense
from eds_chunked.memory import Need, Plan
from eds_chunked.store import conversion
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from tests.decomposition_maps import as_map, made_counts, ragged_chunks, with_dead
from tests.made_maps import MadeReader

SHAPE = (31, 47, 61)
COUNTS = with_dead(made_counts(SHAPE))
ENERGY = np.arange(61) * 0.02 - 0.1
PLAN = Plan(Need("test", 0, 1), 10**9, 0, 2)


def drawn_masks(shape=SHAPE, seed=0, share=0.3):
    """Pixels (y, x) and channels that are analysed, without any symmetry."""
    rng = np.random.default_rng(seed)
    pixels, channels = rng.random(shape[:2]) >= share, rng.random(shape[2]) >= share
    pixels[: shape[0] // 4, shape[1] // 2 :] = False
    return pixels, channels


def marked(ds, pixels, channels):
    """Return the map with the two coordinates set by hand."""
    return ds.assign_coords(
        {
            schema.ANALYSED_PIXEL: ((schema.Y, schema.X), pixels),
            schema.ANALYSED_CHANNEL: (schema.ENERGY, channels),
        }
    )


def read(blocks):
    """All that a pass is given (y, x, channels), and where pixels are said to be analysed."""
    counts = np.zeros((*blocks.shape[:2], blocks.n_channels), np.float64)
    used = np.zeros(blocks.shape[:2], bool)

    def work(lane, parts):
        for block in parts:
            counts[block.ys, block.xs] += to_dense(block.counts).reshape(*block.shape, -1)
            used[block.ys, block.xs] = True if block.used is None else block.used.reshape(block.shape)
            n = block.counts.n_pixels if block.used is None else int(block.used.sum())
            assert block.analysed_counts.n_pixels == n
            assert block.analysed_counts.value.sum() == block.counts.value.sum()
        return 1

    run_pass(blocks, work, lambda a, b: a + b, plan=PLAN)
    return counts, used


# ------------------------------------------------------------------------------------------------------------ kernel
@settings(max_examples=25, deadline=None)
@given(st.data())
def test_kernel_keeps_what_numpy_does(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    shape = data.draw(st.integers(1, 23)), data.draw(st.integers(1, 41))
    dtype = data.draw(st.sampled_from([np.uint8, np.uint32, np.float32]))
    block = (rng.poisson(0.7, shape) * rng.integers(1, 90, shape)).astype(dtype)
    pixels = data.draw(st.sampled_from([None, rng.random(shape[0]) < 0.6, np.zeros(shape[0], bool)]))
    channels = data.draw(st.sampled_from([None, rng.random(shape[1]) < 0.6]))
    if channels is not None:
        channels[-1] = True
    found = keep(from_dense(block), pixels=pixels, channels=channels)
    expected = block if channels is None else block[:, channels]
    expected = expected if pixels is None else expected * pixels[:, None]
    np.testing.assert_array_equal(to_dense(found), expected)
    assert found.n_channels == expected.shape[1]
    assert len(found.value) == len(found.channel) == np.count_nonzero(expected)


# ------------------------------------------------------------------------------------------------------------ blocks
@settings(max_examples=12, deadline=None)
@given(chunks=ragged_chunks(SHAPE), seed=st.integers(0, 99))
def test_blocks_hold_the_analysed_counts_for_drawn_chunks(chunks, seed):
    pixels, channels = drawn_masks(seed=seed)
    blocks = blocks_of(marked(as_map(COUNTS, chunks=chunks), pixels, channels))
    counts, used = read(blocks)
    np.testing.assert_array_equal(used, pixels)
    np.testing.assert_array_equal(counts, COUNTS[:, :, channels] * pixels[:, :, None])
    assert blocks.shape == SHAPE
    assert (blocks.n_pixels, blocks.n_used, blocks.n_channels) == (31 * 47, pixels.sum(), channels.sum())


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Tiles of 8 x 8 and lanes of 32 x 32 pixels: many of both in a small map."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (conversion, blocks_module, scratch):
            patch.setattr(module, "tile_shape", lambda n_channels: (8, 8, n_channels))
        store = tmp_path_factory.mktemp("exclusion") / "map.zarr"
        convert(MadeReader(COUNTS), store)
        yield store


@pytest.mark.parametrize(
    "box", [{}, {"y": slice(3, 30), "x": slice(5, 44), "energy": slice(2, 50)}], ids=["all", "box"]
)
def test_a_stored_map_and_its_selections_take_their_masks_along(store, box):
    pixels, channels = drawn_masks(seed=1)
    ds = marked(open_map(store), pixels, channels).isel(box).chunk(y=7, energy=13)
    ys, xs, es = (box.get(axis, slice(None)) for axis in ("y", "x", "energy"))
    counts, used = read(blocks_of(ds))
    np.testing.assert_array_equal(used, pixels[ys, xs])
    np.testing.assert_array_equal(counts, COUNTS[ys, xs][:, :, es][:, :, channels[es]] * pixels[ys, xs][:, :, None])
    whole = blocks_of(ds).of_all_pixels()
    np.testing.assert_array_equal(read(whole)[0], COUNTS[ys, xs][:, :, es][:, :, channels[es]])
    assert whole.n_used == whole.n_pixels
    np.testing.assert_array_equal(
        read(blocks_of(ds).of_all_channels())[0], COUNTS[ys, xs][:, :, es] * pixels[ys, xs][:, :, None]
    )


def test_stream_gives_the_same_as_a_pass(store):
    pixels, channels = drawn_masks(seed=2)
    blocks = blocks_of(marked(open_map(store), pixels, channels))
    used = np.zeros(SHAPE[:2], bool)
    total = 0
    for block in stream(blocks, plan=PLAN):
        used[block.ys, block.xs] = True if block.used is None else block.used.reshape(block.shape)
        total += int(block.counts.value.sum())
    np.testing.assert_array_equal(used, pixels)
    assert total == COUNTS[pixels][:, channels].sum()


def test_masks_that_leave_nothing_out_are_none(store):
    ds = marked(open_map(store), np.ones(SHAPE[:2], bool), np.ones(61, bool))
    masked, plain = blocks_of(ds), blocks_of(open_map(store))
    assert masked.pixels is None
    assert masked.channels is None
    assert masked.identity == plain.identity
    assert masked.bytes_of_a_block == plain.bytes_of_a_block


def test_what_is_left_out_is_part_of_the_identity_and_of_the_memory(store):
    pixels, channels = drawn_masks(seed=3)
    ds = open_map(store)
    plain = blocks_of(ds)
    other = channels.copy()
    other[np.flatnonzero(other)[0]] = False
    all_pixels, all_channels = np.ones(SHAPE[:2], bool), np.ones(61, bool)
    several = [
        blocks_of(marked(ds, *masks))
        for masks in ((pixels, all_channels), (all_pixels, channels), (pixels, channels), (pixels, other))
    ]
    assert len({blocks.identity for blocks in [plain, *several]}) == 5
    # A second CSR of the window.
    assert several[2].bytes_of_a_block == plain.bytes_of_a_block + 64 * 61 * (1 + 2)
    # Transposed masks have the same bits.
    square = ds.isel(x=slice(0, 31))
    bits = np.zeros((31, 31), bool)
    bits[3, 5] = True
    assert blocks_of(marked(square, bits, channels)).identity != blocks_of(marked(square, bits.T, channels)).identity


def test_a_lane_gets_its_piece_of_the_mask_only():
    pixels, channels = np.ones((300, 301), bool), np.ones(5, bool)
    pixels[7, 11] = False
    rng = np.random.default_rng(0)
    ds = marked(as_map(rng.poisson(0.3, (300, 301, 5)).astype(np.uint8)), pixels, channels)
    blocks = blocks_of(ds)
    lanes = blocks.lanes()
    assert len(lanes) > 1
    for lane in lanes:
        piece = blocks.of_lane(lane).pixels
        assert piece.used.shape == lane.shape
        assert len(pickle.dumps(piece)) < lane.shape[0] * lane.shape[1] + 500
        np.testing.assert_array_equal(piece.used, pixels[lane.ys, lane.xs])


def test_spread_puts_spectra_back_on_the_whole_axis():
    pixels, channels = drawn_masks(seed=4)
    blocks = blocks_of(marked(as_map(COUNTS), pixels, channels))
    spectra = np.arange(2.0 * channels.sum()).reshape(2, -1)
    whole = blocks.spread(spectra)
    assert whole.shape == (2, 61)
    np.testing.assert_array_equal(whole[:, channels], spectra)
    assert np.isnan(whole[:, ~channels]).all()
    plain = blocks_of(as_map(COUNTS))
    assert plain.spread(whole) is whole


def test_wrong_values_matter_where_they_are_analysed_only():
    counts = COUNTS.astype(np.float32)
    counts[3, 5, 7] = np.nan
    pixels, channels = np.ones(SHAPE[:2], bool), np.ones(61, bool)
    channels[2:5] = False
    with pytest.raises(CountsError, match="y 3, x 5, channel 7"):
        read(blocks_of(marked(as_map(counts), pixels, channels)))
    without = channels.copy()
    without[7] = False
    assert read(blocks_of(marked(as_map(counts), pixels, without)))[0].sum() == COUNTS[:, :, without].sum()
    pixels[3, 5] = False
    expected = COUNTS[:, :, channels].sum() - COUNTS[3, 5, channels].sum()
    assert read(blocks_of(marked(as_map(counts), pixels, channels)))[0].sum() == expected


# ----------------------------------------------------------------------------------------------------------- exclude
def test_energies_are_left_out_by_the_centres_of_channels():
    ds = as_map(COUNTS)
    found = exclude(ds, energy=[(0.3, 0.4), (1.0, np.inf)])
    # 0.3 and 0.4 are channels, and both in, however they are rounded.
    np.testing.assert_array_equal(np.flatnonzero(~found[schema.ANALYSED_CHANNEL]), [*range(20, 26), *range(55, 61)])
    assert schema.ANALYSED_PIXEL not in found.coords
    assert found[schema.ANALYSED_CHANNEL].attrs == schema.attributes(schema.ANALYSED_CHANNEL)
    np.testing.assert_array_equal(found[schema.COUNTS], ds[schema.COUNTS])
    only_channels = ds.drop_vars(schema.ENERGY)
    assert np.flatnonzero(~exclude(only_channels, energy=[(3, 5.4)])[schema.ANALYSED_CHANNEL]).tolist() == [3, 4, 5]


def test_calls_add_up_and_follow_selections():
    ds = as_map(COUNTS)
    first, second = np.zeros(SHAPE[:2], bool), np.zeros(SHAPE[:2], bool)
    first[3:9, 2:5], second[:, 40:] = True, True
    found = exclude(exclude(ds, pixels=first, energy=[(0, 0.1)]), pixels=second, energy=[(0.5, 0.52)])
    np.testing.assert_array_equal(found[schema.ANALYSED_PIXEL], ~(first | second))
    assert np.flatnonzero(~found[schema.ANALYSED_CHANNEL]).tolist() == [5, 6, 7, 8, 9, 10, 30, 31]
    part = found.isel(y=slice(4, 20), x=slice(3, 45), energy=slice(6, 40))
    np.testing.assert_array_equal(part[schema.ANALYSED_PIXEL], ~(first | second)[4:20, 3:45])
    counts, used = read(blocks_of(part))
    np.testing.assert_array_equal(used, ~(first | second)[4:20, 3:45])
    assert counts.shape[2] == 34 - 5 - 2
    assert exclude(ds).equals(ds)


@pytest.mark.parametrize("kind", ["numpy", "DataArray", "transposed", "dask"])
def test_masks_may_come_in_any_container(kind):
    pixels = ~drawn_masks(seed=5)[0]
    ds = as_map(COUNTS)
    whole = xr.DataArray(pixels, dims=("y", "x"), coords={"y": ds["y"], "x": ds["x"]})
    given_mask = {
        "numpy": pixels,
        "DataArray": whole,
        "transposed": whole.transpose("x", "y"),
        "dask": da.from_array(pixels, chunks=(7, 13)),
    }[kind]
    with dask.config.set(scheduler=_refuse):
        found = exclude(ds, pixels=given_mask)
    np.testing.assert_array_equal(found[schema.ANALYSED_PIXEL], ~pixels)
    np.testing.assert_array_equal(read(blocks_of(found))[1], ~pixels)


def _refuse(*args, **kwargs):
    raise AssertionError("something was computed")


def test_min_counts_are_those_of_the_survey(store):
    ds = open_map(store)
    total = COUNTS.sum(axis=2)
    limit = int(np.median(total))
    with dask.config.set(scheduler=_refuse):
        found = exclude(ds, min_counts=limit)
        narrow = exclude(ds.isel(energy=slice(0, 5)), min_counts=limit)
    np.testing.assert_array_equal(found[schema.ANALYSED_PIXEL], total >= limit)
    # Whatever energies are selected.
    np.testing.assert_array_equal(narrow[schema.ANALYSED_PIXEL], total >= limit)
    in_memory = exclude(as_map(COUNTS).isel(energy=slice(0, 9)), min_counts=3)
    np.testing.assert_array_equal(in_memory[schema.ANALYSED_PIXEL], COUNTS[..., :9].sum(axis=2) >= 3)
    with pytest.raises(ParameterError, match=r"min_counts: found lazy counts without 'total_counts'"):
        exclude(as_map(COUNTS, chunks=(9, 9, 61)), min_counts=3)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ({"energy": (1.0, 1.1)}, r"energy to leave out: found \(1.0, 1.1\), expected a list of windows"),
        ({"energy": [(1.1, 1.0)]}, "low first"),
        ({"energy": [(1,)]}, "a list of windows"),
        ({"energy": [(np.nan, 1)]}, "a list of windows"),
        ({"energy": [(3, 5)]}, r"3 to 5, where there is no channel, expected a part of -0.1 to 1.1 keV"),
        ({"energy": [(0.501, 0.519)]}, "where there is no channel"),
        ({"energy": [(-1, 9)]}, "channels to analyse: found none of 61"),
        ({"min_counts": 0}, "min_counts: found 0"),
        ({"min_counts": "many"}, "min_counts: found 'many'"),
        ({"min_counts": 10**9}, "pixels to analyse: found none of 1457"),
        ({"pixels": np.ones(SHAPE[:2], bool)}, "pixels to analyse: found none"),
        ({"pixels": np.zeros(SHAPE[:2], np.uint8)}, "pixels: found values of uint8.*mask > 0"),
    ],
)
def test_wrong_parameters_are_refused(what, message):
    with pytest.raises(ParameterError, match=message):
        exclude(as_map(COUNTS), **what)


def test_masks_of_another_grid_are_refused():
    ds = as_map(COUNTS)
    with pytest.raises(ChunkLayoutError, match=r"mask of shape \(47, 31\), expected \(31, 47\)"):
        exclude(ds, pixels=np.zeros((47, 31), bool))
    moved = xr.DataArray(np.zeros(SHAPE[:2], bool), dims=("y", "x"), coords={"y": ds["y"] + 1, "x": ds["x"]})
    with pytest.raises(ChunkLayoutError, match="pixels along y: found 31 pixels at other positions"):
        exclude(ds, pixels=moved)
    with pytest.raises(ChunkLayoutError, match="dimensions"):
        exclude(ds, pixels=moved.rename(y="row").drop_vars("row"))


def test_nothing_left_is_told_by_every_reader():
    ds = as_map(COUNTS)
    none = marked(ds, np.zeros(SHAPE[:2], bool), np.ones(61, bool))
    with pytest.raises(ParameterError, match=r"pixels to analyse: found none of 1457.*drop_vars\('analysed_pixel'\)"):
        blocks_of(none)
    # What is left of the map may lie outside of the selection.
    part = exclude(ds, energy=[(0.5, 2)]).isel(energy=slice(40, 50))
    with pytest.raises(ParameterError, match="channels to analyse: found none of 10"):
        blocks_of(part)
    with pytest.raises(ParameterError, match="analysed_pixel: found values of int64"):
        blocks_of(marked(ds, np.ones(SHAPE[:2], int), np.ones(61, bool)))


# -------------------------------------------------------------------------------------------------------- mask files
def test_masks_from_files(tmp_path):
    mask = drawn_masks(seed=6)[0]
    grey = mask.astype(np.uint8) * 200
    np.save(tmp_path / "mask.npy", mask)
    np.save(tmp_path / "numbers.npy", np.where(mask, -2.5, 0))
    imsave(tmp_path / "grey.png", grey, check_contrast=False)
    imsave(tmp_path / "grey.tif", grey, check_contrast=False)
    zero = np.zeros_like(grey)
    imsave(tmp_path / "rgb.png", np.stack([zero, grey, zero], axis=2), check_contrast=False)
    # Opaque everywhere.
    imsave(tmp_path / "rgba.png", np.stack([zero, zero, grey, zero + 255], axis=2), check_contrast=False)
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(read_pixel_mask(path, SHAPE[:2]), mask, err_msg=path.name)


def test_files_that_are_no_masks_are_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"mask nowhere\.png: found no such file"):
        read_pixel_mask(tmp_path.relative_to(tmp_path) / "nowhere.png", SHAPE[:2])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "text.npy").write_text("not an array")
    for name in ("text.png", "text.npy"):
        with pytest.raises(ParameterError, match="a file that cannot be read"):
            read_pixel_mask(tmp_path / name, SHAPE[:2])
    np.save(tmp_path / "words.npy", np.array(["a"]))
    with pytest.raises(ParameterError, match="values of <U1"):
        read_pixel_mask(tmp_path / "words.npy", SHAPE[:2])
    np.save(tmp_path / "turned.npy", np.ones((47, 31), bool))
    with pytest.raises(ParameterError, match="found 47 x 31 values, expected 31 x 47 pixels"):
        read_pixel_mask(tmp_path / "turned.npy", SHAPE[:2])


# ----------------------------------------------------------------------------------------------------------- cluster
def test_a_cluster_reads_the_same(store, tmp_path):
    distributed = pytest.importorskip("distributed")
    pixels, channels = drawn_masks(seed=7)
    ds = marked(open_map(store), pixels, channels)

    def sums(lane, parts):
        return sum(int(block.counts.value.sum()) for block in parts)

    with (
        warnings.catch_warnings(),
        dask.config.set({"distributed.worker.use-file-locking": False, "temporary-directory": str(tmp_path)}),
    ):
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None) as cluster,
            distributed.Client(cluster),
        ):
            found = run_pass(blocks_of(ds), sums, lambda a, b: a + b, plan=PLAN)
    assert found == COUNTS[pixels][:, channels].sum()
