"""The modal table of saved phases: ``modal``."""

from __future__ import annotations

from typing import Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Rows, number


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@parameters.options(parameters.merges, parameters.came_from(schema.PHASES))
@click.option(
    "--densities",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE.csv",
    help="Columns phase and density_g_cm3, for weight %.",
)
@click.option("--blocks", type=int, metavar="N", default=25, help="Blocks of the map that the interval is drawn from.")
@click.option("--seed", type=int, metavar="N", default=0, help="What they are drawn with.")
@click.option("--csv", "target", type=click.Path(dir_okay=False), metavar="FILE.csv", help="Write the table there.")
@parameters.speaking
def modal(
    output: Output,
    store: str,
    parent: str,
    merges: dict[str, list[int]] | None,
    densities: str | None,
    blocks: int,
    seed: int,
    target: str | None,
) -> None:
    """Print the area of every phase, and its weight.

    Areas add up to 100 % with what is unassigned, mixed or left out, as printed and in the file. The 95 % interval is a
    bootstrap of blocks of the map. Nothing is saved in the store; phases can be merged and named for this table.

    \b
    Example:
      eds-chunked modal map.zarr --from phases/k4 --densities densities.csv --csv modal.csv
      eds-chunked modal map.zarr --merge feldspar=2,5 --merge quartz=1
    """
    from eds_chunked.cli.describing import modal_rows
    from eds_chunked.phases.densities import DENSITY_COLUMN
    from eds_chunked.phases.modal import INTERVAL, modal_table
    from eds_chunked.phases.naming import merge_phases
    from eds_chunked.phases.percent import closed_percent
    from eds_chunked.store.results import load_fresh, newest

    with output.working():
        address = newest(store, parent).address
        phases = load_fresh(store, address)
        chosen = phases if merges is None else merge_phases(phases, merges=merges)
        table = modal_table(chosen, densities=densities, blocks=blocks, seed=seed)
        if target is not None:
            table.to_csv(target, index=False)
    plain = modal_rows(table)
    columns = [*plain.columns, "95 % interval"]
    rows = [
        [*row, f"{number(low, 3)} to {number(high, 3)}"]
        for row, low, high in zip(plain.rows, table["area_percent_low"], table["area_percent_high"], strict=True)
    ]
    notes: list[Note] = []
    if densities is not None:
        columns += ["g/cm3", "weight %"]
        weighed = table["weight_percent"].dropna()
        weights = dict.fromkeys(table.index, "-")
        if len(weighed):
            printed = closed_percent(weighed.tolist(), decimals=2)
            weights |= {row: f"{percent:.2f}" for row, percent in zip(weighed.index, printed, strict=True)}
        rows = [
            [*row, number(density), weight]
            for row, density, weight in zip(rows, table[DENSITY_COLUMN], weights.values(), strict=True)
        ]
        reasons = [
            f"{name}: {reason}."
            for name, reason in zip(table[schema.PHASE], table["weight_reason"], strict=True)
            if reason
        ]
        notes = [Note("No weight of " + " ".join(reasons))] if reasons else []
    said: dict[str, Any] = {"address": address, "modal": table, INTERVAL: table.attrs[INTERVAL], "csv": target}
    where = Facts([("interval", table.attrs[INTERVAL]), ("of", address), ("written", target or "")])
    output.show(said, Rows(columns, rows, plain.heading), *notes, where, brief=target or address)
