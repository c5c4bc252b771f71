"""The fit of non-negative factors: sample, start, epochs, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.decomposition.blockwise import Improved, improve_on_map, improve_on_sample
from eds_chunked.decomposition.held_out import HeldOut, Judgement, hold_out
from eds_chunked.decomposition.losses import FROBENIUS, LeastSquares, Loss, PoissonLikelihood
from eds_chunked.decomposition.minibatch import minibatch_epochs
from eds_chunked.decomposition.sample import HELD_OUT_PIXELS, Draw, SampleWork, join_samples
from eds_chunked.decomposition.scaling import POISSON, check_not_empty, nonzero_or_one
from eds_chunked.decomposition.start import START_PIXELS, ScaledSample, start_factors
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.lanes import run_pass
from eds_chunked.kernels.sparse import take_pixels
from eds_chunked.memory import Need, Plan

Array = np.ndarray[Any, Any]

SAMPLE, BLOCKWISE, MINIBATCH = "sample", "blockwise", "minibatch"
SOLVERS = (SAMPLE, BLOCKWISE, MINIBATCH)


@dataclass(frozen=True)
class Recipe:
    """How factors are fitted; see :func:`eds_chunked.nmf`."""

    n_components: int
    solver: str
    loss: str
    noise: str | None
    max_epochs: int
    fit_pixels: int
    restarts: int
    early_stop: bool
    seed: int


class Start(NamedTuple):
    """Factors to start from, or those of a PCA, along which to cluster: (components, channels), in counts."""

    factors: Array | None = None
    principal: Array | None = None


class FactorFit(NamedTuple):
    """Fitted factors in counts, and what happened on the way: of the start and of the factors after each epoch.

    ``restart`` is the number of the best one, from 0; ``epochs`` how many epochs its factors have seen.
    """

    factors: Array
    objective: list[float]
    held_out: list[float]
    restart: int
    epochs: int
    loss: Loss


@dataclass
class _Trajectory:
    """One restart: its factors now, those that it would return, and whether it goes on."""

    factors: Array
    judgement: Judgement | None
    objective: list[float] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    chosen: Array = field(init=False)
    chosen_epoch: int = 0
    epoch: int = 0
    going: bool = True

    def __post_init__(self) -> None:
        self.chosen = self.factors
        if self.judgement is not None:
            self.held_out.append(self.judgement.divergence)

    def take(self, factors: Array, judgement: Judgement | None) -> None:
        """Note the factors after an epoch, and stop where they foretell no better; go one epoch too far if in doubt."""
        self.epoch += 1
        self.factors = factors
        if judgement is not None and self.judgement is not None:
            self.held_out.append(judgement.divergence)
            self.going = judgement.divergence < self.judgement.divergence
            if judgement.is_worse_than(self.judgement):
                return
            self.judgement = judgement
        self.chosen, self.chosen_epoch = factors, self.epoch


def fit_need(recipe: Recipe, blocks: Blocks, filled: float) -> Need:
    """Memory of a fit: the samples, drawn and shuffled, the scaled rows, and the sums of all restarts.

    ``filled`` is the mean number of channels of a pixel that are not zero.
    """
    a_value = 2 + blocks.source.dtype.itemsize
    sample = int(min(recipe.fit_pixels, blocks.n_pixels) * filled * a_value)
    held_out = int(min(HELD_OUT_PIXELS, blocks.n_pixels) * filled * a_value)
    rows = int(min(START_PIXELS, blocks.n_pixels) * filled * 8)
    sums = 8 * recipe.restarts * recipe.n_components * (blocks.n_channels + recipe.n_components)
    return Need("nmf", 2 * (sample + 2 * held_out + rows) + 4 * sums, blocks.bytes_of_a_block + 3 * sums)


def loss_of(kind: str, noise: str | None, channel_sums: Array) -> Loss:
    """Return the loss of that name on a map with these sums."""
    if kind == FROBENIUS:
        return LeastSquares(_channel_roots(noise, channel_sums), by_pixel=noise == POISSON)
    return PoissonLikelihood()


def fit_factors(blocks: Blocks, recipe: Recipe, start: Start, *, mean_counts: float, how: Plan) -> FactorFit:
    """Fit factors as the recipe says: one pass to draw a sample, and for the blockwise solver one for each epoch.

    ``mean_counts`` of a pixel say whether neighbours must be added up to find a start.
    """
    judged = recipe.early_stop and blocks.are_counts
    draw = Draw.of(blocks.n_used, width=blocks.shape[1], seed=recipe.seed, fit_pixels=recipe.fit_pixels,
                   hold_out=judged, mean_counts=mean_counts)  # fmt: skip
    sums = run_pass(blocks, SampleWork(blocks.n_channels, draw), join_samples, plan=how)
    check_not_empty(sums.channel)
    loss = loss_of(recipe.loss, recipe.noise, sums.channel)
    root, by_pixel = _channel_roots(recipe.noise, sums.channel), recipe.noise == POISSON
    sample = ScaledSample(sums.drawn.shuffled(), root, by_pixel)
    clustered = [sample]
    if draw.side > 1:
        clustered.append(ScaledSample(sums.drawn.summed(START_PIXELS), root, by_pixel))
    held_out = hold_out(sums.held_out.shuffled(), loss, seed=recipe.seed) if draw.share_held_out else None
    counted = sums.channel > 0
    del sums  # The counts as they were drawn; the samples have them in their own order.

    trajectories = []
    for restart in range(recipe.restarts):
        factors = start.factors
        if factors is None:
            factors = _best_start(clustered, held_out, recipe.n_components, recipe.seed + restart, start.principal)
        trajectories.append(_Trajectory(factors, held_out.judge(factors) if held_out else None))
    if recipe.solver == MINIBATCH:
        _fit_by_minibatches(sample, loss, trajectories, held_out, recipe)
    else:

        def improve(factors: list[Array]) -> Improved:
            if recipe.solver == BLOCKWISE:
                return improve_on_map(blocks, loss, factors, draw, how=how)
            return improve_on_sample(sample.counts, loss, factors, workers=how.workers)

        _fit_by_full_batches(improve, trajectories, held_out, recipe.max_epochs)

    best = min(range(recipe.restarts), key=lambda i: _judgement(trajectories[i]))
    chosen = trajectories[best]
    # What the start lends to every channel, so that updates can move it, is no spectrum where nothing was counted.
    factors = chosen.chosen * counted
    first = take_pixels(sample.counts, np.arange(min(START_PIXELS, sample.n_pixels)))
    share = loss.loadings(first, factors).sum(axis=0) * factors.sum(axis=1)
    return FactorFit(
        factors[np.argsort(-share, kind="stable")], chosen.objective, chosen.held_out, best, chosen.chosen_epoch, loss
    )


def _best_start(
    clustered: list[ScaledSample], held_out: HeldOut | None, n_components: int, seed: int, principal: Array | None
) -> Array:
    """Return the start from pixels or, where that foretells better, from sums of neighbours.

    Where counts are few, sums tell minerals apart that pixels do not; where grains are small, they mix them.
    """
    starts = [start_factors(sample, n_components, seed=seed, principal=principal) for sample in clustered]
    if held_out is None or len(starts) == 1:
        return starts[0]
    return min(starts, key=lambda factors: held_out.judge(factors).divergence)


def _fit_by_full_batches(
    improve: Callable[[list[Array]], Improved],
    trajectories: list[_Trajectory],
    held_out: HeldOut | None,
    max_epochs: int,
) -> None:
    for _ in range(max_epochs):
        going = [trajectory for trajectory in trajectories if trajectory.going]
        if not going:
            break
        improved = improve([trajectory.factors for trajectory in going])
        for trajectory, (factors, unexplained) in zip(going, improved, strict=True):
            trajectory.objective.append(unexplained)
            trajectory.take(factors, held_out.judge(factors) if held_out else None)


def _fit_by_minibatches(
    sample: ScaledSample, loss: Loss, trajectories: list[_Trajectory], held_out: HeldOut | None, recipe: Recipe
) -> None:
    first = take_pixels(sample.counts, np.arange(min(START_PIXELS, sample.n_pixels)))
    for restart, trajectory in enumerate(trajectories):
        epochs: Iterator[Array] = minibatch_epochs(sample, trajectory.factors, seed=recipe.seed + restart)
        while trajectory.going and trajectory.epoch < recipe.max_epochs:
            left, whole = loss.fit(first, trajectory.factors)[1]
            trajectory.objective.append(float(left / whole))
            factors = next(epochs)
            trajectory.take(factors, held_out.judge(factors) if held_out else None)


def _judgement(trajectory: _Trajectory) -> float:
    """What restarts are compared by: the counts held out, or where there are none the objective."""
    return trajectory.held_out[trajectory.chosen_epoch] if trajectory.held_out else trajectory.objective[-1]


def _channel_roots(noise: str | None, channel_sums: Array) -> Array:
    return np.sqrt(nonzero_or_one(channel_sums)) if noise == POISSON else np.ones(len(channel_sums))
