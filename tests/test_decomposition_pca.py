"""Principal components against NumPy, scikit-learn and HyperSpy on the whole matrix."""

import importlib
import warnings

import numpy as np
import pytest
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD

from eds_chunked import schema
from eds_chunked.decomposition import solver_cost
from eds_chunked.decomposition.incremental import batch_size
from eds_chunked.decomposition.low_rank import reconstruct
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.solver_cost import choose_solver
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.shuffle import shuffled_batches
from eds_chunked.errors import CountsError, MemoryBudgetError, ParameterError
from eds_chunked.memory import Need, plan
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from tests.decomposition_maps import (
    DEAD_CHANNELS,
    DEAD_PIXELS,
    ArrayReader,
    as_map,
    made_counts,
    matrix,
    poisson_scaled,
    rows_of,
    subspace_cosines,
    weights,
    with_dead,
)
from tests.real_data import real_data

K = 6
VARIANCES = (schema.EXPLAINED_VARIANCE, schema.EXPLAINED_VARIANCE_RATIO, schema.EIGENVALUES)


def svd_components(X, k, *, poisson=True):
    """Factors and loadings by NumPy, in counts, the largest entry of a factor positive; and all singular values."""
    a, b = weights(X) if poisson else (np.ones(len(X)), np.ones(X.shape[1]))
    U, singular, V = np.linalg.svd(X / a[:, None] / b, full_matrices=False)
    factors = V[:k] * b
    signs = np.sign(factors[np.arange(k), np.abs(factors).argmax(axis=1)])
    return factors * signs[:, None], (U[:, :k] * singular[:k] * signs * a[:, None]).T, singular


def assert_equal_to_svd(result, X, *, poisson=True):
    factors, loadings, singular = svd_components(X, result.sizes[schema.COMPONENT], poisson=poisson)
    k = len(factors)
    squares = np.zeros(X.shape[1])
    squares[: len(singular)] = singular**2
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * len(X), squares[:k], rtol=1e-10)
    np.testing.assert_allclose(result[schema.EIGENVALUES] * len(X), squares, rtol=1e-10, atol=1e-13 * squares[0])
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE_RATIO], squares[:k] / squares.sum(), rtol=1e-10)
    # Vectors are as sure as the gaps between eigenvalues are wide.
    scale = np.abs(factors).max(axis=1)[:, None]
    np.testing.assert_allclose(result[schema.FACTORS] / scale, factors / scale, atol=1e-8)
    found = rows_of(result[schema.LOADINGS])
    np.testing.assert_allclose(found, loadings, atol=1e-5 * np.abs(loadings).max(axis=1)[:, None].min())


# --------------------------------------------------------------------------------------------------- exact solver
@pytest.mark.parametrize("noise", ["poisson", None])
def test_exact_solver_equals_the_svd_of_the_whole_matrix(noise):
    counts = made_counts()
    result = pca(as_map(counts), n_components=K, noise=noise)
    parameters = dict(result.attrs[schema.PARAMETERS])
    energy = result[schema.ENERGY].values
    # The window holds the first and the last channel whole.
    half = (energy[1] - energy[0]) / 2
    assert parameters.pop("energy") == pytest.approx([energy[0] - half, energy[-1] + half])
    filled = np.count_nonzero(counts) / 1457
    said = f"1457 pixels x 61 channels, about {filled:.0f} of them filled: gram "
    assert parameters.pop("solver_chosen_for").startswith(said)
    assert parameters == {"n_components": K, "noise": noise, "solver": "gram"}
    assert_equal_to_svd(result, matrix(counts), poisson=noise == "poisson")


def test_many_lanes_and_blocks_equal_the_svd():
    # Tiles of 64 and lanes of 256 pixels: two lanes of several blocks, none of them whole.
    counts = made_counts((67, 269, 31), dose=9)
    result = pca(as_map(counts), n_components=3)
    assert_equal_to_svd(result, matrix(counts))


def test_exact_solver_equals_truncated_svd_of_scikit_learn():
    counts = made_counts(seed=2)
    result = pca(as_map(counts), n_components=K)
    X = poisson_scaled(matrix(counts))
    oracle = TruncatedSVD(K, algorithm="arpack", random_state=0).fit(X)
    N = len(X)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * N, oracle.singular_values_**2, rtol=1e-10)
    found = result[schema.FACTORS] / weights(matrix(counts))[1]
    np.testing.assert_allclose(np.abs(np.sum(found.values * oracle.components_, axis=1)), 1, rtol=1e-9)
    np.testing.assert_allclose(subspace_cosines(found, oracle.components_), 1, rtol=1e-12)


