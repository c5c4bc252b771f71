"""The verb that lets a shell complete the others."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM = "eds-chunked"
_VARIABLE = "_EDS_CHUNKED_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
def completion(shell: str) -> None:
    """Print what lets a shell complete verbs and options.

    For good, add the line of the example to ~/.bashrc or ~/.zshrc; with fish, write what it prints to
    ~/.config/fish/completions/eds-chunked.fish. bash has to be 4.4 or later.

    \b
    Example:
      eds-chunked completion bash
      eval "$(eds-chunked completion bash)"
      eval "$(eds-chunked completion zsh)"
      eds-chunked completion fish | source
    """
    found = get_completion_class(shell)
    assert found is not None  # one of the three that click has
    from eds_chunked.cli import main

    click.echo(found(main, {}, PROGRAM, _VARIABLE).source())
