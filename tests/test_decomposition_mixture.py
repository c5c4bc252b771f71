"""Spectra by the likelihood of a mixture: against plain NumPy, and against the truth beside a fit of every pixel."""

import numpy as np
import pytest
from scipy.special import logsumexp

from eds_chunked import schema
from eds_chunked.decomposition import mixture
from eds_chunked.decomposition.fitting import SAMPLE, Recipe, fit_need
from eds_chunked.decomposition.losses import MIXTURE, POISSON_LIKELIHOOD
from eds_chunked.decomposition.mixture import Mixture, bytes_of_a_mixture, mixing_shares, pixels_of_a_mixture
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.kernels.mixture import add_counts_by_spectrum, log_likelihoods
from eds_chunked.kernels.sparse import from_dense
from tests.decomposition_maps import as_map, cosines, made_counts, rock_counts, small_rock

N_CHANNELS = 61


def mixed_counts(n_pixels=313, n_components=3, *, dose=40, seed=5):
    """Return counts of pixels that are mixtures, and their spectra, of which each lacks some channels."""
    rng = np.random.default_rng(seed)
    spectra = rng.gamma(0.5, 1, (n_components, N_CHANNELS))
    spectra[0, 3:9] = 0
    spectra /= spectra.sum(axis=1, keepdims=True)
    shares = rng.dirichlet([0.3] * n_components, n_pixels)
    return rng.poisson(dose * rng.uniform(0.2, 2, (n_pixels, 1)) * (shares @ spectra)).astype(np.uint16), spectra


# ------------------------------------------------------------------------------------------------ kernels
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_kernels_are_matrix_products(dtype):
    counts, spectra = mixed_counts()
    counts = counts.astype(dtype)
    counts[7] = 0
    logs = np.log(mixing_shares(3) @ spectra + 1e-9).T
    np.testing.assert_allclose(log_likelihoods(from_dense(counts), logs), counts @ logs, rtol=1e-12, atol=1e-9)

    rng = np.random.default_rng(2)
    probability = rng.dirichlet([0.02] * 28, len(counts))
    sums = np.ones((N_CHANNELS, 28))
    add_counts_by_spectrum(from_dense(counts), probability, sums)
    # Probabilities that are next to nothing are left out.
    np.testing.assert_allclose(sums, 1 + counts.T @ probability, rtol=1e-6)


# ------------------------------------------------------------------------------------------------ the grid
@pytest.mark.parametrize("n_components", [1, 2, 3, 4, 5, 6, 8, 12, 20, 31])
def test_shares_are_pure_ones_and_mixtures(n_components):
    shares = mixing_shares(n_components)
    np.testing.assert_array_equal(shares[:n_components], np.eye(n_components))
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert len(np.unique(shares.round(9), axis=0)) == len(shares)
    assert np.all(shares[n_components:].max(axis=1, initial=0) < 1)
    if n_components <= 20:
        assert len(shares) <= 210
    # No component comes first: each is met as often as the others.
    np.testing.assert_allclose(shares.sum(axis=0), shares.sum() / n_components)


# ------------------------------------------------------------------------------------------------ the likelihood
def plain_likelihoods(counts, factors, flat):
    spectra = mixing_shares(len(factors)) @ factors
    return counts @ np.log((1 - flat) * spectra + flat / spectra.shape[1]).T


def plain_step(counts, factors, weights):
    """One pass as the definition has it, in logarithms and with dense matrices."""
    shares = mixing_shares(len(factors))
    its = plain_likelihoods(counts, factors, 1e-6)
    before = logsumexp(its + np.log(weights), axis=1).sum()
    for _ in range(mixture._ROUNDS):
        joint = its + np.log(weights)
        weights = np.exp(joint - logsumexp(joint, axis=1, keepdims=True)).mean(axis=0)
    joint = its + np.log(weights)
    sums = np.exp(joint - logsumexp(joint, axis=1, keepdims=True)).T @ counts
    for _ in range(mixture._UPDATES):
        model = shares @ factors
        factors = factors * (shares.T @ np.divide(sums, model, out=np.zeros_like(sums), where=model > 0))
        factors = factors / factors.sum(axis=1, keepdims=True)
    return factors, weights, before


def divergence(counts, log_likelihood):
    """Of the counts from the likelihood, for one count: zero if every pixel had a spectrum of its own."""
    n = counts.sum(axis=1, keepdims=True)
    filled = counts > 0
    entropy = np.sum(counts * np.log(np.divide(counts, n, out=np.ones(counts.shape), where=filled)))
    return (entropy - log_likelihood) / counts.sum()


def test_a_pass_is_what_its_definition_says(monkeypatch):
    monkeypatch.setattr(mixture, "_PIECE", 101)
    counts, spectra = mixed_counts()
    start = 0.7 * spectra + 0.3 * spectra[[1, 2, 0]]
    csr = from_dense(counts)
    begun = Mixture.of(5 * start, csr, workers=2)
    improved, unexplained = begun.improved(csr, workers=2)
    factors, weights, before = plain_step(counts, start, begun.weights)
    np.testing.assert_allclose(improved.weights, weights, rtol=1e-8, atol=1e-15)
    # The kernel leaves out probabilities under 1e-8.
    np.testing.assert_allclose(improved.factors, factors, rtol=2e-5)
    assert unexplained == pytest.approx(divergence(counts, before), rel=1e-10)

    judgement = improved.judge(csr, workers=2)
    likelihood = logsumexp(plain_likelihoods(counts, improved.factors, 1e-3) + np.log(improved.weights), axis=1)
    assert judgement.divergence == pytest.approx(divergence(counts, likelihood.sum()), rel=1e-8)
    assert judgement.of_pixels.shape == (len(counts),)


