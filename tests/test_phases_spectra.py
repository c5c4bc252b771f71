"""Phase spectra: equal, to the last count, to NumPy's sums of the whole map."""

from dataclasses import replace

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked import schema
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.engine import blocks
from eds_chunked.engine.binning import rebin
from eds_chunked.engine.exclusion import exclude
from eds_chunked.errors import ChunkLayoutError, CountsError, MissingResultError, ParameterError, StaleResultError
from eds_chunked.phases.rates import mean_spectra
from eds_chunked.phases.segment import segment_phases
from eds_chunked.phases.sums import phase_spectra
from eds_chunked.store.conversion import convert
from tests.decomposition_maps import ArrayReader, as_map, made_counts, ragged_chunks, with_dead

SHAPE = (31, 47, 61)
N_PHASES = 3


def made_phases(ds, *, seed=0, n=N_PHASES):
    """Return phases of the map: labels with mixed and unassigned pixels, and masks that overlap."""
    rng = np.random.default_rng(seed)
    shape = ds[schema.COUNTS].shape[:2]
    label = rng.choice([schema.UNASSIGNED, *range(1, n + 1), schema.MIXED], shape).astype(np.uint8)
    mask = rng.random((n, *shape)) < np.linspace(0.3, 0.8, n)[:, None, None]
    return xr.Dataset(
        {
            name: (schema.VARIABLES[name].dims, values)
            for name, values in {schema.LABEL: label, schema.MASK: mask}.items()
        },
        coords={schema.PHASE: np.arange(1, n + 1), schema.Y: ds[schema.Y], schema.X: ds[schema.X]},
        attrs={name: ds.attrs[name] for name in (schema.FINGERPRINT,) if name in ds.attrs},
    )


def members(phases, source):
    if source == schema.MASK:
        return phases[schema.MASK].values
    return phases[schema.LABEL].values == phases[schema.PHASE].values[:, None, None]


def numpy_sums(counts, phases, source):
    return np.array([counts[member].sum(axis=0, dtype=np.uint64) for member in members(phases, source)])


@settings(max_examples=15, deadline=None)
@given(
    source=st.sampled_from(["label", "mask"]),
    dtype=st.sampled_from([np.uint8, np.uint16, np.uint32, np.int32]),
    seed=st.integers(0, 99),
    n=st.integers(1, 7),
)
def test_sums_equal_numpy(source, dtype, seed, n):
    counts = with_dead(made_counts(SHAPE, seed=seed)).astype(dtype)
    ds = as_map(counts)
    phases = made_phases(ds, seed=seed, n=n)
    result = phase_spectra(ds, phases=phases, source=source)
    assert result[schema.SPECTRUM].dims == schema.VARIABLES[schema.SPECTRUM].dims
    assert result[schema.SPECTRUM].dtype == np.uint64
    np.testing.assert_array_equal(result[schema.SPECTRUM], numpy_sums(counts, phases, source))
    np.testing.assert_array_equal(result[schema.N_PIXELS], members(phases, source).sum(axis=(1, 2)))
    np.testing.assert_array_equal(result[schema.PHASE], phases[schema.PHASE])
    np.testing.assert_array_equal(result[schema.ENERGY], ds[schema.ENERGY])
    assert result.attrs[schema.STEP] == schema.SPECTRA
    assert result.attrs[schema.PARAMETERS] == {"source": source}


@pytest.mark.parametrize("source", ["label", "mask"])
def test_many_lanes_equal_numpy(source):
    counts = made_counts((67, 269, 31), dose=9)
    ds = as_map(counts, chunks=(20, 100, 31))
    assert len(blocks.blocks_of(ds).lanes()) == 2
    phases = made_phases(ds)
    result = phase_spectra(ds, phases=phases, source=source)
    np.testing.assert_array_equal(result[schema.SPECTRUM], numpy_sums(counts, phases, source))


