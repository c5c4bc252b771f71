"""Sizes weighted by area, and sizes against those of a log-normal population."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter

from eds_chunked.figures.distribution import TALL, OnScale, legend_below, scale_sizes, unit_text
from eds_chunked.figures.style import BLUE, COLUMN_MM, INK, VERMILION, new_figure, page_inches, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = np.ndarray[Any, Any]

_AREA = "#8fb8d8"
_MANY = 200


class AreaStatistics(OnScale, Protocol):
    """What is drawn of sizes weighted by area: edges in ``unit``, and each class's share of the area."""

    @property
    def bin_edges(self) -> Floats: ...
    @property
    def bin_area(self) -> Floats: ...
    @property
    def arithmetic_mean(self) -> float: ...
    @property
    def area_weighted_mean(self) -> float: ...


class LogNormalTest(Protocol):
    """A test of log-normality by name; NaN where it could not be made."""

    @property
    def test(self) -> str: ...
    @property
    def statistic(self) -> float: ...
    @property
    def p_value(self) -> float: ...


class QuantileStatistics(OnScale, Protocol):
    """What is drawn against log-normal quantiles: sizes in ascending order, and where normal ones would be."""

    @property
    def values(self) -> Floats: ...
    @property
    def normal_quantiles(self) -> Floats: ...
    @property
    def geometric_mean(self) -> float: ...
    @property
    def multiplicative_sd(self) -> float: ...
    @property
    def log_normality(self) -> LogNormalTest: ...


@styled
def draw_area_weighted_sizes(stats: AreaStatistics, *, width_mm: float = COLUMN_MM) -> Figure:
    """Draw the share of the grains' area that each class of sizes has, which shows coarse grains.

    Parameters
    ----------
    stats
        What :func:`eds_chunked.grain_size_statistics` returns.
    width_mm
        Width of the figure on paper.

    Returns
    -------
    matplotlib.figure.Figure
        One axes, with the mean by number and by area in the legend.

    Raises
    ------
    ParameterError
        ``width_mm`` is less than 80 or more than 500.
    """
    figure = new_figure(page_inches(width_mm), TALL - 0.2, what="Sizes by area", title=stats.title)
    axes = figure.subplots()
    unit = unit_text(stats.unit)
    edges = stats.bin_edges
    axes.bar(
        edges[:-1],
        100 * stats.bin_area,
        width=np.diff(edges),
        align="edge",
        color=_AREA,
        edgecolor="white",
        linewidth=0.3,
        label=f"area, {len(stats.bin_area)} classes",
    )
    after = f" {unit}" if len(unit) <= 3 else ""
    for value, name, colour, line in (
        (stats.arithmetic_mean, "mean by number", INK, "-"),
        (stats.area_weighted_mean, "mean by area", VERMILION, "--"),
    ):
        axes.axvline(value, color=colour, linestyle=line, linewidth=1.2, label=f"{name}  {value:.4g}{after}")
    scale_sizes(axes, stats, low=float(edges[0]), high=float(edges[-1]))
    axes.set_ylabel("share of the grains' area / %")
    legend_below(axes, f"n = {stats.n:,}")
    return figure


@styled
def draw_size_quantiles(stats: QuantileStatistics, *, width_mm: float = COLUMN_MM) -> Figure:
    """Draw sizes against the quantiles of a normal population: those of a log-normal one lie on the line.

    Parameters
    ----------
    stats
        What :func:`eds_chunked.grain_size_statistics` returns. The axis of sizes is logarithmic on every ``scale``.
    width_mm
        Width of the figure on paper.

    Returns
    -------
    matplotlib.figure.Figure
        One axes; the line has the sample's geometric mean and multiplicative SD, the legend has the test.

    Raises
    ------
    ParameterError
        ``width_mm`` is less than 80 or more than 500.
    """
    figure = new_figure(page_inches(width_mm), TALL - 0.2, what="Log-normal quantiles", title=stats.title)
    axes = figure.subplots()
    at = stats.normal_quantiles
    ends = at[[0, -1]]
    size = 3 if stats.n > _MANY else 6
    axes.plot(at, stats.values, ".", color=BLUE, markersize=size, markeredgewidth=0, label="grains", rasterized=True)
    axes.plot(ends, stats.geometric_mean * stats.multiplicative_sd**ends, color=INK, linewidth=1.0, label="log-normal")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(stats.values[0] / 1.15, stats.values[-1] * 1.15)
    axes.set_xlabel("standard normal quantile")
    axes.set_ylabel(f"apparent diameter / {unit_text(stats.unit)}", parse_math=False)
    test = stats.log_normality
    said = f"{test.test}: {test.statistic:.4g}, p = {test.p_value:.2g}" if np.isfinite(test.p_value) else "all alike"
    legend_below(axes, f"n = {stats.n:,}\n{said}")
    return figure
