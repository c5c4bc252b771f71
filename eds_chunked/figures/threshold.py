"""From a loading map to a mask: the histogram with its threshold, the mask before and after cleaning."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import ListedColormap

from eds_chunked.errors import ParameterError
from eds_chunked.figures.maps import every_nth, map_inches, proportions, show_map
from eds_chunked.figures.phase_map import share
from eds_chunked.figures.spectra import phase_numbers
from eds_chunked.figures.style import DOUBLE, INK, map_title, new_figure, phase_colour, styled
from eds_chunked.schema import COMPONENT, LOADINGS, MASK, PHASE, THRESHOLD, UNASSIGNED, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

# A title over a narrow map needs this much.
_TITLE_INCHES = 1.5


@styled
def draw_threshold(nmf: xr.Dataset, phases: xr.Dataset, *, component: int) -> Figure:
    """Draw how a phase was cut from its loading map: histogram with threshold, mask before and after cleaning.

    Parameters
    ----------
    nmf
        ``loadings`` (component, y, x).
    phases
        What the phases made of them: ``threshold`` (phase) and ``mask`` (phase, y, x).
    component
        Number of the component and of its phase, from 1.

    Raises
    ------
    ParameterError
        There is no component or no phase of that number.

    Memory: one loading map and one mask.

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
    loading = nmf[LOADINGS].isel({COMPONENT: component - 1}).load()
    mask = phases[MASK].isel({PHASE: numbers.index(component)}).load()
    # As float64, like the comparison that made the mask: a Python float would be rounded to the map's float32.
    threshold = np.float64(phases[THRESHOLD].values[numbers.index(component)])
    before = loading >= threshold

    # A wide map leaves no room beside it: there the masks go under the histogram.
    beside = proportions(phases) > 0.5
    widest = (DOUBLE - 3.1) / 2 if beside else DOUBLE / 2 - 0.2
    width, height = map_inches(phases, widest=widest, tallest=3.2)
    title = f"Phase {component} from its loading map"
    if beside:
        column = max(width, _TITLE_INCHES)
        figure = new_figure(DOUBLE, max(2.2, height + 0.75), what=title, title=map_title(phases))
        histogram, *maps = figure.subplots(1, 3, width_ratios=(DOUBLE - 2 * column - 0.6, column, column))
    else:
        figure = new_figure(DOUBLE, 2.6 + height, what=title, title=map_title(phases))
        drawn = figure.subplot_mosaic([["histogram"] * 2, ["before", "after"]], height_ratios=(1.6, height))
        histogram, *maps = (drawn[name] for name in ("histogram", "before", "after"))

    finite = loading.values[np.isfinite(loading.values)]
    histogram.hist(finite, bins=int(np.clip(finite.size // 40, 30, 256)), color=phase_colour(component), log=True)
    histogram.axvline(threshold, color=INK, linestyle="--", label=f"threshold {threshold:.4g}")
    histogram.legend(loc="upper right")
    histogram.set(xlabel=f"loading of component {component}", ylabel="pixels")
    colours = ListedColormap([phase_colour(UNASSIGNED), phase_colour(component)])
    for axes, name, pixels in zip(maps, ("before cleaning", "after cleaning"), (before, mask), strict=True):
        show_map(
            axes,
            every_nth(pixels),
            ds=phases,
            bar=name == "after cleaning",
            cmap=colours,
            vmin=0,
            vmax=1,
            interpolation="nearest",
        )
        axes.set_title(f"{name}: {share(int(pixels.sum()), pixels.size)}")
    return figure
