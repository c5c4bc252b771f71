"""The modal table as bars, with the intervals of the areas."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eds_chunked.figures.phase_map import percent_words
from eds_chunked.figures.style import COLUMN_MM, INK, new_figure, page_inches, phase_colour, styled, wrapped
from eds_chunked.schema import LEFT_OUT_LABEL, LEFT_OUT_ROW, MIXED, MIXED_ROW, PHASE, UNASSIGNED, UNASSIGNED_ROW

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_ROW_INCHES, _LINE_INCHES = 0.22, 0.12
_NO_PHASE = {UNASSIGNED_ROW: UNASSIGNED, MIXED_ROW: MIXED, LEFT_OUT_ROW: LEFT_OUT_LABEL}


@styled
def draw_modal_bars(modal: pd.DataFrame, *, title: str = "", width_mm: float = COLUMN_MM) -> Figure:
    """Draw the area of each row of a modal table as a bar, with its 95 % interval where there is one.

    Parameters
    ----------
    modal
        What :func:`eds_chunked.modal_table` returns, all of its rows.
    title
        Title of the map.
    width_mm
        Width of the figure on paper.

    Raises
    ------
    ParameterError
        ``width_mm`` is less than 80 or more than 500.
    """
    names = [str(name) for name in modal[PHASE]]
    labels = [_NO_PHASE.get(name, place) for place, name in enumerate(names, start=1)]
    area, low, high = (
        modal[column].to_numpy(np.float64) for column in ("area_percent", "area_percent_low", "area_percent_high")
    )
    known = np.isfinite(low)
    words = [name if label in _NO_PHASE.values() else _called(name) for name, label in zip(names, labels, strict=True)]
    row_inches = _ROW_INCHES + _LINE_INCHES * max((word.count("\n") for word in words), default=0)
    figure = new_figure(page_inches(width_mm), 0.85 + row_inches * len(names), what="Modal areas", title=title)
    axes = figure.subplots()
    rows = np.arange(len(names))
    axes.barh(rows, area, height=0.7, color=[phase_colour(label) for label in labels], edgecolor=INK, linewidth=0.4)
    if known.any():
        whiskers = np.clip([area - low, high - area], 0, None)[:, known]
        axes.errorbar(
            area[known], rows[known], xerr=whiskers, fmt="none", ecolor=INK, elinewidth=0.8, capsize=2, capthick=0.8
        )
    for row, percent, end in zip(rows, area, np.where(known, high, area), strict=True):
        axes.annotate(
            percent_words(percent),
            (max(percent, end), row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center_baseline",
            fontsize=7,
        )
    axes.set_yticks(rows, words, parse_math=False)
    axes.tick_params(axis="y", length=0)
    # Room for the numbers.
    axes.set(xlim=(0, 1.22 * max(1e-9, float(np.nanmax(np.where(known, high, area), initial=0)))))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("area / %" + (", whiskers: 95 % interval" if known.any() else ""))
    return figure


def _called(name: str) -> str:
    return f"phase {name}" if name.isdecimal() else wrapped(name)
