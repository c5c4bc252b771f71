"""One self-contained HTML page from figures, tables and facts: no script, no network, nothing beside the file."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd

from eds_chunked.errors import ParameterError
from eds_chunked.phases.percent import closed_percent

MOST_ROWS = 100
"""Rows of a table that are shown; a page of ten thousand grains helps nobody, and the CSV has them."""

_PNG = b"\x89PNG\r\n\x1a\n"
# Figures are made at 200 dots an inch, a page counts 96.
_SCREEN = 96 / 200


class Section(NamedTuple):
    """A part of the page: sentences, then figures (caption, alternative text, PNG), then tables (caption, rows)."""

    title: str
    words: Sequence[str]
    figures: Sequence[tuple[str, str, bytes]]
    tables: Sequence[tuple[str, pd.DataFrame]]


def render(*, title: str, facts: Mapping[str, object], warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the report as one HTML page.

    All text is escaped: a map's title comes from a file and may hold anything.

    Parameters
    ----------
    title
        Heading of the page.
    facts
        Names and values for the list at the top.
    warnings
        What a reader must know first.
    sections
        Those without content are left out. An index is not shown; numbers are aligned right, floats with four
        significant digits, what is missing as a dash. Per cent that add up to 100 have two decimals and add up to
        100.00. After 100 rows a table says how many are left out.

    Raises
    ------
    ParameterError
        A figure is not a PNG file.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(files(__package__).joinpath("page.html").read_text(encoding="utf-8"))
    return page.render(
        title=title,
        facts=[(name, _text(value)) for name, value in facts.items()],
        warnings=list(warnings),
        sections=[
            {
                "title": section.title,
                "words": list(section.words),
                "figures": [_figure(*figure) for figure in section.figures],
                "tables": [_table(*table) for table in section.tables],
            }
            for section in sections
            if section.words or section.figures or section.tables
        ],
    )


def _figure(caption: str, alt: str, data: bytes) -> dict[str, object]:
    if not data.startswith(_PNG):
        raise ParameterError(
            f"figure {caption!r}",
            found=f"{len(data)} bytes that begin with {data[:8]!r}",
            expected="a PNG file",
            fix="pass figures.png(figure)",
        )
    # The size stands at a fixed place in a PNG; with it the page does not jump while it loads.
    width, height = struct.unpack(">II", data[16:24])
    return {
        "caption": caption,
        "alt": alt,
        "data": base64.b64encode(data).decode("ascii"),
        "width": round(width * _SCREEN),
        "height": round(height * _SCREEN),
    }


def _table(caption: str, table: pd.DataFrame) -> dict[str, object]:
    return {
        "caption": caption,
        "columns": [
            {
                # Words with spaces, so that a heading takes no more room than its column.
                "name": str(name).replace("_", " "),
                "number": pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype),
            }
            for name, dtype in zip(table.columns, table.dtypes, strict=True)
        ],
        "rows": list(zip(*(_cells(table.iloc[:, place]) for place in range(table.shape[1])), strict=True)),
        "left_out": max(0, len(table) - MOST_ROWS),
    }


def _cells(column: pd.Series[Any]) -> list[str]:
    """Return the cells that are shown as texts; per cent that add up to exactly 100 do so as they are printed, too."""
    shown = [_text(value) for value in column.head(MOST_ROWS)]
    if str(column.name).endswith("percent") and column.sum() == 100:
        percent = closed_percent(column.fillna(0).tolist(), decimals=2)
        shown = [
            text if missing else f"{value:.2f}"
            for text, missing, value in zip(shown, column.isna(), percent, strict=False)
        ]
    return shown


def _text(value: Any) -> str:
    """Return a value as a reader wants it: yes and no, grouped integers, four digits, a dash for what is missing."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_text(part)}" for name, part in value.items())
    if isinstance(value, Sequence):
        return ", ".join(map(_text, value))
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return "\N{EN DASH}"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Integral):
        return f"{int(value):,}"
    if isinstance(value, Real):
        return _real(float(value))
    return str(value)


def _real(value: float) -> str:
    # Large numbers keep all digits before the point: 4 627 814 counts are not 4.628e+06.
    return f"{value:,.0f}" if 1e3 <= abs(value) < 1e15 else f"{value:.4g}"
