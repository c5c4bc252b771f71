"""Non-negative factors from a shuffled sample, by scikit-learn's MiniBatchNMF."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.decomposition import MiniBatchNMF
from sklearn.utils.extmath import randomized_svd

from eds_chunked.decomposition.start import START_PIXELS, ScaledSample

Array = np.ndarray[Any, Any]

BATCH_SIZE = 4096
_MEMORY_OF_AN_EPOCH = 0.7
"""Share of the past that an epoch keeps. Forgetting is per batch in scikit-learn; at 0.7 a batch, its default, an epoch
would remember three batches."""


def minibatch_epochs(sample: ScaledSample, start: Array, *, seed: int) -> Iterator[Array]:
    """Yield the factors (components, channels), in counts, after each time that the sample was gone through."""
    # scikit-learn starts the sums of its update with the start itself at weight one. With the largest singular value
    # of the sample at one, the start weighs as much as one epoch: enough to keep the factors from drifting into the
    # noise, which full convergence does.
    judged = sample.rows(0, START_PIXELS)
    strength = _largest_singular_value(judged, seed) * np.sqrt(sample.n_pixels / judged.shape[0])
    sample = replace(sample, root=sample.root * strength)
    batch = min(BATCH_SIZE, sample.n_pixels)
    estimator = MiniBatchNMF(
        len(start),
        init="custom",
        batch_size=batch,
        forget_factor=_MEMORY_OF_AN_EPOCH ** (batch / sample.n_pixels),
        random_state=seed,
    )
    scaled = start / sample.root
    scaled /= np.linalg.norm(scaled, axis=1)[:, None]
    while True:
        for first in range(0, sample.n_pixels, batch):
            rows = sample.rows(first, first + batch)
            # scikit-learn wants a W beside the first H, and solves for its own.
            custom = {} if hasattr(estimator, "components_") else {
                "W": np.ones((rows.shape[0], len(start)), np.float32), "H": scaled.astype(np.float32)
            }  # fmt: skip
            estimator.partial_fit(rows, **custom)
        yield estimator.components_.astype(np.float64) * sample.root


def _largest_singular_value(rows: Any, seed: int) -> float:
    return float(randomized_svd(rows, 1, n_iter=4, random_state=seed)[1][0])
