"""The journal of a conversion: what it set out to write, and which rows of tiles are written.

The plan is put before the first tile, the marker of a row of tiles after its last one. What has no marker is written
again when a conversion is resumed. The journal stays in the store, so that every tile can be checked against it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from eds_chunked.store.layout import PRIVATE_FOLDER

PLAN = f"{PRIVATE_FOLDER}/plan.json"
_ROWS = f"{PRIVATE_FOLDER}/rows"

Shape = tuple[int, int, int]


def digest(data: bytes) -> str:
    """Return the digest of the stored bytes of a tile."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


@dataclass(frozen=True)
class ConversionPlan:
    """What a conversion set out to write; to resume it means to keep to this, whatever the machine and its budget.

    ``shape`` is of the map to be stored, ``source`` tells its source from another (:mod:`eds_chunked.store.origin`),
    ``selection`` are the arguments of ``convert`` that choose what is stored, those that were given.
    """

    shape: Shape
    tile: Shape
    shard: Shape | None
    codec: str
    source: dict[str, Any]
    selection: dict[str, Any] = field(default_factory=dict)
    pick: str | int | None = None


@dataclass(frozen=True)
class TileRecord:
    """A tile as it was written: the sum of its counts, and the digest of its bytes."""

    total: int
    digest: str


@dataclass(frozen=True)
class RowMarker:
    """A row of tiles that is written whole: the rows of the map that it holds, and its tiles from left to right."""

    rows: tuple[int, int]
    total: int
    tiles: tuple[TileRecord, ...]


class Journal:
    """The journal in a store.

    Parameters
    ----------
    store
        The Zarr store, with the map below ``map``.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def plan(self) -> ConversionPlan | None:
        """The plan, or None where no conversion has begun (or an early version of the package made the store)."""
        document = self._get(PLAN)
        if document is None:
            return None
        for name in ("shape", "tile", "shard"):
            document[name] = None if document[name] is None else tuple(document[name])
        return ConversionPlan(**document)

    def begin(self, plan: ConversionPlan) -> None:
        """Put the plan."""
        self._put(PLAN, asdict(plan))

    def mark(self, marker: RowMarker) -> None:
        """Note that a row of tiles is written."""
        self._put(_row_key(marker.rows[0]), asdict(marker))

    def forget(self, first_rows: Sequence[int]) -> None:
        """Remove the markers of the rows of tiles that begin at these rows of the map."""

        async def delete() -> None:
            await asyncio.gather(*(self._store.delete(_row_key(first)) for first in first_rows))

        sync(delete())

    def markers(self) -> tuple[RowMarker, ...]:
        """Return the markers of all rows of tiles that are written, from the top."""

        async def documents() -> list[bytes]:
            names = sorted([name async for name in self._store.list_dir(_ROWS) if name.endswith(".json")])
            gets = (self._store.get(f"{_ROWS}/{name}", default_buffer_prototype()) for name in names)
            return [found.to_bytes() for found in await asyncio.gather(*gets) if found is not None]

        return tuple(_marker(json.loads(document)) for document in sync(documents()))

    @property
    def stopped_at(self) -> int:
        """First row of the map that is not known to be written."""
        row = 0
        for marker in self.markers():
            if marker.rows[0] != row:
                break
            row = marker.rows[1]
        return row

    def _get(self, key: str) -> dict[str, Any] | None:
        found = sync(self._store.get(key, default_buffer_prototype()))
        return None if found is None else dict(json.loads(found.to_bytes()))

    def _put(self, key: str, document: dict[str, Any]) -> None:
        buffer = default_buffer_prototype().buffer.from_bytes(json.dumps(document).encode())
        sync(self._store.set(key, buffer))


def _row_key(first_row: int) -> str:
    return f"{_ROWS}/{first_row:08d}.json"


def _marker(document: dict[str, Any]) -> RowMarker:
    first, stop = document["rows"]
    return RowMarker((first, stop), document["total"], tuple(TileRecord(**tile) for tile in document["tiles"]))
