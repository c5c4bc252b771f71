"""Residual and chi-square of a model: equal to NumPy, one where the model is right, the same for every chunking."""

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds_chunked import memory, schema
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.residuals import FLOOR, residual
from eds_chunked.engine.exclusion import exclude
from eds_chunked.errors import ChunkLayoutError, MemoryBudgetError, ParameterError, StaleResultError
from eds_chunked.kernels.chi_square import chi_square
from eds_chunked.kernels.sparse import from_dense
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import load, load_fresh, save
from tests.decomposition_maps import ArrayReader, as_map, assert_same_bits, made_counts, matrix, ragged_chunks

MAPS = (schema.RESIDUAL, schema.CHI_SQUARE)
SPECTRA = (schema.RESIDUAL_SPECTRUM, schema.CHI_SQUARE_SPECTRUM)


def model_of(ds, loadings, factors, **attrs):
    """Return a result of the map ``ds`` with these loadings (component, y, x) and factors (component, energy)."""
    return xr.Dataset(
        {
            schema.FACTORS: (schema.VARIABLES[schema.FACTORS].dims, np.asarray(factors, np.float64)),
            schema.LOADINGS: (schema.VARIABLES[schema.LOADINGS].dims, np.asarray(loadings, np.float32)),
        },
        coords={schema.COMPONENT: np.arange(1, len(factors) + 1)}
        | {axis: ds[axis] for axis in (schema.Y, schema.X, schema.ENERGY)},
        attrs={schema.STEP: schema.NMF, schema.RUN: "k2"}
        | {name: ds.attrs[name] for name in (schema.FINGERPRINT,) if name in ds.attrs}
        | attrs,
    )


def mixed(shape=(31, 47, 61), *, dose=40, seed=3, components=3):
    """Return Poisson counts, and the loadings and factors that they were drawn from."""
    rng = np.random.default_rng(seed)
    height, width, n_channels = shape
    factors = rng.gamma(0.7, 1, (components, n_channels)) + 0.02
    factors /= factors.sum(axis=1)[:, None]
    loadings = rng.gamma(0.5, 1, (components, height, width))
    loadings *= dose * np.linspace(0.4, 1.6, width) / loadings.sum(axis=0)
    loadings = loadings.astype(np.float32)
    counts = rng.poisson(np.einsum("kyx,ke->yxe", loadings, factors)).astype(np.uint16)
    return counts, loadings, factors


def by_hand(counts, loadings, factors):
    """Return what ``residual`` promises, by float64 matrices of full size."""
    X = matrix(counts)
    M = loadings.reshape(len(loadings), -1).T.astype(np.float64) @ factors
    total = np.maximum(X.sum(axis=1), M.sum(axis=1))
    floor = np.where(total > 0, FLOOR * total / factors.any(axis=0).sum(), 1)[:, None]
    m = np.maximum(M, 0)
    squares, has = (X - m) ** 2 / np.maximum(m, floor), np.minimum(1, m / floor)
    shape = counts.shape[:2]
    return {
        schema.RESIDUAL: (X - M).sum(axis=1).reshape(shape),
        schema.CHI_SQUARE: (squares.sum(axis=1) / np.maximum(1, has.sum(axis=1))).reshape(shape),
        schema.RESIDUAL_SPECTRUM: (X - M).sum(axis=0),
        schema.CHI_SQUARE_SPECTRUM: squares.sum(axis=0) / np.maximum(1, has.sum(axis=0)),
    }


def assert_is(found, expected):
    for name, values in expected.items():
        scale = np.abs(values).max() if name in (schema.RESIDUAL, schema.RESIDUAL_SPECTRUM) else 0
        np.testing.assert_allclose(found[name], values, rtol=2e-5, atol=1e-5 * scale, err_msg=name)


