"""Phases by clustering the component maps: ``cluster``."""

from __future__ import annotations

from typing import Any

import click

from eds_chunked import schema
from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Output


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option("-k", "--clusters", "n_clusters", type=int, metavar="K", required=True, help="Number of phases.")
@click.option("--method", metavar="NAME", default="kmeans", help="kmeans, or gaussian (a mixture).")
@click.option(
    "--components",
    type=parameters.whole_numbers,
    metavar="A,B,..",
    help="Components to use. [default: all; of a PCA those above the noise edge]",
)
@click.option("--seed", type=int, metavar="N", default=0, help="Seed of the sample and the start.")
@click.option("--fit-pixels", type=int, metavar="N", default=131072, help="Pixels that the clusters are fitted to.")
@parameters.options(parameters.came_from(schema.NMF), parameters.name, parameters.memory, parameters.scheduler)
@parameters.speaking
def cluster(output: Output, store: str, parent: str, **given: Any) -> None:
    """Make phases by clustering pixels, without thresholds.

    Pixels are compared by direction, so that brightness does not count. What comes out are phases as those of the verb
    phases: spectra, grains and report take them.

    \b
    Example:
      eds-chunked cluster map.zarr -k 4 --from nmf/k4
      eds-chunked cluster map.zarr -k 4 --from pca/main --method gaussian
    """
    from eds_chunked import workflow
    from eds_chunked.cli.describing import modal_rows
    from eds_chunked.phases.modal import modal_table
    from eds_chunked.store.results import load

    with output.working():
        address = workflow.cluster_step(store, parent=parent, **given)
    table = modal_table(load(store, address))
    output.show(
        {"address": address, "modal": table, "seconds": output.seconds},
        modal_rows(table),
        Facts([("saved", address), ("took", output.effort())]),
        brief=address,
    )
