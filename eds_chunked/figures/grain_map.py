"""Grains on the map: in shades of their phases' colours, or as boundaries over the counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.lines import Line2D

from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.figures.maps import area_of, map_with_legend, show_map
from eds_chunked.figures.reading import MOST_PIXELS, block_means, every_nth, label_counts
from eds_chunked.figures.style import (
    PAGE_MM,
    Colours,
    page_inches,
    phase_colour,
    phase_colours,
    phase_word,
    styled,
)
from eds_chunked.schema import (
    GRAIN_ID,
    GRAIN_LABEL,
    LABEL,
    LEFT_OUT_LABEL,
    MIXED,
    PHASE,
    TOTAL_COUNTS,
    TOUCHES_EDGE,
    UNASSIGNED,
    X,
    Y,
    require,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_TALLEST = 6.5
_BOUNDARY = 40
# The fractional parts of the multiples of the golden ratio are as far apart as can be, so neighbours in number differ.
_GOLDEN = 0.6180339887498949
# Bright lines over a dark picture; yellow and blue differ for every eye.
_WHOLE, _CUT = (240, 228, 66), (86, 180, 233)
_DARK = ListedColormap(np.linspace(0.02, 0.5, 256)[:, None].repeat(3, axis=1), name="dark greys")
_BAR_INCHES = 0.65
# A map that is enlarged so many times gets lines of one dot more on each side.
_DOTS_A_LINE = 6
_SHOWN = (0.005, 0.995)


@styled
def draw_grain_map(
    grains: xr.Dataset, phases: xr.Dataset | None = None, *, phase: int | None = None, width_mm: float = PAGE_MM
) -> Figure:
    """Draw the grains in shades of their phases' colours with thin boundaries; where there is no grain, light grey.

    Parameters
    ----------
    grains
        ``grain_label`` (y, x), 0 where there is no grain.
    phases
        ``label`` (y, x) of the phases that the grains were made from; without it all grains are shades of one colour.
    phase
        The only phase whose grains are drawn. Grains of masks, ``grain_label`` (phase, y, x), need one: masks overlap.
    width_mm
        Largest width of the figure on paper.

    Raises
    ------
    ChunkLayoutError
        A Dataset lacks its variable or has other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500, or there is no such phase.

    Notes
    -----
    Memory: of a map that is not in memory, a row of its chunks at a time, and pictures of at most 1500 x 1500 pixels.
    """
    grains = _of_phase(grains, phase)
    width = page_inches(width_mm)
    label = every_nth(grains[GRAIN_LABEL]).astype(np.int64)
    if phases is not None:
        require(phases, LABEL)
    if phase is not None:
        base = np.where(label > 0, phase, UNASSIGNED)
        entries = [area_of(phase_colour(phase), phase_word(grains, phase))]
    elif phases is None:
        base = np.where(label > 0, 1, UNASSIGNED)
        entries = []
    else:
        base = np.where(label > 0, every_nth(phases[LABEL]), UNASSIGNED)
        shown = [int(p) for p in np.flatnonzero(label_counts(phases))]
        entries = [
            area_of(phase_colour(p), phase_word(phases, p))
            for p in shown
            if p not in (UNASSIGNED, MIXED, LEFT_OUT_LABEL)
        ]
    figure, axes = map_with_legend(grains, entries, what="Grains", width=width, tallest=_TALLEST)
    show_map(axes, _with_boundaries(grain_colours(label, base), label), ds=grains)
    return figure


@styled
def draw_grain_boundaries(
    ds: xr.Dataset, *, grains: xr.Dataset, phase: int | None = None, width_mm: float = PAGE_MM
) -> Figure:
    """Draw the boundaries of grains over the total counts of the pixels, to judge how grains were separated.

    Parameters
    ----------
    ds
        The map: ``total_counts`` (y, x). The scale ends at the 0.5 and 99.5 % quantiles of what is shown.
    grains
        ``grain_label`` (y, x) of the same pixels. With its column ``touches_edge`` the grains that the map's edge cuts,
        and which are left out of size statistics, are drawn in another colour.
    phase
        The only phase whose grains are drawn. Grains of masks, ``grain_label`` (phase, y, x), need one: masks overlap.
    width_mm
        Largest width of the figure on paper.

    Raises
    ------
    ChunkLayoutError
        A Dataset lacks its variable or has other dimensions, or they have not the same number of pixels.
    ParameterError
        ``width_mm`` is less than 80 or more than 500, or there is no such phase.

    Notes
    -----
    Memory: of a map that is not in memory, a row of its chunks at a time, and pictures of at most 1500 x 1500 pixels.
    """
    require(ds, TOTAL_COUNTS)
    grains = _of_phase(grains, phase)
    shape, of_grains = ((d.sizes[Y], d.sizes[X]) for d in (ds, grains))
    if shape != of_grains:
        raise ChunkLayoutError(
            "map under the grains",
            found=f"{shape[0]} x {shape[1]} pixels",
            expected=f"the {of_grains[0]} x {of_grains[1]} pixels of the grains",
            fix="pass the map in the bins, and of the region, that the grains were made from",
        )
    cut = np.zeros(0, np.int64)
    if TOUCHES_EDGE in grains and GRAIN_ID in grains:
        cut = grains[GRAIN_ID].values[grains[TOUCHES_EDGE].values.astype(bool)]
    entries = [Line2D([], [], color=_hex(_WHOLE), linewidth=1.6, label="whole grains")]
    if cut.size:
        entries.append(Line2D([], [], color=_hex(_CUT), linewidth=1.6, label="cut by the map's edge"))
    figure, axes = map_with_legend(
        grains,
        entries,
        what="Grain boundaries",
        width=page_inches(width_mm),
        tallest=_TALLEST,
        beside=_BAR_INCHES,
    )
    counts = block_means(ds[TOTAL_COUNTS])
    known = np.ma.compressed(counts)
    low, high = (float(q) for q in np.quantile(known, _SHOWN)) if known.size else (0.0, 1.0)
    scale = Normalize(low, max(high, low + 1.0))
    picture = np.round(255 * _DARK(scale(counts))[..., :3]).astype(np.uint8)
    show_map(axes, _with_lines(picture, every_nth(grains[GRAIN_LABEL]), cut), ds=grains)
    bar = figure.colorbar(ScalarMappable(scale, _DARK), ax=axes, shrink=0.8, pad=0.02, aspect=30)
    bar.set_label("counts of a pixel")
    bar.outline.set_visible(False)
    bar.ax.locator_params(nbins=5)
    return figure


def _of_phase(grains: xr.Dataset, phase: int | None) -> xr.Dataset:
    """Return grains with ``grain_label`` (y, x): those of one phase, or of all where that is no question."""
    of_masks = GRAIN_LABEL in grains and PHASE in grains[GRAIN_LABEL].dims
    if not of_masks and phase is None:
        require(grains, GRAIN_LABEL)
        return grains
    n_phases = grains.sizes[PHASE] if of_masks else int(np.max(grains[PHASE].values, initial=0))
    if phase is None or not 1 <= phase <= n_phases:
        raise ParameterError(
            "phase",
            found=phase,
            expected=f"one of 1 to {n_phases}" + (", since grains of masks overlap" if of_masks else ""),
            fix="phase=1",
        )
    if of_masks:
        grains = grains.assign({GRAIN_LABEL: grains[GRAIN_LABEL].isel({PHASE: phase - 1})})
    else:
        numbers = grains[GRAIN_ID].values[grains[PHASE].values == phase]
        label = grains[GRAIN_LABEL]
        grains = grains.assign({GRAIN_LABEL: label.where(label.isin(numbers), 0)})
    require(grains, GRAIN_LABEL)
    return grains


def _hex(colour: tuple[int, int, int]) -> str:
    return "#" + "".join(f"{part:02x}" for part in colour)


def grain_colours(label: np.ndarray[Any, Any], phase: np.ndarray[Any, Any]) -> Colours:
    """Return the colours (..., 3) of grains (...): those of their phases (...), lightened or darkened by grain.

    What is in no grain (0) keeps the colour of its phase.
    """
    colours = phase_colours()[phase]
    shade = np.where(label > 0, 0.8 * ((label * _GOLDEN) % 1.0) - 0.35, 0.0).astype(np.float32)[..., None]
    towards = np.where(shade > 0, np.float32(255), np.float32(0))
    return np.asarray(colours + np.abs(shade) * (towards - colours)).round().astype(np.uint8)


def _with_boundaries(colours: Colours, label: np.ndarray[Any, Any]) -> Colours:
    """Return colours with a dark line, one dot wide, where one grain ends.

    A small map is enlarged first, so that the line is thin on paper and not a whole pixel of the map wide.
    """
    colours, label = _enlarged(colours, label)
    edge = np.zeros(label.shape, dtype=bool)
    edge[:-1] |= label[:-1] != label[1:]
    edge[:, :-1] |= label[:, :-1] != label[:, 1:]
    colours[edge] = _BOUNDARY
    return colours


def _with_lines(colours: Colours, label: np.ndarray[Any, Any], cut: np.ndarray[Any, Any]) -> Colours:
    """Return colours with bright lines on both sides of borders: of whole grains, and elsewhere of those in ``cut``."""
    small = label.shape
    colours, label = _enlarged(colours, label)
    lines = ((label > 0, _CUT), ((label > 0) & ~np.isin(label, cut), _WHOLE))
    for far in range(1, 2 + label.shape[0] // small[0] // _DOTS_A_LINE):
        for grain, colour in lines:
            for axis in (0, 1):
                here, there = ((slice(None),) * axis + (part,) for part in (slice(far, None), slice(-far)))
                border = (label[here] != label[there]) & (grain[here] | grain[there])
                colours[here][border] = colours[there][border] = colour
    return colours


def _enlarged(colours: Colours, label: np.ndarray[Any, Any]) -> tuple[Colours, np.ndarray[Any, Any]]:
    n = max(1, MOST_PIXELS // max(label.shape))
    return colours.repeat(n, axis=0).repeat(n, axis=1), label.repeat(n, axis=0).repeat(n, axis=1)
