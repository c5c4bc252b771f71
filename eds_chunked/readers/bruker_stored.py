"""Stored bytes of a file in a Bruker container, as a cursor over its chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from eds_chunked.errors import SourceError
from eds_chunked.readers.bruker_blocks import Block

if TYPE_CHECKING:
    from eds_chunked.readers.bruker_container import Container

CHUNK_HEAD = 32
"""Bytes before the payload of a chunk."""


class Stored:
    """A place in the stored bytes; chunks are read when they are reached, and what is skipped is not."""

    def __init__(self, container: Container, handle: BinaryIO, name: str) -> None:
        self._container, self._handle, self._name = container, handle, name
        self._pointers, self._damage = container.pointers(handle, name)
        self._size = container.files[name].size
        self._room = container.chunk_size - CHUNK_HEAD
        # What is in memory: the bytes from _start on.
        self._start, self._part = 0, memoryview(b"")
        self.position = 0

    @property
    def left(self) -> int:
        return self._size - self.position

    def take(self, n: int) -> memoryview:
        """Return the next ``n`` bytes, at most ``left``."""
        self._load(n)
        return self._cut(n)

    def take_some(self, most: int) -> memoryview:
        """Return between one and ``most`` of the bytes that are left: up to the next damage, if there is any."""
        if not self._here:
            self._load(1, most)
        return self._cut(min(most, self._here))

    def take_all_there(self, n: int) -> bytes:
        """Return the next ``n`` bytes (at most ``left``), or those of them that come before damage."""
        parts: list[Block] = []
        try:
            while n:
                parts.append(self.take_some(n))
                n -= len(parts[-1])
        except SourceError:
            pass
        return b"".join(parts)

    def peek(self, n: int) -> memoryview:
        """Return the next ``n`` bytes (fewer at the end) and stay where we are."""
        self._load(min(n, self.left))
        return self._part[self.position - self._start :][:n]

    def skip(self, n: int) -> None:
        """Go on by ``n`` bytes, at most ``left``."""
        self.position += n

    @property
    def _here(self) -> int:
        return max(0, self._start + len(self._part) - self.position)

    def _cut(self, n: int) -> memoryview:
        at = self.position - self._start
        taken, self._part = self._part[at : at + n], self._part[at + n :]
        self.position += n
        self._start = self.position
        return taken

    def _load(self, least: int, most: int = 0) -> None:
        """Have the next ``least`` bytes in memory, and up to ``most`` where they come in the same read."""
        if self._here >= least:
            return
        if self._here == 0:
            self._start, self._part = self.position // self._room * self._room, memoryview(b"")
        parts, end = [self._part], self._start + len(self._part)
        while end < self.position + least:
            chunk = end // self._room
            wanted = self._pointers[chunk : -(-(self.position + max(least, most)) // self._room)]
            if not len(wanted):
                assert self._damage is not None
                raise self._damage
            breaks = np.flatnonzero(np.diff(wanted) != 1)
            n = int(breaks[0]) + 1 if len(breaks) else len(wanted)
            chunks = self._container.payloads(self._handle, int(wanted[0]), n, self._name)
            parts.append(chunks[:, CHUNK_HEAD:].reshape(-1)[: self._size - end].data)
            end += len(parts[-1])
        self._part = memoryview(b"".join(parts)) if len(parts) > 2 or len(parts[0]) else parts[-1]
