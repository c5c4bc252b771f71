"""Exact PCA from the Gram matrix, summed in one pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy import linalg
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from eds_chunked.decomposition.gram_pass import GramSums, GramWork, join_gram
from eds_chunked.decomposition.noise_edge import noise_edge, unit_noise
from eds_chunked.decomposition.scaling import POISSON, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.lanes import run_pass
from eds_chunked.kernels.gram import MOST_COLUMNS, symmetrise
from eds_chunked.memory import Need, Plan

Array = np.ndarray[Any, Any]


class PrincipalFit(NamedTuple):
    """A fitted PCA. ``projector`` (channels, components) turns counts into loadings.

    Of a centred one ``mean`` (channels,) is the mean spectrum, in counts, and ``shift`` (components,) its projection:
    both are to be taken off times the root of the pixel's counts. ``mean_variance`` is the square of the scaled mean.
    """

    factors: Array
    projector: Array
    explained_variance: Array
    explained_variance_ratio: Array
    eigenvalues: Array
    noise_ratio: Array | None
    mean: Array | None = None
    shift: Array | None = None
    mean_variance: float | None = None


def exact_need(blocks: Blocks) -> Need:
    """Memory of the exact solver: the sum so far, a finished lane's, their sum, and work space of the eigensolver.

    A lane has a matrix of its own and the columns that the kernel works on.
    """
    matrix = 8 * blocks.n_channels**2
    columns = 8 * blocks.n_channels * min(MOST_COLUMNS, blocks.n_channels)
    return Need("pca", 4 * matrix, matrix + columns + blocks.bytes_of_a_block)


def fit_exact(blocks: Blocks, n_components: int, noise: str | None, how: Plan, *, centre: bool = False) -> PrincipalFit:
    """Fit in one pass; see :func:`eds_chunked.pca`."""
    work = GramWork(blocks.n_channels, poisson=noise == POISSON)
    of_noise = noise == POISSON and blocks.are_counts and not centre
    finish = _Eigen(n_components, blocks.n_used, noise == POISSON, of_noise, centre)
    fit: PrincipalFit = run_pass(blocks, work, join_gram, plan=how, finish=finish)
    return fit


@dataclass(frozen=True)
class _Eigen:
    """Makes a fit of the sums over the map: on a cluster there, where the sums are."""

    n_components: int
    n_used: int
    poisson: bool
    noise_rule: bool
    centre: bool

    def __call__(self, sums: GramSums) -> PrincipalFit:
        check_not_empty(sums.channel)
        # In place: nobody else needs the sums, and whoever should have to do this again has made them again.
        gram = sums.gram
        n_channels = len(gram)
        symmetrise(gram)
        of_noise = unit_noise(gram, sums) if self.noise_rule else None
        root = np.sqrt(nonzero_or_one(sums.channel)) if self.poisson else np.ones(n_channels)
        gram /= root[:, None]
        gram /= root
        total_variance, mean = float(np.trace(gram)), None
        if self.centre:
            mean = sums.rooted / (root * self.n_used)
            gram -= np.outer(self.n_used * mean, mean)
            total_variance = variance_left(total_variance, float(np.trace(gram)))
        ratios = None
        # With one thread each the digits do not depend on the machine, and BLAS does not wait for threads that others
        # keep busy. NumPy's solver lets another thread work, SciPy's does not.
        with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(1) as beside:
            others = None if of_noise is None else beside.submit(np.linalg.eigvalsh, of_noise)
            eigenvalues, vectors = _eigen(gram, self.n_components)
            if of_noise is not None and others is not None:
                ratios = np.full(n_channels, np.nan)
                ratios[: len(of_noise)] = others.result()[::-1]
                ratios /= noise_edge(max(1, sums.n_bright), max(1, len(of_noise)))
        return principal_fit(vectors, eigenvalues, total_variance, root, self.n_used, noise_ratio=ratios, mean=mean)


def variance_left(before: float, after: float) -> float:
    """Return the total variance after centring, 0 where nothing but rounding is left of it."""
    return after if after > 1e-13 * before else 0.0


def principal_fit(
    vectors: Array,
    eigenvalues: Array,
    total_variance: float,
    root: Array,
    n_pixels: int,
    *,
    noise_ratio: Array | None = None,
    mean: Array | None = None,
) -> PrincipalFit:
    """Turn eigenvectors (channels, components) of the scaled Gram matrix into factors in counts.

    Parameters
    ----------
    vectors, eigenvalues
        Falling; there may be more eigenvalues than vectors.
    total_variance
        Trace of the matrix.
    root
        What the channels were divided by.
    n_pixels
        Pixels analysed.
    noise_ratio
        Passed on.
    mean
        Mean (channels,) of the scaled counts, if it was taken off.
    """
    vectors = fix_signs(vectors, root)
    # What rounding leaves below zero is zero.
    eigenvalues = np.maximum(eigenvalues, 0) if total_variance > 0 else np.zeros_like(eigenvalues)
    largest = eigenvalues[: vectors.shape[1]]
    return PrincipalFit(
        factors=(vectors * root[:, None]).T,
        projector=vectors / root[:, None],
        explained_variance=largest / n_pixels,
        explained_variance_ratio=largest / total_variance if total_variance > 0 else largest,
        eigenvalues=eigenvalues / n_pixels,
        noise_ratio=noise_ratio,
        mean=None if mean is None else mean * root,
        shift=None if mean is None else mean @ vectors,
        mean_variance=None if mean is None else float(mean @ mean),
    )


def _eigen(gram: Array, n_vectors: int) -> tuple[Array, Array]:
    """Return all eigenvalues of a symmetric matrix, falling, and the first eigenvectors; overwrites the matrix.

    The matrix is made tridiagonal once for both, which is most of the work.
    """
    n = len(gram)
    if n == 1:
        return gram[0].copy(), np.ones((1, 1))
    length = int(lapack.dsytrd_lwork(n, lower=1)[0])
    # The transpose is in the order that LAPACK wants.
    reflectors, diagonal, beside, tau, _ = lapack.dsytrd(gram.T, lower=1, lwork=length, overwrite_a=1)
    eigenvalues = linalg.eigvalsh_tridiagonal(diagonal, beside, check_finite=False, lapack_driver="sterf")
    _, vectors = linalg.eigh_tridiagonal(
        diagonal, beside, select="i", select_range=(n - n_vectors, n - 1), check_finite=False
    )
    rest = np.asfortranarray(vectors[1:])
    corner = np.asfortranarray(reflectors[1:, :-1])
    length = int(lapack.dormqr("L", "N", corner, tau, rest, lwork=-1)[1][0])
    vectors[1:] = lapack.dormqr("L", "N", corner, tau, rest, lwork=length, overwrite_c=1)[0]
    return eigenvalues[::-1], vectors[:, ::-1]


def fix_signs(vectors: Array, root: Array) -> Array:
    """Return vectors (channels, components) such that the entry of largest magnitude of a factor is positive.

    The factors are in counts, ``vectors * root``; their largest entry is often another than that of the vector.
    """
    largest = np.abs(vectors * root[:, None]).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.asarray(vectors * signs)