def test_first_singular_value_is_one():
    # X~ takes the vector sqrt(b) to sqrt(a), and both have length sqrt(sum X): S = 1 whatever the map.
    counts = with_dead(made_counts(seed=3))
    result = pca(as_map(counts), n_components=2)
    N = counts.shape[0] * counts.shape[1]
    assert float(result[schema.EXPLAINED_VARIANCE][0]) * N == pytest.approx(1, abs=1e-12)
    first = result[schema.FACTORS][0].values
    np.testing.assert_allclose(first / first.sum(), counts.sum(axis=(0, 1)) / counts.sum(), atol=1e-12)


def test_ratio_is_of_the_total_variance_and_does_not_depend_on_the_number_kept():
    counts = made_counts(seed=4)
    few, many = (pca(as_map(counts), n_components=k)[schema.EXPLAINED_VARIANCE_RATIO].values for k in (2, 61))
    np.testing.assert_allclose(few, many[:2], rtol=1e-12)
    assert few.sum() < 0.7
    assert many.sum() == pytest.approx(1, abs=1e-12)


def test_largest_entry_of_every_factor_is_positive():
    # Faint channels weigh more in the scaled matrix: its largest entries are not those of the spectra.
    counts = made_counts(seed=5, dose=30)
    result = pca(as_map(counts), n_components=20)
    factors = result[schema.FACTORS].values
    assert (factors[np.arange(20), np.abs(factors).argmax(axis=1)] > 0).all()
    scaled = factors / weights(matrix(counts))[1]
    assert (scaled[np.arange(20), np.abs(scaled).argmax(axis=1)] < 0).any()


@pytest.mark.parametrize("solver", ["gram", "incremental"])
def test_dead_pixels_and_channels_change_nothing(solver):
    counts = with_dead(made_counts(seed=6))
    result = pca(as_map(counts), n_components=K, solver=solver)
    for name in (schema.FACTORS, schema.LOADINGS, *VARIANCES):
        assert np.isfinite(result[name].values).all(), name
    live = np.setdiff1d(np.arange(61), DEAD_CHANNELS)
    assert np.abs(result[schema.FACTORS][:, DEAD_CHANNELS]).max() < 1e-14
    assert not result[schema.LOADINGS].values[(slice(None), *DEAD_PIXELS)].any()
    if solver == "gram":
        X = matrix(counts)
        lit = X.sum(axis=1) > 0
        factors, loadings, singular = svd_components(X[lit][:, live], K)
        np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * len(X), singular[:K] ** 2, rtol=1e-10)
        scale = np.abs(factors).max()
        np.testing.assert_allclose(result[schema.FACTORS][:, live] / scale, factors / scale, atol=1e-8)
        found = rows_of(result[schema.LOADINGS])[:, lit]
        np.testing.assert_allclose(found, loadings, atol=1e-5 * np.abs(loadings).max())
        # Of more components than there are live channels the rest is nothing, and not below nothing.
        rest = pca(as_map(counts), n_components=61)[schema.EXPLAINED_VARIANCE].values
        assert (rest >= 0).all()
        assert rest[58:].max() < 1e-15


def test_energy_window_and_crop_are_what_is_analysed():
    counts = made_counts(seed=7)
    ds = as_map(counts, chunks=(16, 16, 61)).sel({schema.ENERGY: slice(0.1, 0.9)}).isel({schema.Y: slice(3, 26)})
    result = pca(ds, n_components=3)
    np.testing.assert_array_equal(result[schema.ENERGY], ds[schema.ENERGY])
    np.testing.assert_array_equal(result[schema.Y], ds[schema.Y])
    channels = np.flatnonzero((np.arange(61) * 0.02 - 0.1 >= 0.1 - 1e-9) & (np.arange(61) * 0.02 - 0.1 <= 0.9 + 1e-9))
    assert_equal_to_svd(result, matrix(counts[3:26, :, channels[0] : channels[-1] + 1]))


def test_signed_and_float_counts_are_taken_and_wrong_ones_named():
    counts = made_counts((7, 11, 13))
    expected = pca(as_map(counts), n_components=2)
    for dtype in (np.int32, np.float32, np.uint8):
        found = pca(as_map(counts.astype(dtype)), n_components=2)
        np.testing.assert_allclose(found[schema.FACTORS], expected[schema.FACTORS], rtol=1e-12)
    wrong = counts.astype(np.float32)
    wrong[3, 5, 7] = np.nan
    with pytest.raises(CountsError, match="y 3, x 5, channel 7"):
        pca(as_map(wrong), n_components=2)


