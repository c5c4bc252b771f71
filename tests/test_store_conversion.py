"""Converting: the store equals the array, whatever the reader's bands, and is there whole or not at all."""

import bz2
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked import memory, schema
from eds_chunked.errors import (
    CountsError,
    MemoryBudgetError,
    ParameterError,
    SourceError,
    StoreError,
    StoreExistsError,
)
from eds_chunked.kernels.sparse import Csr
from eds_chunked.memory import MB, parse_size
from eds_chunked.readers.base import Band
from eds_chunked.store import conversion
from eds_chunked.store.conversion import convert
from eds_chunked.store.layout import shard_shape, tile_shape
from eds_chunked.store.opening import open_map
from eds_chunked.store.provenance import fingerprint
from eds_chunked.store.survey import Survey, survey_tile
from tests.made_maps import MadeReader, made_counts

COUNTS = made_counts()


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 8 x 8 pixels, as a map of very many channels has them."""
    for module in (conversion,):
        monkeypatch.setattr(module, "tile_shape", lambda n_channels: (8, 8, n_channels))


def tile_files(store):
    return {p.relative_to(store).as_posix() for p in Path(store).glob("map/counts/c/*/*/*")}


def survey_of(counts):
    """The survey by NumPy on the whole array."""
    flat = counts.reshape(-1, counts.shape[2])
    owner = flat.argmax(axis=0)
    pixel = np.stack(np.divmod(owner, counts.shape[1]), axis=-1)
    pixel[flat.max(axis=0) == 0] = -1
    return {
        schema.SUM_SPECTRUM: flat.sum(axis=0, dtype=np.uint64),
        schema.MAX_SPECTRUM: flat.max(axis=0),
        schema.MAX_SPECTRUM_PIXEL: pixel,
        schema.TOTAL_COUNTS: counts.sum(axis=2, dtype=np.uint64),
    }


def check_whole(ds, counts):
    assert ds[schema.COUNTS].dims == (schema.Y, schema.X, schema.ENERGY)
    assert np.array_equal(ds[schema.COUNTS].values, counts)
    for name, expected in survey_of(counts).items():
        assert ds[name].dims == schema.VARIABLES[name].dims
        assert ds[name].dtype.kind == schema.VARIABLES[name].kind
        assert np.array_equal(ds[name].values, expected), name


@pytest.mark.parametrize(
    ("n_channels", "side"), [(1, 64), (61, 64), (2048, 64), (2049, 32), (4096, 32), (8192, 32), (8193, 16), (2**24, 1)]
)
def test_a_tile_is_a_square_of_at_most_32_mib(n_channels, side):
    assert tile_shape(n_channels) == (side, side, n_channels)
    assert 4 * side * side * n_channels <= 2 * 32 * 2**20


@pytest.mark.parametrize("csr", [False, True], ids=["dense", "csr"])
@pytest.mark.parametrize("rows", [None, 1, 5, 64, 70, 71])
def test_a_store_equals_the_array_for_bands_of_any_height(tmp_path, csr, rows):
    store = tmp_path / "map.zarr"
    ds = convert(MadeReader(COUNTS, csr=csr, rows=rows), store)
    check_whole(ds, COUNTS)
    assert ds[schema.COUNTS].dtype == np.uint8
    assert ds[schema.COUNTS].data.chunks == ((64, 7), (64, 37), (61,))
    assert tile_files(store) == {f"map/counts/c/{y}/{x}/0" for y in range(2) for x in range(2)}


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 97, 5), (97, 1, 3), (64, 64, 2), (65, 64, 7), (3, 5, 1)])
def test_maps_of_any_shape(tmp_path, shape):
    counts = np.random.default_rng(3).integers(0, 9, shape, dtype=np.uint16)
    counts[-1, -1, -1] = 7
    check_whole(convert(MadeReader(counts), tmp_path / "map.zarr"), counts)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(1, 19),
    st.integers(1, 23),
    st.integers(1, 7),
    st.integers(1, 20),
    st.booleans(),
    st.integers(0, 2**32),
    st.sampled_from(["counts", "zstd", "lz4"]),
    st.booleans(),
)
def test_drawn_maps_in_small_tiles(tmp_path_factory, height, width, n_channels, rows, csr, seed, codec, shards):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.3, (height, width, n_channels)).astype(np.uint32)
    counts[rng.integers(height), rng.integers(width), rng.integers(n_channels)] = rng.choice([1, 255, 256, 2**17])
    store = tmp_path_factory.mktemp("drawn") / "map.zarr"
    with pytest.MonkeyPatch.context() as patch:
        for module in (conversion,):
            patch.setattr(module, "tile_shape", lambda n: (8, 8, n))
        ds = convert(MadeReader(counts, csr=csr, rows=rows), store, codec=codec, shards=shards)
    check_whole(ds, counts)
    assert ds[schema.COUNTS].dtype == np.min_scalar_type(counts.max())
    assert len(tile_files(store)) == -(-height // 8) * -(-width // (128 if shards else 8))
    # Zarr reads the same by itself, and would write the same dtype and chunks.
    array = zarr.open_array(store, path="map/counts", mode="r")
    assert np.array_equal(array[:], counts)
    assert (array.chunks, array.shards) == ((8, 8, n_channels), (8, 128, n_channels) if shards else None)


def test_the_bytes_do_not_depend_on_the_bands(tmp_path, small_tiles):
    stores = {}
    for number, (rows, csr) in enumerate([(None, False), (1, False), (5, True), (71, False), (13, True)]):
        store = tmp_path / f"{number}.zarr"
        convert(MadeReader(COUNTS, rows=rows, csr=csr), store)
        stores[rows, csr] = {name: (store / name).read_bytes() for name in tile_files(store)}
        stores[rows, csr]["map"] = open_map(store).attrs[schema.FINGERPRINT]
    first = stores.pop((None, False))
    assert len(first) == 9 * 13 + 1
    assert all(other == first for other in stores.values())


@pytest.mark.parametrize(
    ("hot", "dtype"),
    [
        ({}, "u1"),
        ({70: 255}, "u1"),
        ({70: 256}, "u2"),
        ({9: 65535}, "u2"),
        ({70: 65536}, "u4"),
        ({20: 300, 70: 2**31}, "u4"),
    ],
)
@pytest.mark.parametrize("codec", ["counts", "zstd"])
def test_the_dtype_is_the_smallest_that_holds_the_true_maximum(tmp_path, small_tiles, hot, dtype, codec):
    counts = COUNTS.astype(np.uint32)
    for row, value in hot.items():
        counts[row, 37, 11] = value
    # The reader says that it gives 32 bits, and the mean is far below one: neither decides.
    ds = convert(MadeReader(counts, rows=8), tmp_path / "map.zarr", codec=codec)
    assert ds[schema.COUNTS].dtype == np.dtype(dtype)
    check_whole(ds, counts)
    assert ds[schema.MAX_SPECTRUM].dtype == np.dtype(dtype)


@pytest.mark.parametrize("codec", ["counts", "zstd"])
def test_a_count_beyond_32_bits_is_refused(tmp_path, codec):
    counts = COUNTS.astype(np.uint64)
    counts[70, 37, 11] = 2**32
    with pytest.raises(
        CountsError, match="found 4294967296 counts in one channel of a pixel, expected at most 4294967295"
    ):
        convert(MadeReader(counts), tmp_path / "map.zarr", codec=codec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n_tiles", "wanted", "width"),
    [(10_000, None, None), (10_001, None, 1024), (1, True, 1024), (10**6, False, None)],
)
def test_shards_are_one_row_of_tiles_high_and_sixteen_wide(n_tiles, wanted, width):
    shard = shard_shape((64, 64 * n_tiles, 2048), (64, 64, 2048), wanted=wanted)
    assert shard == (None if width is None else (64, width, 2048))


def test_an_unknown_codec_is_refused_before_anything(tmp_path):
    with pytest.raises(ParameterError, match="codec: found 'gzip', expected counts or zstd or lz4"):
        convert(MadeReader(COUNTS), tmp_path / "map.zarr", codec="gzip")
    assert list(tmp_path.iterdir()) == []


def test_a_selection_is_what_is_stored(tmp_path, small_tiles):
    with pytest.warns(UserWarning, match=r"made\.map: the bins leave out, at the end, 1 of the rows, 1 of the columns"):
        ds = convert(
            MadeReader(COUNTS, rows=7),
            tmp_path / "map.zarr",
            region=(slice(3, 70), slice(5, 98)),
            energy=(-0.055, 0.305),
            rebin=(3, 2, 1),
        )
    kept = COUNTS[3:69, 5:97, 5:41].astype(np.uint32)
    check_whole(ds, kept.reshape(22, 3, 46, 2, 36).sum(axis=(1, 3)))
    done = ds.attrs["history"][0]["parameters"]
    assert (done["rebin"], done["left_out"]) == ([3, 2, 1], {"rows": 1, "columns": 1})


def test_a_reader_that_stores_zeros_is_refused(tmp_path):
    class Zeros(MadeReader):
        def bands(self, rows, box=None):
            for band in super().bands(rows, box):
                value = band.counts.value.copy()
                value[-1] = 0
                yield Band(band.y0, band.rows, band.counts._replace(value=value))

    with pytest.raises(SourceError, match="found a band with zeros among its values, at row 0"):
        convert(Zeros(COUNTS, csr=True), tmp_path / "map.zarr")


def test_the_budget_reaches_a_format_that_is_loaded_to_be_described(tmp_path):
    (tmp_path / "a.elid").write_bytes(bz2.compress(bytes(30_000_000)))
    budget = memory.resident() + 50 * MB
    with pytest.raises(
        MemoryBudgetError, match=r"what a budget of .* leaves.*convert with a larger --memory, or export"
    ):
        convert(tmp_path / "a.elid", tmp_path / "map.zarr", memory=budget)
    with pytest.raises(SourceError, match=r"a\.elid"):  # it is none, which shows when it is loaded
        convert(tmp_path / "a.elid", tmp_path / "map.zarr", memory=budget + 200 * MB)


def test_the_first_pixel_in_raster_order_owns_the_maximum(tmp_path, small_tiles):
    counts = np.zeros((17, 19, 3), np.uint8)
    # In the order of the tiles (8, 3) comes first of the ties in channel 0, but (7, 12) does in the raster.
    for pixel in ((12, 1), (7, 12), (8, 3), (7, 18)):
        counts[(*pixel, 0)] = 9
    counts[16, 18, 1] = 1
    ds = convert(MadeReader(counts), tmp_path / "map.zarr")
    assert ds[schema.MAX_SPECTRUM_PIXEL].values.tolist() == [[7, 12], [16, 18], [-1, -1]]


def test_the_survey_does_not_depend_on_the_order_of_the_tiles():
    counts = np.random.default_rng(0).integers(0, 3, (4, 6, 5), dtype=np.uint8)
    tiles = [
        survey_tile(compressed(counts[y : y + 2, x : x + 3]), slice(y, y + 2), slice(x, x + 3), 6)
        for y in (0, 2)
        for x in (0, 3)
    ]
    expected = survey_of(counts)
    for order in itertools.permutations(tiles):
        survey = Survey(counts.shape)
        for tile in order:
            survey.add(tile)
        for name in expected:
            assert np.array_equal(getattr(survey, name), expected[name]), name


def compressed(block):
    flat = block.reshape(-1, block.shape[2])
    pixel, channel = np.nonzero(flat)
    indptr = np.searchsorted(pixel, np.arange(len(flat) + 1))
    return Csr(indptr, channel.astype(np.uint16), flat[pixel, channel], flat.shape[1])


def test_sums_are_exact_beyond_32_bits(tmp_path):
    counts = np.full((3, 5, 2), 2**32 - 1, np.uint32)
    counts[0, 0, 0] = 1
    ds = convert(MadeReader(counts), tmp_path / "map.zarr")
    check_whole(ds, counts)
    assert int(ds[schema.SUM_SPECTRUM][1]) == 15 * (2**32 - 1)


def test_every_tile_is_on_disk_even_where_all_is_zero(tmp_path, small_tiles):
    counts = np.zeros((30, 21, 4), np.uint8)
    counts[29, 20, 3] = 1
    check_whole(convert(MadeReader(counts), tmp_path / "map.zarr"), counts)
    assert len(tile_files(tmp_path / "map.zarr")) == 4 * 3


def test_zarr_and_xarray_read_the_store_without_this_package(tmp_path):
    store = tmp_path / "map.zarr"
    convert(
        MadeReader(COUNTS, beam_energy=15.0, elements=("Si", "Al"), live_time=12.5, metadata={"a": [1, {"b": None}]}),
        store,
    )
    assert np.array_equal(zarr.open_array(store, path="map/counts", mode="r")[:], COUNTS)
    ds = xr.open_zarr(store, group="map", consolidated=False)
    check_whole(ds, COUNTS)
    np.testing.assert_allclose(ds["y"], np.arange(71) * 0.5)
    np.testing.assert_allclose(ds["x"], np.arange(101) * 0.25)
    np.testing.assert_allclose(ds["energy"], -0.1 + 0.01 * np.arange(61))
    assert (ds["y"].attrs["units"], ds["energy"].attrs["units"]) == ("um", "keV")
    assert ds.attrs["beam_energy_kev"] == 15
    assert ds.attrs["elements"] == ["Si", "Al"]
    assert ds.attrs["live_time_s"] == 12.5
    assert ds.attrs["source_metadata"] == {"a": [1, {"b": None}]}
    assert "real_time_s" not in ds.attrs
    assert ds.attrs["history"][0]["what"] == "convert"
    assert ds.attrs["history"][0]["parameters"] == {"source": "made.map"}
    assert ds["counts"].attrs == {"long_name": "X-ray counts", "units": "counts"}


def test_without_calibration_the_axes_are_in_pixels_and_channels(tmp_path):
    ds = convert(MadeReader(COUNTS, pixel_size=None, energy_calibrated=False), tmp_path / "map.zarr")
    assert ds["y"].attrs["units"] == schema.UNCALIBRATED
    assert ds["energy"].attrs["units"] == schema.CHANNEL
    assert ds["x"].values.tolist() == list(range(101))


def test_electron_images_keep_their_own_grid(tmp_path):
    pixels = np.arange(35, dtype=np.uint16).reshape(5, 7)
    reader = MadeReader(COUNTS, images=[("BSE", pixels, (2.0, 3.0)), ("SE", pixels[:3] + 1, None)])
    convert(reader, tmp_path / "map.zarr")
    first, second = (
        xr.open_zarr(tmp_path / "map.zarr", group=f"{schema.IMAGES_GROUP}/{number}", consolidated=False)
        for number in (0, 1)
    )
    assert np.array_equal(first[schema.IMAGE], pixels)
    assert first["x"].values.tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert (first.attrs["title"], second.attrs["title"]) == ("BSE", "SE")
    assert second["y"].attrs["units"] == schema.UNCALIBRATED


def test_the_fingerprint_tells_maps_apart(tmp_path):
    first = convert(MadeReader(COUNTS), tmp_path / "a.zarr")
    assert convert(MadeReader(COUNTS, csr=True), tmp_path / "b.zarr").attrs[schema.FINGERPRINT] == fingerprint(first)
    changed = COUNTS.copy()
    changed[5, 6, 7] += 1
    for number, reader in enumerate(
        [MadeReader(changed), MadeReader(COUNTS, beam_energy=20.0), MadeReader(COUNTS, pixel_size=None)]
    ):
        other = convert(reader, tmp_path / f"{number}.zarr")
        assert other.attrs[schema.FINGERPRINT] != fingerprint(first)


def test_a_store_without_a_map_and_without_a_journal_says_so(tmp_path):
    store = tmp_path / "map.zarr"
    zarr.create_group(store, attributes={"format": "eds_chunked", "format_version": 1})
    with pytest.raises(StoreError, match=rf"store {store}: found a map whose conversion stopped before its first row"):
        open_map(store)
    check_whole(convert(MadeReader(COUNTS), store, resume=True), COUNTS)


def test_an_existing_store_is_replaced_only_when_asked(tmp_path):
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store)
    before = (store / "zarr.json").stat().st_mtime_ns
    with pytest.raises(StoreExistsError, match=rf"store {store}: found a store.*--overwrite"):
        convert(MadeReader(COUNTS[:3]), store)
    assert (store / "zarr.json").stat().st_mtime_ns == before
    smaller = COUNTS[:3, 5:50, :7] + np.uint8(1)
    opened = convert(MadeReader(smaller), store, overwrite=True)
    check_whole(opened, smaller)
    check_whole(open_map(store), smaller)
    assert tile_files(store) == {"map/counts/c/0/0/0"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_not_ours_is_never_deleted(tmp_path, overwrite):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("years of work")
    foreign = tmp_path / "foreign.zarr"
    zarr.create_array(foreign, shape=(3,), dtype="u1")[:] = 7
    group = tmp_path / "group.zarr"
    zarr.create_group(group, attributes={"format": "other"})
    file = tmp_path / "map.zarr"
    file.write_text("a file")
    broken = tmp_path / "broken.zarr"
    broken.mkdir()
    (broken / "zarr.json").write_text("{")
    for target in (folder, foreign, group, file, broken):
        before = sorted(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())
        with pytest.raises(StoreExistsError, match=rf"store {target}: found something that is no eds_chunked store"):
            convert(MadeReader(COUNTS), target, overwrite=overwrite)
        assert sorted(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file()) == before


def test_the_old_store_stays_where_the_new_one_cannot_begin(tmp_path):
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store)
    with pytest.raises(MemoryBudgetError):
        convert(MadeReader(COUNTS, peak=10**12), store, overwrite=True, memory="1GB")
    with pytest.raises(SourceError, match=r"shape \(0, 3, 2\)"):
        convert(MadeReader(np.zeros((0, 3, 2), np.uint8)), store, overwrite=True)
    check_whole(open_map(store), COUNTS)


def test_an_all_zero_map_is_an_error(tmp_path):
    with pytest.raises(CountsError, match=r"map in made\.map: found no counts in any pixel"):
        convert(MadeReader(np.zeros((9, 7, 5), np.uint16)), tmp_path / "map.zarr")
    assert list(tmp_path.iterdir()) == []


class Odd(MadeReader):
    """Gives the bands that it was made with."""

    def bands(self, rows, box=None):
        yield from self.odd


def dense(y0, rows, part):
    return Band(y0, rows, part)


ODD_BANDS = {
    "too few rows": [dense(0, 8, COUNTS[:8])],
    "none": [],
    "a gap": [dense(0, 8, COUNTS[:8]), dense(9, 62, COUNTS[9:])],
    "a row twice": [dense(0, 8, COUNTS[:8]), dense(7, 64, COUNTS[7:])],
    "another order": [dense(8, 63, COUNTS[8:]), dense(0, 8, COUNTS[:8])],
    "too many rows": [dense(0, 71, COUNTS), dense(71, 1, COUNTS[:1])],
    "columns and rows swapped": [dense(0, 71, COUNTS.transpose(1, 0, 2))],
    "other channels": [dense(0, 71, COUNTS[:, :, :60])],
    "floats": [dense(0, 71, COUNTS + 0.5)],
    "signed": [dense(0, 71, COUNTS.astype(np.int16) - 1)],
    "csr of too few pixels": [dense(0, 71, compressed(COUNTS[:70]))],
    "csr with a channel too many": [
        dense(0, 71, compressed(COUNTS)._replace(channel=np.full(np.count_nonzero(COUNTS), 61, "u2")))
    ],
}


@pytest.mark.parametrize("bands", ODD_BANDS.values(), ids=ODD_BANDS)
def test_a_reader_that_does_not_keep_to_its_header_makes_no_map(tmp_path, bands):
    reader = Odd(COUNTS)
    reader.odd = bands
    with pytest.raises(SourceError, match=r"map in made\.map: found .*row"):
        convert(reader, tmp_path / "map.zarr")
    assert list(tmp_path.iterdir()) == []


def test_counts_in_the_other_byte_order_are_the_same_counts(tmp_path):
    check_whole(convert(MadeReader(COUNTS.astype(">u2")), tmp_path / "map.zarr"), COUNTS)


def test_a_budget_that_is_too_small_names_the_one_that_works(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda: 200 * MB)
    reader = MadeReader(COUNTS)
    reader.peak_bytes = lambda rows, box=None: rows * 10 * MB
    with pytest.raises(MemoryBudgetError, match="memory for convert: found a budget of 250 MB") as refused:
        convert(reader, tmp_path / "map.zarr", memory="250MB")
    assert not os.listdir(tmp_path)
    named = refused.value.fix.removeprefix("--memory ")
    asked = []
    bands = reader.bands
    reader.bands = lambda rows, box=None: asked.append(rows) or bands(rows, box)
    check_whole(convert(reader, tmp_path / "map.zarr", memory=named), COUNTS)
    assert asked == [1]
    convert(reader, tmp_path / "b.zarr", memory=parse_size(named) + 4 * 70 * MB)
    assert asked == [1, 8]


def test_a_map_denser_than_planned_is_refused_with_what_it_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "resident", lambda: 200 * MB)
    counts = np.full((71, 4001, 61), 3, np.uint8)
    # Dense rows of tiles take ten times the staging that is planned for a map of 10 % non-zero values.
    with pytest.raises(MemoryBudgetError, match="memory for convert: found a budget") as refused:
        convert(MadeReader(counts[:, :1]), tmp_path / "map.zarr", memory="1MB")
    del refused
    with pytest.raises(MemoryBudgetError, match="of counts in the") as refused:
        convert(MadeReader(counts), tmp_path / "map.zarr", memory="325MB")
    assert not os.listdir(tmp_path)
    named = refused.value.fix.removeprefix("--memory ")
    check_whole(convert(MadeReader(counts), tmp_path / "map.zarr", memory=named), counts)