def test_sums_beyond_32_and_53_bits_are_exact():
    rng = np.random.default_rng(1)
    counts = rng.integers(2**31, 2**32, (7, 11, 13), dtype=np.uint64)
    ds = as_map(counts.astype(np.uint32))
    phases = made_phases(ds)
    found = phase_spectra(ds, phases=phases)[schema.SPECTRUM].values
    assert found.min() > 2**32
    np.testing.assert_array_equal(found, numpy_sums(counts, phases, schema.LABEL))
    # Nor does a sum pass through float64 on its way, which ends at 53 bits.
    large = counts << np.uint64(26)
    large[0, 0] += np.uint64(1)
    phases[schema.LABEL][:] = 2
    found = phase_spectra(as_map(large), phases=phases)[schema.SPECTRUM].values
    np.testing.assert_array_equal(found[1], large.sum(axis=(0, 1), dtype=np.uint64))
    assert found.max() > 2**60


def test_float_counts_are_summed_in_float64():
    counts = made_counts(SHAPE).astype(np.float32) / 3
    ds = as_map(counts)
    phases = made_phases(ds)
    result = phase_spectra(ds, phases=phases)
    assert result[schema.SPECTRUM].dtype == np.float64
    expected = [counts[member].sum(axis=0, dtype=np.float64) for member in members(phases, schema.LABEL)]
    np.testing.assert_allclose(result[schema.SPECTRUM], expected, rtol=1e-12)


def test_phase_without_pixels_has_no_counts():
    ds = as_map(made_counts(SHAPE))
    phases = made_phases(ds)
    phases[schema.LABEL] = phases[schema.LABEL].where(phases[schema.LABEL] != 2, 0).astype(np.uint8)
    result = phase_spectra(ds, phases=phases)
    assert int(result[schema.N_PIXELS][1]) == 0
    assert not result[schema.SPECTRUM][1].any()
    assert result[schema.SPECTRUM][2].any()


def test_phases_may_be_lazy_and_selected():
    counts = made_counts(SHAPE)
    ds = as_map(counts)
    phases = made_phases(ds)
    lazy = phases.chunk({schema.Y: 7, schema.X: 13})
    assert isinstance(lazy[schema.LABEL].data, da.Array)
    for source in ("label", "mask"):
        some = lazy.sel(phase=[3, 1])
        result = phase_spectra(ds, phases=some, source=source)
        np.testing.assert_array_equal(result[schema.SPECTRUM], numpy_sums(counts, phases, source)[[2, 0]])
        np.testing.assert_array_equal(result[schema.PHASE], [3, 1])


def test_energy_window_may_be_another_one_than_that_of_the_phases():
    counts = made_counts(SHAPE)
    ds = as_map(counts)
    phases = segment_phases(nmf(ds.isel(energy=slice(10, 50)), n_components=3), min_size=5)
    result = phase_spectra(ds, phases=phases)
    np.testing.assert_array_equal(result[schema.SPECTRUM], numpy_sums(counts, phases, schema.LABEL))
    np.testing.assert_array_equal(result[schema.ENERGY], ds[schema.ENERGY])


def test_region_of_the_map_with_the_same_region_of_the_phases():
    counts = made_counts(SHAPE)
    ds = as_map(counts, chunks=(10, 10, 61))
    phases = made_phases(ds)
    region = {schema.Y: slice(4, 23), schema.X: slice(11, 45)}
    result = phase_spectra(ds.isel(region), phases=phases.isel(region), source="mask")
    expected = numpy_sums(counts[4:23, 11:45], phases.isel(region), schema.MASK)
    np.testing.assert_array_equal(result[schema.SPECTRUM], expected)


@pytest.mark.parametrize(
    "select",
    [{schema.Y: slice(0, 30)}, {schema.X: slice(1, 47)}, {schema.X: slice(None, None, -1)}],
    ids=["fewer rows", "other columns", "mirrored"],
)
def test_phases_on_another_grid_are_refused(select):
    ds = as_map(made_counts(SHAPE))
    phases = made_phases(ds).isel(select)
    axis = next(iter(select))
    with pytest.raises(ChunkLayoutError, match=f"phases along {axis}.*same region"):
        phase_spectra(ds, phases=phases)


def test_phases_of_a_moved_grid_are_refused():
    ds = as_map(made_counts(SHAPE))
    moved = made_phases(ds).assign_coords({schema.Y: ds[schema.Y] + 0.5})
    with pytest.raises(ChunkLayoutError, match="at the same positions"):
        phase_spectra(ds, phases=moved)


