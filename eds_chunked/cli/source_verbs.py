"""Verbs on what comes in: ``info``, ``convert`` and ``calibrate``."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Piece, Rows
from eds_chunked.errors import ParameterError, SourceError

if TYPE_CHECKING:
    from eds_chunked.readers import MapHeader

_LAST = 3
"""Entries of the run log that ``info`` shows."""
_UNFINISHED = "being calibrated, or broken off: eds-chunked calibrate with the same values again"


@click.command()
@click.argument("what", metavar="FILE|STORE", shell_complete=parameters.files)
@parameters.speaking
def info(output: Output, what: str) -> None:
    """Say what is in a file or a store, without reading counts.

    Of a file: its spectrum images with sizes and calibration, and a warning where it is cut off. Of a store: its map,
    its images, and its results, which of them are fresh, and with what parameters they were made.

    \b
    Example:
      eds-chunked info map.bcf
      eds-chunked info map.zarr
    """
    what = what.removeprefix("file://")
    if _is_store(what):
        _info_of_store(output, what)
    else:
        _info_of_file(output, what)


def _is_store(what: str) -> bool:
    path = Path(what)
    if "://" in what or (path / "zarr.json").exists():
        return True
    return path.suffix == ".zarr" or (path.is_dir() and path.suffix != ".zspy")


def _info_of_file(output: Output, file: str) -> None:
    from eds_chunked.cli.describing import header_facts, map_lines

    headers, damage = _describe(file)
    if damage:
        warnings.warn(
            f"{file} is damaged ({damage}); "
            f"eds-chunked convert {file} STORE --salvage keeps the whole rows before the damage",
            stacklevel=2,
        )
    maps = [header_facts(header) for header in headers]
    if len(maps) == 1:
        pieces: list[Piece] = [map_lines(maps[0], file)]
    else:
        pieces = [map_lines(facts, f"{file}, map {i} of {len(maps)}") for i, facts in enumerate(maps, start=1)]
        pieces.append(Note(f"Choose one with --map NUMBER: eds-chunked convert {file} STORE --map 1"))
    brief = "\n".join("{} x {} x {}".format(*facts["shape"]) for facts in maps)
    output.show({"file": file, "maps": maps, "damage": damage or None}, *pieces, brief=brief)


def _describe(file: str) -> tuple[tuple[MapHeader, ...], str]:
    """Return the headers of a file and what is wrong with it; what cannot be salvaged either is an error."""
    from eds_chunked import readers

    try:
        return readers.describe(file), ""
    except SourceError as error:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told at the first attempt
            try:
                headers = readers.describe(file, salvage=True)
            except (SourceError, ParameterError):
                raise error from None
        return headers, f"{error.what}: found {error.found}, expected {error.expected}"


def _info_of_store(output: Output, store: str) -> None:
    from eds_chunked.cli.describing import bytes_on_disk, log_rows, map_facts, map_lines
    from eds_chunked.store.opening import open_map, open_tree
    from eds_chunked.store.results import refresh_command, revisions, why_stale
    from eds_chunked.store.run_log import read_log

    ds = open_map(store)
    facts = map_facts(ds)
    tile = ds[schema.COUNTS].data.chunksize
    unfinished = schema.BEFORE_CALIBRATION in ds.attrs
    tree = open_tree(store)
    groups = tree[schema.IMAGES_GROUP].children if schema.IMAGES_GROUP in tree.children else {}
    pictures = [
        {"name": schema.text(image.attrs.get(schema.TITLE, "")), "shape": list(image[schema.IMAGE].shape)}
        for image in groups.values()
    ]
    found = revisions(store)
    results = [
        {
            "address": revision.address,
            "stale": why_stale(store, revision, found),
            "refresh": refresh_command(store, revision),
            schema.PARENT: revision.attrs.get(schema.PARENT),
            schema.CREATED: revision.attrs[schema.CREATED],
            schema.PARAMETERS: dict(revision.attrs.get(schema.PARAMETERS, {})),
        }
        for revision in found
    ]
    pieces: list[Piece] = [
        map_lines(
            facts,
            store,
            ("images", ", ".join(f"{p['name'] or 'image'} {p['shape'][0]} x {p['shape'][1]}" for p in pictures)),
            ("tile", " x ".join(map(str, tile))),
            ("on disk", bytes_on_disk(store)),
            ("calibration", _UNFINISHED if unfinished else ""),
        )
    ]
    if results:
        pieces.append(_results_table(results))
        pieces += _stale_pieces(results)
    else:
        pieces.append(Note(f"No results yet: eds-chunked pca {store}"))
    entries = read_log(store, last=_LAST)
    if entries:
        pieces.append(log_rows(entries, f"Last of what ran: eds-chunked log {store}"))
    output.show(
        {
            "store": store,
            "map": {**facts, "tile": list(tile), "being_calibrated": unfinished},
            "images": pictures,
            "results": results,
            "log": [vars(entry) for entry in entries],
        },
        *pieces,
        brief="\n".join(str(result["address"]) for result in results),
    )


def _results_table(results: list[dict[str, Any]]) -> Rows:
    rows = [
        [
            result["address"],
            "stale" if result["stale"] else "fresh",
            result[schema.PARENT] or "map",
            " ".join(f"{key}={_short(value)}" for key, value in result[schema.PARAMETERS].items() if value != {}),
        ]
        for result in results
    ]
    columns = ["result", "state", "made of", "parameters"]
    return Rows(columns, rows, "Results", words=columns[1:])


def _short(value: object) -> str:
    if isinstance(value, Mapping):
        parts = "; ".join(f"{name}: {_short(part)}" for name, part in value.items())
        return f"({parts})"
    if isinstance(value, list | tuple):
        return ",".join(map(_short, value))
    if isinstance(value, str) and " " in value:
        # Where it ends is not seen otherwise.
        return f'"{value}"'
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _stale_pieces(results: list[dict[str, Any]]) -> list[Piece]:
    """Say why results are stale, and the commands that make the newest of each run again, in their order."""
    reasons: dict[str, list[str]] = {}
    commands: dict[str, str] = {}
    for result in results:
        if result["stale"]:
            reasons.setdefault(result["stale"], []).append(result["address"])
        run = result["address"].rsplit(".r", 1)[0]
        commands[run] = result["refresh"] if result["stale"] else ""
    stale = [Note(f"Stale ({reason}): {', '.join(addresses)}.") for reason, addresses in reasons.items()]
    again = [(run, command) for run, command in commands.items() if command]
    return [*stale, Facts(again, "To refresh", wrapped=False)] if again else [*stale]


@click.command()
@click.argument("source", metavar="SOURCE", shell_complete=parameters.files)
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@parameters.options(
    parameters.pick,
    parameters.selecting,
    parameters.storing,
    parameters.overwrite,
    parameters.memory,
    parameters.scheduler,
)
@parameters.speaking
def convert(
    output: Output,
    source: str,
    store: str,
    pick: str | None,
    selection: dict[str, Any],
    storing: dict[str, Any],
    overwrite: bool,
    memory: str | None,
) -> None:
    """Convert a file to a store, in one streamed pass.

    An interrupted conversion does not open; --resume continues it, with the options that it began with.

    \b
    Example:
      eds-chunked convert map.bcf map.zarr --memory 1GB
      eds-chunked convert map.bcf corner.zarr --region 0:512,0:512 --energy 0.2:12 --rebin 2
      eds-chunked convert map.bcf map.zarr --resume
    """
    from eds_chunked.readers import open_source

    # Before the imports that take seconds: a wrong path is told at once.
    reader = open_source(source, pick=pick, salvage=storing["salvage"], memory=memory)
    from eds_chunked.cli.describing import bytes_on_disk, map_facts, map_lines
    from eds_chunked.dask_cluster import active_client
    from eds_chunked.store.conversion import convert as convert_map

    with output.working():
        # A worker opens the file itself.
        given = reader if active_client() is None else source
        ds = convert_map(given, store, pick=pick, **selection, **storing, memory=memory, overwrite=overwrite)
    facts = map_facts(ds)
    output.show(
        {"store": store, "map": facts, "seconds": output.seconds},
        map_lines(facts, store, ("on disk", bytes_on_disk(store)), ("took", output.effort())),
        brief=store,
    )


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@parameters.calibration
@parameters.speaking
def calibrate(output: Output, store: str, calibration: dict[str, Any]) -> None:
    """Correct the axes and metadata of a stored map.

    No count changes. Results that were made before are stale from then on: run their steps again.

    \b
    Example:
      eds-chunked calibrate map.zarr --zero-peak auto --pixel-size 2.5 --beam-energy 20
    """
    from eds_chunked.cli.describing import map_facts, map_lines
    from eds_chunked.store.calibration import calibrate as calibrate_map
    from eds_chunked.store.results import revisions, why_stale

    with output.working():
        ds = calibrate_map(store, **calibration)
    facts = map_facts(ds)
    found = revisions(store)
    stale = [revision.address for revision in found if why_stale(store, revision, found)]
    pieces: list[Piece] = [map_lines(facts, store)]
    if stale:
        are = "1 result is" if len(stale) == 1 else f"{len(stale)} results are"
        pieces.append(Note(f"{are} stale now; how to refresh: eds-chunked info {store}"))
    output.show({"store": store, "map": facts, "stale": stale}, *pieces, brief=store)
