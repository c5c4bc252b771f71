"""The margin map: how clear the decision on each pixel's phase was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from matplotlib.lines import Line2D

from eds_chunked.figures.maps import map_with_legend, show_map
from eds_chunked.figures.reading import block_means
from eds_chunked.figures.style import INK, PAGE_MM, page_inches, styled
from eds_chunked.schema import MARGIN, PARAMETERS, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_TALLEST = 6.0
_BAR_INCHES = 0.65


@styled
def draw_margin_map(phases: xr.Dataset, *, width_mm: float = PAGE_MM) -> Figure:
    """Draw by how much the best phase of each pixel was ahead of the second best.

    Dark seams between grains are pixels that hold two phases; a grain that is dark all over has a composition between
    those of two components, and its phase is little more than a guess.

    Parameters
    ----------
    phases
        ``margin`` (y, x), from 0, undecided, to 1. The margin under which overlapping masks were called mixed, if the
        parameters say one, is marked on the scale.
    width_mm
        Largest width of the figure on paper.

    Raises
    ------
    ChunkLayoutError
        ``phases`` has no ``margin``, or with other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500.

    Notes
    -----
    Memory: of a map that is not in memory, a row of its chunks at a time, and a picture of at most 1500 x 1500 pixels.
    """
    require(phases, MARGIN)
    parameters = phases.attrs.get(PARAMETERS)
    limit = parameters.get("mixed_margin") if isinstance(parameters, Mapping) else None
    entries = [Line2D([], [], color=INK, linewidth=1.0, label=f"mixed under {limit:g}")] if limit else []
    figure, axes = map_with_legend(
        phases, entries, what="Margin", width=page_inches(width_mm), tallest=_TALLEST, beside=_BAR_INCHES
    )
    drawn = show_map(axes, block_means(phases[MARGIN]), ds=phases, cmap="cividis", vmin=0.0, vmax=1.0)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("margin")
    if limit:
        bar.ax.axhline(float(limit), color="white", linewidth=2.0)
        bar.ax.axhline(float(limit), color=INK, linewidth=1.0)
    return figure
