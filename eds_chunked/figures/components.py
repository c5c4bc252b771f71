"""The components of a decomposition: each map of loadings beside its factor spectrum."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from eds_chunked.figures.maps import map_inches, show_map
from eds_chunked.figures.reading import block_means
from eds_chunked.figures.spectra import elements_of, energy_label, energy_window
from eds_chunked.figures.style import (
    INK,
    PAGE_MM,
    PRINT_DPI,
    is_narrow,
    map_title,
    new_figure,
    page_inches,
    phase_colour,
    styled,
)
from eds_chunked.figures.xray_lines import label_lines
from eds_chunked.schema import COMPONENT, ENERGY, FACTORS, LOADINGS, NMF, STEP, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

# Up to so many components stand one under the other; more stand in pairs, or the page would be too long to read.
_ONE_COLUMN = 6
_LABELS = {1: 6, 2: 4}
_TITLE_INCHES = 0.8
_BAR_INCHES = 0.45
_AXIS_INCHES = 0.55
# A lower bar has room for one number.
_INCHES_FOR_TICKS = 0.4
# Pixels of a picture beside those that are printed: what is left over is averaged, not left out.
_OVERSAMPLED = 2


@styled
def draw_components(
    result: xr.Dataset, *, phase_of: Mapping[int, int] | None = None, width_mm: float = PAGE_MM
) -> Figure:
    """Draw the loading map of each component beside its factor spectrum.

    Maps with negative loadings (PCA) are drawn on a scale that diverges from zero, others from zero up; the ends are
    the 0.5 and 99.5 % quantiles of what is shown, so that single bright pixels do not darken a map. Beside the
    spectra of an NMF stand the colours of the phases of the same number.

    Parameters
    ----------
    result
        ``factors`` (component, energy) and ``loadings`` (component, y, x) of a PCA or NMF. Lines of
        ``result.attrs["elements"]`` are labelled at the highest peaks.
    phase_of
        Phase that each component became, where phases were merged: for its colour.
    width_mm
        Width of the figure on paper.

    Returns
    -------
    matplotlib.figure.Figure
        Two axes a component, map and spectrum.

    Raises
    ------
    ChunkLayoutError
        ``result`` lacks a variable or has other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500.

    Notes
    -----
    Memory: of maps that are not in memory, a row of chunks of all components at a time, and a picture for each, of as
    many pixels as are printed.
    """
    require(result, FACTORS, LOADINGS)
    n = result.sizes[COMPONENT]
    page = page_inches(width_mm)
    across = 1 if n <= _ONE_COLUMN or is_narrow(page) else 2
    down = math.ceil(n / across)
    width, height = map_inches(result, widest=0.3 * page / across, tallest=1.45)
    column = max(width, _TITLE_INCHES)
    spectrum_inches = page / across - column - _BAR_INCHES - _AXIS_INCHES - 0.1
    factors, elements = result[FACTORS].values, elements_of(result)
    window = energy_window(result, np.abs(factors).sum(axis=0))
    step = str(result.attrs.get(STEP, ""))
    figure = new_figure(
        page,
        0.6 + (max(1.05, height) + 0.3 + 0.35 * bool(elements)) * down,
        what=f"{step.upper()} components" if step else "Components",
        title=map_title(result),
    )
    most = math.ceil(_OVERSAMPLED * PRINT_DPI * max(width, height))
    images = block_means(result[LOADINGS], most=most)
    columns = (column + _BAR_INCHES, spectrum_inches) * across
    grid = figure.subplots(down, 2 * across, squeeze=False, width_ratios=columns).reshape(-1, 2)
    for index, (left, right) in enumerate(grid[:n]):
        last = index + across >= n
        drawn = show_map(left, images[index], ds=result, most=most, bar=last, **colour_scale(images[index]))
        _draw_bar(left, drawn, inches=(width, height))
        left.set_title(f"component {index + 1}", fontweight="bold", pad=9)
        if step == NMF:
            right.spines["left"].set(color=phase_colour((phase_of or {}).get(index + 1, index + 1)), linewidth=4)
        right.plot(result[ENERGY].values, factors[index], color=INK, linewidth=0.7)
        right.axhline(0, color=INK, linewidth=0.4)
        right.set(xlim=window)
        right.locator_params(axis="y", nbins=5)
        right.yaxis.set_major_formatter("{x:.3g}")
        right.set_ylabel("factor")
        label_lines(
            right,
            elements=elements,
            energy=result[ENERGY].values,
            height=np.abs(factors[index]),
            inches=spectrum_inches,
            most=_LABELS[across],
        )
        right.tick_params(labelbottom=last)
        if last:
            right.set_xlabel(energy_label(result))
    for axes in grid[n:].ravel():
        axes.remove()
    return figure


def _draw_bar(axes: Axes, drawn: AxesImage, *, inches: tuple[float, float]) -> None:
    # As high as the map and equally thin beside every map, which a share of the map's width is not.
    beside = axes.inset_axes((1 + 0.05 / inches[0], 0, 0.09 / inches[0], 1))
    colours = axes.figure.colorbar(drawn, cax=beside)
    colours.outline.set_visible(False)
    if inches[1] < _INCHES_FOR_TICKS:
        beside.set_yticks(drawn.get_clim()[1:])
    else:
        beside.locator_params(nbins=4)
    beside.yaxis.set_major_formatter("{x:.3g}")


def colour_scale(image: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Return colour map and limits for loadings, which may have either sign."""
    shown = np.ma.compressed(image)
    low, high = np.quantile(shown, (0.005, 0.995)) if shown.size else (0.0, 1.0)
    if low < 0:
        end = float(max(-low, high))
        return {"cmap": "RdBu_r", "vmin": -end, "vmax": end}
    return {"cmap": "cividis", "vmin": 0.0, "vmax": float(high) or 1.0}
