"""From a loading map to a mask: the histogram with its threshold, the mask before and after cleaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator

from eds_chunked.errors import ParameterError
from eds_chunked.figures.maps import map_inches, proportions, show_map
from eds_chunked.figures.phase_map import share
from eds_chunked.figures.reading import every_nth, reduction, strips
from eds_chunked.figures.spectra import phase_numbers
from eds_chunked.figures.style import (
    INK,
    PAGE_MM,
    is_narrow,
    map_title,
    new_figure,
    page_inches,
    phase_colour,
    scale_by_tens,
    styled,
)
from eds_chunked.schema import COMPONENT, LOADINGS, MASK, PHASE, THRESHOLD, UNASSIGNED, phase_name, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

# A title over a narrow map needs this much.
_TITLE_INCHES = 1.5


@styled
def draw_threshold(
    nmf: xr.Dataset,
    phases: xr.Dataset,
    *,
    component: int,
    phase_of: Mapping[int, int] | None = None,
    width_mm: float = PAGE_MM,
) -> Figure:
    """Draw how a phase was cut from its loading map: histogram with threshold, mask before and after cleaning.

    Parameters
    ----------
    nmf
        ``loadings`` (component, y, x).
    phases
        What the phases made of them: ``threshold`` (phase) and ``mask`` (phase, y, x).
    component
        Number of the component and of its phase, from 1.
    phase_of
        Phase that each component became, where ``phases`` were merged afterwards: for its colour.
    width_mm
        Width of the figure on paper; where it is narrow the masks go under the histogram.

    Raises
    ------
    ChunkLayoutError
        A Dataset lacks a variable or has other dimensions.
    ParameterError
        There is no component or no phase of that number, or ``width_mm`` is less than 80 or more than 500.

    Notes
    -----
    Memory: of maps that are not in memory, a row of chunks at a time, and pictures of at most 1500 x 1500 pixels. The
    histogram is of the pixels that are shown: of a larger map every n-th of every n-th row. Shares are of all pixels.

    References
    ----------
    Otsu (1979), IEEE Trans. Syst. Man Cybern. 9, 62.
    """
    require(nmf, LOADINGS)
    require(phases, THRESHOLD, MASK)
    numbers = phase_numbers(phases)
    if component not in numbers or component > nmf.sizes[COMPONENT]:
        raise ParameterError(
            "component",
            found=component,
            expected=f"one of {[n for n in numbers if n <= nmf.sizes[COMPONENT]]}",
            fix="count components and phases from 1, and pass the phases that were made from this decomposition",
        )
    loading = nmf[LOADINGS].isel({COMPONENT: component - 1})
    mask = phases[MASK].isel({PHASE: numbers.index(component)})
    # As float64, like the comparison that made the mask: a Python float would be rounded to the map's float32.
    threshold = np.float64(phases[THRESHOLD].values[numbers.index(component)])
    shown, n = every_nth(loading), reduction(loading)
    finite = shown[np.isfinite(shown)]
    n_before = sum(int(np.count_nonzero(rows >= threshold)) for _, rows in strips(loading))
    n_after = sum(int(np.count_nonzero(rows)) for _, rows in strips(mask))

    # A wide map leaves no room beside it: there the masks go under the histogram.
    page = page_inches(width_mm)
    narrow = is_narrow(page)
    beside = proportions(phases) > 0.5 and not narrow
    widest = (page - 3.1) / 2 if beside else page / 2 - 0.2
    width, height = map_inches(phases, widest=widest, tallest=3.2)
    own = phase_name(phases.attrs, component, f"phase {component}") if phase_of is None else f"component {component}"
    title = f"{own} from its loading map"
    title = title[0].upper() + title[1:]
    colour = phase_colour((phase_of or {}).get(component, component))
    if beside:
        column = max(width, _TITLE_INCHES)
        figure = new_figure(page, max(2.2, height + 0.75), what=title, title=map_title(phases))
        histogram, *maps = figure.subplots(1, 3, width_ratios=(page - 2 * column - 0.6, column, column))
    else:
        figure = new_figure(page, 2.6 + height, what=title, title=map_title(phases))
        drawn = figure.subplot_mosaic([["histogram"] * 2, ["before", "after"]], height_ratios=(1.6, height))
        histogram, *maps = (drawn[name] for name in ("histogram", "before", "after"))

    histogram.hist(finite, bins=int(np.clip(finite.size // 40, 30, 256)), color=colour)
    histogram.axvline(threshold, color=INK, linestyle="--")
    scale_by_tens(histogram)
    # Over the axes: in them, one phase or another has its counts wherever words are put.
    histogram.set_title(f"threshold {threshold:.4g} (dashed)")
    histogram.set(xlabel=f"loading of component {component}", ylabel="pixels" if n == 1 else f"pixels, one of {n * n}")
    histogram.xaxis.set_major_locator(MaxNLocator(6))
    histogram.xaxis.set_major_formatter("{x:.3g}")
    colours = ListedColormap([phase_colour(UNASSIGNED), colour])
    pictures = (shown >= threshold, every_nth(mask))
    words = ("before", "after") if narrow else ("before cleaning", "after cleaning")
    for axes, name, picture, part in zip(maps, words, pictures, (n_before, n_after), strict=True):
        show_map(axes, picture, ds=phases, bar=axes is maps[-1], cmap=colours, vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(f"{name}: {share(part, mask.size)}")
    return figure
