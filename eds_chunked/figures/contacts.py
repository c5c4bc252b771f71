"""The association of phases as a heat map: which phase's boundary is with which neighbour."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.transforms import offset_copy

from eds_chunked.figures.style import INK, PAGE_MM, new_figure, page_inches, phase_colour, styled, words_inches, wrapped
from eds_chunked.schema import LEFT_OUT_LABEL, UNASSIGNED

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_CELL_INCHES = 0.42
# Under this a cell has no room for "100".
_SMALLEST_CELL = 0.2
_ROOM_FOR_DECIMALS = 0.3
_MARK_INCHES = 0.35
_BAR_INCHES = 0.7
_LONGEST_LINE = 16
_LINE_INCHES = 0.13
_DIAGONAL = "#d9d9d9"


class AssociationTable(Protocol):
    """What is drawn of an association: percent of the boundary of each row, and the title of the map."""

    @property
    def title(self) -> str: ...
    @property
    def labels(self) -> tuple[int, ...]: ...
    def matrix(self) -> pd.DataFrame: ...


@styled
def draw_association(association: AssociationTable, *, width_mm: float = PAGE_MM) -> Figure:
    """Draw the percent of each phase's boundary (rows) that is with each neighbour (columns).

    Parameters
    ----------
    association
        What :func:`eds_chunked.association` returns. Rows without boundary are left out.
    width_mm
        Largest width of the figure on paper; where it is narrow there are numbers and no colour bar.

    Returns
    -------
    matplotlib.figure.Figure
        Rows add up to 100 %. Cells have their number where there is room for it; beside the names is the phase's
        colour.

    Raises
    ------
    ParameterError
        ``width_mm`` is less than 80 or more than 500.
    """
    table = association.matrix()
    kept = np.flatnonzero(table.notna().any(axis=1).to_numpy()).tolist()
    values = table.to_numpy()[np.ix_(kept, kept)]
    names = [str(table.index[place]) for place in kept]
    labels = [association.labels[place] for place in kept]
    n = len(kept)
    page = page_inches(width_mm)
    longest = max((words_inches(wrapped(name, _LONGEST_LINE)) for name in names), default=0.0)
    around = longest + _MARK_INCHES + 0.35
    cell = min(_CELL_INCHES, (page - around - _BAR_INCHES) / max(n, 3))
    numbers = cell >= _SMALLEST_CELL
    bar = True
    if not numbers:
        cell = min(_CELL_INCHES, (page - around) / max(n, 3))
        numbers = cell >= _SMALLEST_CELL
        bar = not numbers
        if bar:
            cell = (page - around - _BAR_INCHES) / max(n, 3)
    side = cell * max(n, 3)
    # As many lines as a cell is high.
    names = [wrapped(name, _LONGEST_LINE, lines=max(1, int(cell / _LINE_INCHES))) for name in names]
    figure = new_figure(
        min(page, max(3.15, side + around + _BAR_INCHES * bar)),
        side + longest + _MARK_INCHES + 0.6,
        what="Association",
        title=association.title,
    )
    axes = figure.subplots()
    if n == 0:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no boundaries within the map", ha="center", transform=axes.transAxes)
        return figure
    # Shades are for what there is: of many phases no two share half of a boundary.
    highest = max(20.0, 20 * np.ceil(values.max() / 20))
    shown = np.ma.masked_array(values, np.eye(n, dtype=bool))
    axes.set_facecolor(_DIAGONAL)
    image = axes.imshow(shown, cmap="Blues", vmin=0, vmax=highest, aspect="equal")
    axes.set_xticks(range(n), names, parse_math=False)
    for tick, name in zip(axes.get_xticklabels(), names, strict=True):
        tick.set_rotation(90 if words_inches(name) > 0.9 * cell else 0)
    axes.set_yticks(range(n), names, parse_math=False)
    axes.tick_params(length=0, pad=12)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, label in enumerate(labels):
        mark: dict[str, Any] = {
            "marker": "s",
            "color": phase_colour(label if label <= LEFT_OUT_LABEL else UNASSIGNED),
            "markeredgecolor": INK,
            "markeredgewidth": 0.3,
            "clip_on": False,
        }
        beside = offset_copy(axes.get_yaxis_transform(), figure, x=-6, units="points")
        axes.plot(0, place, markersize=5, transform=beside, **mark)
        under = offset_copy(axes.get_xaxis_transform(), figure, y=-6, units="points")
        axes.plot(place, 0, markersize=5, transform=under, **mark)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    if numbers:
        for row, column in zip(*np.nonzero(~shown.mask), strict=True):
            percent = values[row, column]
            axes.text(
                column,
                row,
                _number(percent, decimals=cell >= _ROOM_FOR_DECIMALS),
                ha="center",
                va="center",
                fontsize=6.5,
                color=readable_on(image.cmap([percent / highest])[0]),
            )
    axes.set_xlabel("neighbour")
    axes.set_ylabel("phase")
    if bar:
        scale = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
        scale.set_label("% of the phase's boundary")
        scale.outline.set_visible(False)
    else:
        axes.set_title("% of the phase's boundary")
    return figure


def readable_on(colour: Sequence[float] | np.ndarray[Any, Any]) -> str:
    """Return the colour of text on ``colour`` (red, green, blue from 0 to 1): dark or white, whichever stands out more.

    References
    ----------
    Web Content Accessibility Guidelines 2.2, relative luminance and contrast ratio.
    """
    ground, ink = _luminance(colour), _luminance(to_rgb(INK))
    return "white" if 1.05 / (ground + 0.05) > (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) else INK


def _luminance(colour: Sequence[float] | np.ndarray[Any, Any]) -> float:
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def _number(percent: float, *, decimals: bool) -> str:
    """Return a percentage; what is there is never written as 0."""
    if percent == 0:
        return "-"
    if not decimals:
        return "<1" if percent < 0.5 else f"{percent:.0f}"
    return "<0.1" if percent < 0.05 else f"{percent:.1f}"
