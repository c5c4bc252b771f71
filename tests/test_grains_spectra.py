"""Grain spectra: equal, to the last count, to NumPy's sums of the whole map, and never held whole."""

import json
import re
import subprocess
import sys
import warnings

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import eds_chunked as edc
from eds_chunked import memory, schema
from eds_chunked.engine import blocks as blocks_module
from eds_chunked.errors import ChunkLayoutError, MemoryBudgetError, ParameterError, StaleResultError
from eds_chunked.grains import spectra as spectra_module
from eds_chunked.grains.spectra import grain_spectra
from eds_chunked.store import conversion
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import load, newest, refresh_command, save
from tests.decomposition_maps import ArrayReader, as_map, made_counts, ragged_chunks, with_dead

SHAPE = (67, 53, 61)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Tiles of 8 x 8 pixels and chunks of 5 grains: many strips, and chunks that reach over several."""
    for module in (conversion, blocks_module):
        monkeypatch.setattr(module, "tile_shape", lambda n_channels: (8, 8, n_channels))
    monkeypatch.setattr(spectra_module, "spectra_shape", lambda n, n_channels, itemsize: (min(5, n), n_channels))


def cells(shape, *, side=9, seed=0):
    """Labels of cells of uneven size, numbered row by row, with gaps between some of them."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    label = (y + x // 7) // side * (shape[1] // (side - 2) + 1) + x // (side - 2)
    label = np.unique(label, return_inverse=True)[1].reshape(shape) + 1
    label[rng.random(shape) < 0.15] = 0
    return label.astype(np.int32)


def made_grains(ds, label):
    return xr.Dataset(
        {schema.GRAIN_LABEL: ((schema.Y, schema.X), label)},
        coords={axis: ds[axis] for axis in (schema.Y, schema.X)},
        attrs={name: ds.attrs[name] for name in (schema.FINGERPRINT,) if name in ds.attrs},
    )


def numpy_sums(counts, label, ids):
    return np.array([counts[label == number].sum(axis=0, dtype=np.uint64) for number in ids])


def assert_sums(found, counts, label, ids):
    np.testing.assert_array_equal(found[schema.GRAIN], ids)
    assert found[schema.GRAIN_SPECTRUM].dims == schema.VARIABLES[schema.GRAIN_SPECTRUM].dims
    np.testing.assert_array_equal(found[schema.GRAIN_SPECTRUM], numpy_sums(counts, label, ids))
    np.testing.assert_array_equal(found[schema.N_PIXELS], [np.count_nonzero(label == number) for number in ids])
    np.testing.assert_array_equal(found[schema.TOTAL_COUNTS], numpy_sums(counts, label, ids).sum(axis=1))


# ------------------------------------------------------------------------------------------------ the sums
@settings(max_examples=20, deadline=None)
@given(
    chunks=ragged_chunks(SHAPE),
    dtype=st.sampled_from([np.uint8, np.uint16, np.uint32, np.int32]),
    numbering=st.sampled_from(["rows", "random", "with gaps"]),
    seed=st.integers(0, 99),
)
def test_sums_equal_numpy_for_every_chunking_and_numbering(chunks, dtype, numbering, seed):
    counts = with_dead(made_counts(SHAPE, seed=seed)).astype(dtype)
    label = cells(SHAPE[:2], seed=seed)
    label[3:60, 17] = 1  # one grain over most of the strips
    rng = np.random.default_rng(seed)
    new = {
        "rows": np.arange(label.max() + 1),
        "random": np.concatenate([[0], rng.permutation(label.max()) + 1]),
        "with gaps": np.concatenate([[0], np.sort(rng.choice(10**6, label.max(), replace=False)) + 1]),
    }[numbering]
    label = new[label]
    ds = as_map(counts, chunks=chunks)
    found = grain_spectra(ds, grains=made_grains(ds, da.from_array(label, chunks=(13, 19))))
    assert found[schema.GRAIN_SPECTRUM].dtype == (np.uint64 if np.dtype(dtype).itemsize == 4 else np.uint32)
    assert_sums(found, counts, label, np.unique(label[label > 0]))


