"""The journal of a conversion: what it set out to write, and which rows of tiles are written.

The plan is put before the first tile, the marker of a row of tiles after its last one. What has no marker is written
again when a conversion is resumed. The journal stays in the store, so that every tile can be checked against it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from eds_chunked.errors import EdsError, StoreError
from eds_chunked.store.backend import Location, location_text, zarr_store
from eds_chunked.store.layout import PRIVATE_FOLDER

PLAN = f"{PRIVATE_FOLDER}/plan.json"
_ROWS = f"{PRIVATE_FOLDER}/rows"
_SUFFIX = ".json"

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
        """The plan, or None where no conversion has begun (or an early version of the package made the store).

        Raises
        ------
        ValueError
            It cannot be read; one that is an EdsError says that the store does not answer.
        """
        found = sync(self._store.get(PLAN, default_buffer_prototype()))
        if found is None:
            return None
        with _as_value_error():
            document = dict(json.loads(found.to_bytes()))
            for name in ("shape", "tile", "shard"):
                document[name] = None if document[name] is None else _three(document[name])
            return ConversionPlan(**document)

    def begin(self, plan: ConversionPlan) -> None:
        """Put the plan."""
        self._put(PLAN, asdict(plan))

    def mark(self, marker: RowMarker) -> None:
        """Note that a row of tiles is written."""
        self._put(_key(document_name(marker.rows[0])), asdict(marker))

    def forget(self, first_rows: Sequence[int]) -> None:
        """Remove the markers of the rows of tiles that begin at these rows of the map."""

        async def delete() -> None:
            await asyncio.gather(*(self._store.delete(_key(document_name(first))) for first in first_rows))

        sync(delete())

    def documents(self) -> dict[str, bytes]:
        """Return the documents of all markers by their names, from the top."""

        async def read() -> dict[str, bytes]:
            names = sorted([name async for name in self._store.list_dir(_ROWS) if name.endswith(_SUFFIX)])
            gets = (self._store.get(_key(name), default_buffer_prototype()) for name in names)
            found = await asyncio.gather(*gets)
            return {name: data.to_bytes() for name, data in zip(names, found, strict=True) if data is not None}

        return dict(sync(read()))

    def markers(self) -> tuple[RowMarker, ...]:
        """Return the markers of all rows of tiles that are written, from the top.

        What cannot be read, or lies under the name of another row, is no marker: those rows are written again.
        """
        found = []
        for name, document in self.documents().items():
            with suppress(ValueError):
                marker = parse(document)
                if name == document_name(marker.rows[0]):
                    found.append(marker)
        return tuple(found)

    @property
    def stopped_at(self) -> int:
        """First row of the map that is not known to be written."""
        row = 0
        for marker in self.markers():
            if marker.rows[0] != row:
                break
            row = marker.rows[1]
        return row

    def _put(self, key: str, document: dict[str, Any]) -> None:
        sync(self._store.set(key, default_buffer_prototype().buffer.from_bytes(_text(document))))


def plan_at(location: Location, *, at: str | None = None) -> ConversionPlan | None:
    """Return the plan of the store at a place; raise StoreError if it is unreadable.

    ``at`` is the store that the command is to name, where it is another.
    """
    try:
        return Journal(zarr_store(location, read_only=True)).plan
    except EdsError:
        raise  # a store that does not answer
    except ValueError as error:
        raise StoreError(
            f"store {location_text(location)}",
            found=f"an unreadable {PLAN} ({error})",
            expected="the plan of its conversion",
            fix=f"eds-chunked convert SOURCE {shlex.quote(at or location_text(location))} --overwrite",
        ) from error


def document_name(first_row: int) -> str:
    """Return the name of the marker of the row of tiles that begins at a row of the map."""
    return f"{first_row:08d}{_SUFFIX}"


def parse(document: bytes) -> RowMarker:
    """Return the marker in a document; raise ValueError unless the journal would write it so, to the byte."""
    with _as_value_error():
        found = json.loads(document)
        first, stop = found["rows"]
        marker = RowMarker((first, stop), found["total"], tuple(TileRecord(**tile) for tile in found["tiles"]))
        numbers = (*marker.rows, marker.total, *(tile.total for tile in marker.tiles))
        if not all(type(number) is int for number in numbers):
            raise ValueError("numbers that are no whole numbers")
        if _text(asdict(marker)) != document:
            raise ValueError("not as the journal writes it")
        return marker


@contextmanager
def _as_value_error() -> Iterator[None]:
    """Turn whatever another document than the journal writes leads to into a ValueError."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _key(name: str) -> str:
    return f"{_ROWS}/{name}"


def _text(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()


def _three(sizes: Any) -> Shape:
    y, x, energy = sizes
    return y, x, energy
