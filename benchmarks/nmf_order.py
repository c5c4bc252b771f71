"""Does NMF depend on the order of the pixels, does it do what scikit-learn does, and does it find the true spectra?

    python -m benchmarks nmf_order [--shape 200x256x1024] [--doses 18,100]

A banded rock of 4 phases, for every solver the least cosine over the components of three comparisons:

- order: the same start and number of passes, the pixels in bands and in random order (to reach: 0.999);
- oracle: the same start and number of passes as scikit-learn with the whole map in memory (0.99); it has nothing like
  the mixture of the default;
- fitted: for the Poisson loss the same, with scikit-learn's loadings fitted anew before each update of the spectra, as
  ours are; scikit-learn by itself updates both once a pass, which is another way through the same valley (0.99);
- truth: left to itself, with the true spectra (0.99).
"""

from __future__ import annotations

import argparse
import platform
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from sklearn.decomposition import MiniBatchNMF, non_negative_factorization
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import randomized_svd

from benchmarks.nmf_accuracy import (
    SOLVERS,
    Phantom,
    Problem,
    Shape,
    cosines,
    factorise,
    fitted_loadings,
    multiplicative,
)
from eds_chunked import schema
from eds_chunked.decomposition.minibatch import BATCH_SIZE
from eds_chunked.decomposition.scaling import nonzero_or_one
from eds_chunked.store.provenance import versions

Array = np.ndarray[Any, Any]

SHAPE = (200, 256, 1024)
DOSES = (18.0, 100.0)
GOALS = {"order": 0.999, "oracle": 0.99, "fitted": 0.99, "truth": 0.99}
_EPOCHS = 3
"""Passes of mini-batches where they are compared."""
_MEMORY_OF_AN_EPOCH = 0.7
_PASSES = 10
"""Passes of the others."""
_FITTING_UPDATES = 50


# ------------------------------------------------------------------------------------------------ scikit-learn
def _scaled(rows: Any) -> tuple[Any, Array]:
    """Return the Poisson-scaled rows, and the roots of the sums of the channels."""
    by_pixel, by_channel = (np.sqrt(nonzero_or_one(np.asarray(rows.sum(axis=axis)).ravel())) for axis in (1, 0))
    scaled = rows.copy()
    scaled.data = np.float32(1) * scaled.data / (np.repeat(by_pixel, np.diff(rows.indptr)) * by_channel[rows.indices])
    return scaled.astype(np.float32), by_channel


def _minibatch_oracle(rows: Any, start: Array) -> Array:
    scaled, root = _scaled(rows)
    # The start weighs as much as an epoch, as in ours.
    scaled /= randomized_svd(scaled, 1, n_iter=4, random_state=0)[1][0]
    estimator = MiniBatchNMF(
        len(start),
        init="custom",
        batch_size=BATCH_SIZE,
        forget_factor=_MEMORY_OF_AN_EPOCH ** (BATCH_SIZE / rows.shape[0]),
        max_iter=_EPOCHS,
        random_state=0,
        tol=0,
        max_no_improvement=None,
    )
    H = start / root
    H /= np.linalg.norm(H, axis=1)[:, None]
    estimator.fit_transform(scaled, W=np.ones((rows.shape[0], len(start)), np.float32), H=H.astype(np.float32))
    return np.asarray(estimator.components_ * root)


def _frobenius_oracle(rows: Any, start: Array) -> Array:
    scaled, root = _scaled(rows)
    H = start / root
    H = np.asarray(H / np.linalg.norm(H, axis=1)[:, None], np.float32)
    how: dict[str, Any] = {"n_components": len(start), "init": "custom", "solver": "cd", "tol": 0}
    # Loadings that do not fit the start would spoil it in the first pass.
    W = non_negative_factorization(scaled, H=H, update_H=False, max_iter=_FITTING_UPDATES, **how)[0]
    H = non_negative_factorization(scaled, W=W, H=H, max_iter=_PASSES, **how)[1]
    return np.asarray(H * root)


def _poisson_oracle(rows: Any, start: Array) -> Array:
    return multiplicative(rows, fitted_loadings(rows, start), start, _PASSES)[1]


def _fitted_poisson_oracle(rows: Any, start: Array) -> Array:
    factors = start
    for _ in range(_PASSES):
        factors = multiplicative(rows, fitted_loadings(rows, factors), factors, 1)[1]
    return factors


