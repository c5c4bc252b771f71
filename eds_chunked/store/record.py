"""The journal of a store read for comparison: what was written, as far as the journal itself is as it was written."""

from __future__ import annotations

from dataclasses import dataclass

from zarr.abc.store import Store

from eds_chunked.errors import EdsError
from eds_chunked.store.journal import ConversionPlan, Journal, RowMarker, document_name, parse

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
    plan, journal = None, Journal(store)
    try:
        plan = journal.plan
    except EdsError:
        raise  # a store that does not answer is not damaged
    except ValueError as error:
        damage.append(f"plan of the journal: unreadable ({error})")
    documents = journal.documents()
    if plan is None and not documents and not damage:
        return Record({}, (), False)
    if plan is None:
        damage = damage or ["plan of the journal: absent"]
    else:
        damage += [f"plan of the journal: {what}" for what in _disagreements(plan, layout)]
    markers = {}
    for rows in layout.rows:
        document = documents.pop(document_name(rows[0]), None)
        of_rows = f"marker of rows {rows[0]}:{rows[1]}"
        if document is None:
            damage.append(f"{of_rows}: absent")
            continue
        try:
            marker = parse(document)
        except ValueError as error:
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
