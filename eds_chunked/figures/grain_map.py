"""The grain map: each grain in a shade of its phase's colour, with a thin boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.patches import Patch

from eds_chunked.figures.maps import MOST_PIXELS, every_nth, map_inches, show_map
from eds_chunked.figures.phase_map import label_counts
from eds_chunked.figures.style import DOUBLE, INK, Colours, map_title, new_figure, phase_colour, phase_colours, styled
from eds_chunked.schema import GRAIN_LABEL, LABEL, MIXED, UNASSIGNED, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_LEGEND = 0.95
_BOUNDARY = 40
# The fractional parts of the multiples of the golden ratio are as far apart as can be, so neighbours in number differ.
_GOLDEN = 0.6180339887498949


@styled
def draw_grain_map(grains: xr.Dataset, phases: xr.Dataset | None = None) -> Figure:
    """Draw the grains in shades of their phases' colours with thin boundaries; where there is no grain, light grey.

    Parameters
    ----------
    grains
        ``grain_label`` (y, x), 0 where there is no grain.
    phases
        ``label`` (y, x) of the phases that the grains were made from; without it all grains are shades of one colour.
    """
    require(grains, GRAIN_LABEL)
    label = every_nth(grains[GRAIN_LABEL]).astype(np.int64)
    if phases is None:
        base = np.where(label > 0, 1, UNASSIGNED)
        shown = []
    else:
        require(phases, LABEL)
        base = np.where(label > 0, every_nth(phases[LABEL]), UNASSIGNED)
        shown = [int(p) for p in np.flatnonzero(label_counts(phases[LABEL])) if p not in (UNASSIGNED, MIXED)]
    image = _with_boundaries(_shades(label, phase_colours()[base]), label)
    width, height = map_inches(grains, widest=DOUBLE - 0.2 - _LEGEND * bool(shown), tallest=6.5)
    figure = new_figure(
        max(3.2, width + _LEGEND * bool(shown) + 0.2), max(1.4, height + 0.65), what="Grains", title=map_title(grains)
    )
    axes = figure.subplots()
    show_map(axes, image, ds=grains)
    if shown:
        axes.legend(
            handles=[Patch(facecolor=phase_colour(p), edgecolor=INK, linewidth=0.3, label=f"phase {p}") for p in shown],
            loc="upper left",
            bbox_to_anchor=(1.01, 1.0),
            borderaxespad=0,
        )
    return figure


def _shades(label: np.ndarray[Any, Any], colours: Colours) -> Colours:
    """Return colours (y, x, 3) lightened or darkened by grain; pixels outside the grains keep theirs."""
    shade = np.where(label > 0, 0.8 * ((label * _GOLDEN) % 1.0) - 0.35, 0.0).astype(np.float32)[..., None]
    towards = np.where(shade > 0, np.float32(255), np.float32(0))
    return np.asarray(colours + np.abs(shade) * (towards - colours)).round().astype(np.uint8)


def _with_boundaries(colours: Colours, label: np.ndarray[Any, Any]) -> Colours:
    """Return colours with a dark line, one dot wide, where one grain ends.

    A small map is enlarged first, so that the line is thin on paper and not a whole pixel of the map wide.
    """
    n = max(1, MOST_PIXELS // max(label.shape))
    colours, label = (array.repeat(n, axis=0).repeat(n, axis=1) for array in (colours, label))
    edge = np.zeros(label.shape, dtype=bool)
    edge[:-1] |= label[:-1] != label[1:]
    edge[:, :-1] |= label[:, :-1] != label[:, 1:]
    colours[edge] = _BOUNDARY
    return colours
