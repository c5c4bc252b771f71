"""Non-negative fits by Poisson likelihood: pixels as mixtures of a few spectra, over their non-zero counts only.

A channel without counts adds its expected counts and nothing else, and those add up to the loadings times the sums of
the spectra. So the time goes with the non-zeros.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array, Csr

_FLOOR = 0.02
"""Least a component starts with, as a share of an even mixture: no count is impossible then, and zero one step away."""
_MAX_STEPS = 100
_SWEEPS = 20
_EXACT_TO = 1e-3
"""What is left of a step when its bounded problem is solved well enough: the next step sees to the rest."""


# Sums may be taken in the order that suits the processor; it is the same for every pixel, whatever block it is in.
@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _solve(
    indptr: Array,
    channel: Array,
    value: Array,
    factors: Array,
    explained: Array,
    sums: Array,
    start: Array,
    tolerance: float,
    out: Array,
) -> None:
    n_components, n_channels = factors.shape
    its_channels = np.empty(n_channels, np.int64)
    spectra = np.empty((n_components, n_channels))
    counts = np.empty(n_channels)
    model = np.empty(n_channels)
    ratio = np.empty(n_channels)
    weighted = np.empty(n_channels)
    gradient = np.empty(n_components)
    curvature = np.empty((n_components, n_components))
    scale = np.empty(n_components)
    step = np.empty(n_components)
    w = np.empty(n_components)
    for i in range(len(indptr) - 1):
        # Counts in channels where no spectrum has any cannot be explained, whatever the loadings.
        n = 0
        total = 0.0
        for at in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            if explained[channel[at]]:
                its_channels[n] = channel[at]
                counts[n] = value[at]
                total += counts[n]
                n += 1
        for k in range(n_components):
            loading = 0.0
            for j in range(n):
                spectra[k, j] = factors[k, its_channels[j]]
                loading += counts[j] * start[k, its_channels[j]]
            w[k] = loading
        _start_within(total, sums, w)
        for _ in range(_MAX_STEPS if total > 0.0 else 0):
            model[:n] = 0.0
            for k in range(n_components):
                for j in range(n):
                    model[j] += w[k] * spectra[k, j]
            for j in range(n):
                ratio[j] = counts[j] / model[j]
            for k in range(n_components):
                counted = 0.0
                for j in range(n):
                    counted += spectra[k, j] * ratio[j]
                gradient[k] = sums[k] - counted
            for j in range(n):
                ratio[j] /= model[j]
            for k in range(n_components):
                for j in range(n):
                    weighted[j] = ratio[j] * spectra[k, j]
                for m in range(k + 1):
                    second = 0.0
                    for j in range(n):
                        second += weighted[j] * spectra[m, j]
                    curvature[k, m] = second
                    curvature[m, k] = second
            length = _newton_step(gradient, curvature, w, scale, step)
            # The likelihood is self-concordant where counts are at least one: a step damped so always improves it, and
            # keeps the model of every count above zero.
            damping = 1.0 / (1.0 + length) if length > 0.25 else 1.0
            for k in range(n_components):
                w[k] = max(0.0, w[k] + damping * step[k])
            if length * length <= tolerance * total:
                break
        for k in range(n_components):
            out[i, k] = w[k]


@njit(nogil=True, cache=True)
def _start_within(total: float, sums: Array, w: Array) -> None:
    """Lift loadings that are too small, then scale all to as many counts as there are, which the best ones explain."""
    explained = 0.0
    for k in range(len(w)):
        w[k] = max(w[k], _FLOOR * total / (len(w) * sums[k])) if sums[k] > 0.0 else 0.0
        explained += w[k] * sums[k]
    for k in range(len(w)):
        w[k] *= total / explained if explained > 0.0 else 0.0


@njit(nogil=True, cache=True)
def _newton_step(gradient: Array, curvature: Array, w: Array, scale: Array, step: Array) -> float:
    """Minimise the quadratic model over steps that keep w non-negative; return the step's length in its metric.

    By coordinate descent, in units of the noise of each loading, to which ``gradient`` and ``curvature`` are put.
    """
    n = len(gradient)
    for k in range(n):
        # Without curvature nothing that was counted speaks for the spectrum: its loading goes to zero.
        scale[k] = math.sqrt(curvature[k, k]) if curvature[k, k] > 0.0 else 0.0
        step[k] = 0.0
    for k in range(n):
        if scale[k] > 0.0:
            gradient[k] /= scale[k]
            for m in range(n):
                curvature[k, m] *= 1.0 / (scale[k] * scale[m]) if scale[m] > 0.0 else 0.0
    for _ in range(_SWEEPS):
        moved = 0.0
        largest = 0.0
        for k in range(n):
            if scale[k] > 0.0:
                slope = gradient[k]
                for m in range(n):
                    slope += curvature[k, m] * step[m]
                new = max(-w[k] * scale[k], step[k] - slope)
                moved = max(moved, abs(new - step[k]))
                largest = max(largest, abs(new))
                step[k] = new
        if moved <= _EXACT_TO * largest:
            break
    square = 0.0
    for k in range(n):
        for m in range(n):
            square += step[k] * curvature[k, m] * step[m]
    for k in range(n):
        step[k] = step[k] / scale[k] if scale[k] > 0.0 else -w[k]
    return math.sqrt(max(0.0, square))


def solve_poisson(csr: Csr, factors: Array, *, tolerance: float = 1e-10) -> Array:
    """Return the loadings of largest Poisson likelihood: (pixels, components) float64, non-negative.

    Minimises ``sum_j (wH)_j - x_j log (wH)_j`` for every pixel by Newton steps with the bound w >= 0, damped so that
    each improves the likelihood, from the loadings of weighted least squares. Counts in channels where all factors are
    zero are left aside.

    Parameters
    ----------
    csr
        Counts, (pixels, channels).
    factors
        float64 (components, channels), non-negative.
    tolerance
        A pixel is done when the square of its last step, in units of the noise, is less than this share of its counts.

    References
    ----------
    Tran-Dinh, Kyrillidis & Cevher (2015), Journal of Machine Learning Research 16, 371: proximal Newton steps for
    self-concordant functions.
    """
    out = np.zeros((csr.n_pixels, len(factors)))
    spectra = np.ascontiguousarray(factors, np.float64)
    sums = spectra.sum(axis=1)
    start = _least_squares(spectra, sums)
    _solve(csr.indptr, csr.channel, csr.value, spectra, spectra.any(axis=0), sums, start, tolerance, out)
    return out


def _least_squares(factors: Array, sums: Array) -> Array:
    """Return what counts are multiplied by for loadings of least squares, as if all pixels were even mixtures.

    (components, channels), from factors of that shape and their sums. The weight of a channel is one over its expected
    counts. The loadings differ from the best ones by their noise, so that few Newton steps are left.
    """
    sums = np.where(sums > 0, sums, 1)[:, None]
    shapes = factors / sums
    expected = shapes.sum(axis=0)
    weighted = np.divide(shapes, expected, out=np.zeros_like(shapes), where=expected > 0)
    # Not by BLAS, whose sums may depend on the number of its threads.
    inverse = np.linalg.pinv(np.einsum("kc,mc->km", weighted, shapes))
    return np.ascontiguousarray(np.einsum("km,mc->kc", inverse, weighted) / sums)


@njit(nogil=True, cache=True)
def _sum_ratios(
    indptr: Array, channel: Array, value: Array, factors: Array, loadings: Array, out: Array, divergence: Array
) -> None:
    for i in range(len(indptr) - 1):
        for at in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            c = channel[at]
            model = 0.0
            for k in range(factors.shape[1]):
                model += loadings[i, k] * factors[c, k]
            if model > 0.0:
                ratio = value[at] / model
                divergence[i] += value[at] * (math.log(ratio) - 1.0)
                for k in range(factors.shape[1]):
                    out[c, k] += loadings[i, k] * ratio


def add_ratios(csr: Csr, factors: Array, loadings: Array, out: Array) -> Array:
    """Add ``sum_i w_ik x_ij / m_ij`` with m = WH to ``out`` (channels, components); return the divergences (pixels,).

    The Kullback-Leibler divergence is ``sum x log(x / m) - x + m``. Counts where the model has none are left aside.
    """
    by_channel = np.ascontiguousarray(factors.T, np.float64)
    divergence: Array = loadings @ by_channel.sum(axis=0)
    _sum_ratios(csr.indptr, csr.channel, csr.value, by_channel, loadings, out, divergence)
    return divergence
