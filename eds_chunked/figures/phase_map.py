"""The phase map: one colour a pixel, shares of the area in the legend."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eds_chunked.figures.maps import area_of, map_with_legend, show_map
from eds_chunked.figures.reading import label_counts, shown_labels
from eds_chunked.figures.spectra import phase_numbers
from eds_chunked.figures.style import PAGE_MM, page_inches, phase_colour, phase_colours, phase_word, styled
from eds_chunked.schema import (
    LABEL,
    LEFT_OUT_LABEL,
    LEFT_OUT_ROW,
    MIXED,
    MIXED_ROW,
    PHASE,
    UNASSIGNED,
    UNASSIGNED_ROW,
    require,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_TALLEST = 6.0


@styled
def draw_phase_map(phases: xr.Dataset, *, width_mm: float = PAGE_MM) -> Figure:
    """Draw the exclusive phase labels with each phase's share of the area and a scale bar.

    The shares are those of the exclusive labels: with unassigned and mixed, which are always listed, they add up to
    100 %. Those of the masks, which overlap, do not.

    Parameters
    ----------
    phases
        ``label`` (y, x): 0 unassigned, 1..n phase, 255 mixed. Phases of the coordinate ``phase`` are listed also
        where they have no pixel, by name where they have one.
    width_mm
        Largest width of the figure on paper.

    Raises
    ------
    ChunkLayoutError
        ``phases`` lacks a variable or has other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500.

    Notes
    -----
    Memory: of a map that is not in memory, a row of its chunks at a time, and a picture of at most 1500 x 1500 pixels.
    """
    require(phases, LABEL)
    pixels = label_counts(phases)
    known = phase_numbers(phases) if PHASE in phases.sizes else []
    no_phase = {MIXED: MIXED_ROW, UNASSIGNED: UNASSIGNED_ROW, LEFT_OUT_LABEL: LEFT_OUT_ROW}
    found = [int(label) for label in np.flatnonzero(pixels)]
    rows = [(number, phase_word(phases, number)) for number in sorted({*known, *found} - no_phase.keys())]
    rows += [(label, name) for label, name in no_phase.items() if label != LEFT_OUT_LABEL or pixels[label]]
    total = pixels.sum()
    entries = [area_of(phase_colour(label), f"{name}  {share(pixels[label], total)}") for label, name in rows]
    figure, axes = map_with_legend(phases, entries, what="Phases", width=page_inches(width_mm), tallest=_TALLEST)
    show_map(axes, phase_colours()[shown_labels(phases)], ds=phases)
    return figure


def share(part: int, whole: int) -> str:
    """Return ``part`` of ``whole`` in percent."""
    return percent_words(100 * part / max(whole, 1))


def percent_words(percent: float) -> str:
    """Return a percentage with one decimal; what is there is never written as 0."""
    return "< 0.1 %" if 0 < percent < 0.05 else f"{percent:.1f} %"