# ------------------------------------------------------------------------------------------------------ the kernel
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize("n_channels", [1, 61, 2050])
def test_kernel_is_its_numpy_twin(dtype, n_channels):
    rng = np.random.default_rng(0)
    factors = rng.normal(0.3, 0.4, (5, n_channels)).astype(np.float32)
    factors[:, ::7] = 0
    loadings = rng.normal(1, 2, (37, 5)).astype(np.float32)
    loadings[::5] = 0
    counts = rng.poisson(0.7, (37, n_channels)).astype(dtype)
    counts[4] = 0
    floor = rng.uniform(0.01, 1.5, 37)
    m = np.maximum(loadings.astype(np.float64) @ factors, 0)
    squares = (counts.astype(np.float64) - m) ** 2 / np.maximum(m, floor[:, None])
    has = np.minimum(1, m / floor[:, None])
    found = chi_square(from_dense(counts), loadings, factors, floor)
    for one, expected in zip(found, (squares.sum(1), has.sum(1), squares.sum(0), has.sum(0)), strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-4)


def test_large_counts_do_not_cancel():
    # (x - m)^2 of a million counts is the difference of numbers a million times larger.
    rng = np.random.default_rng(1)
    factors = rng.uniform(0.5, 1.5, (1, 401)).astype(np.float32)
    loadings = np.full((13, 1), 1e6, np.float32)
    mean = (loadings * factors).astype(np.float64)
    counts = rng.poisson(mean).astype(np.uint32)
    found = chi_square(from_dense(counts), loadings, factors, np.ones(13))
    np.testing.assert_allclose(found.of_pixel, ((counts - mean) ** 2 / mean).sum(axis=1), rtol=1e-5)


# ---------------------------------------------------------------------------------------------- equal to NumPy
@pytest.mark.parametrize("case", ["true", "negative", "dead", "no model"])
def test_equal_to_full_matrices(case):
    counts, loadings, factors = mixed()
    if case == "negative":  # as of a PCA
        loadings, factors = loadings - 4, factors - 0.01
    if case == "dead":
        counts[3:5], loadings[:, 3:5] = 0, 0
        counts[..., [0, 17, 60]], factors[:, [0, 17, 60]] = 0, 0
    if case == "no model":  # there are counts where the model has none
        loadings[:, 7:11, 2:30], factors[:, 5:9] = 0, 0
    ds = as_map(counts)
    found = residual(ds, model_of(ds, loadings, factors))
    for name in (*MAPS, *SPECTRA):
        assert found[name].dims == schema.VARIABLES[name].dims
        assert np.isfinite(found[name].values).all()
    assert_is(found, by_hand(counts, loadings, factors))
    assert all(found[name].chunks is not None for name in MAPS)
    for axis in (schema.Y, schema.X, schema.ENERGY):
        np.testing.assert_array_equal(found[axis], ds[axis])


def test_of_several_lanes_and_of_floats():
    counts, loadings, factors = mixed((67, 269, 31), dose=9)
    ds = as_map(counts)
    assert_is(residual(ds, model_of(ds, loadings, factors)), by_hand(counts, loadings, factors))
    halved = ds.chunk({schema.X: 100}) * 0.5
    found = residual(halved.assign_attrs(ds.attrs), model_of(ds, loadings / 2, factors))
    # Twice as many counts as the noise of half of them: chi-square halves, and has no units of its own.
    np.testing.assert_allclose(
        found[schema.CHI_SQUARE], by_hand(counts, loadings, factors)[schema.CHI_SQUARE] / 2, 1e-4
    )


def test_chosen_components_are_the_model():
    counts, loadings, factors = mixed()
    ds = as_map(counts)
    result = model_of(ds, loadings, factors)
    found = residual(ds, result, components=[3, 1])
    assert_is(found, by_hand(counts, loadings[[2, 0]], factors[[2, 0]]))
    assert found.attrs[schema.PARAMETERS] == {"components": [3, 1]}
    assert residual(ds, result).attrs[schema.PARAMETERS] == {}


def test_residual_of_a_pca_with_all_components_is_zero():
    counts = made_counts((7, 11, 13))
    ds = as_map(counts)
    found = residual(ds, pca(ds, n_components=13))
    np.testing.assert_allclose(found[schema.RESIDUAL], 0, atol=1e-3)
    np.testing.assert_allclose(found[schema.CHI_SQUARE], 0, atol=1e-4)