@pytest.mark.parametrize("of_phases", ["other", None])
def test_phases_of_another_map_are_refused(of_phases):
    ds = as_map(made_counts(SHAPE), **{schema.FINGERPRINT: "this"})
    phases = made_phases(ds)
    assert phase_spectra(ds, phases=phases).attrs[schema.FINGERPRINT] == "this"
    if of_phases is None:
        del phases.attrs[schema.FINGERPRINT]
    else:
        phases.attrs[schema.FINGERPRINT] = of_phases
    with pytest.raises(StaleResultError, match="phases: found phases of another map"):
        phase_spectra(ds, phases=phases)


def test_stored_map_through_all_steps(tmp_path):
    counts = made_counts(SHAPE)
    ds = convert(ArrayReader(counts), tmp_path / "map.zarr")
    phases = segment_phases(nmf(ds, n_components=3), min_size=5)
    result = phase_spectra(ds, phases=phases)
    np.testing.assert_array_equal(result[schema.SPECTRUM], numpy_sums(counts, phases, schema.LABEL))
    assert result.attrs[schema.FINGERPRINT] == ds.attrs[schema.FINGERPRINT]
    assert result.attrs[schema.RUN] == "k3"
    # All labels and what belongs to none close to the map.
    none = counts[np.isin(phases[schema.LABEL], [schema.UNASSIGNED, schema.MIXED])].sum(axis=0, dtype=np.uint64)
    np.testing.assert_array_equal(result[schema.SPECTRUM].sum(schema.PHASE) + none, ds[schema.SUM_SPECTRUM])


def test_wrong_source_and_wrong_datasets_are_refused():
    ds = as_map(made_counts(SHAPE))
    phases = made_phases(ds)
    with pytest.raises(ParameterError, match="source: found 'labels'"):
        phase_spectra(ds, phases=phases, source="labels")
    with pytest.raises(ChunkLayoutError, match="variable 'label'"):
        phase_spectra(ds, phases=ds)
    with pytest.raises(ChunkLayoutError, match="variable 'counts'"):
        phase_spectra(phases, phases=phases)


def test_wrong_counts_are_refused_and_named():
    counts = made_counts(SHAPE).astype(np.int16)
    counts[5, 7, 11] = -3
    ds = as_map(counts)
    with pytest.raises(CountsError, match="y 5, x 7, channel 11: found -3"):
        phase_spectra(ds, phases=made_phases(ds))


# ---------------------------------------------------------------------------------------- totals, live time, means
@settings(max_examples=8, deadline=None)
@given(chunks=ragged_chunks(SHAPE), source=st.sampled_from(["label", "mask"]))
def test_chunks_of_map_and_labels_do_not_matter(chunks, source):
    counts = made_counts(SHAPE)
    ds = as_map(counts, chunks=chunks)
    phases = made_phases(ds)
    lazy = phases.chunk({schema.PHASE: 2, schema.Y: chunks[1][0], schema.X: chunks[0][0]})
    result = phase_spectra(ds, phases=lazy, source=source)
    np.testing.assert_array_equal(result[schema.SPECTRUM], numpy_sums(counts, phases, source))
    np.testing.assert_array_equal(result[schema.TOTAL_COUNTS], numpy_sums(counts, phases, source).sum(axis=1))
    np.testing.assert_array_equal(result[schema.N_PIXELS], members(phases, source).sum(axis=(1, 2)))


@pytest.mark.parametrize("source", ["label", "mask"])
def test_pixels_that_are_left_out_add_nothing_channels_do(source):
    counts = made_counts(SHAPE)
    left_out = np.zeros(SHAPE[:2], bool)
    left_out[3:20, 5:33] = True
    ds = exclude(as_map(counts), pixels=left_out, energy=[(0.1, 0.3)])
    phases = made_phases(ds)
    result = phase_spectra(ds, phases=phases, source=source)
    expected = [(counts * (own & ~left_out)[..., None]).sum(axis=(0, 1)) for own in members(phases, source)]
    np.testing.assert_array_equal(result[schema.SPECTRUM], expected)
    np.testing.assert_array_equal(result[schema.N_PIXELS], (members(phases, source) & ~left_out).sum(axis=(1, 2)))


