"""Non-negative factors by mini-batches: against the truth of synthetic rocks, least squares and scikit-learn."""

from functools import partial

import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.decomposition import NMF, MiniBatchNMF

from eds_chunked import schema
from eds_chunked.decomposition import start
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.start import ScaledSample, start_factors
from eds_chunked.errors import CountsError, ParameterError
from eds_chunked.kernels.sparse import from_dense
from tests.decomposition_maps import (
    DEAD_CHANNELS,
    DEAD_PIXELS,
    as_map,
    cosines,
    made_counts,
    matrix,
    poisson_scaled,
    rock_counts,
    rows_of,
    small_rock,
    weights,
    with_dead,
)

minibatch_nmf = partial(nmf, solver="minibatch", loss="frobenius")


def dense_loadings(X, spectra):
    """Return scipy's non-negative least squares of every row of X, (rows, components)."""
    return np.array([nnls(spectra.T, row)[0] for row in X])


def unexplained(X, spectra):
    """Return the share of the squares of X that the best non-negative loadings of the spectra leave."""
    return np.sum((X - dense_loadings(X, spectra) @ spectra) ** 2) / np.sum(X**2)


# ------------------------------------------------------------------------------------------------- what it promises
@pytest.mark.parametrize("noise", ["poisson", None])
def test_loadings_are_the_non_negative_least_squares_of_every_pixel(noise):
    counts = with_dead(made_counts(seed=21))
    result = minibatch_nmf(as_map(counts), n_components=4, noise=noise)
    factors = result[schema.FACTORS].values
    assert (factors >= 0).all()
    np.testing.assert_allclose(factors.sum(axis=1), 1, rtol=1e-12)
    X = matrix(counts)
    b = weights(X)[1] if noise else np.ones(61)
    expected = dense_loadings(X / b, factors / b)
    found = rows_of(result[schema.LOADINGS]).T
    assert result[schema.LOADINGS].dtype == np.float32
    assert (found >= 0).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.max())
    # A loading is what the component has of the pixel's counts.
    assert found.sum() == pytest.approx(X.sum(), rel=0.05)


@pytest.mark.parametrize("noise", ["poisson", None])
def test_last_objective_is_the_share_of_squares_left_over(noise):
    counts = with_dead(made_counts(seed=22))
    result = minibatch_nmf(as_map(counts), n_components=3, noise=noise, max_epochs=3, early_stop=False)
    X = matrix(counts)
    a, b = weights(X) if noise else (np.ones(len(X)), np.ones(61))
    scaled = X / a[:, None] / b
    model = rows_of(result[schema.LOADINGS]).T / a[:, None] @ (result[schema.FACTORS].values / b)
    expected = np.sum((scaled - model) ** 2) / np.sum(scaled**2)
    objective = result[schema.OBJECTIVE].values
    assert objective[-1] == pytest.approx(expected, rel=1e-6)
    # Before each of three epochs, and of the map; here the sample is the map.
    assert len(objective) == 4
    assert (np.diff(objective) < 0).all()


def test_components_fall_by_their_share_of_the_counts():
    # In the scaled matrix the dark phase with more pixels leads; in counts the bright one does.
    rng = np.random.default_rng(23)
    spectra = rng.gamma(0.5, 1, (2, 61)) + 0.02
    spectra /= spectra.sum(axis=1)[:, None]
    phase = (np.arange(97)[:, None] * 101 + np.arange(101)) % 100 < 38
    counts = rng.poisson(np.where(phase, 160, 80)[..., None] * spectra[phase.astype(int)]).astype(np.uint16)
    dark, bright = counts[~phase].sum(), counts[phase].sum()
    assert 1.1 * dark < bright
    result = minibatch_nmf(as_map(counts), n_components=2)
    assert cosines(result[schema.FACTORS][:1], spectra[1:])[0] > 0.99
    shares = rows_of(result[schema.LOADINGS]).sum(axis=1)
    np.testing.assert_allclose(shares, [bright, dark], rtol=0.02)


def test_same_seed_same_answer_and_another_seed_another_sample():
    ds = as_map(made_counts((31, 47, 61), seed=24))
    first, again, other = (minibatch_nmf(ds, n_components=3, fit_pixels=600, seed=seed) for seed in (7, 7, 8))
    for name in (schema.FACTORS, schema.LOADINGS, schema.OBJECTIVE):
        np.testing.assert_array_equal(first[name].values, again[name].values)
    assert not np.array_equal(first[schema.FACTORS], other[schema.FACTORS])
    assert cosines(first[schema.FACTORS], other[schema.FACTORS]).min() > 0.99
    assert first.attrs[schema.PARAMETERS]["seed"] == 7
    assert first.attrs[schema.RUN] == "k3"