def test_hyperspy_gives_the_same_components():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing `Lazy")
        exspy = importlib.import_module("exspy")
    counts = made_counts((13, 17, 61), seed=8)
    signal = exspy.signals.EDSSEMSpectrum(counts.astype(np.float64))
    signal.decomposition(True, algorithm="SVD", output_dimension=None, print_info=False)
    theirs = signal.learning_results
    result = pca(as_map(counts), n_components=5)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE], theirs.explained_variance[:5], rtol=1e-10)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE_RATIO], theirs.explained_variance_ratio[:5], rtol=1e-10)
    for found, expected in zip(result[schema.FACTORS].values[:3], theirs.factors.T[:3], strict=True):
        assert abs(found @ expected) / np.linalg.norm(found) / np.linalg.norm(expected) > 1 - 1e-10
    # Same maps and spectra together: the model of the first three components.
    ours = rows_of(result[schema.LOADINGS])[:3].T @ result[schema.FACTORS].values[:3]
    model = theirs.loadings[:, :3] @ theirs.factors[:, :3].T
    np.testing.assert_allclose(ours, model, atol=1e-5 * np.abs(model).max())
    np.testing.assert_allclose(
        subspace_cosines(rows_of(result[schema.LOADINGS])[:3], theirs.loadings.T[:3]), 1, rtol=1e-5
    )


def test_real_dacite_map_equals_the_svd():
    reader = importlib.import_module("rsciio.bruker")
    images = reader.file_reader(str(real_data("P45_the_default_job.bcf")))
    counts = next(image["data"] for image in images if image["data"].ndim == 3)
    counts = np.ascontiguousarray(counts[:, :, 60:360])
    X = matrix(counts)
    result = pca(as_map(counts), n_components=3)
    factors, loadings, singular = svd_components(X, 3)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * len(X), singular[:3] ** 2, rtol=1e-10)
    np.testing.assert_allclose(
        result[schema.EXPLAINED_VARIANCE_RATIO], singular[:3] ** 2 / np.sum(singular**2), rtol=1e-10
    )
    scale = np.abs(factors).max(axis=1)[:, None]
    np.testing.assert_allclose(result[schema.FACTORS] / scale, factors / scale, atol=1e-8)
    scale = np.abs(loadings).max(axis=1)[:, None]
    np.testing.assert_allclose(rows_of(result[schema.LOADINGS]) / scale, loadings / scale, atol=1e-5)


# --------------------------------------------------------------------------------------------- incremental solver
def by_hand(ds, k):
    """Feed IncrementalPCA the pixels in random batches of the size that is promised."""
    X = poisson_scaled(matrix(ds[schema.COUNTS].values))
    oracle = IncrementalPCA(n_components=k)
    how = plan(Need("test", 0, 1))
    for batch in shuffled_batches(blocks_of(ds), size=batch_size(k), seed=0, plan=how):
        oracle.partial_fit(X[batch.place])
    return oracle


def test_incremental_solver_equals_scikit_learn_fed_by_hand():
    counts = made_counts((67, 269, 31), dose=9, seed=9)
    result = pca(as_map(counts), n_components=4, solver="incremental")
    assert result.attrs[schema.PARAMETERS]["solver"] == "incremental"
    assert schema.NOISE_RATIO not in result
    oracle = by_hand(as_map(counts), 4)
    N = counts.shape[0] * counts.shape[1]
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * N, oracle.singular_values_**2, rtol=1e-8)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE_RATIO], oracle.explained_variance_ratio_, rtol=1e-8)
    b = weights(matrix(counts))[1]
    scaled = result[schema.FACTORS].values / b
    signs = np.sign(np.sum(scaled * oracle.components_, axis=1))
    np.testing.assert_allclose(scaled, oracle.components_ * signs[:, None], atol=1e-8)
    centred = poisson_scaled(matrix(counts)) - oracle.mean_
    # An empty pixel weighs nothing.
    loadings = (centred @ scaled.T * np.sqrt(matrix(counts).sum(axis=1))[:, None]).T
    np.testing.assert_allclose(result[schema.MEAN_SPECTRUM], oracle.mean_ * b, rtol=1e-9)
    np.testing.assert_allclose(rows_of(result[schema.LOADINGS]), loadings, atol=1e-5 * np.abs(loadings).max())


def test_incremental_solver_does_not_mind_phases_in_bands():
    # Fed tile by tile its worst cosine here is 0.95, and a variance is off by half.
    rng = np.random.default_rng(0)
    spectra = rng.gamma(0.3, 1, (5, 61))
    spectra *= 20 / spectra.sum(axis=1)[:, None]
    counts = rng.poisson(np.repeat(spectra, 64, axis=0)[:, None], (320, 67, 61)).astype(np.uint8)
    exact, found = (pca(as_map(counts), n_components=4, solver=s, centre=True) for s in ("gram", "incremental"))
    b = weights(matrix(counts))[1]
    assert subspace_cosines(found[schema.FACTORS] / b, exact[schema.FACTORS] / b).min() > 0.999
    np.testing.assert_allclose(found[schema.EXPLAINED_VARIANCE], exact[schema.EXPLAINED_VARIANCE], rtol=0.01)


def test_incremental_solver_comes_close_to_the_exact_one():
    # It centres: the mean spectrum, which is the first exact component, is not among its own. The components that tell
    # the three phases apart are in the span of the first three exact ones.
    counts = made_counts((41, 67, 61), seed=10)
    exact = pca(as_map(counts), n_components=3)[schema.FACTORS]
    found = pca(as_map(counts), n_components=8, solver="incremental")[schema.FACTORS][:2]
    b = weights(matrix(counts))[1]
    assert subspace_cosines(found / b, exact / b).min() > 0.99


@pytest.mark.parametrize("noise", ["poisson", None])
def test_incremental_solver_of_one_pixel_and_of_few_lit_pixels_stays_finite(noise):
    counts = np.zeros((11, 23, 13), np.uint16)
    counts[7, 11] = np.arange(13)
    for part in (counts, counts[7:8, 11:12]):
        result = pca(as_map(part), n_components=1, noise=noise, solver="incremental")
        for name in result.variables:
            assert np.isfinite(result[name].values).all(), name


def banded_counts():
    """Four phases in bands, one after the other: what an incremental estimator sees in order."""
    rng = np.random.default_rng(12)
    spectra = rng.gamma(0.4, 1, (4, 61)) + 0.02
    spectra *= 300 / spectra.sum(axis=1)[:, None]
    phase = np.repeat(np.arange(4), [29, 13, 31, 24])
    return rng.poisson(np.broadcast_to(spectra[phase][:, None], (97, 71, 61))).astype(np.uint16), phase


@pytest.mark.parametrize("chunks", [None, ((40, 57), (11, 60), (20, 41)), ((90, 7), (33, 33, 5), (61,))])
def test_incremental_solver_keeps_the_bands_of_a_banded_map(chunks):
    counts, phase = banded_counts()
    result = pca(as_map(counts, chunks=chunks), n_components=3, solver="incremental")
    exact = pca(as_map(counts), n_components=3, centre=True)
    b = weights(matrix(counts))[1]
    assert subspace_cosines(result[schema.FACTORS] / b, exact[schema.FACTORS] / b).min() > 0.999
    # Of a scrambled map the rows of one band would not be alike.
    rows = result[schema.LOADINGS].values
    between = np.array([rows[:, phase == k].mean(axis=(1, 2)) for k in range(4)])
    within = np.array([rows[:, phase == k].std(axis=(1, 2)) for k in range(4)])
    assert np.ptp(between[:, 0]) > 5 * within[:, 0].max()
    np.testing.assert_allclose(
        reconstruct(result).values.mean(axis=(0, 1)), counts.mean(axis=(0, 1)), atol=0.02 * counts.mean()
    )


# ----------------------------------------------------------------------------------------------------- centred
@pytest.mark.parametrize("noise", ["poisson", None])
def test_centred_solver_equals_the_pca_of_scikit_learn(noise):
    counts = with_dead(made_counts(seed=11))
    X = matrix(counts)
    a, b = weights(X) if noise else (np.ones(len(X)), np.ones(X.shape[1]))
    result = pca(as_map(counts), n_components=K, noise=noise, centre=True)
    assert result.attrs[schema.PARAMETERS]["centre"] == "navigation"
    assert schema.NOISE_RATIO not in result
    oracle = PCA(svd_solver="full").fit(X / a[:, None] / b)
    # scikit-learn divides by N - 1.
    squares = oracle.singular_values_**2
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE] * len(X), squares[:K], rtol=1e-10)
    np.testing.assert_allclose(
        result[schema.EXPLAINED_VARIANCE_RATIO], oracle.explained_variance_ratio_[:K], rtol=1e-10
    )
    np.testing.assert_allclose(result[schema.EIGENVALUES] * len(X), squares, rtol=1e-10, atol=1e-12 * squares[0])
    np.testing.assert_allclose(result[schema.MEAN_SPECTRUM], oracle.mean_ * b, atol=1e-12 * oracle.mean_.max())
    scaled = result[schema.FACTORS].values / b
    signs = np.sign(np.sum(scaled * oracle.components_[:K], axis=1))
    np.testing.assert_allclose(scaled, oracle.components_[:K] * signs[:, None], atol=1e-8)
    live = X.sum(axis=1) > 0
    theirs = (oracle.transform(X / a[:, None] / b)[:, :K] * signs * a[:, None]).T
    found = rows_of(result[schema.LOADINGS])
    np.testing.assert_allclose(found[:, live], theirs[:, live], atol=1e-5 * np.abs(theirs).max())
    if noise:
        # A dead pixel weighs nothing: no loadings, and nothing of the mean.
        assert not found[:, ~live].any()
        assert not result[schema.MEAN_LOADING].values.ravel()[~live].any()


@pytest.mark.parametrize("solver", ["gram", "randomized", "incremental"])
@pytest.mark.parametrize("noise", ["poisson", None])
def test_model_of_a_centred_result_has_its_mean(solver, noise):
    counts = with_dead(made_counts((23, 29, 61), seed=12))
    result = pca(as_map(counts), n_components=2, noise=noise, solver=solver, centre=True)
    X = matrix(counts)
    a, b = weights(X) if noise else (np.ones(len(X)), np.ones(X.shape[1]))
    scaled = X / a[:, None] / b
    oracle = PCA(2, svd_solver="full").fit(scaled)
    expected = oracle.inverse_transform(oracle.transform(scaled)) * a[:, None] * b
    live = X.sum(axis=1) > 0
    found = matrix(reconstruct(result).values)
    close = 0.05 if solver == "incremental" else 1e-5
    np.testing.assert_allclose(found[live], expected[live], atol=close * np.abs(expected).max())
    # Of one component, the mean still is there.
    one = matrix(reconstruct(result, components=[2]).values)
    off = rows_of(result[schema.LOADINGS])[:1].T @ result[schema.FACTORS].values[:1]
    np.testing.assert_allclose(found - one, off, atol=1e-5 * np.abs(expected).max())


def test_centred_model_of_all_components_is_the_map():
    counts = with_dead(made_counts((17, 23, 61), seed=13))
    whole = reconstruct(pca(as_map(counts, chunks=(5, 11, 20)), n_components=61, centre=True))
    np.testing.assert_allclose(whole, counts, atol=1e-4)


def test_centred_result_of_pixels_that_are_alike_has_no_variance():
    counts = np.broadcast_to(np.arange(1, 14, dtype=np.uint16), (7, 11, 13)).copy()
    for solver in ("gram", "randomized"):
        result = pca(as_map(counts), n_components=2, solver=solver, centre=True)
        assert not result[schema.EXPLAINED_VARIANCE].values.any()
        assert not result[schema.EXPLAINED_VARIANCE_RATIO].values.any()
        np.testing.assert_allclose(reconstruct(result), counts, rtol=1e-5)


def test_hyperspy_gives_the_same_centred_components():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Importing `Lazy")
        exspy = importlib.import_module("exspy")
    counts = made_counts((13, 17, 61), seed=14)
    signal = exspy.signals.EDSSEMSpectrum(counts.astype(np.float64))
    # It refuses to centre what is Poisson-scaled.
    signal.decomposition(False, algorithm="SVD", output_dimension=None, centre="navigation", print_info=False)
    theirs = signal.learning_results
    result = pca(as_map(counts), n_components=4, noise=None, centre=True)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE], theirs.explained_variance[:4], rtol=1e-9)
    np.testing.assert_allclose(result[schema.EXPLAINED_VARIANCE_RATIO], theirs.explained_variance_ratio[:4], rtol=1e-9)
    ours = rows_of(result[schema.LOADINGS])[:2].T @ result[schema.FACTORS].values[:2]
    model = theirs.loadings[:, :2] @ theirs.factors[:, :2].T
    np.testing.assert_allclose(ours, model, atol=1e-5 * np.abs(model).max())


