"""Bruker .bcf hypermaps, streamed: one forward pass, any size, exact counts.

The file is a container of checked, mostly zlib-compressed blocks (:mod:`eds_chunked.readers.bruker_container`) with an
XML header (:mod:`eds_chunked.readers.bruker_header`) and, for each map, one stream of rows of pixel records. The
stream is inflated in threads ahead of the decoder (:mod:`eds_chunked.readers.bruker_rows`), which builds CSR bands in
the narrowest dtype that holds the counts that were met. Version 2 of the format has an index of the stream
(:mod:`eds_chunked.readers.bruker_index`), so that reading can begin at any row.
"""

from __future__ import annotations

import os
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from eds_chunked.errors import ParameterError, SourceError
from eds_chunked.in_order import in_order
from eds_chunked.memory import n_cpus
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.readers.bruker_blocks import ahead_bytes, unpack_ahead
from eds_chunked.readers.bruker_container import Container
from eds_chunked.readers.bruker_header import HEADER, Header, Spectrum, read_header, read_images
from eds_chunked.readers.bruker_index import STREAM_HEADER, find_row
from eds_chunked.readers.choice import choose

if TYPE_CHECKING:  # describe() must start without the compiler
    from eds_chunked.readers.bruker_rows import RowDecoder

_LONGEST_SIDE = 1 << 16
# The decoder's buffer holds a record and a block, and once more of both while it grows; a record is below 1.1 MB.
_RECORD_BYTES = 1 << 20
# Numbers of the chunks of a map, and their sorted copies while they are compared.
_BYTES_PER_CHUNK = 40
# Two of the channel, and one for bands that are brighter than the mean; then there are those of the count.
_BYTES_PER_VALUE = 3
_LARGEST_COUNT = (1 << 32) - 1
_MOST_DECODERS = 4
_FIRST_GUESS = 1 << 24


def describe(path: str | os.PathLike[str], *, salvage: bool = False) -> tuple[MapHeader, ...]:
    """Return the headers of all maps in a .bcf file without decoding them.

    Parameters
    ----------
    path
        The file.
    salvage
        Take what there is of a damaged file: see :class:`BrukerReader`.

    Raises
    ------
    SourceNotFoundError
        There is no such file.
    SourceError
        It is no .bcf, holds no EDS map, or its container or header is damaged.
    """
    container = Container(path, salvage=salvage)
    return _map_headers(container, read_header(container))


