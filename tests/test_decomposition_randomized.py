"""The randomized PCA: as exact as it promises, the same for every chunking, and plain where it is not exact."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds_chunked import memory, schema
from eds_chunked.decomposition import randomized
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.randomized import UnsettledComponentsWarning
from eds_chunked.errors import CountsError
from tests.decomposition_maps import (
    DEAD_CHANNELS,
    DEAD_PIXELS,
    as_map,
    assert_same_bits,
    made_counts,
    matrix,
    poisson_scaled,
    ragged_chunks,
    rows_of,
    subspace_cosines,
    weights,
    with_dead,
)

K = 5
# More channels than all passes could fill.
SHAPE = (31, 43, 431)


@pytest.fixture(scope="module")
def counts():
    return with_dead(made_counts(SHAPE, n_phases=4, dose=200, seed=21))


@pytest.fixture
def passes(monkeypatch):
    """How many vectors were multiplied, pass by pass."""
    run, widths = randomized.run_pass, []

    def counted(blocks, work, *args, **kwargs):
        widths.append(work.vectors.shape[1])
        return run(blocks, work, *args, **kwargs)

    monkeypatch.setattr(randomized, "run_pass", counted)
    return widths


def variances(result):
    return result[schema.EXPLAINED_VARIANCE].values


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("noise", ["poisson", None])
def test_components_are_as_exact_as_promised(noise, centre, counts, passes):
    ds = as_map(counts)
    exact = pca(ds, n_components=6, noise=noise, centre=centre, solver="gram")
    result = pca(ds, n_components=6, noise=noise, centre=centre, solver="randomized")
    assert sum(passes) < 400
    error = np.abs(variances(result) / variances(exact) - 1)
    n_signal = 6
    if noise:
        uncentred = pca(ds, n_components=6, solver="gram")
        n_signal = int((uncentred[schema.NOISE_RATIO] > 1).sum()) - centre
        assert 2 <= n_signal < 6
    assert error[:n_signal].max() < 1e-6
    assert error.max() < 0.02
    # The total is that of all components, not of those that were found.
    ratios, exact_ratios = (r[schema.EXPLAINED_VARIANCE_RATIO].values for r in (result, exact))
    np.testing.assert_allclose(ratios / variances(result), exact_ratios / variances(exact), rtol=1e-10)
    k = 3
    scale = np.abs(exact[schema.FACTORS][:k]).max()
    np.testing.assert_allclose(result[schema.FACTORS][:k], exact[schema.FACTORS][:k], atol=1e-3 * float(scale))
    maps = exact[schema.LOADINGS][:k].values
    np.testing.assert_allclose(result[schema.LOADINGS][:k], maps, atol=1e-3 * np.abs(maps).max())


def test_components_equal_the_svd_of_numpy(counts):
    X = matrix(counts)
    result = pca(as_map(counts), n_components=4, solver="randomized")
    _, singular, right = np.linalg.svd(poisson_scaled(X), full_matrices=False)
    np.testing.assert_allclose(variances(result) * len(X), singular[:4] ** 2, rtol=1e-6)
    np.testing.assert_allclose(
        result[schema.EXPLAINED_VARIANCE_RATIO], singular[:4] ** 2 / np.sum(singular**2), rtol=1e-6
    )
    assert subspace_cosines(result[schema.FACTORS] / weights(X)[1], right[:4]).min() > 1 - 1e-6
    assert result.sizes[schema.RANK] == 4
    np.testing.assert_array_equal(result[schema.EIGENVALUES].values, variances(result))
    assert schema.NOISE_RATIO not in result


def test_few_channels_are_exact(passes):
    ds = as_map(made_counts(seed=22))
    for noise in ("poisson", None):
        exact, result = (pca(ds, n_components=61, noise=noise, solver=name) for name in ("gram", "randomized"))
        np.testing.assert_allclose(variances(result), variances(exact), rtol=1e-9, atol=1e-14 * variances(exact)[0])
    assert max(passes) == 61


def test_dead_pixels_and_channels_stay_dead(counts):
    result = pca(as_map(counts), n_components=K, solver="randomized")
    for name in result.data_vars:
        assert np.isfinite(result[name].values).all(), name
    assert np.abs(result[schema.FACTORS][:, DEAD_CHANNELS]).max() < 1e-13
    assert not result[schema.LOADINGS].values[(slice(None), *DEAD_PIXELS)].any()


def test_more_components_than_the_map_has_are_nothing():
    rng = np.random.default_rng(23)
    counts = (rng.integers(0, 9, (13, 17, 2)) @ rng.integers(0, 5, (2, 37))).astype(np.uint16)
    result = pca(as_map(counts), n_components=4, noise=None, solver="randomized")
    singular = np.linalg.svd(matrix(counts), compute_uv=False)
    np.testing.assert_allclose(variances(result)[:2] * 221, singular[:2] ** 2, rtol=1e-10)
    assert variances(result)[2:].max() < 1e-13 * variances(result)[0]
    assert np.isfinite(result[schema.LOADINGS].values).all()


def test_one_lit_pixel_and_one_channel_are_taken():
    counts = np.zeros((7, 11, 13), np.uint16)
    counts[3, 5] = np.arange(13)
    for part in (counts, counts[3:4, 5:6], counts[..., 7:8]):
        result = pca(as_map(part), n_components=1, solver="randomized")
        n_pixels = part.shape[0] * part.shape[1]
        assert float(variances(result)[0]) * n_pixels == pytest.approx(1, abs=1e-12)
        assert float(result[schema.EXPLAINED_VARIANCE_RATIO][0]) == pytest.approx(1, abs=1e-12)


def test_empty_map_is_refused():
    with pytest.raises(CountsError, match="zero in every pixel"):
        pca(as_map(np.zeros((7, 11, 13), np.uint8)), n_components=2, solver="randomized")


def test_components_that_have_not_settled_are_named(counts, monkeypatch):
    monkeypatch.setattr(randomized, "MOST_PASSES", 3)
    with pytest.warns(
        UnsettledComponentsWarning, match=r"component \d still moved by .* after 3 passes.*solver='gram'"
    ):
        pca(as_map(counts), n_components=K, solver="randomized")


def test_another_start_ends_in_the_same_components(counts, monkeypatch):
    first = pca(as_map(counts), n_components=3, solver="randomized")
    monkeypatch.setattr(randomized, "_SEED", 1)
    other = pca(as_map(counts), n_components=3, solver="randomized")
    assert (variances(first) != variances(other)).any()
    np.testing.assert_allclose(variances(first), variances(other), rtol=1e-6)


def test_chunks_never_change_a_bit():
    counts = with_dead(made_counts((31, 47, 61), seed=24))
    expected = pca(as_map(counts), n_components=3, solver="randomized")

    @settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
    @given(ragged_chunks(counts.shape), st.booleans())
    def check(chunks, many):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(memory, "n_cpus", lambda: 5 if many else 1)
            found = pca(as_map(counts, chunks=chunks), n_components=3, solver="randomized")
        assert_same_bits(found, expected)

    check()


def test_several_lanes_equal_the_exact_solver():
    ds = as_map(made_counts((67, 269, 31), dose=9, seed=25))
    exact, result = (pca(ds, n_components=3, solver=name) for name in ("gram", "randomized"))
    np.testing.assert_allclose(variances(result), variances(exact), rtol=1e-9)
    assert subspace_cosines(rows_of(result[schema.LOADINGS]), rows_of(exact[schema.LOADINGS])).min() > 1 - 1e-5
