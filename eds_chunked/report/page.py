"""One self-contained HTML page from figures, tables and facts: no network, nothing beside the file.

Where a figure has plots, BokehJS draws them in the place of its picture; the picture is there for print, and where
scripts do not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib.resources import files
from io import BytesIO
from numbers import Integral, Real
from typing import Any, NamedTuple

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from eds_chunked.errors import ParameterError
from eds_chunked.phases.percent import closed_percent
from eds_chunked.report.plots import Plot

MOST_ROWS = 100
"""Rows of a table that are shown; a page of ten thousand grains helps nobody, and the CSV has them."""

_PNG = b"\x89PNG\r\n\x1a\n"
# Pictures of noise are large, and 256 colours show them as well. On smaller ones a scale of colours would get steps.
_LARGE_BYTES, _COLOURS = 200_000, 256
# Tables of so few rows are not broken between pages of paper, and so many columns need small letters there.
_SHORT, _WIDE = 15, 13
# Figures that are higher than so many of their widths are no longer read on half a page of paper.
_TALL, _TALLEST = 0.9, 1.5
# Figures are made at 200 dots an inch, a page counts 96.
_SCREEN = 96 / 200


class Figure(NamedTuple):
    """A picture (PNG) with its words, and the plots that a page shows in its place where scripts run."""

    caption: str
    alt: str
    png: bytes
    plots: Sequence[Plot] = ()


class Section(NamedTuple):
    """A part of the page: sentences, then figures, then tables (caption, rows)."""

    title: str
    words: Sequence[str]
    figures: Sequence[Figure]
    tables: Sequence[tuple[str, pd.DataFrame]]


def render(*, title: str, facts: Mapping[str, object], warnings: Sequence[str], sections: Sequence[Section]) -> str:
    """Return the report as one HTML page.

    All text is escaped: a map's title comes from a file and may hold anything. The page's content policy allows the
    two scripts of the page by their digests, none else, and nothing from the network.

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
    # Models of Bokeh refer to those that stand before them.
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False}
    page = environment.from_string(_file("page.html"))
    shown = [section for section in sections if section.words or section.figures or section.tables]
    items: list[Mapping[str, Any]] = []
    parts = [
        {
            "title": section.title,
            "words": list(section.words),
            "figures": [_figure(figure, items) for figure in section.figures],
            "tables": [_table(*table) for table in section.tables],
        }
        for section in shown
    ]
    scripts = [_bokeh(), _file("page.js")] if items else []
    return page.render(
        title=title,
        facts=[(name, _text(value)) for name, value in facts.items()],
        warnings=list(warnings),
        sections=parts,
        items=items,
        scripts=scripts,
        digests=[_digest(script) for script in scripts],
    )


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _bokeh() -> str:
    """Return BokehJS, its core alone: no widgets, no tables, no extra that is fetched."""
    from bokeh.resources import Resources

    return "\n".join(Resources("inline", components=["bokeh"], log_level="warn").js_raw)


def _digest(script: str) -> str:
    """Return how a content policy names a script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def _figure(figure: Figure, items: list[Mapping[str, Any]]) -> dict[str, object]:
    """Return a figure for the page, and add what Bokeh draws to ``items``."""
    if not figure.png.startswith(_PNG):
        raise ParameterError(
            f"figure {figure.caption!r}",
            found=f"{len(figure.png)} bytes that begin with {figure.png[:8]!r}",
            expected="a PNG file",
            fix="pass figures.png(figure)",
        )
    places = []
    for plot in figure.plots:
        place = f"plot-{len(items) + 1}"
        items.append({**plot.item, "target_id": place})
        places.append({"id": place, "pixels": plot.pixels, "choices": list(plot.choices)})
    data, (width, height) = _for_a_screen(figure.png)
    return {
        "caption": figure.caption,
        "alt": figure.alt,
        "data": base64.b64encode(data).decode("ascii"),
        # With its size the page does not jump while it loads.
        "width": round(width * _SCREEN),
        "height": round(height * _SCREEN),
        "plots": places,
        "classes": " ".join(["has-plots"] * bool(places) + _room_on_paper(height / width)),
    }


def _room_on_paper(proportions: float) -> list[str]:
    """Return the classes of a figure, whose height is ``proportions`` of its width, that give it more of a page."""
    return ["tallest"] if proportions > _TALLEST else ["tall"] if proportions > _TALL else []


def _for_a_screen(png: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return a picture, if it is large with a palette and so a third of the bytes, and its width and height."""
    with Image.open(BytesIO(png)) as picture:
        size = picture.size
        if len(png) < _LARGE_BYTES:
            return png, size
        few = picture.convert("RGB").quantize(_COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    buffer = BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), size


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
        "classes": " ".join(["short"] * (len(table) <= _SHORT) + ["wide"] * (table.shape[1] >= _WIDE)),
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
