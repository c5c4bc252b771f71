"""The count codec in plain Python, written from docs/count-codec.md: the twin that the kernels are held against."""

from __future__ import annotations

import struct

import numpy as np

Array = np.ndarray


def _integer(number: int) -> list[int]:
    out = []
    while number >= 128:
        out.append(number % 128 + 128)
        number //= 128
    return [*out, number]


def _integers(data: bytes) -> list[int]:
    numbers, number, shift = [], 0, 0
    for byte in data:
        number += (byte % 128) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    assert shift == 0
    return numbers


def encode(dense: Array) -> bytes:
    """Encode (pixels, channels)."""
    n_pixels, n_channels = dense.shape
    lengths = (dense > 0).sum(axis=1).astype("<u2" if n_channels < 65536 else "<u4")
    tokens, steps, counts = [], [], []
    for row in dense:
        last = -1
        for channel in np.flatnonzero(row).tolist():
            step, count = channel - last - 1, int(row[channel]) - 1
            last = channel
            tokens.append(min(step, 31) + 32 * min(count, 7))
            if step >= 31:
                steps += _integer(step - 31)
            if count >= 7:
                counts += _integer(count - 7)
    largest = int(dense.max(initial=0))
    width = 1 if largest < 256 else 2 if largest < 65536 else 4
    body = lengths.tobytes() + bytes(tokens) + bytes(steps) + bytes(counts)
    if len(body) > n_pixels * n_channels * width:
        values = dense.astype("<u8").ravel()
        planes = b"".join(((values >> (8 * i)) & 255).astype("u1").tobytes() for i in range(width))
        return struct.pack("<4B2I2Q", 1, 1, width, 0, n_pixels, n_channels, 0, 0) + planes
    return struct.pack("<4B2I2Q", 1, 0, 0, 0, n_pixels, n_channels, len(tokens), len(steps)) + body


def decode(payload: bytes) -> Array:
    """Decode to (pixels, channels) of uint64."""
    version, mode, width, zero, n_pixels, n_channels, n_values, n_steps = struct.unpack_from("<4B2I2Q", payload)
    assert (version, zero) == (1, 0)
    body = payload[28:]
    out = np.zeros((n_pixels, n_channels), np.uint64)
    if mode == 1:
        planes = np.frombuffer(body, "u1").reshape(width, n_pixels, n_channels)
        for i, plane in enumerate(planes):
            out += plane.astype(np.uint64) << np.uint64(8 * i)
        return out
    size = n_pixels * (2 if n_channels < 65536 else 4)
    lengths = np.frombuffer(body[:size], "<u2" if n_channels < 65536 else "<u4")
    tokens = iter(body[size : size + n_values])
    steps = iter(_integers(body[size + n_values : size + n_values + n_steps]))
    counts = iter(_integers(body[size + n_values + n_steps :]))
    for row, length in zip(out, lengths, strict=True):
        channel = -1
        for _ in range(length):
            token = next(tokens)
            step, count = token % 32, token // 32
            channel += 1 + step + (next(steps) if step == 31 else 0)
            row[channel] = 1 + count + (next(counts) if count == 7 else 0)
    assert next(tokens, None) is next(steps, None) is next(counts, None) is None
    return out
