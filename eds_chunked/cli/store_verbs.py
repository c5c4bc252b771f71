"""Verbs on a store as a whole, and what it exchanges with other software: ``export``, ``import``, ``verify``."""

from __future__ import annotations

from typing import Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Piece, Rows

_DAMAGE = 1
"""Exit code of ``verify`` where something is damaged."""

_NO_JOURNAL = (
    "No journal of what was written: this store was made by an early version. Its tiles are compared with the survey, "
    "their bytes with nothing."
)


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.argument(
    "target", metavar="FILE.hspy|OUT.zarr|RESULT.npz|SPECTRA.msa|SPECTRA.csv", shell_complete=parameters.files
)
@click.option(
    "--codec",
    type=click.Choice(["zstd", "lz4", "counts"]),
    metavar="NAME",
    help="How OUT.zarr packs counts: zstd or lz4 (read by every Zarr), or counts (needs this package).",
    show_default="zstd",
)
@click.option(
    "--from",
    "parent",
    metavar="STEP/RUN",
    help="Result that goes into RESULT.npz, or spectra.",
    show_default="the last nmf, the last spectra",
)
@click.option(
    "--numbers",
    type=parameters.whole_numbers,
    metavar="N,M,..",
    help="Phases or grains whose spectra are written.",
    show_default="all",
)
@click.option(
    "--per",
    type=click.Choice(["pixel", "second"]),
    metavar="pixel|second",
    help="Write counts a pixel, or a second of live time.",
    show_default="counts",
)
@parameters.options(parameters.overwrite, parameters.memory)
@parameters.speaking
def export(output: Output, store: str, target: str, **given: Any) -> None:
    """Write a store, or results, for other software.

    FILE.hspy gets the map. OUT.zarr, or a URL, gets a copy of the store with images and results, whose counts are
    read where this package is not installed. RESULT.npz gets a PCA or NMF as HyperSpy's learning results. Summed
    spectra of phases or grains go into an EMSA/MSA file each, SPECTRA_1.msa and so on, or into one .csv.

    \b
    Example:
      eds-chunked export map.zarr map.hspy
      eds-chunked export map.zarr shared.zarr --codec zstd
      eds-chunked export map.zarr k4.npz --from nmf/k4
      eds-chunked export map.zarr k4.msa --from spectra/k4
      eds-chunked export map.zarr grains.csv --from grain_spectra/k4 --numbers 3,17 --per pixel
    """
    from eds_chunked.memory import format_size
    from eds_chunked.store.backend import stored_bytes
    from eds_chunked.workflow import export_step

    with output.working():
        place = export_step(store, target, **given)
    if isinstance(place, list):
        size = sum(file.stat().st_size for file in place)
        files = ", ".join(map(str, place if len(place) < 4 else [place[0], "...", place[-1]]))
        output.show(
            {"files": place, "bytes": size, "seconds": output.seconds},
            Facts([("files", files), ("size", format_size(size)), ("took", output.effort())]),
            brief="\n".join(map(str, place)),
        )
        return
    is_store = isinstance(place, str) or place.is_dir()
    size = stored_bytes(place) if isinstance(place, str) or place.is_dir() else place.stat().st_size
    output.show(
        {"file": place, "bytes": size, "seconds": output.seconds},
        Facts([("store" if is_store else "file", str(place)), ("size", format_size(size)), ("took", output.effort())]),
        brief=place,
    )


@click.command("import")
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.argument("path", metavar="RESULT.npz", shell_complete=parameters.files)
@click.option("--energy", type=parameters.energy_window, metavar="LO:HI", help="Window that was decomposed, keV.",
              show_default="all that the store has")  # fmt: skip
@click.option("--bss", is_flag=True, help="Take the blind source separation, not the decomposition.")
@click.option("--name", metavar="RUN", help="Name of the run; a new revision if it exists.", show_default="hsK")
@parameters.speaking
def import_(output: Output, store: str, path: str, bss: bool, **given: Any) -> None:
    """Save a decomposition that HyperSpy made of the same map.

    RESULT.npz is what signal.learning_results.save writes. Its pixels and channels are those of the store, or of the
    window given by --energy. Phases and grains can then be made from it.

    \b
    Example:
      eds-chunked import map.zarr results.npz --name hs4
      eds-chunked phases map.zarr --from nmf/hs4
    """
    from eds_chunked.store.results import load
    from eds_chunked.workflow import import_step

    with output.working():
        address = import_step(store, path, results="bss" if bss else "decomposition", **given)
    n_components = load(store, address).sizes[schema.COMPONENT]
    output.show(
        {"address": address, "components": n_components, "seconds": output.seconds},
        Facts([("components", str(n_components)), ("saved", address), ("took", output.effort())]),
        brief=address,
    )


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
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
