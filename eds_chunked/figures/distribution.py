"""The size distribution: histogram, density estimate and the averages over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from eds_chunked.figures.style import (
    BLUE,
    DOUBLE,
    FAINT,
    GREEN,
    INK,
    PURPLE,
    VERMILION,
    new_figure,
    plain_legend,
    styled,
)
from eds_chunked.schema import MICROMETRE, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = np.ndarray[Any, Any]


class SizeStatistics(Protocol):
    """What is drawn of size statistics.

    Edges, grid and averages are sizes in ``unit``; densities are per unit of ``scale`` (of ln d for ``"log"``).
    """

    @property
    def n(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def scale(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def bin_edges(self) -> Floats: ...
    @property
    def bin_density(self) -> Floats: ...
    @property
    def kde_grid(self) -> Floats: ...
    @property
    def kde_density(self) -> Floats: ...
    @property
    def arithmetic_mean(self) -> float: ...
    @property
    def geometric_mean(self) -> float: ...
    @property
    def median(self) -> float: ...
    @property
    def kde_mode(self) -> float: ...


_DENSITY_OF = {"log": "ln(diameter)", "log10": "log10(diameter)", "sqrt": "sqrt(diameter)"}


@styled
def draw_size_distribution(stats: SizeStatistics) -> Figure:
    """Draw the histogram and density estimate of sizes with mean, median, geometric mean and the density's peak.

    Parameters
    ----------
    stats
        What :func:`eds_chunked.grain_size_statistics` returns. The axis of sizes follows its ``scale``, so that the
        area under histogram and density is one on paper too.

    Returns
    -------
    matplotlib.figure.Figure
        One axes; the averages with their values are in the legend.
    """
    figure = new_figure(DOUBLE * 0.8, 3.1, what="Size distribution", title=stats.title)
    axes = figure.subplots()
    unit = "µm" if stats.unit == MICROMETRE else text(stats.unit)
    axes.bar(
        stats.bin_edges[:-1],
        stats.bin_density,
        width=np.diff(stats.bin_edges),
        align="edge",
        color=FAINT,
        edgecolor="white",
        linewidth=0.3,
        label=f"histogram, {len(stats.bin_density)} classes",
    )
    # Sizes that are all equal have no density estimate, and its grid is empty.
    if len(stats.kde_grid):
        axes.plot(stats.kde_grid, stats.kde_density, color=BLUE, linewidth=1.4, label="density estimate (KDE)")
    for value, name, colour, line in (
        (stats.arithmetic_mean, "mean", INK, "-"),
        (stats.median, "median", VERMILION, "--"),
        (stats.geometric_mean, "geometric mean", GREEN, "-."),
        (stats.kde_mode, "KDE peak", PURPLE, ":"),
    ):
        axes.axvline(value, color=colour, linestyle=line, linewidth=1.2, label=f"{name}  {value:.4g} {unit}")
    _scale_sizes(axes, stats)
    axes.set_xlabel(f"apparent diameter / {unit}", parse_math=False)
    per = f"density per unit of {_DENSITY_OF[stats.scale]}" if stats.scale in _DENSITY_OF else f"density / (1/{unit})"
    axes.set_ylabel(per, parse_math=False)
    plain_legend(
        axes.legend(
            title=f"n = {stats.n:,}", loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0, alignment="left"
        )
    )
    return figure


def _scale_sizes(axes: Axes, stats: SizeStatistics) -> None:
    ends = (*stats.bin_edges[[0, -1]], *(stats.kde_grid[[0, -1]] if len(stats.kde_grid) else ()))
    low, high = float(min(ends)), float(max(ends))
    if stats.scale in ("log", "log10"):
        axes.set_xscale("log")
        # 1, 2, 5: sizes often span less than a decade, and one number on an axis is none.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(low / 1.05, high * 1.05)
    elif stats.scale == "sqrt":
        axes.set_xscale("function", functions=(lambda size: np.sqrt(np.maximum(size, 0)), np.square))
        axes.set_xlim(max(low, 0), high * 1.03)
    else:
        axes.set_xlim(min(low, 0), high * 1.03)
