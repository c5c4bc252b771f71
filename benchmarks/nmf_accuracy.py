"""How close do the NMF solvers come to the truth, beside scikit-learn's Kullback-Leibler NMF of the whole map?

    python -m benchmarks nmf_accuracy [--quick] [--json nmf_accuracy.json]

Synthetic rocks of 4 phases, in bands and in grains that are blurred into each other, at several doses and seeds.
Spectra are matched to the true ones; their error is the angle (rad) between them, the worst component and the mean.
Maps are compared with the true shares by the squared correlation R2, mean over components. Medians over seeds count.

scikit-learn has the whole map in memory and starts from the spectra that our solvers start from, with the loadings
that fit them best. Of all numbers of passes in a schedule the one with the least worst angle to the truth counts, which
in real life nobody knows. (From even loadings the first passes would spoil the start: a contestant too easily beaten.)
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import repeat
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from sklearn.decomposition import non_negative_factorization
from sklearn.exceptions import ConvergenceWarning

import eds_chunked as edc
from benchmarks.machine import machine
from eds_chunked import memory, schema
from eds_chunked.decomposition.fitting import SAMPLE, Recipe, Start, fit_factors, fit_need
from eds_chunked.decomposition.losses import MIXTURE
from eds_chunked.decomposition.scaling import POISSON, nonzero_or_one
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.dose import filled_channels, mean_counts
from eds_chunked.errors import ParameterError
from eds_chunked.kernels.sparse import Csr, from_dense, to_dense

Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]

N_PHASES = 4
SOLVERS: dict[str, dict[str, str]] = {
    "default": {},
    "sample, poisson": {"loss": "poisson"},
    "blockwise, frobenius": {"solver": "blockwise", "loss": "frobenius"},
    "blockwise, poisson": {"solver": "blockwise", "loss": "poisson"},
}
SKLEARN = "scikit-learn KL"
TEXTURES: dict[str, dict[str, Any]] = {
    "banded": {"texture": "banded"},
    "mixed": {"texture": "grains", "grain_size": 12.0, "blur": 1.5},
}
DOSES = (18.0, 100.0, 400.0)
MARGIN = 0.005
"""How much worse than scikit-learn's the angle (rad) and R2 may be."""
_FITTING_UPDATES = 50
_FIT_PIXELS = 131072


@dataclass(frozen=True)
class Size:
    """How large the rocks are, how many, and after which passes scikit-learn is looked at."""

    shape: Shape
    seeds: int
    passes: tuple[int, ...]


FULL = Size((200, 256, 1024), 5, (1, 2, 3, 5, 10, 20, 40, 80, 160))
QUICK = Size((72, 90, 512), 2, (1, 2, 3, 5, 10, 20, 40))


@dataclass(frozen=True)
class Problem:
    """One rock."""

    dose: float
    texture: str
    seed: int
    shape: Shape


@dataclass(frozen=True)
class Score:
    """Angles to the true spectra (rad), R2 of the maps, scikit-learn's best number of passes; or why there are none."""

    worst: float = float("nan")
    mean: float = float("nan")
    r2: float = float("nan")
    passes: int = 0
    failed: str = ""


# ------------------------------------------------------------------------------------------------ the problem
class Phantom:
    """A rock in memory: its counts as a map and as a matrix, and its truth.

    Attributes
    ----------
    spectra
        (phases, channels) true.
    shares
        (pixels, phases) true.
    """

    def __init__(self, problem: Problem) -> None:
        rock = edc.synthetic.rock(
            problem.shape,
            counts_per_pixel=problem.dose,
            n_phases=N_PHASES,
            energy_scale=0.01 * 2048 / problem.shape[2],
            seed=problem.seed,
            **TEXTURES[problem.texture],
        )
        height = problem.shape[0]
        (band,) = rock.bands(height)
        assert isinstance(band.counts, Csr)
        self.counts = to_dense(band.counts).reshape(problem.shape)
        self.seed = problem.seed
        self.spectra = rock.spectra
        self.shares = rock.mixture(0, height).reshape(-1, N_PHASES)

    def dataset(self, order: Array | None = None) -> xr.Dataset:
        """Return the map, its pixels in another order where one is given."""
        height, width, n_channels = self.counts.shape
        counts = self.counts if order is None else self.counts.reshape(-1, n_channels)[order].reshape(self.counts.shape)
        axes = (schema.Y, height, "pixel"), (schema.X, width, "pixel"), (schema.ENERGY, n_channels, schema.KEV)
        return xr.Dataset(
            {schema.COUNTS: (schema.VARIABLES[schema.COUNTS].dims, counts)},
            coords={name: (name, np.arange(length, dtype=float), {"units": unit}) for name, length, unit in axes},
        )

    def rows(self) -> Any:
        """Return all pixels as float32 CSR."""
        counts = from_dense(self.counts.reshape(-1, self.counts.shape[2]))
        parts = counts.value.astype(np.float32), counts.channel.astype(np.int32), counts.indptr.astype(np.int32)
        return sparse.csr_matrix(parts, shape=(counts.n_pixels, counts.n_channels))

    def start(self) -> Array:
        """Return the spectra that our solvers start from: (components, channels), counts."""
        ds = self.dataset()
        blocks = blocks_of(ds)
        # As nmf does, but for the epochs.
        recipe = Recipe(
            N_PHASES, SAMPLE, MIXTURE, POISSON, max_epochs=0, fit_pixels=_FIT_PIXELS, restarts=1, early_stop=True,
            seed=self.seed,
        )  # fmt: skip
        how = memory.plan(fit_need(recipe, blocks, filled_channels(ds, blocks)))
        return fit_factors(blocks, recipe, Start(), mean_counts=mean_counts(blocks), how=how).factors


