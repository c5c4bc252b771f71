"""Verbs on what goes out: ``report`` and ``export``."""

from __future__ import annotations

from pathlib import Path

import click

from eds_chunked import schema
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
    from eds_chunked.report.assemble import write_report, write_results
    from eds_chunked.workflow import results_folder

    place = Path(target) if target is not None else results_folder(store)
    files: list[Path] = []
    with output.working():
        if place.suffix.lower() in (".html", ".htm"):
            page = write_report(store, place)
        else:
            *files, page = write_results(store, place)
    output.show(
        {"report": page, "files": files, "seconds": output.seconds},
        Facts([("report", str(page)), ("files", f"{len(files)} pictures and tables in {place}" if files else "")]),
        brief=page,
    )


@click.command()
@click.argument("store", metavar="STORE")
@click.argument("target", metavar="MODEL.zarr")
@click.option(
    "--components", type=parameters.whole_numbers, metavar="I,J,..", help="Components to use.", show_default="all"
)
@parameters.options(parameters.came_from(schema.NMF), parameters.memory)
@parameters.speaking
def model(
    output: Output, store: str, target: str, parent: str, components: list[int] | None, memory: str | None
) -> None:
    """Write the low-rank model, the denoised map, as a Zarr array.

    The model is loadings . factors, as large as the map in 4 bytes a value. In Python it need not be written:
    eds_chunked.reconstruct is lazy.

    \b
    Example:
      eds-chunked model map.zarr model.zarr --from nmf/k4 --components 1,3
    """
    from eds_chunked import workflow

    with output.working():
        shape = workflow.model_step(store, target, parent=parent, components=components, memory=memory)
    output.show(
        {"model": target, "shape": list(shape), "seconds": output.seconds},
        Facts([("model", f"{' x '.join(map(str, shape))} in {target}"), ("took", output.effort())]),
        brief=target,
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
