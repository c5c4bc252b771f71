"""Non-negative matrix factorisation of the counts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.channel_sums import sum_channels
from eds_chunked.decomposition.fitting import (
    BLOCKWISE,
    MINIBATCH,
    SAMPLE,
    SOLVERS,
    FactorFit,
    Recipe,
    Start,
    fit_factors,
    fit_need,
    loss_of,
)
from eds_chunked.decomposition.losses import FROBENIUS, LOSSES, MIXTURE, POISSON_LIKELIHOOD, Loss
from eds_chunked.decomposition.projection import ProjectWork
from eds_chunked.decomposition.result import check_n_components, check_same_axes, template, variable
from eds_chunked.decomposition.scaling import check_noise, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.engine.dose import filled_channels, look, mean_counts
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.output import begin_result
from eds_chunked.engine.planning import plan
from eds_chunked.errors import CountsError, ParameterError
from eds_chunked.kernels.sparse import Csr
from eds_chunked.memory import Plan, Reads

Array = np.ndarray[Any, Any]


def nmf(
    ds: xr.Dataset,
    *,
    n_components: int | None = None,
    noise: Literal["poisson"] | None = "poisson",
    solver: Literal["sample", "blockwise", "minibatch"] = "sample",
    loss: Literal["mixture", "poisson", "frobenius"] | None = None,
    start: xr.Dataset | None = None,
    fixed_factors: xr.Dataset | None = None,
    restarts: int = 1,
    max_epochs: int = 20,
    early_stop: bool = True,
    fit_pixels: int = 131072,
    project_excluded: bool = False,
    seed: int = 0,
    name: str | None = None,
    memory: str | int | None = None,
) -> xr.Dataset:
    """Factorise a map into non-negative spectra and maps; computes, one pass to draw a sample and one to project.

    The spectra start from the mean spectra of clusters of pixels, and are improved until they foretell counts that were
    held out no better: run to convergence a factorisation drifts towards the noise. Then every pixel of the map gets
    its best non-negative loadings. It cannot find a phase of a few dozen pixels: look for those in the maximum-pixel
    spectrum, and in the residual of the model.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), any selection of it; what :func:`eds_chunked.exclude` leaves out of it has
        no part in the analysis.
    n_components
        Number of components k; :func:`eds_chunked.advise_components` proposes one. Phases will have their numbers.
        Where ``start`` is an NMF, or with ``fixed_factors``, it is theirs.
    noise
        Scaling of the counts for least squares: ``"poisson"`` as Keenan & Kotula, None takes them as they are. The
        start is found in the counts so scaled for either loss.
    solver
        ``"sample"`` fits to a random sample of the pixels, in memory; ``"blockwise"`` to all pixels, one pass over the
        map an epoch; ``"minibatch"`` to the sample with scikit-learn's MiniBatchNMF.
    loss
        ``"mixture"``: the likelihood of integer counts, with what a pixel consists of averaged over pure components
        and mixtures of them, which comes nearest to the true spectra; for the solver ``"sample"``. ``"poisson"``:
        the likelihood of integer counts with loadings fitted to each pixel (Kullback-Leibler divergence).
        ``"frobenius"``: least squares; the only one for mini-batches, and for values that are no counts. Default:
        the first of them that can be had.
    start
        Result to start from: the factors of an NMF, or the principal components of a PCA, along which the pixels are
        clustered then. Of the same energies.
    fixed_factors
        Result whose factors are taken as they are, of this or another map on the same energies: nothing is fitted but
        the loadings.
    restarts
        Starts from so many clusterings; the best is kept. The blockwise solver improves all in the same passes.
    max_epochs
        Most times that the sample, or the map, is gone through.
    early_stop
        Leave out up to a tenth of the pixels and stop by how well their counts are foretold. False goes through all
        epochs, with all pixels. Values that are no counts have no such noise: then it is as if False.
    fit_pixels
        Pixels of the sample, drawn at random over the whole map; a map with fewer is used whole.
    project_excluded
        Give pixels that are left out their loadings too, rather than NaN.
    seed
        Seed of the sample and the start. The same seed gives the same answer, whatever the chunks and workers.
    name
        Name of the run when the result is saved; default ``k<n_components>``.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset with ``factors`` (component, energy; each sums to one), ``loadings`` (component, y, x; float32, lazy: counts
    of the component in the pixel, the most likely ones), ``objective`` (iteration: of the start and after each epoch,
    what the loss leaves unexplained, on part of the sample or, blockwise, on the pixels that are fitted; the last value
    is of the whole map and its loadings)
    and ``held_out`` (iteration: divergence a count of the counts held out; the last value is that of the factors that
    are returned). Components fall by their share of the counts; fixed ones keep their order.

    Raises
    ------
    ParameterError, CountsError, ChunkLayoutError, MemoryBudgetError

    Notes
    -----
    Memory: the counts of ``fit_pixels`` pixels twice (3 bytes a non-zero value), and one block for each worker.

    References
    ----------
    Keenan & Kotula (2004), Surface and Interface Analysis 36, 203; Lefevre, Bach & Fevotte (2011), IEEE WASPAA, 313;
    Paatero & Tapper (1994), Environmetrics 5, 111; Lee & Seung (2001), NIPS 13, 556; Kiefer & Wolfowitz (1956), Annals
    of Mathematical Statistics 27, 887, of the mixture.
    """
    _check_options(solver, loss, noise, restarts, max_epochs, fit_pixels, seed)
    if start is not None and fixed_factors is not None:
        raise ParameterError("start", found="fixed_factors too", expected="one of the two", fix="leave one out")
    schema.require(ds, schema.COUNTS)
    blocks = blocks_of(ds, memory=memory)
    # The loadings of a mixture are those of the Poisson likelihood, and of given factors there are but loadings.
    asked = "poisson" if fixed_factors is not None and loss == MIXTURE else loss
    kind = _check_loss(asked, solver if fixed_factors is None else BLOCKWISE, blocks)
    given = start if fixed_factors is None else fixed_factors
    begin, n_components = _given(ds, blocks, given, "start" if fixed_factors is None else "fixed_factors", n_components)
    n_components = check_n_components(n_components, ds)
    if begin.factors is not None and fixed_factors is None and restarts > 1:
        raise ParameterError("restarts", found=f"{restarts}, and factors to start from", expected="1", fix="restarts=1")
    run = schema.check_run_name(name or f"k{n_components}")
    recipe = Recipe(n_components, solver, kind, noise, max_epochs, fit_pixels, restarts, early_stop, seed)
    result = template(ds, blocks, n_components)
    how = plan(
        fit_need(recipe, blocks, filled_channels(ds, blocks)),
        memory=memory,
        reads=_reads(blocks, recipe, is_fixed=fixed_factors is not None),
        writes=result.nbytes + 8 * 2 * (max_epochs + 3),
    )

    parameters: dict[str, Any] = {"n_components": n_components, "noise": noise, "loss": kind}
    if given is not None:
        parameters["start" if fixed_factors is None else "fixed_factors"] = _identity(given)
    if project_excluded:
        parameters["project_excluded"] = True
    if fixed_factors is not None and begin.factors is not None:
        fit = _fixed(blocks, begin.factors, kind, noise, how)
    else:
        fit = fit_factors(blocks, recipe, begin, mean_counts=mean_counts(blocks), how=how)
        parameters |= {
            "solver": solver,
            "restarts": restarts,
            "restart": fit.restart,
            "max_epochs": max_epochs,
            "epochs": fit.epochs,
            "early_stop": early_stop,
            "fit_pixels": fit_pixels,
            "seed": seed,
        }

    factors = fit.factors / nonzero_or_one(fit.factors.sum(axis=1))[:, None]
    held_out = [*fit.held_out[: len(fit.objective)], fit.held_out[fit.epochs]] if fit.held_out else []
    result[schema.FACTORS] = variable(schema.FACTORS, blocks.spread(factors))
    result[schema.OBJECTIVE] = variable(schema.OBJECTIVE, np.zeros(len(fit.objective) + 1))
    if held_out:
        result[schema.HELD_OUT] = variable(schema.HELD_OUT, np.array(held_out))
    draft = begin_result(ds, schema.NMF, run, result, parameters, blocks)
    work = ProjectWork(draft.target(schema.LOADINGS), n_components, _Fit(fit.loss, factors))
    unexplained, whole = run_pass(blocks.of_all_pixels() if project_excluded else blocks, work, np.add, plan=how)
    draft.put(schema.OBJECTIVE, np.array([*fit.objective, unexplained / whole]))
    return draft.open()


def _reads(blocks: Blocks, recipe: Recipe, *, is_fixed: bool) -> list[Reads]:
    """Return what is read: for the sums of the channels or the sample, by some solvers for each epoch, to project."""
    if is_fixed:
        return [blocks.reads(2)]
    epochs = recipe.max_epochs if recipe.solver == BLOCKWISE else 0
    return [look(blocks), blocks.reads(2 + min(1, epochs), most=2 + epochs)]


@dataclass(frozen=True)
class _Fit:
    loss: Loss
    factors: Array

    def __call__(self, counts: Csr) -> tuple[Array, Array]:
        return self.loss.fit(counts, self.factors)


def _check_options(
    solver: str, loss: str | None, noise: str | None, restarts: int, max_epochs: int, fit_pixels: int, seed: int
) -> None:
    check_noise(noise)
    for what, value, known in (("solver", solver, SOLVERS), ("loss", loss or LOSSES[0], LOSSES)):
        if value not in known:
            expected = f"one of {', '.join(known)}"
            raise ParameterError(what, found=repr(value), expected=expected, fix=f"{what}={known[0]!r}")
    for what, number in (("restarts", restarts), ("max_epochs", max_epochs), ("fit_pixels", fit_pixels)):
        if number < 1:
            raise ParameterError(what, found=number, expected="at least 1", fix=f"leave {what} out for the default")
    if not 0 <= seed < 2**32 - restarts:
        raise ParameterError("seed", found=seed, expected="0 to 2**32 - 1, restarts included", fix="seed=0")


def _check_loss(loss: str | None, solver: str, blocks: Blocks) -> str:
    """Return the loss, by default the likelihood that suits the solver wherever it can be had."""
    if loss in (MIXTURE, POISSON_LIKELIHOOD) and not blocks.are_counts:
        raise CountsError(
            "counts", found=f"dtype {blocks.source.dtype}", expected="integers, for a likelihood of counts",
            fix="loss='frobenius', or counts as they were measured",
        )  # fmt: skip
    if loss == MIXTURE and solver == BLOCKWISE:
        raise ParameterError(
            "loss",
            found=f"{loss!r} with the solver {solver!r}",
            expected=f"{POISSON_LIKELIHOOD!r} or {FROBENIUS!r}, or the solver {SAMPLE!r}",
            fix=f"solver={SAMPLE!r}",
        )
    if loss not in (None, FROBENIUS) and solver == MINIBATCH:
        raise ParameterError(
            "loss",
            found=f"{loss!r} with the solver {solver!r}",
            expected=f"{FROBENIUS!r}, or the solver {SAMPLE!r} or {BLOCKWISE!r}",
            fix=f"solver={SAMPLE!r}",
        )
    if loss is not None or not blocks.are_counts:
        return loss or FROBENIUS
    return {SAMPLE: MIXTURE, BLOCKWISE: POISSON_LIKELIHOOD}.get(solver, FROBENIUS)


def _given(
    ds: xr.Dataset, blocks: Blocks, given: xr.Dataset | None, what: str, n_components: int | None
) -> tuple[Start, int]:
    """Return what a given result has to offer for the channels that are analysed, and the number of components."""
    if given is None:
        if n_components is None:
            raise ParameterError(
                "number of components", found="none", expected="how many phases there are",
                fix="n_components=advise_components(pca(ds)).n_components",
            )  # fmt: skip
        return Start(), n_components
    schema.require(given, schema.FACTORS)
    check_same_axes(ds, given[[schema.FACTORS]], what=what)
    factors = given[schema.FACTORS].values.astype(np.float64)
    if blocks.channels is not None:
        factors = factors[:, blocks.channels]
    if not np.all(np.isfinite(factors)):
        raise ParameterError(
            what,
            found="NaN or infinite values in channels that are analysed",
            expected="finite factors",
            fix="leave those channels out of the map too: exclude(ds, energy=...)",
        )
    if what == "start" and given.attrs.get(schema.STEP) == schema.PCA:
        if n_components is None or n_components > len(factors):
            raise ParameterError(
                "number of components", found=n_components, expected=f"1 to {len(factors)}, as many as the PCA has",
                fix=f"n_components={min(4, len(factors))}",
            )  # fmt: skip
        return Start(principal=factors[:n_components]), n_components
    if np.any(factors < 0) or not np.all(np.any(factors > 0, axis=1)):
        raise ParameterError(
            what,
            found="negative values" if np.any(factors < 0) else "a component that is zero everywhere",
            expected="non-negative factors, each with counts in some channel",
            fix="take the factors of an NMF",
        )
    if n_components not in (None, len(factors)):
        raise ParameterError(
            "number of components", found=n_components, expected=f"{len(factors)}, those of {what}",
            fix="leave n_components out",
        )  # fmt: skip
    return Start(factors=factors), len(factors)


def _identity(given: xr.Dataset) -> str:
    """What a given result is called in the parameters: its id, or where it has none a digest of its factors."""
    digest = hashlib.sha256(np.ascontiguousarray(given[schema.FACTORS].values, np.float64).tobytes()).hexdigest()
    return str(given.attrs.get(schema.RESULT_ID, digest[:32]))


def _fixed(blocks: Blocks, factors: Array, loss: str, noise: str | None, how: Plan) -> FactorFit:
    sums = sum_channels(blocks, how=how)
    check_not_empty(sums)
    return FactorFit(factors, [], [], 0, 0, loss_of(loss, noise, sums))