def cosines(found: Array, truth: Array) -> tuple[Array, Array]:
    """Match spectra to true ones; return for every true one the cosine and which was found."""
    unit_found, unit_truth = (rows / nonzero_or_one(np.linalg.norm(rows, axis=1))[:, None] for rows in (found, truth))
    table = unit_truth @ unit_found.T
    which = linear_sum_assignment(-table)[1]
    return np.clip(table[np.arange(len(truth)), which], -1, 1), which


def score(factors: Array, loadings: Array, phantom: Phantom, *, passes: int = 0) -> Score:
    """Compare spectra (components, channels) and maps (components, pixels) with the truth."""
    cosine, which = cosines(np.asarray(factors, float), phantom.spectra)
    angles = np.arccos(cosine)
    maps = np.asarray(loadings, float)[which]
    r2 = [_squared_correlation(one, true) for one, true in zip(maps, phantom.shares.T, strict=True)]
    return Score(float(angles.max()), float(angles.mean()), float(np.mean(r2)), passes)


def _squared_correlation(found: Array, truth: Array) -> float:
    found, truth = found - found.mean(), truth - truth.mean()
    squares = (found @ found) * (truth @ truth)
    return float((found @ truth) ** 2 / squares) if squares > 0 else 0.0


# ------------------------------------------------------------------------------------------------ the contestants
def factorise(ds: xr.Dataset, how: dict[str, Any]) -> xr.Dataset | str:
    """Run one of our solvers; return what it says where it is not there."""
    nmf: Callable[..., xr.Dataset] = edc.nmf
    try:
        return nmf(ds, n_components=N_PHASES, **how)
    except (ParameterError, TypeError) as error:
        return f"not there: {str(error).splitlines()[0]}"


def _ours(phantom: Phantom, how: dict[str, Any]) -> Score:
    result = factorise(phantom.dataset(), {"seed": phantom.seed, **how})
    if isinstance(result, str):
        return Score(failed=result)
    return score(result[schema.FACTORS].values, result[schema.LOADINGS].values.reshape(N_PHASES, -1), phantom)


def multiplicative(
    rows: Any, loadings: Array | None, factors: Array, n_updates: int, **how: Any
) -> tuple[Array, Array]:
    """Return loadings and factors after so many of scikit-learn's multiplicative updates (Kullback-Leibler)."""
    with warnings.catch_warnings():
        # It is stopped on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        W, H, _ = non_negative_factorization(
            rows,
            W=loadings,
            H=factors.astype(np.float32),
            n_components=len(factors),
            init="custom",
            solver="mu",
            beta_loss="kullback-leibler",
            tol=0,
            max_iter=n_updates,
            **how,
        )
    return W, H


def fitted_loadings(rows: Any, factors: Array) -> Array:
    """Return loadings (pixels, components) of given factors: scikit-learn's updates with the factors held."""
    return multiplicative(rows, None, factors, _FITTING_UPDATES, update_H=False)[0]


def _sklearn(phantom: Phantom, schedule: Sequence[int]) -> Score:
    """Return the best of scikit-learn over the schedule, of which the rest is left out after two worse ones in turn."""
    rows, factors = phantom.rows(), phantom.start()
    loadings = fitted_loadings(rows, factors)
    best, done, worse = Score(worst=np.inf), 0, 0
    for passes in schedule:
        loadings, factors = multiplicative(rows, loadings, factors, passes - done)
        done = passes
        here = score(factors, loadings.T, phantom, passes=passes)
        worse = 0 if here.worst < best.worst else worse + 1
        if not worse:
            best = here
        elif worse == 2:
            break
    return best


