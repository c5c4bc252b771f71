"""One self-contained HTML page from figures, tables and facts: no script, no network, nothing beside the file."""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from importlib.resources import files
from numbers import Integral, Real
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from eds_chunked.errors import ParameterError

MOST_ROWS = 100
"""Rows of a table that are shown; a page of ten thousand grains helps nobody, and the CSV has them."""

_PNG = b"\x89PNG\r\n\x1a\n"
# Figures are made at 200 dots an inch, a page counts 96.
_SCREEN = 96 / 200


def render(
    *,
    title: str,
    figures: Sequence[tuple[str, str, bytes]],
    tables: Sequence[tuple[str, pd.DataFrame]],
    facts: Mapping[str, object],
    warnings: Sequence[str],
) -> str:
    """Return the report as one HTML page.

    All text is escaped: a map's title comes from a file and may hold anything.

    Parameters
    ----------
    title
        Heading of the page.
    figures
        Caption, alternative text for those who cannot see it, and the PNG file of each figure.
    tables
        Caption and rows. The index is not shown; numbers are aligned right, floats with four significant digits, what
        is missing as a dash. After 100 rows it says how many are left out.
    facts
        Names and values for the list at the top.
    warnings
        What a reader must know first.

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
        figures=[_figure(*figure) for figure in figures],
        tables=[_table(*table) for table in tables],
        facts=[(name, _text(value)) for name, value in facts.items()],
        warnings=list(warnings),
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
                "name": str(name),
                "number": pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype),
            }
            for name, dtype in zip(table.columns, table.dtypes, strict=True)
        ],
        "rows": [[_text(cell) for cell in row] for row in table.head(MOST_ROWS).itertuples(index=False, name=None)],
        "left_out": max(0, len(table) - MOST_ROWS),
    }


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
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e15 else f"{value:.4g}"
