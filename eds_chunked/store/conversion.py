"""From a microscope's file to a store, in one pass over the counts."""

from __future__ import annotations

import os
import shutil
import uuid
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from eds_chunked import progress, schema
from eds_chunked.errors import CountsError, MemoryBudgetError, SourceError, StoreExistsError
from eds_chunked.kernels.sparse import Csr, concatenate, from_dense, take_pixels
from eds_chunked.memory import MB, Need, format_size, plan
from eds_chunked.readers import open_source
from eds_chunked.readers.base import Band, MapHeader, Reader
from eds_chunked.store.backend import Location, delete_dir, exists, list_dir, location_text
from eds_chunked.store.description import describe_image, describe_map
from eds_chunked.store.layout import ROOT_DOCUMENT, tile_shape
from eds_chunked.store.opening import is_ours, open_map
from eds_chunked.store.survey import Survey, TileSurvey, survey_tile
from eds_chunked.store.writer import MapWriter

_TYPICAL_FILL = 0.1
"""Share of non-zero values that the staging of rows is planned for; denser maps use what the budget leaves."""


def convert(
    source: Location | Reader,
    store: Location,
    *,
    pick: str | int | None = None,
    memory: str | int | None = None,
    overwrite: bool = False,
) -> xr.Dataset:
    """Convert a microscope's file to a store; computes, in one streamed pass.

    Counts are written as tiles x all channels, in the smallest unsigned dtype that holds the map's true maximum. The
    survey (sum spectrum, maximum-pixel spectrum, total counts) is gathered in the same pass. The map appears in the
    store only when it is whole: an interrupted conversion leaves nothing that opens.

    Parameters
    ----------
    source
        A file that :func:`eds_chunked.readers.open_source` knows, or an object that fulfils
        :class:`eds_chunked.readers.base.Reader`.
    store
        Path or URL of the Zarr store to make.
    pick
        Name or number (from 1) of the spectrum image, for files with several.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.
    overwrite
        Replace an existing store, with all its results.

    Returns
    -------
    The map, opened lazily: ``counts`` (y, x, energy), the survey and the coordinates in um and keV.

    Raises
    ------
    SourceError, SourceNotFoundError, CountsError
        The file is not there, not readable, or holds no counts.
    StoreExistsError
        ``store`` exists and ``overwrite`` is false, or it is something else than a store.
    MemoryBudgetError
        The smallest way to do it needs more memory than the budget.

    Notes
    -----
    Memory: rows are staged as CSR until a row of tiles is complete, so a dense band never exists.
    """
    reader = open_source(Path(source), pick=pick) if isinstance(source, str | os.PathLike) else source
    header = reader.header
    _check_target(store, overwrite=overwrite)
    _check_shape(header)
    how = _plan(reader, memory)
    with _new_store(store) as place:
        _fill(reader, place, how)
    return open_map(store)


@contextmanager
def _new_store(store: Location) -> Iterator[str]:
    """Give a place to build a store at, and make it ``store`` at the end; what fails leaves everything as it was.

    An older store on a disk stays until the new one is whole. Object stores cannot rename: there it goes first.
    """
    text = location_text(store)
    replaces = exists(store, ROOT_DOCUMENT)
    beside = replaces and "://" not in text
    # Hidden, and a name that nobody has: what lies beside the store may be anybody's.
    mark = uuid.uuid4().hex[:12]
    hidden = os.path.join(os.path.dirname(text), f".{os.path.basename(text)}.{mark}")
    place, old = (f"{hidden}.new", f"{hidden}.old") if beside else (text, "")
    if replaces and not beside:
        delete_dir(text, "")
    try:
        yield place
        if beside:
            os.rename(text, old)
            try:
                os.rename(place, text)
            except BaseException:
                os.rename(old, text)
                raise
    except BaseException:
        # Without its map a store is of no use, and it is this call that made it.
        delete_dir(place, "")
        raise
    if beside:
        shutil.rmtree(old, ignore_errors=True)


def _check_target(store: Location, *, overwrite: bool) -> None:
    text = location_text(store)
    if not list_dir(store, "") and not os.path.isfile(text):
        return
    if not is_ours(store):
        raise StoreExistsError(
            f"store {text}",
            found="something that is no eds_chunked store",
            expected="a new place",
            fix="choose another",
        )
    if not overwrite:
        raise StoreExistsError(
            f"store {text}",
            found="a store",
            expected="a new place",
            fix="add --overwrite to replace it with all its results",
        )


def _check_shape(header: MapHeader) -> None:
    if min(header.shape) < 1:
        raise SourceError(
            f"map in {header.source}",
            found=f"shape {header.shape}",
            expected="at least one pixel and channel",
            fix="check the file",
        )


@dataclass(frozen=True)
class _How:
    rows: int
    workers: int
    staging: int
    limit: int


def _plan(reader: Reader, memory: str | int | None) -> _How:
    """Find the tallest band of rows that fits the budget; bands of a few rows only cost calls."""
    height, width, n_channels = reader.header.shape
    side = tile_shape(n_channels)[0]
    itemsize = min(4, max(1, reader.header.dtype.itemsize))
    staging = int(2 * side * width * n_channels * _TYPICAL_FILL * (2 + itemsize))
    flat = 40 * height * width
    # A tile exists as CSR, dense, and as the buffers of the codec.
    tile = side * side * n_channels * itemsize
    rows = min(side, height)
    while True:
        need = Need("convert", reader.peak_bytes(rows) + staging + flat, 4 * tile)
        try:
            chosen = plan(need, memory=memory)
        except MemoryBudgetError:
            if rows == 1:
                raise
            rows //= 2
        else:
            return _How(rows, chosen.workers, staging + chosen.spare, chosen.limit)


