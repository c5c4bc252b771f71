"""Progress of long steps: silent in a library, a bar on stderr when the command line asks for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

_shown: Progress | None = None


@contextmanager
def bars() -> Iterator[None]:
    """Show a bar on stderr for every step within; nothing is drawn where stderr is not a terminal."""
    global _shown
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<24}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as _shown:
        try:
            yield
        finally:
            _shown = None


@contextmanager
def step(description: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function to call with the amount of work just done, of ``total``."""
    if _shown is None:
        yield lambda done: None
        return
    shown = _shown
    task = shown.add_task(description, total=total)
    try:
        yield lambda done: shown.advance(task, done)
    finally:
        shown.remove_task(task)