# ------------------------------------------------------------------------------------------------- choice of solver
def test_auto_says_what_it_chose_and_why_and_never_by_the_budget(monkeypatch, caplog):
    ds = as_map(made_counts((7, 11, 61)))
    with caplog.at_level("INFO", logger="eds_chunked"):
        result = pca(ds, n_components=2)
    parameters = result.attrs[schema.PARAMETERS]
    assert parameters["solver"] == "gram"
    assert f"solver gram, for {parameters['solver_chosen_for']}" in caplog.text
    with pytest.raises(MemoryBudgetError, match="memory for pca: found a budget of 100 MB"):
        pca(ds, n_components=2, memory="100MB")
    monkeypatch.setattr(solver_cost, "MOST_CHANNELS_OF_GRAM", 60)
    result = pca(ds, n_components=2)
    assert result.attrs[schema.PARAMETERS]["solver"] == "randomized"
    assert "gram stops at 60 channels" in result.attrs[schema.PARAMETERS]["solver_chosen_for"]
    assert "solver_chosen_for" not in pca(ds, n_components=2, solver="gram").attrs[schema.PARAMETERS]


@pytest.mark.parametrize(
    ("n_pixels", "n_channels", "filled", "chosen"),
    [
        (120_000, 2048, 175, "gram"),
        (2_356_900, 2048, 175, "gram"),  # Randomized is slower by its passes.
        (2_356_900, 4096, 400, "gram"),
        (10_000, 4096, 40, "gram"),  # Slower by seconds, and worth them.
        (10_000, 8192, 40, "randomized"),  # A minute for eigenvalues of which 20 are wanted.
        (20_000_000, 8192, 175, "gram"),
        (2_356_900, 8193, 175, "randomized"),
    ],
)
def test_choice_follows_from_pixels_channels_and_filling(n_pixels, n_channels, filled, chosen):
    solver, because = choose_solver(n_pixels, n_channels, filled, 20)
    assert solver == chosen
    assert f"{n_pixels} pixels x {n_channels} channels, about {filled} of them filled" in because


