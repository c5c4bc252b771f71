"""The association of phases as a heat map: which phase's boundary is with which neighbour."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.transforms import offset_copy

from eds_chunked.figures.style import DOUBLE, INK, new_figure, phase_colour, styled
from eds_chunked.schema import MIXED, UNASSIGNED, text

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_CELL_INCHES = 0.42
_MOST_WITH_NUMBERS = 14
_LONGEST_NAME = 16
_WHITE_FROM = 0.6
_DIAGONAL = "#d9d9d9"


class AssociationTable(Protocol):
    """What is drawn of an association: percent of the boundary of each row, and the title of the map."""

    @property
    def title(self) -> str: ...
    @property
    def labels(self) -> tuple[int, ...]: ...
    def matrix(self) -> pd.DataFrame: ...


@styled
def draw_association(association: AssociationTable) -> Figure:
    """Draw the percent of each phase's boundary (rows) that is with each neighbour (columns).

    Parameters
    ----------
    association
        What :func:`eds_chunked.association` returns. Rows without boundary are left out.

    Returns
    -------
    matplotlib.figure.Figure
        Rows add up to 100 %. Cells have their number where there are at most 14 rows; beside the names is the phase's
        colour.
    """
    table = association.matrix()
    kept = np.flatnonzero(table.notna().any(axis=1).to_numpy()).tolist()
    values = table.to_numpy()[np.ix_(kept, kept)]
    names = [_short(str(table.index[place])) for place in kept]
    labels = [association.labels[place] for place in kept]
    n = len(kept)
    side = min(_CELL_INCHES * max(n, 3), DOUBLE - 2.2)
    figure = new_figure(max(3.5, side + 2.2), side + 1.5, what="Association", title=association.title)
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
    axes.set_xticks(range(n), names, rotation=90 if max(map(len, names)) > 3 else 0, parse_math=False)
    axes.set_yticks(range(n), names, parse_math=False)
    axes.tick_params(length=0, pad=12)
    for spine in axes.spines.values():
        spine.set_visible(False)
    for place, label in enumerate(labels):
        colour = phase_colour(label if label <= MIXED else UNASSIGNED)
        mark: dict[str, Any] = {
            "marker": "s",
            "color": colour,
            "markeredgecolor": INK,
            "markeredgewidth": 0.3,
            "clip_on": False,
        }
        beside = offset_copy(axes.get_yaxis_transform(), figure, x=-6, units="points")
        axes.plot(0, place, markersize=5, transform=beside, **mark)
        under = offset_copy(axes.get_xaxis_transform(), figure, y=-6, units="points")
        axes.plot(place, 0, markersize=5, transform=under, **mark)
    axes.set(xlim=(-0.5, n - 0.5), ylim=(n - 0.5, -0.5))
    if n <= _MOST_WITH_NUMBERS:
        for row, column in zip(*np.nonzero(~shown.mask), strict=True):
            percent = values[row, column]
            axes.text(
                column,
                row,
                _number(percent),
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if percent >= _WHITE_FROM * highest else INK,
            )
    axes.set_xlabel("neighbour")
    axes.set_ylabel("phase")
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.03)
    bar.set_label("% of the phase's boundary")
    bar.outline.set_visible(False)
    return figure


def _short(name: str) -> str:
    name = text(name)
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1].rstrip() + "…"


def _number(percent: float) -> str:
    """Return a percentage; what is there is never written as 0."""
    if percent == 0:
        return "-"
    return "< 0.1" if percent < 0.05 else f"{percent:.1f}"
