"""Counts of a block of pixels in compressed rows (CSR), and back.

EDS blocks are sparse: 0.3 to 40 % of the values are non-zero. A block is turned into CSR once, and every other kernel
works on that. The channel of a value is uint16 (uint32 above 65 536 channels), values keep the dtype of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

Array = np.ndarray[Any, Any]


class Csr(NamedTuple):
    """Compressed rows: pixel ``i`` has counts ``value[indptr[i]:indptr[i+1]]`` in ``channel[...]``, channels rising."""

    indptr: Array
    channel: Array
    value: Array
    n_channels: int

    @property
    def n_pixels(self) -> int:
        return len(self.indptr) - 1


def channel_dtype(n_channels: int) -> np.dtype[Any]:
    """Return the dtype of channel numbers for that many channels."""
    return np.dtype(np.uint16 if n_channels <= 65536 else np.uint32)


@njit(nogil=True, cache=True)
def _count_nonzero(block: Array, indptr: Array) -> None:
    total = 0
    indptr[0] = 0
    for i in range(block.shape[0]):
        n = 0
        for c in range(block.shape[1]):
            n += block[i, c] != 0
        total += n
        indptr[i + 1] = total


@njit(nogil=True, cache=True)
def _fill_rows(block: Array, channel: Array, value: Array) -> None:
    k = 0
    for i in range(block.shape[0]):
        for c in range(block.shape[1]):
            v = block[i, c]
            if v != 0:
                channel[k] = c
                value[k] = v
                k += 1


@njit(nogil=True, cache=True)
def _scatter_rows(indptr: Array, channel: Array, value: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            out[i, channel[k]] = value[k]


@njit(nogil=True, cache=True)
def _copy_rows(
    indptr: Array, channel: Array, value: Array, pixels: Array, place: Array, out_channel: Array, out_value: Array
) -> None:
    for i in range(len(pixels)):
        at = place[i]
        for k in range(np.uint64(indptr[pixels[i]]), np.uint64(indptr[pixels[i] + 1])):
            out_channel[at] = channel[k]
            out_value[at] = value[k]
            at += 1


@njit(nogil=True, cache=True)
def _find_channels(indptr: Array, channel: Array, first: int, stop: int, start: Array, length: Array) -> None:
    """Where the values of each pixel in the channels ``first:stop`` begin, and how many there are."""
    for i in range(len(indptr) - 1):
        row = channel[indptr[i] : indptr[i + 1]]
        a = np.searchsorted(row, first)
        start[i] = indptr[i] + a
        length[i] = np.searchsorted(row[a:], stop)


@njit(nogil=True, cache=True)
def _copy_channels(
    start: Array, first: int, indptr: Array, channel: Array, value: Array, out_channel: Array, out_value: Array
) -> None:
    for i in range(len(indptr) - 1):
        n = indptr[i + 1] - indptr[i]
        from_channel, from_value = channel[start[i] : start[i] + n], value[start[i] : start[i] + n]
        to_channel, to_value = out_channel[indptr[i] : indptr[i] + n], out_value[indptr[i] : indptr[i] + n]
        for k in range(n):
            to_channel[k] = from_channel[k] - first
            to_value[k] = from_value[k]


@njit(nogil=True, cache=True)
def _keep(
    indptr: Array,
    channel: Array,
    value: Array,
    used: Array,
    place: Array,
    out_indptr: Array,
    out_channel: Array,
    out_value: Array,
) -> None:
    n = np.uint64(0)
    for i in range(len(indptr) - 1):
        if used[i]:
            for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
                c = place[channel[k]]
                if c >= 0:
                    out_channel[n] = c
                    out_value[n] = value[k]
                    n += np.uint64(1)
        out_indptr[i + 1] = n


@njit(nogil=True, cache=True)
def _scale(indptr: Array, channel: Array, value: Array, pixel_root: Array, channel_root: Array, out: Array) -> None:
    for i in range(len(indptr) - 1):
        for k in range(np.uint64(indptr[i]), np.uint64(indptr[i + 1])):
            out[k] = value[k] / (pixel_root[i] * channel_root[channel[k]])


def from_dense(block: Array) -> Csr:
    """Compress a block of shape (pixels, channels); values become native, and floats 32 or 64 bits wide."""
    dtype = block.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize not in (4, 8):
        dtype = np.dtype(np.float32 if dtype.itemsize < 4 else np.float64)
    block = np.ascontiguousarray(block, dtype)
    n_pixels, n_channels = block.shape
    indptr = np.empty(n_pixels + 1, np.int64)
    _count_nonzero(block, indptr)
    channel = np.empty(indptr[-1], channel_dtype(n_channels))
    value = np.empty(indptr[-1], block.dtype)
    _fill_rows(block, channel, value)
    return Csr(indptr, channel, value, n_channels)


def to_dense(csr: Csr, dtype: np.dtype[Any] | type | None = None) -> Array:
    """Expand to shape (pixels, channels) in ``dtype`` (default: that of the values)."""
    out = np.zeros((csr.n_pixels, csr.n_channels), csr.value.dtype if dtype is None else dtype)
    _scatter_rows(csr.indptr, csr.channel, csr.value, out)
    return out


def take_pixels(csr: Csr, pixels: Array) -> Csr:
    """Return the rows ``pixels`` (indices of at least 0, any order) as a new CSR."""
    indptr = np.zeros(len(pixels) + 1, np.int64)
    np.cumsum(csr.indptr[pixels + 1] - csr.indptr[pixels], out=indptr[1:])
    taken = Csr(indptr, np.empty(indptr[-1], csr.channel.dtype), np.empty(indptr[-1], csr.value.dtype), csr.n_channels)
    _copy_rows(csr.indptr, csr.channel, csr.value, pixels, indptr[:-1], taken.channel, taken.value)
    return taken


def take_channels(csr: Csr, channels: slice) -> Csr:
    """Return the counts in a range of channels, which then begin at 0."""
    first, stop = channels.start, channels.stop
    if (first, stop) == (0, csr.n_channels):
        return csr
    start, length = np.empty(csr.n_pixels, np.int64), np.empty(csr.n_pixels, np.int64)
    _find_channels(csr.indptr, csr.channel, first, stop, start, length)
    indptr = np.zeros(csr.n_pixels + 1, np.int64)
    np.cumsum(length, out=indptr[1:])
    channel = np.empty(indptr[-1], channel_dtype(stop - first))
    taken = Csr(indptr, channel, np.empty(indptr[-1], csr.value.dtype), stop - first)
    _copy_channels(start, first, indptr, csr.channel, csr.value, channel, taken.value)
    return taken


def keep(csr: Csr, *, pixels: Array | None = None, channels: Array | None = None) -> Csr:
    """Leave out pixels and channels.

    Parameters
    ----------
    csr
        Counts of a block.
    pixels
        bool (pixels,); a pixel that is not kept stays as an empty row. None keeps all.
    channels
        bool (channels,); those that are kept move together, in their order. None keeps all.
    """
    used = np.ones(csr.n_pixels, np.bool_) if pixels is None else pixels
    kept = np.ones(csr.n_channels, np.bool_) if channels is None else channels
    place = np.where(kept, np.cumsum(kept) - 1, -1)
    n_channels = int(kept.sum())
    indptr = np.zeros(csr.n_pixels + 1, np.int64)
    channel = np.empty(len(csr.channel), channel_dtype(n_channels))
    value = np.empty(len(csr.value), csr.value.dtype)
    _keep(csr.indptr, csr.channel, csr.value, used, place, indptr, channel, value)
    return Csr(indptr, channel[: indptr[-1]], value[: indptr[-1]], n_channels)


def gather_pixels(parts: Sequence[Csr], order: Array) -> Csr:
    """Stack blocks that have the same channels and sort their pixels: pixel ``order[i]`` of the stack becomes pixel i.

    The parts and the result are all that is ever held.
    """
    lengths = np.concatenate([np.diff(part.indptr) for part in parts])
    indptr = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths[order], out=indptr[1:])
    start = np.empty(len(lengths), np.int64)
    start[order] = indptr[:-1]
    first = parts[0]
    stack = Csr(
        indptr, np.empty(indptr[-1], first.channel.dtype), np.empty(indptr[-1], first.value.dtype), first.n_channels
    )
    done = 0
    for part in parts:
        place = start[done : done + part.n_pixels]
        _copy_rows(part.indptr, part.channel, part.value, np.arange(part.n_pixels), place, stack.channel, stack.value)
        done += part.n_pixels
    return stack


def scaled_values(csr: Csr, pixel_root: Array, channel_root: Array) -> Array:
    """Return the values divided by the roots of their pixel and their channel: float32, as long as the values."""
    out = np.empty(len(csr.value), np.float32)
    _scale(csr.indptr, csr.channel, csr.value, pixel_root, channel_root, out)
    return out


def pad_pixels(csr: Csr, shape: tuple[int, int], padded: tuple[int, int]) -> Csr:
    """Return a block of ``shape`` (rows, columns) as the corner of a larger one whose other pixels are empty."""
    if shape == padded:
        return csr
    lengths = np.zeros(padded, np.int64)
    lengths[: shape[0], : shape[1]] = np.diff(csr.indptr).reshape(shape)
    indptr = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return csr._replace(indptr=indptr)


def concatenate(parts: list[Csr]) -> Csr:
    """Stack blocks that have the same channels, in the order given."""
    offsets = np.cumsum([0] + [part.indptr[-1] for part in parts])
    indptr = np.concatenate([[0]] + [part.indptr[1:] + start for part, start in zip(parts, offsets, strict=False)])
    return Csr(
        indptr.astype(np.int64),
        np.concatenate([part.channel for part in parts]),
        np.concatenate([part.value for part in parts]),
        parts[0].n_channels,
    )