def test_the_mean_of_a_centred_pca_is_part_of_the_model():
    ds = as_map(made_counts((31, 47, 61)))
    result = pca(ds, n_components=3, centre=True)
    loadings = np.concatenate([result[schema.MEAN_LOADING].values[None], result[schema.LOADINGS].values[1:]])
    factors = np.concatenate([result[schema.MEAN_SPECTRUM].values[None], result[schema.FACTORS].values[1:]])
    assert_is(residual(ds, result, components=[2, 3]), by_hand(ds[schema.COUNTS].values, loadings, factors))


# ------------------------------------------------------------------------------------------------- what it says
def test_true_model_has_chi_square_one_where_neyman_has_a_twentieth():
    # 0.05 counts a channel: the spread is that of the formula.
    shape, mean = (60, 70, 521), 0.05
    counts = np.random.default_rng(5).poisson(mean, shape).astype(np.uint8)
    ds = as_map(counts)
    found = residual(ds, model_of(ds, np.full((1, *shape[:2]), mean), np.ones((1, shape[2]))))
    maps, spectra = found[schema.CHI_SQUARE].values, found[schema.CHI_SQUARE_SPECTRUM].values
    n_pixels = shape[0] * shape[1]
    for values, n in ((maps, shape[2]), (spectra, n_pixels)):
        spread = np.sqrt((2 + 1 / mean) / n)
        assert values.mean() == pytest.approx(1, abs=4 * np.sqrt((2 + 1 / mean) / (n_pixels * shape[2])))
        assert values.std() == pytest.approx(spread, rel=0.1)
    neyman = np.sum((counts - mean) ** 2 / np.maximum(1, counts), axis=2, where=counts > 0) / shape[2]
    assert neyman.mean() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("dose", [3, 30, 300])
def test_true_model_has_chi_square_one_whatever_lies_under_the_floor(dose):
    # Channels over four decades: half of them are under the floor.
    rng = np.random.default_rng(dose)
    factors = np.stack([np.geomspace(1, 1e-4, 301), np.geomspace(1e-4, 1, 301)[rng.permutation(301)]])
    factors /= factors.sum(axis=1)[:, None]
    loadings = rng.dirichlet([0.4, 0.4], (60, 50)).transpose(2, 0, 1) * dose
    counts = rng.poisson(np.einsum("kyx,ke->yxe", loadings, factors)).astype(np.uint16)
    ds = as_map(counts)
    found = residual(ds, model_of(ds, loadings, factors))
    squares = found[schema.CHI_SQUARE].values
    assert squares.mean() == pytest.approx(1, abs=5 * squares.std() / np.sqrt(squares.size))
    spectrum = found[schema.CHI_SQUARE_SPECTRUM].values
    assert spectrum.mean() == pytest.approx(1, abs=5 * spectrum.std() / np.sqrt(spectrum.size))
    assert found[schema.RESIDUAL].mean() == pytest.approx(0, abs=5 * np.sqrt(dose / squares.size))


def test_missing_phase_shows_in_the_map_and_its_line_in_the_spectrum():
    counts, loadings, factors = mixed((40, 50, 61), dose=100)
    loadings[2] = 0
    loadings[2, 10:15, 20:26] = 100  # 1.5 % of the pixels
    factors[2] = 0.002
    factors[2, 30:32] = 0.44
    counts = np.random.default_rng(0).poisson(np.einsum("kyx,ke->yxe", loadings, factors)).astype(np.uint16)
    ds = as_map(counts)
    found = residual(ds, model_of(ds, loadings, factors), components=[1, 2])
    squares, spectrum = found[schema.CHI_SQUARE].values, found[schema.CHI_SQUARE_SPECTRUM].values
    inside = loadings[2] > 0
    assert squares[inside].min() > 2 * squares[~inside].max()
    assert set(np.argsort(spectrum)[-2:]) == {30, 31}
    assert found[schema.RESIDUAL].values[inside].mean() == pytest.approx(100, rel=0.05)


