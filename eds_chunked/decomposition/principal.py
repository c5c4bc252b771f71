"""Principal components of the Poisson-scaled counts."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.exact import PrincipalFit, exact_need, fit_exact
from eds_chunked.decomposition.incremental import fit_incremental, incremental_need
from eds_chunked.decomposition.projection import ProjectWork
from eds_chunked.decomposition.randomized import RANDOMIZED_PASSES, fit_randomized, randomized_need
from eds_chunked.decomposition.result import check_n_components, template, variable
from eds_chunked.decomposition.scaling import POISSON, check_noise
from eds_chunked.decomposition.solver_cost import choose_solver
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.engine.dose import filled_channels, look, mean_filled
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.output import begin_result, empty_maps
from eds_chunked.engine.planning import budget
from eds_chunked.engine.shuffle import reads_of_batches
from eds_chunked.errors import ParameterError
from eds_chunked.kernels.gram import project
from eds_chunked.kernels.reduce import pixel_sums
from eds_chunked.kernels.sparse import Csr
from eds_chunked.memory import Need, Reads
from eds_chunked.store.drafts import Draft, MapTarget

Array = np.ndarray[Any, Any]
Solver = Literal["auto", "gram", "randomized", "incremental"]
SOLVERS = ("auto", "gram", "randomized", "incremental")

_log = logging.getLogger(__name__)


def pca(
    ds: xr.Dataset,
    *,
    n_components: int = 20,
    noise: Literal["poisson"] | None = "poisson",
    solver: Solver = "auto",
    centre: bool = False,
    project_excluded: bool = False,
    name: str = "main",
    memory: str | int | None = None,
) -> xr.Dataset:
    """Find the principal components of a map; computes, one pass to fit and one to project with the exact solver.

    The counts are scaled so that the noise of all pixels and channels is alike (Poisson scaling), and not centred
    unless that is asked for. The exact solver sums the Gram matrix of the scaled counts block by block and takes its
    eigenvectors: the same answer as a singular value decomposition of the whole matrix.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), any selection of it; what :func:`eds_chunked.exclude` leaves out of it has
        no part in the analysis.
    n_components
        Components to keep; the exact solver keeps all eigenvalues besides.
    noise
        ``"poisson"`` scales as Keenan & Kotula; None takes the counts as they are.
    solver
        ``"gram"`` is exact, and the only one with all eigenvalues. ``"randomized"`` finds the leading components in 7
        to 40 passes, without a channels x channels matrix: explained variances to 1e-6 above the noise edge
        (everywhere, where the counts are not Poisson-scaled integers) and 2 % below it, ``noise_ratio`` of the leading
        ones to 1e-4 and 2 %; what has not settled by then is named in a warning. ``"incremental"`` is scikit-learn's
        IncrementalPCA, approximate and always centred. ``"auto"`` compares the time that gram and randomized would take
        and prefers gram up to half a minute, up to 8192 channels. The parameters of the result say which it was, and
        why.
    centre
        Take the mean spectrum of the scaled counts off first, as scikit-learn's PCA does. The trivial first component,
        which is close to it, then is missing. The result keeps the mean, and :func:`reconstruct` adds it.
    project_excluded
        Give pixels that are left out the loadings that the components have in them, rather than NaN.
    name
        Name of the run when the result is saved.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset with ``factors`` (component, energy) and ``loadings`` (component, y, x; float32, lazy) such that counts are
    about loadings . factors (and the mean of a centred PCA, ``mean_loading`` (y, x) times ``mean_spectrum`` (energy),
    with ``mean_variance``, its S^2/N), ``explained_variance`` (S^2/N), ``explained_variance_ratio`` (of the true
    total), ``eigenvalues`` (S^2/N, whole spectrum with the exact solver) and, for scaled integer counts that are not
    centred, ``noise_ratio`` (of as many). The entry of largest magnitude of a factor is positive. Factors are NaN in
    channels that are left out, loadings in such pixels; N is the number of the others.

    Raises
    ------
    ParameterError, CountsError, MemoryBudgetError

    Notes
    -----
    Memory: with the exact solver four channels x channels matrices of float64, and for each worker one more and a
    block; with the randomized one 160 vectors of the channels for each component and ten more.

    References
    ----------
    Keenan & Kotula (2004), Surface and Interface Analysis 36, 203.
    Musco & Musco (2015), Advances in Neural Information Processing Systems 28 (block Krylov iteration).
    """
    check_noise(noise)
    if solver not in SOLVERS:
        raise ParameterError("solver", found=repr(solver), expected=f"one of {', '.join(SOLVERS)}", fix="solver='auto'")
    schema.check_run_name(name)
    n_components = check_n_components(n_components, ds)
    blocks = blocks_of(ds, memory=memory)
    chosen, because = str(solver), None
    if solver == "auto":
        # By the counts alone: a budget may refuse the work, but never change the answer, and a survey is not always
        # there, nor is it of the part that is analysed.
        chosen, because = choose_solver(blocks.n_used, blocks.n_channels, mean_filled(blocks), n_components)
        _log.info("pca: solver %s, for %s", chosen, because)
    result = template(ds, blocks, n_components)
    of_mean = 4 * blocks.n_pixels if centre or chosen == "incremental" else 0
    allowed = budget(memory)
    how = allowed.plan(
        _need(chosen, ds, blocks, n_components),
        # The incremental solver reads blocks ahead; a worker of the others has a lane.
        max_workers=None if chosen == "incremental" else min(allowed.threads, len(blocks.lanes())),
        reads=[*([look(blocks)] if solver == "auto" else []), *_reads(blocks, chosen)],
        writes=result.nbytes + 8 * (4 * blocks.shape[2] + 2 * n_components) + of_mean,
    )
    if chosen == "incremental":
        fit = fit_incremental(blocks, n_components, noise, how)
    else:
        fit = (fit_exact if chosen == "gram" else fit_randomized)(blocks, n_components, noise, how, centre=centre)

    parameters: dict[str, Any] = {"n_components": n_components, "noise": noise, "solver": chosen}
    if because is not None:
        parameters["solver_chosen_for"] = because
    if fit.mean is not None:
        parameters["centre"] = "navigation"  # HyperSpy's word: the mean is over all pixels.
    if project_excluded:
        parameters["project_excluded"] = True
    result[schema.FACTORS] = variable(schema.FACTORS, blocks.spread(fit.factors))
    result[schema.EXPLAINED_VARIANCE] = variable(schema.EXPLAINED_VARIANCE, fit.explained_variance)
    result[schema.EXPLAINED_VARIANCE_RATIO] = variable(schema.EXPLAINED_VARIANCE_RATIO, fit.explained_variance_ratio)
    result[schema.EIGENVALUES] = variable(schema.EIGENVALUES, fit.eigenvalues)
    if fit.noise_ratio is not None:
        result[schema.NOISE_RATIO] = variable(schema.NOISE_RATIO, fit.noise_ratio)
    if fit.mean is not None:
        result[schema.MEAN_SPECTRUM] = variable(schema.MEAN_SPECTRUM, blocks.spread(fit.mean))
        result[schema.MEAN_LOADING] = variable(schema.MEAN_LOADING, empty_maps(blocks, 1)[0])
        result[schema.MEAN_VARIANCE] = variable(schema.MEAN_VARIANCE, np.array(fit.mean_variance))
    draft = begin_result(ds, schema.PCA, name, result, parameters, blocks)
    work = _projection(draft, fit, poisson=noise == POISSON)
    run_pass(blocks.of_all_pixels() if project_excluded else blocks, work, np.add, plan=how)
    return draft.open()


def _need(solver: str, ds: xr.Dataset, blocks: Blocks, n_components: int) -> Need:
    if solver == "incremental":
        return incremental_need(blocks, n_components, filled_channels(ds, blocks))
    return exact_need(blocks) if solver == "gram" else randomized_need(blocks, n_components)


def _reads(blocks: Blocks, solver: str) -> list[Reads]:
    """Return what is read to fit and to project."""
    if solver == "incremental":
        return [blocks.reads(2), reads_of_batches(blocks)]
    fewest, most = (1, 1) if solver == "gram" else RANDOMIZED_PASSES
    return [blocks.reads(fewest + 1, most=most + 1)]


def _projection(draft: Draft, fit: PrincipalFit, *, poisson: bool) -> ProjectWork:
    n_components = len(fit.factors)
    target = draft.target(schema.LOADINGS)
    if fit.shift is None:
        return ProjectWork(target, n_components, _Project(fit.projector))
    both = _LoadingsThenMean(target.location, target.path, draft.target(schema.MEAN_LOADING))
    return ProjectWork(both, n_components + 1, _ProjectCentred(fit.projector, fit.shift, poisson))


@dataclass(frozen=True)
class _Project:
    spectra: Array

    def __call__(self, counts: Csr) -> tuple[Array, Array]:
        return project(counts, self.spectra), np.zeros(0)


@dataclass(frozen=True)
class _ProjectCentred:
    """Loadings of the counts minus the mean; the last column is what the mean is taken times in a pixel.

    Of Poisson-scaled counts that is the root of the pixel's counts: a dead pixel has no loadings and no mean.
    """

    spectra: Array
    shift: Array
    poisson: bool

    def __call__(self, counts: Csr) -> tuple[Array, Array]:
        root = np.sqrt(pixel_sums(counts)) if self.poisson else np.ones(counts.n_pixels)
        loadings = project(counts, self.spectra) - root[:, None] * self.shift
        return np.column_stack([loadings, root]), np.zeros(0)


@dataclass(frozen=True)
class _LoadingsThenMean(MapTarget):
    """Writes all maps but the last to the loadings, and the last to the loading of the mean."""

    mean: MapTarget

    def write(self, key: Any, values: Array) -> None:
        super().write(key, values[:-1])
        self.mean.write(key[1:], values[-1])
