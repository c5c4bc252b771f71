"""The journal of a store read for comparison: what was written, as far as the journal itself is as it was written."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from eds_chunked.store.journal import ConversionPlan, Journal, RowMarker
from eds_chunked.store.layout import PRIVATE_FOLDER

_MARKERS = f"{PRIVATE_FOLDER}/rows"
_SUFFIX = ".json"

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """How the counts lie in a store: what a plan has to agree with."""

    shape: Shape
    tile: Shape
    shard: Shape | None
    codec: str
    missing_rows: tuple[int, int] | None = None

    @property
    def rows(self) -> list[tuple[int, int]]:
        """First and last (exclusive) row of the map in each row of tiles."""
        height, side = self.shape[0], self.tile[0]
        return [(y, min(y + side, height)) for y in range(0, height, side)]

    @property
    def n_columns(self) -> int:
        """Tiles in a row."""
        return -(-self.shape[1] // self.tile[1])


@dataclass(frozen=True)
class Record:
    """What a journal says.

    Attributes
    ----------
    markers
        Those that can be used, by the first row of the map that they are of.
    damage
        A line for all that is wrong with the journal.
    there
        Whether there is a journal.
    """

    markers: dict[int, RowMarker]
    damage: tuple[str, ...]
    there: bool


def read_record(store: Store, layout: Layout) -> Record:
    """Read the journal of a store whose counts lie as ``layout`` says."""
    damage: list[str] = []
    plan = None
    try:
        plan = Journal(store).plan
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        damage.append(f"plan of the journal: unreadable ({error})")
    documents = _documents(store)
    if plan is None and not documents and not damage:
        return Record({}, (), False)
    if plan is None:
        damage = damage or ["plan of the journal: absent"]
    else:
        damage += [f"plan of the journal: {what}" for what in _disagreements(plan, layout)]
    markers = {}
    for rows in layout.rows:
        document = documents.pop(f"{rows[0]:08d}{_SUFFIX}", None)
        of_rows = f"marker of rows {rows[0]}:{rows[1]}"
        if document is None:
            damage.append(f"{of_rows}: absent")
            continue
        try:
            marker = _marker(document)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            damage.append(f"{of_rows}: unreadable ({error})")
            continue
        total = sum(tile.total for tile in marker.tiles)
        if marker.total != total:
            damage.append(f"{of_rows}: {marker.total} counts, where its tiles have {total}")
        if marker.rows != rows or len(marker.tiles) != layout.n_columns:
            damage.append(f"{of_rows}: of rows {marker.rows} and {len(marker.tiles)} tiles")
        else:
            markers[rows[0]] = marker
    damage += [f"marker {name}: of rows that the map has not" for name in documents]
    return Record(markers, tuple(damage), True)


def _disagreements(plan: ConversionPlan, layout: Layout) -> list[str]:
    found = []
    height = layout.shape[0]
    whole = plan.shape == layout.shape or (
        plan.shape[1:] == layout.shape[1:] and layout.missing_rows == (height, plan.shape[0])
    )
    if not whole:
        found.append(f"shape {plan.shape}, where the counts have {layout.shape}")
    for name, planned, there in (
        ("tiles", plan.tile, layout.tile),
        ("shards", plan.shard, layout.shard),
        ("codec", plan.codec, layout.codec),
    ):
        if planned != there:
            found.append(f"{name} {planned}, where the counts have {there}")
    return found


def _documents(store: Store) -> dict[str, bytes]:
    """Return the documents of all markers by their names."""

    async def read() -> dict[str, bytes]:
        names = sorted([name async for name in store.list_dir(_MARKERS) if name.endswith(_SUFFIX)])
        gets = (store.get(f"{_MARKERS}/{name}", default_buffer_prototype()) for name in names)
        found = await asyncio.gather(*gets)
        return {name: data.to_bytes() for name, data in zip(names, found, strict=True) if data is not None}

    return dict(sync(read()))


def _marker(document: bytes) -> RowMarker:
    """Return the marker in a document; raise ValueError unless the journal would write it so, to the byte."""
    key = f"{_MARKERS}/0{_SUFFIX}"
    (marker,) = Journal(MemoryStore({key: _buffer(document)})).markers()
    if not all(type(number) is int for number in (*marker.rows, marker.total, *(t.total for t in marker.tiles))):
        raise ValueError("numbers that are no whole numbers")
    written: dict[str, Any] = {}
    Journal(MemoryStore(written)).mark(marker)
    (again,) = written.values()
    if again.to_bytes() != document:
        raise ValueError("not as the journal writes it")
    return marker


def _buffer(data: bytes) -> Buffer:
    return default_buffer_prototype().buffer.from_bytes(data)
