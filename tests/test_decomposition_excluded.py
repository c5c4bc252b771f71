"""Components of a map of which pixels and channels are left out: those of the matrix without the rows and columns."""

import importlib
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.decomposition import IncrementalPCA, MiniBatchNMF

from eds_chunked import schema
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.decomposition.estimators import decompose
from eds_chunked.decomposition.incremental import batch_size
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.result import check_n_components, check_same_axes
from eds_chunked.engine.binning import rebin
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.exclusion import exclude
from eds_chunked.engine.shuffle import shuffled_batches
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.memory import Need, plan
from eds_chunked.phases.segment import segment_phases
from eds_chunked.phases.sums import phase_spectra
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import load, newest, refresh_command, save
from tests.decomposition_maps import (
    ArrayReader,
    as_map,
    assert_same_bits,
    made_counts,
    matrix,
    poisson_scaled,
    ragged_chunks,
    rows_of,
    weights,
    with_dead,
)

SHAPE = (31, 47, 61)
COUNTS = with_dead(made_counts(SHAPE))
K = 4


def masks(seed=0):
    """Pixels (y, x) and energies that are left out: a corner, many single pixels, two windows."""
    rng = np.random.default_rng(seed)
    left_out = rng.random(SHAPE[:2]) < 0.2
    left_out[:9, 30:] = True
    return left_out, [(0.1, 0.16), (0.7, 0.98)]


def parted(ds, seed=0):
    left_out, windows = masks(seed)
    return exclude(ds, pixels=left_out, energy=windows)


def cut_matrix(counts=COUNTS, seed=0):
    """Return what is analysed, float64 (pixels, channels), and which pixels and channels those are."""
    left_out, windows = masks(seed)
    energy = np.arange(counts.shape[2]) * 0.02 - 0.1
    channels = ~np.any([(energy > low - 1e-9) & (energy < high + 1e-9) for low, high in windows], axis=0)
    return matrix(counts)[~left_out.ravel()][:, channels], ~left_out, channels


def svd_components(X, k, noise):
    a, b = weights(X) if noise == "poisson" else (np.ones(len(X)), np.ones(X.shape[1]))
    U, singular, V = np.linalg.svd(X / a[:, None] / b, full_matrices=False)
    factors = V[:k] * b
    signs = np.sign(factors[np.arange(k), np.abs(factors).argmax(axis=1)])
    return factors * signs[:, None], (U[:, :k] * singular[:k] * signs * a[:, None]).T, singular


def assert_equal_to_svd(result, X, pixels, channels, noise):
    factors, loadings, singular = svd_components(X, K, noise)
    assert X.shape == (pixels.sum(), channels.sum())
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * len(X), singular[:K] ** 2, rtol=1e-10)
    np.testing.assert_allclose(
        result[schema.EIGENVALUES] * len(X), singular**2, rtol=1e-10, atol=1e-13 * singular[0] ** 2
    )
    np.testing.assert_allclose(
        result[schema.EXPLAINED_VARIANCE_RATIO], singular[:K] ** 2 / np.sum(singular**2), rtol=1e-10
    )
    found = result[schema.FACTORS].values
    scale = np.abs(factors).max(axis=1)[:, None]
    np.testing.assert_allclose(found[:, channels] / scale, factors / scale, atol=1e-8)
    assert np.isnan(found[:, ~channels]).all()
    maps = result[schema.LOADINGS].values
    np.testing.assert_allclose(maps[:, pixels], loadings, atol=1e-5 * np.abs(loadings).max(axis=1).min())
    return maps[:, ~pixels]


# --------------------------------------------------------------------------------------------------------------- PCA
@pytest.mark.parametrize("noise", ["poisson", None])
def test_pca_equals_the_svd_without_the_rows_and_columns(noise):
    X, pixels, channels = cut_matrix()
    result = pca(parted(as_map(COUNTS)), n_components=K, noise=noise)
    assert np.isnan(assert_equal_to_svd(result, X, pixels, channels, noise)).all()


