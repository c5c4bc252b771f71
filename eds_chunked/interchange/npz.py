"""Members of a NumPy .npz: read without trusting the file, written without holding an array.

Nothing is ever unpickled. What a member says of itself is compared with what the caller expects before its bytes are
inflated, so a file that lies about its size costs no more than an error.
"""

from __future__ import annotations

import io
import lzma
import math
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from eds_chunked.errors import SourceError, SourceNotFoundError

Array = np.ndarray[Any, Any]

_SUFFIX = ".npy"
_NUMBERS = "biuf"
_TEXT = "U"
_LONGEST_TEXT = 4096
"""Bytes of the longest text that is read: names of algorithms."""
_HEADER_BYTES = 2**14
"""A header is read from so many bytes, whatever length it states."""
_COPY_BYTES = 2**20
_MOST_MEMBERS = 1000
"""Members that are looked at; HyperSpy writes about 30."""

_BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, NotImplementedError, RuntimeError)
"""What zipfile and its decompressors say of damage, of methods they do not know, and of encryption."""


@dataclass(frozen=True)
class Member:
    """An array of the file, by its header."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    header_bytes: int

    @property
    def n_bytes(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


class NpzFile:
    """The plain arrays of an .npz.

    Attributes
    ----------
    members
        Arrays of numbers, and single texts, by name.
    objects
        Names of the members that hold Python objects or other types, which are not read.
    """

    def __init__(self, path: Path, file: zipfile.ZipFile) -> None:
        self.path, self._file = path, file
        self.members: dict[str, Member] = {}
        self.objects: list[str] = []
        arrays = [info for info in file.infolist() if info.filename.endswith(_SUFFIX)]
        for info in arrays[:_MOST_MEMBERS]:
            name = info.filename.removesuffix(_SUFFIX)
            member = self._describe(name, info)
            if member is None:
                self.objects.append(name)
            else:
                self.members[name] = member

    def _describe(self, name: str, info: zipfile.ZipInfo) -> Member | None:
        try:
            with self._file.open(info) as stream:
                start = io.BytesIO(stream.read(_HEADER_BYTES))
            version = np.lib.format.read_magic(start)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            shape, fortran_order, dtype = read[version](start)
        # What a parser says of bytes that make no sense is its own choice.
        except Exception as error:
            self.refuse(name, f"no header of an array ({type(error).__name__}: {error})")
        if dtype.kind not in _NUMBERS + _TEXT or (dtype.kind == _TEXT and (shape or dtype.itemsize > _LONGEST_TEXT)):
            return None
        member = Member(name, shape, dtype, fortran_order, start.tell())
        if min(shape, default=0) < 0 or member.header_bytes + member.n_bytes != info.file_size:
            self.refuse(
                name, f"{info.file_size} bytes for {' x '.join(map(str, shape)) or 'one'} values of type {dtype}"
            )
        return member

    def read(self, name: str) -> Array:
        """Return an array whole; the caller has checked its shape."""
        member = self.members[name]
        with self._values(member) as stream:
            flat = np.frombuffer(stream.read(member.n_bytes), member.dtype)
        return flat.reshape(member.shape, order="F" if member.fortran_order else "C")

    def mapped(self, name: str, scratch: Path) -> Array:
        """Return an array as a file on disk that is mapped into memory; the caller has checked its shape."""
        member = self.members[name]
        with self._values(member) as stream, scratch.open("wb") as copy:
            shutil.copyfileobj(stream, copy, _COPY_BYTES)
        order: Any = "F" if member.fortran_order else "C"
        return np.memmap(scratch, member.dtype, mode="r", shape=member.shape, order=order)

    @contextmanager
    def _values(self, member: Member) -> Iterator[Any]:
        try:
            with self._file.open(member.name + _SUFFIX) as stream:
                stream.read(member.header_bytes)
                yield stream
        except _BROKEN as error:
            self.refuse(member.name, f"damaged data ({error})")

    def refuse(self, name: str, found: str) -> NoReturn:
        """Raise SourceError about a member."""
        raise SourceError(
            f"{name} in {self.path}",
            found=found,
            expected="an array as NumPy writes it",
            fix="save the learning results again, or copy the file again",
        )


@contextmanager
def open_npz(path: Path) -> Iterator[NpzFile]:
    """Open an .npz and look at the headers of its members.

    Raises
    ------
    SourceNotFoundError, SourceError
        There is no such file, or it is no .npz, or it is damaged.
    """
    if not path.is_file():
        raise SourceNotFoundError(
            str(path), found="no file", expected="learning results (.npz)", fix="check the name of the file"
        )
    try:
        file = zipfile.ZipFile(path)
    except (*_BROKEN, OSError) as error:
        raise SourceError(
            str(path),
            found=f"what is no .npz, or only a part of one ({error})",
            expected="learning results as HyperSpy saves them (.npz)",
            fix="signal.learning_results.save('results.npz') in HyperSpy, or copy the file again",
        ) from error
    with file:
        yield NpzFile(path, file)


@dataclass(frozen=True)
class Rows:
    """An array that comes in pieces: rows one after the other."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    pieces: Iterable[Array]


def write_npz(path: Path, members: Mapping[str, Array | Rows]) -> None:
    """Write arrays as :func:`numpy.savez` does; of :class:`Rows` one piece is held at a time."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as file:
        for name, member in members.items():
            with file.open(name + _SUFFIX, "w", force_zip64=True) as stream:
                if isinstance(member, Rows):
                    header = {
                        "descr": np.lib.format.dtype_to_descr(member.dtype),
                        "fortran_order": False,
                        "shape": member.shape,
                    }
                    np.lib.format.write_array_header_1_0(stream, header)
                    for piece in member.pieces:
                        stream.write(np.ascontiguousarray(piece, member.dtype).data)
                else:
                    np.lib.format.write_array(stream, np.asarray(member), allow_pickle=False)