# ---------------------------------------------------------------------------------------------------------- truth
@pytest.mark.parametrize("texture", ["grains", "banded"])
@pytest.mark.parametrize(("dose", "shape", "least"), [(18, (137, 179, 251), 0.99), (100, (83, 101, 251), 0.998)])
def test_spectra_of_the_phases_are_found(texture, dose, shape, least):
    made = small_rock(shape, counts_per_pixel=dose, texture=texture)
    result = minibatch_nmf(as_map(rock_counts(made)), n_components=4)
    assert cosines(result[schema.FACTORS], made.spectra).min() >= least


def test_order_of_the_rows_does_not_matter(monkeypatch):
    # The start sees fewer pixels than the first band has.
    monkeypatch.setattr(start, "START_PIXELS", 5000)
    made = small_rock((101, 149, 251), counts_per_pixel=100, texture="banded")
    counts = rock_counts(made)
    mixed = np.random.default_rng(25).permutation(len(counts))
    bands, shuffled = (minibatch_nmf(as_map(part), n_components=4) for part in (counts, counts[mixed]))
    assert cosines(bands[schema.FACTORS], shuffled[schema.FACTORS]).min() >= 0.999


def test_sample_of_the_pixels_is_enough():
    made = small_rock((101, 127, 251), counts_per_pixel=100, texture="banded")
    result = minibatch_nmf(as_map(rock_counts(made)), n_components=4, fit_pixels=6000)
    assert cosines(result[schema.FACTORS], made.spectra).min() >= 0.998


# --------------------------------------------------------------------------------------------------- scikit-learn
@pytest.fixture(scope="module")
def problem():
    """A map, its scaled matrix, our start scaled, and our answer; the sample is the whole map."""
    counts = made_counts((53, 59, 61), dose=60, seed=26)
    X = poisson_scaled(matrix(counts))
    sample = ScaledSample(from_dense(matrix(counts).astype(np.uint16)), weights(matrix(counts))[1], True)
    scaled = start_factors(sample, 3, seed=0) / sample.root
    scaled /= np.linalg.norm(scaled, axis=1)[:, None]
    return counts, X, scaled, minibatch_nmf(as_map(counts), n_components=3, max_epochs=3, early_stop=False)


def test_mini_batches_in_memory_give_the_same_factors(problem):
    # Same start, same number of passes and memory of the past; scikit-learn shuffles by itself, on the dense matrix.
    counts, X, scaled, ours = problem
    batch = 256
    theirs = MiniBatchNMF(
        3, init="custom", batch_size=batch, forget_factor=0.7 ** (batch / len(X)), max_iter=3, random_state=1,
        tol=0, max_no_improvement=None,
    )  # fmt: skip
    scale = 1 / np.linalg.svd(X, compute_uv=False)[0]
    theirs.fit_transform(X * scale, W=np.ones((len(X), 3)), H=scaled.copy())
    b = weights(matrix(counts))[1]
    assert cosines(ours[schema.FACTORS] / b, theirs.components_).min() > 0.999
    assert float(ours[schema.OBJECTIVE][-1]) < unexplained(X, theirs.components_) * 1.005


def test_objective_is_close_to_that_of_full_convergence(problem):
    # scikit-learn's coordinate descent on the whole matrix from the same start, run to convergence: the least that a
    # non-negative factorisation reaches from there. Both factors are judged by exact loadings of all pixels.
    _, X, scaled, ours = problem
    theirs = NMF(3, init="custom", solver="cd", max_iter=500, tol=1e-6)
    theirs.fit_transform(X, W=dense_loadings(X, scaled), H=scaled.copy())
    least = unexplained(X, theirs.components_)
    assert float(ours[schema.OBJECTIVE][-1]) <= 1.01 * least
    # Most of it is noise that no factorisation explains: what is left above the best of rank 3 is what can be gained.
    squares = np.linalg.svd(X, compute_uv=False) ** 2
    floor = 1 - squares[:3].sum() / squares.sum()
    assert float(ours[schema.OBJECTIVE][-1]) - floor < 0.02 * (1 - floor)


