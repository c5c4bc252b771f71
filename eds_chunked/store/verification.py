"""Verifying a store: every count is counted again, and every other array is read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store

from eds_chunked import progress, schema
from eds_chunked.errors import EdsError
from eds_chunked.in_order import in_order
from eds_chunked.kernels.sparse import Csr, channel_dtype, from_dense, take_pixels
from eds_chunked.memory import Need, Reads, Stored, plan
from eds_chunked.store.backend import Location, WholeStore, exists, list_dir, location_text, zarr_store
from eds_chunked.store.chunks import DAMAGE, StoredTiles, stored_tiles
from eds_chunked.store.drafts import revision_numbers
from eds_chunked.store.journal import TileRecord, digest
from eds_chunked.store.layout import ROOT_DOCUMENT, group_document, revision_group
from eds_chunked.store.opening import check_store
from eds_chunked.store.provenance import fingerprint
from eds_chunked.store.record import Layout, read_record
from eds_chunked.store.run_log import recorded
from eds_chunked.store.survey import Survey, TileSurvey, survey_tile

Array = np.ndarray[Any, Any]

_COUNTS_ARRAY = f"{schema.MAP_GROUP}/{schema.COUNTS}"
_SURVEYED = (schema.SUM_SPECTRUM, schema.MAX_SPECTRUM, schema.MAX_SPECTRUM_PIXEL, schema.TOTAL_COUNTS)


@dataclass(frozen=True)
class DamagedTile:
    """A tile of the counts that is not as it was written.

    Attributes
    ----------
    ys, xs
        Rows and columns of the map that it holds.
    why
        What is wrong: ``"absent"``, ``"other bytes than were written"``, ``"unreadable (...)"``, ``"N counts where M
        were written"``, or several of these.
    """

    ys: slice
    xs: slice
    why: str

    def __str__(self) -> str:
        return f"y {self.ys.start}:{self.ys.stop}, x {self.xs.start}:{self.xs.stop}: {self.why}"


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Attributes
    ----------
    store
        Path or URL of the store.
    n_tiles
        Tiles that the map has, damaged ones too.
    counts
        Counts that were counted, in all tiles that can be read.
    damaged_tiles
        The tiles that are not as they were written.
    other_damage
        A line for everything else: the journal, the survey, the description of the map, arrays of images and results.
    has_journal
        Whether there is a record of what was written. Without one, bytes are not compared.
    """

    store: str
    n_tiles: int
    counts: int
    damaged_tiles: tuple[DamagedTile, ...]
    other_damage: tuple[str, ...]
    has_journal: bool

    @property
    def whole(self) -> bool:
        """Whether no damage was found."""
        return not (self.damaged_tiles or self.other_damage)


