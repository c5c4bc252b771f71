"""Which phases touch, and what lies inside what: ``association``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Output, Piece, Rows, number


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@parameters.options(parameters.merges, parameters.came_from(schema.PHASES))
@click.option(
    "--free",
    type=parameters.names,
    metavar="A,B,..",
    default="unassigned,left out",
    help="Neighbours that make a perimeter free, such as the resin.",
)
@click.option(
    "--csv",
    "target",
    type=click.Path(dir_okay=False),
    metavar="FILE.csv",
    help="Write the contacts there, and FILE_surfaces.csv and FILE_inclusions.csv beside it.",
)
@click.option("--plot", type=click.Path(dir_okay=False), metavar="FILE.png", help="Draw the association.")
@parameters.speaking
def association(
    output: Output,
    store: str,
    parent: str,
    merges: dict[str, list[int]] | None,
    free: list[str],
    target: str | None,
    plot: str | None,
) -> None:
    """Print which phases touch or enclose others.

    Boundary lengths, inclusions, free perimeter (liberation) and specific surface. Lengths are right on average over
    all directions; those of a straight boundary depend on its direction by a few percent, which is printed. Nothing is
    saved in the store.

    \b
    Example:
      eds-chunked association map.zarr --from phases/k4 --csv association.csv --plot association.png
      eds-chunked association map.zarr --merge feldspar=2,5 --merge resin=4 --free resin
    """
    from eds_chunked.phases.contacts import association as associated
    from eds_chunked.phases.naming import merge_phases
    from eds_chunked.store.results import load_fresh, newest

    with output.working():
        address = newest(store, parent).address
        phases = load_fresh(store, address)
        found = associated(phases if merges is None else merge_phases(phases, merges=merges), free=free)
        files = [] if target is None else _files(Path(target))
        for file, table in zip(files, (found.contacts, found.surfaces, found.inclusions), strict=False):
            table.to_csv(file, index=False)
        if plot is not None:
            from eds_chunked import figures

            figures.save(found.plot(), Path(plot))
    matrix, surfaces, inclusions, unit = found.matrix(), found.surfaces, found.inclusions, found.unit
    names = matrix.index.tolist()
    pieces: list[Piece] = [
        Rows(
            [schema.PHASE, *names],
            [
                [name, *("" if name == other else number(matrix.loc[name, other], 3) for other in names)]
                for name in names
            ],
            "Percent of the boundary of each phase (rows) with each neighbour",
        ),
        Rows(
            [schema.PHASE, f"perimeter {unit}", "free %", f"surface/volume 1/{unit}", "pieces", "inclusions"],
            [
                [
                    row[schema.PHASE],
                    number(row[f"perimeter_{unit}"]),
                    number(row["free_percent"], 3),
                    number(row[f"specific_surface_per_{unit}"], 3),
                    f"{row['n_pieces']:,}",
                    f"{row['n_enclosed']:,}",
                ]
                for row in surfaces.to_dict("records")
            ],
            "Surfaces",
        ),
    ]
    if len(inclusions):
        pieces.append(
            Rows(
                [schema.PHASE, "inside", "pieces", "pixels", "% of the phase"],
                [
                    [
                        row[schema.PHASE],
                        row["host"],
                        f"{row['n_pieces']:,}",
                        f"{row[schema.N_PIXELS]:,}",
                        number(row["percent"], 3),
                    ]
                    for row in inclusions.to_dict("records")
                ],
                "Inclusions",
                words=["inside"],
            )
        )
    low, high = (100 * part for part in found.bias)
    straight = f"{low:+.1f} % to {high:+.1f} %, by its direction; 0 over all directions"
    written = ", ".join(map(str, files))
    pieces.append(
        Facts([("straight boundary", straight), ("of", address), ("written", written), ("picture", plot or "")])
    )
    said: dict[str, Any] = {
        "address": address,
        "contacts": found.contacts,
        "surfaces": surfaces,
        "inclusions": inclusions,
        "unit": unit,
        "bias": list(found.bias),
        "csv": files,
        "plot": plot,
    }
    output.show(said, *pieces, brief=target or plot or address)


def _files(contacts: Path) -> list[Path]:
    beside = [contacts.with_name(f"{contacts.stem}_{table}{contacts.suffix}") for table in ("surfaces", "inclusions")]
    return [contacts, *beside]