def test_choice_is_the_same_with_and_without_a_survey(tmp_path):
    # One pixel in five has counts, and only in the first channels: far from the quarter that is taken for unknown, and
    # from what a survey of the whole map says of the part that is analysed.
    counts = np.zeros((67, 71, 101), np.uint8)
    counts[::5, :, :30] = np.random.default_rng(7).poisson(2.0, (14, 71, 30))
    store = str(tmp_path / "map.zarr")
    convert(ArrayReader(counts), store)
    surveyed = open_map(store)
    bare = surveyed.drop_vars([schema.SUM_SPECTRUM, schema.TOTAL_COUNTS])
    said = set()
    for ds in (
        surveyed,
        bare,
        as_map(counts),
        as_map(counts, chunks=(13, 17, 101)),
        surveyed.isel(energy=slice(0, 101)),
    ):
        said.add(pca(ds, n_components=2).attrs[schema.PARAMETERS]["solver_chosen_for"])
    assert len(said) == 1
    assert f"about {np.count_nonzero(counts) / 67 / 71:.0f} of them filled" in said.pop()
    part = pca(surveyed.isel(energy=slice(0, 3)), n_components=2).attrs[schema.PARAMETERS]["solver_chosen_for"]
    assert f"about {np.count_nonzero(counts[..., :3]) / 67 / 71:.0f} of them filled" in part


# ------------------------------------------------------------------------------------------------------ bad input
@pytest.mark.parametrize("solver", ["gram", "incremental"])
def test_map_without_counts_is_refused(solver):
    with pytest.raises(CountsError, match="zero in every pixel"):
        pca(as_map(np.zeros((7, 11, 13), np.uint8)), n_components=2, solver=solver)


@pytest.mark.parametrize("n_components", [0, -1, 14, 2.5, None])
def test_wrong_number_of_components_is_refused(n_components):
    with pytest.raises(ParameterError, match=r"number of components: found .* from 1 to 13 for 77 pixels"):
        pca(as_map(made_counts((7, 11, 13))), n_components=n_components)


def test_number_of_components_may_be_a_numpy_integer():
    result = pca(as_map(made_counts((7, 11, 13))), n_components=np.int64(2))
    assert type(result.attrs[schema.PARAMETERS]["n_components"]) is int


@pytest.mark.parametrize(("parameter", "value"), [("noise", "gaussian"), ("solver", "svd")])
def test_unknown_words_are_refused(parameter, value):
    with pytest.raises(ParameterError, match=f"{parameter}: found '{value}'"):
        pca(as_map(made_counts((7, 11, 13))), n_components=2, **{parameter: value})