class BrukerReader:
    """Reader of one map of a Bruker .bcf file.

    Parameters
    ----------
    path
        The file.
    pick
        Title or 1-based number of the map in the order of :func:`describe`; may be left out where there is one only.
    salvage
        Open a file also if a part of the map is missing at its end, and do without an index that is damaged. The bands
        then end with SourceError where the damage is.

    Raises
    ------
    SourceNotFoundError, SourceError
        See :func:`describe`; or the file has several maps and none is picked.
    ParameterError
        The file has no such map.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, pick: str | int | None = None, salvage: bool = False
    ) -> None:  # fmt: skip
        self._container = Container(path, salvage=salvage)
        header = read_header(self._container)
        maps = _map_headers(self._container, header)
        chosen = choose(str(path), maps=[(one.title, one.shape) for one in maps], pick=pick)
        number = _numbers(self._container)[chosen]
        self._stream, self._index = _stream(number), _index(number)
        self.header = maps[chosen]
        # The largest piece in which the stream or its index comes; a damaged index tells when it is needed.
        self._block = self._container.extent(self._stream)[1]
        if self._index in self._container.files:
            with suppress(SourceError):
                self._block = max(self._block, self._container.extent(self._index)[1])
        self._mean_spectrum = header.spectra[number].counts / (self.header.shape[0] * self.header.shape[1])

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that reading bands of ``rows`` rows holds at most, the band included that the consumer has.

        The file does not say how many values a band has. Bands are given the room that the header's sum spectrum
        makes likely, and where that is not enough they come out shorter; only one row must find room in any case.
        """
        box = self._checked(box)
        n_rows, columns, _ = box.shape
        pixels = min(rows, n_rows) * columns
        tables = _BYTES_PER_CHUNK * self._container.n_chunks
        # A band is there twice while it moves to larger arrays, and the one before is with the consumer.
        bands = 3 * (self._band_bytes(rows, box) + 8 * (pixels + 1))
        one = ahead_bytes(self._block) + 4 * (self._block + _RECORD_BYTES) + tables + bands
        # Each decoder has its own, and one more band waits for its turn.
        return one if self._n_decoders == 1 else (self._n_decoders + 1) * one

    def _band_bytes(self, rows: int, box: Box) -> int:
        from eds_chunked.readers.bruker_rows import smallest_band

        n_rows, columns, channels = box.shape
        largest = 2.0 * self._mean_spectrum[box.channels].max()
        per_value = _BYTES_PER_VALUE + np.min_scalar_type(int(min(largest, _LARGEST_COUNT))).itemsize
        expected = per_value * min(rows, n_rows) * columns * self._values_per_pixel(box)
        return max(int(expected), smallest_band(columns=columns, channels=channels))

    def _values_per_pixel(self, box: Box) -> float:
        """Non-zero channels of a pixel to be expected in a box.

        If all pixels were alike, a channel with m counts a pixel on average would be occupied in 1 - exp(-m) of them.
        This is concave in m, so that pixels that differ have fewer.
        """
        return max(1.0, float(-np.expm1(-self._mean_spectrum[box.channels]).sum()))

    def images(self) -> Iterator[ElectronImage]:
        """Yield the electron images (BSE, SE, overview)."""
        yield from read_images(self._container, self.header.pixel_size)

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: the whole map) in order, as CSR bands of ``rows`` rows.

        The last band may be shorter, and so may be bands that are far brighter than the map's mean. Values have the
        smallest of uint8, uint16 and uint32 that holds the largest count of the band. A pixel without a record in the
        file has no counts.

        Raises
        ------
        SourceError
            The file is damaged; all whole rows before the damage have been yielded.
        """
        if rows < 1:
            raise ParameterError("rows", found=rows, expected="at least 1", fix="rows=64")
        box = self._checked(box)
        self._container.check_disjoint(HEADER, self._stream)
        if self._n_decoders == 1:
            yield from self._decoded(rows, box)
            return

        def decode(ys: slice) -> tuple[list[Band], SourceError | None]:
            found = []
            try:
                for band in self._decoded(rows, box._replace(ys=ys)):
                    found.append(band)
            except SourceError as error:
                return found, error
            return found, None

        starts = range(box.ys.start, box.ys.stop, rows)
        pieces = (slice(y0, min(y0 + rows, box.ys.stop)) for y0 in starts)
        for found, error in in_order(decode, pieces, workers=self._n_decoders):
            yield from found
            if error is not None:
                raise error

    @property
    def _n_decoders(self) -> int:
        """Bands that are decoded at once: one without an index, which says where a row begins."""
        return _n_decoders() if self._index in self._container.files else 1

    def _decoded(self, rows: int, box: Box) -> Iterator[Band]:
        """Yield the bands of a box, one decoded after the other."""
        with ExitStack() as stack:
            decoder = self._decoder(stack, rows, box)
            for stop in range(box.ys.start, box.ys.stop, rows):
                stop = min(stop + rows, box.ys.stop)
                while decoder.row < stop:
                    try:
                        decoder.fill(stop - decoder.row)
                    except SourceError:
                        if decoder.rows:
                            yield decoder.take()
                        raise
                    yield decoder.take()
            trailing = decoder.bytes_left() if box.ys.stop == self.header.shape[0] else 0
        if trailing:
            warnings.warn(
                f"{self._container.path}, {self._stream}: {trailing} bytes follow the last row; ignored", stacklevel=2
            )

    def _decoder(self, stack: ExitStack, rows: int, box: Box) -> RowDecoder:
        """Return a decoder that stands at the first row of the box."""
        # describe() must start without the compiler, so numba comes in with the first band.
        from eds_chunked.readers.bruker_rows import RowDecoder

        (height, width, n_channels), first = self.header.shape, box.ys.start
        guess = rows * (box.xs.stop - box.xs.start) * self._values_per_pixel(box)

        def decoder_from(row: int, offset: int) -> RowDecoder:
            blocks = stack.enter_context(closing(unpack_ahead(self._container.packed(self._stream, offset))))
            return RowDecoder(
                blocks, row=row, offset=offset, width=width, n_channels=n_channels, box=box,
                guess=min(int(guess), _FIRST_GUESS), most=self._band_bytes(rows, box), fail=self._fail,
            )  # fmt: skip

        if first and self._index in self._container.files:
            try:
                place = find_row(self._container, self._index, first, shape=(height, width))
                if place is not None:
                    decoder = decoder_from(first, place.offset)
                    if decoder.goes_on_with(place.expected):
                        return decoder
                    self._container.fail_in(
                        self._stream,
                        f"row {first}, byte {place.offset:#x} of the stream",
                        found="other bytes than the start of that row",
                        expected=f"a row as in {self._index}",
                    )
            except SourceError:
                if not self._container.salvage:
                    raise
        decoder = decoder_from(0, STREAM_HEADER)
        if first:
            decoder.skip(first)
        return decoder

    def _checked(self, box: Box | None) -> Box:
        whole = Box.whole(self.header.shape)
        if box is None:
            return whole
        for name, axis, most in zip(("rows", "columns", "channels"), box, self.header.shape, strict=True):
            if not 0 <= axis.start < axis.stop <= most or axis.step not in (None, 1):
                raise ParameterError(
                    f"{name} of the box", found=axis, expected=f"a part of 0:{most}", fix=f"slice(0, {most})"
                )
        return box

    def _fail(self, where: str, found: str, expected: str) -> NoReturn:
        self._container.fail_in(self._stream, where, found=found, expected=expected)


def _n_decoders() -> int:
    # Inflating and decoding take about as long, so that two processors are busy with one decoder.
    return min(max(1, n_cpus() // 2), _MOST_DECODERS)


def _stream(number: int) -> str:
    return f"EDSDatabase/SpectrumData{number}"


def _index(number: int) -> str:
    return f"EDSDatabase/SpectrumPositions{number}"


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


def _map_headers(container: Container, header: Header) -> tuple[MapHeader, ...]:
    """Headers of all maps, rising by number; where there are several, their titles count them from 1."""
    numbers = _numbers(container)
    title = header.title or container.path.stem
    titles = [title] if len(numbers) == 1 else [f"{title} (map {i})" for i in range(1, len(numbers) + 1)]
    return tuple(_map_header(container, header, number, title) for number, title in zip(numbers, titles, strict=True))


def _map_header(container: Container, header: Header, number: int, title: str) -> MapHeader:
    stream, index = _stream(number), _index(number)
    spectrum: Spectrum | None = header.spectra.get(number)
    if spectrum is None:
        container.fail(
            HEADER,
            found=f"sum spectra {sorted(header.spectra)}",
            expected=f"one for {stream}",
            fix="save the map again in Esprit",
        )
    head = container.read(stream, STREAM_HEADER)
    if len(head) < STREAM_HEADER:
        container.fail(stream, found=f"{len(head)} bytes", expected=f"a map header of {STREAM_HEADER} bytes")
    height, width = struct.unpack_from("<II", head)
    if not (0 < height <= _LONGEST_SIDE and 0 < width <= _LONGEST_SIDE):
        container.fail(f"{stream}, byte 0", found=f"{height} x {width} pixels", expected=f"1 to {_LONGEST_SIDE}")
    # Even a row without pixels takes four bytes, so a stream cannot claim more rows than it has room for.
    room = (container.extent(stream)[0] - STREAM_HEADER) // 4
    if height > room:
        container.fail(f"{stream}, byte 0", found=f"{height} rows", expected=f"at most {room}, by its length")
    sizes = {HEADER: header.size}
    if index in container.files and not container.salvage:
        top = container.read(index, 8)
        sizes[index] = struct.unpack("<II", top) if len(top) == 8 else (0, 0)
    for name, size in sizes.items():
        if size is not None and size != (height, width):
            container.fail(
                f"{stream}, byte 0",
                found=f"{height} x {width} pixels",
                expected=f"{size[0]} x {size[1]}, as {name} says",
            )
    return MapHeader(
        source=str(container.path),
        shape=(height, width, len(spectrum.counts)),
        dtype=np.dtype(np.uint32),
        energy_scale=spectrum.scale,
        energy_offset=spectrum.offset,
        pixel_size=header.pixel_size,
        title=title,
        signal_type=header.signal_type,
        beam_energy=header.beam_energy,
        elements=header.elements,
        live_time=spectrum.live_time,
        real_time=header.real_time,
        metadata={**header.metadata, **spectrum.metadata},
    )
