"""Principal components of the Poisson-scaled counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.exact import exact_need, fit_exact
from eds_chunked.decomposition.incremental import fit_incremental, incremental_need
from eds_chunked.decomposition.projection import ProjectWork
from eds_chunked.decomposition.result import check_n_components, template, variable
from eds_chunked.decomposition.scaling import check_noise
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.output import begin_result
from eds_chunked.errors import ParameterError
from eds_chunked.kernels.gram import project
from eds_chunked.kernels.sparse import Csr
from eds_chunked.memory import Plan, plan

Array = np.ndarray[Any, Any]
Solver = Literal["auto", "gram", "incremental"]
SOLVERS = ("auto", "gram", "incremental")

MOST_CHANNELS_OF_GRAM = 8192
"""At this many the matrix is 0.5 GB, and its eigenvectors take minutes."""


def pca(
    ds: xr.Dataset,
    *,
    n_components: int = 20,
    noise: Literal["poisson"] | None = "poisson",
    solver: Solver = "auto",
    name: str = "main",
    memory: str | int | None = None,
) -> xr.Dataset:
    """Find the principal components of a map; computes, one pass to fit and one to project.

    The counts are scaled so that the noise of all pixels and channels is alike (Poisson scaling), and not centred. The
    exact solver sums the Gram matrix of the scaled counts block by block and takes its eigenvectors: the same answer
    as a singular value decomposition of the whole matrix.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), any selection of it.
    n_components
        Components to keep; the exact solver keeps all eigenvalues besides.
    noise
        ``"poisson"`` scales as Keenan & Kotula; None takes the counts as they are.
    solver
        ``"gram"`` is exact; ``"incremental"`` is scikit-learn's IncrementalPCA, approximate and centred, for more
        channels than a channels x channels matrix allows; ``"auto"`` takes gram up to 8192 channels. The parameters
        of the result say which it was. A centred PCA has no model: :func:`reconstruct` refuses it.
    name
        Name of the run when the result is saved.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset with ``factors`` (component, energy) and ``loadings`` (component, y, x; float32, lazy) such that counts are
    about loadings . factors, ``explained_variance`` (S^2/N), ``explained_variance_ratio`` (of the true total),
    ``eigenvalues`` (S^2/N, whole spectrum with the exact solver) and, for scaled integer counts, ``noise_ratio``. The
    entry of largest magnitude of a factor is positive.

    Raises
    ------
    ParameterError, CountsError, MemoryBudgetError

    Notes
    -----
    Memory: about six channels x channels matrices of float64, and one block for each worker.

    References
    ----------
    Keenan & Kotula (2004), Surface and Interface Analysis 36, 203.
    """
    check_noise(noise)
    if solver not in SOLVERS:
        raise ParameterError("solver", found=repr(solver), expected=f"one of {', '.join(SOLVERS)}", fix="solver='auto'")
    schema.check_run_name(name)
    n_components = check_n_components(n_components, ds)
    blocks = blocks_of(ds)
    chosen, how = _choose(solver, blocks, n_components, memory)
    fit = (fit_exact if chosen == "gram" else fit_incremental)(blocks, n_components, noise, how)

    parameters = {"n_components": n_components, "noise": noise, "solver": chosen}
    result = template(ds, blocks, n_components)
    result[schema.FACTORS] = variable(schema.FACTORS, fit.factors)
    result[schema.EXPLAINED_VARIANCE] = variable(schema.EXPLAINED_VARIANCE, fit.explained_variance)
    result[schema.EXPLAINED_VARIANCE_RATIO] = variable(schema.EXPLAINED_VARIANCE_RATIO, fit.explained_variance_ratio)
    result[schema.EIGENVALUES] = variable(schema.EIGENVALUES, fit.eigenvalues)
    if fit.noise_ratio is not None:
        result[schema.NOISE_RATIO] = variable(schema.NOISE_RATIO, fit.noise_ratio)
    draft = begin_result(ds, schema.PCA, name, result, parameters, blocks)
    work = ProjectWork(draft.target(schema.LOADINGS), n_components, _Project(fit.projector))
    run_pass(blocks, work, np.add, plan=how)
    return draft.open()


@dataclass(frozen=True)
class _Project:
    spectra: Array

    def __call__(self, counts: Csr) -> tuple[Array, Array]:
        return project(counts, self.spectra), np.zeros(0)


def _choose(solver: str, blocks: Blocks, n_components: int, memory: str | int | None) -> tuple[str, Plan]:
    """Choose by the map alone: a budget may refuse the work, but never change the answer."""
    if solver == "auto":
        solver = "gram" if blocks.n_channels <= MOST_CHANNELS_OF_GRAM else "incremental"
    if solver == "gram":
        return solver, plan(exact_need(blocks), memory=memory)
    return solver, plan(incremental_need(blocks, n_components), memory=memory)
