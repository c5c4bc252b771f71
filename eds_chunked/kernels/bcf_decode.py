"""Decode the pixel records of a Bruker hypermap stream straight to CSR.

The kernel takes whatever part of the stream is at hand, decodes whole records, and says why it stopped. Pixels outside
the window are hopped over, and channels outside it are looked at but not kept. It never reads behind ``end`` nor writes
behind the output, whatever the bytes are: every field is checked before it is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]
Int = Any  # an int64 in compiled code

# Why decode() returned: the band is complete, or it needs more input, more room, or a wider value; else an error.
DONE, MORE, FULL, WIDEN = 0, 1, 2, 3
ROW_TOO_LONG, BAD_X, BAD_FLAG, BAD_SIZE, BAD_BUNCH, BAD_CHANNEL, BAD_COUNT = 10, 11, 12, 13, 14, 15, 16

# Fields of the state, an int64 array that survives between calls.
# ROW counts whole rows; the first ROW_VALUES of the N_VALUES values are theirs.
POSITION, ROW, LEFT, LAST_X, N_VALUES, ROW_VALUES, PIXEL, FOUND, LIMIT, N_STATE = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9

HEAD = 22
# A bunch covers at least one channel with at most 14 bytes, and there are at most 65535 channels; then 4 bytes.
MOST_PER_CHANNEL = 14
_PULSES = 65536

Scratch = tuple[Array, Array, Array]


def new_state() -> Array:
    """State at the start of a stream: no row begun."""
    state = np.zeros(N_STATE, np.int64)
    state[LEFT] = -1
    return state


def new_scratch() -> Scratch:
    """Scratch of the decoder: pulses of a pixel, pulses of empty channels, pulses by channel."""
    return np.empty(_PULSES, np.uint16), np.empty(_PULSES, np.uint32), np.zeros(_PULSES, np.uint32)


@njit(nogil=True, cache=True)
def _u16(data: Array, at: Int) -> Int:
    return np.int64(data[at]) | np.int64(data[at + 1]) << 8


@njit(nogil=True, cache=True)
def _u32(data: Array, at: Int) -> Int:
    return _u16(data, at) | _u16(data, at + 2) << 16


@njit(nogil=True, cache=True)
def _sort(numbers: Array, n: int) -> None:
    """Shell sort: insertion sort for the usual dozen of pulses, and never quadratic for 65535 of them."""
    gap = 1
    while gap < n // 9:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            value = numbers[i]
            j = i
            while j >= gap and numbers[j - gap] > value:
                numbers[j] = numbers[j - gap]
                j -= gap
            numbers[j] = value
        gap //= 3


@njit(nogil=True, cache=True)
def _count_pulses(pulses: Array, n: int, channel: Array, value: Array, k: int) -> tuple[Int, Int]:
    """Turn sorted ``pulses`` into values from ``k`` on; return the new number of values and the largest value."""
    worst = 0
    i = 0
    while i < n:
        c = pulses[i]
        begin = i
        while i < n and pulses[i] == c:
            i += 1
        channel[k] = c
        value[k] = i - begin
        worst = max(worst, i - begin)
        k += 1
    return k, worst


@njit(nogil=True, cache=True)
def _add_pulses(
    pulses: Array, n: int, extra: Array, fresh: Array, channel: Array, value: Array, start: int, stop: int
) -> tuple[Int, Int]:
    """Add ``pulses`` in any order to the values start:stop; return the new number of values and the largest value.

    Most pulses fall on channels that have counts. ``extra`` (zeros, one per channel, zeros again afterwards) tells
    which do, so that only the few others (``fresh``: channel and count in one number) are sorted and moved in.
    """
    for i in range(n):
        extra[pulses[i]] += 1
    worst: Int = np.int64(0)
    for i in range(start, stop):
        c = channel[i]
        v = np.int64(value[i]) + extra[c]
        extra[c] = 0
        value[i] = v
        worst = max(worst, v)
    n_fresh = 0
    for i in range(n):
        c = np.int64(pulses[i])
        if extra[c] != 0:
            fresh[n_fresh] = c << 16 | extra[c]
            extra[c] = 0
            n_fresh += 1
    _sort(fresh, n_fresh)
    # From the back, so that nothing is overwritten before it has moved.
    i = stop - 1
    out = stop + n_fresh - 1
    for j in range(n_fresh - 1, -1, -1):
        c = np.int64(fresh[j] >> 16)
        while i >= start and channel[i] > c:
            channel[out] = channel[i]
            value[out] = value[i]
            i -= 1
            out -= 1
        v = np.int64(fresh[j] & 0xFFFF)
        channel[out] = c
        value[out] = v
        worst = max(worst, v)
        out -= 1
    return stop + n_fresh, worst


@njit(nogil=True, cache=True)
def _clip(pulses: Array, n: int, c0: int, c1: int) -> Int:
    """Keep the pulses of the channels c0:c1, counted from c0; return how many they are."""
    kept = 0
    for i in range(n):
        c = np.int64(pulses[i])
        if c0 <= c < c1:
            pulses[kept] = c - c0
            kept += 1
    return kept


@njit(nogil=True, cache=True)
def _unpack12(data: Array, at: int, n: int, pulses: Array) -> None:
    """12-bit numbers, most significant bit first, in little-endian 16-bit words."""
    bits = np.int64(0)
    have = 0
    for i in range(n):
        if have < 12:
            bits = (bits & 0xFFF) << 16 | _u16(data, at)
            at += 2
            have += 16
        have -= 12
        pulses[i] = bits >> have & 0xFFF


@njit(nogil=True, cache=True)
def _bunches(
    data: Array, at: int, end: int, covered: int, c0: int, c1: int, channel: Array, value: Array,
    k: int, state: Array,
) -> tuple[Int, Int]:  # fmt: skip
    """Decode the bunches in at:end; return the new number of values (or minus an error) and the largest value.

    Every channel of c0:c1 is written and kept only if it is not zero, which spares a branch that nobody can predict.
    So there must be room for one value more than the window has, and it is the caller who checks the largest value.
    """
    c: Int = 0
    worst: Int = np.int64(0)
    while at < end:
        if end - at < 2:
            return -BAD_BUNCH, worst
        code = data[at]
        n: Int = np.int64(data[at + 1])
        at += 2
        if n == 0 or c + n > covered:
            state[FOUND] = n
            return -BAD_BUNCH, worst
        if code == 0:
            c += n
            continue
        if code == 1:
            size = 1 + (n + 1) // 2
        elif code == 2:
            size = 2 + n
        elif code == 4:
            size = 4 + 2 * n
        elif code == 8:
            size = 8 + 4 * n
        else:
            state[FOUND] = code
            return -BAD_BUNCH, worst
        if end - at < size:
            state[FOUND] = size
            return -BAD_BUNCH, worst
        first, last = max(np.int64(0), c0 - c), min(n, c1 - c)
        here = c - c0
        if code == 1:
            gain = np.int64(data[at])
            for i in range(first, last):
                v = gain + (np.int64(data[at + 1 + (i >> 1)]) >> 4 * (i & 1) & 15)
                channel[k] = here + i
                value[k] = v
                k += v != 0
                worst = max(worst, v)
        elif code == 2:
            gain = _u16(data, at)
            for i in range(first, last):
                v = gain + np.int64(data[at + 2 + i])
                channel[k] = here + i
                value[k] = v
                k += v != 0
                worst = max(worst, v)
        elif code == 4:
            gain = _u32(data, at)
            for i in range(first, last):
                v = gain + _u16(data, at + 4 + 2 * i)
                channel[k] = here + i
                value[k] = v
                k += v != 0
                worst = max(worst, v)
        elif code == 8:
            gain = _u32(data, at)
            if _u32(data, at + 4) != 0:
                return -BAD_COUNT, worst
            for i in range(first, last):
                v = gain + _u32(data, at + 8 + 4 * i)
                channel[k] = here + i
                value[k] = v
                k += v != 0
                worst = max(worst, v)
        c += n
        at += size
    if c != covered:
        state[FOUND] = c
        return -BAD_BUNCH, worst
    return k, worst


@njit(nogil=True, cache=True)
def _occupied_above(data: Array, at: int, end: int, n_channels: int) -> Int:
    """First channel from ``n_channels`` on that has counts in the bunches at:end, which are well-formed; or -1."""
    c: Int = 0
    place: Int = at
    while place < end:
        code = np.int64(data[place])
        n = np.int64(data[place + 1])
        place += 2
        for i in range(max(np.int64(0), n_channels - c), n):
            v: Int = np.int64(0)
            if code == 1:
                v = np.int64(data[place]) + (np.int64(data[place + 1 + (i >> 1)]) >> 4 * (i & 1) & 15)
            elif code == 2:
                v = _u16(data, place) + np.int64(data[place + 2 + i])
            elif code == 4:
                v = _u32(data, place) + _u16(data, place + 4 + 2 * i)
            elif code == 8:
                v = _u32(data, place) + _u32(data, place + 8 + 4 * i)
            if v != 0:
                return c + i
        if code == 1:
            place += 1 + (n + 1) // 2
        else:
            place += code + code * n // 2
        c += n
    return -1


@njit(nogil=True, cache=True)
def decode(
    data: Array, end: int, state: Array, rows: int, width: int, n_channels: int, x0: int, x1: int, c0: int, c1: int,
    indptr: Array, channel: Array, value: Array, limit: int, scratch: Scratch,
) -> Int:  # fmt: skip
    """Decode records of ``data[state[POSITION]:end]`` until the band of ``rows`` rows is full.

    Parameters
    ----------
    data, end
        Bytes of the stream (uint8) and how many of them are valid.
    state
        From :func:`new_state`. At the start of a band the caller sets ROW, N_VALUES, ROW_VALUES and PIXEL to 0.
    width, n_channels
        Columns and channels of the map.
    x0, x1, c0, c1
        The window that is wanted: its columns and channels. Without a column, rows are merely hopped over.
    indptr, channel, value
        The CSR band of the window that is filled; ``limit`` is the largest count that ``value`` can hold.
    scratch
        From :func:`new_scratch`.

    Returns
    -------
    int
        DONE, or MORE (bytes), FULL (``channel`` and ``value`` are too short), WIDEN (``value`` is too narrow): call
        again with more of it and the same state. Otherwise an error; POSITION is at its record, FOUND what was met.
    """
    pulses, fresh, extra = scratch
    position = state[POSITION]
    k = state[N_VALUES]
    pixel = state[PIXEL]
    while state[ROW] < rows:
        if state[LEFT] < 0:
            if end - position < 4:
                return MORE
            n_pixels = _u32(data, position)
            if n_pixels > width:
                state[FOUND], state[LIMIT] = n_pixels, width
                return ROW_TOO_LONG
            position += 4
            state[POSITION] = position
            state[LEFT] = n_pixels
            state[LAST_X] = -1
        while state[LEFT] > 0:
            if end - position < HEAD:
                return MORE
            x = _u32(data, position)
            if x <= state[LAST_X] or x + state[LEFT] > width:
                state[FOUND], state[LIMIT] = x, state[LAST_X] + 1
                return BAD_X
            covered = _u16(data, position + 6)
            flag = _u16(data, position + 12)
            n = _u16(data, position + 16)
            size = _u32(data, position + 18)
            body = position + HEAD
            if flag > 3:
                state[FOUND], state[LIMIT] = flag, 3
                return BAD_FLAG
            if flag == 0:
                good = size == 2 * n
            elif flag == 1:
                good = size == 2 * ((12 * n + 15) // 16)
            else:
                good = 4 <= size <= MOST_PER_CHANNEL * covered + 4
            if not good:
                state[FOUND], state[LIMIT] = size, n
                return BAD_SIZE
            record_end = body + size + (2 * n if flag >= 2 else 0)
            if record_end > end:
                return MORE
            if x0 <= x < x1:
                if k + c1 - c0 >= len(channel):
                    return FULL
                worst: Int = np.int64(0)
                stop = k
                if flag >= 2:
                    body += size
                    if _u32(data, body - 4) != 2 * n:
                        state[FOUND], state[LIMIT] = _u32(data, body - 4), 2 * n
                        return BAD_SIZE
                    stop, worst = _bunches(data, body - size, body - 4, covered, c0, c1, channel, value, k, state)
                    if stop < 0:
                        state[LIMIT] = covered
                        return -stop
                    above = np.int64(-1)
                    if covered > n_channels:
                        above = _occupied_above(data, body - size, body - 4, n_channels)
                    if above >= 0:
                        state[FOUND], state[LIMIT] = above, n_channels
                        return BAD_CHANNEL
                    if worst > limit:
                        # Before pulses are added to values that did not fit.
                        state[FOUND] = worst
                        return WIDEN
                if flag == 1:
                    _unpack12(data, body, n, pulses)
                else:
                    for i in range(n):
                        pulses[i] = _u16(data, body + 2 * i)
                rising: Int = True
                highest: Int = -1
                for i in range(n):
                    rising &= np.int64(pulses[i]) >= highest
                    highest = max(highest, np.int64(pulses[i]))
                if highest >= n_channels:
                    state[FOUND], state[LIMIT] = highest, n_channels
                    return BAD_CHANNEL
                if c0 > 0 or highest >= c1:
                    n = _clip(pulses, n, c0, c1)
                if flag >= 2:
                    if n > 0:
                        stop, worst = _add_pulses(pulses, n, extra, fresh, channel, value, k, stop)
                else:
                    if not rising:
                        _sort(pulses, n)
                    stop, worst = _count_pulses(pulses, n, channel, value, k)
                if worst > limit:
                    state[FOUND] = worst
                    return WIDEN

                this = state[ROW] * (x1 - x0) + x - x0
                while pixel <= this:
                    indptr[pixel] = k
                    pixel += 1
                k = stop
            position = record_end
            state[POSITION], state[N_VALUES], state[PIXEL] = position, k, pixel
            state[LEFT] -= 1
            state[LAST_X] = x
        state[ROW] += 1
        state[LEFT] = -1
        while pixel <= state[ROW] * (x1 - x0):
            indptr[pixel] = k
            pixel += 1
        state[ROW_VALUES], state[PIXEL] = k, pixel
    return DONE