@pytest.mark.parametrize("source", ["label", "mask"])
def test_live_time_of_each_pixel_is_summed(source):
    counts = made_counts((67, 269, 31), dose=9)
    ds = as_map(counts)
    seconds = np.random.default_rng(5).gamma(3, 0.01, counts.shape[:2])
    ds[schema.LIVE_TIMES] = ((schema.Y, schema.X), seconds)
    phases = made_phases(ds)
    result = phase_spectra(ds, phases=phases, source=source)
    expected = [seconds[own].sum() for own in members(phases, source)]
    np.testing.assert_allclose(result[schema.LIVE_TIMES], expected, rtol=1e-12)
    rate = mean_spectra(result, per="second")
    assert rate.attrs["units"] == "counts/s"
    sums = numpy_sums(counts, phases, source)
    np.testing.assert_allclose(rate, sums / np.array(expected)[:, None], rtol=1e-12)
    np.testing.assert_allclose(mean_spectra(result), sums / members(phases, source).sum(axis=(1, 2))[:, None])


def live_time_of(tmp_path, *, name, bins=None, **selection):
    reader = ArrayReader(made_counts(SHAPE))
    reader.header = replace(reader.header, live_time=14.57)
    ds = convert(reader, tmp_path / name, **selection)
    if bins:
        ds = rebin(ds, **bins)
    result = phase_spectra(ds.isel(y=slice(0, 13)), phases=made_phases(ds).isel(y=slice(0, 13)))
    return result[schema.LIVE_TIMES] / result[schema.N_PIXELS] if schema.LIVE_TIMES in result else None


def test_live_time_of_a_whole_acquisition_is_shared_by_its_pixels(tmp_path):
    of_pixel = 14.57 / (31 * 47)
    # Also of a part of the stored map, which has the live time of the whole in its attributes.
    np.testing.assert_allclose(live_time_of(tmp_path, name="whole.zarr"), of_pixel, rtol=1e-12)
    bins = {"y": 2, "x": 3}
    np.testing.assert_allclose(live_time_of(tmp_path, name="b.zarr", bins=bins), 6 * of_pixel, rtol=1e-12)
    # Of a store with a part of the acquisition nobody knows which part of its live time.
    assert live_time_of(tmp_path, name="part.zarr", region=(slice(0, 20), slice(None))) is None
    with pytest.warns(UserWarning, match="the bins leave out"):
        assert live_time_of(tmp_path, name="left.zarr", rebin=(2, 2, 1)) is None


def test_a_phase_without_pixels_has_no_mean():
    ds = as_map(made_counts(SHAPE))
    phases = made_phases(ds)
    phases[schema.LABEL] = phases[schema.LABEL].where(phases[schema.LABEL] != 2, 0).astype(np.uint8)
    mean = mean_spectra(phase_spectra(ds, phases=phases))
    assert np.isnan(mean[1]).all()
    assert np.isfinite(mean[[0, 2]]).all()


def test_labels_alone_or_masks_alone_are_enough():
    counts = made_counts(SHAPE)
    ds = as_map(counts)
    phases = made_phases(ds)
    for source, other in (("label", schema.MASK), ("mask", schema.LABEL)):
        result = phase_spectra(ds, phases=phases.drop_vars(other), source=source)
        np.testing.assert_array_equal(result[schema.SPECTRUM], numpy_sums(counts, phases, source))


def test_no_phase_and_labels_that_are_no_numbers_are_refused():
    ds = as_map(made_counts(SHAPE))
    phases = made_phases(ds)
    with pytest.raises(ParameterError, match="phases: found no coordinate 'phase'"):
        phase_spectra(ds, phases=phases[[schema.LABEL]])
    with pytest.raises(ParameterError, match="'label': found dtype float32"):
        phase_spectra(ds, phases=phases.astype(np.float32))


def test_means_that_cannot_be_are_refused():
    ds = as_map(made_counts(SHAPE))
    result = phase_spectra(ds, phases=made_phases(ds))
    with pytest.raises(MissingResultError, match="counts a second: found no 'live_time'"):
        mean_spectra(result, per="second")
    with pytest.raises(ParameterError, match="per: found 'grain'"):
        mean_spectra(result, per="grain")
    with pytest.raises(ChunkLayoutError, match="'spectrum' or 'grain_spectrum'"):
        mean_spectra(ds)
