"""The full-batch solver: pass by pass against SciPy and scikit-learn, and what all solvers promise."""

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.optimize import nnls
from sklearn.decomposition import NMF, non_negative_factorization

from eds_chunked import schema
from eds_chunked.decomposition import blockwise, fitting, start
from eds_chunked.decomposition.held_out import Judgement, hold_out
from eds_chunked.decomposition.losses import LeastSquares, PoissonLikelihood
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.sample import Draw, SampleWork
from eds_chunked.engine.blocks import Block, Lane
from eds_chunked.errors import ChunkLayoutError, CountsError, ParameterError
from eds_chunked.kernels.sparse import from_dense, to_dense
from tests.decomposition_maps import (
    as_map,
    assert_same_bits,
    cosines,
    made_counts,
    matrix,
    ragged_chunks,
    rock_counts,
    rows_of,
    small_rock,
    weights,
    with_dead,
)

LOSSES = ("frobenius", "poisson")
SOLVERS = (
    ("minibatch", "frobenius"),
    ("blockwise", "frobenius"),
    ("blockwise", "poisson"),
    ("sample", "frobenius"),
    ("sample", "poisson"),
    ("sample", "mixture"),
)
FULL_BATCH = SOLVERS[1:]


def rough_start(ds, n_components, *, seed=3):
    """Return a result with factors that are near the truth, but not near enough to be left alone."""
    rng = np.random.default_rng(seed)
    good = nmf(ds, n_components=n_components, max_epochs=1)
    factors = good[schema.FACTORS].values
    mixed = factors @ np.eye(factors.shape[1]) + 0.4 * factors[::-1] + 0.02 * rng.random(factors.shape)
    return good.assign({schema.FACTORS: (good[schema.FACTORS].dims, mixed)})


# --------------------------------------------------------------------------------------- against other software
@pytest.mark.parametrize("noise", ["poisson", None])
def test_least_squares_passes_are_alternating_nnls(noise):
    counts = with_dead(made_counts((17, 19, 61), seed=31))
    ds = as_map(counts)
    given_start = rough_start(ds, 3)
    ours = nmf(ds, solver="blockwise", loss="frobenius", start=given_start, max_epochs=4, early_stop=False, noise=noise)
    X = matrix(counts)
    a, b = weights(X) if noise else (np.ones(len(X)), np.ones(61))
    scaled, H = X / a[:, None] / b, given_start[schema.FACTORS].values
    H = (H + 0) / b
    left = []
    for _ in range(4):
        W = np.array([nnls(H.T, row)[0] for row in scaled])
        left.append(np.sum((scaled - W @ H) ** 2) / np.sum(scaled**2))
        H = np.array([nnls(W, column)[0] for column in scaled.T]).T
    assert cosines(ours[schema.FACTORS] / b, H).min() > 1 - 1e-9
    np.testing.assert_allclose(ours[schema.OBJECTIVE][:-1], left, rtol=1e-7)


def test_likelihood_passes_are_those_of_scikit_learn():
    # Loadings to convergence and one multiplicative step of the factors, both by scikit-learn's own updates.
    counts = made_counts((13, 17, 61), seed=32, dose=200)
    ds = as_map(counts)
    given_start = rough_start(ds, 3)
    ours = nmf(ds, solver="blockwise", loss="poisson", start=given_start, max_epochs=3, early_stop=False)
    X = matrix(counts)
    H = given_start[schema.FACTORS].values.astype(float)
    kl = {"beta_loss": "kullback-leibler", "solver": "mu", "tol": 0}
    for _ in range(3):
        W = non_negative_factorization(X, H=H, n_components=3, max_iter=3000, update_H=False, **kl)[0]
        one_step = NMF(3, init="custom", max_iter=1, **kl)
        one_step.fit_transform(X, W=W, H=H.copy())
        H = one_step.components_
    assert cosines(ours[schema.FACTORS], H).min() > 1 - 1e-6


