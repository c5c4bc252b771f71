"""Verbs on a store as a whole: ``export`` and ``verify``."""

from __future__ import annotations

import click

from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Piece, Rows

_DAMAGE = 1
"""Exit code of ``verify`` where something is damaged."""

_NO_JOURNAL = (
    "No journal of what was written: this store was made by an early version. Its tiles are compared with the survey, "
    "their bytes with nothing."
)


@click.command()
@click.argument("store", metavar="STORE")
@click.argument("target", metavar="FILE.hspy|OUT.zarr")
@click.option(
    "--codec",
    type=click.Choice(["zstd", "lz4", "counts"]),
    metavar="NAME",
    help="How OUT.zarr packs counts: zstd or lz4 (read by every Zarr), or counts (needs this package).",
    show_default="zstd",
)
@parameters.options(parameters.overwrite, parameters.memory)
@parameters.speaking
def export(output: Output, store: str, target: str, codec: str | None, overwrite: bool, memory: str | None) -> None:
    """Write a store for other software: HyperSpy, or any Zarr.

    FILE.hspy gets the map. OUT.zarr, or a URL, gets a copy of the store with images and results, whose counts are
    read where this package is not installed.

    \b
    Example:
      eds-chunked export map.zarr map.hspy
      eds-chunked export map.zarr shared.zarr --codec zstd
    """
    from eds_chunked.memory import format_size
    from eds_chunked.store.backend import stored_bytes
    from eds_chunked.store.export import export as export_map

    with output.working():
        place = export_map(store, target, codec=codec, memory=memory, overwrite=overwrite)
    is_store = isinstance(place, str) or place.is_dir()
    size = stored_bytes(place) if isinstance(place, str) or place.is_dir() else place.stat().st_size
    output.show(
        {"file": place, "bytes": size, "seconds": output.seconds},
        Facts([("store" if is_store else "file", str(place)), ("size", format_size(size)), ("took", output.effort())]),
        brief=place,
    )


@click.command()
@click.argument("store", metavar="STORE")
@parameters.memory
@parameters.speaking
def verify(output: Output, store: str, memory: str | None) -> int:
    """Count every tile of a store again, and find what is damaged.

    The bytes of each tile are compared with the digest that was noted when they were written, its counts with the
    totals and spectra of the survey. All other arrays are read. Exit code 0: no damage; 1: damage, all of it listed;
    2: no store.

    \b
    Example:
      eds-chunked verify map.zarr
    """
    from eds_chunked.store.verification import verify as verify_store

    with output.working():
        found = verify_store(store, memory=memory)
    n_damaged = len(found.damaged_tiles)
    tiles = f"{n_damaged:,} of {found.n_tiles:,} damaged" if n_damaged else f"{found.n_tiles:,}, none damaged"
    counted = ("counts", f"{found.counts:,} counted")
    pieces: list[Piece] = [Facts([("store", store), ("tiles", tiles), counted, ("took", output.effort())])]
    if not found.has_journal:
        pieces.append(Note(_NO_JOURNAL))
    if found.damaged_tiles:
        rows = [
            (f"{tile.ys.start}:{tile.ys.stop}", f"{tile.xs.start}:{tile.xs.stop}", tile.why)
            for tile in found.damaged_tiles
        ]
        pieces.append(Rows(["y", "x", "damage"], rows, "Damaged tiles", words=("x", "damage")))
    pieces += [Note(line) for line in found.other_damage]
    if not found.whole:
        pieces.append(Note("To mend a map: convert its source again with --overwrite; its results stay."))
    lines = [*map(str, found.damaged_tiles), *found.other_damage]
    output.show(
        {
            "store": store,
            "whole": found.whole,
            "tiles": found.n_tiles,
            "counts": found.counts,
            "journal": found.has_journal,
            "damaged_tiles": [
                {"y": [tile.ys.start, tile.ys.stop], "x": [tile.xs.start, tile.xs.stop], "why": tile.why}
                for tile in found.damaged_tiles
            ],
            "other_damage": list(found.other_damage),
            "seconds": output.seconds,
        },
        *pieces,
        brief="\n".join(lines) or store,
    )
    return 0 if found.whole else _DAMAGE