def test_pca_of_many_lanes_equals_the_svd_without_the_rows_and_columns():
    counts = made_counts((67, 269, 31), dose=9)
    rng = np.random.default_rng(3)
    left_out = rng.random(counts.shape[:2]) < 0.1
    left_out[:, 250:] = True  # nearly all of the second lane
    result = pca(exclude(as_map(counts), pixels=left_out, energy=[(0.1, 0.2)]), n_components=K)
    channels = np.ones(31, bool)
    channels[10:16] = False
    X = matrix(counts)[~left_out.ravel()][:, channels]
    assert_equal_to_svd(result, X, ~left_out, channels, "poisson")


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(chunks=ragged_chunks(SHAPE), seed=st.integers(0, 9), solver=st.sampled_from(["gram", "incremental"]))
def test_chunks_do_not_change_a_bit(chunks, seed, solver):
    found, expected = (
        pca(parted(ds, seed), n_components=K, solver=solver).load()
        for ds in (as_map(COUNTS, chunks=chunks), as_map(COUNTS))
    )
    assert_same_bits(found, expected)


EVERY_WAY = {
    "gram": lambda ds: pca(ds, n_components=K, solver="gram"),
    "centred": lambda ds: pca(ds, n_components=K, solver="gram", centre=True),
    "randomized": lambda ds: pca(ds, n_components=K, solver="randomized"),
    "incremental": lambda ds: pca(ds, n_components=K, solver="incremental"),
    "estimator": lambda ds: decompose(ds, MiniBatchNMF(3, random_state=0), noise="poisson", batch_size=300).result,
}


@pytest.mark.parametrize("way", EVERY_WAY)
def test_no_solver_sees_what_is_left_out(way):
    left_out, _ = masks()
    *_, channels = cut_matrix()
    spoiled = COUNTS.copy()
    spoiled[left_out] = 3000 * (np.arange(61) % 5 == 2)
    spoiled[:, :, ~channels] = 777
    found, expected = (EVERY_WAY[way](parted(as_map(counts))).drop_attrs() for counts in (spoiled, COUNTS))
    assert_same_bits(found, expected)
    assert np.isnan(found[schema.LOADINGS].values[:, left_out]).all()
    assert np.isfinite(found[schema.LOADINGS].values[:, ~left_out]).all()


@pytest.mark.parametrize("centre", [False, True])
def test_randomized_solver_agrees_with_the_exact_one(centre):
    found, expected = (
        pca(parted(as_map(COUNTS)), n_components=3, solver=solver, centre=centre) for solver in ("randomized", "gram")
    )
    # The components that tell three phases apart; what is below the noise edge converges slowly.
    n = 2 if centre else 3
    for name in (schema.EXPLAINED_VARIANCE, schema.EXPLAINED_VARIANCE_RATIO):
        np.testing.assert_allclose(found[name][:n], expected[name][:n], rtol=1e-6)


def test_first_singular_value_is_one_and_n_is_of_the_analysed_pixels():
    X, *_ = cut_matrix()
    result = pca(parted(as_map(COUNTS)), n_components=1)
    assert float(result[schema.EXPLAINED_VARIANCE][0]) * len(X) == pytest.approx(1, abs=1e-12)


def test_noise_edge_is_that_of_the_analysed_part():
    # Whole rows and channels, so that the same can be cut from the array.
    ds = as_map(COUNTS)
    left_out = np.zeros(SHAPE[:2], bool)
    left_out[20:] = True
    found = pca(exclude(ds, pixels=left_out, energy=[(0.9, 2)]), n_components=2)
    expected = pca(as_map(COUNTS[:20, :, :50]), n_components=2)
    np.testing.assert_allclose(found[schema.NOISE_RATIO], expected[schema.NOISE_RATIO], rtol=1e-9)
    assert advise_components(found).n_components == advise_components(expected).n_components


