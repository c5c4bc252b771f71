"""How well a low-rank model fits: where on the map, and at which energies, it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eds_chunked.figures.maps import map_inches, show_map
from eds_chunked.figures.reading import block_means
from eds_chunked.figures.spectra import elements_of, energy_label, energy_window
from eds_chunked.figures.style import FAINT, INK, PAGE_MM, is_narrow, map_title, new_figure, page_inches, styled
from eds_chunked.figures.xray_lines import label_lines
from eds_chunked.schema import CHI_SQUARE, CHI_SQUARE_SPECTRUM, ENERGY, RESIDUAL, RESIDUAL_SPECTRUM, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = (0.005, 0.995)
_USUAL = 0.98
_LEFT_INCHES = 0.6
# Of residuals under half a count a colour scale of one count shows nothing.
_NOTHING = 0.5


@styled
def draw_model_fit(fit: xr.Dataset, *, width_mm: float = PAGE_MM) -> Figure:
    """Draw chi-square and residual of a model: two maps, and the chi-square of every channel under them.

    The ends of the scales are the 0.5 and 99.5 % quantiles of what is shown. Chi-square begins at zero and is 1 where
    the model is right; residuals diverge from zero, and no scale is finer than one count. NMF with the default loss
    gives every pixel as many counts as it has: its map of residuals is empty, and its title says so.

    Parameters
    ----------
    fit
        ``chi_square``, ``residual`` (y, x), ``chi_square_spectrum`` and ``residual_spectrum`` (energy) of
        :func:`eds_chunked.residual`. Lines of ``fit.attrs["elements"]`` are labelled at the highest peaks.
    width_mm
        Width of the figure on paper; in one column the maps stand one under the other.

    Returns
    -------
    matplotlib.figure.Figure
        Two maps and a spectrum, with words on the channels that go beyond its axis.

    Raises
    ------
    ChunkLayoutError
        ``fit`` lacks a variable or has other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500.

    Notes
    -----
    Memory: of a map that is not in memory, a row of its chunks at a time, and pictures of at most 1500 x 1500 pixels.
    """
    require(fit, CHI_SQUARE, RESIDUAL, CHI_SQUARE_SPECTRUM, RESIDUAL_SPECTRUM)
    elements = elements_of(fit)
    width = page_inches(width_mm)
    across = 1 if is_narrow(width) else 2
    _, tall = map_inches(fit, widest=width / across - 0.9, tallest=3.2)
    maps_tall = (tall + 0.4) * 2 / across
    figure = new_figure(width, maps_tall + 2.5 + 0.35 * bool(elements), what="Fit of the model", title=map_title(fit))
    shown = ((CHI_SQUARE, "chi-square"), (RESIDUAL, "residual, counts"))
    if across == 2:
        grid = figure.add_gridspec(2, 2, height_ratios=(maps_tall, 1.7))
        places = [grid[0, 0], grid[0, 1], grid[1, :]]
    else:
        grid = figure.add_gridspec(3, 1, height_ratios=(maps_tall / 2, maps_tall / 2, 1.7))
        places = [grid[0, 0], grid[1, 0], grid[2, 0]]
    for place, (name, words) in zip(places[:2], shown, strict=True):
        _draw_map(figure.add_subplot(place), fit, name, words)
    axes = figure.add_subplot(places[2])
    energy = fit[ENERGY].values
    squares = np.nan_to_num(fit[CHI_SQUARE_SPECTRUM].values)
    axes.axhline(1, color=FAINT, linewidth=0.8)
    axes.plot(energy, fit[CHI_SQUARE_SPECTRUM].values, color=INK, drawstyle="steps-mid", linewidth=0.7)
    axes.set(xlim=energy_window(fit, fit[CHI_SQUARE_SPECTRUM].fillna(0).values > 0))
    beyond = _limit(axes, squares)
    more = f"  ({beyond} channel{'s go' if beyond > 1 else ' goes'} beyond the axis)" if beyond else ""
    axes.set(xlabel=energy_label(fit) + more, ylabel="chi-square")
    label_lines(axes, elements=elements, energy=energy, height=squares, inches=width - _LEFT_INCHES)
    return figure


def _limit(axes: Axes, squares: np.ndarray[Any, Any]) -> int:
    """Cut the axis where channels of hardly any counts, with one that is a hundred too many, would flatten the rest.

    Returns the number of channels beyond it.
    """
    usual = 1.5 * float(np.quantile(squares, _USUAL)) if squares.size else 0.0
    top = max(2.0, min(usual, 1.1 * float(squares.max(initial=0))))
    axes.set_ylim(0, top)
    return int(np.count_nonzero(squares > top))


def _draw_map(axes: Axes, fit: xr.Dataset, name: str, words: str) -> None:
    image = block_means(fit[name])
    drawn = show_map(axes, image, ds=fit, bar=name == CHI_SQUARE, **_scale(image, diverges=name == RESIDUAL))
    if name == RESIDUAL and image.count() and float(np.abs(image).max()) < _NOTHING:
        words += f": all under {_NOTHING:g}"
    axes.set_title(words, fontweight="bold")
    colours = axes.figure.colorbar(drawn, ax=axes, shrink=0.9, pad=0.02)
    colours.outline.set_visible(False)
    colours.ax.locator_params(nbins=5)


def _scale(image: np.ndarray[Any, Any], *, diverges: bool) -> dict[str, Any]:
    shown = np.ma.compressed(image)
    low, high = np.quantile(shown, _SHOWN) if shown.size else (0.0, 1.0)
    if diverges:
        end = max(1.0, float(max(-low, high)))
        return {"cmap": "RdBu_r", "vmin": -end, "vmax": end}
    return {"cmap": "cividis", "vmin": 0.0, "vmax": max(1.0, float(high))}
