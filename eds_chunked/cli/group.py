"""What all verbs have in common around them: spelling, errors in one line, exit codes."""

from __future__ import annotations

import difflib
import errno
import platform
import sys
import traceback
from importlib.metadata import version
from typing import Any, NoReturn

import click

from eds_chunked import schema
from eds_chunked.errors import EdsError

BUG = 1
BAD_INPUT = 2
INTERRUPTED = 130

_OF_THE_SYSTEM = frozenset(
    getattr(errno, name)
    for name in ("EACCES", "EPERM", "ENOENT", "ENOTDIR", "EISDIR", "EROFS", "ENOSPC", "EDQUOT", "ENAMETOOLONG")
    if hasattr(errno, name)
)
"""What a disk or its rights refuse: nothing that a traceback would explain."""


class Verbs(click.Group):
    """A group that says what went wrong in one line, and lists its verbs in the order of the work."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            near = difflib.get_close_matches(name, self.commands, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(self.commands)}"
            raise click.UsageError(f"no such verb {name!r}, {hint}", ctx)
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a verb and leave with its exit code."""
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except click.UsageError as error:
            where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
            _leave(error.format_message().rstrip(".") + where)
        except click.ClickException as error:
            _leave(error.format_message())
        except EdsError as error:
            _leave(str(error))
        except (click.Abort, KeyboardInterrupt):
            _leave("interrupted", INTERRUPTED)
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM and error.filename is not None:
                _leave(f"{error.filename}: {error.strerror}")
            click.echo(schema.printable(traceback.format_exc()), err=True, nl=False)
            _leave(
                f"this is a bug in eds_chunked {version('eds-chunked')} (Python {platform.python_version()}, "
                f"{platform.system()}); please report it with the lines above",
                BUG,
            )
        sys.exit(code if isinstance(code, int) else 0)


def _leave(message: str, code: int = BAD_INPUT) -> NoReturn:
    prefix = "" if code == INTERRUPTED else "error: "
    click.echo(prefix + schema.text(message), err=True)
    sys.exit(code)
