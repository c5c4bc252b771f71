"""Grain-size statistics of a store or of a file of diameters: ``sizes``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Output, Piece


@click.command()
@click.argument("what", metavar="STORE|FILE.txt")
@click.option("--phase", type=int, metavar="N", help="Phase of a store, 1..n; without it all phases are compared.")
@click.option("--scale", metavar="NAME", default="linear", help="linear, log, log10, sqrt or normalised.")
@click.option(
    "--bins",
    type=parameters.number_or_rule,
    metavar="N|WIDTH|RULE",
    default="auto",
    help="Number of classes (20), their width (3.0), or a rule.",
)
@click.option(
    "--bandwidth",
    type=parameters.number_or_rule,
    metavar="NUMBER|RULE",
    default="silverman",
    help="Width of the kernel: silverman, scott, or a number.",
)
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE.png", help="Draw histogram and density.")
@parameters.options(parameters.came_from(schema.GRAINS))
@parameters.speaking
def sizes(output: Output, what: str, phase: int | None, parent: str, plot: str | None, **given: Any) -> None:
    """Describe the sizes of grains of a store or a text file.

    Averages with confidence intervals, spread, classes and density. Of a store, compare its phases, or describe one
    with --phase. Of a text file, one diameter a line. Diameters are apparent: of sections through grains. Grains that
    the map's edge cuts are left out.

    \b
    Example:
      eds-chunked sizes map.zarr
      eds-chunked sizes map.zarr --phase 1 --scale log --plot sizes.png
      eds-chunked sizes diameters.txt --bins 20
    """
    what = what.removeprefix("file://")
    if not _is_text(what):
        if phase is None:
            _only_with_phase()
            _compare(output, what, parent)
            return
        from eds_chunked.store.results import load_fresh

        grains = load_fresh(what, parent)
        _describe(output, grains, f"{what}, phase {phase}", plot, phase=phase, **given)
        return
    if phase is not None:
        raise click.UsageError("--phase is for stores, a file of diameters has no phases", click.get_current_context())
    from eds_chunked.grains.files import diameter_unit, read_diameters

    _describe(output, read_diameters(what), what, plot, unit=diameter_unit(what), **given)


def _is_text(what: str) -> bool:
    path = Path(what)
    return "://" not in what and not path.is_dir() and path.suffix != ".zarr"


def _only_with_phase() -> None:
    context = click.get_current_context()
    for option in ("scale", "bins", "bandwidth", "plot"):
        if context.get_parameter_source(option) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{option} needs --phase N, since phases are compared without it", context)


def _compare(output: Output, store: str, parent: str) -> None:
    from eds_chunked.cli.describing import size_pieces
    from eds_chunked.grains.statistics import compare_phases
    from eds_chunked.store.results import load_fresh, newest

    address = newest(store, parent).address
    table = compare_phases(load_fresh(store, address))
    output.show({"address": address, "grain_sizes": table}, *size_pieces(table), brief=address)


def _describe(output: Output, diameters: Any, heading: str, plot: str | None, **given: Any) -> None:
    from eds_chunked.cli.describing import statistics_rows
    from eds_chunked.grains.statistics import grain_size_statistics

    with output.working():
        statistics = grain_size_statistics(diameters, **given)
        if plot is not None:
            from eds_chunked import figures

            figures.save(statistics.plot(), Path(plot))
    pieces: list[Piece] = [statistics_rows(statistics.table(), heading)]
    if plot is not None:
        pieces.append(Facts([("picture", plot)]))
    brief = f"{statistics.geometric_mean:.6g} {statistics.unit}"
    output.show({**statistics.to_dict(), "plot": plot}, *pieces, brief=plot or brief)
