"""The container of a Bruker .bcf file: a single-file system ("SFS") of chunks, tables and zlib blocks.

Everything that is read is checked: the XOR-32 of every chunk, the CRC-16 of every zlib block, and that tables and
folders neither loop nor point outside. Sizes that the file declares are compared with what the file can hold before
anything is allocated, so a damaged or hostile file costs bounded time and memory and ends in one SourceError.
"""

from __future__ import annotations

import os
import queue
import struct
import threading
import warnings
import zlib
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from eds_chunked.errors import SourceError, SourceNotFoundError

Array = np.ndarray[Any, Any]

_PROLOGUE = 0x118
_CHUNK_HEAD = 32
_ENTRY = 512
_DIRECTORY, _TABLE = 1, 5
_SMALLEST_CHUNK = _CHUNK_HEAD + _ENTRY
_LARGEST_CHUNK = 1 << 24
_MOST_ENTRIES = 1 << 16
_DEEPEST_FOLDER = 50
_BLOCK_FILE_HEAD = 128
_ZLIB = 1
_LARGEST_BLOCK = 1 << 24
_READ_AT_ONCE = 1 << 20
_AGAIN = "copy the file from the microscope again"


class Entry(NamedTuple):
    """A file inside the container: the chunk of its first pointer table and its stored size."""

    first_table: int
    size: int


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


def crc16(data: bytes | memoryview) -> int:
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


