"""The phase map: one colour a pixel, shares of the area in the legend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch

from eds_chunked.figures.maps import every_nth, map_inches, show_map
from eds_chunked.figures.spectra import phase_numbers
from eds_chunked.figures.style import DOUBLE, INK, map_title, new_figure, phase_colour, phase_colours, styled
from eds_chunked.schema import LABEL, MIXED, PHASE, UNASSIGNED, Y, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_LEGEND = 1.45
_ROWS_AT_ONCE = 512


@styled
def draw_phase_map(phases: xr.Dataset) -> Figure:
    """Draw the exclusive phase labels with each phase's share of the area and a scale bar.

    The shares are those of the exclusive labels: with unassigned and mixed, which are always listed, they add up to
    100 %. Those of the masks, which overlap, do not.

    Parameters
    ----------
    phases
        ``label`` (y, x): 0 unassigned, 1..n phase, 255 mixed. Phases of the coordinate ``phase`` are listed also
        where they have no pixel.
    """
    require(phases, LABEL)
    image = phase_colours()[every_nth(phases[LABEL])]
    pixels = label_counts(phases[LABEL])
    known = phase_numbers(phases) if PHASE in phases.sizes else []
    number = sorted({*known, *(int(p) for p in np.flatnonzero(pixels))} - {UNASSIGNED, MIXED})
    width, height = map_inches(phases, widest=DOUBLE - _LEGEND - 0.2, tallest=6.0)
    figure = new_figure(
        max(3.2, width + _LEGEND + 0.2),
        max(height + 0.65, 0.7 + 0.17 * len(number)),
        what="Phases",
        title=map_title(phases),
    )
    axes = figure.subplots()
    show_map(axes, image, ds=phases)
    rows = [(phase, f"phase {phase}") for phase in number] + [(MIXED, "mixed"), (UNASSIGNED, "unassigned")]
    total = pixels.sum()
    axes.legend(
        handles=[
            Patch(
                facecolor=phase_colour(label),
                edgecolor=INK,
                linewidth=0.3,
                label=f"{name}  {share(pixels[label], total)}",
            )
            for label, name in rows
        ],
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
    )
    return figure


def label_counts(label: xr.DataArray) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Return the pixels (256,) of each label of ``label`` (y, x), a few rows at a time."""
    counts = np.zeros(256, dtype=np.int64)
    for top in range(0, label.sizes[Y], _ROWS_AT_ONCE):
        rows = label.isel({Y: slice(top, top + _ROWS_AT_ONCE)}).values
        counts += np.bincount(rows.ravel(), minlength=256)
    return counts


def share(part: int, whole: int) -> str:
    """Return ``part`` of ``whole`` in percent; what is there is never written as 0."""
    percent = 100 * part / max(whole, 1)
    if 0 < percent < 0.05:
        return "< 0.1 %"
    return f"{percent:.1f} %"
