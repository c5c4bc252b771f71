"""Kernels of the Poisson likelihood, against plain NumPy and SciPy."""

import numpy as np
import pytest
from scipy.optimize import minimize

from eds_chunked.kernels.gram import add_back_projection
from eds_chunked.kernels.likelihood import _least_squares, add_ratios, solve_poisson
from eds_chunked.kernels.sparse import from_dense

N_CHANNELS = 61


def made(n_pixels, n_components, dose, *, seed=0, dtype=np.uint8):
    """Return counts of pixels that are mixtures, and the spectra, which have channels in common and zeros."""
    rng = np.random.default_rng(seed)
    spectra = rng.gamma(0.4, 1, (n_components, N_CHANNELS))
    spectra[:, 7::13] = 0
    spectra[0, :9] = 0
    spectra /= spectra.sum(axis=1)[:, None] / np.arange(1, n_components + 1)[:, None]
    loadings = rng.dirichlet([0.3] * n_components, n_pixels) * dose * np.linspace(0.1, 2, n_pixels)[:, None]
    return rng.poisson(loadings @ spectra).astype(dtype), spectra


def likelihood(loadings, counts, spectra):
    """Minus the log-likelihood of each pixel, without its constant."""
    model = loadings @ spectra
    filled = counts > 0
    return model.sum(axis=1) - np.sum(counts * np.log(model, out=np.zeros_like(model), where=filled), axis=1)


@pytest.mark.parametrize("dose", [2, 30, 3000])
@pytest.mark.parametrize("n_components", [1, 2, 5])
def test_loadings_are_of_largest_likelihood(n_components, dose):
    counts, spectra = made(211, n_components, dose, dtype=np.uint16)
    found = solve_poisson(from_dense(counts), spectra)
    assert (found >= 0).all()
    # The conditions of a bounded minimum: no slope where a loading is free, none downwards where it is zero.
    model = found @ spectra
    ratio = np.divide(counts, model, out=np.zeros_like(model), where=counts > 0)
    slope = (spectra.sum(axis=1) - ratio @ spectra.T) / spectra.sum(axis=1)
    lit = counts.sum(axis=1) > 0
    scale = counts.sum(axis=1, keepdims=True)[lit]
    assert np.abs(found[lit] * slope[lit] / scale).max() < 1e-4
    assert slope[lit].min() > -1e-3
    assert not found[~lit].any()


def test_loadings_are_those_that_scipy_finds():
    counts, spectra = made(29, 3, 40, seed=1)
    found = solve_poisson(from_dense(counts), spectra)
    for pixel, loadings in zip(counts, found, strict=True):
        if not pixel.any():
            continue
        best = minimize(
            lambda w, x=pixel: likelihood(w[None], x[None], spectra)[0],
            np.full(3, pixel.sum() / 6), bounds=[(1e-12, None)] * 3, options={"ftol": 1e-15, "gtol": 1e-9},
        )  # fmt: skip
        assert likelihood(loadings[None], pixel[None], spectra)[0] <= best.fun + 1e-7 * abs(best.fun)


def test_newton_starts_from_weighted_least_squares():
    counts, spectra = made(31, 3, 40, seed=9)
    counts[:, 7::13] = 0  # Channels without a spectrum have no weight.
    found = counts @ _least_squares(spectra, spectra.sum(axis=1)).T
    expected = (spectra / spectra.sum(axis=1)[:, None]).sum(axis=0)
    lit = expected > 0
    root = np.sqrt(expected[lit])
    best = np.linalg.lstsq((spectra[:, lit] / root).T, (counts[:, lit] / root).T, rcond=None)[0].T
    np.testing.assert_allclose(found, best, rtol=1e-9, atol=1e-9 * counts.sum(axis=1).max())


def test_counts_that_no_spectrum_explains_are_left_aside():
    counts, spectra = made(31, 3, 50, seed=2)
    more = counts.copy()
    more[:, 7] = 9  # A channel where all spectra are zero.
    np.testing.assert_array_equal(*(solve_poisson(from_dense(c), spectra) for c in (counts, more)))
    only = np.zeros((2, N_CHANNELS), np.uint8)
    only[0, 7] = 3
    assert not solve_poisson(from_dense(only), spectra).any()


def test_a_spectrum_of_zeros_gets_no_loading():
    counts, spectra = made(31, 3, 50, seed=3)
    spectra[1] = 0
    found = solve_poisson(from_dense(counts), spectra)
    assert not found[:, 1].any()
    np.testing.assert_allclose(found[:, [0, 2]], solve_poisson(from_dense(counts), spectra[[0, 2]]), rtol=1e-6)


def test_spectra_that_are_the_same_share_their_counts():
    counts, spectra = made(31, 3, 50, seed=8)
    twice = np.concatenate([spectra[:2], 1000 * spectra[1:2]])
    found = solve_poisson(from_dense(counts), twice)
    once = solve_poisson(from_dense(counts), spectra[:2])
    scale = counts.sum(axis=1).max()
    np.testing.assert_allclose(found[:, 0], once[:, 0], rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(found[:, 1] + 1000 * found[:, 2], once[:, 1], rtol=1e-4, atol=1e-5 * scale)


def test_ratios_and_divergence_are_those_of_numpy():
    counts, spectra = made(37, 4, 60, seed=4)
    loadings = np.random.default_rng(5).gamma(1, 10, (37, 4))
    found = np.full((N_CHANNELS, 4), 2.0)
    divergence = add_ratios(from_dense(counts), spectra, loadings, found)
    model = loadings @ spectra
    known = (counts > 0) & (model > 0)
    ratio = np.divide(counts, model, out=np.zeros_like(model), where=known)
    np.testing.assert_allclose(found, 2 + ratio.T @ loadings, rtol=1e-12)
    logs = np.log(ratio, out=np.zeros_like(ratio), where=known)
    expected = np.sum(np.where(known, counts * (logs - 1.0), 0), axis=1) + model.sum(axis=1)
    np.testing.assert_allclose(divergence, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.float32])
def test_back_projection_is_that_of_numpy(dtype):
    counts, _ = made(37, 4, 60, seed=6, dtype=dtype)
    weighted = np.random.default_rng(7).normal(size=(37, 3))
    found = np.full((N_CHANNELS, 3), -1.0)
    add_back_projection(from_dense(counts), weighted, found)
    np.testing.assert_allclose(found, counts.T.astype(float) @ weighted - 1, rtol=1e-12, atol=1e-12)