class Container:
    """The directory of a .bcf file and checked access to the files in it.

    Parameters
    ----------
    path
        The .bcf file. It is opened for each stream anew, so a Container can be shared between threads.

    Raises
    ------
    SourceNotFoundError
        There is no such file.
    SourceError
        It is not such a container, or its directory is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise SourceNotFoundError(
                f"file {self.path}",
                found="a folder" if self.path.is_dir() else "nothing",
                expected="a Bruker .bcf file",
                fix="check the path",
            )
        with self.path.open("rb") as handle:
            self._read_geometry(handle)
            self.files = self._read_directory(handle)

    def fail(self, where: str, *, found: object, expected: object, fix: str = _AGAIN) -> NoReturn:
        """Raise the SourceError of this file."""
        raise SourceError(f"{self.path}, {where}", found=found, expected=expected, fix=fix)

    # ------------------------------------------------------------------------------------------------ structure
    def _read_geometry(self, handle: BinaryIO) -> None:
        head = handle.read(_PROLOGUE + 0x34)
        file_size = os.fstat(handle.fileno()).st_size
        if head[:8] != b"AAMVHFSS":
            self.fail(
                "byte 0",
                found=head[:8] or "an empty file",
                expected=b"AAMVHFSS, a Bruker .bcf hypermap",
                fix="give a .bcf written by Esprit (genomics files have the same extension)",
            )
        if len(head) < _PROLOGUE + 0x34 or head[_PROLOGUE : _PROLOGUE + 8] != b"AASFSSGN":
            self.fail(f"byte {_PROLOGUE:#x}", found=head[_PROLOGUE : _PROLOGUE + 8], expected=b"AASFSSGN")
        self.chunk_size: int = struct.unpack_from("<I", head, 0x128)[0]
        self._directory, self._n_entries = struct.unpack_from("<II", head, 0x140)
        self.n_chunks: int = struct.unpack_from("<I", head, 0x148)[0]
        if not _SMALLEST_CHUNK <= self.chunk_size <= _LARGEST_CHUNK:
            self.fail(
                "byte 0x128",
                found=f"chunks of {self.chunk_size} bytes",
                expected=f"{_SMALLEST_CHUNK} to {_LARGEST_CHUNK} bytes",
            )
        self._room = self.chunk_size - _CHUNK_HEAD
        self._present = (file_size - _PROLOGUE) // self.chunk_size
        if self._present < self.n_chunks:
            # Whether something that is needed is missing shows when it is read.
            warnings.warn(
                f"{self.path} is truncated: {file_size} bytes of {_PROLOGUE + self.n_chunks * self.chunk_size} are "
                "here. The map is read as long as only unused space is missing.",
                stacklevel=4,
            )

    def _offset(self, chunk: int) -> int:
        return _PROLOGUE + chunk * self.chunk_size

    def _check_chunks(self, chunks: Array, owner: str) -> None:
        outside = (chunks < 1) | (chunks >= self.n_chunks)
        if outside.any():
            self.fail(owner, found=f"chunk number {chunks[outside][0]}", expected=f"1 to {self.n_chunks - 1}")
        missing = chunks >= self._present
        if missing.any():
            self.fail(
                f"{owner}, byte {self._offset(int(chunks[missing][0])):#x}",
                found="the end of the file (truncated)",
                expected=f"chunk {chunks[missing][0]} of {self.n_chunks}",
            )

    def _payloads(self, handle: BinaryIO, first: int, n: int, owner: str) -> Array:
        """Read ``n`` neighbouring chunks, check their XOR, return (n, chunk_size) bytes with their heads."""
        handle.seek(self._offset(first))
        raw = np.frombuffer(handle.read(n * self.chunk_size), np.uint8)
        if len(raw) != n * self.chunk_size:
            self.fail(f"{owner}, byte {self._offset(first):#x}", found=f"{len(raw)} bytes", expected="whole chunks")
        chunks = raw.reshape(n, self.chunk_size)
        used = chunks[:, : _CHUNK_HEAD + self._room // 4 * 4]
        words = (used if used.shape[1] == self.chunk_size else np.ascontiguousarray(used)).view("<u4")
        xor = np.bitwise_xor.reduce(words[:, _CHUNK_HEAD // 4 :], axis=1)
        wrong = np.flatnonzero(xor != words[:, 1])
        if len(wrong):
            i = int(wrong[0])
            self.fail(
                f"{owner}, chunk {first + i} at byte {self._offset(first + i):#x}",
                found=f"checksum (XOR) {xor[i]:#010x}",
                expected=f"{words[i, 1]:#010x}",
            )
        return chunks

    def _chain(self, handle: BinaryIO, first: int, n: int, kind: int, owner: str) -> list[Array]:
        """Follow ``n`` chained chunks of one kind; return their payloads."""
        payloads: list[Array] = []
        seen: set[int] = set()
        chunk = first
        while len(payloads) < n:
            self._check_chunks(np.array([chunk]), owner)
            if chunk in seen:
                self.fail(
                    f"{owner}, byte {self._offset(chunk):#x}",
                    found=f"a loop back to chunk {chunk}",
                    expected=f"a chain of {n} chunks",
                )
            seen.add(chunk)
            data = self._payloads(handle, chunk, 1, owner)[0]
            if data[8] != kind:
                self.fail(
                    f"{owner}, chunk {chunk} at byte {self._offset(chunk):#x}",
                    found=f"a chunk of kind {data[8]}",
                    expected=f"kind {kind}",
                )
            payloads.append(data[_CHUNK_HEAD:])
            chunk = int(data[:4].view("<u4")[0])
        return payloads

    def _read_directory(self, handle: BinaryIO) -> dict[str, Entry]:
        per_chunk = self._room // _ENTRY
        most = min(_MOST_ENTRIES, self.n_chunks * per_chunk)
        if not 1 <= self._n_entries <= most:
            self.fail("byte 0x144", found=f"{self._n_entries} directory entries", expected=f"1 to {most}")
        n_chunks = -(-self._n_entries // per_chunk)
        rows = b"".join(
            payload[: per_chunk * _ENTRY].tobytes()
            for payload in self._chain(handle, self._directory, n_chunks, _DIRECTORY, "directory")
        )
        names, parents, entries = [], [], []
        for i in range(self._n_entries):
            row = rows[i * _ENTRY : (i + 1) * _ENTRY]
            first_table, size = struct.unpack_from("<iQ", row)
            parents.append(struct.unpack_from("<i", row, 40)[0])
            names.append(row[224:480].split(b"\0", 1)[0].decode("cp1252", "replace"))
            entries.append(None if row[220] else Entry(first_table, size))
        files: dict[str, Entry] = {}
        for i, entry in enumerate(entries):
            parts, parent = [names[i]], parents[i]
            while parent != -1:
                # The vendor's folders are one deep, so a path of this length goes round in circles.
                if not 0 <= parent < len(names) or len(parts) > _DEEPEST_FOLDER:
                    self.fail(
                        f"directory entry {i} ({names[i]!r})",
                        found="a cyclic folder" if 0 <= parent < len(names) else f"parent {parent}",
                        expected=f"a folder, 0 to {len(names) - 1} or -1",
                    )
                parts.append(names[parent])
                parent = parents[parent]
            path = "/".join(reversed(parts))
            if entry is not None:
                if path in files:
                    self.fail(f"directory entry {i}", found=f"a second {path!r}", expected="one file of that name")
                files[path] = entry
        return files

    def _pointers(self, handle: BinaryIO, name: str) -> Array:
        """Chunk numbers of a file in file order."""
        entry = self.files[name]
        n = -(-entry.size // self._room)
        if not 0 < n < self.n_chunks:
            self.fail(
                f"directory entry {name!r}",
                found=f"{entry.size} bytes",
                expected=f"1 to {(self.n_chunks - 1) * self._room} bytes",
            )
        per_table = self._room // 4
        payloads = self._chain(handle, entry.first_table, -(-n // per_table), _TABLE, f"chunk table of {name}")
        pointers = np.concatenate([payload[: per_table * 4] for payload in payloads]).view("<u4")[:n].astype(np.int64)
        self._check_chunks(pointers, f"chunk table of {name}")
        ordered = np.sort(pointers)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            self.fail(f"chunk table of {name}", found=f"chunk {twice[0]} twice", expected="each chunk once")
        return pointers

    def check_disjoint(self, *names: str) -> None:
        """Check that the files ``names`` share no chunk."""
        with self.path.open("rb") as handle:
            pointers = np.sort(np.concatenate([self._pointers(handle, name) for name in names]))
        shared = pointers[1:][pointers[1:] == pointers[:-1]]
        if len(shared):
            self.fail(
                f"chunk {shared[0]} at byte {self._offset(int(shared[0])):#x}",
                found=f"a chunk of two files of {', '.join(names)}",
                expected="each chunk in one file",
            )

    # -------------------------------------------------------------------------------------------------- content
    def _stored(self, handle: BinaryIO, name: str) -> Iterator[memoryview]:
        """Yield the stored bytes of a file, about 1 MiB at a time."""
        pointers = self._pointers(handle, name)
        at_once = max(1, _READ_AT_ONCE // self.chunk_size)
        left = self.files[name].size
        start = 0
        while start < len(pointers):
            part = pointers[start : start + at_once]
            breaks = np.flatnonzero(np.diff(part) != 1)
            n = int(breaks[0]) + 1 if len(breaks) else len(part)
            chunks = self._payloads(handle, int(part[0]), n, name)
            payload = chunks[:, _CHUNK_HEAD:].reshape(-1)[:left]
            left -= len(payload)
            start += n
            yield payload.data

    def blocks(self, name: str) -> Iterator[bytes | memoryview]:
        """Yield the uncompressed content of the file ``name`` in order, every checksum verified.

        Memory: one block (512 KiB in all files of the vendor, 16 MiB at most) and its compressed bytes.
        """
        with self.path.open("rb") as handle:
            stored = self._stored(handle, name)
            first = next(stored)
            if bytes(first[:4]) != b"AACS":
                yield first
                yield from stored
            else:
                yield from self._inflate(_Bytes(first, stored, self.files[name].size), name)

    def _inflate(self, stored: _Bytes, name: str) -> Iterator[bytes]:
        head = stored.take(min(_BLOCK_FILE_HEAD, stored.left))
        if len(head) < _BLOCK_FILE_HEAD:
            self.fail(name, found=f"{len(head)} bytes", expected=f"a compression header of {_BLOCK_FILE_HEAD} bytes")
        block_size, _, n_blocks, _, method = struct.unpack_from("<IIIfB", head, 4)
        if method != _ZLIB:
            self.fail(
                f"{name}, byte 20",
                found=f"compression method {method}",
                expected=f"{_ZLIB} (zlib)",
                fix="save the map in Esprit without encryption and with the default compression",
            )
        if not 0 < block_size <= _LARGEST_BLOCK:
            self.fail(f"{name}, byte 4", found=f"blocks of {block_size} bytes", expected=f"1 to {_LARGEST_BLOCK}")
        for i in range(n_blocks):
            where = f"{name}, block {i} of {n_blocks} at stored byte {stored.position:#x}"
            if stored.left < 16:
                self.fail(where, found=f"{stored.left} bytes", expected="a block header of 16 bytes")
            packed_size, size, crc, _ = struct.unpack("<IIII", stored.take(16))
            if not 0 < size <= block_size:
                self.fail(where, found=f"a block of {size} bytes", expected=f"1 to {block_size} bytes")
            if not 0 < packed_size <= min(stored.left, 2 * size + 1024):
                self.fail(
                    where,
                    found=f"{packed_size} compressed bytes for {size}",
                    expected=f"1 to {min(stored.left, 2 * size + 1024)}",
                )
            # One byte more than declared is asked for: zlib then reads on to its own end mark, and a bomb stops there.
            inflater = zlib.decompressobj()
            try:
                block = inflater.decompress(stored.take(packed_size), size + 1)
            except zlib.error as error:
                self.fail(where, found=f"damaged zlib data ({error})", expected=f"{size} bytes")
            if len(block) != size or not inflater.eof or inflater.unused_data:
                found = f"more than {size} bytes" if len(block) > size else f"{len(block)} bytes"
                self.fail(where, found=f"{found} after decompression", expected=f"one zlib stream of {size} bytes")
            if crc16(block) != crc:
                self.fail(where, found=f"CRC-16 {crc16(block):#06x}", expected=f"{crc:#06x}")
            yield block
        if stored.left:
            warnings.warn(f"{self.path}, {name}: {stored.left} bytes follow the last block; ignored", stacklevel=2)

    def uncompressed_bound(self, name: str) -> int:
        """Bytes that the file ``name`` has at most, uncompressed; reads its first chunk only."""
        with self.path.open("rb") as handle:
            head = next(self._stored(handle, name))[:_BLOCK_FILE_HEAD]
        if bytes(head[:4]) != b"AACS" or len(head) < _BLOCK_FILE_HEAD:
            return self.files[name].size
        block_size, _, n_blocks = struct.unpack_from("<III", head, 4)
        return int(block_size * n_blocks)

    def read(self, name: str, n: int) -> bytes:
        """Return the first ``n`` uncompressed bytes of the file ``name`` (fewer if it is shorter)."""
        found = bytearray()
        for block in self.blocks(name):
            found += block[: n - len(found)]
            if len(found) == n:
                break
        return bytes(found)


class _Bytes:
    """Stored bytes as a cursor."""

    def __init__(self, first: memoryview, rest: Iterator[memoryview], size: int) -> None:
        self._part, self._rest, self._size, self.position = first, rest, size, 0

    @property
    def left(self) -> int:
        return self._size - self.position

    def take(self, n: int) -> bytes | memoryview:
        """Return the next ``n`` bytes, at most ``left``."""
        self.position += n
        if n > len(self._part):
            parts = [self._part]
            have = len(self._part)
            while have < n:
                parts.append(next(self._rest))
                have += len(parts[-1])
            self._part = memoryview(b"".join(parts))
        taken, self._part = self._part[:n], self._part[n:]
        return taken


def read_ahead(blocks: Iterator[bytes | memoryview], *, depth: int = 3) -> Generator[bytes | memoryview]:
    """Yield ``blocks`` in their order while a thread works up to ``depth`` of them ahead.

    zlib and NumPy release the GIL, so inflating overlaps with decoding. An error comes out where its block would have.
    """
    ready: queue.Queue[bytes | memoryview | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: bytes | memoryview | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False

    def work() -> None:
        try:
            for block in blocks:
                if not put(block):
                    return
            put(None)
        except BaseException as error:  # it is raised again by the consumer
            put(error)

    thread = threading.Thread(target=work, name="bcf-inflate", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
