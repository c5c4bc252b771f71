"""Least squares from a guess against those of SciPy, which start from nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

from eds_chunked.kernels.active_set import active_set

ROWS, COLUMNS = 97, 23


def normal_equations(seed):
    """Return columns of length 1 (rows, columns), some of them almost alike, and what they have to explain."""
    rng = np.random.default_rng(seed)
    columns = rng.random((ROWS, COLUMNS)) ** 4
    columns[:, 7] = columns[:, 3] + 1e-2 * rng.random(ROWS)
    columns /= np.linalg.norm(columns, axis=0)
    counts = columns[:, ::2] @ rng.uniform(0, 300, 12) + rng.normal(0, 3, ROWS) - 20 * columns[:, 4]
    return columns, counts


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, COLUMNS), share=st.sampled_from([0.0, 0.4, 1.0]))
def test_any_choice_from_any_guess_is_the_least(seed, n, share):
    columns, counts = normal_equations(seed)
    rng = np.random.default_rng(seed)
    chosen, guess = rng.permutation(COLUMNS)[:n], rng.random(COLUMNS) < share
    expected, norm = nnls(columns[:, chosen], counts)
    found = active_set(columns.T @ columns, columns.T @ counts, chosen, guess)
    assert (found >= 0).all()
    np.testing.assert_allclose(found, expected, atol=1e-6 * expected.max())
    assert np.linalg.norm(counts - columns[:, chosen] @ found) == pytest.approx(norm, rel=1e-9)


def test_columns_that_are_the_same_lead_to_an_end():
    columns, counts = normal_equations(5)
    twice = np.concatenate([columns, columns[:, ::-1]], axis=1)
    gram = twice.T @ twice + 1e-9 * np.eye(2 * COLUMNS)
    found = active_set(gram, twice.T @ counts, np.arange(2 * COLUMNS), np.ones(2 * COLUMNS, bool))
    expected, norm = nnls(columns, counts)
    np.testing.assert_allclose(found[:COLUMNS] + found[COLUMNS:][::-1], expected, atol=1e-4 * expected.max())
    assert np.linalg.norm(counts - twice @ found) == pytest.approx(norm, rel=1e-6)


def test_nothing_to_explain_and_nothing_to_explain_it_with():
    columns, _ = normal_equations(0)
    gram = columns.T @ columns
    everything, guess = np.arange(COLUMNS), np.ones(COLUMNS, bool)
    assert (active_set(gram, np.zeros(COLUMNS), everything, guess) == 0).all()
    assert (active_set(gram, -np.ones(COLUMNS), everything, guess) == 0).all()
    assert len(active_set(gram, np.ones(COLUMNS), everything[:0], guess)) == 0
