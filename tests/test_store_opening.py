"""Opening a store: lazily, as a whole tree, and with one clear line where it is none or damaged."""

import json
import pickle
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr

from eds_chunked import schema
from eds_chunked.errors import StoreError, StoreNotFoundError
from eds_chunked.store import conversion, source
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map, open_tree
from eds_chunked.store.results import save
from tests.made_maps import MadeReader, made_counts, made_draft, made_result

COUNTS = made_counts((31, 23, 13))


@pytest.fixture
def store(tmp_path, monkeypatch):
    for module in (conversion,):
        monkeypatch.setattr(module, "tile_shape", lambda n_channels: (8, 8, n_channels))
    convert(MadeReader(COUNTS, images=[("BSE", COUNTS[:, :, 0], None)]), tmp_path / "map.zarr")
    return tmp_path / "map.zarr"


def test_opening_reads_no_counts(store, monkeypatch):
    def only_nothing(self, key):
        # dask asks for an array of no elements to learn its type.
        return (
            np.zeros((0, 0, 0), self.dtype)
            if all(k == slice(0, 0, None) for k in key)
            else pytest.fail("counts were read")
        )

    monkeypatch.setattr(source.CountsSource, "__getitem__", only_nothing)
    ds = open_map(store)
    assert ds.isel(y=slice(3, 9)).sel(energy=slice(-0.05, 0.01))[schema.COUNTS].shape == (6, 23, 7)
    assert ds.encoding["source"] == str(store)
    assert open_tree(store)["map"].sizes[schema.X] == 23


def test_any_selection_computes_what_numpy_selects(store):
    ds = open_map(store)[schema.COUNTS]
    for key in (
        np.s_[3:20, 5:17, 2:9],
        np.s_[::-1, ::3, ::-2],
        np.s_[[5, 3, 30]],
        np.s_[7],
        np.s_[..., 4],
        np.s_[30:2:-7],
    ):
        assert np.array_equal(ds[key].values, COUNTS[key])
    assert np.array_equal(ds.chunk(y=7, x=23, energy=5).values, COUNTS)
    assert np.array_equal(ds.sum("energy").values, COUNTS.sum(axis=2))


def test_the_map_travels_to_another_process(store):
    ds = pickle.loads(pickle.dumps(open_map(store)))
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)


def test_the_whole_tree_opens_with_results_over_windows_and_a_draft(store):
    ds = open_map(store)
    save(made_result(ds), store)
    # A crop, and the map rebinned: other sizes under the same names of dimensions.
    save(made_result(ds.isel(y=slice(3, 20), x=slice(0, 7)), run="crop"), store)
    save(made_result(ds.coarsen(y=2, x=2, boundary="trim").mean(), run="rebin"), store)
    tree = open_tree(store)
    assert set(tree["results/nmf"].children) == {"k2.r1", "crop.r1", "rebin.r1"}
    assert tree["results/nmf/crop.r1"].sizes["y"] == 17
    assert tree["images/0"][schema.IMAGE].shape == (31, 23)
    assert np.array_equal(tree["map/counts"].values, COUNTS)
    # Without this package, and without a warning.
    assert set(xr.open_datatree(store, engine="zarr", consolidated=False, chunks={}).children) == {
        "map",
        "images",
        "results",
    }
    results = xr.open_datatree(store, engine="zarr", group="results", consolidated=False, chunks={})
    assert set(results["nmf"].children) == {"k2.r1", "crop.r1", "rebin.r1"}
    kept = made_draft(ds)
    assert set(open_tree(store)["results/nmf"].children) == {"k2.r1", "crop.r1", "rebin.r1"}
    assert kept.sizes[schema.COMPONENT] == 2


def test_nothing_is_consolidated(store):
    save(made_result(open_map(store)), store)
    documents = [json.loads(path.read_text()) for path in store.rglob("zarr.json")]
    assert len(documents) > 10
    assert not any("consolidated_metadata" in document for document in documents)


def test_a_place_without_a_store_says_so(tmp_path):
    for place in (tmp_path / "none.zarr", tmp_path):
        with pytest.raises(
            StoreNotFoundError, match=rf"store {place}: found nothing.*eds-chunked convert SOURCE {place}"
        ):
            open_map(place)
    assert not (tmp_path / "none.zarr").exists()


def test_what_is_no_store_of_ours_says_so(tmp_path):
    zarr.create_group(tmp_path / "group.zarr")
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="u1")
    (tmp_path / "map.bcf").write_bytes(b"AAMVHFSS")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/notes.txt").write_text("x")
    for name in ("group.zarr", "array.zarr", "map.bcf", "folder"):
        with pytest.raises(StoreError, match=rf"store {tmp_path / name}: found something else"):
            open_map(tmp_path / name)


def test_a_store_of_a_later_format_is_refused(store):
    zarr.open_group(store, mode="r+").attrs["format_version"] = 99
    with pytest.raises(StoreError, match="found format version 99, expected version 1"):
        open_map(store)


def test_a_relative_path_means_the_same_place_later(store, monkeypatch, tmp_path):
    monkeypatch.chdir(store.parent)
    ds = open_map("map.zarr")
    monkeypatch.chdir("/")
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)


TILE = "map/counts/c/1/2/0"


def flipped(path):
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


DAMAGE = {
    "absent": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-9]),
    "a flipped bit": flipped,
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another tile's head": lambda path: path.write_bytes(
        path.read_bytes()[:40] + (path.parent / "../../0/0/0").resolve().read_bytes()[40:]
    ),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_tile_is_an_error_that_names_it(store, damage):
    ds = open_map(store)
    damage(store / TILE)
    for data in (ds, ds.chunk(y=31)):
        with pytest.raises(
            StoreError, match=rf"tile at y 8:16, x 16:23, energy 0:13 of map/counts in {store}.*--overwrite"
        ):
            data[schema.COUNTS].compute()
    # The rest of the map is readable, and the damage is found in a part of the tile too.
    assert np.array_equal(ds[schema.COUNTS][:, :16].values, COUNTS[:, :16])
    with pytest.raises(StoreError, match="tile at y 8:16, x 16:23"):
        ds[schema.COUNTS][9:10, 17:20].compute()


def test_any_flipped_bit_is_found(store):
    path, ds = store / TILE, open_map(store)[schema.COUNTS][8:16, 16:]
    whole = path.read_bytes()
    for bit in np.random.default_rng(0).choice(8 * len(whole), 60, replace=False):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="tile at y 8:16"), dask.config.set(scheduler="sync"):
            ds.compute()


@pytest.mark.filterwarnings("ignore:Object at counts:UserWarning")
def test_counts_without_a_document_are_damage(store):
    source._array.cache_clear()
    (store / "map/counts/zarr.json").unlink()
    with pytest.raises(StoreError, match=rf"map/counts in {store}: found no array that opens"):
        open_map(store)
