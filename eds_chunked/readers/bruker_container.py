"""The container of a Bruker .bcf file: a single-file system ("SFS") of chunks, tables and zlib blocks.

Everything that is read is checked: the XOR-32 of every chunk, the CRC-16 of every zlib block, and that tables and
folders neither loop nor point outside. Sizes that the file declares are compared with what the file can hold before
anything is allocated, so a damaged or hostile file costs bounded time and memory and ends in one SourceError. Where a
file is to be salvaged, chunks that are missing or damaged are an error only when they are reached.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

import numpy as np

from eds_chunked.errors import SourceError, SourceNotFoundError
from eds_chunked.readers.bruker_blocks import Block, inflate, inflate_part
from eds_chunked.readers.bruker_stored import CHUNK_HEAD, Stored

Array = np.ndarray[Any, Any]

_PROLOGUE = 0x118
_ENTRY = 512
_DIRECTORY, _TABLE = 1, 5
_SMALLEST_CHUNK = CHUNK_HEAD + _ENTRY
_LARGEST_CHUNK = 1 << 24
_MOST_ENTRIES = 1 << 16
_DEEPEST_FOLDER = 50
_BLOCK_FILE_HEAD = 128
_ZLIB = 1
_LARGEST_BLOCK = 1 << 24
_READ_AT_ONCE = 1 << 20
_AGAIN = "copy the file from the microscope again"
_MAP = "EDSDatabase/SpectrumData"


class Entry(NamedTuple):
    """A file inside the container: the chunk of its first pointer table and its stored size."""

    first_table: int
    size: int


class Container:
    """The directory of a .bcf file and checked access to the files in it.

    Parameters
    ----------
    path
        The .bcf file. It is opened for each stream anew, so a Container can be shared between threads.
    salvage
        Read the files in it as far as they go: without, chunks that lie behind the end of a truncated .bcf are an
        error before anything of their file is read.

    Raises
    ------
    SourceNotFoundError
        There is no such file.
    SourceError
        It is not such a container, or its directory is damaged.
    """

    def __init__(self, path: str | os.PathLike[str], *, salvage: bool = False) -> None:
        self.path = Path(path)
        self.salvage = salvage
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

    def fail_in(self, owner: str, where: str, *, found: object, expected: object) -> NoReturn:
        """Raise the SourceError of damage in ``owner``, a file of the container; what precedes it can be kept."""
        fix = _AGAIN
        if _MAP in owner and not self.salvage:
            fix += f"; eds-chunked convert {self.path} STORE --salvage keeps the whole rows before the damage"
        self.fail(f"{owner}, {where}", found=found, expected=expected, fix=fix)

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
        self._room = self.chunk_size - CHUNK_HEAD
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
        if missing.any() and not self.salvage:
            self._fail_missing(int(chunks[missing][0]), owner)

    def _fail_missing(self, chunk: int, owner: str) -> NoReturn:
        self.fail_in(
            owner,
            f"byte {self._offset(chunk):#x}",
            found="the end of the file (truncated)",
            expected=f"chunk {chunk} of {self.n_chunks}",
        )

    def payloads(self, handle: BinaryIO, first: int, n: int, owner: str) -> Array:
        """Read up to ``n`` neighbouring chunks: those before the first that is missing or whose XOR is wrong.

        Returns them as (chunks, chunk_size) bytes with their heads; at least one, or else it is an error.
        """
        if first >= self._present:
            self._fail_missing(first, owner)
        n = min(n, self._present - first)
        handle.seek(self._offset(first))
        raw = np.frombuffer(handle.read(n * self.chunk_size), np.uint8)
        if len(raw) != n * self.chunk_size:
            where = f"byte {self._offset(first):#x}"
            self.fail_in(owner, where, found=f"{len(raw)} bytes", expected="whole chunks")
        chunks = raw.reshape(n, self.chunk_size)
        used = chunks[:, : CHUNK_HEAD + self._room // 4 * 4]
        words = (used if used.shape[1] == self.chunk_size else np.ascontiguousarray(used)).view("<u4")
        xor = np.bitwise_xor.reduce(words[:, CHUNK_HEAD // 4 :], axis=1)
        wrong = np.flatnonzero(xor != words[:, 1])
        if len(wrong) and wrong[0] == 0:
            self.fail_in(
                owner,
                f"chunk {first} at byte {self._offset(first):#x}",
                found=f"checksum (XOR) {xor[0]:#010x}",
                expected=f"{words[0, 1]:#010x}",
            )
        return chunks[: wrong[0]] if len(wrong) else chunks

    def _chain(self, handle: BinaryIO, first: int, n: int, kind: int, owner: str) -> Iterator[Array]:
        """Follow ``n`` chained chunks of one kind; yield their payloads."""
        seen: set[int] = set()
        chunk = first
        while len(seen) < n:
            self._check_chunks(np.array([chunk]), owner)
            if chunk in seen:
                self.fail_in(
                    owner,
                    f"byte {self._offset(chunk):#x}",
                    found=f"a loop back to chunk {chunk}",
                    expected=f"a chain of {n} chunks",
                )
            seen.add(chunk)
            data = self.payloads(handle, chunk, 1, owner)[0]
            if data[8] != kind:
                self.fail_in(
                    owner,
                    f"chunk {chunk} at byte {self._offset(chunk):#x}",
                    found=f"a chunk of kind {data[8]}",
                    expected=f"kind {kind}",
                )
            yield data[CHUNK_HEAD:]
            chunk = int(data[:4].view("<u4")[0])

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

    def pointers(self, handle: BinaryIO, name: str) -> tuple[Array, SourceError | None]:
        """Chunk numbers of a file in file order, and, when salvaging, why there are no more of them."""
        entry, owner = self.files[name], f"chunk table of {name}"
        n = -(-entry.size // self._room)
        if not 0 < n < self.n_chunks:
            self.fail(
                f"directory entry {name!r}",
                found=f"{entry.size} bytes",
                expected=f"1 to {(self.n_chunks - 1) * self._room} bytes",
            )
        per_table = self._room // 4
        tables, damage = [np.empty(0, np.uint8)], None
        try:
            for payload in self._chain(handle, entry.first_table, -(-n // per_table), _TABLE, owner):
                tables.append(payload[: per_table * 4])
        except SourceError as error:
            if not self.salvage:
                raise
            damage = error
        pointers = np.concatenate(tables).view("<u4")[:n].astype(np.int64)
        self._check_chunks(pointers, owner)
        ordered = np.sort(pointers)
        twice = ordered[1:][ordered[1:] == ordered[:-1]]
        if len(twice):
            self.fail(owner, found=f"chunk {twice[0]} twice", expected="each chunk once")
        return pointers, damage

    def check_disjoint(self, *names: str) -> None:
        """Check that the files ``names`` share no chunk."""
        with self.path.open("rb") as handle:
            pointers = np.sort(np.concatenate([self.pointers(handle, name)[0] for name in names]))
        shared = pointers[1:][pointers[1:] == pointers[:-1]]
        if len(shared):
            self.fail(
                f"chunk {shared[0]} at byte {self._offset(int(shared[0])):#x}",
                found=f"a chunk of two files of {', '.join(names)}",
                expected="each chunk in one file",
            )

    # -------------------------------------------------------------------------------------------------- content
    def packed(self, name: str, start: int = 0) -> Iterator[Callable[[], Block]]:
        """Yield what unpacks the content of the file ``name`` from byte ``start`` on, block after block.

        Blocks before ``start`` are hopped over by their heads and not inflated. What is yielded may be called in any
        thread; it verifies its block and raises SourceError where that is damaged. When salvaging, what there is of a
        block that is cut off comes, too, before the error.
        """
        with self.path.open("rb") as handle:
            stored = Stored(self, handle, name)
            if bytes(stored.peek(4)) != b"AACS":
                stored.skip(min(start, stored.left))
                while stored.left:
                    yield partial(_as_it_is, stored.take_some(min(_READ_AT_ONCE, stored.left)))
            else:
                yield from self._packed_blocks(stored, name, start)

    def blocks(self, name: str, start: int = 0) -> Iterator[Block]:
        """Yield the uncompressed content of the file ``name`` from byte ``start`` on, every checksum verified.

        Memory: one block (512 KiB in all files of the vendor, 16 MiB at most) and its compressed bytes.
        """
        return (unpack() for unpack in self.packed(name, start))

    def _packed_blocks(self, stored: Stored, name: str, start: int) -> Iterator[Callable[[], Block]]:
        block_size, n_blocks, method = self._block_head(stored, name)
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
            where = f"block {i} of {n_blocks} at stored byte {stored.position:#x}"
            if stored.left < 16:
                self.fail_in(name, where, found=f"{stored.left} bytes", expected="a block header of 16 bytes")
            packed_size, size, crc, _ = struct.unpack("<IIII", stored.take(16))
            if not 0 < size <= block_size:
                self.fail_in(name, where, found=f"a block of {size} bytes", expected=f"1 to {block_size} bytes")
            most = min(stored.left, 2 * size + 1024)
            if not 0 < packed_size <= most:
                found = f"{packed_size} compressed bytes for {size}"
                self.fail_in(name, where, found=found, expected=f"1 to {most}")
            if start >= size:
                start -= size
                stored.skip(packed_size)
                continue
            try:
                packed = stored.take(packed_size)
            except SourceError:
                if self.salvage:
                    yield partial(_unpack_part, stored.take_all_there(packed_size), size, start)
                raise
            yield partial(self._unpack, packed, size, crc, start, name, where)
            start = 0
        if stored.left:
            warnings.warn(f"{self.path}, {name}: {stored.left} bytes follow the last block; ignored", stacklevel=2)

    def _block_head(self, stored: Stored, name: str) -> tuple[int, int, int]:
        """Block size, number of blocks and method of a compressed file."""
        if stored.left < _BLOCK_FILE_HEAD:
            found = f"{stored.left} bytes"
            self.fail(name, found=found, expected=f"a compression header of {_BLOCK_FILE_HEAD} bytes")
        block_size, _, n_blocks, _, method = struct.unpack_from("<IIIfB", stored.take(_BLOCK_FILE_HEAD), 4)
        return block_size, n_blocks, method

    def _unpack(self, packed: Block, size: int, crc: int, start: int, name: str, where: str) -> Block:
        try:
            block = inflate(packed, size, crc)
        except ValueError as error:
            found, expected = error.args
            self.fail_in(name, where, found=found, expected=expected)
        return memoryview(block)[start:]

    def extent(self, name: str) -> tuple[int, int]:
        """Bytes that the file ``name`` has at most, uncompressed, and those of a piece in which they come."""
        with self.path.open("rb") as handle:
            stored = Stored(self, handle, name)
            if bytes(stored.peek(4)) != b"AACS" or stored.left < _BLOCK_FILE_HEAD:
                return stored.left, min(stored.left, _READ_AT_ONCE)
            block_size, n_blocks, _ = self._block_head(stored, name)
            return block_size * n_blocks, min(block_size, _LARGEST_BLOCK)

    def read(self, name: str, n: int) -> bytes:
        """Return the first ``n`` uncompressed bytes of the file ``name`` (fewer if it is shorter)."""
        found = bytearray()
        for block in self.blocks(name):
            found += block[: n - len(found)]
            if len(found) == n:
                break
        return bytes(found)


def _as_it_is(block: Block) -> Block:
    return block


def _unpack_part(packed: Block, size: int, start: int) -> Block:
    # The checksum is that of the whole block. But all bytes that are here are of chunks whose own checksums are right.
    return memoryview(inflate_part(packed, size))[start:]
