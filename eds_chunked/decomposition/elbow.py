"""Where a falling curve bends: Kneedle, on the logarithm of the explained variance."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema

Array = np.ndarray[Any, Any]

MOST_POINTS = 20
"""Components that are looked at beyond the first: with more, the slope of the noise bends the curve as well."""

_SENSITIVITY = 1.0
_NUMERICAL_ZERO = 1e-9


def find_elbow(curve: Array) -> int | None:
    """Return the place of the elbow of a falling, convex curve, or None if it has none.

    The curve is put into the unit square, and a local maximum of its distance from the falling diagonal is an elbow if
    the distance then sinks by more than the mean step of the abscissa (sensitivity 1). Of several elbows the one that
    is farthest from the diagonal is taken: phases of very different area make steps before it.

    Parameters
    ----------
    curve
        (points,), at equal steps.

    References
    ----------
    Satopaa, Albrecht, Irwin & Raghavan (2011), ICDCS Workshops, 166: Kneedle.
    """
    n = len(curve)
    span = float(curve.max() - curve.min()) if n > 2 else 0.0
    if not span > 0:
        return None
    distance = 1 - np.linspace(0, 1, n) - (curve - curve.min()) / span
    inner = np.arange(1, n - 1)
    summits = inner[(distance[inner] >= distance[inner - 1]) & (distance[inner] > distance[inner + 1])]
    ends = [*summits, n][1:]
    step = _SENSITIVITY / (n - 1)
    elbows = [
        int(summit)
        for summit, end in zip(summits, ends, strict=True)
        if distance[summit:end].min() < distance[summit] - step
    ]
    return max(elbows, key=lambda place: float(distance[place])) if elbows else None


def elbow_of_variance(pca: xr.Dataset) -> int | None:
    """Return the number of components before the elbow of the logarithm of the explained variance.

    The first component of a PCA that is not centred is the mean spectrum, of the scaled counts with eigenvalue 1
    exactly: it counts, but the curve begins after it. A centred PCA has left the mean out; there it counts beside the
    components.

    Parameters
    ----------
    pca
        With ``eigenvalues`` (rank), or else ``explained_variance`` (component).

    Returns
    -------
    At least 2, or None where the curve has no elbow.
    """
    name = schema.EIGENVALUES if schema.EIGENVALUES in pca else schema.EXPLAINED_VARIANCE
    variance = pca[name].values
    variance = variance[np.isfinite(variance)]
    first = 0 if is_centred(pca) else 1
    rest = variance[first : first + MOST_POINTS]
    rest = rest[rest > _NUMERICAL_ZERO * variance.max(initial=0.0)]
    place = find_elbow(np.log(rest))
    return None if place is None else place + 1


def is_centred(pca: xr.Dataset) -> bool:
    """Tell whether the mean was taken off before the decomposition."""
    return pca.attrs.get(schema.PARAMETERS, {}).get("centre") is not None
