"""Verbs on what goes out: ``report`` and ``export``."""

from __future__ import annotations

import warnings
from pathlib import Path

import click

from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Output


@click.command()
@click.argument("store", metavar="STORE")
@click.argument("target", metavar="[FOLDER|FILE.html]", required=False)
@parameters.speaking
def report(output: Output, store: str, target: str | None) -> None:
    """Write the report of a store, with its pictures and tables.

    Into a folder (STORE-results by default) go report.html, the pictures as PNG, and the tables as CSV and text. A
    name that ends in .html gets the report alone, in one file.

    \b
    Example:
      eds-chunked report map.zarr
      eds-chunked report map.zarr map.html
    """
    from eds_chunked.cli.describing import results_folder
    from eds_chunked.grains.statistics import FewGrainsWarning
    from eds_chunked.report.assemble import write_pictures, write_report, write_tables
    from eds_chunked.store.opening import check_store

    check_store(store)  # before a folder is made
    place = Path(target) if target is not None else results_folder(store)
    alone = place.suffix.lower() in (".html", ".htm")
    folder = place.parent if alone else place
    page = place if alone else place / "report.html"
    folder.mkdir(parents=True, exist_ok=True)
    with output.working():
        # The report lists the phases that have few grains.
        warnings.simplefilter("ignore", FewGrainsWarning)
        files = [] if alone else write_tables(store, folder) + write_pictures(store, folder)
        write_report(store, page)
    output.show(
        {"report": page, "files": files, "seconds": output.seconds},
        Facts([("report", str(page)), ("files", f"{len(files)} pictures and tables in {folder}" if files else "")]),
        brief=page,
    )


@click.command()
@click.argument("store", metavar="STORE")
@click.argument("target", metavar="FILE.hspy")
@parameters.options(parameters.overwrite, parameters.memory)
@parameters.speaking
def export(output: Output, store: str, target: str, overwrite: bool, memory: str | None) -> None:
    """Write the map of a store to a file for HyperSpy.

    \b
    Example:
      eds-chunked export map.zarr map.hspy
    """
    from eds_chunked.memory import format_size
    from eds_chunked.store.export import export as export_map

    with output.working():
        path = export_map(store, target, memory=memory, overwrite=overwrite)
    size = path.stat().st_size
    output.show(
        {"file": path, "bytes": size, "seconds": output.seconds},
        Facts([("file", str(path)), ("size", format_size(size)), ("took", output.effort())]),
        brief=path,
    )
