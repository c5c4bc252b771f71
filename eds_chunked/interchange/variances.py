"""Explained variances, as HyperSpy counts them and as this package does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.result import variable
from eds_chunked.interchange.means import is_first_component

Array = np.ndarray[Any, Any]

EXPLAINED_VARIANCE = "explained_variance"
EXPLAINED_VARIANCE_RATIO = "explained_variance_ratio"
# HyperSpy's names.


def variances_for_hyperspy(result: xr.Dataset) -> dict[str, Array]:
    """Return HyperSpy's explained variance of the components, and the ratio of all that are known.

    The mean of a centred PCA comes first, with its square, and ratios are of the whole then: HyperSpy weighs sources by
    these numbers, and a place in its scree plot is the number of a component.
    """
    if schema.EXPLAINED_VARIANCE not in result or schema.EXPLAINED_VARIANCE_RATIO not in result:
        return {}
    variance = result[schema.EXPLAINED_VARIANCE].values
    ratio = result[schema.EXPLAINED_VARIANCE_RATIO].values
    if schema.EIGENVALUES in result and result.sizes[schema.RANK] > len(ratio):
        # Of all eigenvalues, as HyperSpy has it of a decomposition that was cropped.
        eigenvalues = result[schema.EIGENVALUES].values
        ratio = np.concatenate([ratio, eigenvalues[len(ratio) :] / (eigenvalues.sum() or 1.0)])
    if schema.MEAN_VARIANCE in result:
        of_mean = float(result[schema.MEAN_VARIANCE])
        about_mean = float(variance[0] / ratio[0]) if ratio[0] > 0 else 0.0
        variance = np.concatenate([[of_mean], variance])
        ratio = np.concatenate([[of_mean], ratio * about_mean]) / (of_mean + about_mean)
    return {EXPLAINED_VARIANCE: variance, EXPLAINED_VARIANCE_RATIO: ratio}


def variances_of(found: Mapping[str, Any], k: int) -> dict[str, Any]:
    """Return explained variance, its ratio and the eigenvalues of ``k`` components, as far as they are known.

    Where HyperSpy kept only some components from the start, its ratio is of what they explain together. It is taken as
    it is, and says so.
    """
    variables: dict[str, Any] = {}
    variance, ratio = (
        None if found.get(name) is None else np.asarray(found[name], np.float64)
        for name in (EXPLAINED_VARIANCE, EXPLAINED_VARIANCE_RATIO)
    )
    if variance is not None and is_first_component(found):
        variables[schema.MEAN_VARIANCE] = variable(schema.MEAN_VARIANCE, variance[0])
        variance = variance[1:]
        if ratio is not None:
            about_mean = 1 - ratio[0]
            ratio = ratio[1:] / about_mean if about_mean > 0 else np.zeros(len(ratio) - 1)
    if variance is not None and ratio is None and variance.sum() > 0:
        ratio = variance / variance.sum()
    if ratio is not None:
        dims, values, attrs = variable(schema.EXPLAINED_VARIANCE_RATIO, ratio[:k])
        if len(ratio) == k:
            attrs["long_name"] = "share of the variance of these components together, as HyperSpy states it"
        variables[schema.EXPLAINED_VARIANCE_RATIO] = dims, values, attrs
    if variance is not None:
        variables[schema.EXPLAINED_VARIANCE] = variable(schema.EXPLAINED_VARIANCE, variance[:k])
        if ratio is not None and len(ratio) > len(variance) and ratio[0] > 0:
            variance = ratio * (variance[0] / ratio[0])
        variables[schema.EIGENVALUES] = variable(schema.EIGENVALUES, variance)
    return variables