# ---------------------------------------------------------------------------------------------------------- edges
def test_dead_pixels_and_channels_stay_dead():
    counts = with_dead(made_counts(seed=27))
    result = minibatch_nmf(as_map(counts), n_components=3)
    for name in result.variables:
        assert np.isfinite(result[name].values).all(), name
    assert not result[schema.LOADINGS].values[(slice(None), *DEAD_PIXELS)].any()
    assert not result[schema.LOADINGS].values[:, [0, -1], [0, -1]].any()
    assert not result[schema.FACTORS].values[:, DEAD_CHANNELS].any()
    live = np.setdiff1d(np.arange(61), DEAD_CHANNELS)
    without = minibatch_nmf(as_map(np.ascontiguousarray(counts[..., live])), n_components=3)
    assert cosines(result[schema.FACTORS][:, live], without[schema.FACTORS]).min() > 1 - 1e-6


def test_one_component_is_nearly_the_mean_spectrum():
    counts = made_counts(seed=28, n_phases=1)
    result = minibatch_nmf(as_map(counts), n_components=1)
    assert cosines(result[schema.FACTORS], counts.sum(axis=(0, 1), dtype=float)[None])[0] > 0.9999
    np.testing.assert_allclose(result[schema.LOADINGS].sum(), counts.sum(), rtol=0.01)


def test_more_components_than_phases_stay_finite_and_keep_the_phases():
    counts = made_counts((61, 67, 61), seed=29)
    truth = minibatch_nmf(as_map(counts), n_components=3)[schema.FACTORS]
    result = minibatch_nmf(as_map(counts), n_components=9)
    for name in result.variables:
        assert np.isfinite(result[name].values).all(), name
    assert (result[schema.LOADINGS].values >= 0).all()
    assert cosines(result[schema.FACTORS], truth).min() > 0.95


def test_one_spectrum_everywhere_takes_several_components():
    counts = np.broadcast_to(made_counts((1, 1, 61)), (7, 11, 61)).copy()
    result = minibatch_nmf(as_map(counts), n_components=3)
    for name in result.variables:
        assert np.isfinite(result[name].values).all(), name
    model = rows_of(result[schema.LOADINGS]).T @ result[schema.FACTORS].values
    np.testing.assert_allclose(model, matrix(counts), atol=0.1)


@pytest.mark.parametrize("shape", [(1, 1, 61), (1, 13, 61), (17, 19, 1)])
def test_degenerate_maps(shape):
    counts = made_counts((17, 19, 61), seed=30)[: shape[0], : shape[1], : shape[2]] + np.uint16(1)
    result = minibatch_nmf(as_map(counts), n_components=1)
    if shape[0] * shape[1] == 1:
        model = result[schema.LOADINGS][0, 0, 0] * result[schema.FACTORS][0]
        np.testing.assert_allclose(model, counts[0, 0], rtol=1e-4)
    assert result[schema.LOADINGS].shape == (1, *shape[:2])
    X = matrix(counts)
    left = unexplained(poisson_scaled(X), result[schema.FACTORS].values / weights(X)[1])
    assert float(result[schema.OBJECTIVE][-1]) == pytest.approx(left, abs=1e-6)


def test_map_without_counts_is_refused():
    with pytest.raises(CountsError, match="zero in every pixel"):
        minibatch_nmf(as_map(np.zeros((7, 11, 13), np.uint8)), n_components=2)


def test_fewer_lit_pixels_than_components_are_refused():
    counts = np.zeros((7, 11, 13), np.uint8)
    counts[3, 5] = counts[4, 7] = np.arange(13)
    with pytest.raises(ParameterError, match="number of components: found 3, expected at most 2"):
        minibatch_nmf(as_map(counts), n_components=3)
    with pytest.raises(ParameterError, match="larger fit_pixels"):
        minibatch_nmf(as_map(made_counts((31, 47, 61))), n_components=40, fit_pixels=20)


@pytest.mark.parametrize("n_components", [0, -2, 14, 1.5])
def test_wrong_number_of_components_is_refused(n_components):
    with pytest.raises(ParameterError, match=r"number of components: found .* from 1 to 13 for 77 pixels"):
        minibatch_nmf(as_map(made_counts((7, 11, 13))), n_components=n_components)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [("noise", "gaussian"), ("max_epochs", 0), ("fit_pixels", 0), ("seed", -1), ("seed", 2**32)],
)
def test_wrong_parameters_are_refused(parameter, value):
    with pytest.raises(ParameterError, match=f"{parameter}: found '?{value}"):
        minibatch_nmf(as_map(made_counts((7, 11, 13))), n_components=2, **{parameter: value})
