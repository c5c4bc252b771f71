"""Grain-size statistics of a store or of a file of diameters: ``sizes``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Piece, Rows

if TYPE_CHECKING:
    import pandas as pd

    from eds_chunked.grains.stereology import UnfoldedSizes


@click.command()
@click.argument("what", metavar="STORE|FILE.txt", shell_complete=parameters.files)
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
@click.option("--precision", type=float, metavar="D", help="Largest step of the density's grid, in um or pixels.")
@click.option(
    "--boundary-width", "boundary_width_um", type=float, metavar="UM", help="Width of a grain boundary, to add."
)
@click.option("--include-edge", is_flag=True, help="Count grains of a store that the map's edge cuts.")
@click.option("--min-pixels", type=int, metavar="N", help="Smallest grain of a store that counts.")
@click.option(
    "--stereology",
    type=click.Choice(["saltykov", "two-step"]),
    help="Unfold to diameters of spheres instead; --bins is the number of classes.",
)
@click.option(
    "--unfolding",
    type=click.Choice(["grainsizetools", "per_volume"]),
    default="grainsizetools",
    help="Reading of the method: as that toolbox, or spheres per volume.",
)
@click.option("--up-to", type=float, metavar="D", help="With --stereology: give the volume in spheres up to D.")
@click.option(
    "--csv",
    "target",
    type=click.Path(dir_okay=False),
    metavar="FILE.csv",
    help="Write the table there, with --stereology that of the classes.",
)
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE.png", help="Draw a figure.")
@click.option(
    "--kind",
    type=click.Choice(["distribution", "area", "quantiles"]),
    default="distribution",
    help="Figure to draw: histogram and density, shares of area, or log-normal quantiles.",
)
@parameters.options(parameters.came_from(schema.GRAINS))
@parameters.speaking
def sizes(output: Output, what: str, phase: int | None, parent: str, stereology: str | None, **given: Any) -> None:
    """Describe grain sizes of a store or of a text file.

    Averages with confidence intervals, spread, classes and density. Of a store, compare its phases, or describe one
    with --phase. Of a text file, one diameter a line. Diameters are apparent: of sections through grains. Grains that
    the map's edge cuts are left out.

    \b
    Example:
      eds-chunked sizes map.zarr
      eds-chunked sizes map.zarr --phase 1 --scale log --plot sizes.png
      eds-chunked sizes diameters.txt --bins 20
      eds-chunked sizes diameters.txt --stereology saltykov --up-to 50
    """
    _only_with(stereology is not None, ("unfolding", "up_to"), "--stereology")
    _only_with(stereology is None, ("scale", "bandwidth", "precision", "kind"), "a call without --stereology")
    describe = _describe if stereology is None else _unfold
    if stereology is not None:
        given["stereology"] = stereology
    what = what.removeprefix("file://")
    if not _is_text(what):
        if phase is None:
            alone = ("scale", "bins", "kind", "plot", "stereology", "unfolding", "up_to")
            _only_with(False, alone, "--phase N, since phases are compared without it")
            _compare(output, what, parent, **{name: given[name] for name in _COMPARED_BY})
            return
        from eds_chunked.store.results import load_fresh

        grains = load_fresh(what, parent)
        describe(output, grains, f"{what}, phase {phase}", phase=phase, **given)
        return
    _only_with(False, ("phase", "include_edge", "min_pixels"), "a store: a file has diameters only")
    from eds_chunked.grains.files import diameter_unit, read_diameters

    describe(output, read_diameters(what), what, unit=diameter_unit(what), **given)


_COMPARED_BY = ("bandwidth", "precision", "boundary_width_um", "include_edge", "min_pixels", "target")


def _is_text(what: str) -> bool:
    path = Path(what)
    return "://" not in what and not path.is_dir() and path.suffix != ".zarr"


def _only_with(met: bool, names: tuple[str, ...], condition: str) -> None:
    """Refuse the options ``names``, where they were typed, unless their ``condition`` is met."""
    context = click.get_current_context()
    for name in names:
        if not met and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} needs {condition}", context)


def _compare(output: Output, store: str, parent: str, *, target: str | None, **given: Any) -> None:
    from eds_chunked.cli.describing import size_pieces
    from eds_chunked.grains.statistics import compare_phases
    from eds_chunked.store.results import load_fresh, newest

    address = newest(store, parent).address
    table = compare_phases(load_fresh(store, address), **given)
    _write(table, target)
    where = Facts([("of", address), ("written", target or "")])
    said = {"address": address, "grain_sizes": table, "csv": target}
    output.show(said, *size_pieces(table), where, brief=target or address)


def _write(table: pd.DataFrame, target: str | None) -> None:
    if target is not None:
        table.to_csv(target, index=False)


def _written(target: str | None, plot: str | None) -> list[Facts]:
    return [Facts([("written", target or ""), ("picture", plot or "")])] if target or plot else []


def _describe(
    output: Output,
    diameters: Any,
    heading: str,
    *,
    plot: str | None,
    kind: str,
    unfolding: str,
    up_to: float | None,
    target: str | None,
    **given: Any,
) -> None:
    from eds_chunked.cli.describing import statistics_rows
    from eds_chunked.grains.statistics import grain_size_statistics

    with output.working():
        statistics = grain_size_statistics(diameters, **given)
        _write(statistics.table(), target)
        if plot is not None:
            from eds_chunked import figures

            figures.save(statistics.plot(kind), Path(plot))
    pieces: list[Piece] = [statistics_rows(statistics.table(), heading)]
    pieces += _written(target, plot)
    brief = f"{statistics.geometric_mean:.6g} {statistics.unit}"
    output.show({**statistics.to_dict(), "csv": target, "plot": plot}, *pieces, brief=target or plot or brief)


def _unfold(
    output: Output,
    diameters: Any,
    heading: str,
    *,
    stereology: str,
    bins: int | float | str,
    unfolding: str,
    up_to: float | None,
    plot: str | None,
    target: str | None,
    **given: Any,
) -> None:
    from eds_chunked.cli.describing import statistics_rows
    from eds_chunked.grains.stereology import saltykov, two_step_stereology

    given = {name: given[name] for name in given if name not in ("scale", "bandwidth", "precision", "kind")}
    if bins != "auto":
        given["classes"] = bins
    with output.working():
        fit = two_step_stereology(diameters, method=unfolding, **given) if stereology == "two-step" else None
        unfolded = fit.unfolded if fit else saltykov(diameters, method=unfolding, **given)
        volume = None if up_to is None else unfolded.volume_fraction(up_to)
        _write(unfolded.table(), target)
        if plot is not None:
            from eds_chunked import figures

            figures.save((fit or unfolded).plot(), Path(plot))
    pieces: list[Piece] = [statistics_rows(fit.table(), heading)] if fit else []
    pieces.append(_class_rows(unfolded, heading))
    if volume is not None:
        said = f"{volume.percent:.2f} % ({volume.low:.0f}-{volume.high:.0f} % with other readings of the method)"
        pieces.append(Facts([(f"volume up to {volume.diameter:g} {unfolded.unit}", said)]))
    pieces.append(Note(f"Assumed: {'; '.join((fit or unfolded).assumptions)}."))
    pieces += _written(target, plot)
    facts: dict[str, Any] = {
        **(fit or unfolded).to_dict(),
        "volume_fraction": None if volume is None else vars(volume),
        "csv": target,
        "plot": plot,
    }
    brief = f"{unfolded.n_classes} classes of {unfolded.class_width:.6g}"
    output.show(facts, *pieces, brief=target or plot or brief)


def _class_rows(unfolded: UnfoldedSizes, heading: str) -> Rows:
    low, high = (schema.measured(end, unfolded.unit) for end in ("from", "to"))
    rows = [
        [
            f"{row[low]:,.3f}-{row[high]:,.3f}",
            f"{row['frequency_percent']:.2f}",
            f"{row['volume_percent']:.2f}",
            f"{row['volume_low_percent']:.0f}-{row['volume_high_percent']:.0f}",
        ]
        for row in unfolded.table().to_dict("records")
    ]
    columns = [f"spheres, {unfolded.unit}", "number %", "volume up to here %", "other readings %"]
    return Rows(columns, rows, f"{heading}: spheres by {unfolded.method}, n = {unfolded.n}")
