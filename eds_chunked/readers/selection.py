"""A part of a map, or a coarser map, as a reader of its own: what is left out is never read where the format allows."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from operator import index
from typing import TYPE_CHECKING, Any

import numpy as np

from eds_chunked.errors import ParameterError, SourceError
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader, Reader

if TYPE_CHECKING:  # describing a file must not import numba
    from eds_chunked.kernels.sparse import Csr

Region = tuple[slice, slice]
Energy = tuple[float, float]
Rebin = tuple[int, int, int]


def selected(
    reader: Reader,
    *,
    region: Region | None = None,
    energy: Energy | None = None,
    rebin: Rebin | None = None,
    energy_scale: float | None = None,
) -> Reader:
    """Return a :class:`Selection` of a reader, or the reader itself where nothing is asked."""
    if region is None and energy is None and rebin is None and energy_scale is None:
        return reader
    return Selection(reader, region=region, energy=energy, rebin=rebin, energy_scale=energy_scale)


class Selection:
    """A reader over a part of another reader's map, or over sums of its pixels and channels.

    Parameters
    ----------
    reader
        The whole map.
    region
        Rows and columns to keep, in pixels of the map.
    energy
        Lowest and highest keV: channels are kept whose centre lies between them, both ends included; an end may be
        infinite.
    rebin
        Rows, columns and channels that are added up to one. Bins are counted from the corner of what is kept; a last
        bin that would not be full is left out, and ``header.left_out`` says so.
    energy_scale
        keV per channel of the file, for files that state it wrongly or not at all; taken before ``energy`` is.

    Raises
    ------
    ParameterError
        A selection that is empty or beyond the map's limits, bins larger than what is kept, or keV asked of an energy
        axis that has no calibration.

    Notes
    -----
    Coordinates keep their place: the first pixel and channel are where they were in the map, and a bin is at the
    centre of what it sums. Live and real time stay those of the whole acquisition.

    Memory: that of the reader for the part that is kept, and when rebinning one row of the file and two rows of bins as
    CSR, and the bands that are returned. Rows are binned along x and energy as they come, along y when a bin is full.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        region: Region | None = None,
        energy: Energy | None = None,
        rebin: Rebin | None = None,
        energy_scale: float | None = None,
    ) -> None:
        self._reader = reader
        header = reader.header if energy_scale is None else _rescaled(reader.header, energy_scale)
        ys, xs = _pixels(header, region)
        channels = _channels(header, energy)
        self._bins = (1, 1, 1) if rebin is None else _bins(Box(ys, xs, channels), rebin)
        self._kept = Box(*(_full_bins(axis, n) for axis, n in zip((ys, xs, channels), self._bins, strict=True)))
        asked: dict[str, Any] = {}
        if region is not None:
            asked["region"] = [[ys.start, ys.stop], [xs.start, xs.stop]]
        if energy is not None:
            asked["energy"] = [float(end) if math.isfinite(end) else None for end in energy]
        if rebin is not None:
            asked["rebin"] = list(self._bins)
        if energy_scale is not None:
            asked["energy_scale"] = float(energy_scale)
        left = {
            name: size - kept
            for name, size, kept in zip(
                ("rows", "columns", "channels"), Box(ys, xs, channels).shape, self._kept.shape, strict=True
            )
            if size > kept
        }
        self.header = _of_box(header, self._kept, self._bins, asked, left)

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        """Bytes that reading bands of ``rows`` rows holds at most, over the idle process."""
        whole = box or Box.whole(self.header.shape)
        inner = self._reader.peak_bytes(rows, self._in_map(whole))
        if self._bins == (1, 1, 1):
            return inner
        rows, per_y = min(rows, whole.shape[0]), self._bins[0]
        _, columns, channels = self._in_map(whole).shape
        # If no value were zero: a row, its copy, and its sums in 64 bits.
        values = columns * channels
        reading = 2 * (values * (4 + self._reader.header.dtype.itemsize) + 8 * (columns + 1)) + (4 + 8) * values
        # The same of a bin's rows, once they are sums along x and energy.
        values = math.prod(whole.shape[1:])
        row = values * (4 + self.header.dtype.itemsize) + 8 * (whole.shape[1] + 1)
        summing = per_y * (row + (4 + 8) * values)
        # The caller's band, the sums so far, and the next band that is joined of them.
        return inner + max(reading, summing) + (per_y + 1) * row + 3 * rows * row

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        """Yield the rows of a box (default: of all that is kept), ``rows`` at a time.

        Rows, columns and channels of the box, and of the bands, are those of the map that comes out.

        Raises
        ------
        SourceError
            The file is damaged; all rows that could be made before that have been yielded.
        """
        whole = box or Box.whole(self.header.shape)
        if self._bins != (1, 1, 1):
            yield from self._merged(rows, whole)
            return
        for band in self._reader.bands(rows, self._in_map(whole)):
            yield replace(band, y0=band.y0 - self._kept.ys.start)
            del band  # The caller has it; a second name would keep it alive while the next one is made.

    def images(self) -> Iterator[ElectronImage]:
        """Yield the electron images of the file, whole: they have grids of their own."""
        return self._reader.images()

    def _in_map(self, box: Box) -> Box:
        """Return a box of this map as a box of the reader's."""
        return Box(
            *(
                slice(kept.start + n * axis.start, kept.start + n * axis.stop)
                for axis, kept, n in zip(box, self._kept, self._bins, strict=True)
            )
        )

    def _merged(self, rows: int, box: Box) -> Iterator[Band]:
        from eds_chunked.kernels.crop import merge_rows
        from eds_chunked.kernels.sparse import concatenate

        per_y, per_x, per_channel = self._bins
        # Rows of the bin that is being filled, which the reader's bands may cut anywhere, and rows of bins done. Sums
        # along x and energy are made at once, so that what waits is small.
        waiting: list[Csr] = []
        done: list[Csr] = []
        y0 = box.ys.start
        damage: SourceError | None = None
        source = _rows_of(self._reader.bands(rows, self._in_map(box)))
        while True:
            try:
                waiting.append(merge_rows([next(source)], columns=per_x, channels=per_channel))
            except StopIteration:
                break
            except SourceError as error:
                damage = error
                break
            if len(waiting) == per_y:
                done.append(merge_rows(waiting, columns=1, channels=1))
                waiting.clear()
            if len(done) == rows:
                counts = concatenate(done)
                done.clear()
                yield Band(y0, rows, counts)
                del counts
                y0 += rows
        if done:
            yield Band(y0, len(done), concatenate(done))
        if damage is not None:
            raise damage


