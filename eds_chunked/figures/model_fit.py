"""How well a low-rank model fits: where on the map, and at which energies, it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eds_chunked.figures.maps import block_means, map_inches, show_map
from eds_chunked.figures.spectra import elements_of, energy_label, energy_window
from eds_chunked.figures.style import DOUBLE, FAINT, INK, map_title, new_figure, styled
from eds_chunked.figures.xray_lines import label_lines
from eds_chunked.schema import CHI_SQUARE, CHI_SQUARE_SPECTRUM, ENERGY, RESIDUAL, RESIDUAL_SPECTRUM, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = (0.005, 0.995)
_LEFT_INCHES = 0.6


@styled
def draw_model_fit(fit: xr.Dataset) -> Figure:
    """Draw chi-square and residual of a model: two maps, and the chi-square of every channel under them.

    The ends of the scales are the 0.5 and 99.5 % quantiles of what is shown. Chi-square begins at zero and is 1 where
    the model is right; residuals diverge from zero, and no scale is finer than one count.

    Parameters
    ----------
    fit
        ``chi_square``, ``residual`` (y, x), ``chi_square_spectrum`` and ``residual_spectrum`` (energy) of
        :func:`eds_chunked.residual`. Lines of ``fit.attrs["elements"]`` are labelled at the highest peaks.

    Returns
    -------
    matplotlib.figure.Figure
        Two maps and a spectrum.

    Raises
    ------
    ChunkLayoutError
        ``fit`` lacks a variable or has other dimensions.

    Notes
    -----
    Memory: one map at a time.
    """
    require(fit, CHI_SQUARE, RESIDUAL, CHI_SQUARE_SPECTRUM, RESIDUAL_SPECTRUM)
    elements = elements_of(fit)
    _, tall = map_inches(fit, widest=DOUBLE / 2 - 0.9, tallest=3.2)
    figure = new_figure(DOUBLE, tall + 2.9 + 0.35 * bool(elements), what="Fit of the model", title=map_title(fit))
    grid = figure.add_gridspec(2, 2, height_ratios=(tall + 0.4, 1.7))
    for column, (name, words) in enumerate(((CHI_SQUARE, "chi-square"), (RESIDUAL, "residual, counts"))):
        _draw_map(figure.add_subplot(grid[0, column]), fit, name, words)
    axes = figure.add_subplot(grid[1, :])
    energy = fit[ENERGY].values
    squares = np.nan_to_num(fit[CHI_SQUARE_SPECTRUM].values)
    axes.axhline(1, color=FAINT, linewidth=0.8)
    axes.plot(energy, fit[CHI_SQUARE_SPECTRUM].values, color=INK, drawstyle="steps-mid", linewidth=0.7)
    axes.set(xlim=energy_window(fit, squares), ylim=(0, max(2.0, 1.1 * float(squares.max(initial=0)))))
    axes.set(xlabel=energy_label(fit), ylabel="chi-square")
    label_lines(axes, elements=elements, energy=energy, height=squares, inches=DOUBLE - _LEFT_INCHES)
    return figure


def _draw_map(axes: Axes, fit: xr.Dataset, name: str, words: str) -> None:
    image = block_means(fit[name])
    drawn = show_map(axes, image, ds=fit, bar=name == CHI_SQUARE, **_scale(image, diverges=name == RESIDUAL))
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
