"""Blocks of a compressed file in a Bruker container: inflated and checked, and that in threads ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
from isal import isal_zlib

from eds_chunked.memory import n_cpus

Array = np.ndarray[Any, Any]
Block = bytes | memoryview

_MOST_THREADS = 4
_AHEAD = 3
# Tables of the checksum and what the threads themselves take.
_FIXED_BYTES = 8 << 20


@cache
def _advance(power: int) -> Array:
    """CRC-16/ARC of every 16-bit state after ``2 << power`` zero bytes."""
    if power:
        half = _advance(power - 1)
        return half[half]
    state = np.arange(1 << 16, dtype=np.uint32)
    for _ in range(16):
        state = np.where(state & 1, (state >> 1) ^ 0xA001, state >> 1)
    return state.astype(np.uint16)


def crc16(data: Block) -> int:
    """Return the CRC-16/ARC (polynomial 0x8005 reflected, start 0) of ``data``.

    A CRC that starts at 0 is linear: the CRC of two halves is that of the first, advanced by the length of the second,
    XOR that of the second. So the data (padded in front with zeros, which change nothing) are folded in half until one
    word is left: about 1 GB/s in NumPy, without the GIL and without a compiler.
    """
    if not data:
        return 0
    power = max(0, (len(data) - 1).bit_length() - 1)
    octets = np.frombuffer(data, np.uint8)
    if len(data) != 2 << power:
        octets = np.concatenate([np.zeros((2 << power) - len(data), np.uint8), octets])
    words = octets.view("<u2")
    for level in reversed(range(power)):
        half = len(words) // 2
        words = _advance(level).take(words[:half]) ^ words[half:]
    return int(_advance(0)[words[0]])


def inflate(packed: Block, size: int, crc: int) -> bytes:
    """Return the block of ``size`` bytes that ``packed`` holds.

    Raises
    ------
    ValueError
        It is no zlib stream of that size and checksum; the two arguments are what was found and what was expected.
    """
    # ISA-L inflates twice as fast as zlib. One byte more than declared is asked for: it then reads on to its own end
    # mark, and a bomb stops there.
    inflater = isal_zlib.decompressobj()
    try:
        block = inflater.decompress(packed, size + 1)
    except isal_zlib.IsalError as error:  # type: ignore[misc]  # its stubs call it no exception
        raise ValueError(f"damaged zlib data ({error})", f"{size} bytes") from error
    if len(block) != size or not inflater.eof or inflater.unused_data:
        found = f"more than {size} bytes" if len(block) > size else f"{len(block)} bytes"
        raise ValueError(f"{found} after decompression", f"one zlib stream of {size} bytes")
    if crc16(block) != crc:
        raise ValueError(f"CRC-16 {crc16(block):#06x}", f"{crc:#06x}")
    return block


def inflate_part(packed: Block, size: int) -> bytes:
    """Return what can be had of a block of ``size`` bytes from the beginning of its zlib stream."""
    try:
        return bytes(isal_zlib.decompressobj().decompress(packed, size))
    except isal_zlib.IsalError:  # type: ignore[misc]  # its stubs call it no exception
        return b""


def _n_threads() -> int:
    # One processor is for decoding: with two threads on two of them a conversion takes 9.1 s, with one 8.4 s.
    return min(max(1, n_cpus() - 1), _MOST_THREADS)


def ahead_bytes(block_size: int) -> int:
    """Bytes that :func:`unpack_ahead` and its consumer hold at most, for blocks of ``block_size`` bytes."""
    # Those in flight, that of the consumer and the one before it; each with its source, its copy or its checksum.
    return _FIXED_BYTES + 2 * (_n_threads() + _AHEAD + 2) * block_size


def unpack_ahead(packed: Iterator[Callable[[], Block]]) -> Generator[Block]:
    """Call what ``packed`` yields in several threads, a few ahead of the consumer, and yield the results in order.

    ISA-L and NumPy release the GIL, so unpacking overlaps with decoding. An error comes out where its block would have.
    """
    pending: deque[Future[Block | None]] = deque()
    with ThreadPoolExecutor(1, "bcf-read") as reading, ThreadPoolExecutor(_n_threads(), "bcf-inflate") as unpacking:

        def submit() -> None:
            # One thread reads, in the order of the file; after the end, or an error, there is nothing more to read.
            source = reading.submit(next, packed, None)
            pending.append(unpacking.submit(_unpack, source))

        for _ in range(_n_threads() + _AHEAD):
            submit()
        while (block := pending.popleft().result()) is not None:
            submit()
            yield block


def _unpack(source: Future[Callable[[], Block] | None]) -> Block | None:
    unpack = source.result()
    return None if unpack is None else unpack()
