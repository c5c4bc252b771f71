"""Exact PCA from the Gram matrix, summed in one pass."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from scipy import linalg

from eds_chunked.decomposition.gram_pass import GramWork, join_gram
from eds_chunked.decomposition.noise_edge import noise_ratios
from eds_chunked.decomposition.scaling import POISSON, check_not_empty, nonzero_or_one
from eds_chunked.engine.blocks import Blocks
from eds_chunked.engine.lanes import run_pass
from eds_chunked.kernels.gram import symmetrise
from eds_chunked.memory import Need, Plan

Array = np.ndarray[Any, Any]


class PrincipalFit(NamedTuple):
    """A fitted PCA. ``projector`` (channels, components) turns counts into loadings."""

    factors: Array
    projector: Array
    explained_variance: Array
    explained_variance_ratio: Array
    eigenvalues: Array
    noise_ratio: Array | None


def exact_need(blocks: Blocks) -> Need:
    """Memory of the exact solver: the sum so far, a finished lane's, their sum, and work space of the eigensolver."""
    matrix = 8 * blocks.n_channels**2
    return Need("pca", 4 * matrix, matrix + blocks.bytes_of_a_block)


def fit_exact(blocks: Blocks, n_components: int, noise: str | None, how: Plan) -> PrincipalFit:
    """Fit in one pass; see :func:`eds_chunked.pca`."""
    work = GramWork(blocks.n_channels, poisson=noise == POISSON)
    sums = run_pass(blocks, work, join_gram, plan=how)
    check_not_empty(sums.channel)
    gram = sums.gram
    symmetrise(gram)
    ratios = None
    if noise == POISSON and blocks.are_counts:
        ratios = np.full(blocks.n_channels, np.nan)
        found = noise_ratios(gram, sums)
        ratios[: len(found)] = found
    root = np.sqrt(nonzero_or_one(sums.channel)) if noise == POISSON else np.ones(blocks.n_channels)
    gram /= root[:, None]
    gram /= root
    total_variance = float(np.trace(gram))
    last = blocks.n_channels - 1
    largest, vectors = linalg.eigh(gram, subset_by_index=(last - n_components + 1, last), check_finite=False)
    eigenvalues = linalg.eigvalsh(gram, overwrite_a=True, check_finite=False)[::-1]
    # What rounding leaves below zero is zero.
    largest = np.maximum(largest[::-1], 0)
    vectors = fix_signs(vectors[:, ::-1], root)
    return PrincipalFit(
        factors=(vectors * root[:, None]).T,
        projector=vectors / root[:, None],
        explained_variance=largest / blocks.n_pixels,
        explained_variance_ratio=largest / total_variance,
        eigenvalues=np.maximum(eigenvalues, 0) / blocks.n_pixels,
        noise_ratio=ratios,
    )


def fix_signs(vectors: Array, root: Array) -> Array:
    """Return vectors (channels, components) such that the entry of largest magnitude of a factor is positive.

    The factors are in counts, ``vectors * root``; their largest entry is often another than that of the vector.
    """
    largest = np.abs(vectors * root[:, None]).argmax(axis=0)
    signs = np.sign(vectors[largest, np.arange(vectors.shape[1])])
    return np.asarray(vectors * signs)
