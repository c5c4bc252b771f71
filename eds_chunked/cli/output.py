"""What a verb prints: facts, tables and notes for people, or one JSON object for programs."""

from __future__ import annotations

import json
import math
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

import click

from eds_chunked import schema

_WIDTH_OF_A_FILE = 100
"""Columns where stdout is no terminal."""


@dataclass(frozen=True)
class Facts:
    """Labels and values, a line each; facts without a value are left out. Commands to copy are not wrapped."""

    rows: Sequence[tuple[str, str]]
    heading: str = ""
    wrapped: bool = True


@dataclass(frozen=True)
class Rows:
    """A table of texts. The first column is of words, the others of numbers unless named in ``words``."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    heading: str = ""
    words: Sequence[str] = ()


@dataclass(frozen=True)
class Note:
    """A sentence, wrapped to the width of the terminal."""

    text: str


Piece = Facts | Rows | Note


@dataclass
class Output:
    """How a verb speaks: shows that it works, and then its result, in the way that was asked for."""

    as_json: bool = False
    quiet: bool = False
    seconds: float = field(default=0.0, init=False)

    @contextmanager
    def working(self) -> Iterator[None]:
        """Show progress bars and keep the time of the work within."""
        from eds_chunked import memory, progress

        memory.return_freed_memory_to_the_system()
        begin = perf_counter()
        if self.quiet:
            yield
        else:
            with progress.bars():
                yield
        self.seconds = perf_counter() - begin

    def effort(self) -> str:
        """Return the time and memory that the work took."""
        from eds_chunked import memory

        return f"{duration(self.seconds)}, peak memory {memory.format_size(memory.peak_resident())}"

    def show(self, result: Mapping[str, Any], *pieces: Piece, brief: object) -> None:
        """Print ``result`` as JSON, or ``pieces`` for people, or only ``brief`` when quiet."""
        if self.as_json:
            click.echo(_as_json(result))
        elif self.quiet:
            click.echo(schema.printable(str(brief)))
        else:
            for number, piece in enumerate(pieces):
                if number:
                    click.echo()
                _say(_render(_printable(piece)))


def _as_json(result: Mapping[str, Any]) -> str:
    """Return one line of JSON. What a terminal would obey, which can only be within texts, is escaped."""
    line = json.dumps(plain(result), ensure_ascii=False, allow_nan=False)
    return schema.UNPRINTABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def _printable(piece: Piece) -> Piece:
    """Return a piece without what a terminal would obey: titles, names and histories come from files."""
    if isinstance(piece, Note):
        return Note(schema.printable(piece.text))
    heading = schema.printable(piece.heading)
    rows = [[schema.printable(cell) for cell in row] for row in piece.rows]
    if isinstance(piece, Rows):
        return replace(piece, heading=heading, rows=rows)
    return replace(piece, heading=heading, rows=[(label, value) for label, value in rows])


def _say(text: str) -> None:
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)


def _width() -> int:
    if not sys.stdout.isatty() and "COLUMNS" not in os.environ:
        return _WIDTH_OF_A_FILE
    import shutil

    return shutil.get_terminal_size().columns


def _render(piece: Piece) -> str:
    if isinstance(piece, Note):
        return _wrap(piece.text, 0)
    lines = [click.style(piece.heading, bold=True)] if piece.heading else []
    if isinstance(piece, Facts):
        rows = [(label, value) for label, value in piece.rows if value]
        room = max((len(label) for label, _ in rows), default=0) + 2
        return "\n".join(
            lines
            + [
                click.style(label.ljust(room), dim=True) + (_wrap(text, room) if piece.wrapped else text)
                for label, text in rows
            ]
        )
    return "\n".join([*lines, *_table_lines(piece)])


def _wrap(text: str, indent: int) -> str:
    # Paths and addresses stay whole, so that they can be copied.
    width = max(40, _width())
    lines = textwrap.wrap(text, width - indent, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def _table_lines(table: Rows) -> list[str]:
    from rich.console import Console
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    lines = 1 + max(column.count("\n") for column in table.columns)
    for number, column in enumerate(table.columns):
        words = number == 0 or column in table.words
        header = "\n" * (lines - 1 - column.count("\n")) + column
        drawn.add_column(header, justify="left" if words else "right", no_wrap=column not in table.words)
    for row in table.rows:
        drawn.add_row(*row)
    # Words may wrap, numbers may not be cut: a table of numbers takes the width that it needs.
    width = _width() if table.words else 1000
    console = Console(width=width, markup=False, highlight=False, emoji=False)
    with console.capture() as captured:
        console.print(drawn)
    return [line.rstrip() for line in captured.get().splitlines()]


def duration(seconds: float) -> str:
    """Return a time for people: ``0.8 s``, ``42 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def number(value: float, digits: int = 4) -> str:
    """Return a number for people: ``digits`` significant, thousands apart; ``-`` for none."""
    if not math.isfinite(value):
        return "-"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def decimals(smallest: float, digits: int = 3) -> int:
    """Return how many decimals give ``smallest`` that many significant digits, to write a whole table with."""
    if not (math.isfinite(smallest) and smallest > 0):
        return 0
    return min(6, max(0, digits - 1 - math.floor(math.log10(smallest))))


def plain(value: Any) -> Any:
    """Return ``value`` as JSON types; tables become lists of rows, and what is not finite null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, str) or value is None:
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "itertuples"):
        return [plain(row) for row in value.to_dict("records")]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Sequence):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
