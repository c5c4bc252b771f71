"""The verb ``doctor``: whether this machine and this environment are fit for the work."""

from __future__ import annotations

from typing import Any

import click

from eds_chunked.cli import parameters
from eds_chunked.cli.output import Facts, Note, Output, Piece, Rows

_UNFIT = 1


@click.command()
@click.argument("store", metavar="[STORE]", required=False, shell_complete=parameters.files)
@parameters.speaking
def doctor(output: Output, store: str | None) -> int:
    """Say whether this machine is fit for the work.

    Versions of what matters, memory and processors that this process may use (the limits of a container included),
    the codec of the counts, threads of the linear algebra, the cache of compiled code; and the room on the disk where
    STORE is, or will be. Exit code 0: all is well; 1: something is not, and what to do.

    \b
    Example:
      eds-chunked doctor
      eds-chunked doctor map.zarr --json
    """
    from eds_chunked.cli.health import examine

    found = examine(store)
    ill = [check for check in found if check.fix]
    rows = [[check.name, "not well" if check.fix else "well", check.found] for check in found]
    pieces: list[Piece] = [Rows(["", "", "found"], rows, words=("", "found"))]
    if ill:
        pieces.append(Facts([(check.name, check.fix) for check in ill], "To do"))
    else:
        pieces.append(Note("All is well."))
    result: dict[str, Any] = {"well": not ill, "checks": {check.name: vars(check) for check in found}}
    output.show(result, *pieces, brief="\n".join(check.name for check in ill) or "well")
    return _UNFIT if ill else 0
