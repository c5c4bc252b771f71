"""Where a factorisation starts: the mean spectra of clusters of pixels."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import randomized_svd

from eds_chunked.decomposition.scaling import nonzero_or_one
from eds_chunked.errors import ParameterError
from eds_chunked.kernels.reduce import channel_sums, pixel_sums
from eds_chunked.kernels.sparse import Csr, scaled_values, take_pixels

Array = np.ndarray[Any, Any]

START_PIXELS = 32768
"""Pixels of a sample that are clustered."""
_CLUSTERS_A_COMPONENT = 8
_CHANNEL_FLOOR = 30
"""Counts that a channel needs, over the pixels that are clustered, to help tell them apart."""


@dataclass(frozen=True)
class ScaledSample:
    """A sample of counts as rows of the scaled matrix, made batch by batch: X_ij / (sqrt(a_i) root_j)."""

    counts: Csr
    root: Array
    by_pixel: bool

    @property
    def n_pixels(self) -> int:
        return self.counts.n_pixels

    def rows(self, first: int, last: int) -> Any:
        """Return pixels first to last as float32 CSR."""
        counts = take_pixels(self.counts, np.arange(first, min(last, self.n_pixels)))
        pixel_roots = np.sqrt(nonzero_or_one(pixel_sums(counts))) if self.by_pixel else np.ones(counts.n_pixels)
        values = scaled_values(counts, pixel_roots, self.root)
        return sparse.csr_array(
            (values, counts.channel.astype(np.int32), counts.indptr.astype(np.int32)),
            shape=(counts.n_pixels, counts.n_channels),
        )


def start_factors(sample: ScaledSample, n_components: int, *, seed: int, principal: Array | None = None) -> Array:
    """Return factors (components, channels) in counts, the mean spectra of k-means clusters of the scaled rows.

    Pixels are clustered by direction in the space of the first principal components, so that brightness does not count.
    Channels of too few counts are left out of that: at low dose they are most of the variance of the scaled rows, and
    all of it is noise.

    Parameters
    ----------
    sample
        Pixels, or sums of neighbours, in random order; the first 32 768 are clustered.
    principal
        Factors of a PCA (components, channels) in counts; without them a randomised SVD of the pixels gives the
        directions.

    References
    ----------
    Araujo et al. (2001), Chemometrics and Intelligent Laboratory Systems 57, 65: successive projections.
    """
    rows = sample.rows(0, START_PIXELS)
    lit = np.flatnonzero(np.diff(rows.indptr))
    if len(lit) < n_components:
        raise ParameterError(
            "number of components",
            found=n_components,
            expected=f"at most {len(lit)}, the pixels with counts among those that the spectra are fitted to",
            fix="choose fewer components, or a larger fit_pixels",
        )
    if principal is None:
        directions = _principal_directions(sample, rows, n_components, seed)
    else:
        directions = principal / sample.root
        directions /= nonzero_or_one(np.linalg.norm(directions, axis=1))[:, None]
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
    return np.asarray((factors + 1e-6 * factors.mean()) * sample.root)


def _principal_directions(sample: ScaledSample, rows: Any, n_components: int, seed: int) -> Array:
    counted = channel_sums(take_pixels(sample.counts, np.arange(rows.shape[0])))
    bright = np.flatnonzero(counted >= _CHANNEL_FLOOR)
    if len(bright) < 2 * n_components:
        bright = np.flatnonzero(counted)
    directions = np.zeros((n_components, rows.shape[1]))
    found = randomized_svd(rows[:, bright], min(n_components, len(bright)), n_iter=4, random_state=seed)[2]
    directions[: len(found), bright] = found
    return directions


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