@pytest.mark.parametrize("loss", LOSSES)
def test_same_start_and_passes_as_scikit_learn_in_memory(loss):
    # Scikit-learn's loadings take one step a pass, ours are solved: on data with little noise both get where they go.
    counts = made_counts((37, 41, 61), seed=33, dose=2000)
    ds = as_map(counts)
    given_start = rough_start(ds, 3)
    ours = nmf(ds, solver="blockwise", loss=loss, start=given_start, max_epochs=40, early_stop=False)
    X = matrix(counts)
    a, b = weights(X) if loss == "frobenius" else (np.ones(len(X)), np.ones(61))
    H = np.ascontiguousarray(given_start[schema.FACTORS].values / b)
    scaled = X / a[:, None] / b
    W = np.array([nnls(H.T, row)[0] for row in scaled]) + 1e-3 * scaled.mean()
    solver = {"solver": "cd"} if loss == "frobenius" else {"solver": "mu", "beta_loss": "kullback-leibler"}
    theirs = NMF(3, init="custom", max_iter=40, tol=0, **solver)
    theirs.fit_transform(scaled, W=W, H=H.copy())
    assert cosines(ours[schema.FACTORS], theirs.components_ * b).min() >= 0.99


def test_last_objective_is_the_divergence_of_the_model():
    counts = with_dead(made_counts(seed=34))
    result = nmf(as_map(counts), n_components=3, solver="blockwise", loss="poisson")
    X = matrix(counts)
    model = rows_of(result[schema.LOADINGS]).T @ result[schema.FACTORS].values
    filled = X > 0
    logs = np.log(np.divide(X, model, out=np.ones_like(X), where=filled))
    expected = np.sum(X * logs - X + model) / X.sum()
    assert float(result[schema.OBJECTIVE][-1]) == pytest.approx(expected, rel=1e-5)


# --------------------------------------------------------------------------------------------- what is promised
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("seed", [35, 36])
def test_objective_never_rises(loss, seed):
    ds = as_map(with_dead(made_counts(seed=seed)))
    result = nmf(ds, start=rough_start(ds, 3), solver="blockwise", loss=loss, max_epochs=9, early_stop=False)
    objective = result[schema.OBJECTIVE].values
    assert len(objective) == 10
    assert np.all(np.diff(objective) <= 1e-9 * objective[:-1])
    assert objective[-1] < objective[0] * 0.999


def two_passes(loss, chunks):
    ds = as_map(with_dead(made_counts(seed=37)), chunks=chunks)
    return nmf(ds, n_components=3, solver="blockwise", loss=loss, max_epochs=2)


@cache
def two_passes_in_memory(loss):
    return two_passes(loss, None)


@settings(max_examples=6, deadline=None)
@given(chunks=ragged_chunks((31, 47, 61)))
@pytest.mark.parametrize("loss", LOSSES)
def test_chunks_do_not_matter(loss, chunks):
    assert_same_bits(two_passes(loss, chunks), two_passes_in_memory(loss))


