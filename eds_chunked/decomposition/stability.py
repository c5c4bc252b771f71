"""Whether NMF components are found again in other pixels of the same map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr
from scipy.optimize import linear_sum_assignment

from eds_chunked.decomposition.losses import LeastSquares
from eds_chunked.decomposition.minibatch import minibatch_epochs
from eds_chunked.decomposition.result import check_n_components
from eds_chunked.decomposition.sample import Draw, Sample, SampleWork, join_samples
from eds_chunked.decomposition.scaling import POISSON, check_noise, check_not_empty, nonzero_or_one
from eds_chunked.decomposition.start import START_PIXELS, ScaledSample, start_factors
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.engine.dose import filled_channels
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.planning import plan
from eds_chunked.errors import ParameterError
from eds_chunked.kernels.sparse import take_pixels
from eds_chunked.memory import Need

Array = np.ndarray[Any, Any]

MOST_EXCESS = 3.3
"""Times that two halves may differ more than counting noise alone makes them differ. On phantoms of 3 to 8 phases and
20 to 400 counts a pixel, components of the right number differ by 1.0 to 3.0 times that where both halves find all
phases, with one or two too many by 3.7 and more."""

LEAST_COSINE = 0.8
"""Under it a component is mostly noise, and may well differ no more than noise does."""


def component_stability(
    ds: xr.Dataset,
    *,
    n_components: Sequence[int],
    noise: Literal["poisson"] | None = "poisson",
    max_epochs: int = 3,
    fit_pixels: int = 131072,
    seed: int = 0,
    memory: str | int | None = None,
) -> pd.DataFrame:
    """Compute how alike the NMF components of two halves of the pixels are, for several numbers of components.

    The map is read once. A sample of its pixels is cut in two by a hash of their index, each half is factorised by the
    minibatch solver of :func:`eds_chunked.nmf`, from clusters of its own, and the spectra are matched one to one. Those
    that stand for phases come out as alike as counting noise allows; one too many splits a phase, and each half splits
    another way. So look for the last number before the first that is not stable: with fewer components than phases,
    mixtures of phases mostly come out alike too. At low dose, where half of the pixels find less than all of them
    would, it rather says too few.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), any selection of it.
    n_components
        Numbers of components to try, such as ``[3, 4, 5]``.
    noise
        ``"poisson"`` scales as Keenan & Kotula; None takes the counts as they are.
    max_epochs
        Times that each half is gone through.
    fit_pixels
        Pixels of both halves together, drawn at random over the whole map; a map with fewer is used whole.
    seed
        Seed of the sample and the starts.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    pandas.DataFrame
        A row a number of components: ``n_components``, ``worst_cosine`` and ``median_cosine`` of the matched spectra,
        which are compared in the scaled space, where faint lines weigh as much as strong ones; ``excess``, the largest
        of 1 - cosine over that which the counts of the component lead to expect (NaN for values that are no counts);
        and ``stable``: no excess over 3.3 and no cosine under 0.8.

    Raises
    ------
    ParameterError, CountsError, MemoryBudgetError

    Notes
    -----
    Memory: the counts of ``fit_pixels`` pixels three times (3 bytes a non-zero value), and one block for each worker.

    References
    ----------
    Brunet, Tamayo, Golub & Mesirov (2004), PNAS 101, 4164; Wu et al. (2016), PNAS 113, 4290: the stability of the
    factors as a measure of their number. Kuhn (1955), Naval Research Logistics 2, 83: the matching.
    """
    check_noise(noise)
    numbers = [check_n_components(number, ds) for number in n_components]
    if not numbers:
        raise ParameterError("n_components", found="no number", expected="at least one", fix="n_components=[3, 4, 5]")
    for what, value, least in (("max_epochs", max_epochs, 1), ("fit_pixels", fit_pixels, 2)):
        if value < least:
            raise ParameterError(what, found=value, expected=f"at least {least}", fix=f"leave {what} out")
    if not 0 <= seed < 2**32:
        raise ParameterError("seed", found=seed, expected="0 to 2**32 - 1", fix="seed=0")
    blocks = blocks_of(ds, memory=memory)
    how = plan(
        _need(blocks, filled_channels(ds, blocks), fit_pixels, max(numbers)), memory=memory, reads=[blocks.reads()]
    )
    # Of single pixels: sums of neighbours would show the mixtures along the borders of phases, the same in both halves.
    draw = Draw(blocks.shape[1], seed, share_drawn=min(1.0, fit_pixels / blocks.n_used), share_held_out=0.0)
    sums = run_pass(blocks, SampleWork(blocks.n_channels, draw), join_samples, plan=how)
    check_not_empty(sums.channel)
    root = np.sqrt(nonzero_or_one(sums.channel)) if noise == POISSON else np.ones(blocks.n_channels)
    halves = [ScaledSample(half.shuffled(), root, noise == POISSON) for half in _cut_in_two(sums.drawn)]
    del sums
    rows = []
    for number in numbers:
        found = [_factors(half, number, max_epochs, seed) for half in halves]
        cosines, pairs = matched_cosines(*(factors / root for factors in found))
        expected = np.ones(number)
        for half, factors, order in zip(halves, found, pairs, strict=True):
            expected /= np.sqrt(1 + _noise_of_factors(half, factors)[order])
        excess = float(np.max((1 - cosines) / (1 - expected))) if blocks.are_counts else np.nan
        rows.append((number, float(cosines.min()), float(np.median(cosines)), excess))
    table = pd.DataFrame(rows, columns=["n_components", "worst_cosine", "median_cosine", "excess"])
    table["stable"] = (table["excess"] <= MOST_EXCESS) & (table["worst_cosine"] >= LEAST_COSINE)
    return table


def matched_cosines(first: Array, second: Array) -> tuple[Array, tuple[Array, Array]]:
    """Match two sets of spectra (components, channels) so that the sum of their cosines is the largest.

    Returns
    -------
    The cosines (components,), and the numbers of the matched spectra of either set.
    """
    first, second = (rows / nonzero_or_one(np.linalg.norm(rows, axis=1))[:, None] for rows in (first, second))
    table = first @ second.T
    pairs: tuple[Array, Array] = linear_sum_assignment(table, maximize=True)
    return table[pairs], pairs


def _noise_of_factors(sample: ScaledSample, factors: Array) -> Array:
    """Return the variance of counting noise in scaled factors (components,), over their squared length.

    Of h_j counts in a channel the variance is h_j. What pixels that are mixtures add to it is left out.
    """
    loadings = LeastSquares(sample.root, by_pixel=sample.by_pixel).loadings(sample.counts, factors)
    counts = factors * loadings.sum(axis=0)[:, None]
    weight = 1 / sample.root**2
    return np.asarray((counts @ weight) / np.maximum(counts**2 @ weight, np.finfo(float).tiny))


def _factors(sample: ScaledSample, n_components: int, max_epochs: int, seed: int) -> Array:
    start = start_factors(sample, n_components, seed=seed)
    *_, factors = islice(minibatch_epochs(sample, start, seed=seed), max_epochs)
    return factors


def _cut_in_two(drawn: Sample) -> tuple[Sample, Sample]:
    """Cut a sample at the middle of its keys: at random, over all of the map."""
    keys = np.concatenate(drawn.keys)
    middle = np.partition(keys, len(keys) // 2)[len(keys) // 2]
    return _part(drawn, lambda keys: keys < middle), _part(drawn, lambda keys: keys >= middle)


def _part(drawn: Sample, belongs: Callable[[Array], Array]) -> Sample:
    places = [np.flatnonzero(belongs(keys)) for keys in drawn.keys]
    return Sample(
        tuple(keys[at] for keys, at in zip(drawn.keys, places, strict=True)),
        tuple(take_pixels(counts, at) for counts, at in zip(drawn.counts, places, strict=True)),
    )


def _need(blocks: Blocks, filled: float, fit_pixels: int, n_components: int) -> Need:
    a_pixel = filled * (2 + blocks.source.dtype.itemsize) + 8 * n_components
    sample = int(min(fit_pixels, blocks.n_pixels) * a_pixel)
    start = int(min(START_PIXELS, blocks.n_pixels) * filled * 8)
    return Need("component stability", 3 * sample + 2 * start, blocks.bytes_of_a_block)