def _fill(reader: Reader, store: Location, how: _How) -> None:
    header = reader.header
    writer = MapWriter(store, header.shape)
    survey = Survey(header.shape)
    with ThreadPoolExecutor(how.workers) as pool, progress.step("convert", header.shape[0]) as done:
        pending: deque[Future[TileSurvey]] = deque()
        for ys, parts in _tile_rows(reader, writer.tile[0], how):
            # The row of tiles before this one was written while this one was read.
            _collect(pending, survey)
            writer.make_room_for(max((int(part.value.max(initial=0)) for _, part in parts), default=0))
            for x0 in range(0, header.shape[1], writer.tile[1]):
                xs = slice(x0, min(header.shape[1], x0 + writer.tile[1]))
                pending.append(pool.submit(_write_tile, writer, ys, xs, parts))
            done(ys.stop - ys.start)
        _collect(pending, survey)
    if not survey.sum_spectrum.any():
        raise CountsError(
            f"map in {header.source}",
            found="no counts in any pixel",
            expected="a map with counts",
            fix="check the file",
        )
    _seal(writer, header, survey, reader)


def _collect(pending: deque[Future[TileSurvey]], survey: Survey) -> None:
    while pending:
        survey.add(pending.popleft().result())


def _tile_rows(reader: Reader, side: int, how: _How) -> Iterator[tuple[slice, list[tuple[slice, Csr]]]]:
    """Gather the bands of the reader, as CSR, into the rows of one row of tiles."""
    height, width, _ = reader.header.shape
    parts: list[tuple[slice, Csr]] = []
    top = read = 0
    # Bands must not straddle rows of tiles; a power of two below the side never does.
    rows = how.rows
    for band in reader.bands(rows):
        parts.extend(_split(band, _compressed(band, reader.header, read), width, side))
        read += band.rows
        staged = sum(part.channel.nbytes + part.value.nbytes for _, part in parts)
        if 2 * staged > how.staging:
            rows_staged = parts[-1][0].stop - top
            missing = 2 * staged * min(side, height) // rows_staged - how.staging
            raise MemoryBudgetError(
                "memory for convert",
                found=f"{format_size(staged)} of counts in the {rows_staged} rows from {top} on",
                expected=f"at most {format_size(how.staging / 2)} of the budget for a row of tiles",
                fix=f"--memory {-(-(how.limit + missing) // (10 * MB)) * 10}MB",
            )
        while parts and parts[-1][0].stop >= min(top + side, height):
            bottom = min(top + side, height)
            yield slice(top, bottom), [(ys, part) for ys, part in parts if ys.start < bottom]
            parts = [(ys, part) for ys, part in parts if ys.start >= bottom]
            top = bottom
    if read < height:
        raise SourceError(
            f"map in {reader.header.source}", found=f"{read} rows", expected=f"{height} rows", fix="get the whole file"
        )


def _compressed(band: Band, header: MapHeader, y0: int) -> Csr:
    """Return the band as CSR; a reader that does not keep to its header would fill a map with wrong counts."""
    height, width, n_channels = header.shape
    counts = band.counts
    shape: tuple[int, ...]
    expected: tuple[int, ...]
    if isinstance(counts, Csr):
        # The kernels do not check their indices, so a channel beyond the last one counts as one more channel here.
        shape = (counts.n_pixels, max(counts.n_channels, int(counts.channel.max(initial=0)) + 1))
        expected, dtype = (band.rows * width, n_channels), counts.value.dtype
    else:
        shape, expected, dtype = counts.shape, (band.rows, width, n_channels), counts.dtype
    if band.y0 != y0 or not 0 < band.rows <= height - y0 or shape != expected or dtype.kind != "u":
        raise SourceError(
            f"map in {header.source}",
            found=f"a band of {dtype} {shape} at row {band.y0}",
            expected=f"unsigned integers {expected} at row {y0} of {height}",
            fix="correct the reader of this format",
        )
    return counts if isinstance(counts, Csr) else from_dense(counts.reshape(band.rows * width, n_channels))


def _split(band: Band, csr: Csr, width: int, side: int) -> Iterator[tuple[slice, Csr]]:
    """Return the band as CSR pieces that lie within one row of tiles each."""
    y0, stop = band.y0, band.y0 + band.rows
    while y0 < stop:
        y1 = min(stop, (y0 // side + 1) * side)
        if (y0, y1) == (band.y0, stop):
            yield slice(y0, y1), csr
        else:
            yield slice(y0, y1), take_pixels(csr, np.arange((y0 - band.y0) * width, (y1 - band.y0) * width))
        y0 = y1


def _write_tile(writer: MapWriter, ys: slice, xs: slice, parts: list[tuple[slice, Csr]]) -> TileSurvey:
    width = writer.shape[1]
    columns = np.arange(xs.start, xs.stop)
    pieces = []
    for rows, part in parts:
        pixels = (np.arange(rows.stop - rows.start)[:, None] * width + columns).ravel()
        pieces.append(take_pixels(part, pixels))
    tile = concatenate(pieces)
    writer.write_tile(ys, xs, tile)
    return survey_tile(tile, ys, xs, width)


def _seal(writer: MapWriter, header: MapHeader, survey: Survey, reader: Reader) -> None:
    """Write coordinates, survey, metadata and images, then commit the map."""
    describe_map(header, survey).to_zarr(writer.store, group=schema.MAP_GROUP, mode="a", consolidated=False)
    for number, image in enumerate(reader.images()):
        group = f"{schema.IMAGES_GROUP}/{number}"
        describe_image(image).to_zarr(writer.store, group=group, mode="a", consolidated=False)
    writer.commit()
