"""Pixels and channels added up at the time of the analysis: NumPy's sums, and the map that was converted with them."""

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked import schema
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.engine.binning import rebin
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.exclusion import exclude
from eds_chunked.errors import CountsError, ParameterError
from eds_chunked.phases.segment import segment_phases
from eds_chunked.phases.sums import phase_spectra
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load, save
from tests.decomposition_maps import ArrayReader, as_map, made_counts, ragged_chunks, with_dead

SHAPE = (31, 47, 61)
COUNTS = with_dead(made_counts(SHAPE))
BINS = {"y": 2, "x": 3, "energy": 4}


def summed(counts, y=1, x=1, energy=1):
    """NumPy's sums over whole bins."""
    sizes = (y, x, energy)
    whole = counts[tuple(slice(0, length // n * n) for length, n in zip(counts.shape, sizes, strict=True))]
    split = [part for length, n in zip(whole.shape, sizes, strict=True) for part in (length // n, n)]
    return whole.reshape(split).sum(axis=(1, 3, 5), dtype=np.uint64)


@settings(max_examples=25, deadline=None)
@given(
    chunks=st.none() | ragged_chunks(SHAPE),
    sizes=st.tuples(st.integers(1, 31), st.integers(1, 7), st.integers(1, 61)),
    dtype=st.sampled_from([np.uint8, np.uint16, np.int32, np.float32]),
)
def test_sums_are_numpys_for_drawn_chunks_and_bins(chunks, sizes, dtype):
    y, x, energy = sizes
    found = rebin(as_map(COUNTS.astype(dtype), chunks=chunks), y=y, x=x, energy=energy)[schema.COUNTS]
    assert (found.chunks is None) == (chunks is None)
    np.testing.assert_array_equal(found, summed(COUNTS, y, x, energy))
    assert found.dtype.kind == ("f" if dtype is np.float32 else "u")


def test_sums_of_fractions_do_not_depend_on_chunks():
    counts = (COUNTS * 0.1).astype(np.float32)
    expected = rebin(as_map(counts), **BINS)[schema.COUNTS]
    assert expected.dtype == np.float64
    for chunks in ((5, 7, 9), (31, 1, 61)):
        np.testing.assert_array_equal(rebin(as_map(counts, chunks=chunks), **BINS)[schema.COUNTS], expected)


@pytest.mark.parametrize(
    ("dtype", "bins", "expected"),
    [
        (np.uint8, {}, np.uint8),
        (np.uint8, {"y": 2, "x": 2}, np.uint16),
        (np.uint8, {"y": 16, "x": 16, "energy": 61}, np.uint32),
        (np.uint16, {"energy": 2}, np.uint32),
        (np.uint32, {"y": 2}, np.uint64),
        (np.uint64, {"y": 2}, np.uint64),
    ],
)
def test_type_is_wide_enough_for_every_sum(dtype, bins, expected):
    counts = np.full(SHAPE, np.iinfo(dtype).max if dtype != np.uint64 else 2**40, dtype)
    found = rebin(as_map(counts, chunks=(9, 9, 61)), **bins)[schema.COUNTS]
    assert found.dtype == expected
    np.testing.assert_array_equal(found, summed(counts, **bins))


def test_coordinates_are_at_the_centres_of_bins():
    ds = as_map(COUNTS, **{schema.PIXEL_SIZE: [0.5, 0.25], schema.CHANNELS_BINNED: 2, schema.CHANNEL_ORIGIN: 3.0})
    found = rebin(ds, **BINS)
    assert dict(found.sizes) == {"y": 15, "x": 15, "energy": 15}
    np.testing.assert_allclose(found["y"], 0.25 + np.arange(15))
    np.testing.assert_allclose(found["x"], 0.25 + 0.75 * np.arange(15))
    np.testing.assert_allclose(found["energy"], -0.07 + 0.08 * np.arange(15))
    assert found["energy"].attrs == ds["energy"].attrs
    height, width, unit = schema.pixel_size(found)
    assert (height, width, unit) == (pytest.approx(1.0), pytest.approx(0.75), "um")
    one_row = rebin(ds.isel(y=slice(0, 2)), y=2)
    assert schema.pixel_size(one_row)[0] == 1.0
    assert found.attrs[schema.REBIN] == [2, 3, 4]
    assert found.attrs[schema.CHANNELS_BINNED] == 8
    assert found.attrs[schema.CHANNEL_ORIGIN] == 6.0
    # In two steps the same.
    twice = rebin(rebin(ds, y=2, energy=2), x=3, energy=2)
    assert twice.attrs[schema.REBIN] == [2, 3, 4]
    np.testing.assert_array_equal(twice[schema.COUNTS], found[schema.COUNTS])
    np.testing.assert_allclose(twice["energy"], found["energy"])


def test_masks_are_binned_too():
    left_out = np.zeros(SHAPE[:2], bool)
    left_out[4, 7] = left_out[30, 46] = True
    found = rebin(exclude(as_map(COUNTS), pixels=left_out, energy=[(0.3, 0.32)]), **BINS)
    # One pixel of a bin is enough; the last row and columns are in no bin.
    assert np.argwhere(~found[schema.ANALYSED_PIXEL].values).tolist() == [[2, 2]]
    assert np.flatnonzero(~found[schema.ANALYSED_CHANNEL].values).tolist() == [5]
    blocks = blocks_of(found)
    assert (blocks.n_used, blocks.n_channels) == (15 * 15 - 1, 14)
    later = exclude(rebin(as_map(COUNTS), **BINS), min_counts=5)
    np.testing.assert_array_equal(later[schema.ANALYSED_PIXEL], summed(COUNTS, **BINS).sum(axis=2) >= 5)


# ------------------------------------------------------------------------------------------------------------- stores
@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return convert(ArrayReader(COUNTS), tmp_path_factory.mktemp("rebin") / "map.zarr")


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    target = tmp_path_factory.mktemp("rebin") / "binned.zarr"
    with pytest.warns(UserWarning, match="the bins leave out, at the end, 1 of the rows"):
        return convert(ArrayReader(COUNTS), target, rebin=(2, 3, 4))


def test_equals_the_map_that_was_converted_with_rebin(store, converted):
    found = rebin(store, **BINS)
    np.testing.assert_array_equal(found[schema.COUNTS], converted[schema.COUNTS])
    for axis in ("y", "x", "energy"):
        np.testing.assert_allclose(found[axis], converted[axis], rtol=1e-12, atol=1e-12)
        assert found[axis].attrs["units"] == converted[axis].attrs["units"]
    for name in (schema.PIXEL_SIZE, schema.CHANNELS_BINNED, schema.CHANNEL_ORIGIN, schema.TITLE):
        assert found.attrs.get(name) == converted.attrs.get(name)
    # The survey of a map is that of all its pixels and channels, those that are in no bin included.
    exact = rebin(store.isel(y=slice(0, 30), x=slice(0, 45), energy=slice(0, 60)), y=2, x=3)
    assert exact[schema.TOTAL_COUNTS].dtype.kind == "u"
    np.testing.assert_array_equal(exact[schema.TOTAL_COUNTS], summed(COUNTS[:30, :45], 2, 3).sum(axis=2))
    assert schema.MAX_SPECTRUM not in found


STEPS = {
    "pca": lambda ds: pca(ds, n_components=4),
    "incremental pca": lambda ds: pca(ds, n_components=3, solver="incremental"),
    "nmf": lambda ds: nmf(ds, n_components=3, max_epochs=1),
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("chunks", [None, {"y": 7, "x": 10, "energy": 25}])
def test_analysis_equals_that_of_the_converted_map(store, converted, step, chunks):
    ds = store if chunks is None else store.chunk(chunks)
    found, expected = STEPS[step](rebin(ds, **BINS)), STEPS[step](converted)
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=name)


def test_result_says_rebin_and_is_saved_beside_the_map(store):
    path = store.encoding["source"]
    with dask.config.set(scheduler=_refuse):
        binned = rebin(open_map(path), **BINS)
    result = pca(binned, n_components=3)
    assert result.attrs[schema.PARAMETERS][schema.REBIN] == [2, 3, 4]
    assert "counts" not in result.attrs[schema.PARAMETERS]
    assert result.attrs[schema.FINGERPRINT] == store.attrs[schema.FINGERPRINT]
    assert result.attrs[schema.RESULT_ID] != pca(store, n_components=3).attrs[schema.RESULT_ID]
    # Written where it stays, not to a scratch folder.
    assert result.encoding["source"] == path
    loaded = load(path, save(result, path))
    np.testing.assert_array_equal(loaded["energy"], binned["energy"])
    assert loaded.attrs[schema.REBIN] == [2, 3, 4]


def _refuse(*args, **kwargs):
    raise AssertionError("something was computed")


def test_phases_of_bins_take_the_spectra_of_bins(store):
    binned = rebin(store, **BINS)
    phases = segment_phases(nmf(binned, n_components=3, max_epochs=1), min_size=2)
    assert phases.attrs[schema.REBIN] == [2, 3, 4]
    spectra = phase_spectra(binned, phases=phases)
    for number in (1, 2, 3):
        member = phases[schema.LABEL].values == number
        own = summed(COUNTS, **BINS)[member].sum(axis=0)
        np.testing.assert_array_equal(spectra[schema.SPECTRUM].sel(phase=number), own)


def test_noise_rule_holds_for_bins():
    # Sums of Poisson counts are Poisson counts: of one phase nothing but the trivial component rises above the noise.
    rng = np.random.default_rng(7)
    counts = rng.poisson(np.linspace(0.5, 3, 61), (62, 94, 61)).astype(np.uint8)
    ratios = pca(rebin(as_map(counts), y=2, x=2, energy=2), n_components=2)[schema.NOISE_RATIO].values
    assert ratios[0] > 10
    assert 0.9 < ratios[1] < 1.02


# ---------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize("bins", [{"y": 0}, {"x": -2}, {"energy": 1.5}, {"y": 32}, {"x": True}, {"energy": "2"}])
def test_wrong_bins_are_refused(bins):
    with pytest.raises(ParameterError, match=r"bins along (y|x|energy): found .* a whole number from 1 to (31|47|61)"):
        rebin(as_map(COUNTS), **bins)


@pytest.mark.parametrize("value", [-3, np.nan])
def test_values_that_a_sum_would_hide_are_refused(value):
    counts = COUNTS.astype(np.float32 if np.isnan(value) else np.int32)
    counts[5, 7, 9] = value
    with pytest.raises(CountsError, match=f"counts to rebin: found a value of {value}"):
        rebin(as_map(counts), y=2)
    lazy = rebin(as_map(counts, chunks=(8, 8, 61)), y=2)
    with pytest.raises(CountsError, match="counts to rebin"):
        pca(lazy, n_components=2)
