"""Non-negative least squares for many pixels that share a few spectra."""

from __future__ import annotations

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array


@njit(nogil=True, cache=True)
def _descend(gram: Array, target: Array, tolerance: float, max_sweeps: int, out: Array) -> None:
    k = gram.shape[0]
    for i in range(target.shape[0]):
        for _ in range(max_sweeps):
            largest_step = 0.0
            largest = 0.0
            for c in range(k):
                if gram[c, c] <= 0.0:
                    continue
                gradient = -target[i, c]
                for d in range(k):
                    gradient += gram[c, d] * out[i, d]
                old = out[i, c]
                new = max(0.0, old - gradient / gram[c, c])
                out[i, c] = new
                # Steps are compared in units of the data, so that components of any scale converge alike.
                scale = np.sqrt(gram[c, c])
                largest_step = max(largest_step, abs(new - old) * scale)
                largest = max(largest, new * scale)
            if largest_step <= tolerance * largest:
                break


def solve_nonnegative(gram: Array, target: Array, *, tolerance: float = 1e-8, max_sweeps: int = 2000) -> Array:
    """Minimise ``|x - w H|`` over w >= 0 for every pixel, given ``gram = H H'`` and ``target = X H'``.

    Cyclic coordinate descent on the normal equations (Franc, Hlavac & Navara 2005): each sweep costs k^2 a pixel,
    whatever the number of channels.

    Parameters
    ----------
    gram
        float64 (components, components).
    target
        float64 (pixels, components).

    Returns
    -------
    float64 (pixels, components), non-negative; zero for a component whose spectrum is zero.
    """
    out = np.zeros_like(target)
    _descend(gram, target, tolerance, max_sweeps, out)
    return out
