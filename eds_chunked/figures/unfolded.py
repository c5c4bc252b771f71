"""Spheres by diameter, as unfolded from sections, and their cumulated volume."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from eds_chunked.figures.distribution import unit_text
from eds_chunked.figures.style import BLUE, COLUMN_MM, FAINT, INK, new_figure, page_inches, plain_legend, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = np.ndarray[Any, Any]


class Unfolded(Protocol):
    """What is drawn of unfolded sizes: edges in ``unit``, per cent of spheres, cumulated per cent of volume."""

    @property
    def n(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def method(self) -> str: ...
    @property
    def edges(self) -> Floats: ...
    @property
    def frequencies(self) -> Floats: ...
    @property
    def volume_at(self) -> Floats: ...
    @property
    def volume(self) -> Floats: ...
    def volume_range(self, diameters: Floats) -> tuple[Floats, Floats]: ...


@styled
def draw_unfolded_sizes(
    unfolded: Unfolded, *, fitted: Callable[[Floats], Floats] | None = None, width_mm: float = COLUMN_MM
) -> Figure:
    """Draw spheres by diameter above, and below their cumulated volume with what other readings give.

    Parameters
    ----------
    unfolded
        What :func:`eds_chunked.saltykov` returns.
    fitted
        Density of spheres by number, per unit of diameter, to draw over the classes.
    width_mm
        Width of the figure on paper.

    Returns
    -------
    matplotlib.figure.Figure
        Two axes, one above the other, with the same diameters.

    Raises
    ------
    ParameterError
        ``width_mm`` is less than 80 or more than 500.
    """
    figure = new_figure(page_inches(width_mm), 4.0, what="Spheres", title=unfolded.title)
    above, below = figure.subplots(2, 1, sharex=True)
    edges = unfolded.edges
    above.bar(
        edges[:-1],
        unfolded.frequencies,
        width=np.diff(edges),
        align="edge",
        color=FAINT,
        edgecolor="white",
        linewidth=0.3,
        label=f"{len(unfolded.frequencies)} classes, {unfolded.method}",
    )
    if fitted is not None:
        fine = np.linspace(edges[-1] / 1000, edges[-1], 500)
        above.plot(fine, 100 * edges[1] * fitted(fine), color=BLUE, linewidth=1.4, label="log-normal fit")
    above.set_ylabel("spheres / %")
    plain_legend(above.legend(title=f"n = {unfolded.n:,}", alignment="left"))
    fine = np.linspace(0, edges[-1], 500)
    below.fill_between(fine, *unfolded.volume_range(fine), color=FAINT, alpha=0.6, linewidth=0, label="other readings")
    below.plot(unfolded.volume_at, unfolded.volume, color=INK, marker=".", label="volume up to the diameter")
    below.set_ylabel("cumulated volume / %")
    below.set_xlabel(f"diameter of spheres / {unit_text(unfolded.unit)}", parse_math=False)
    below.set_xlim(0, edges[-1])
    below.set_ylim(0, 103)
    plain_legend(below.legend(loc="lower right"))
    return figure
