"""Any scikit-learn estimator that learns batch by batch, on a map of any size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, Literal, NamedTuple

import numpy as np
import xarray as xr
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import get_tags

from eds_chunked import schema
from eds_chunked.dask_cluster import on_one_worker
from eds_chunked.decomposition.channel_sums import sum_channels
from eds_chunked.decomposition.projection import ProjectWork
from eds_chunked.decomposition.result import template, variable
from eds_chunked.decomposition.scaling import POISSON, check_noise, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.engine.dose import filled_channels
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.output import begin_result
from eds_chunked.engine.planning import plan
from eds_chunked.engine.shuffle import pool_bytes, reads_of_batches, shuffled_batches
from eds_chunked.errors import EdsError, ParameterError
from eds_chunked.kernels.reduce import pixel_sums
from eds_chunked.kernels.sparse import Csr, take_pixels, to_dense
from eds_chunked.memory import Need, Plan

Array = np.ndarray[Any, Any]

_COPIES = 8
"""Times that an estimator may hold its batch: IncrementalPCA, which takes the singular value decomposition, does."""
_NAMED = ("n_components", "n_clusters")
"""Parameters that foretell how many values ``transform`` gives."""


class Decomposed(NamedTuple):
    """What :func:`decompose` gives: ``result, estimator = decompose(ds, MiniBatchNMF(4))``.

    Attributes
    ----------
    result
        Dataset with ``loadings`` (component, y, x; float32, lazy), what the estimator's ``transform`` says of every
        pixel, and where it has ``components_`` also ``factors`` (component, energy).
    estimator
        The fitted estimator; of the scaled counts if they were scaled.
    """

    result: xr.Dataset
    estimator: Any


def decompose(
    ds: xr.Dataset,
    estimator: Any,
    *,
    noise: Literal["poisson"] | None = None,
    epochs: int = 1,
    batch_size: int = 4096,
    seed: int = 0,
    name: str | None = None,
    memory: str | int | None = None,
) -> Decomposed:
    """Fit a scikit-learn estimator to a map and transform every pixel; computes.

    One pass sums the channels, one an epoch fits, and one transforms. The estimator is cloned and its ``partial_fit``
    called on batches of random pixels of the whole map, so that it does not matter where the phases lie; then
    ``transform`` gives the loadings, block by block. For principal components and non-negative factors
    :func:`eds_chunked.pca` and :func:`eds_chunked.nmf` are faster, and know when to stop.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), any selection of it; what :func:`eds_chunked.exclude` leaves out of it is
        neither fitted nor transformed.
    estimator
        Any with ``partial_fit`` and ``transform``: MiniBatchNMF, IncrementalPCA, MiniBatchDictionaryLearning,
        LatentDirichletAllocation, MiniBatchKMeans (the loadings are distances), ... It is left as it is. One that draws
        random numbers wants a ``random_state`` for the same answer every time.
    noise
        None takes the counts as they are; ``"poisson"`` scales as Keenan & Kotula. The scaling is undone in factors
        and loadings where the estimator has ``components_``.
    epochs
        Times that it sees all pixels.
    batch_size
        Most pixels of a batch; all batches are equal to a pixel.
    seed
        Seed of the order of the pixels. It follows from this and the map, never from chunks or workers.
    name
        Name of the run when the result is saved; by default the estimator's, in lower case.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Decomposed
        The pair of ``result`` and fitted ``estimator``. Factors are NaN in channels that are left out, loadings in
        such pixels. :func:`eds_chunked.reconstruct` takes the result if loadings . factors are what the estimator's
        ``inverse_transform`` gives: of MiniBatchNMF they are, of IncrementalPCA, which is centred, not.

    Raises
    ------
    ParameterError
        The estimator cannot learn in batches or cannot transform, or raises an error of its own, which is named.
    CountsError, MemoryBudgetError

    Notes
    -----
    Memory: the counts of 16 tiles twice, one batch eight times (as CSR in single or double precision where the
    estimator takes sparse input, else dense), and one block for each worker. What the estimator holds beyond its
    batches is not known.

    References
    ----------
    Pedregosa et al. (2011), Journal of Machine Learning Research 12, 2825; Keenan & Kotula (2004), Surface and
    Interface Analysis 36, 203.

    Examples
    --------
    >>> import eds_chunked as edc
    >>> from sklearn.decomposition import MiniBatchNMF
    >>> ds = edc.open("map.zarr").sel(energy=slice(0.2, 12))  # doctest: +SKIP
    >>> result, fitted = edc.decompose(ds, MiniBatchNMF(4, random_state=0), noise="poisson")  # doctest: +SKIP
    >>> edc.save(result, "map.zarr")  # doctest: +SKIP
    'decompose/minibatchnmf.r1'
    """
    check_noise(noise)
    _check_estimator(estimator)
    for what, value in (("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, Integral) or value < 1:
            raise ParameterError(what, found=value, expected="a whole number from 1 on", fix=f"leave {what} out")
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise ParameterError("seed", found=seed, expected="0 to 2**32 - 1", fix="seed=0")
    run = schema.check_run_name(type(estimator).__name__.lower() if name is None else name)
    blocks = blocks_of(ds, memory=memory)
    with _naming(estimator, "clone"):
        estimator = clone(estimator)
    said = schema.text(repr(estimator))
    rows = _Rows(np.ones(0), noise == POISSON, _takes_sparse(estimator, blocks.n_channels), _dtype(estimator))
    filled = filled_channels(ds, blocks)
    batch_bytes = rows.bytes_of(min(batch_size, blocks.n_used), blocks.n_channels, filled)
    to_fit = Need("decompose", pool_bytes(blocks, filled) + _COPIES * batch_bytes, blocks.bytes_of_a_block)
    to_transform = _transform_need(blocks, rows, filled, batch_size, _foretold(estimator))
    # The larger one first, so that the budget which a refusal names is enough for both.
    larger, smaller = sorted((to_fit, to_transform), key=lambda need: need.fixed + need.per_worker, reverse=True)
    reads = {to_transform: [blocks.reads()]} | {to_fit: [blocks.reads(), reads_of_batches(blocks, int(epochs))]}
    n_foretold = _foretold(estimator)
    plans = {
        need: plan(need, memory=memory, reads=reads[need], writes=writes, goes_on=need is larger)
        for need, writes in ((larger, 0), (smaller, template(ds, blocks, n_foretold).nbytes))
    }
    how = plans[to_fit]

    sums = sum_channels(blocks, how=how)
    check_not_empty(sums)
    root = np.sqrt(nonzero_or_one(sums)) if noise == POISSON else np.ones(blocks.n_channels)
    rows = replace(rows, root=root)
    estimator, pixel = on_one_worker(
        _learned, estimator, blocks, rows, epochs=epochs, batch_size=int(batch_size), seed=int(seed), how=how
    )

    n_values = _transformed(estimator, pixel).shape[1]
    factors = _factors(estimator, n_values, blocks.n_channels)
    if factors is None and n_values >= blocks.n_channels:
        raise ParameterError(
            f"estimator {type(estimator).__name__}",
            found=f"{n_values} values a pixel for {blocks.n_channels} channels",
            expected="a few",
            fix="take an estimator that finds components or clusters; noise='poisson' scales the counts",
        )
    parameters = {
        "estimator": said,
        "noise": noise,
        "epochs": int(epochs),
        "batch_size": int(batch_size),
        "seed": int(seed),
        "is_product": factors is not None and _is_product(estimator, factors),
    }
    result = template(ds, blocks, n_values)
    if factors is None:
        result = result.drop_vars(schema.FACTORS)
    else:
        result[schema.FACTORS] = variable(schema.FACTORS, blocks.spread(factors * root))
    needed = _transform_need(blocks, rows, filled, batch_size, n_values)
    how = plans[to_transform] if needed == to_transform else plan(needed, memory=memory)
    draft = begin_result(ds, schema.DECOMPOSE, run, result, parameters, blocks)
    fit = _Transform(estimator, rows, int(batch_size), undo_scaling=factors is not None)
    run_pass(blocks, ProjectWork(draft.target(schema.LOADINGS), n_values, fit), np.add, plan=how)
    return Decomposed(draft.open(), estimator)


def _learned(
    estimator: Any, blocks: Blocks, rows: _Rows, *, epochs: int, batch_size: int, seed: int, how: Plan
) -> tuple[Any, Any]:
    """Have an estimator see all pixels, and return it, and the row of one of them; on a cluster one worker does."""
    pixel: Any = None
    for epoch in range(epochs):
        for batch in shuffled_batches(blocks, size=batch_size, seed=seed, epoch=epoch, plan=how):
            given = rows.of(batch.counts)
            pixel = given[:1].copy()
            with _naming(estimator, "partial_fit"):
                estimator.partial_fit(given)
            del given, batch
    return estimator, pixel


@dataclass(frozen=True)
class _Rows:
    """How an estimator is given counts: X_ij / (sqrt(a_i) root_j), as CSR or dense."""

    root: Array
    poisson: bool
    is_sparse: bool
    dtype: np.dtype[Any]

    def pixel_roots(self, counts: Csr) -> Array:
        """Return sqrt(a_i), by which rows are divided."""
        return np.sqrt(nonzero_or_one(pixel_sums(counts))) if self.poisson else np.ones(counts.n_pixels)

    def of(self, counts: Csr) -> Any:
        """Return the rows of some pixels."""
        if not self.is_sparse:
            dense = to_dense(counts, self.dtype)
            if self.poisson:
                dense /= self.root.astype(self.dtype)
                dense /= self.pixel_roots(counts).astype(self.dtype)[:, None]
            return dense
        values = counts.value.astype(self.dtype)
        if self.poisson:
            values /= self.root.astype(self.dtype)[counts.channel]
            values /= np.repeat(self.pixel_roots(counts).astype(self.dtype), np.diff(counts.indptr))
        return sparse.csr_array(
            (values, counts.channel.astype(np.int32), counts.indptr.astype(np.int32)),
            shape=(counts.n_pixels, counts.n_channels),
        )

    def bytes_of(self, n_pixels: int, n_channels: int, filled: float) -> int:
        """Return the bytes of the rows of so many pixels."""
        a_pixel = filled * (4 + self.dtype.itemsize) if self.is_sparse else n_channels * self.dtype.itemsize
        return int(n_pixels * a_pixel)


@dataclass(frozen=True)
class _Transform:
    """What the estimator says of the pixels of a block, a batch at a time; pixels that are left out are zeros."""

    estimator: Any
    rows: _Rows
    batch_size: int
    undo_scaling: bool

    def __call__(self, counts: Csr) -> tuple[Array, Array]:
        parts = [
            _transformed(self.estimator, self.rows.of(take_pixels(counts, np.arange(first, last))))
            for first in range(0, counts.n_pixels, self.batch_size)
            for last in (min(first + self.batch_size, counts.n_pixels),)
        ]
        loadings = np.concatenate(parts)
        if self.undo_scaling:
            loadings = loadings * self.rows.pixel_roots(counts)[:, None]
        return loadings, np.zeros(0)


def _check_estimator(estimator: Any) -> None:
    if isinstance(estimator, type):
        raise ParameterError(
            "estimator",
            found=f"the class {estimator.__name__}",
            expected="one made of it",
            fix=f"{estimator.__name__}()",
        )
    missing = [name for name in ("get_params", "partial_fit", "transform") if not hasattr(estimator, name)]
    if missing:
        raise ParameterError(
            f"estimator {type(estimator).__name__}",
            found=f"no {' and no '.join(missing)}",
            expected="a scikit-learn estimator that learns in batches (partial_fit) and has transform",
            fix="take one such as MiniBatchNMF, IncrementalPCA or MiniBatchKMeans",
        )


def _takes_sparse(estimator: Any, n_channels: int) -> bool:
    """Tell whether ``partial_fit`` takes CSR: as the tags say, and tried, since IncrementalPCA's ``fit`` alone does."""
    if not hasattr(estimator, "__sklearn_tags__") or not get_tags(estimator).input_tags.sparse:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            clone(estimator).partial_fit(sparse.csr_array(np.ones((1, n_channels), np.float32)))
    except TypeError:
        return False
    except Exception:
        return True  # Of one pixel few can learn.
    return True


