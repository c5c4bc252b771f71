"""How many components to take: against rocks of known phases, the dense computation and HyperSpy's elbow."""

import hyperspy.api as hs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eds_chunked import figures, schema, workflow
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.decomposition.elbow import MOST_POINTS, elbow_of_variance, find_elbow
from eds_chunked.decomposition.noise_edge import noise_edge
from eds_chunked.decomposition.principal import pca
from eds_chunked.errors import ParameterError
from eds_chunked.store.conversion import convert
from eds_chunked.store.results import load, newest, refresh_command
from tests.decomposition_maps import (
    ArrayReader,
    as_map,
    made_counts,
    matrix,
    poisson_scaled,
    rock_counts,
    small_rock,
    with_dead,
)


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


def test_too_few_counts_to_tell_say_so():
    counts = np.zeros((3, 5, 7), np.uint8)
    counts[1, 2, 3] = 2
    advice = advice_on(counts)
    assert advice.n_components == 1
    assert "Nothing rises" in str(advice)


# ------------------------------------------------------------------------------ where the noise edge does not hold
REFUSED = {
    "floats": (lambda counts: pca(as_map(counts.astype(np.float32)), n_components=6), "whole numbers"),
    "unscaled": (lambda counts: pca(as_map(counts), n_components=6, noise=None), "were not scaled"),
    "centred": (lambda counts: pca(as_map(counts), n_components=6, centre=True), "not centred"),
    "incremental": (lambda counts: pca(as_map(counts), n_components=6, solver="incremental"), "not centred"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_noise_edge_is_refused_where_it_does_not_hold_and_the_others_are_given(kind):
    make, reason = REFUSED[kind]
    made = make(rock_counts(small_rock((61, 73, 101), n_phases=3, counts_per_pixel=200)))
    assert schema.NOISE_RATIO not in made
    advice = advise_components(made, critical_variance=0.02)
    assert advice.n_components is None
    assert reason in advice.refused
    assert np.isnan([advice.last_ratio, advice.next_ratio]).all()
    # Without scaling the noise of the channels differs, and so do the eigenvalues of noise.
    assert advice.elbow == 3 or (kind == "unscaled" and advice.elbow > 3)
    assert 0 < advice.n_critical == int((made[schema.EXPLAINED_VARIANCE_RATIO] > 0.02).sum())
    text = str(advice)
    assert text.startswith(f"The noise edge says nothing here: {advice.refused}")
    remedies = {"floats": "", "unscaled": "--noise poisson", "centred": "without --centre", "incremental": "gram"}
    assert advice.remedy.endswith(remedies[kind])
    assert advice.remedy in text
    elbow = advice.elbow
    assert f"{elbow} come before the elbow" in text
    with pytest.raises(
        ParameterError, match=f"no noise edge: .*{reason}.*{advice.remedy}.*--components {elbow}.*elbow.* says {elbow}"
    ):
        advice.decided()


def test_the_number_by_the_noise_edge_decides():
    advice = advice_on(rock_counts(small_rock(n_phases=4, counts_per_pixel=100)))
    assert advice.decided() == advice.n_components == 4
    assert advice.refused == ""


# -------------------------------------------------------------------------------------------------------- elbow
@pytest.mark.parametrize("dose", [20, 100])
@pytest.mark.parametrize("n_phases", [3, 5, 8])
def test_elbow_is_that_of_hyperspy_on_the_curve_after_the_first(n_phases, dose):
    made = pca(as_map(rock_counts(small_rock((97, 113, 331), n_phases=n_phases, counts_per_pixel=dose))))
    curve = made[schema.EIGENVALUES].values[1 : 1 + MOST_POINTS]
    # HyperSpy looks for the point farthest from the chord, from 0; what lies before it counts, and the first component.
    farthest = hs.signals.Signal1D(np.zeros(2)).estimate_elbow_position(curve, max_points=MOST_POINTS)
    assert elbow_of_variance(made) == farthest + 1
    # Of even brightness the phases lie clearly above the noise: the elbow is where they end.
    assert advise_components(made).elbow == n_phases


def test_trivial_first_component_is_skipped():
    # Seen from the first, which is 1 whatever the map, the curve bends at the second.
    variance = np.r_[1.0, 1e-3 * 0.8 ** np.arange(4), 1e-5 * 0.99 ** np.arange(12)]
    assert find_elbow(np.log(variance[1:])) == 4
    assert find_elbow(np.log(np.r_[1.0, 1e-5 * 0.9 ** np.arange(12)])) == 1
    made = pca(as_map(made_counts()), n_components=4)
    changed = made.drop_dims(schema.RANK).assign({schema.EIGENVALUES: (schema.RANK, variance)})
    assert elbow_of_variance(changed) == 5
    assert elbow_of_variance(changed.drop_vars(schema.EIGENVALUES)) is None  # Three points that hardly bend.


def test_elbow_takes_the_farthest_of_several():
    # A small step, a plateau, and then the large one.
    curve = np.array([0, -2, -2.05, -2.1, -2.15, -9, -9.02, -9.04, -9.06, -9.08, -9.1, -9.12])
    assert find_elbow(curve) == 5
    assert find_elbow(curve[:5]) == 1


@pytest.mark.parametrize(
    "curve", [[], [0.0], [1.0, 0.0], [2.0, 2.0, 2.0], list(range(9, 0, -1)), [9.0, 8.9, 8.7, 8.4, 7.0]]
)
def test_no_elbow_in_what_does_not_bend(curve):
    assert find_elbow(np.asarray(curve, float)) is None


@given(st.lists(st.floats(0.01, 5), min_size=4, max_size=30), st.integers(-3, 3))
def test_elbow_is_the_point_farthest_under_the_chord(steps, power):
    curve = -np.cumsum(np.sort(np.round(steps, 2))[::-1])
    assert find_elbow(curve * 2.0**power) == find_elbow(curve)
    place = find_elbow(curve)
    if place is not None:
        # Inside, and no point is farther under the chord.
        chord = np.linspace(curve[0], curve[-1], len(curve))
        assert 0 < place < len(curve) - 1
        assert (chord - curve)[place] == pytest.approx((chord - curve).max())


# -------------------------------------------------------------------------------------------- critical variance
@pytest.mark.parametrize("n_components", [2, 5, 20])
def test_components_above_a_critical_ratio_are_those_of_the_dense_matrix(n_components):
    counts = with_dead(made_counts((37, 41, 61), dose=200, seed=3))
    squares = np.linalg.svd(poisson_scaled(matrix(counts)), compute_uv=False) ** 2
    ratios = squares / squares.sum()
    made = pca(as_map(counts), n_components=n_components)
    for critical in (0.5, 0.02, 0.01, 0.003):
        advice = advise_components(made, critical_variance=critical)
        # The exact solver knows the components that were not kept as well.
        assert advice.n_critical == (ratios > critical).sum()
        assert f"{advice.n_critical} explain" in str(advice)
        assert f"more than {100 * critical:g} % of the variance" in str(advice)
    assert advise_components(made).n_critical is None
    assert "more than" not in str(advise_components(made))


def test_all_that_were_kept_may_be_too_few():
    made = pca(as_map(made_counts()), n_components=4, solver="incremental")
    advice = advise_components(made, critical_variance=1e-9)
    assert advice.n_critical == advice.n_known == 4
    assert "all that were kept" in str(advice)


@pytest.mark.parametrize("ratio", [0, 1, -0.1, 5, np.nan])
def test_critical_ratio_is_a_share(ratio):
    with pytest.raises(ParameterError, match=r"critical_variance: found .* between 0 and 1"):
        advise_components(pca(as_map(made_counts()), n_components=2), critical_variance=ratio)


def test_critical_ratio_is_saved_with_the_pca(tmp_path):
    store = tmp_path / "map.zarr"
    convert(ArrayReader(made_counts((31, 47, 61))), store)
    address = workflow.pca_step(store, n_components=5, critical_variance=0.02)
    saved = load(store, address)
    assert advise_components(saved).critical_variance == 0.02
    assert advise_components(saved, critical_variance=0.1).critical_variance == 0.1
    assert "--critical-variance 0.02" in refresh_command(store, newest(store, address))
    with pytest.raises(ParameterError, match="critical_variance"):
        workflow.pca_step(store, critical_variance=3.0)


# --------------------------------------------------------------------------------------------------- the figure
def test_scree_draws_what_the_rules_say():
    made = pca(as_map(rock_counts(small_rock((61, 73, 101), n_phases=3, counts_per_pixel=200))), n_components=7)
    advice = advise_components(made, critical_variance=0.004)
    figure = figures.draw_scree(
        made, advised=advice.n_components, elbow=advice.elbow, critical_variance=advice.critical_variance
    )
    assert figures.png(figure).startswith(b"\x89PNG")
    ratio = made[schema.EXPLAINED_VARIANCE_RATIO].values
    for axes, scale in zip(figure.axes, ("linear", "log"), strict=True):
        assert axes.get_yscale() == scale
        drawn = {line.get_label(): line for line in axes.lines}
        assert list(drawn["noise edge: 3 above"].get_xdata()) == [3.5, 3.5]
        elbow = drawn["elbow: 3 before it"]
        assert (elbow.get_xdata()[0], elbow.get_ydata()[0]) == (4, ratio[3])
        critical = drawn[f"critical ratio 0.004: {advice.n_critical} above"]
        assert list(critical.get_ydata()) == [0.004, 0.004]
        assert list(drawn["advised: 3"].get_xdata()) == [3]


def test_scree_marks_what_was_not_kept():
    made = pca(as_map(rock_counts(small_rock((61, 73, 101), n_phases=5, counts_per_pixel=200))), n_components=2)
    drawn = {line.get_label(): line for line in figures.draw_scree(made, advised=5, elbow=5).axes[1].lines}
    eigenvalues = made[schema.EIGENVALUES].values
    share = eigenvalues / eigenvalues.sum()
    assert drawn["advised: 5"].get_ydata()[0] == pytest.approx(share[4])
    assert drawn["elbow: 5 before it"].get_ydata()[0] == pytest.approx(share[5])
