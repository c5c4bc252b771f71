"""Non-negative factors from a shuffled sample, by scikit-learn's MiniBatchNMF."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.decomposition import MiniBatchNMF
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import randomized_svd

from eds_chunked.decomposition.scaling import nonzero_or_one
from eds_chunked.errors import ParameterError
from eds_chunked.kernels.nnls import solve_nonnegative
from eds_chunked.kernels.reduce import pixel_sums
from eds_chunked.kernels.sparse import Csr, scaled_values, take_pixels

Array = np.ndarray[Any, Any]

BATCH_SIZE = 4096
START_PIXELS = 32768
_CLUSTERS_A_COMPONENT = 8
_MEMORY_OF_AN_EPOCH = 0.7
"""Share of the past that an epoch keeps. Forgetting is per batch in scikit-learn; at 0.7 a batch, its default, an epoch
would remember three batches."""


@dataclass(frozen=True)
class ScaledSample:
    """A sample of counts as rows of the scaled matrix, made batch by batch: X_ij / (sqrt(a_i) root_j)."""

    counts: Csr
    root: Array
    poisson: bool

    @property
    def n_pixels(self) -> int:
        return self.counts.n_pixels

    def pixel_roots(self, counts: Csr) -> Array:
        """Return sqrt(a_i) of pixels of the sample, by which their rows are divided."""
        return np.sqrt(nonzero_or_one(pixel_sums(counts))) if self.poisson else np.ones(counts.n_pixels)

    def rows(self, first: int, last: int) -> Any:
        """Return pixels first to last as float32 CSR."""
        counts = take_pixels(self.counts, np.arange(first, min(last, self.n_pixels)))
        values = scaled_values(counts, self.pixel_roots(counts), self.root)
        return sparse.csr_array(
            (values, counts.channel.astype(np.int32), counts.indptr.astype(np.int32)),
            shape=(counts.n_pixels, counts.n_channels),
        )


def start_factors(rows: Any, n_components: int, seed: int) -> tuple[Array, float]:
    """Return factors (components, channels) of unit length, the mean spectra of k-means clusters of the scaled rows.

    Pixels are clustered by direction in the space of the first components, so that brightness does not count. The
    second value is the largest singular value of the rows.

    References
    ----------
    Araujo et al. (2001), Chemometrics and Intelligent Laboratory Systems 57, 65: successive projections.
    """
    lit = np.flatnonzero(np.diff(rows.indptr))
    if len(lit) < n_components:
        raise ParameterError(
            "number of components",
            found=n_components,
            expected=f"at most {len(lit)}, the pixels with counts among those that the spectra are fitted to",
            fix="choose fewer components, or a larger fit_pixels",
        )
    _, singular, directions = randomized_svd(rows, n_components, n_iter=4, random_state=seed)
    scores = np.asarray(rows @ directions.T)
    towards = scores[lit] / nonzero_or_one(np.linalg.norm(scores[lit], axis=1))[:, None]
    with warnings.catch_warnings():
        # Fewer different pixels than clusters: some stay empty, and their factors come out as nothing.
        warnings.simplefilter("ignore", ConvergenceWarning)
        labels = _cluster(towards, n_components, seed)
    member = sparse.csr_array((np.ones(len(lit)), (labels, lit)), shape=(n_components, rows.shape[0]))
    factors = np.asarray((member @ rows).todense(), np.float64)
    factors /= nonzero_or_one(np.linalg.norm(factors, axis=1))[:, None]
    # A multiplicative update never leaves zero.
    return factors + 1e-6 * factors.mean(), float(singular[0])


def _cluster(towards: Array, n_clusters: int, seed: int) -> Array:
    """Cluster directions by k-means, started from the extremes of many small clusters.

    Alone, k-means would rather split a large noisy phase again than find a small one. Among centres of many clusters,
    which noise hardly moves, successive projection takes those that are farthest from all that it has taken.
    """
    n_many = min(_CLUSTERS_A_COMPONENT * n_clusters, len(towards))
    centres = KMeans(n_many, n_init=1, random_state=seed).fit(towards).cluster_centers_
    extremes: list[int] = []
    rest = centres.copy()
    for _ in range(n_clusters):
        farthest = int(np.argmax(np.sum(rest**2, axis=1)))
        extremes.append(farthest)
        direction = rest[farthest] / max(float(np.linalg.norm(rest[farthest])), np.finfo(float).tiny)
        rest -= np.outer(rest @ direction, direction)
    return np.asarray(KMeans(n_clusters, init=centres[extremes], n_init=1).fit_predict(towards))


def fit_minibatch(sample: ScaledSample, n_components: int, *, max_epochs: int, seed: int) -> tuple[Array, list[float]]:
    """Fit factors (components, channels) to the scaled sample.

    Returns
    -------
    The factors, falling by share of the counts of the sample, and after the start and each epoch the share of the sum
    of squares of the sample's first pixels that they leave unexplained.
    """
    judged = sample.rows(0, START_PIXELS)
    factors, singular = start_factors(judged, n_components, seed)
    # scikit-learn starts the sums of its update with the start itself at weight one. With the largest singular value
    # of the sample at one, the start weighs as much as one epoch: enough to keep the factors from drifting into the
    # noise, which full convergence does.
    strength = singular * np.sqrt(sample.n_pixels / judged.shape[0])
    sample = replace(sample, root=sample.root * strength)
    judged /= strength
    batch = min(BATCH_SIZE, sample.n_pixels)
    estimator = MiniBatchNMF(
        n_components,
        init="custom",
        batch_size=batch,
        forget_factor=_MEMORY_OF_AN_EPOCH ** (batch / sample.n_pixels),
        random_state=seed,
    )
    objective = [_unexplained(judged, factors)[0]]
    for _ in range(max_epochs):
        for first in range(0, sample.n_pixels, batch):
            rows = sample.rows(first, first + batch)
            # scikit-learn wants a W beside the first H, and solves for its own.
            start = {} if hasattr(estimator, "components_") else {
                "W": np.ones((rows.shape[0], n_components), np.float32), "H": factors.astype(np.float32)
            }  # fmt: skip
            estimator.partial_fit(rows, **start)
        objective.append(_unexplained(judged, estimator.components_)[0])
    factors = estimator.components_.astype(np.float64)
    # Rows of bright pixels were divided by more: their loadings count for more counts.
    loadings = _unexplained(judged, factors)[1]
    pixel_roots = sample.pixel_roots(take_pixels(sample.counts, np.arange(judged.shape[0])))
    weights = (pixel_roots @ loadings) * (factors @ sample.root)
    return factors[np.argsort(-weights, kind="stable")], objective


def _unexplained(rows: Any, factors: Array) -> tuple[float, Array]:
    """Return the share of the rows' squares that the best non-negative fit leaves, and its loadings (pixels, k)."""
    factors = np.asarray(factors, np.float64)
    gram = factors @ factors.T
    target = np.asarray(rows @ factors.T, np.float64)
    loadings = solve_nonnegative(gram, target)
    squares = float(rows.power(2).sum(dtype=np.float64))
    fitted = float(np.sum(loadings * (loadings @ gram - 2 * target)))
    return 1 + fitted / squares, loadings