def _dtype(estimator: Any) -> np.dtype[Any]:
    """Single precision where the estimator keeps it; others would make a copy in double precision."""
    tags = get_tags(estimator).transformer_tags if hasattr(estimator, "__sklearn_tags__") else None
    return np.dtype(np.float32 if tags is not None and "float32" in tags.preserves_dtype else np.float64)


def _foretold(estimator: Any) -> int:
    given = estimator.get_params(deep=False)
    return max(1, *(int(given[name]) for name in _NAMED if isinstance(given.get(name), Integral)), 1)


def _transform_need(blocks: Blocks, rows: _Rows, filled: float, batch_size: int, n_values: int) -> Need:
    """Memory of the last pass: for each worker a block, its rows as the estimator holds them, and a lane of maps."""
    tile_rows, tile_columns, _ = blocks.source.tile
    of_batch = rows.bytes_of(min(batch_size, tile_rows * tile_columns), blocks.n_channels, filled)
    of_lane = 4 * n_values * blocks.lane_side**2
    return Need("decompose", 0, blocks.bytes_of_a_block + _COPIES // 2 * of_batch + of_lane)


def _transformed(estimator: Any, given: Any) -> Array:
    """Return (pixels, values) of ``transform``."""
    with _naming(estimator, "transform"):
        values = estimator.transform(given)
    values = np.asarray(values.toarray() if sparse.issparse(values) else values)
    if values.ndim != 2 or len(values) != given.shape[0]:
        raise ParameterError(
            f"estimator {type(estimator).__name__}, transform",
            found=f"an array of shape {values.shape} for {given.shape[0]} pixels",
            expected="one row a pixel",
            fix="take a transformer as scikit-learn has them",
        )
    return values


def _factors(estimator: Any, n_values: int, n_channels: int) -> Array | None:
    """Return ``components_`` where there is one for each value of ``transform``."""
    found = getattr(estimator, "components_", None)
    if found is None or np.shape(found) != (n_values, n_channels):
        return None
    return np.asarray(found, np.float64)


def _is_product(estimator: Any, factors: Array) -> bool:
    """Tell whether loadings . factors are the counts: whether ``inverse_transform`` of each loading is its factor."""
    if not hasattr(estimator, "inverse_transform"):
        return False
    back = np.asarray(estimator.inverse_transform(np.eye(len(factors))))
    return back.shape == factors.shape and bool(
        np.allclose(back, factors, rtol=1e-4, atol=1e-6 * np.abs(factors).max())
    )


@contextmanager
def _naming(estimator: Any, method: str) -> Iterator[None]:
    """Name the estimator in an error that it raises."""
    try:
        yield
    except (EdsError, MemoryError):
        raise
    except Exception as error:
        raise ParameterError(
            f"estimator {type(estimator).__name__}, {method}",
            found=f"{type(error).__name__}: {schema.text(error)}",
            expected="no error",
            fix="its parameters, or batch_size, noise or the selection, as the error says",
        ) from error