def test_one_count_where_the_model_has_none_shows_and_does_not_drown_the_rest():
    shape, total = (30, 40, 1024), 100.0
    factors = np.full((1, shape[2]), 1.0 / 1000)
    factors[0, 1000:] = 0
    counts = np.random.default_rng(2).poisson(total * factors[0], shape).astype(np.uint8)
    counts[11, 13, 1010] = 1
    ds = as_map(counts)
    squares = residual(ds, model_of(ds, np.full((1, *shape[:2]), total), factors))[schema.CHI_SQUARE].values
    assert np.unravel_index(squares.argmax(), squares.shape) == (11, 13)
    assert 5 * squares.std() < squares[11, 13] - 1 < 1.5


# --------------------------------------------------------------------------------- chunks, workers, what is left out
COUNTS, LOADINGS, FACTORS = mixed((67, 269, 31), dose=9)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return convert(ArrayReader(COUNTS), tmp_path_factory.mktemp("residual") / "map.zarr")


@pytest.fixture(scope="module")
def expected():
    ds = as_map(COUNTS)
    return residual(ds, model_of(ds, LOADINGS, FACTORS)).load()


def test_ragged_chunks_give_the_same_bits(expected):
    @settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ragged_chunks(COUNTS.shape), ragged_chunks(COUNTS.shape))
    def check(chunks, of_result):
        ds = as_map(COUNTS, chunks=chunks)
        lazy = {schema.COMPONENT: 2, schema.Y: of_result[0], schema.X: of_result[1]}
        assert_same_bits(residual(ds, model_of(ds, LOADINGS, FACTORS).chunk(lazy)), expected)

    check()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_stored_map_and_any_number_of_workers_give_the_same_bits(store, expected, workers, monkeypatch):
    monkeypatch.setattr(memory, "n_cpus", lambda: workers)
    found = residual(store, model_of(store, LOADINGS, FACTORS))
    for name in (*MAPS, *SPECTRA):
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=name)


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(top=st.integers(0, 30), left=st.integers(0, 90))
def test_window_of_a_stored_map(store, top, left):
    window = {schema.Y: slice(top, 61), schema.X: slice(left, 201), schema.ENERGY: slice(2, 29)}
    found = residual(store.isel(window), model_of(store, LOADINGS, FACTORS).isel(window))
    y, x, energy = window.values()
    assert_is(found, by_hand(COUNTS[y, x, energy], LOADINGS[:, y, x], FACTORS[:, energy]))


@pytest.mark.parametrize("by", ["map", "result", "both"])
def test_what_is_left_out_is_nan_and_has_no_part_in_the_rest(store, by):
    pixels = np.zeros(COUNTS.shape[:2], bool)
    pixels[5:40, 100:150] = True
    channels = np.zeros(COUNTS.shape[2], bool)
    channels[[0, 7, 8]] = True
    ds, loadings, factors = store, LOADINGS.copy(), FACTORS.copy()
    if by != "result":
        energy = [(float(value), float(value)) for value in store[schema.ENERGY].values[channels]]
        ds = exclude(store, pixels=pixels, energy=energy)
    if by != "map":
        loadings[:, pixels], factors[:, channels] = np.nan, np.nan
    found = residual(ds, model_of(store, loadings, factors))
    for name in MAPS:
        np.testing.assert_array_equal(np.isnan(found[name]), pixels)
    for name in SPECTRA:
        np.testing.assert_array_equal(np.isnan(found[name]), channels)
    counts, loadings = COUNTS[..., ~channels], LOADINGS.copy()
    expected = by_hand(counts, loadings, FACTORS[:, ~channels])
    for name in MAPS:
        np.testing.assert_allclose(found[name].values[~pixels], expected[name][~pixels], rtol=2e-5, atol=1e-4)
    kept = by_hand(counts[~pixels][None], loadings[:, ~pixels][:, None], FACTORS[:, ~channels])
    for name in SPECTRA:
        np.testing.assert_allclose(found[name].values[~channels], kept[name], rtol=2e-5, atol=1e-2)


