"""Non-negative least squares over a choice of columns, from a guess of which weights are positive."""

from __future__ import annotations

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Array

# Share of the largest slope, and of the largest weight, that is rounding.
_ROUNDING = 1e-10
# Columns have length 1 and are told apart by a ridge: what a pivot is less is rounding.
_LEAST_PIVOT = 1e-13
_STEPS = 3


@njit(nogil=True, cache=True)
def _factor(gram: Array, at: Array, first: int, n: int, lower: Array) -> None:
    """Rows ``first`` to ``n`` of the Cholesky factor of ``gram`` at the columns ``at``."""
    for i in range(first, n):
        for j in range(i + 1):
            rest = gram[at[i], at[j]]
            for k in range(j):
                rest -= lower[i, k] * lower[j, k]
            lower[i, j] = rest / lower[j, j] if j < i else np.sqrt(max(rest, _LEAST_PIVOT))


@njit(nogil=True, cache=True)
def _free(lower: Array, target: Array, at: Array, n: int, best: Array) -> None:
    """Solve for the columns ``at`` without bounds; ``best`` is 0 elsewhere."""
    solved = np.empty(n)
    for i in range(n):
        rest = target[at[i]]
        for k in range(i):
            rest -= lower[i, k] * solved[k]
        solved[i] = rest / lower[i, i]
    best[:] = 0.0
    for i in range(n - 1, -1, -1):
        solved[i] /= lower[i, i]
        for k in range(i):
            solved[k] -= lower[i, k] * solved[i]
        best[at[i]] = solved[i]


@njit(nogil=True, cache=True)
def _kept(at: Array, n: int, positive: Array) -> tuple[int, int]:
    """Drop from ``at`` what is not positive; return the first place that changed, and how many are left."""
    left, first = 0, n
    for i in range(n):
        if positive[at[i]]:
            at[left] = at[i]
            left += 1
        elif first == n:
            first = i
    return first, left


@njit(nogil=True, cache=True)
def active_set(gram: Array, target: Array, chosen: Array, guess: Array) -> Array:
    """Return the weights >= 0 of the ``chosen`` columns that minimise ``w gram w / 2 - w target``.

    Active sets (Lawson & Hanson 1974; on normal equations and from a guess: Bro & de Jong 1997), with a Cholesky factor
    that grows by a row with each column. Every step lowers the sum of squares, so columns that are almost alike cannot
    lead it in circles.

    Parameters
    ----------
    gram, target
        float64 (columns, columns), definite, of columns of length 1; and (columns,).
    chosen
        int64, places of some columns.
    guess
        bool (columns,), which weights may be positive.
    """
    m = len(chosen)
    some, right = np.empty((m, m)), np.empty(m)
    positive = np.empty(m, np.bool_)
    at, n = np.empty(m, np.int64), 0
    least = 0.0
    for i in range(m):
        for j in range(m):
            some[i, j] = gram[chosen[i], chosen[j]]
        right[i] = target[chosen[i]]
        least = max(least, _ROUNDING * abs(right[i]))
        positive[i] = guess[chosen[i]]
        if positive[i]:
            at[n] = i
            n += 1
    lower, weights, best = np.zeros((m, m)), np.zeros(m), np.zeros(m)
    first = 0
    while True:
        _factor(some, at, first, n, lower)
        _free(lower, right, at, n, weights)
        for i in range(n):
            positive[at[i]] = weights[at[i]] > 0
        first, left = _kept(at, n, positive)
        if left == n:
            break
        n = left
    for _ in range(_STEPS * m):
        steepest, slope = -1, least
        for i in range(m):
            if not positive[i]:
                rest = right[i]
                for k in range(n):
                    rest -= some[i, at[k]] * weights[at[k]]
                if rest > slope:
                    steepest, slope = i, rest
        if steepest < 0:
            break
        at[n] = steepest
        positive[steepest] = True
        _factor(some, at, n, n + 1, lower)
        n += 1
        _free(lower, right, at, n, best)
        if best[steepest] <= 0:
            # All of the slope was rounding.
            break
        while True:
            step = 1.0
            for k in range(n):
                if best[at[k]] < 0:
                    step = min(step, weights[at[k]] / (weights[at[k]] - best[at[k]]))
            if step == 1.0:
                # What is below zero now is so by rounding.
                weights[:] = np.maximum(best, 0.0)
                break
            weights += step * (best - weights)
            tiny = _ROUNDING * weights.max()
            for k in range(n):
                if weights[at[k]] <= tiny:
                    positive[at[k]] = False
                    weights[at[k]] = 0.0
            first, n = _kept(at, n, positive)
            _factor(some, at, first, n, lower)
            _free(lower, right, at, n, best)
    return weights