def _rows_of(bands: Iterator[Band]) -> Iterator[Csr]:
    """Yield the rows of bands one by one, as CSR that does not hold on to its band."""
    from eds_chunked.kernels.crop import one_row
    from eds_chunked.kernels.sparse import Csr, from_dense

    for band in bands:
        counts = band.counts
        for i in range(band.rows):
            if isinstance(counts, Csr):
                yield one_row(counts, i, width=counts.n_pixels // band.rows)
            else:
                yield from_dense(counts[i])
        del band, counts


LEAST_SCALE, LARGEST_SCALE = 0.0005, 0.2
"""keV per channel that a spectrometer may have. What is above is eV, typed where keV is meant."""


def check_energy_scale(scale: float, *, binned: int = 1) -> None:
    """Raise ParameterError unless ``scale`` can be the keV per channel, each made of ``binned`` channels of a file."""
    least, largest = LEAST_SCALE * binned, LARGEST_SCALE * binned
    # 0.2 is allowed, however it was reckoned.
    if least * (1 - 1e-9) <= scale <= largest * (1 + 1e-9):
        return
    kev = scale / 1000 if least <= scale / 1000 <= largest else 0.01 * binned
    raise ParameterError(
        "energy_scale",
        found=f"{scale:g} keV a channel",
        expected=f"{least:g} to {largest:g}",
        fix=f"--energy-scale {kev:g} ({1000 * kev:g} eV)",
    )


def _rescaled(header: MapHeader, scale: float) -> MapHeader:
    if isinstance(scale, bool) or not isinstance(scale, int | float | np.number) or not 0 < scale < math.inf:
        raise ParameterError(
            "energy_scale", found=repr(scale), expected="a number above 0 (keV per channel)", fix="--energy-scale 0.01"
        )
    check_energy_scale(float(scale), binned=header.channels_binned)
    # Channel 0 of the file stays where the file says, in keV or, before there are any, in channels.
    before = header.channel_origin / header.channels_binned
    zero = header.energy_offset - header.energy_scale * before
    if not header.energy_calibrated:
        zero *= scale / header.channels_binned
    offset = float(zero + scale * before)
    return replace(header, energy_scale=float(scale), energy_offset=offset, energy_calibrated=True)


def _pixels(header: MapHeader, region: Region | None) -> tuple[slice, slice]:
    height, width = header.shape[:2]
    if region is None:
        return slice(0, height), slice(0, width)
    if not isinstance(region, tuple | list) or len(region) != 2 or not all(isinstance(r, slice) for r in region):
        raise ParameterError(
            "region",
            found=repr(region),
            expected="a slice of rows and a slice of columns",
            fix="region=(slice(0, 100), slice(50, 200))",
        )
    kept = []
    for given, n in zip(region, (height, width), strict=True):
        start = 0 if given.start is None else _whole(given.start)
        stop = n if given.stop is None else _whole(given.stop)
        if start is None or stop is None or given.step not in (None, 1) or not 0 <= start < stop <= n:
            found = ",".join(
                f"{_end(r.start)}:{_end(r.stop)}{'' if r.step in (None, 1) else f':{r.step}'}" for r in region
            )
            raise ParameterError(
                f"region of {header.source}",
                found=found,
                expected=f"at least one pixel within rows 0:{height} and columns 0:{width}",
                fix=f"--region 0:{height},0:{width} is the whole map",
            )
        kept.append(slice(start, stop))
    return kept[0], kept[1]


def _end(value: Any) -> str:
    return "" if value is None else str(value)


def _whole(value: Any) -> int | None:
    try:
        return None if isinstance(value, bool) else index(value)
    except TypeError:
        return None


_SAME_CHANNEL = 1e-6
"""Channels by which an end of a window may miss the centre of a channel that it names."""


def _channels(header: MapHeader, energy: Energy | None) -> slice:
    n_channels = header.shape[2]
    if energy is None:
        return slice(0, n_channels)
    try:
        low, high = (float(end) for end in energy)
    except (TypeError, ValueError):
        low = high = math.nan
    if not low <= high:
        raise ParameterError(
            "energy", found=repr(energy), expected="the lowest and the highest keV", fix="--energy 0.2:12"
        )
    if not header.energy_calibrated:
        raise ParameterError(
            f"energy of {header.source}",
            found="a map whose energies count channels, and a window in keV",
            expected="a calibrated energy axis",
            fix="add --energy-scale KEV, the keV per channel",
        )
    centres = header.energy_offset + header.energy_scale * np.arange(n_channels)
    # Numbers that are typed, and centres that are reckoned, round differently: 35 x 0.01 is above 0.35.
    near = _SAME_CHANNEL * header.energy_scale
    kept = slice(int(np.searchsorted(centres, low - near, "left")), int(np.searchsorted(centres, high + near, "right")))
    if kept.start >= kept.stop:
        raise ParameterError(
            f"energy of {header.source}",
            found=f"no channel between {low:g} and {high:g} keV",
            expected=f"at least one of the {n_channels} channels from {centres[0]:g} to {centres[-1]:g} keV, "
            f"{header.energy_scale:g} keV apart",
            fix=f"--energy {centres[0]:.6g}:{centres[-1]:.6g} is the whole axis",
        )
    return kept


def _bins(kept: Box, rebin: Rebin) -> Rebin:
    numbers = [_whole(n) for n in rebin] if isinstance(rebin, tuple | list) else []
    if len(numbers) != 3 or any(n is None or n < 1 for n in numbers):
        raise ParameterError(
            "rebin",
            found=repr(rebin),
            expected="three whole numbers above 0: rows, columns and channels of a bin",
            fix="--rebin 2,2,1",
        )
    y, x, channel = (n for n in numbers if n is not None)
    if any(n > size for n, size in zip((y, x, channel), kept.shape, strict=True)):
        raise ParameterError(
            "rebin",
            found=f"bins of {y} x {x} x {channel} (rows x columns x channels)",
            expected="no more than what is kept of the map, {} x {} x {}".format(*kept.shape),
            fix="choose smaller bins, or a larger --region and --energy",
        )
    return y, x, channel


def _full_bins(axis: slice, n: int) -> slice:
    return slice(axis.start, axis.start + (axis.stop - axis.start) // n * n)


def _of_box(header: MapHeader, kept: Box, bins: Rebin, asked: dict[str, Any], left: dict[str, int]) -> MapHeader:
    """Return the header of the map that is left."""
    shape = tuple(size // n for size, n in zip(kept.shape, bins, strict=True))
    steps = header.pixel_size or header.binned
    # The middle of the pixels, or channels, that make the first bin.
    first = [axis.start + (n - 1) / 2 for axis, n in zip(kept, bins, strict=True)]
    largest = int(np.iinfo(header.dtype).max) * math.prod(bins)
    return replace(
        header,
        shape=(shape[0], shape[1], shape[2]),
        dtype=header.dtype if math.prod(bins) == 1 else np.min_scalar_type(min(largest, np.iinfo(np.uint64).max)),
        energy_scale=header.energy_scale * bins[2],
        energy_offset=header.energy_offset + header.energy_scale * first[2],
        pixel_size=None if header.pixel_size is None else (steps[0] * bins[0], steps[1] * bins[1]),
        origin=(header.origin[0] + steps[0] * first[0], header.origin[1] + steps[1] * first[1]),
        binned=(header.binned[0] * bins[0], header.binned[1] * bins[1]),
        channel_origin=header.channel_origin + header.channels_binned * first[2],
        channels_binned=header.channels_binned * bins[2],
        parameters={**header.parameters, **asked},
        left_out={**header.left_out, **left},
    )