# ---------------------------------------------------------------------------------------------- memory and the store
def test_nothing_of_full_size_is_read_or_held(store):
    def refuse(*args, **kwargs):
        raise AssertionError("more than a lane was read")

    result = model_of(store, LOADINGS, FACTORS).chunk({schema.Y: 64, schema.X: 64})
    loadings = result[schema.LOADINGS].data
    seen = loadings.map_blocks(lambda part: part if part.shape[-1] <= 64 else refuse(), dtype=loadings.dtype)
    found = residual(store, result.assign({schema.LOADINGS: (result[schema.LOADINGS].dims, seen)}))
    assert found[schema.RESIDUAL].data.chunksize == (67, 256)
    # A map of any size needs the same.
    with pytest.raises(MemoryBudgetError, match="memory for model") as small:
        residual(store.isel(x=slice(256)), model_of(store, LOADINGS, FACTORS).isel(x=slice(256)), memory="100MB")
    with pytest.raises(MemoryBudgetError, match="memory for model") as large:
        residual(store, model_of(store, LOADINGS, FACTORS), memory="100MB")
    assert str(small.value).split("MB once")[1] == str(large.value).split("MB once")[1]


def test_it_is_saved_and_knows_its_parent(store):
    place = store.encoding["source"]
    save(model_of(store, LOADINGS, FACTORS, **{schema.RESULT_ID: "1" * 32}), place)
    parent = load(place, "nmf/k2")
    found = residual(store, parent)
    assert found.encoding["source"] == place
    assert save(found, place).startswith("model/k2.r")
    again = load_fresh(place, "model/k2")
    assert again.attrs[schema.PARENT] == "nmf/k2.r1"
    assert again[schema.CHI_SQUARE].attrs["units"] == "1"
    for name in (*MAPS, *SPECTRA):
        np.testing.assert_array_equal(again[name], found[name])
    save(model_of(store, LOADINGS, FACTORS, **{schema.RESULT_ID: "2" * 32}), place)
    with pytest.raises(StaleResultError, match=r"nmf/k2.r1 was made again since.* eds-chunked model .* --from nmf/k2"):
        load_fresh(place, "model/k2")


def test_computing_the_maps_again_reads_no_counts(store):
    found = residual(store, model_of(store, LOADINGS, FACTORS))
    with dask.config.set(scheduler="synchronous"):
        assert not any("counts" in str(key) for key in found[schema.CHI_SQUARE].data.dask)


# ------------------------------------------------------------------------------------------------------ bad input
def test_results_without_a_model_are_refused():
    ds = as_map(made_counts((13, 17, 31)))
    centred = pca(ds, n_components=2, solver="incremental").drop_vars([schema.MEAN_SPECTRUM, schema.MEAN_LOADING])
    with pytest.raises(ParameterError, match="model: found a centred PCA without the mean spectrum"):
        residual(ds, centred)
    with pytest.raises(ChunkLayoutError, match="variable 'factors'"):
        residual(ds, ds)
    with pytest.raises(ChunkLayoutError, match="variable 'counts'"):
        residual(pca(ds, n_components=2), pca(ds, n_components=2))


@pytest.mark.parametrize("components", [[0], [4], []])
def test_wrong_components_are_refused(components):
    ds = as_map(made_counts((13, 17, 31)))
    with pytest.raises(ParameterError, match=r"components: found .* expected some of 1 to 3"):
        residual(ds, pca(ds, n_components=3), components=components)


def test_result_of_another_region_energy_or_map_is_refused(store):
    result = model_of(store, LOADINGS, FACTORS)
    with pytest.raises(ChunkLayoutError, match="along energy"):
        residual(store, result.isel(energy=slice(3, 20)))
    with pytest.raises(ChunkLayoutError, match="along x"):
        residual(store.isel(x=slice(1, None)), result.isel(x=slice(-1)))
    with pytest.raises(StaleResultError, match="another map"):
        residual(store, result.assign_attrs({schema.FINGERPRINT: "0"}))


def test_result_without_any_channel_is_refused():
    ds = as_map(made_counts((13, 17, 31)))
    with pytest.raises(ParameterError, match="channels to analyse: found none of 31"):
        residual(ds, model_of(ds, np.ones((1, 13, 17)), np.full((1, 31), np.nan)))
