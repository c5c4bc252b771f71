"""The command line ``eds-chunked``: one verb a step, results on stdout, progress and log on stderr.

This package and ``--help`` import nothing numerical: a verb imports what it needs when it runs.
"""

from __future__ import annotations

import click

from eds_chunked.cli.association_verb import association
from eds_chunked.cli.cluster_verb import cluster
from eds_chunked.cli.doctor_verb import doctor
from eds_chunked.cli.elements_verb import elements
from eds_chunked.cli.group import Verbs
from eds_chunked.cli.log_verb import log
from eds_chunked.cli.modal_verb import modal
from eds_chunked.cli.model_verb import model
from eds_chunked.cli.shell_verb import completion
from eds_chunked.cli.size_verbs import sizes
from eds_chunked.cli.source_verbs import calibrate, convert, info
from eds_chunked.cli.step_verbs import grains, nmf, pca, phases, spectra
from eds_chunked.cli.store_verbs import export, import_, verify
from eds_chunked.cli.whole_verbs import demo, run
from eds_chunked.cli.writing_verbs import clean, report

__all__ = ["main"]


@click.group(
    cls=Verbs,
    invoke_without_command=True,
    subcommand_metavar="VERB ...",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.version_option(package_name="eds-chunked", message="eds-chunked %(version)s")
@click.pass_context
def main(context: click.Context) -> None:
    """From an EDS spectrum image to mineral phases, phase spectra and grain sizes, within a memory budget.

    A microscope's file is converted to a Zarr store. Every step reads that store and saves its result there as a new
    revision, so each can be run again alone with other parameters.

    \b
    Example:
      eds-chunked demo
      eds-chunked run map.bcf map.zarr --memory 2GB
      eds-chunked info map.zarr
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


_VERBS = (
    *(run, demo, info, convert, calibrate),
    *(pca, nmf, model, phases, cluster, modal, association, spectra, elements, grains, sizes),
    *(report, export, import_, log, verify, clean),
    *(doctor, completion),
)
for _verb in _VERBS:
    main.add_command(_verb)