@pytest.mark.parametrize("seed", range(3))
def test_the_likelihood_never_falls(seed):
    ds = as_map(made_counts((17, 23, N_CHANNELS), seed=seed))
    left = nmf(ds, n_components=3, max_epochs=9, early_stop=False)[schema.OBJECTIVE].values[:-1]
    assert len(left) == 9
    # But for the little of a flat spectrum that keeps every count possible.
    assert np.all(np.diff(left) < 1e-7)
    assert left[-1] < left[0] - 5e-6


def test_workers_do_not_matter():
    counts, spectra = mixed_counts(2 * mixture._PIECE + 77)
    csr = from_dense(counts)
    found = []
    for workers in (1, 3):
        one = Mixture.of(spectra, csr, workers=workers)
        found.append((one.improved(csr, workers=workers)[0], one.judge(csr, workers=workers).of_pixels))
    np.testing.assert_array_equal(found[0][0].factors, found[1][0].factors)
    np.testing.assert_array_equal(found[0][0].weights, found[1][0].weights)
    np.testing.assert_array_equal(found[0][1], found[1][1])


def test_pixels_without_counts_do_no_harm():
    counts, spectra = mixed_counts()
    dark = np.concatenate([counts, np.zeros((50, N_CHANNELS), counts.dtype)])
    lit, with_dark = (
        Mixture(spectra, np.full(28, 1 / 28)).improved(from_dense(one), workers=1)[0] for one in (counts, dark)
    )
    assert np.all(np.isfinite(with_dark.factors))
    # They belong to all spectra alike, so the weights follow, but they have nothing to say of the spectra.
    assert np.abs(lit.factors - with_dark.factors).max() < 0.05


# ------------------------------------------------------------------------------------------------ the truth
def angles(found, truth):
    return np.arccos(cosines(found[schema.FACTORS].values, truth))


@pytest.mark.parametrize("dose", [100, 400])
def test_spectra_of_mixed_grains_come_nearer_to_the_truth_than_by_fitting_every_pixel(dose):
    rock = small_rock((103, 131, 512), n_phases=8, counts_per_pixel=dose, texture="grains", grain_size=12.0,
                      blur=1.5, seed=1)  # fmt: skip
    ds = as_map(rock_counts(rock))
    by_mixture, by_pixel = (angles(nmf(ds, n_components=8, loss=loss), rock.spectra)
                            for loss in ("mixture", "poisson"))  # fmt: skip
    assert by_mixture.max() < 0.12
    assert by_mixture.mean() < 0.7 * by_pixel.mean()


def test_more_passes_do_not_drift_from_the_truth():
    rock = small_rock((103, 131, 512), n_phases=4, counts_per_pixel=100, texture="grains", grain_size=12.0, blur=1.5,
                      seed=1)  # fmt: skip
    ds = as_map(rock_counts(rock))
    few, many = (angles(nmf(ds, n_components=4, max_epochs=n, early_stop=False), rock.spectra) for n in (5, 30))
    assert many.mean() < few.mean() + 0.002
    drifted = angles(nmf(ds, n_components=4, max_epochs=30, early_stop=False, loss="poisson"), rock.spectra)
    assert drifted.mean() > 3 * many.mean()


# ------------------------------------------------------------------------------------------------ its bounds
def test_a_fit_takes_fewer_pixels_of_more_spectra(monkeypatch):
    counts, _ = mixed_counts()
    csr = from_dense(counts)
    assert pixels_of_a_mixture(csr, 3) == len(counts)
    monkeypatch.setattr(mixture, "_MOST_LIKELIHOODS", 28 * 111)
    assert pixels_of_a_mixture(csr, 3) == 111
    monkeypatch.setattr(mixture, "_MOST_WORK", 28 * np.count_nonzero(counts) / len(counts) * 53)
    assert pixels_of_a_mixture(csr, 3) in (52, 53)


def test_its_memory_is_in_the_plan():
    fixed, of_a_worker = bytes_of_a_mixture(4, 2048)
    assert fixed > 8 * mixture._MOST_LIKELIHOODS
    assert of_a_worker > 84 * (2048 + mixture._PIECE) * 8
    blocks = blocks_of(as_map(made_counts()))
    with_it, without = (
        fit_need(Recipe(4, SAMPLE, loss, "poisson", 3, 131072, 1, True, 0), blocks, 10.0)
        for loss in (MIXTURE, POISSON_LIKELIHOOD)
    )
    assert with_it.fixed - without.fixed > 8 * mixture._MOST_LIKELIHOODS / 2
    assert with_it.per_worker >= bytes_of_a_mixture(4, blocks.n_channels)[1]
