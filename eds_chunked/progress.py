"""Progress of long steps: silent in a library, a bar on stderr when the command line asks for it, and the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn, Task

_log = logging.getLogger(__name__)

_shown: Progress | None = None


@contextmanager
def bars() -> Iterator[None]:
    """Show a bar on stderr for every step within; nothing is drawn where stderr is not a terminal."""
    global _shown
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(bar_width=None),
        TaskProgressColumn(),
        _told(lambda task: rate(task.speed, str(task.fields["unit"]))),
        _told(lambda task: time_left(task.time_remaining)),
    )
    shown = Progress(*columns, console=console, transient=True, disable=not console.is_terminal, expand=True)
    with shown as _shown:
        try:
            yield
        finally:
            _shown = None


def _told(say: Callable[[Task], str]) -> ProgressColumn:
    """Return a column of what ``say`` says of a step."""
    from rich.progress import ProgressColumn
    from rich.text import Text

    class Told(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            return Text(say(task), style="progress.remaining", justify="right")

    return Told()


def rate(per_second: float | None, unit: str) -> str:
    """Return a speed for people: ``1.2 M pixels/s``; nothing where it is not known or has no unit."""
    if not per_second or not unit:
        return ""
    prefix, factor = (" M", 1e6) if per_second >= 1e6 else (" k", 1e3) if per_second >= 1e3 else ("", 1.0)
    return f"{per_second / factor:.3g}{prefix} {unit}/s"


def time_left(seconds: float | None) -> str:
    """Return the time left for people: ``12 s left``, ``3:05 left``; nothing where it is not known."""
    if seconds is None:
        return ""
    whole = math.ceil(seconds)
    if whole < 60:
        return f"{whole} s left"
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d} left" if hours else f"{minutes}:{rest:02d} left"


@contextmanager
def step(description: str, total: int, *, unit: str = "pixels") -> Iterator[Callable[[int], None]]:
    """Give a function to call with the amount of work just done, of ``total``, which is counted in ``unit``."""
    start = perf_counter()
    shown = _shown
    if shown is None:
        yield lambda done: None
    else:
        task = shown.add_task(description, total=total, unit=unit)
        try:
            yield lambda done: shown.advance(task, done)
        finally:
            shown.remove_task(task)
    _log.info("%s: a pass in %.1f s", description, perf_counter() - start)
