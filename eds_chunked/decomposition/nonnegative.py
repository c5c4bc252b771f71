"""Non-negative matrix factorisation of the Poisson-scaled counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.minibatch import START_PIXELS, ScaledSample, fit_minibatch
from eds_chunked.decomposition.projection import ProjectWork
from eds_chunked.decomposition.result import check_n_components, template, variable
from eds_chunked.decomposition.sample import SampleWork, join_samples
from eds_chunked.decomposition.scaling import POISSON, check_noise, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.output import begin_result
from eds_chunked.errors import ParameterError
from eds_chunked.kernels.gram import project, weighted_squares
from eds_chunked.kernels.nnls import solve_nonnegative
from eds_chunked.kernels.reduce import pixel_sums
from eds_chunked.kernels.sparse import Csr
from eds_chunked.memory import Need, plan

Array = np.ndarray[Any, Any]


def nmf(
    ds: xr.Dataset,
    *,
    n_components: int,
    noise: Literal["poisson"] | None = "poisson",
    solver: Literal["minibatch"] = "minibatch",
    max_epochs: int = 3,
    fit_pixels: int = 131072,
    seed: int = 0,
    name: str | None = None,
    memory: str | int | None = None,
) -> xr.Dataset:
    """Factorise a map into non-negative spectra and maps; computes, one pass to draw a sample and one to project.

    The spectra are fitted to a random sample of the pixels by scikit-learn's MiniBatchNMF (least squares on the
    Poisson-scaled counts), started from k-means clusters, a few epochs only: run to convergence the factorisation
    drifts towards the noise. Then every pixel of the map gets its exact non-negative least-squares loadings. It cannot
    find a phase of a few dozen pixels: look for those in the maximum-pixel spectrum.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), any selection of it.
    n_components
        Number of components k; :func:`eds_chunked.advise_components` proposes one. Phases will have their numbers.
    noise
        ``"poisson"`` scales as Keenan & Kotula; None takes the counts as they are.
    solver
        ``"minibatch"``.
    max_epochs
        Times that the sample is gone through.
    fit_pixels
        Pixels to fit the spectra to, drawn at random over the whole map; a map with fewer is used whole.
    seed
        Seed of the sample and the start. The same seed gives the same answer, whatever the chunks and workers.
    name
        Name of the run when the result is saved; default ``k<n_components>``.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset with ``factors`` (component, energy; each sums to one), ``loadings`` (component, y, x; float32, lazy: counts
    of the component in the pixel) and ``objective`` (share of the scaled sum of squares left unexplained: at the start
    and after each epoch on part of the sample, last on the whole map). Components fall by their share of the counts.

    Raises
    ------
    ParameterError, CountsError, MemoryBudgetError

    Notes
    -----
    Memory: the counts of ``fit_pixels`` pixels twice (3 bytes a non-zero value), and one block for each worker.

    References
    ----------
    Keenan & Kotula (2004), Surface and Interface Analysis 36, 203; Lefevre, Bach & Fevotte (2011), IEEE WASPAA, 313.
    """
    check_noise(noise)
    if solver != "minibatch":
        raise ParameterError("solver", found=repr(solver), expected="'minibatch'", fix="solver='minibatch'")
    for what, value in (("max_epochs", max_epochs), ("fit_pixels", fit_pixels)):
        if value < 1:
            raise ParameterError(what, found=value, expected="at least 1", fix=f"leave {what} out for the default")
    if not 0 <= seed < 2**32:
        raise ParameterError("seed", found=seed, expected="0 to 2**32 - 1", fix="seed=0")
    n_components = check_n_components(n_components, ds)
    blocks = blocks_of(ds)
    run = schema.check_run_name(name or f"k{n_components}")
    how = plan(_need(ds, blocks, fit_pixels), memory=memory)

    work = SampleWork(blocks.n_channels, blocks.n_pixels, blocks.shape[1], fit_pixels, seed)
    sums = run_pass(blocks, work, join_samples, plan=how)
    channel_sums = sums.channel
    check_not_empty(channel_sums)
    root = np.sqrt(nonzero_or_one(channel_sums)) if noise == POISSON else np.ones(blocks.n_channels)
    sample = ScaledSample(sums.shuffled(), root, noise == POISSON)
    del sums  # The counts as they were drawn; the sample has them in its own order.
    factors, objective = fit_minibatch(sample, n_components, max_epochs=max_epochs, seed=seed)
    # What the start lends to every channel, so that updates can move it, is no spectrum where nothing was counted.
    factors[:, channel_sums == 0] = 0
    del sample

    parameters = {
        "n_components": n_components,
        "noise": noise,
        "solver": solver,
        "max_epochs": max_epochs,
        "fit_pixels": fit_pixels,
        "seed": seed,
    }
    spectra = factors * root
    total = nonzero_or_one(spectra.sum(axis=1))[:, None]
    result = template(ds, blocks, n_components)
    result[schema.FACTORS] = variable(schema.FACTORS, spectra / total)
    result[schema.OBJECTIVE] = variable(schema.OBJECTIVE, np.zeros(len(objective) + 1))
    draft = begin_result(ds, schema.NMF, run, result, parameters, blocks)
    fit = _NonnegativeFit(factors / total, root, noise == POISSON)
    work_of_map = ProjectWork(draft.target(schema.LOADINGS), n_components, fit)
    residual, squares = run_pass(blocks, work_of_map, np.add, plan=how)
    draft.put(schema.OBJECTIVE, np.array([*objective, residual / squares]))
    return draft.open()


@dataclass(frozen=True)
class _NonnegativeFit:
    """Non-negative least squares of the scaled counts; the scale of a pixel as a whole does not change its loadings."""

    factors: Array
    root: Array
    poisson: bool

    def __call__(self, counts: Csr) -> tuple[Array, Array]:
        gram = self.factors @ self.factors.T
        target = project(counts, (self.factors / self.root).T)
        loadings = solve_nonnegative(gram, target)
        squares = weighted_squares(counts, 1 / self.root**2)
        residual = squares + np.sum(loadings * (loadings @ gram - 2 * target), axis=1)
        weight = 1 / nonzero_or_one(pixel_sums(counts)) if self.poisson else np.ones(counts.n_pixels)
        return loadings, np.array([residual @ weight, squares @ weight])


def _need(ds: xr.Dataset, blocks: Blocks, fit_pixels: int) -> Need:
    """Memory of the sample: drawn and shuffled, then the part to start from as float32 with indices, copied once."""
    filled = _filled_channels(ds, blocks)
    sample = int(min(fit_pixels, blocks.n_pixels) * filled * (2 + blocks.source.dtype.itemsize))
    start = int(min(START_PIXELS, blocks.n_pixels) * filled * 8)
    return Need("nmf", 2 * (sample + start), blocks.bytes_of_a_block)


def _filled_channels(ds: xr.Dataset, blocks: Blocks) -> float:
    """Bound the mean number of non-zero channels of a pixel, from the survey where the map has one.

    Of Poisson counts with mean m in a channel 1 - exp(-m) of the pixels are not zero. That is concave in m, so taken
    at the mean over all pixels it bounds the mean over pixels of different phases and brightness.
    """
    if schema.TOTAL_COUNTS not in ds or schema.SUM_SPECTRUM not in ds:
        return 0.25 * blocks.n_channels
    spectrum = ds[schema.SUM_SPECTRUM].values.astype(np.float64)
    mean = spectrum / max(1.0, spectrum.sum()) * float(ds[schema.TOTAL_COUNTS].mean())
    return float(np.sum(-np.expm1(-mean)))
