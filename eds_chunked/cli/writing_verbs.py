"""Verbs on what a store holds: ``report`` and ``clean``."""

from __future__ import annotations

import click

from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.argument("target", metavar="[FOLDER|FILE.html]", required=False, shell_complete=parameters.files)
@parameters.options(parameters.memory)
@parameters.speaking
def report(output: Output, store: str, target: str | None, memory: str | None) -> None:
    """Write the report of a store, with its pictures and tables.

    Into a folder (STORE-results by default) go report.html, the pictures as PNG, and the tables as CSV and text. A
    name that ends in .html gets the report alone, in one file.

    \b
    Example:
      eds-chunked report map.zarr
      eds-chunked report map.zarr map.html
    """
    from eds_chunked import workflow

    with output.working():
        *files, page = workflow.report_step(store, target, memory=memory)
    output.show(
        {"report": page, "files": files, "seconds": output.seconds},
        Facts(
            [("report", str(page)), ("files", f"{len(files)} pictures and tables in {page.parent}" if files else "")]
        ),
        brief=page,
    )


@click.command()
@click.argument("store", metavar="STORE", shell_complete=parameters.files)
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
@parameters.speaking
def clean(output: Output, store: str, dry_run: bool) -> None:
    """Remove replaced and unfinished results.

    The newest result of every run stays, and what it was made from. So does what another process is writing. Of the
    run log the newest 1000 entries stay.

    \b
    Example:
      eds-chunked clean map.zarr --dry-run
    """
    from eds_chunked.memory import format_size
    from eds_chunked.store.cleaning import clean as clean_store

    with output.working():
        cleaned = clean_store(store, dry_run=dry_run)
    removed = [*cleaned.superseded, *cleaned.uncommitted]
    entries = f"{cleaned.log_entries:,} entries, all but the newest 1000" if cleaned.log_entries else ""
    kept = ", ".join(f"{address} ({reason})" for address, reason in cleaned.kept.items())
    pieces = [
        Facts(
            [
                ("made again since", ", ".join(cleaned.superseded)),
                ("not finished", ", ".join(cleaned.uncommitted)),
                ("kept", kept),
                ("run log", entries),
                ("to be freed" if dry_run else "freed", format_size(cleaned.n_bytes) if removed else ""),
            ]
        )
    ]
    output.show(
        {
            "dry_run": dry_run,
            "superseded": cleaned.superseded,
            "uncommitted": cleaned.uncommitted,
            "kept": cleaned.kept,
            "bytes": cleaned.n_bytes,
            "log_entries": cleaned.log_entries,
        },
        *(pieces if removed or kept or entries else [Note("Nothing to remove.")]),
        brief="\n".join(removed),
    )