@pytest.fixture(scope="module")
def in_two_orders():
    """Return a banded map, the same with its rows mixed, and a rough start."""
    counts = rock_counts(small_rock((101, 149, 251), counts_per_pixel=100, texture="banded"))
    mixed = np.random.default_rng(38).permutation(len(counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(start, "START_PIXELS", 5000)
        return as_map(counts), as_map(counts[mixed]), rough_start(as_map(counts), 4)


@pytest.mark.parametrize(("solver", "loss"), SOLVERS)
def test_order_of_the_rows_does_not_matter(solver, loss, in_two_orders, monkeypatch):
    monkeypatch.setattr(start, "START_PIXELS", 5000)
    *maps, first = in_two_orders
    bands, shuffled = (nmf(ds, start=first, solver=solver, loss=loss, max_epochs=3, early_stop=False) for ds in maps)
    assert cosines(bands[schema.FACTORS], shuffled[schema.FACTORS]).min() >= 0.999


@cache
def made_rock(shape, dose, texture):
    made = small_rock(shape, counts_per_pixel=dose, texture=texture)
    return as_map(rock_counts(made)), made.spectra


@pytest.mark.parametrize(("solver", "loss"), FULL_BATCH)
@pytest.mark.parametrize(("dose", "shape"), [(18, (137, 179, 251)), (100, (83, 101, 251))])
def test_spectra_of_a_banded_map_are_found(solver, loss, dose, shape):
    ds, spectra = made_rock(shape, dose, "banded")
    result = nmf(ds, n_components=4, solver=solver, loss=loss)
    assert cosines(result[schema.FACTORS], spectra).min() >= 0.99


# A mixture has little to fear of it: see tests/test_decomposition_mixture.py.
@pytest.mark.parametrize(("solver", "loss"), [how for how in SOLVERS if "mixture" not in how])
def test_a_fit_stops_before_it_learns_the_noise(solver, loss):
    made = small_rock((83, 101, 251), counts_per_pixel=18)
    ds = as_map(rock_counts(made))
    stopped = nmf(ds, n_components=4, solver=solver, loss=loss, max_epochs=25)
    through = nmf(ds, n_components=4, solver=solver, loss=loss, max_epochs=25, early_stop=False)
    worst = [cosines(result[schema.FACTORS], made.spectra).min() for result in (stopped, through)]
    assert worst[0] > worst[1] + 0.02
    assert schema.HELD_OUT in stopped
    assert schema.HELD_OUT not in through
    epochs = stopped.attrs[schema.PARAMETERS]["epochs"]
    assert stopped[schema.HELD_OUT].values[-1] == stopped[schema.HELD_OUT].values[epochs]
    assert stopped.attrs[schema.PARAMETERS]["epochs"] < 25 == through.attrs[schema.PARAMETERS]["epochs"]


def test_restarts_share_their_passes_and_the_best_is_kept(monkeypatch):
    ds = as_map(made_counts((61, 67, 61), seed=39, n_phases=4))
    passes = []
    one_pass = blockwise.run_pass
    monkeypatch.setattr(blockwise, "run_pass", lambda *given, **more: passes.append(1) or one_pass(*given, **more))
    alone = nmf(ds, n_components=4, solver="blockwise", seed=5, max_epochs=3)
    passes.clear()
    together = nmf(ds, n_components=4, solver="blockwise", seed=5, restarts=3, max_epochs=3)
    assert len(passes) <= 3
    assert together.attrs[schema.PARAMETERS]["restart"] in (0, 1, 2)
    assert together[schema.HELD_OUT].values[-1] <= alone[schema.HELD_OUT].values[-1]


def test_minibatch_restarts_keep_the_best():
    ds = as_map(made_counts((61, 67, 61), seed=40, n_phases=4))
    minibatches = {"solver": "minibatch", "loss": "frobenius", "max_epochs": 2, "seed": 5}
    alone = nmf(ds, n_components=4, **minibatches)
    together = nmf(ds, n_components=4, restarts=3, **minibatches)
    assert together[schema.HELD_OUT].values[-1] <= alone[schema.HELD_OUT].values[-1]


def test_improvement_of_each_loss_is_a_minimum_or_a_step_towards_it():
    counts = made_counts((11, 13, 61), seed=41)
    X, csr = matrix(counts), from_dense(counts.reshape(-1, 61))
    factors = np.random.default_rng(42).gamma(1, 1, (3, 61))
    for loss in (LeastSquares(np.ones(61), by_pixel=False), PoissonLikelihood()):
        sums = loss.sums(csr, factors)
        better = loss.improve(factors, sums)
        after = loss.fit(csr, better)[1][0]
        assert after < sums.objective[0]
        assert (better >= 0).all()
    assert sums.objective[1] == X.sum()


# ------------------------------------------------------------------------------------------------- counts held out
def test_thinned_counts_add_up_and_are_independent():
    counts = made_counts((61, 67, 61), seed=43, n_phases=1)
    parts = hold_out(from_dense(counts.reshape(-1, 61)), PoissonLikelihood(), seed=0)
    seen, unseen = (to_dense(part).astype(float) for part in (parts.seen, parts.unseen))
    np.testing.assert_array_equal(seen + unseen, matrix(counts))
    assert seen.sum() == pytest.approx(0.9 * counts.sum(), rel=0.01)
    assert (parts.seen.value > 0).all()
    assert (parts.unseen.value > 0).all()
    # Given the mean of a channel the two parts know nothing of each other.
    shading = np.tile(np.linspace(0.7, 1.3, 67), 61)[:, None]
    resid = [part - shading * (part.sum(axis=0) / shading.sum()) for part in (seen, unseen)]
    assert abs(np.corrcoef(resid[0].ravel(), resid[1].ravel())[0, 1]) < 0.01


def test_true_spectra_foretell_better_than_mixed_ones():
    made = small_rock((61, 67, 251), counts_per_pixel=100)
    truth = made.spectra / made.spectra.sum(axis=1)[:, None]
    for loss in (LeastSquares(np.ones(251), by_pixel=True), PoissonLikelihood()):
        judge = hold_out(from_dense(rock_counts(made).reshape(-1, 251)), loss, seed=1)
        assert judge.judge(truth).divergence < judge.judge(truth + 0.5 * truth[::-1]).divergence


# --------------------------------------------------------------------------------------- starts and fixed factors
@pytest.mark.parametrize("loss", LOSSES)
def test_fixed_factors_get_loadings_and_nothing_else(loss):
    train, other = (as_map(made_counts(seed=seed)) for seed in (44, 45))
    fitted = nmf(train, n_components=3)
    applied = nmf(other, fixed_factors=fitted, loss=loss)
    np.testing.assert_allclose(applied[schema.FACTORS], fitted[schema.FACTORS], rtol=1e-12)
    X, H = matrix(made_counts(seed=45)), fitted[schema.FACTORS].values
    b = weights(X)[1]
    found = rows_of(applied[schema.LOADINGS]).T
    if loss == "frobenius":
        expected = np.array([nnls((H / b).T, row)[0] for row in X / b])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * expected.max())
    else:
        model = found @ H
        slope = 1 - np.divide(X, model, out=np.zeros_like(X), where=X > 0) @ H.T
        assert np.abs(found * slope).max() < 1e-2
        assert slope.min() > -1e-3
    assert len(applied[schema.OBJECTIVE]) == 1
    assert applied.attrs[schema.PARAMETERS]["fixed_factors"]
    # On the map that they were fitted to, they give the loadings of the fit.
    same = nmf(train, fixed_factors=fitted, loss=fitted.attrs[schema.PARAMETERS]["loss"])
    np.testing.assert_allclose(same[schema.LOADINGS], fitted[schema.LOADINGS], rtol=1e-5, atol=1e-5)


def test_a_pca_is_a_start():
    made = small_rock((83, 101, 251), counts_per_pixel=100)
    ds = as_map(rock_counts(made))
    components = pca(ds, n_components=7)
    for solver in fitting.SOLVERS:
        result = nmf(ds, n_components=4, start=components, solver=solver, loss="frobenius")
        assert cosines(result[schema.FACTORS], made.spectra).min() >= 0.99
    with pytest.raises(ParameterError, match="number of components: found 8, expected 1 to 7"):
        nmf(ds, n_components=8, start=components)


def test_wrong_factors_are_refused():
    ds = as_map(made_counts())
    good = nmf(ds, n_components=3)
    axes = good[schema.FACTORS].dims
    broken = good[schema.FACTORS].values.copy()
    broken[1, 5] = np.nan
    with pytest.raises(ParameterError, match="fixed_factors: found NaN or infinite"):
        nmf(ds, fixed_factors=good.assign({schema.FACTORS: (axes, broken)}))
    with pytest.raises(ParameterError, match="fixed_factors: found negative values"):
        nmf(ds, fixed_factors=pca(ds, n_components=3))
    with pytest.raises(ParameterError, match="component that is zero"):
        nmf(ds, start=good.assign({schema.FACTORS: (axes, np.zeros_like(broken))}))
    with pytest.raises(ChunkLayoutError, match=r"fixed_factors along energy: found 61 .* expected 40 channels"):
        nmf(ds.isel(energy=slice(5, 45)), fixed_factors=good)
    with pytest.raises(ParameterError, match="number of components: found 4, expected 3"):
        nmf(ds, n_components=4, fixed_factors=good)
    with pytest.raises(ParameterError, match="start: found fixed_factors too"):
        nmf(ds, start=good, fixed_factors=good)
    with pytest.raises(ParameterError, match="restarts: found 3, and factors to start from"):
        nmf(ds, start=good, restarts=3)
    with pytest.raises(ParameterError, match="number of components: found none"):
        nmf(ds)


def test_wrong_combinations_are_refused():
    counts = made_counts()
    with pytest.raises(ParameterError, match=r"loss: found 'poisson' with the solver 'minibatch'.*solver='sample'"):
        nmf(as_map(counts), n_components=2, loss="poisson", solver="minibatch")
    with pytest.raises(ParameterError, match=r"loss: found 'mixture' with the solver 'blockwise'.*solver='sample'"):
        nmf(as_map(counts), n_components=2, loss="mixture", solver="blockwise")
    with pytest.raises(ParameterError, match="loss: found 'hinge', expected one of mixture, poisson, frobenius"):
        nmf(as_map(counts), n_components=2, loss="hinge")
    with pytest.raises(ParameterError, match="restarts: found 0"):
        nmf(as_map(counts), n_components=2, restarts=0)
    with pytest.raises(CountsError, match="expected integers, for a likelihood of counts"):
        nmf(as_map(counts * 0.5), n_components=2, solver="blockwise", loss="poisson")


@pytest.mark.parametrize("loss", LOSSES)
def test_tiny_maps_are_fitted_whole(loss):
    tiny = nmf(as_map(made_counts((7, 11, 61))), n_components=2, solver="blockwise", loss=loss, max_epochs=2)
    assert schema.HELD_OUT not in tiny


def test_floats_are_fitted_whole():
    floats = nmf(as_map(made_counts() * 0.5), n_components=2, solver="blockwise", loss="frobenius", max_epochs=2)
    assert schema.HELD_OUT not in floats


@pytest.mark.parametrize("loss", LOSSES)
def test_a_sample_that_is_the_whole_map_gives_what_the_map_gives(loss):
    ds = as_map(with_dead(made_counts(seed=46)))
    how = {"n_components": 3, "loss": loss, "max_epochs": 4, "early_stop": False}
    whole, sampled = (nmf(ds, solver=solver, **how) for solver in ("blockwise", "sample"))
    np.testing.assert_allclose(sampled[schema.FACTORS], whole[schema.FACTORS], rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(sampled[schema.OBJECTIVE], whole[schema.OBJECTIVE], rtol=1e-8)


def test_factors_that_are_about_as_good_are_fitted_on():
    first = Judgement(np.array([1.0, 2.0, 3.0, 4.0]), 100.0)
    assert first.divergence == 0.1
    assert not Judgement(first.of_pixels + np.array([0.1, -0.1, 0.1, 0.0]), 100.0).is_worse_than(first)
    assert Judgement(first.of_pixels + np.array([0.1, 0.1, 0.2, 0.1]), 100.0).is_worse_than(first)
    assert not Judgement(first.of_pixels - 0.1, 100.0).is_worse_than(first)


def test_neighbours_are_added_up_where_counts_are_few():
    made = small_rock((83, 101, 251), counts_per_pixel=8, grain_size=25.0)
    result = nmf(as_map(rock_counts(made)), n_components=4)
    assert cosines(result[schema.FACTORS], made.spectra).min() >= 0.98
    counts = rock_counts(made)
    draw = Draw.of(83 * 101, width=101, seed=0, fit_pixels=10**6, hold_out=False, mean_counts=8.0)
    assert draw.side == 4
    lane = Lane(slice(0, 83), slice(0, 101))
    work = SampleWork(251, draw)(lane, iter([Block(*lane, from_dense(counts.reshape(-1, 251)))]))
    summed = to_dense(work.drawn.summed(work.drawn.shuffled(), 10**6))
    squares = np.add.reduceat(np.add.reduceat(counts.astype(int), range(0, 83, 4), 0), range(0, 101, 4), 1)
    rows = {tuple(row) for row in squares.reshape(-1, 251)}
    assert {tuple(row) for row in summed.astype(int)} == rows
    assert len(work.drawn.summed(work.drawn.shuffled(), 100).indptr) == 101