def test_pixels_that_are_left_out_may_be_projected():
    X, pixels, channels = cut_matrix()
    result = pca(parted(as_map(COUNTS)), n_components=K, project_excluded=True)
    projected = assert_equal_to_svd(result, X, pixels, channels, "poisson")
    # X' = X V with the components of the others.
    root = weights(X)[1]
    others = matrix(COUNTS)[~pixels.ravel()][:, channels]
    vectors = result[schema.FACTORS].values[:, channels] / root
    expected = (others / root) @ vectors.T
    np.testing.assert_allclose(projected, expected.T, atol=1e-4, rtol=1e-5)
    assert result.attrs[schema.PARAMETERS]["project_excluded"] is True
    other = pca(parted(as_map(COUNTS)), n_components=K)
    assert other.attrs[schema.RESULT_ID] != result.attrs[schema.RESULT_ID]


def test_incremental_solver_never_meets_what_is_left_out():
    X, pixels, channels = cut_matrix()
    result = pca(parted(as_map(COUNTS)), n_components=K, solver="incremental")
    # The rows of the matrix in the random batches of pixels that the solver is fed with.
    row = np.cumsum(pixels.ravel()) - 1
    scaled = poisson_scaled(X)
    oracle = IncrementalPCA(K)
    blocks, how = blocks_of(parted(as_map(COUNTS))), plan(Need("test", 0, 1))
    for batch in shuffled_batches(blocks, size=batch_size(K), seed=0, plan=how):
        oracle.partial_fit(scaled[row[batch.place]])
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * len(X), oracle.singular_values_**2, rtol=1e-8)
    factors = result[schema.FACTORS].values
    assert np.isnan(factors[:, ~channels]).all()
    inside = factors[:, channels] / weights(X)[1]
    np.testing.assert_allclose(np.abs(np.sum(inside * oracle.components_, axis=1)), 1, rtol=1e-8)
    assert np.isnan(result[schema.LOADINGS].values[:, ~pixels]).all()