@recorded("verify")
def verify(store: Location, *, memory: str | int | None = None) -> Verification:
    """Compare every tile of a map with what was written and surveyed, and read all other arrays; computes, streamed.

    Of each tile: its bytes are there, have the digest that the journal noted, decode, and hold as many counts as were
    written, in each pixel as many as ``total_counts`` says. Over all tiles: sum spectrum and maximum-pixel spectrum are
    those of the survey. The coordinates and the calibration fit the fingerprint of the map. Images and results are
    read; nothing is noted of them that they could be compared with. Damage does not end it, all of it is listed.

    Parameters
    ----------
    store
        Path or URL of the store.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    What was found; its ``whole`` says whether there is no damage.

    Raises
    ------
    StoreNotFoundError, StoreError
        There is no store, its conversion did not finish, or it does not answer.
    MemoryBudgetError
        One tile needs more memory than the budget leaves.

    Notes
    -----
    Memory: a tile a worker, as bytes and as CSR, and 2-D terms.
    """
    check_store(store)
    beside = _damage_beside(store)
    try:
        counts = _StoredCounts(zarr_store(store, read_only=True))
    except Exception as error:  # whatever Zarr makes of a damaged document
        damage = (f"{_COUNTS_ARRAY}: unreadable ({_words(error)})", *beside.values())
        return Verification(location_text(store), 0, 0, (), damage, has_journal=True)
    chosen = plan(counts.need(), memory=memory, reads=[counts.reads()])
    record = read_record(zarr_store(store, read_only=True), counts.layout(store))
    stored = {name: counts.beside(name) if f"{schema.MAP_GROUP}/{name}" not in beside else None for name in _SURVEYED}
    totals = stored[schema.TOTAL_COUNTS]
    if totals is not None and totals.shape != counts.shape[:2]:
        totals = None  # told of with the rest of the survey

    def check(place: tuple[slice, slice]) -> tuple[TileSurvey | None, tuple[str, ...]]:
        ys, xs = place
        marker = record.markers.get(ys.start)
        written = None if marker is None else marker.tiles[xs.start // counts.side[1]]
        return _check_tile(counts, ys, xs, written, totals)

    survey = Survey(counts.shape)
    tiles: list[DamagedTile] = []
    readable = True
    with progress.step("verify", counts.n_tiles, unit="tiles") as done:
        places = counts.places()
        for (ys, xs), (of_tile, why) in zip(places, in_order(check, places, workers=chosen.workers), strict=True):
            if of_tile is None:
                readable = False
            else:
                survey.add(of_tile)
            if why:
                tiles.append(DamagedTile(ys, xs, ", ".join(why)))
            done(1)
    other = [
        *record.damage,
        *beside.values(),
        *_survey_damage(survey, stored, readable=readable),
        *_description_damage(store),
    ]
    total = int(survey.sum_spectrum.sum())
    return Verification(location_text(store), counts.n_tiles, total, tuple(tiles), tuple(other), record.there)


# ------------------------------------------------------------------------------------------------- the tiles
def _attributes(store: Location) -> dict[str, Any]:
    try:
        return zarr.open_group(zarr_store(store, read_only=True), path=schema.MAP_GROUP, mode="r").attrs.asdict()
    except Exception:  # damage that the arrays of the map are told with
        return {}


class _StoredCounts:
    """The counts of a store, tile by tile, as bytes where that is possible."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.array: zarr.Array[Any] = zarr.open_array(WholeStore(store), path=_COUNTS_ARRAY, mode="r")
        # None for a chain of codecs that convert does not make: there Zarr decodes.
        self.tiles: StoredTiles | None = stored_tiles(self.array)
        height, width, n_channels = self.array.shape
        self.shape = height, width, n_channels
        self.side = self.array.chunks[0], self.array.chunks[1]

    @property
    def n_tiles(self) -> int:
        return math.prod(-(-size // side) for size, side in zip(self.shape[:2], self.side, strict=True))

    def places(self) -> list[tuple[slice, slice]]:
        """Rows and columns of the map that each tile holds."""
        rows, columns = (
            [slice(first, min(first + side, size)) for first in range(0, size, side)]
            for size, side in zip(self.shape[:2], self.side, strict=True)
        )
        return list(itertools.product(rows, columns))

    def reads(self) -> Reads:
        """Return what a look at every tile reads; tiles that are absent, or their size, are found out then."""
        return Reads("tiles of the map", self._stored)

    def _stored(self) -> Stored:
        if self.tiles is None:
            return Stored(self.n_tiles, self.array.nbytes)
        n_bytes = 0
        for row, column in itertools.product(*map(range, self.tiles.grid)):
            with suppress(*DAMAGE):
                n_bytes += self.tiles.n_bytes(row, column)
        return Stored(self.n_tiles, n_bytes)

    def layout(self, store: Location) -> Layout:
        """Return what the plan of a journal has to agree with."""
        n_channels = self.shape[2]
        shards, attrs = self.array.shards, _attributes(store)
        missing = attrs.get(schema.MISSING_ROWS)
        return Layout(
            self.shape,
            (*self.side, n_channels),
            None if shards is None else (shards[0], shards[1], shards[2]),
            "another" if self.tiles is None else self.tiles.codec.name,
            None if missing is None else (missing[0], missing[1]),
        )

    def need(self) -> Need:
        """Return the memory that it takes: of a tile the stored bytes and the inflated ones, and its CSR twice."""
        height, width, n_channels = self.shape
        values, itemsize = math.prod(self.side) * n_channels, np.dtype(self.array.dtype).itemsize
        tile = values * (2 * itemsize + 2 * (itemsize + channel_dtype(n_channels).itemsize))
        return Need("verify", 24 * height * width, tile)

    def beside(self, name: str) -> Array:
        """Return another array of the map."""
        return np.asarray(zarr.open_array(self._store, path=f"{schema.MAP_GROUP}/{name}", mode="r")[...])

    def read(self, ys: slice, xs: slice) -> bytes | None:
        """Return the stored bytes of a tile, None where Zarr has to read it."""
        if self.tiles is None:
            return None
        return self.tiles.read(ys.start // self.side[0], xs.start // self.side[1])

    def decode(self, data: bytes | None, ys: slice, xs: slice) -> Csr:
        """Return all pixels of the chunk of a tile."""
        if self.tiles is None or data is None:
            padded = np.zeros((*self.side, self.shape[2]), self.array.dtype)
            padded[: ys.stop - ys.start, : xs.stop - xs.start] = self.array[ys, xs]
            return from_dense(padded.reshape(-1, self.shape[2]))
        whole = slice(0, self.shape[2])
        return self.tiles.codec.decode(data, (*self.side, self.shape[2]), whole, np.dtype(self.array.dtype))


def _check_tile(
    counts: _StoredCounts, ys: slice, xs: slice, record: TileRecord | None, totals: Array | None
) -> tuple[TileSurvey | None, tuple[str, ...]]:
    """Count a tile again; return its survey, unless it is unreadable, and what is wrong with it."""
    why: list[str] = []
    try:
        data = counts.read(ys, xs)
        if record is not None and data is not None and digest(data) != record.digest:
            why.append("other bytes than were written")
        padded = counts.decode(data, ys, xs)
    except EdsError:
        raise  # a store that does not answer is not damaged
    except FileNotFoundError:
        return None, ("absent",)
    # Memory: damaged bytes may promise any size.
    except (ValueError, RuntimeError, OSError, MemoryError) as error:
        return None, (*why, f"unreadable ({_words(error)})")
    total = int(padded.value.sum(dtype=np.uint64))
    if record is not None and total != record.total:
        why.append(f"{total} counts where {record.total} were written")
    pixels = (np.arange(ys.stop - ys.start)[:, None] * counts.side[1] + np.arange(xs.stop - xs.start)).ravel()
    tile = padded if pixels.size == padded.n_pixels else take_pixels(padded, pixels)
    survey = survey_tile(tile, ys, xs, counts.shape[1])
    if totals is not None:
        other = int(np.count_nonzero(survey.totals != totals[ys, xs]))
        if other:
            why.append(f"{other} pixels with other counts than {schema.TOTAL_COUNTS} says")
    return survey, tuple(why)


# --------------------------------------------------------------------------------- what lies beside the counts
def _words(error: BaseException) -> str:
    """Return what an error says, on one line."""
    return schema.text(error) or type(error).__name__


def _damage_beside(store: Location) -> dict[str, str]:
    """Read all groups, and every array but the counts, chunk by chunk; return a line for each that cannot be, by path.

    A revision without a document of its group is being written, or was left by a crash: nobody reads it.
    """
    images = [f"{schema.IMAGES_GROUP}/{name}" for name in list_dir(store, schema.IMAGES_GROUP) if name != ROOT_DOCUMENT]
    results = [
        revision_group(step, run, number)
        for step in schema.STEPS
        for run, numbers in revision_numbers(store, step).items()
        for number in numbers
    ]
    parents = [schema.IMAGES_GROUP, schema.RESULTS_GROUP, *(f"{schema.RESULTS_GROUP}/{step}" for step in schema.STEPS)]
    there = [group for group in (*parents, *results) if exists(store, group_document(group))]
    readable = zarr_store(store, read_only=True)
    damage: dict[str, str] = {}

    def open_group(path: str) -> None:
        zarr.open_group(readable, path=path, mode="r")

    def read_array(path: str) -> None:
        _read_through(zarr.open_array(readable, path=path, mode="r"))

    def check(read: Callable[[str], None], path: str) -> None:
        try:
            read(path)
        except EdsError:
            raise  # a store that does not answer is not damaged
        except Exception as error:  # whatever Zarr and the codecs make of damage
            damage[path] = f"{path}: unreadable ({_words(error)})"

    for group in (schema.MAP_GROUP, *images, *there):
        check(open_group, group)
        if group in parents:
            continue
        names = {name for name in list_dir(store, group) if name != ROOT_DOCUMENT}
        if group == schema.MAP_GROUP:
            # Whether they are there or not; the counts are read elsewhere.
            names = names - {schema.COUNTS} | {*_SURVEYED, schema.Y, schema.X, schema.ENERGY}
        for path in sorted(f"{group}/{name}" for name in names):
            check(read_array, path)
    return damage


def _read_through(array: zarr.Array[Any]) -> None:
    steps = [max(1, step) for step in array.shards or array.chunks]
    starts = (range(0, size, step) for size, step in zip(array.shape, steps, strict=True))
    for corner in itertools.product(*starts):
        array[tuple(slice(a, a + step) for a, step in zip(corner, steps, strict=True))]


def _survey_damage(survey: Survey, stored: dict[str, Array | None], *, readable: bool) -> Iterator[str]:
    """Compare the survey of the store with one of the counts; of ``total_counts`` the tiles have told already."""
    for name, found in stored.items():
        if found is None:
            continue  # told of already, as an array that cannot be read
        counted = getattr(survey, name)
        if found.shape != counted.shape:
            yield f"{schema.MAP_GROUP}/{name}: shape {found.shape}, where the counts have {counted.shape}"
        elif readable and name != schema.TOTAL_COUNTS and not np.array_equal(found, counted):
            n_channels = np.count_nonzero((found != counted).reshape(len(found), -1).any(axis=1))
            yield f"{schema.MAP_GROUP}/{name}: other than the counts in {n_channels} channels"


def _description_damage(store: Location) -> Iterator[str]:
    """Compare coordinates, calibration and survey with the fingerprint that the map notes of them."""
    try:
        ds = xr.open_zarr(
            zarr_store(store, read_only=True),
            group=schema.MAP_GROUP,
            chunks=None,
            consolidated=False,
            drop_variables=[schema.COUNTS],
        )
        if schema.BEFORE_CALIBRATION in ds.attrs:
            again = "eds-chunked calibrate with the same values again"
            yield f"{schema.MAP_GROUP}: a calibration that did not finish; {again}"
        elif fingerprint(ds) != ds.attrs[schema.FINGERPRINT]:
            yield f"{schema.MAP_GROUP}: survey, coordinates or calibration do not fit the fingerprint of the map"
    except EdsError:
        raise
    except Exception as error:  # whatever xarray and Zarr make of damage
        yield f"{schema.MAP_GROUP}: unreadable ({_words(error)})"
