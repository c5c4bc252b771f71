"""The randomized PCA: as exact as it promises, the same for every chunking, and plain where it is not exact."""

import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from eds_chunked import memory, schema
from eds_chunked.decomposition import krylov, leading_noise, randomized
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.decomposition.krylov import UnsettledComponentsWarning
from eds_chunked.decomposition.noise_edge import noise_edge
from eds_chunked.decomposition.principal import pca
from eds_chunked.engine.exclusion import exclude
from eds_chunked.errors import CountsError, ParameterError
from eds_chunked.figures import draw_scree
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import load
from eds_chunked.synthetic import rock
from eds_chunked.workflow import nmf_step, pca_step
from tests.decomposition_maps import (
    DEAD_CHANNELS,
    DEAD_PIXELS,
    as_map,
    assert_same_bits,
    made_counts,
    matrix,
    poisson_scaled,
    ragged_chunks,
    rock_counts,
    rows_of,
    small_rock,
    subspace_cosines,
    weights,
    with_dead,
)
from tests.made_maps import MadeReader

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
    monkeypatch.setattr(krylov, "MOST_PASSES", 3)
    with pytest.warns(UnsettledComponentsWarning) as caught:
        pca(as_map(counts), n_components=K, solver="randomized")
    for what, warning in zip(("component", "noise ratio"), caught, strict=True):
        assert re.match(rf"{what} \d still moved by .* after 3 passes.*solver='gram'", str(warning.message))
        assert warning.filename == __file__


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


# --------------------------------------------------------------------------------------------------- the noise edge
def noise_ratios(result):
    return result[schema.NOISE_RATIO].values


def bright_and_faint():
    """Phases of uneven brightness, and what the noise rule has its floors for."""
    counts = rock_counts(small_rock((41, 53, 307), n_phases=4, counts_per_pixel=120, brightness=(0.5, 2.2), seed=26))
    counts[5, 3:9] = 0
    # Alone in a channel they are a component of the scaled counts, as strong as the first.
    counts[5, 3:9, 7] = 2
    counts[..., 250] = 0
    counts[3, 5, 250] = 9
    return counts


@pytest.mark.parametrize("counts_of", [bright_and_faint, lambda: with_dead(made_counts(SHAPE, n_phases=4, dose=200))])
def test_noise_ratios_are_those_of_the_exact_solver(counts_of, monkeypatch):
    ds = as_map(counts_of())
    exact = noise_ratios(pca(ds, n_components=9, solver="gram"))
    assert 3 <= (exact > 1).sum() < 9
    run, passes = leading_noise.run_pass, []
    monkeypatch.setattr(leading_noise, "run_pass", lambda *args, **options: passes.append(1) or run(*args, **options))
    result = pca(ds, n_components=9, solver="randomized")
    assert len(passes) <= 4
    found = noise_ratios(result)
    assert result[schema.NOISE_RATIO].sizes == {schema.RANK: 9}
    above = exact[:9] > 1
    np.testing.assert_allclose(found[above], exact[:9][above], rtol=1e-4)
    np.testing.assert_allclose(found, exact[:9], rtol=0.02)
    mine, its = (advise_components(r) for r in (result, pca(ds, n_components=9, solver="gram")))
    assert (mine.n_components, mine.n_borderline) == (its.n_components, its.n_borderline)
    assert mine.refused == ""


def test_faint_pixels_have_no_part_in_the_noise_ratios():
    counts = bright_and_faint()
    without = counts.copy()
    without[counts.sum(axis=2) < 3] = 0
    assert (counts != without).sum() == 6
    results = [pca(as_map(c), n_components=5, solver="randomized") for c in (counts, without)]
    first, second = map(noise_ratios, results)
    np.testing.assert_allclose(first, second, rtol=1e-3)
    # The eigenvalues of the PCA itself do change.
    first, second = map(variances, results)
    assert first[1] > 2 * second[1]


def test_noise_ratios_of_parts_of_a_map_are_those_of_the_exact_solver():
    rng = np.random.default_rng(27)
    ds = exclude(as_map(bright_and_faint()), pixels=rng.random((41, 53)) < 0.2, energy=[(2.0, 2.4)])
    exact, found = (noise_ratios(pca(ds, n_components=6, solver=name)) for name in ("gram", "randomized"))
    np.testing.assert_allclose(found, exact[:6], rtol=0.02)
    np.testing.assert_allclose(found[exact[:6] > 1], exact[:6][exact[:6] > 1], rtol=1e-4)


def test_too_few_components_to_see_the_edge_ask_for_more(counts):
    ds = as_map(counts)
    n_signal = advise_components(pca(ds, n_components=8, solver="gram")).n_components
    assert n_signal == 4
    few = advise_components(pca(ds, n_components=4, solver="randomized"))
    assert few.n_components is None
    assert few.refused == "all 4 components are above it"
    assert few.remedy == "pca --components 8"
    with pytest.raises(ParameterError, match=r"all 4 components are above it.*Fix: pca --components 8; or give it"):
        few.decided()
    assert advise_components(pca(ds, n_components=8, solver="randomized")).decided() == 4
    assert advise_components(pca(ds, n_components=4, solver="gram")).decided() == 4


@pytest.mark.parametrize("n_channels", [1, 2, 3])
def test_hardly_any_channels_are_like_the_exact_solver(n_channels):
    ds = as_map(made_counts((7, 11, n_channels), dose=30))
    for k in range(1, n_channels + 1):
        exact, found = (pca(ds, n_components=k, solver=name) for name in ("gram", "randomized"))
        np.testing.assert_allclose(noise_ratios(found), noise_ratios(exact)[:k], rtol=1e-6)


def test_too_few_counts_have_no_ratios():
    counts = np.zeros((3, 5, 7), np.uint8)
    counts[1, 2, 3] = 2
    result = pca(as_map(counts), n_components=2, solver="randomized")
    assert np.isnan(noise_ratios(result)).all()
    assert advise_components(result).n_components == 1


def test_very_many_channels_are_advised_on_whatever_was_chosen(tmp_path):
    # Above 8192 channels there is no matrix, and the counts are few in each.
    made = rock((17, 19, 8209), energy_scale=12.47 / 8209, counts_per_pixel=3000, n_phases=3, grain_size=9.0, seed=28)
    store = str(tmp_path / "fine.zarr")
    convert(MadeReader(rock_counts(made), pixel_size=(1.0, 1.0)), store)
    pca_step(store, n_components=8)
    assert nmf_step(store) == "nmf/k3.r1"
    saved = load(store, schema.PCA)
    assert saved.attrs[schema.PARAMETERS]["solver"] == "randomized"
    advice = advise_components(saved)
    assert advice.decided() == 3
    ratios = saved[schema.NOISE_RATIO].values
    X = matrix(rock_counts(made))
    X = X[X.sum(axis=1) >= 3]
    X = X[:, X.sum(axis=0) >= 10]
    unit = X / np.sqrt(X.sum(axis=1))[:, None] / np.sqrt((X / X.sum(axis=1)[:, None]).sum(axis=0))
    expected = np.linalg.svd(unit, compute_uv=False) ** 2 / noise_edge(*X.shape)
    np.testing.assert_allclose(ratios[:3], expected[:3], rtol=1e-4)
    np.testing.assert_allclose(ratios, expected[: len(ratios)], rtol=0.02)
    figure = draw_scree(saved, advised=advice.n_components, elbow=advice.elbow)
    assert any("noise edge: 3 above" in text.get_text() for text in figure.findobj(Text))