def scores(problem: Problem, schedule: Sequence[int]) -> dict[str, Score]:
    """Return the scores of all contestants on one rock."""
    phantom = Phantom(problem)
    return {name: _ours(phantom, how) for name, how in SOLVERS.items()} | {SKLEARN: _sklearn(phantom, schedule)}


# ------------------------------------------------------------------------------------------------ telling
Found = dict[Problem, dict[str, Score]]


def medians(found: Found, dose: float, texture: str, name: str) -> Score:
    """Return the medians over the seeds; of a contestant that failed on one, that it failed."""
    its = [by[name] for problem, by in found.items() if (problem.dose, problem.texture) == (dose, texture)]
    failed = next((one.failed for one in its if one.failed), "")
    if failed:
        return Score(failed=failed)
    return Score(
        worst=median(one.worst for one in its),
        mean=median(one.mean for one in its),
        r2=median(one.r2 for one in its),
        passes=round(median(one.passes for one in its)),
    )


def table(found: Found) -> Iterator[str]:
    """Yield a Markdown table: medians, how they differ from scikit-learn's, and whether that will do."""
    yield "| counts a pixel | phantom | solver | worst angle | mean angle | R2 | worst | mean | R2 | |"
    yield "|---:|---|---|---:|---:|---:|---:|---:|---:|---|"
    for dose, texture in dict.fromkeys((problem.dose, problem.texture) for problem in found):
        theirs = medians(found, dose, texture, SKLEARN)
        label = f"| {dose:g} | {texture} |"
        for name in SOLVERS:
            ours = medians(found, dose, texture, name)
            if ours.failed:
                yield f"{label} {name} | {ours.failed} | | | | | | |"
                continue
            worst, mean, r2 = ours.worst - theirs.worst, ours.mean - theirs.mean, ours.r2 - theirs.r2
            passed = max(worst, mean) <= MARGIN and r2 >= -MARGIN
            yield (
                f"{label} {name} | {_figures(ours)} | {worst:+.4f} | {mean:+.4f} | {r2:+.4f} | "
                f"{'pass' if passed else '**fail**'} |"
            )
        yield f"{label} {SKLEARN} (passes: {theirs.passes}) | {_figures(theirs)} | | | | |"


def _figures(one: Score) -> str:
    return f"{one.worst:.4f} | {one.mean:.4f} | {one.r2:.4f}"


# ------------------------------------------------------------------------------------------------ command
def measure(problems: Sequence[Problem], schedule: Sequence[int], *, jobs: int) -> Found:
    """Score all contestants on all rocks, ``jobs`` of them at a time in processes of their own."""
    if jobs == 1:
        return _gathered(problems, map(scores, problems, repeat(schedule)))
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        return _gathered(problems, pool.map(scores, problems, repeat(schedule)))


def _gathered(problems: Sequence[Problem], each: Iterable[dict[str, Score]]) -> Found:
    found: Found = {}
    start = perf_counter()
    for problem, its in zip(problems, each, strict=True):
        found[problem] = its
        what = f"{problem.dose:g} counts, {problem.texture}, seed {problem.seed}"
        print(f"{what}: {perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks nmf_accuracy", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="small rocks and two seeds: a minute")
    parser.add_argument("--doses", type=lambda text: [float(dose) for dose in text.split(",")], default=DOSES)
    parser.add_argument("--textures", nargs="+", choices=TEXTURES, default=list(TEXTURES))
    parser.add_argument("--jobs", type=int, default=memory.n_cpus(), help="rocks at a time")
    parser.add_argument("--json", type=Path, help="file for the scores of every rock")
    given = parser.parse_args(arguments)
    size = QUICK if given.quick else FULL
    problems = [
        Problem(dose, texture, seed, size.shape)
        for dose in given.doses
        for texture in given.textures
        for seed in range(size.seeds)
    ]
    found = measure(problems, size.passes, jobs=given.jobs)
    about = machine()
    if given.json:
        entries = [
            {"problem": asdict(problem), "scores": {name: asdict(one) for name, one in its.items()}}
            for problem, its in found.items()
        ]
        given.json.write_text(json.dumps({"machine": about, "scores": entries}, indent=1))
    used = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    print(f"{' x '.join(map(str, size.shape))}, medians of {size.seeds} seeds; {used}.")
    print(f"Angles in rad; then the differences from {SKLEARN}, which may be {MARGIN} worse.\n")
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