def test_number_of_threads_and_a_cluster_do_not_matter(tmp_path, monkeypatch):
    counts = made_counts(SHAPE).astype(np.float32) / 3
    label = np.random.default_rng(2).permutation(200)[cells(SHAPE[:2])].astype(np.int32)
    ds = as_map(counts, chunks=(20, 53, 61))
    grains = made_grains(ds, label)
    expected = grain_spectra(ds, grains=grains)[schema.GRAIN_SPECTRUM].values
    assert expected.dtype == np.float64
    for n_threads in (1, 5):
        monkeypatch.setattr(memory, "n_cpus", lambda n=n_threads: n)
        found = grain_spectra(ds.chunk(y=50), grains=grains)
        np.testing.assert_array_equal(found[schema.GRAIN_SPECTRUM], expected)
    exact = np.array([counts[label == i].sum(axis=0, dtype=np.float64) for i in np.unique(label[label > 0])])
    np.testing.assert_allclose(expected, exact, rtol=1e-12)
    whole = convert(ArrayReader(made_counts(SHAPE)), tmp_path / "map.zarr")
    of_store = made_grains(whole, label)
    stored = grain_spectra(whole, grains=of_store)[schema.GRAIN_SPECTRUM].values
    distributed = pytest.importorskip("distributed")
    with (
        warnings.catch_warnings(),
        dask.config.set({"distributed.worker.use-file-locking": False, "temporary-directory": str(tmp_path)}),
    ):
        warnings.simplefilter("ignore")
        with (
            distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster),
        ):
            found = grain_spectra(ds.chunk(y=7, x=11), grains=grains.chunk(y=31))
            # To the last bit, of floating-point sums too.
            np.testing.assert_array_equal(found[schema.GRAIN_SPECTRUM], expected)
            found = grain_spectra(whole, grains=of_store)
            np.testing.assert_array_equal(found[schema.GRAIN_SPECTRUM], stored)


@pytest.mark.parametrize(("pixels", "dtype"), [(65537, np.uint32), (65538, np.uint64)])
def test_the_type_is_wide_enough_to_the_last_count(pixels, dtype):
    # 65537 pixels of 65535 counts are 2**32 - 1.
    ds = as_map(np.full((1, pixels, 2), 65535, np.uint16))
    found = grain_spectra(ds, grains=made_grains(ds, np.full((1, pixels), 3)))
    assert found[schema.GRAIN_SPECTRUM].dtype == dtype
    np.testing.assert_array_equal(found[schema.GRAIN_SPECTRUM], [[65535 * pixels] * 2])
    np.testing.assert_array_equal(found[schema.TOTAL_COUNTS], [2 * 65535 * pixels])


def test_left_out_pixels_and_channels_and_a_window():
    counts = made_counts(SHAPE)
    label = cells(SHAPE[:2])
    pixels = np.zeros(SHAPE[:2], bool)
    pixels[5:29, 3:40] = True
    ds = edc.exclude(as_map(counts), pixels=pixels, energy=[(0.1, 0.2)]).isel(energy=slice(4, 50))
    found = grain_spectra(ds, grains=made_grains(ds, label))
    kept = np.where(pixels, 0, label)
    assert (found[schema.N_PIXELS] == 0).any()
    assert_sums(found, counts[..., 4:50], kept, np.unique(label[label > 0]))
    np.testing.assert_array_equal(found[schema.ENERGY], ds[schema.ENERGY])
    assert found.attrs[schema.PARAMETERS]["pixels_left_out"] == pixels.sum()


def test_a_region_that_does_not_begin_on_a_tile(tmp_path):
    counts = made_counts(SHAPE)
    ds = convert(ArrayReader(counts), tmp_path / "map.zarr")
    label = cells(SHAPE[:2])
    region = {schema.Y: slice(3, 60), schema.X: slice(5, 50)}
    grains = made_grains(ds, label).isel(region)
    ids = np.unique(label[3:60, 5:50])[1:]
    assert_sums(grain_spectra(ds.isel(region), grains=grains), counts[3:60, 5:50], label[3:60, 5:50], ids)


