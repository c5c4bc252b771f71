"""The size distribution: histogram, density estimate and the averages over them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from eds_chunked.figures.style import (
    BLUE,
    COLUMN_MM,
    GREEN,
    INK,
    PURPLE,
    VERMILION,
    new_figure,
    page_inches,
    plain_legend,
    styled,
)
from eds_chunked.schema import MICROMETRE, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = np.ndarray[Any, Any]


class OnScale(Protocol):
    """Sizes in ``unit`` of ``n`` grains, which are drawn on an axis that is even on ``scale``."""

    @property
    def n(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def scale(self) -> str: ...
    @property
    def title(self) -> str: ...


class SizeStatistics(OnScale, Protocol):
    """What is drawn of size statistics.

    Edges, grid and averages are sizes in ``unit``; densities are per unit of ``scale`` (of ln d for ``"log"``).
    """

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


_STEP_OF = {"log": "ln(d)", "log10": "log10(d)", "sqrt": "sqrt(d)"}
# Paler than other areas are: four lines have to be told apart on it.
_PALE = "#d4d4d4"
TALL = 3.3
"""Height in inches of a figure of sizes: axes as for one column, and a legend in two columns below."""


@styled
def draw_size_distribution(stats: SizeStatistics, *, width_mm: float = COLUMN_MM) -> Figure:
    """Draw the histogram and density estimate of sizes with mean, median, geometric mean and the density's peak.

    Parameters
    ----------
    stats
        What :func:`eds_chunked.grain_size_statistics` returns. The axis of sizes follows its ``scale``, so that the
        area under histogram and density is one on paper too.
    width_mm
        Width of the figure on paper.

    Returns
    -------
    matplotlib.figure.Figure
        One axes; the averages with their values are in the legend.

    Raises
    ------
    ParameterError
        ``width_mm`` is less than 80 or more than 500.
    """
    figure = new_figure(page_inches(width_mm), TALL, what="Size distribution", title=stats.title)
    axes = figure.subplots()
    unit = unit_text(stats.unit)
    axes.bar(
        stats.bin_edges[:-1],
        stats.bin_density,
        width=np.diff(stats.bin_edges),
        align="edge",
        color=_PALE,
        edgecolor="white",
        linewidth=0.3,
        label=f"histogram, {len(stats.bin_density)} classes",
    )
    # Sizes that are all equal have no density estimate, and its grid is empty.
    if len(stats.kde_grid):
        axes.plot(stats.kde_grid, stats.kde_density, color=BLUE, linewidth=1.4, label="density estimate (KDE)")
    # The unit of normalised sizes is too long to be said four times.
    after = f" {unit}" if len(unit) <= 3 else ""
    for value, name, colour, line in (
        (stats.arithmetic_mean, "mean", INK, "-"),
        (stats.median, "median", VERMILION, "--"),
        (stats.geometric_mean, "geometric mean", GREEN, "-."),
        (stats.kde_mode, "KDE peak", PURPLE, ":"),
    ):
        axes.axvline(value, color=colour, linestyle=line, linewidth=1.4, label=f"{name}  {value:.4g}{after}")
    ends = (*stats.bin_edges[[0, -1]], *(stats.kde_grid[[0, -1]] if len(stats.kde_grid) else ()))
    scale_sizes(axes, stats, low=float(min(ends)), high=float(max(ends)))
    if stats.scale in _STEP_OF:
        axes.set_ylabel(f"density per unit of {_STEP_OF[stats.scale]}", parse_math=False)
    else:
        axes.set_ylabel(f"density / (1/{unit})", parse_math=False)
    legend_below(axes, f"n = {stats.n:,}")
    return figure


def unit_text(unit: str) -> str:
    """Return ``unit`` as an axis shows it."""
    return "µm" if unit == MICROMETRE else text(unit)


def legend_below(axes: Axes, title: str) -> None:
    """Put the legend under the axes, where one column has room for it."""
    plain_legend(
        axes.legend(
            title=title,
            ncols=2,
            loc="upper center",
            bbox_to_anchor=(0.44, -0.2),
            borderaxespad=0,
            alignment="left",
            columnspacing=1.2,
        )
    )


def scale_sizes(axes: Axes, stats: OnScale, *, low: float, high: float) -> None:
    """Make the axis of sizes that of ``stats.scale``, from ``low`` to ``high``, and name it."""
    # The same few numbers before and after the layout, which makes room for them once only.
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    d = " d" if stats.scale in _STEP_OF else ""
    axes.set_xlabel(f"apparent diameter{d} / {unit_text(stats.unit)}", parse_math=False)
    if stats.scale in ("log", "log10"):
        axes.set_xscale("log")
        axes.set_xlim(low / 1.05, high * 1.05)
        # 1, 2, 5: sizes often span less than a decade, and one number on an axis is none.
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    elif stats.scale == "sqrt":
        axes.set_xscale("function", functions=(lambda size: np.sqrt(np.maximum(size, 0)), np.square))
        axes.set_xlim(max(low, 0), high * 1.03)
        axes.set_xticks(_sqrt_ticks(max(low, 0), high))
        axes.xaxis.set_major_formatter("{x:g}")
    else:
        axes.set_xlim(min(low, 0), high * 1.03)


def _sqrt_ticks(low: float, high: float) -> list[float]:
    """Return round numbers with room between them: even steps at the top, 1, 2 and 5 where those are too wide."""
    even = MaxNLocator(8).tick_values(low, high)
    decades = 10.0 ** np.arange(np.floor(np.log10(high)) - 2, np.floor(np.log10(high)) + 1)
    room = 0.1 * (np.sqrt(high) - np.sqrt(low))
    kept: list[float] = []
    for tick in np.unique([*even, *(decades * 1), *(decades * 2), *(decades * 5)])[::-1]:
        if low <= tick <= high * 1.03 and (not kept or np.sqrt(kept[-1]) - np.sqrt(tick) >= room):
            kept.append(float(tick))
    return kept[::-1]
