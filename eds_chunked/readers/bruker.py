"""Bruker .bcf hypermaps, streamed: one forward pass, any size, exact counts.

The file is a container of checked, mostly zlib-compressed blocks (:mod:`eds_chunked.readers.bruker_container`) with an
XML header (:mod:`eds_chunked.readers.bruker_header`) and, for each map, one stream of rows of pixel records. The
stream is inflated in a thread ahead of the decoder (:mod:`eds_chunked.kernels.bcf_decode`), which builds CSR bands in
the narrowest dtype that holds the counts that were met.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NoReturn

import numpy as np

from eds_chunked.errors import ParameterError
from eds_chunked.readers.base import Band, ElectronImage, MapHeader
from eds_chunked.readers.bruker_container import Container, read_ahead
from eds_chunked.readers.bruker_header import HEADER, Header, Spectrum, read_header, read_images

Array = np.ndarray[Any, Any]

_STREAM_HEADER = 0x1A0
_LONGEST_SIDE = 1 << 16
# Blocks and their sources in the queue and on both sides of it, tables of the checksum: 11 MB measured.
_BLOCKS_BYTES = 24 << 20
# Numbers of the chunks of a map, and their sorted copies while they are compared.
_BYTES_PER_CHUNK = 40
_FIRST_GUESS = 1 << 24


def describe(path: str | os.PathLike[str]) -> tuple[MapHeader, ...]:
    """Return the headers of all maps in a .bcf file without decoding them.

    Raises
    ------
    SourceNotFoundError
        There is no such file.
    SourceError
        It is no .bcf, holds no EDS map, or its container or header is damaged.
    """
    container = Container(path)
    header = read_header(container)
    return tuple(_map_header(container, header, number) for number in _numbers(container))


class BrukerReader:
    """Reader of one map of a Bruker .bcf file.

    Parameters
    ----------
    path
        The file.
    pick
        Which map, counted from 0 in the order of :func:`describe`; may be left out where there is one only.

    Raises
    ------
    SourceNotFoundError, SourceError
        See :func:`describe`.
    ParameterError
        The file has several maps and none is picked, or has no such map.
    """

    def __init__(self, path: str | os.PathLike[str], pick: int | None = None) -> None:
        self._container = Container(path)
        numbers = _numbers(self._container)
        if (pick is None and len(numbers) > 1) or (pick is not None and not 0 <= pick < len(numbers)):
            raise ParameterError(
                f"{path}, map to read",
                found=f"pick={pick}",
                expected=f"0 to {len(numbers) - 1} (the file has {len(numbers)})",
                fix="pick=0 for the first map",
            )
        header = read_header(self._container)
        number = numbers[pick or 0]
        self._stream = f"EDSDatabase/SpectrumData{number}"
        self.header = _map_header(self._container, header, number)
        self._counts_per_pixel = header.spectra[number].total / (self.header.shape[0] * self.header.shape[1])

    def peak_bytes(self, rows: int) -> int:
        """Bytes that reading bands of ``rows`` rows holds at most.

        The file does not say how many values a band has. A pixel is taken to have as many as the header's sum
        spectrum has counts per pixel, at six bytes each: three are usual, and the rest is for what bands differ by
        and for what the allocator keeps. A band far brighter than the map's mean takes more.
        """
        height, width, _ = self.header.shape
        pixels = min(rows, height) * width
        tables = _BYTES_PER_CHUNK * self._container.n_chunks
        return _BLOCKS_BYTES + tables + int(pixels * (8 + 6 * self._values_per_pixel()))

    def _values_per_pixel(self) -> float:
        return min(float(self.header.shape[2]), max(self._counts_per_pixel, 1.0))

    def images(self) -> Iterator[ElectronImage]:
        """Yield the electron images (BSE, SE, overview)."""
        yield from read_images(self._container, self.header.pixel_size)

    def bands(self, rows: int) -> Iterator[Band]:
        """Yield all rows from the first to the last as CSR bands of ``rows`` rows; the last may be shorter.

        Values have the smallest of uint8, uint16 and uint32 that holds the largest count of the band. A pixel without
        a record in the file has no counts.

        Raises
        ------
        SourceError
            The file is damaged; all bands before the damage have been yielded.
        """
        # describe() must start without the compiler, so numba comes in with the first band.
        from eds_chunked.kernels import bcf_decode as bcf
        from eds_chunked.kernels.sparse import Csr, channel_dtype

        if rows < 1:
            raise ParameterError("rows", found=rows, expected="at least 1", fix="rows=64")
        height, width, n_channels = self.header.shape
        self._container.check_disjoint(HEADER, self._stream)
        state = bcf.new_state()
        scratch = bcf.new_scratch()
        capacity = min(int(1.2 * min(rows, height) * width * self._values_per_pixel()), _FIRST_GUESS) + 2 * n_channels
        # One buffer for the whole pass: what is left of a record goes to its front, and a block is put behind it.
        buffer, filled, consumed, to_skip = np.empty(1 << 20, np.uint8), 0, 0, _STREAM_HEADER
        with closing(read_ahead(self._container.blocks(self._stream))) as blocks:
            for y0 in range(0, height, rows):
                n_rows = min(rows, height - y0)
                indptr = np.empty(n_rows * width + 1, np.int64)
                channel = np.empty(capacity, channel_dtype(n_channels))
                value: Array = np.empty(capacity, np.uint8)
                state[[bcf.ROW, bcf.N_VALUES, bcf.PIXEL]] = 0
                while True:
                    status = bcf.decode(
                        buffer, filled, state, n_rows, width, n_channels, indptr, channel, value,
                        np.iinfo(value.dtype).max, scratch,
                    )  # fmt: skip
                    if status == bcf.DONE:
                        break
                    if status == bcf.MORE:
                        block = next(blocks, None)
                        if block is None:
                            self._fail_at(consumed + filled, y0, state, "the end of the stream", "more records")
                        done = int(state[bcf.POSITION])
                        state[bcf.POSITION] = 0
                        rest = buffer[done:filled]
                        fresh = np.frombuffer(block, np.uint8)[to_skip:]
                        consumed += done + min(to_skip, len(block))
                        to_skip -= min(to_skip, len(block))
                        filled = len(rest) + len(fresh)
                        if filled > len(buffer):
                            buffer = np.empty(2 * filled, np.uint8)
                        buffer[: len(rest)] = rest
                        buffer[len(rest) : filled] = fresh
                    elif status == bcf.FULL:
                        capacity = capacity * 3 // 2
                        channel = _longer(channel, int(state[bcf.N_VALUES]), capacity)
                        value = _longer(value, int(state[bcf.N_VALUES]), capacity)
                    elif status == bcf.WIDEN and value.dtype.itemsize < 4:
                        wider = np.empty(capacity, np.uint16 if value.dtype.itemsize == 1 else np.uint32)
                        wider[: state[bcf.N_VALUES]] = value[: state[bcf.N_VALUES]]
                        value = wider
                    else:
                        found, expected = _explain(bcf, status, int(state[bcf.FOUND]), int(state[bcf.LIMIT]))
                        self._fail_at(consumed + int(state[bcf.POSITION]), y0, state, found, expected)
                n = int(state[bcf.N_VALUES])
                capacity = n + n // 8 + 2 * n_channels
                yield Band(y0, n_rows, Csr(indptr, channel[:n], value[:n], n_channels))
            trailing = filled - int(state[bcf.POSITION]) + sum(len(block) for block in blocks)
        if trailing:
            warnings.warn(
                f"{self._container.path}, {self._stream}: {trailing} bytes follow the last row; ignored", stacklevel=2
            )

    def _fail_at(self, at: int, y0: int, state: Array, found: str, expected: str) -> NoReturn:
        from eds_chunked.kernels import bcf_decode as bcf

        self._container.fail(
            f"{self._stream}, row {y0 + int(state[bcf.ROW])}, byte {at:#x} of the stream",
            found=found,
            expected=expected,
        )


def _longer(array: Array, n: int, capacity: int) -> Array:
    longer = np.empty(capacity, array.dtype)
    longer[:n] = array[:n]
    return longer


def _explain(bcf: Any, status: int, found: int, limit: int) -> tuple[str, str]:
    """What decode() found and what would have been right."""
    return {
        bcf.WIDEN: (f"a count of {found}", "counts below 2^32"),
        bcf.BAD_COUNT: ("a count above 2^32", "counts below 2^32"),
        bcf.ROW_TOO_LONG: (f"a row of {found} pixels", f"at most {limit}"),
        bcf.BAD_X: (f"a pixel at x = {found}", f"x of {limit} or more and room for the rest of the row"),
        bcf.BAD_FLAG: (f"pixel packing {found}", "0 to 3"),
        bcf.BAD_SIZE: (f"a pixel record of {found} bytes", f"a size that fits its content ({limit})"),
        bcf.BAD_BUNCH: (f"a broken bunch of channels ({found})", f"bunches that cover {limit} channels"),
        bcf.BAD_CHANNEL: (f"counts in channel {found}", f"0 to {limit - 1}"),
    }[status]


def _numbers(container: Container) -> list[int]:
    """Numbers of the maps in the container, rising."""
    found = (re.fullmatch(r"EDSDatabase/SpectrumData(\d{1,6})", name) for name in container.files)
    numbers = sorted(int(match[1]) for match in found if match)
    if not numbers:
        container.fail(
            "directory",
            found=f"{', '.join(sorted(container.files)[:5]) or 'no files'}",
            expected="EDSDatabase/SpectrumData0",
            fix="give a .bcf with an EDS map (this may be an EBSD-only or a particle file)",
        )
    return numbers


def _map_header(container: Container, header: Header, number: int) -> MapHeader:
    stream, index = f"EDSDatabase/SpectrumData{number}", f"EDSDatabase/SpectrumPositions{number}"
    spectrum: Spectrum | None = header.spectra.get(number)
    if spectrum is None:
        container.fail(
            HEADER,
            found=f"sum spectra {sorted(header.spectra)}",
            expected=f"one for {stream}",
            fix="save the map again in Esprit",
        )
    head = container.read(stream, _STREAM_HEADER)
    if len(head) < _STREAM_HEADER:
        container.fail(stream, found=f"{len(head)} bytes", expected=f"a map header of {_STREAM_HEADER} bytes")
    height, width = struct.unpack_from("<II", head)
    if not (0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE):
        container.fail(f"{stream}, byte 0", found=f"{height} x {width} pixels", expected=f"1 to {_LONGEST_SIDE}")
    # Even a row without pixels takes four bytes, so a stream cannot claim more rows than it has room for.
    room = (container.uncompressed_bound(stream) - _STREAM_HEADER) // 4
    if height > room:
        container.fail(f"{stream}, byte 0", found=f"{height} rows", expected=f"at most {room}, by its length")
    sizes = {HEADER: header.size}
    if index in container.files:
        top = container.read(index, 8)
        sizes[index] = struct.unpack("<II", top) if len(top) == 8 else (0, 0)
    for name, size in sizes.items():
        if size is not None and size != (height, width):
            container.fail(
                f"{stream}, byte 0",
                found=f"{height} x {width} pixels",
                expected=f"{size[0]} x {size[1]}, as {name} says",
            )
    several = len(_numbers(container)) > 1
    title = header.title or container.path.stem
    return MapHeader(
        source=str(container.path),
        shape=(height, width, spectrum.n_channels),
        dtype=np.dtype(np.uint32),
        energy_scale=spectrum.scale,
        energy_offset=spectrum.offset,
        pixel_size=header.pixel_size,
        title=f"{title} (map {number})" if several else title,
        signal_type=header.signal_type,
        beam_energy=header.beam_energy,
        elements=header.elements,
        live_time=spectrum.live_time,
        real_time=header.real_time,
        metadata={**header.metadata, **spectrum.metadata},
    )
