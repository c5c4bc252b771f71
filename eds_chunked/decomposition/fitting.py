"""The fit of non-negative factors: sample, start, epochs, and when to stop."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.decomposition.blockwise import Improved, improve_on_map, improve_on_sample
from eds_chunked.decomposition.held_out import HeldOut, Judgement, hold_out
from eds_chunked.decomposition.losses import FROBENIUS, MIXTURE, LeastSquares, Loss, PoissonLikelihood
from eds_chunked.decomposition.minibatch import minibatch_epochs
from eds_chunked.decomposition.mixture import Mixture, bytes_of_a_mixture, pixels_of_a_mixture
from eds_chunked.decomposition.sample import HELD_OUT_PIXELS, Draw, SampleSums, SampleWork, join_samples, side_of
from eds_chunked.decomposition.scaling import POISSON, check_not_empty, nonzero_or_one
from eds_chunked.decomposition.start import START_PIXELS, ScaledSample, start_factors
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.lanes import run_pass
from eds_chunked.kernels.sparse import Csr, take_pixels
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

    def take(self, factors: Array, judgement: Judgement | None, *, when_in_doubt: bool = True) -> None:
        """Note the factors after an epoch, and stop where they foretell no better; in doubt, take them or not."""
        self.epoch += 1
        self.factors = factors
        if judgement is not None and self.judgement is not None:
            self.held_out.append(judgement.divergence)
            self.going = judgement.divergence < self.judgement.divergence
            if judgement.is_worse_than(self.judgement) if when_in_doubt else not self.going:
                return
            self.judgement = judgement
        self.chosen, self.chosen_epoch = factors, self.epoch


def fit_need(recipe: Recipe, blocks: Blocks, filled: float) -> Need:
    """Memory of a fit: the samples, drawn and shuffled, the scaled rows, and the sums of all restarts.

    ``filled`` is the mean number of channels of a pixel that are not zero.
    """
    a_value = 2 + blocks.source.dtype.itemsize
    # A pixel has at least as many counts as filled channels: no more than these are drawn.
    drawn = min(_pixels_to_draw(recipe, filled), blocks.n_pixels)
    sample = int(drawn * filled * a_value)
    held_out = int(min(HELD_OUT_PIXELS, blocks.n_pixels) * filled * a_value)
    # Rows are scaled as float32, and once in the precision of what comes of them; sums of neighbours are held beside.
    side = side_of(filled)
    rows = (2 if side == 1 else 3) * int(min(START_PIXELS * side**2, drawn) * filled * 8)
    if recipe.loss == MIXTURE:
        fixed, of_a_worker = bytes_of_a_mixture(recipe.n_components, blocks.n_channels)
        return Need(
            "nmf", 2 * (sample + 2 * held_out) + rows + fixed, max(blocks.bytes_of_a_block, of_a_worker)
        )  # fmt: skip
    sums = 8 * recipe.restarts * recipe.n_components * (blocks.n_channels + recipe.n_components)
    return Need("nmf", 2 * (sample + 2 * held_out) + rows + 4 * sums, blocks.bytes_of_a_block + 3 * sums)


def _pixels_to_draw(recipe: Recipe, mean_counts: float) -> int:
    """Return how many pixels are drawn: those to fit, or for a solver that fits all of the map those to start from."""
    to_start = START_PIXELS * side_of(mean_counts) ** 2
    return min(recipe.fit_pixels, to_start) if recipe.solver == BLOCKWISE else recipe.fit_pixels


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
    draw = Draw.of(
        blocks.n_used,
        width=blocks.shape[1],
        seed=recipe.seed,
        fit_pixels=_pixels_to_draw(recipe, mean_counts),
        hold_out=judged,
        mean_counts=mean_counts,
    )
    work = SampleWork(blocks.n_channels, draw)
    prepare = _Prepare(recipe, start, draw)
    if recipe.solver != BLOCKWISE:
        finish = _FitToSample(prepare, recipe, how.workers)
        fit: FactorFit = run_pass(blocks, work, join_samples, plan=how, finish=finish)
        return fit
    ready: _Ready = run_pass(blocks, work, join_samples, plan=how, finish=prepare)

    def improve(factors: list[Array]) -> Improved:
        return improve_on_map(blocks, ready.loss, factors, draw, how=how)

    held_out, trajectories = _begun(ready, recipe)
    _fit_by_full_batches(improve, trajectories, held_out, recipe.max_epochs)
    return _finished(trajectories, ready)


class _Ready(NamedTuple):
    """What a fit begins with: the pixels to fit, those to be judged by, in which channels there are counts, and starts.

    ``starts`` has for each restart the factors between which judgement decides. The blockwise solver, which fits all
    pixels of the map, has only as many in the sample as the end of a fit looks at.
    """

    sample: ScaledSample
    left_out: Csr | None
    counted: Array
    loss: Loss
    starts: list[list[Array]]


@dataclass(frozen=True)
class _Prepare:
    """Makes ready what was drawn; on a cluster there, where it is."""

    recipe: Recipe
    start: Start
    draw: Draw

    def __call__(self, sums: SampleSums) -> _Ready:
        recipe, start = self.recipe, self.start
        check_not_empty(sums.channel)
        loss = loss_of(recipe.loss, recipe.noise, sums.channel)
        root, by_pixel = _channel_roots(recipe.noise, sums.channel), recipe.noise == POISSON
        sample = ScaledSample(sums.drawn.shuffled(), root, by_pixel)
        clustered = [sample]
        if self.draw.side > 1:
            clustered.append(ScaledSample(sums.drawn.summed(sample.counts, START_PIXELS), root, by_pixel))
        left_out = sums.held_out.shuffled() if self.draw.share_held_out else None
        # From pixels and, where counts are few, from sums of neighbours: these tell minerals apart that pixels do not,
        # but mix them where grains are small. Counts that were held out decide.
        starts = [
            [start_factors(one, recipe.n_components, seed=seed, principal=start.principal) for one in clustered]
            if start.factors is None
            else [start.factors]
            for seed in range(recipe.seed, recipe.seed + recipe.restarts)
        ]
        if recipe.solver == BLOCKWISE:
            sample = replace(sample, counts=_first_pixels(sample.counts))
        return _Ready(sample, left_out, sums.channel > 0, loss, starts)


@dataclass(frozen=True)
class _FitToSample:
    """Fits the pixels that were drawn; on a cluster there, where they are."""

    prepare: _Prepare
    recipe: Recipe
    workers: int

    def __call__(self, sums: SampleSums) -> FactorFit:
        recipe = self.recipe
        ready = self.prepare(sums)
        del sums  # The counts as they were drawn; the samples have them in their own order.
        counts, epochs = ready.sample.counts, recipe.max_epochs
        if recipe.loss == MIXTURE:
            return _finished(_fit_mixtures(counts, ready.left_out, ready.starts, epochs, workers=self.workers), ready)
        held_out, trajectories = _begun(ready, recipe)
        if recipe.solver == MINIBATCH:
            _fit_by_minibatches(ready.sample, ready.loss, trajectories, held_out, recipe)
        else:

            def improve(factors: list[Array]) -> Improved:
                return improve_on_sample(counts, ready.loss, factors, workers=self.workers)

            _fit_by_full_batches(improve, trajectories, held_out, epochs)
        return _finished(trajectories, ready)


def _begun(ready: _Ready, recipe: Recipe) -> tuple[HeldOut | None, list[_Trajectory]]:
    """Return the judge, and every restart at the start that it prefers."""
    held_out = None if ready.left_out is None else hold_out(ready.left_out, ready.loss, seed=recipe.seed)
    return held_out, [
        min((_Trajectory(one, held_out.judge(one) if held_out else None) for one in several), key=_first_judgement)
        for several in ready.starts
    ]


def _first_pixels(counts: Csr) -> Csr:
    return take_pixels(counts, np.arange(min(START_PIXELS, counts.n_pixels)))


def _finished(trajectories: list[_Trajectory], ready: _Ready) -> FactorFit:
    """Return the best of the restarts, its components by falling share of the counts."""
    best = min(range(len(trajectories)), key=lambda i: _judgement(trajectories[i]))
    chosen = trajectories[best]
    # What the start lends to every channel, so that updates can move it, is no spectrum where nothing was counted.
    factors = chosen.chosen * ready.counted
    share = ready.loss.loadings(_first_pixels(ready.sample.counts), factors).sum(axis=0) * factors.sum(axis=1)
    order = np.argsort(-share, kind="stable")
    return FactorFit(factors[order], chosen.objective, chosen.held_out, best, chosen.chosen_epoch, ready.loss)


def _fit_mixtures(
    counts: Csr, left_out: Csr | None, starts: list[list[Array]], max_epochs: int, *, workers: int
) -> list[_Trajectory]:
    counts = take_pixels(counts, np.arange(pixels_of_a_mixture(counts, len(starts[0][0]))))
    first = _first_pixels(counts)
    trajectories = []
    for several in starts:
        begun = []
        for factors in several:
            mixture = Mixture.of(factors, first, workers=workers)
            judgement = mixture.judge(left_out, workers=workers) if left_out is not None else None
            begun.append((mixture, _Trajectory(mixture.factors, judgement)))
        mixture, trajectory = min(begun, key=lambda one: _first_judgement(one[1]))
        while trajectory.going and trajectory.epoch < max_epochs:
            mixture, unexplained = mixture.improved(counts, workers=workers)
            trajectory.objective.append(unexplained)
            judgement = mixture.judge(left_out, workers=workers) if left_out is not None else None
            trajectory.take(mixture.factors, judgement, when_in_doubt=False)
        trajectories.append(trajectory)
    return trajectories


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
    first = _first_pixels(sample.counts)
    for restart, trajectory in enumerate(trajectories):
        epochs: Iterator[Array] = minibatch_epochs(sample, trajectory.factors, seed=recipe.seed + restart)
        while trajectory.going and trajectory.epoch < recipe.max_epochs:
            left, whole = loss.fit(first, trajectory.factors)[1]
            trajectory.objective.append(float(left / whole))
            factors = next(epochs)
            trajectory.take(factors, held_out.judge(factors) if held_out else None)


def _first_judgement(trajectory: _Trajectory) -> float:
    return trajectory.held_out[0] if trajectory.held_out else 0.0


def _judgement(trajectory: _Trajectory) -> float:
    """What restarts are compared by: the counts held out, or where there are none the objective."""
    return trajectory.held_out[trajectory.chosen_epoch] if trajectory.held_out else trajectory.objective[-1]


def _channel_roots(noise: str | None, channel_sums: Array) -> Array:
    return np.sqrt(nonzero_or_one(channel_sums)) if noise == POISSON else np.ones(len(channel_sums))
