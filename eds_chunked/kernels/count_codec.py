"""The count codec: counts of a block of pixels as few bytes, and back (format: docs/count-codec.md).

Photon counts are mostly zeros, and most others are 1. So each pixel says how many non-zero channels it has, and each of
those takes one byte: 5 bits for the step from the channel before, 3 bits for the count. What does not fit goes on in
two streams of variable-length integers. Byte-wise entropy coding (zstd) behind it does the rest. The payload says
nothing of the dtype of the array, so that the dtype may be chosen when the largest count is known.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numba import njit

from eds_chunked.kernels.sparse import Csr, channel_dtype, from_dense, take_channels

Array = np.ndarray[Any, Any]

VERSION = 1
_SPARSE, _DENSE = 0, 1
# version, mode, bytes a value (dense), zero; pixels, channels; non-zero values, bytes of the long steps
_HEADER = struct.Struct("<BBBBIIQQ")

HEADER_BYTES = _HEADER.size

_STEP_BITS = 5
_LONG_STEP = (1 << _STEP_BITS) - 1
_LONG_COUNT = (1 << (8 - _STEP_BITS)) - 1
_LONGEST_INTEGER = 5
"""Bytes of a variable-length integer below 2^35: counts and channels are below 2^32."""

_RUN = 4096
"""Tokens whose escapes are looked for at a time: they stay in the first-level cache, and 16 bits number them."""

_OK, _BAD_LENGTH, _BAD_CHANNEL, _BAD_COUNT, _BAD_INTEGER = range(5)


def encode(counts: Csr) -> bytes:
    """Encode the counts of a block: values are unsigned integers above 0 and below 2^32, channels rise in a pixel."""
    n_values = len(counts.value)
    n_steps, n_counts, largest = _measure(counts.indptr, counts.channel, counts.value)
    lengths = np.diff(counts.indptr).astype(_length_dtype(counts.n_channels))
    n_sparse = lengths.nbytes + n_values + n_steps + n_counts
    itemsize = np.min_scalar_type(largest).itemsize
    if n_sparse > counts.n_pixels * counts.n_channels * itemsize:
        return _header(_DENSE, itemsize, counts, 0, 0) + _planes(counts, itemsize)
    body = np.empty(n_sparse - lengths.nbytes, np.uint8)
    tokens, steps, longs = body[:n_values], body[n_values : n_values + n_steps], body[n_values + n_steps :]
    _fill(counts.indptr, counts.channel, counts.value, tokens, steps, longs)
    return b"".join((_header(_SPARSE, 0, counts, n_values, n_steps), lengths.data, body.data))


def decode(payload: Array | bytes, n_pixels: int, n_channels: int, channels: slice, dtype: np.dtype[Any]) -> Csr:
    """Decode a payload, of ``n_pixels`` pixels and ``n_channels`` channels, to the counts in a range of channels.

    Raises
    ------
    ValueError
        The payload is no such block, or holds a count that ``dtype`` cannot. No byte outside of it is ever read.
    """
    data = np.frombuffer(payload, np.uint8)
    data.flags.writeable = False  # one type for numba, whatever the payload came in
    if len(data) < _HEADER.size:
        raise ValueError(f"{len(data)} bytes, where a header takes {_HEADER.size}")
    version, mode, itemsize, zero, pixels, depth, n_values, n_steps = _HEADER.unpack_from(data.data)
    if (version, zero) != (VERSION, 0):
        raise ValueError(f"counts encoded as version {version}, where {VERSION} is known")
    if (pixels, depth) != (n_pixels, n_channels):
        raise ValueError(f"{pixels} pixels of {depth} channels, where {n_pixels} of {n_channels} were expected")
    if (mode == _SPARSE and itemsize) or (mode == _DENSE and (n_values or n_steps)):
        raise ValueError("fields of the other mode, where zeros were expected")
    data = data[_HEADER.size :]
    if mode == _DENSE:
        return _from_planes(data, n_pixels, n_channels, itemsize, channels, dtype)
    if mode != _SPARSE:
        raise ValueError(f"mode {mode}, where {_SPARSE} and {_DENSE} are known")
    lengths = n_pixels * _length_dtype(n_channels).itemsize
    if lengths + n_values + n_steps > len(data):
        raise ValueError(f"{len(data)} bytes, where at least {lengths + n_values + n_steps} were expected")
    first, second = lengths + n_values, lengths + n_values + n_steps
    whole = Csr(
        np.empty(n_pixels + 1, np.int64),
        np.empty(n_values, channel_dtype(n_channels)),
        np.empty(n_values, dtype),
        n_channels,
    )
    # Copied, since a view of bytes may be unaligned.
    n_of_pixels = np.frombuffer(data[:lengths].tobytes(), _length_dtype(n_channels))
    status = _read(
        n_of_pixels, data[lengths:first], data[first:second], data[second:], n_channels, np.iinfo(dtype).max,
        whole.indptr, whole.channel, whole.value,
    )  # fmt: skip
    if status != _OK:
        raise ValueError(_EXPLAINED[status])
    return take_channels(whole, channels)


def _length_dtype(n_channels: int) -> np.dtype[Any]:
    return np.dtype("<u2" if n_channels < 1 << 16 else "<u4")


def _header(mode: int, itemsize: int, counts: Csr, n_values: int, n_steps: int) -> bytes:
    return _HEADER.pack(VERSION, mode, itemsize, 0, counts.n_pixels, counts.n_channels, n_values, n_steps)


def _planes(counts: Csr, itemsize: int) -> bytes:
    """All lowest bytes, then all second ones, and so on: planes compress where whole values do not."""
    dense = np.zeros((counts.n_pixels, counts.n_channels), f"<u{itemsize}")
    pixel = np.repeat(np.arange(counts.n_pixels), np.diff(counts.indptr))
    dense[pixel, counts.channel] = counts.value
    return dense.view(np.uint8).reshape(-1, itemsize).T.tobytes()


def _from_planes(
    data: Array, n_pixels: int, n_channels: int, itemsize: int, channels: slice, dtype: np.dtype[Any]
) -> Csr:
    if itemsize not in (1, 2, 4) or len(data) != n_pixels * n_channels * itemsize:
        raise ValueError(f"{len(data)} bytes of dense values of {itemsize}, where {n_pixels * n_channels} values fit")
    dense = np.ascontiguousarray(data.reshape(itemsize, -1).T).view(f"<u{itemsize}").reshape(n_pixels, n_channels)
    if dense.max(initial=0) > np.iinfo(dtype).max:
        raise ValueError(_EXPLAINED[_BAD_COUNT])
    return from_dense(dense[:, channels].astype(dtype))


_EXPLAINED = {
    _BAD_LENGTH: "streams of other lengths than the pixels say",
    _BAD_CHANNEL: "a count beyond the last channel",
    _BAD_COUNT: "a count that the dtype of the array cannot hold",
    _BAD_INTEGER: "a variable-length integer that does not end",
}


@njit(nogil=True, cache=True)
def _measure(indptr: Array, channel: Array, value: Array) -> tuple[int, int, int]:
    """Bytes of the long steps and of the long counts, and the largest count."""
    n_steps = n_counts = 0
    # Below it nobody needs to know: one byte holds them all.
    largest = np.int64(_LONG_COUNT)
    for i in range(len(indptr) - 1):
        row_channel, row_value = channel[indptr[i] : indptr[i + 1]], value[indptr[i] : indptr[i + 1]]
        last = np.int64(-1)
        for k in range(len(row_channel)):
            here, count = np.int64(row_channel[k]), np.int64(row_value[k])
            if here - last > _LONG_STEP:
                n_steps += _integer_length(here - last - 1 - _LONG_STEP)
            if count > _LONG_COUNT:
                n_counts += _integer_length(count - 1 - _LONG_COUNT)
                if count > largest:
                    largest = count
            last = here
    return n_steps, n_counts, int(largest)


@njit(nogil=True, cache=True)
def _integer_length(number: int) -> int:
    n = 1
    while number >= 128:
        number >>= 7
        n += 1
    return n


@njit(nogil=True, cache=True)
def _put_integer(stream: Array, at: int, number: int) -> int:
    while number >= 128:
        stream[at] = (number & 127) | 128
        number >>= 7
        at += 1
    stream[at] = number
    return at + 1


@njit(nogil=True, cache=True)
def _fill(indptr: Array, channel: Array, value: Array, tokens: Array, steps: Array, counts: Array) -> None:
    at_step = at_count = 0
    for i in range(len(indptr) - 1):
        row = slice(indptr[i], indptr[i + 1])
        row_channel, row_value, row_tokens = channel[row], value[row], tokens[row]
        last = np.int64(-1)
        for k in range(len(row_tokens)):
            here = np.int64(row_channel[k])
            step, count = here - last - 1, np.int64(row_value[k]) - 1
            last = here
            if step >= _LONG_STEP:
                at_step = _put_integer(steps, at_step, step - _LONG_STEP)
                step = np.int64(_LONG_STEP)
            if count >= _LONG_COUNT:
                at_count = _put_integer(counts, at_count, count - _LONG_COUNT)
                count = np.int64(_LONG_COUNT)
            row_tokens[k] = step | (count << _STEP_BITS)


@njit(nogil=True, cache=True)
def _take_integer(stream: Array, at: int) -> tuple[Any, int]:
    """Return the integer at ``at`` and where the next begins; -1 for one that does not end in time."""
    number = shift = np.int64(0)
    while at < len(stream) and shift < 7 * _LONGEST_INTEGER:
        byte = np.int64(stream[at])
        at += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, at
        shift += 7
    return np.int64(-1), at


@njit(nogil=True, cache=True)
def _read(
    lengths: Array,
    tokens: Array,
    steps: Array,
    counts: Array,
    n_channels: int,
    most: int,
    indptr: Array,
    channel: Array,
    value: Array,
) -> int:
    """Turn the streams into CSR; the arrays have room for a value of every token.

    A branch on every token would be mispredicted at most escapes, which takes longer than all the rest. So the escapes
    of a run of tokens are listed without a branch, and filled in after.
    """
    long_steps, long_counts = np.empty(_RUN, np.uint16), np.empty(_RUN, np.uint16)
    at_step = at_count = 0
    for first in range(0, len(tokens), _RUN):
        run = slice(first, first + _RUN)
        run_tokens, run_steps, run_value = tokens[run], channel[run], value[run]
        for k in range(len(run_tokens)):
            run_steps[k] = run_tokens[k] & np.uint8(_LONG_STEP)
            run_value[k] = (run_tokens[k] >> np.uint8(_STEP_BITS)) + np.uint8(1)
        # Unsigned, since numba looks after negative indices.
        n_steps = n_counts = np.uint64(0)
        for k in range(len(run_tokens)):
            long_steps[n_steps] = k
            long_counts[n_counts] = k
            n_steps += np.uint64((run_tokens[k] & np.uint8(_LONG_STEP)) == _LONG_STEP)
            n_counts += np.uint64(run_tokens[k] >= np.uint8(_LONG_COUNT << _STEP_BITS))
        for k in long_steps[:n_steps]:
            more, at_step = _take_integer(steps, at_step)
            if more < 0:
                return _BAD_INTEGER
            if more >= n_channels - _LONG_STEP:
                return _BAD_CHANNEL
            run_steps[k] = _LONG_STEP + more
        for k in long_counts[:n_counts]:
            more, at_count = _take_integer(counts, at_count)
            if more < 0:
                return _BAD_INTEGER
            if more >= most - _LONG_COUNT:
                return _BAD_COUNT
            run_value[k] = _LONG_COUNT + more + 1
    if at_step != len(steps) or at_count != len(counts):
        return _BAD_LENGTH
    status: int = _add_up(lengths, n_channels, indptr, channel)
    return status


@njit(nogil=True, cache=True)
def _add_up(lengths: Array, n_channels: int, indptr: Array, channel: Array) -> int:
    """Turn the steps of each pixel, less one, into channels, in place."""
    at: Any = 0
    indptr[0] = 0
    for i in range(len(lengths)):
        end = at + np.int64(lengths[i])
        if end > len(channel):
            return _BAD_LENGTH
        row = channel[at:end]
        here: Any = np.int64(-1)
        fours = len(row) & ~3
        # By fours, so that one addition waits for another only once in four.
        for k in range(0, fours, 4):
            first = np.int64(row[k]) + 1
            second = first + np.int64(row[k + 1]) + 1
            third = second + np.int64(row[k + 2]) + 1
            fourth = third + np.int64(row[k + 3]) + 1
            row[k], row[k + 1], row[k + 2], row[k + 3] = here + first, here + second, here + third, here + fourth
            here += fourth
        for k in range(fours, len(row)):
            here += np.int64(row[k]) + 1
            row[k] = here
        # Channels rise, so the last one speaks for all; nothing was indexed by them.
        if here >= n_channels:
            return _BAD_CHANNEL
        at = end
        indptr[i + 1] = at
    return _OK if at == len(channel) else _BAD_LENGTH
