"""Whether NMF components are found again in the other half of the pixels."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds_chunked.decomposition.stability import component_stability, matched_cosines
from eds_chunked.errors import CountsError, MemoryBudgetError, ParameterError
from tests.decomposition_maps import as_map, made_counts, ragged_chunks, rock_counts, small_rock


def columns(table):
    return table["n_components"].tolist(), table["worst_cosine"].to_numpy(), table["median_cosine"].to_numpy()


@pytest.mark.parametrize("n_phases", [3, 5])
def test_components_of_phases_are_found_again_and_others_not(n_phases):
    made = small_rock((101, 127, 251), n_phases=n_phases, counts_per_pixel=100, grain_size=5.0)
    table = component_stability(as_map(rock_counts(made)), n_components=[n_phases, n_phases + 3])
    numbers, worst, median = columns(table)
    assert numbers == [n_phases, n_phases + 3]
    assert worst[0] > 0.98
    assert (median >= worst).all()
    # As alike as the counts allow; a lower bound of what noise does, so not much under 1.
    assert 0.5 < table["excess"][0] < 2
    assert table["excess"][1] > 5
    assert table["stable"].tolist() == [True, False]


def test_halves_of_one_spectrum_agree():
    made = small_rock((53, 67, 101), n_phases=1, counts_per_pixel=100)
    table = component_stability(as_map(rock_counts(made)), n_components=[1])
    assert table["worst_cosine"][0] == table["median_cosine"][0] > 0.999
    assert table["stable"][0]


def test_excess_is_over_the_noise_that_the_counts_have():
    # Halves of one Poisson spectrum: their cosine is known from the counts, whatever the dose.
    for dose in (3, 200):
        made = small_rock((61, 67, 83), n_phases=1, counts_per_pixel=dose, seed=dose)
        found = [
            component_stability(as_map(rock_counts(made)), n_components=[1], noise=noise, seed=seed)["excess"][0]
            for noise in ("poisson", None)
            for seed in range(3)
        ]
        assert 0.5 < np.mean(found) < 1.6


def test_values_that_are_no_counts_have_no_known_noise():
    made = small_rock((53, 67, 101), n_phases=2, counts_per_pixel=100)
    table = component_stability(as_map(rock_counts(made).astype(np.float32)), n_components=[2])
    assert table["worst_cosine"][0] > 0.99
    assert np.isnan(table["excess"][0])
    assert not table["stable"][0]


def test_halves_are_of_different_pixels():
    # Each pixel has a channel to itself: what the halves have in common are pixels that are in both.
    counts = np.zeros((4, 6, 24), np.uint8)
    counts.reshape(24, 24)[np.arange(24), np.arange(24)] = 50
    table = component_stability(as_map(counts), n_components=[1, 2])
    # What a start lends to the channels that its pixels leave empty is next to nothing.
    assert (table["worst_cosine"] < 1e-3).all()
    assert not table["stable"].any()


@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_matching_is_the_best_of_all(n, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, n, 7))
    a, b = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (first, second))
    best = max(sum(a[i] @ b[j] for i, j in enumerate(order)) for order in permutations(range(n)))
    found, (i, j) = matched_cosines(3 * first, second[::-1] / 7)
    assert found.sum() == pytest.approx(best)
    np.testing.assert_allclose(found, np.sum(a[i] * b[::-1][j], axis=1))
    np.testing.assert_allclose(np.sort(found), np.sort(matched_cosines(second, first)[0]))


def test_a_component_of_nothing_is_like_none():
    assert matched_cosines(np.eye(2), np.array([[1.0, 0], [0, 0]]))[0].tolist() == [1, 0]


def test_ragged_chunks_and_order_of_numbers_change_nothing():
    counts = made_counts((31, 47, 61))
    expected = component_stability(as_map(counts), n_components=[2, 3], fit_pixels=900)

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ragged_chunks(counts.shape))
    def check(chunks):
        found = component_stability(as_map(counts, chunks=chunks), n_components=[3, 2], fit_pixels=900)
        np.testing.assert_array_equal(found[::-1].to_numpy(), expected.to_numpy())

    check()
    other = component_stability(as_map(counts), n_components=[2, 3], fit_pixels=900, seed=1)
    assert not np.array_equal(other["worst_cosine"], expected["worst_cosine"])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"n_components": []}, "n_components: found no number"),
        ({"n_components": [2, 62]}, "number of components: found 62"),
        ({"noise": "gaussian"}, "noise: found 'gaussian'"),
        ({"max_epochs": 0}, "max_epochs: found 0, expected at least 1"),
        ({"fit_pixels": 1}, "fit_pixels: found 1, expected at least 2"),
        ({"seed": 2**32}, "seed: found"),
    ],
)
def test_parameters_out_of_range(given, match):
    with pytest.raises(ParameterError, match=match):
        component_stability(as_map(made_counts()), **{"n_components": [2]} | given)


def test_empty_maps_and_small_budgets_are_refused():
    with pytest.raises(CountsError, match="zero in every pixel"):
        component_stability(as_map(np.zeros((3, 5, 7), np.uint8)), n_components=[2])
    with pytest.raises(MemoryBudgetError, match="memory for component stability"):
        component_stability(as_map(made_counts()), n_components=[2], memory="20MB")
