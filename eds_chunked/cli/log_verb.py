"""What ran on a store: ``log``."""

from __future__ import annotations

import click

from eds_chunked.cli import parameters
from eds_chunked.cli.output import Note, Output


@click.command()
@click.argument("store", metavar="STORE")
@click.option("--last", type=click.IntRange(min=1), metavar="N", default=20, help="Entries to show, the newest.")
@parameters.speaking
def log(output: Output, store: str, last: int) -> None:
    """Say what ran on a store: when, how long, how it ended.

    Steps, conversions, exports and reports, from the command line and from Python: done, refused, failed, interrupted,
    killed, or still running. --json adds parameters, versions, machine and process.

    \b
    Example:
      eds-chunked log map.zarr
      eds-chunked log map.zarr --last 100 --json
    """
    from eds_chunked.cli.describing import log_rows
    from eds_chunked.store.run_log import read_log

    entries = read_log(store, last=last)
    output.show(
        {"store": store, "log": [vars(entry) for entry in entries]},
        log_rows(entries, store) if entries else Note("Nothing ran yet since there is a log."),
        brief="\n".join(f"{entry.when} {entry.what} {entry.outcome}" for entry in entries),
    )