def test_hyperspy_with_the_same_masks_gives_the_same_components():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing `Lazy")
        exspy = importlib.import_module("exspy")
    counts = made_counts((13, 17, 61), seed=8)
    rng = np.random.default_rng(2)
    left_out = rng.random(counts.shape[:2]) < 0.25
    channels = np.ones(61, bool)
    channels[[3, 4, 5, 50]] = False
    signal = exspy.signals.EDSSEMSpectrum(counts.astype(np.float64))
    # Its masks of NumPy are in the order (x, y).
    signal.decomposition(
        True,
        algorithm="SVD",
        output_dimension=None,
        print_info=False,
        navigation_mask=left_out.T,
        signal_mask=~channels,
    )
    theirs = signal.learning_results
    ds = exclude(as_map(counts), pixels=left_out, energy=[(-0.04, 0.0), (0.9, 0.9)])
    np.testing.assert_array_equal(ds[schema.ANALYSED_CHANNEL], channels)
    result = pca(ds, n_components=3)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE], theirs.explained_variance[:3], rtol=1e-5)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE_RATIO], theirs.explained_variance_ratio[:3], rtol=1e-5)
    used = ~left_out.ravel()
    for found, expected, ours, maps in zip(
        result[schema.FACTORS].values,
        theirs.factors.T,
        rows_of(result[schema.LOADINGS]),
        theirs.loadings.T,
        strict=False,
    ):
        np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(maps))
        # Up to one scale, of either sign, that a factor may have and its loadings have the inverse of.
        scale = (found[channels] @ expected[channels]) / (expected[channels] @ expected[channels])
        np.testing.assert_allclose(found[channels], scale * expected[channels], atol=1e-5 * np.nanmax(np.abs(found)))
        np.testing.assert_allclose(ours[used], maps[used] / scale, atol=1e-5 * np.nanmax(np.abs(ours)))


def test_number_of_components_is_bounded_by_what_is_analysed():
    ds = as_map(COUNTS)
    few = exclude(ds, energy=[(-1, 0.95)])
    assert check_n_components(7, few) == 7
    with pytest.raises(ParameterError, match="from 1 to 8 for 1457 pixels and 8 channels"):
        pca(few, n_components=9)
    left_out = np.ones(SHAPE[:2], bool)
    left_out[3, 4:7] = False
    with pytest.raises(ParameterError, match="from 1 to 3 for 3 pixels and 61 channels"):
        pca(exclude(ds, pixels=left_out), n_components=4)
    result = pca(exclude(ds, pixels=left_out), n_components=3)
    assert np.isfinite(result[schema.LOADINGS].values[:, 3, 4:7]).all()


# --------------------------------------------------------------------------------------------------------------- NMF
RECIPES = {
    "minibatch": {"max_epochs": 2},
    "minibatch of a sample": {"max_epochs": 1, "fit_pixels": 500},
    "blockwise": {"solver": "blockwise", "max_epochs": 3},
    "blockwise poisson": {"solver": "blockwise", "loss": "poisson", "max_epochs": 3},
}


def lower_part(ds):
    """Leave out the last rows and channels in the middle: the other pixels have the same place in a map cut so."""
    left_out = np.zeros(SHAPE[:2], bool)
    left_out[23:] = True
    return exclude(ds, pixels=left_out, energy=[(0.3, 0.5)])


@pytest.mark.parametrize("recipe", RECIPES)
def test_nmf_is_that_of_the_map_without_the_pixels_and_channels(recipe):
    channels = np.ones(61, bool)
    channels[20:31] = False
    expected = nmf(as_map(np.ascontiguousarray(COUNTS[:23][:, :, channels])), n_components=3, **RECIPES[recipe])
    found = nmf(lower_part(as_map(COUNTS)), n_components=3, **RECIPES[recipe])
    np.testing.assert_array_equal(found[schema.FACTORS].values[:, channels], expected[schema.FACTORS])
    assert np.isnan(found[schema.FACTORS].values[:, ~channels]).all()
    np.testing.assert_array_equal(found[schema.LOADINGS].values[:, :23], expected[schema.LOADINGS])
    assert np.isnan(found[schema.LOADINGS].values[:, 23:]).all()
    np.testing.assert_allclose(found[schema.OBJECTIVE], expected[schema.OBJECTIVE], rtol=1e-12)


@pytest.mark.parametrize("recipe", RECIPES)
def test_nmf_does_not_see_what_is_left_out(recipe):
    left_out, _ = masks()
    spoiled = COUNTS.copy()
    spoiled[left_out] = 3000 * (np.arange(61) % 5 == 2)
    *_, channels = cut_matrix()
    spoiled[:, :, ~channels] = 777
    found, expected = (
        nmf(parted(as_map(counts)), n_components=3, **RECIPES[recipe]).drop_attrs() for counts in (spoiled, COUNTS)
    )
    assert_same_bits(found, expected)


def test_nmf_projects_what_is_left_out_on_request():
    ds = lower_part(as_map(COUNTS))
    plain, projected = (nmf(ds, n_components=3, project_excluded=given) for given in (False, True))
    np.testing.assert_array_equal(projected[schema.FACTORS], plain[schema.FACTORS])
    np.testing.assert_array_equal(projected[schema.LOADINGS][:, :23], plain[schema.LOADINGS][:, :23])
    below = projected[schema.LOADINGS].values[:, 23:]
    assert np.isfinite(below).all()
    # Loadings are counts of the channels that are analysed.
    channels = ds[schema.ANALYSED_CHANNEL].values
    total = COUNTS[23:, :, channels].sum(axis=2)
    assert np.corrcoef(below.sum(axis=0).ravel(), total.ravel())[0, 1] > 0.98


# ------------------------------------------------------------------------------------------------ what a result says
def test_result_says_what_was_left_out_and_takes_it_along():
    left_out, _ = masks()
    ds = as_map(COUNTS)
    plain, masked = pca(ds, n_components=2), pca(parted(ds), n_components=2)
    parameters = masked.attrs[schema.PARAMETERS]
    assert parameters["pixels_left_out"] == left_out.sum()
    assert parameters["channels_left_out"] == 19
    np.testing.assert_allclose(parameters["exclude_energy"], [[0.09, 0.17], [0.69, 0.99]])
    assert {"pixel_mask", "channel_mask"} < set(parameters)
    assert "pixel_mask" not in plain.attrs[schema.PARAMETERS]
    np.testing.assert_array_equal(masked[schema.ANALYSED_PIXEL], ~left_out)
    assert schema.ANALYSED_PIXEL not in plain.coords
    # The windows of the parameters leave out the same channels again.
    again = exclude(ds, energy=[tuple(window) for window in parameters["exclude_energy"]])
    np.testing.assert_array_equal(again[schema.ANALYSED_CHANNEL], masked[schema.ANALYSED_CHANNEL])
    ids = {
        pca(other, n_components=2).attrs[schema.RESULT_ID]
        for other in (
            ds,
            parted(ds),
            parted(ds, 1),
            exclude(ds, energy=[(0.1, 0.2)]),
            exclude(ds, energy=[(0.1, 0.22)]),
        )
    }
    assert len(ids) == 5


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return convert(ArrayReader(COUNTS), tmp_path_factory.mktemp("excluded") / "map.zarr")


@pytest.mark.parametrize("chunks", [None, {"y": 7, "x": 13}])
def test_saved_result_keeps_the_masks(store, chunks):
    path = store.encoding["source"]
    ds = parted(store)
    result = pca(ds if chunks is None else ds.chunk(chunks), n_components=2)
    address = save(result, path)
    loaded = load(path, address)
    for name in (schema.ANALYSED_PIXEL, schema.ANALYSED_CHANNEL):
        np.testing.assert_array_equal(loaded[name], ds[name])
        assert loaded[name].dtype == bool
    np.testing.assert_array_equal(loaded[schema.LOADINGS], result[schema.LOADINGS])
    # The masks can be taken to the map again.
    copied = store.assign_coords({schema.ANALYSED_PIXEL: loaded[schema.ANALYSED_PIXEL]})
    np.testing.assert_array_equal(copied[schema.ANALYSED_PIXEL], ds[schema.ANALYSED_PIXEL])
    command = refresh_command(path, newest(path, address))
    assert command.endswith(f"--exclude-energy 0.09:0.17 --exclude-energy 0.69:0.99 --mask {address} --name main")


# ------------------------------------------------------------------------------------------------------------ phases
def test_pixels_that_are_left_out_are_in_no_phase():
    ds = parted(as_map(COUNTS))
    result = pca(ds, n_components=3)
    # Loadings that are no PCA's, with holes that cleaning fills.
    result[schema.LOADINGS] = np.abs(result[schema.LOADINGS].compute()) + 0
    result[schema.FACTORS] = np.abs(result[schema.FACTORS])
    phases = segment_phases(result, min_size=40, threshold=[0.0, 1.0, 1.0])
    left_out, _ = masks()
    assert not phases[schema.LABEL].values[left_out].any()
    assert not phases[schema.MASK].values[:, left_out].any()
    assert phases[schema.MASK].values[0][~left_out].all()
    assert phases[schema.N_PIXELS].values[0] == (~left_out).sum()
    np.testing.assert_array_equal(phases[schema.ANALYSED_PIXEL], ~left_out)
    assert np.isfinite(phases[schema.MARGIN].values).all()


@pytest.mark.parametrize("source", ["label", "mask"])
@pytest.mark.parametrize("of_phases", ["the same part", "the whole map"])
def test_phase_spectra_leave_pixels_out_but_no_channels(source, of_phases):
    left_out, _ = masks()
    ds = as_map(COUNTS, chunks=(9, 20, 61))
    result = pca(parted(ds) if of_phases == "the same part" else ds, n_components=2)
    result[schema.LOADINGS] = np.abs(result[schema.LOADINGS].compute())
    result[schema.FACTORS] = np.abs(result[schema.FACTORS])
    phases = segment_phases(result, min_size=2)
    found = phase_spectra(parted(ds), phases=phases, source=source)
    member = phases[schema.MASK].values
    if source == "label":
        member = phases[schema.LABEL].values == np.array([1, 2])[:, None, None]
    member = member & ~left_out
    assert found[schema.SPECTRUM].dtype == np.uint64
    np.testing.assert_array_equal(
        found[schema.SPECTRUM], [COUNTS[pixels].sum(axis=0, dtype=np.uint64) for pixels in member]
    )
    np.testing.assert_array_equal(found[schema.N_PIXELS], member.sum(axis=(1, 2)))
    assert found[schema.SPECTRUM].values[:, 12].any()  # a channel that is left out
    assert found.attrs[schema.PARAMETERS]["pixels_left_out"] == left_out.sum()
    assert "channels_left_out" not in found.attrs[schema.PARAMETERS]


# -------------------------------------------------------------------------------------------------------------- axes
def test_the_same_axes_are_accepted_masks_or_not():
    ds = as_map(COUNTS)
    check_same_axes(ds, pca(parted(ds), n_components=2))
    check_same_axes(parted(ds), pca(ds, n_components=2))
    part = ds.isel(y=slice(2, 9), energy=slice(3, 40))
    check_same_axes(part, pca(part, n_components=2))


@pytest.mark.parametrize(
    ("of_map", "of_result", "message"),
    [
        (
            {},
            {"energy": slice(10, 40)},
            r"result along energy: found 30 channels from 0.1 to 0.68 keV, expected 61 channels from -0.1 to 1.1 keV.*"
            r"same energies of the map as for the result: ds.sel\(energy=slice\(0.09, 0.69\)\)",
        ),
        ({"energy": slice(10, 40)}, {}, r"found 61 channels.*expected 30 channels.*select the same energies.*result$"),
        ({}, {"x": slice(5, 9)}, r"along x: found 4 pixels from 1.25 to 2 um.*ds.sel\(x=slice\(1.125, 2.125\)\)"),
        ({"y": slice(0, 30)}, {"y": slice(1, 31)}, r"along y: found 30 pixels from 0.5 .*expected 30 pixels from 0"),
    ],
)
def test_mixed_windows_and_regions_are_refused_with_what_fits(of_map, of_result, message):
    ds = as_map(COUNTS)
    result = pca(ds.isel(of_result), n_components=2)
    with pytest.raises(ChunkLayoutError, match=message):
        check_same_axes(ds.isel(of_map), result)


def test_the_selection_that_an_error_names_fits():
    ds = as_map(COUNTS)
    result = pca(ds.isel(energy=slice(7, 29), x=slice(3, 44)), n_components=2)
    with pytest.raises(ChunkLayoutError) as error:
        check_same_axes(ds, result)
    ds = eval(error.value.fix.split(": ")[1], {"ds": ds})
    with pytest.raises(ChunkLayoutError) as error:
        check_same_axes(ds, result)
    check_same_axes(eval(error.value.fix.split(": ")[1], {"ds": ds}), result)


def test_mixed_bins_are_refused_with_the_call_that_fits():
    ds = as_map(COUNTS)
    binned = pca(rebin(ds, y=2, x=3, energy=4), n_components=2)
    with pytest.raises(ChunkLayoutError, match=r"found 15 pixels of 2 each.*rebin\(ds, y=2, x=3, energy=4\)"):
        check_same_axes(ds, binned)
    with pytest.raises(ChunkLayoutError, match="without rebin"):
        check_same_axes(rebin(ds, y=2), pca(ds, n_components=2))
