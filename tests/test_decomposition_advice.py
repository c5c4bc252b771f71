"""How many components rise above counting noise: against rocks of known phases and the dense computation."""

import numpy as np
import pytest

from eds_chunked import schema
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.decomposition.noise_edge import noise_edge
from eds_chunked.decomposition.principal import pca
from eds_chunked.errors import ParameterError
from tests.decomposition_maps import as_map, made_counts, matrix, rock_counts, small_rock, with_dead


def advice_on(counts, **selection):
    ds = as_map(counts).isel(selection)
    return advise_components(pca(ds, n_components=min(20, *ds[schema.COUNTS].shape)))


def dense_ratios(counts, *, pixel_floor=3, channel_floor=10):
    """Eigenvalues over the noise edge, with faint pixels and then faint channels taken out of the dense matrix.

    A pixel's weight stays one over all its counts, those in faint channels included, as the pass knows no other.
    """
    X = matrix(counts)
    X = X[X.sum(axis=1) >= pixel_floor]
    a = X.sum(axis=1)
    X = X[:, X.sum(axis=0) >= channel_floor]
    u = (X / a[:, None]).sum(axis=0)
    N, E = X.shape
    squares = np.linalg.svd(X / np.sqrt(a)[:, None] / np.sqrt(u), compute_uv=False) ** 2
    s = np.sqrt(N) + np.sqrt(E)
    edge = (s**2 + 2.02 * s * (1 / np.sqrt(N) + 1 / np.sqrt(E)) ** (1 / 3)) / N
    return squares / edge


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize(
    ("n_phases", "n_channels", "texture"),
    [(3, 64, "grains"), (3, 709, "banded"), (5, 251, "grains"), (5, 331, "banded")],
)
def test_advice_is_the_number_of_phases(n_phases, n_channels, texture, seed):
    made = small_rock((97, 113, n_channels), n_phases=n_phases, counts_per_pixel=100, texture=texture, seed=seed)
    advice = advice_on(rock_counts(made))
    assert advice.n_components == n_phases
    # The edge is at 99 %: one map in a hundred has noise just above it.
    assert advice.n_borderline <= 1
    assert advice.last_ratio > 1.05
    # The bulk of the noise ends where it should.
    assert 0.9 < advice.next_ratio < 1.03
    assert str(advice).startswith(f"{n_phases} components rise")
    assert f"{advice.last_ratio:.2f} times" in str(advice)


def test_phases_of_different_brightness_are_not_over_counted():
    made = small_rock(n_phases=4, counts_per_pixel=100, brightness=(0.4, 2.2))
    assert advice_on(rock_counts(made)).n_components == 4


@pytest.mark.parametrize("dose", [12, 100, 400])
def test_one_spectrum_is_one_component(dose):
    made = small_rock((83, 101, 199), n_phases=1, counts_per_pixel=dose)
    advice = advice_on(rock_counts(made))
    assert advice.n_components == 1
    assert advice.n_borderline == 0
    assert str(advice).startswith("1 component rises")


def test_uneven_brightness_of_one_spectrum_is_one_component():
    rng = np.random.default_rng(11)
    spectrum = small_rock((7, 11, 199), n_phases=1).spectra[0]
    y, x = np.ogrid[:83, :101]
    brightness = 0.2 + 2 * (x / 100) ** 2 + np.exp(-((y - 20) ** 2) / 50)
    counts = rng.poisson(brightness[..., None] * spectrum).astype(np.uint8)
    advice = advice_on(counts)
    assert (advice.n_components, advice.n_borderline) == (1, 0)


def test_noise_edge_is_rarely_passed_by_noise():
    # 99 of 100 maps of pure Gaussian noise lie below it; of forty, none to three do not.
    rng = np.random.default_rng(12)
    N, E = 199, 61
    largest = [np.linalg.norm(rng.standard_normal((N, E)), 2) ** 2 / N for _ in range(40)]
    edge = noise_edge(N, E)
    assert sum(value > edge for value in largest) <= 3
    assert 0.9 < np.mean(largest) / edge < 1


def test_ratios_equal_the_dense_computation():
    counts = made_counts((37, 41, 53), dose=20, seed=13)
    ratios = pca(as_map(counts), n_components=2)[schema.NOISE_RATIO].values
    np.testing.assert_allclose(ratios, dense_ratios(counts), rtol=1e-9)


def test_faint_pixels_and_channels_are_left_out():
    rng = np.random.default_rng(14)
    counts = made_counts((37, 41, 61), dose=20, seed=14).astype(np.uint8)
    dim = rng.random((37, 41)) < 0.4
    counts[dim] = rng.poisson(2.0 / 61, (dim.sum(), 61))
    counts = with_dead(counts)
    # Ten counts are enough, nine too few, and nine beside one in a faint pixel as well.
    y, x = np.argwhere(counts.sum(axis=2) > 12)[:10].T
    faint = tuple(np.argwhere(dim)[0])
    counts[..., [5, 33, 40]] = 0
    counts[y, x, 40] = 1
    counts[y[:9], x[:9], 5] = counts[y[:9], x[:9], 33] = 1
    counts[faint] = np.eye(61, dtype=np.uint8)[33]
    totals = counts.sum(axis=2)
    assert {0, 1, 2, 3} <= set(totals[dim].tolist())
    ratios = pca(as_map(counts), n_components=2)[schema.NOISE_RATIO].values
    expected = dense_ratios(counts)
    assert len(expected) == 61 - 3 - 2
    np.testing.assert_allclose(ratios[: len(expected)], expected, rtol=1e-9)
    assert np.isnan(ratios[len(expected) :]).all()
    # Both floors matter here.
    assert abs(dense_ratios(counts, pixel_floor=1)[2] / expected[2] - 1) > 1e-3
    assert len(dense_ratios(counts, channel_floor=9)) == len(expected) + 2


def test_low_dose_is_not_over_counted():
    made = small_rock((89, 107, 251), n_phases=3, counts_per_pixel=4)
    assert advice_on(rock_counts(made)).n_components <= 3


@pytest.mark.parametrize(
    "result",
    [
        lambda counts: pca(as_map(counts.astype(np.float32)), n_components=2),
        lambda counts: pca(as_map(counts), n_components=2, noise=None),
        lambda counts: pca(as_map(counts), n_components=2, solver="incremental"),
    ],
    ids=["floats", "unscaled", "incremental"],
)
def test_rule_is_refused_where_it_does_not_hold(result):
    made = result(made_counts((17, 19, 23)))
    assert schema.NOISE_RATIO not in made
    with pytest.raises(ParameterError, match="number of components: found a PCA without noise ratios"):
        advise_components(made)


def test_too_few_counts_to_tell_say_so():
    counts = np.zeros((3, 5, 7), np.uint8)
    counts[1, 2, 3] = 2
    advice = advice_on(counts)
    assert advice.n_components == 1
    assert "Nothing rises" in str(advice)