# ------------------------------------------------------------------------------------------------ in a store
@pytest.fixture
def grains_of_store(tmp_path):
    """A map in a store, its grains as they are loaded from there, the counts and the store."""
    store, counts = tmp_path / "map.zarr", made_counts(SHAPE)
    ds, label = convert(ArrayReader(counts), store), cells(SHAPE[:2], side=13)
    grains = made_grains(ds, label)
    columns = {
        schema.GRAIN_ID: np.unique(label)[1:],
        schema.PHASE: np.unique(label)[1:] % 3 + 1,
        schema.N_PIXELS: np.bincount(label.ravel())[1:],
    }
    grains = grains.assign({name: (schema.GRAIN, values) for name, values in columns.items()})
    grains.attrs |= {schema.STEP: schema.GRAINS, schema.RUN: "k3", schema.RESULT_ID: "made"}
    save(grains, store)
    return ds, load(store, "grains/k3"), counts, store


def test_the_grains_of_the_grain_table_saved_and_loaded(grains_of_store):
    ds, grains, counts, store = grains_of_store
    made = grain_spectra(ds, grains=grains)
    assert made[schema.GRAIN_SPECTRUM].chunks is not None
    address = save(made, store)
    assert address == "grain_spectra/k3.r1"
    found = load(store, "grain_spectra")
    assert found[schema.GRAIN_SPECTRUM].chunks is not None
    assert found[schema.N_PIXELS].chunks is None
    assert_sums(found, counts, grains[schema.GRAIN_LABEL].values, grains[schema.GRAIN_ID].values)
    np.testing.assert_array_equal(found[schema.PHASE], grains[schema.PHASE])
    np.testing.assert_array_equal(found[schema.N_PIXELS], grains[schema.N_PIXELS])
    assert refresh_command(store, newest(store, address)) == (
        f"eds-chunked spectra {store} --grains --from grains/k3 --name k3"
    )
    # A copy under another name is the same, chunk by chunk.
    assert save(found, store, name="again") == "grain_spectra/again.r1"
    again = load(store, "grain_spectra/again")
    np.testing.assert_array_equal(again[schema.GRAIN_SPECTRUM], found[schema.GRAIN_SPECTRUM])
    assert edc.verify(store).whole


def test_some_grains_of_the_table_in_any_order(grains_of_store):
    ds, grains, counts, _ = grains_of_store
    some = grains.isel(grain=[7, 2, 11])
    ids = grains[schema.GRAIN_ID].values[[7, 2, 11]]
    assert_sums(grain_spectra(ds, grains=some), counts, grains[schema.GRAIN_LABEL].values, ids)


