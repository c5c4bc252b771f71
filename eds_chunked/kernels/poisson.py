"""Draw the counts of pixels whose expected spectra are mixtures of a few known ones.

A pixel's total is a Poisson number, its counts fall on channels by the alias method (Vose, IEEE Trans. Softw. Eng. 17
(1991) 972): the time goes with the counts, not with the channels. Every pixel has its own SplitMix64 stream (Steele,
Lea and Flood, OOPSLA 2014), seeded by (seed, row, column): what a pixel gets does not depend on which pixels are drawn
with it, nor in which order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_ONE = np.uint64(1)
_LOW = np.uint64(0xFFFFFFFF)
_S6, _S11, _S27, _S30, _S31, _S32, _S58 = (np.uint64(shift) for shift in (6, 11, 27, 30, 31, 32, 58))
_UNIT = 1.0 / 9007199254740992.0

# Number of the lowest set bit: a de Bruijn word puts another six bits on top for each of its 64 shifts.
_DE_BRUIJN = 0x03F79D71B4CB0A89
_BIT_NUMBER = np.empty(64, np.uint32)
for _bit in range(64):
    _BIT_NUMBER[((_DE_BRUIJN << _bit) & (2**64 - 1)) >> 58] = _bit
_DE_BRUIJN_WORD = np.uint64(_DE_BRUIJN)


@njit(nogil=True, cache=True)
def _mix(z: np.uint64) -> np.uint64:
    z = (z ^ (z >> _S30)) * _MIX_1
    z = (z ^ (z >> _S27)) * _MIX_2
    return z ^ (z >> _S31)


@njit(nogil=True, cache=True)
def _uniform(state: np.uint64) -> float:
    return float(_mix(state) >> _S11) * _UNIT


@njit(nogil=True, cache=True)
def _poisson(mean: float, state: np.uint64, gamma: np.uint64) -> tuple[int, np.uint64]:
    """Return a Poisson number and the state after it."""
    if mean < 10.0:
        # Knuth: uniforms are multiplied until the product falls below exp(-mean).
        limit = math.exp(-mean)
        product = 1.0
        n = -1
        while product > limit:
            state += gamma
            product *= _uniform(state)
            n += 1
        return max(n, 0), state
    # Transformed rejection PTRS: Hoermann, Insurance: Mathematics and Economics 12 (1993) 39.
    log_mean = math.log(mean)
    b = 0.931 + 2.53 * math.sqrt(mean)
    a = -0.059 + 0.02483 * b
    inverse_alpha = 1.1239 + 1.1328 / (b - 3.4)
    v_r = 0.9277 - 3.6224 / (b - 2.0)
    while True:
        state += gamma
        u = _uniform(state) - 0.5
        state += gamma
        v = _uniform(state)
        us = 0.5 - abs(u)
        n = math.floor((2.0 * a / us + b) * u + mean + 0.43) if us > 0.0 else -1
        if us >= 0.07 and v <= v_r:
            return int(n), state
        if n < 0 or (us < 0.013 and v > us):
            continue
        left = math.log(v) + math.log(inverse_alpha) - math.log(a / (us * us) + b)
        if left <= n * log_mean - mean - math.lgamma(n + 1.0):
            return int(n), state


@njit(nogil=True, cache=True)
def _draw(
    seed: np.uint64,
    y0: int,
    nx: int,
    mixture: Array,
    totals: Array,
    cut: Array,
    alias: Array,
    first: int,
    indptr: Array,
    channel: Array,
    value: Array,
    limit: int,
) -> int:
    n_phases, n_channels = cut.shape
    n_wide = np.uint64(n_channels)
    drawn = np.empty(n_phases, np.int64)
    count = np.zeros(n_channels, np.uint32)
    touched = np.zeros((n_channels + 63) // 64, np.uint64)
    k = indptr[first]
    for i in range(first, mixture.shape[0]):
        row = _mix(seed + np.uint64(y0 + i // nx + 1) * _GOLDEN)
        state = _mix(row + np.uint64(i % nx + 1) * _GOLDEN)
        gamma = _mix(state ^ _GOLDEN) | _ONE
        total = 0
        for p in range(n_phases):
            drawn[p] = 0
            mean = mixture[i, p] * totals[p]
            if mean > 0.0:
                drawn[p], state = _poisson(mean, state, gamma)
                total += drawn[p]
        if k + min(total, n_channels) > len(channel):
            return int(i)
        for p in range(n_phases):
            for _ in range(drawn[p]):
                state += gamma
                bits = _mix(state)
                c = ((bits >> _S32) * n_wide) >> _S32
                if (bits & _LOW) >= cut[p, c]:
                    c = np.uint64(alias[p, c])
                count[c] += np.uint32(1)
                touched[c >> _S6] |= _ONE << (c & np.uint64(63))
        for word in range(len(touched)):
            bits = touched[word]
            touched[word] = np.uint64(0)
            while bits != np.uint64(0):
                lowest = bits & (~bits + _ONE)
                c = np.uint64(word * 64) + np.uint64(_BIT_NUMBER[(lowest * _DE_BRUIJN_WORD) >> _S58])
                channel[k] = c
                value[k] = min(count[c], limit)
                count[c] = np.uint32(0)
                k += 1
                bits ^= lowest
        indptr[i + 1] = k
    return int(mixture.shape[0])


def alias_tables(weights: Array) -> tuple[Array, Array]:
    """Return the alias tables (cut as 32-bit fractions in uint64, alias) of rows of weights (phases, channels).

    A channel without weight is never drawn. A row without any weight gives a table that must not be used.
    """
    n_phases, n_channels = weights.shape
    cut = np.full((n_phases, n_channels), 1 << 32, np.uint64)
    alias = np.tile(np.arange(n_channels, dtype=np.uint32), (n_phases, 1))
    for p, row in enumerate(weights):
        if not row.any():
            continue
        share = (row * (n_channels / row.sum())).tolist()
        small = [c for c in range(n_channels) if share[c] < 1.0]
        large = [c for c in range(n_channels) if share[c] >= 1.0]
        while small and large:
            low, high = small.pop(), large[-1]
            cut[p, low] = round(share[low] * 2**32)
            alias[p, low] = high
            share[high] -= 1.0 - share[low]
            if share[high] < 1.0:
                small.append(large.pop())
    return cut, alias


def draw_counts(
    mixture: Array,
    *,
    y0: int,
    nx: int,
    seed: int,
    totals: Array,
    cut: Array,
    alias: Array,
    capacity: int,
    channel_dtype: np.dtype[Any],
    value_dtype: np.dtype[Any],
) -> tuple[Array, Array, Array]:
    """Draw the rows from ``y0`` on, ``nx`` pixels each; return (indptr, channel, value).

    ``mixture`` (pixels, phases) are the shares of the phases in every pixel, ``totals`` (phases,) the expected counts
    of a pure pixel, ``cut`` and ``alias`` the tables of :func:`alias_tables`. ``capacity`` is a guess of the non-zero
    values: a low one costs a copy, never the answer.
    """
    n_pixels, n_channels = mixture.shape[0], cut.shape[1]
    indptr = np.zeros(n_pixels + 1, np.int64)
    channel = np.empty(capacity, channel_dtype)
    value = np.empty(capacity, value_dtype)
    limit = np.uint32(min(np.iinfo(value_dtype).max, 2**32 - 1))
    done = 0
    while True:
        done = _draw(np.uint64(seed), y0, nx, mixture, totals, cut, alias, done, indptr, channel, value, limit)
        if done == n_pixels:
            break
        more = len(channel) // 4 + n_channels
        channel = np.concatenate([channel, np.empty(more, channel_dtype)])
        value = np.concatenate([value, np.empty(more, value_dtype)])
    return indptr, channel[: indptr[-1]], value[: indptr[-1]]