@dataclass(frozen=True)
class Contestant:
    """One of our solvers, what scikit-learn does that is like it, if anything, and in how many passes."""

    how: dict[str, Any]
    oracle: Callable[[Any, Array], Array] | None
    passes: int


CONTESTANTS = {
    "default": Contestant({}, None, _PASSES),
    "minibatch": Contestant({"solver": "minibatch"}, _minibatch_oracle, _EPOCHS),
    "blockwise, frobenius": Contestant(SOLVERS["blockwise, frobenius"], _frobenius_oracle, _PASSES),
    "blockwise, poisson": Contestant(SOLVERS["blockwise, poisson"], _poisson_oracle, _PASSES),
}


# ------------------------------------------------------------------------------------------------ ours
def _start_result(ds: xr.Dataset, factors: Array) -> xr.Dataset:
    """Return factors as a result that ``nmf`` can start from."""
    entry = schema.VARIABLES[schema.FACTORS].dims, factors, schema.attributes(schema.FACTORS)
    return xr.Dataset(
        {schema.FACTORS: entry},
        coords={schema.ENERGY: ds[schema.ENERGY], schema.COMPONENT: np.arange(1, len(factors) + 1)},
    )


def figures(phantom: Phantom, name: str) -> dict[str, float | str]:
    """Return the least cosine of each comparison for one solver, or why there is none."""
    one = CONTESTANTS[name]
    start = phantom.start()
    ds, mixed = phantom.dataset(), phantom.dataset(np.random.default_rng(1).permutation(len(phantom.shares)))
    # As many passes each, or an early stop at the start would have the start compared with itself.
    given = one.how | {"start": _start_result(ds, start), "max_epochs": one.passes, "early_stop": False}
    in_bands = factorise(ds, given)
    pairs = {
        "order": (in_bands, factorise(mixed, given)),
        "oracle": (in_bands, one.oracle(phantom.rows(), start) if one.oracle else ""),
        "fitted": (in_bands, _fitted_poisson_oracle(phantom.rows(), start) if one.oracle is _poisson_oracle else ""),
        "truth": (factorise(ds, one.how), phantom.spectra),
    }
    return {what: _least_cosine(*pair) for what, pair in pairs.items()}


def _least_cosine(*pair: xr.Dataset | Array | str) -> float | str:
    spectra = []
    for one in pair:
        if isinstance(one, str):
            return one
        spectra.append(one[schema.FACTORS].values if isinstance(one, xr.Dataset) else one)
    return float(cosines(spectra[0], spectra[1])[0].min())


# ------------------------------------------------------------------------------------------------ telling
def table(shape: Shape, doses: Sequence[float]) -> Iterator[str]:
    """Yield a Markdown table, cosines that miss their goal in bold."""
    yield f"| counts a pixel | solver | {' | '.join(f'{what} >= {goal}' for what, goal in GOALS.items())} |"
    yield "|---:|---|---:|---:|---:|---:|"
    for dose in doses:
        phantom = Phantom(Problem(dose, "banded", 0, shape))
        for name in CONTESTANTS:
            found = figures(phantom, name)
            print(f"{dose:g} counts, {name}", file=sys.stderr, flush=True)
            yield f"| {dose:g} | {name} | {' | '.join(_told(found[what], goal) for what, goal in GOALS.items())} |"


def _told(found: float | str, goal: float) -> str:
    if isinstance(found, str):
        return found
    return f"{found:.5f}" if found >= goal else f"**{found:.5f}**"


# ------------------------------------------------------------------------------------------------ command
def _shape(text: str) -> Shape:
    rows, columns, channels = (int(size) for size in text.split("x"))
    return rows, columns, channels


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks nmf_order", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", type=_shape, default=SHAPE, metavar="ROWSxCOLUMNSxCHANNELS")
    parser.add_argument("--doses", type=lambda text: [float(dose) for dose in text.split(",")], default=DOSES)
    given = parser.parse_args(arguments)
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    print(f"{' x '.join(map(str, given.shape))}, banded; Python {platform.python_version()}, {used}.\n")
    with warnings.catch_warnings():
        # scikit-learn is stopped on purpose.
        warnings.simplefilter("ignore", ConvergenceWarning)
        print("\n".join(table(given.shape, given.doses)))


if __name__ == "__main__":
    main()