def test_a_failure_leaves_nothing(grains_of_store, monkeypatch):
    ds, grains, _, store = grains_of_store
    monkeypatch.setattr(spectra_module.JoinStrips, "__call__", lambda *strips: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        grain_spectra(ds, grains=grains)
    assert not list((store / "results" / "grain_spectra").glob("k3*"))


# ------------------------------------------------------------------------------------------------ live time
def test_live_time_is_the_sum_of_that_of_the_pixels():
    counts, label = made_counts(SHAPE), cells(SHAPE[:2])
    seconds = np.random.default_rng(3).gamma(2, 0.01, SHAPE[:2])
    ds = as_map(counts)
    ds[schema.LIVE_TIMES] = ((schema.Y, schema.X), da.from_array(seconds, chunks=(20, 17)))
    found = grain_spectra(ds, grains=made_grains(ds, label))
    expected = [seconds[label == number].sum() for number in found[schema.GRAIN].values]
    np.testing.assert_allclose(found[schema.LIVE_TIMES], expected, rtol=1e-12)
    rate = edc.mean_spectra(found, per="second")
    assert rate.chunks is not None
    assert rate.attrs["units"] == "counts/s"
    np.testing.assert_allclose(rate.values[4], counts[label == 5].sum(axis=0) / expected[4], rtol=1e-12)


# ------------------------------------------------------------------------------------------------ refusals
def test_labels_of_another_grid_or_map_are_refused():
    ds = as_map(made_counts(SHAPE), **{schema.FINGERPRINT: "this"})
    grains = made_grains(ds, cells(SHAPE[:2]))
    with pytest.raises(ChunkLayoutError, match=r"grains along x.*same region"):
        grain_spectra(ds, grains=grains.isel(x=slice(0, 30)))
    with pytest.raises(StaleResultError, match=r"grains of another map.*separate_grains again"):
        grain_spectra(ds, grains=grains.assign_attrs({schema.FINGERPRINT: "other"}))
    with pytest.raises(ChunkLayoutError, match="'grain_label'"):
        grain_spectra(ds, grains=ds)


def test_no_grain_at_all_twice_the_same_and_no_whole_numbers_are_refused():
    ds = as_map(made_counts(SHAPE))
    with pytest.raises(ParameterError, match="grains: found no grain"):
        grain_spectra(ds, grains=made_grains(ds, np.zeros(SHAPE[:2], np.int32)))
    with pytest.raises(ParameterError, match="'grain_label': found dtype float64"):
        grain_spectra(ds, grains=made_grains(ds, np.ones(SHAPE[:2])))
    twice = made_grains(ds, cells(SHAPE[:2])).assign({schema.GRAIN_ID: (schema.GRAIN, [3, 4, 3])})
    with pytest.raises(ParameterError, match="grain_id: found a number twice"):
        grain_spectra(ds, grains=twice)


def test_too_small_a_budget_is_refused_before_anything_is_written(grains_of_store):
    ds, grains, _, store = grains_of_store
    with pytest.raises(MemoryBudgetError, match="memory for grain spectra"):
        grain_spectra(ds, grains=grains, memory="20MB")
    assert not (store / "results" / "grain_spectra").exists()


# ------------------------------------------------------------------------------------------------ memory
BUDGET_RUN = """
import json, sys
import numpy as np, xarray as xr
import eds_chunked as edc
from eds_chunked import memory
store, budget, numbering = sys.argv[1:]
memory.return_freed_memory_to_the_system()
ds = edc.open(store)
shape = ds.sizes["y"], ds.sizes["x"]
y, x = np.mgrid[: shape[0], : shape[1]]
label = (y // 3 * (shape[1] // 3 + 1) + x // 3 + 1).astype(np.int32)
if numbering == "random":
    label = (np.random.default_rng(0).permutation(label.max()) + 1)[label - 1]
grains = xr.Dataset({"grain_label": (("y", "x"), label)}, coords={"y": ds.y, "x": ds.x})
grains.attrs["map_fingerprint"] = ds.attrs["map_fingerprint"]
found = edc.grain_spectra(ds, grains=grains, memory=budget)
table = found["grain_spectrum"]
peak = memory.peak_resident()
assert (found["total_counts"].values == table.sum("energy").values).all()
assert int(found["total_counts"].sum()) == int(ds["sum_spectrum"].sum())
print(json.dumps({"peak": peak, "table": table.nbytes, "idle": memory.resident()}))
"""


@pytest.fixture(scope="module")
def rock_store(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("rock") / "map.zarr")
    edc.convert(edc.synthetic.rock((600, 420, 2048), counts_per_pixel=10, grain_size=15), path)
    return path


def run(store, budget, numbering="rows"):
    command = [sys.executable, "-c", BUDGET_RUN, store, budget, numbering]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_smallest_budget_that_a_refusal_names_is_kept(rock_store):
    refused = run(rock_store, "250MB")
    named = re.search(r"memory for grain spectra: .* Fix: --memory (\d+)MB", refused.stderr)
    assert named, refused.stderr
    done = run(rock_store, f"{named[1]}MB")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["table"] > 220e6
    assert told["peak"] <= int(named[1]) * 10**6
    # The table is never held: the whole process takes less than it and an idle one.
    assert told["peak"] < 470e6


def test_grains_numbered_at_random_need_the_whole_table_and_say_so(rock_store):
    refused = run(rock_store, "500MB", "random")
    assert re.search(r"memory for grain spectra: .* Fix: --memory \d{4}MB", refused.stderr), refused.stderr
