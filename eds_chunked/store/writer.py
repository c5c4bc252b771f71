"""Writing the counts of a map, tile by tile, and noting which rows of tiles are written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import Lock
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from eds_chunked.errors import CountsError
from eds_chunked.kernels.sparse import Csr, take_pixels
from eds_chunked.schema import COUNTS, MAP_GROUP, VARIABLES, attributes
from eds_chunked.store.backend import HeldBackStore, Location, zarr_store
from eds_chunked.store.chunks import StoredTiles
from eds_chunked.store.consolidation import forget_consolidated
from eds_chunked.store.journal import ConversionPlan, Journal, RowMarker, TileRecord, digest
from eds_chunked.store.layout import (
    FORMAT,
    FORMAT_ATTR,
    FORMAT_VERSION,
    HOW_TO_READ,
    READER_ATTR,
    ROOT_DOCUMENT,
    VERSION_ATTR,
    group_document,
)
from eds_chunked.store.tile_codecs import TILE_CODECS

_COUNTS_ARRAY = f"{MAP_GROUP}/{COUNTS}"
_WIDEST = np.dtype(np.uint32)


class MapWriter:
    """Fills ``/map/counts`` of a new store, or of one whose conversion stopped.

    The map exists for readers only after :meth:`commit`.

    Parameters
    ----------
    location
        Path or URL of the store.
    plan
        What is to be written.
    resume
        Whether the plan is that of the store, to go on with.
    dtype
        One that holds all counts, where it is known; default: the narrowest that what is written needs.

    Attributes
    ----------
    store
        The store, with the document of the map held back.
    bytes_written
        Bytes of all tiles that are written, or were read back.
    """

    def __init__(
        self,
        location: Location,
        plan: ConversionPlan,
        *,
        resume: bool = False,
        dtype: np.dtype[Any] | None = None,
    ) -> None:
        self.store = HeldBackStore(zarr_store(location), group_document(MAP_GROUP))
        self.plan = plan
        self.bytes_written = 0
        self._codec = TILE_CODECS[plan.codec]
        self._journal = Journal(self.store)
        self._marked = self._usable_markers() if resume else {}
        self._records: dict[int, dict[int, TileRecord]] = {}
        self._lock = Lock()
        # Payloads of a codec that does not ask for the dtype get the narrowest in the end, the others on the way.
        dtype = _WIDEST if self._codec.independent_of_dtype else np.dtype(dtype or np.uint8)
        if not resume:
            # Before anything else: what a crash leaves is to be gone on with in this way.
            self._journal.begin(plan)
        elif not self._codec.independent_of_dtype and sync(self.store.exists(group_document(_COUNTS_ARRAY))):
            dtype = np.dtype(zarr.open_array(self.store, path=_COUNTS_ARRAY, mode="r").dtype)
        forget_consolidated(location)
        if not sync(self.store.exists(ROOT_DOCUMENT)):  # else of a store whose results stay
            root = {FORMAT_ATTR: FORMAT, VERSION_ATTR: FORMAT_VERSION, READER_ATTR: HOW_TO_READ}
            zarr.create_group(self.store, attributes=root)
        zarr.create_group(self.store, path=MAP_GROUP)
        self._tiles = self._declare(dtype, plan.shape)
        self._dtype = dtype

    def _usable_markers(self) -> dict[tuple[int, int], RowMarker]:
        """Return the markers that are of a row of tiles of the plan; the other rows are written again."""
        rows = {(ys.start, ys.stop) for ys in self.rows}
        n_tiles = -(-self.plan.shape[1] // self.plan.tile[1])
        markers = self._journal.markers()
        return {marker.rows: marker for marker in markers if marker.rows in rows and len(marker.tiles) == n_tiles}

    def _declare(self, dtype: np.dtype[Any], shape: tuple[int, int, int]) -> StoredTiles:
        """Put the document of the counts array, over an earlier one if there is one, and open its tiles.

        The document is made in memory, since creating an array over another would delete the tiles of that one.
        """
        draft = MemoryStore()
        zarr.create_array(
            draft,
            name=_COUNTS_ARRAY,
            shape=shape,
            chunks=self.plan.tile,
            shards=self.plan.shard,
            dtype=dtype,
            fill_value=0,
            dimension_names=VARIABLES[COUNTS].dims,
            attributes={**attributes(COUNTS)},
            **self._codec.pipeline(),
        )
        key = group_document(_COUNTS_ARRAY)
        document = sync(draft.get(key, default_buffer_prototype()))
        assert document is not None
        sync(self.store.set(key, document))
        return StoredTiles(zarr.open_array(self.store, path=_COUNTS_ARRAY, mode="r+"), self._codec)

    # ------------------------------------------------------------------------------------------ where to write
    @property
    def rows(self) -> list[slice]:
        """Rows of the map that each row of tiles holds."""
        height, side = self.plan.shape[0], self.plan.tile[0]
        return [slice(top, min(top + side, height)) for top in range(0, height, side)]

    @property
    def marked(self) -> list[slice]:
        """Rows of the map that are written, a slice for each row of tiles."""
        return [ys for ys in self.rows if (ys.start, ys.stop) in self._marked]

    @property
    def gaps(self) -> list[slice]:
        """Rows of the map that are to be written, rows of tiles that follow one another in one slice."""
        found: list[slice] = []
        for ys in self.rows:
            if (ys.start, ys.stop) in self._marked:
                continue
            begins = found.pop().start if found and found[-1].stop == ys.start else ys.start
            found.append(slice(begins, ys.stop))
        return found

    @property
    def units(self) -> list[slice]:
        """Columns of the map that are written together: of a tile, or of the tiles of a shard."""
        width, step = self.plan.shape[1], self._tiles.unit * self.plan.tile[1]
        return [slice(left, min(left + step, width)) for left in range(0, width, step)]

    def columns(self, unit: slice) -> list[slice]:
        """Columns of the map that each tile of a unit holds."""
        side = self.plan.tile[1]
        return [slice(left, min(left + side, unit.stop)) for left in range(unit.start, unit.stop, side)]

    # ------------------------------------------------------------------------------------------ writing
    def make_room_for(self, largest: int) -> None:
        """Widen the stored dtype if ``largest`` needs it and the codec does: what is written already is rewritten.

        At most two widenings happen (1 to 2 to 4 bytes); counting first would read every source twice. Must not run
        while tiles are being written.
        """
        if largest > np.iinfo(_WIDEST).max:
            raise CountsError(
                f"map in {self.plan.source['path']}",
                found=f"{largest} counts in one channel of a pixel",
                expected=f"at most {np.iinfo(_WIDEST).max}",
                fix="use smaller bins",
            )
        if largest <= np.iinfo(self._dtype).max:
            return
        # In this order a crash leaves no marker of a row whose tiles are not of the dtype that the document says.
        written = list(self._marked.values())
        self._journal.forget([marker.rows[0] for marker in written])
        self._marked = {}
        narrow, narrow_dtype = self._tiles, self._dtype
        self._dtype = np.min_scalar_type(largest)
        self._tiles = self._declare(self._dtype, self.plan.shape)
        whole = slice(0, self.plan.shape[2])
        for marker in written:
            row = marker.rows[0] // self.plan.tile[0]
            for unit in self.units:
                first = unit.start // self.plan.tile[1]
                tiles = []
                for column in range(first, first + len(self.columns(unit))):
                    data = narrow.read(row, column)
                    self.bytes_written -= len(data)
                    padded = self._codec.decode(data, self.plan.tile, whole, narrow_dtype)
                    tiles.append(self._tiles.encode(padded, self.plan.tile[:2]))
                totals = [record.total for record in marker.tiles[first : first + len(tiles)]]
                self._put(slice(*marker.rows), first, tiles, totals)

    def write(self, ys: slice, unit: slice, tiles: Iterator[Csr]) -> None:
        """Write the tiles of a unit in rows ``ys``; several threads may write different units.

        The last unit of a row puts the marker of the row.
        """
        encoded, totals = [], []
        for xs, tile in zip(self.columns(unit), tiles, strict=True):
            encoded.append(self._tiles.encode(tile, (ys.stop - ys.start, xs.stop - xs.start)))
            totals.append(int(tile.value.sum(dtype=np.uint64)))
        self._put(ys, unit.start // self.plan.tile[1], encoded, totals)

    def _put(self, ys: slice, first: int, tiles: Sequence[bytes], totals: Sequence[int]) -> None:
        self._tiles.write(ys.start // self.plan.tile[0], first, tiles)
        records = {first + i: TileRecord(totals[i], digest(tile)) for i, tile in enumerate(tiles)}
        with self._lock:
            self.bytes_written += sum(map(len, tiles))
            of_row = self._records.setdefault(ys.start, {})
            of_row.update(records)
            if len(of_row) < self._tiles.grid[1]:
                return
            del self._records[ys.start]
        tiles_of_row = tuple(of_row[column] for column in sorted(of_row))
        marker = RowMarker((ys.start, ys.stop), sum(tile.total for tile in tiles_of_row), tiles_of_row)
        self._journal.mark(marker)
        self._marked[marker.rows] = marker

    # ------------------------------------------------------------------------------------------ going on
    def read_back(self, ys: slice, xs: slice) -> Csr:
        """Return a tile of a marked row; raise ValueError or OSError if it is not what was written."""
        row, column = ys.start // self.plan.tile[0], xs.start // self.plan.tile[1]
        data = self._tiles.read(row, column)
        record = self._marked[ys.start, ys.stop].tiles[column]
        if digest(data) != record.digest:
            raise ValueError("other bytes than were written")
        whole = slice(0, self.plan.shape[2])
        padded = self._codec.decode(data, self.plan.tile, whole, self._dtype)
        pixels = np.arange(ys.stop - ys.start)[:, None] * self.plan.tile[1] + np.arange(xs.stop - xs.start)
        with self._lock:
            self.bytes_written += len(data)
        return padded if pixels.size == padded.n_pixels else take_pixels(padded, pixels.ravel())

    def forget(self, ys: slice) -> None:
        """Take a row of tiles for one that is not written."""
        self._journal.forget([ys.start])
        del self._marked[ys.start, ys.stop]

    # ------------------------------------------------------------------------------------------ the end
    def seal(self, largest: int, height: int) -> None:
        """Put the final document of the counts: the narrowest dtype, and the rows that there are."""
        dtype = np.min_scalar_type(largest) if self._codec.independent_of_dtype else self._dtype
        self._declare(dtype, (height, *self.plan.shape[1:]))

    def commit(self) -> None:
        """Make the map exist: put the document of its group, in one atomic write."""
        self.store.commit()
