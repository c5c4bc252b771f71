"""The scree figure: how much variance each component explains, and where rules for their number draw the line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator, NullFormatter

from eds_chunked.figures.style import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    PAGE_MM,
    PURPLE,
    VERMILION,
    is_narrow,
    map_title,
    new_figure,
    page_inches,
    scale_by_tens,
    styled,
)
from eds_chunked.schema import EIGENVALUES, EXPLAINED_VARIANCE_RATIO, NOISE_RATIO, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

Floats = np.ndarray[Any, Any]

_SHOWN = 30


@styled
def draw_scree(
    pca: xr.Dataset,
    *,
    advised: int | None = None,
    elbow: int | None = None,
    critical_variance: float | None = None,
    width_mm: float = PAGE_MM,
) -> Figure:
    """Draw the explained variance ratio of the components on a linear and on a logarithmic axis.

    Parameters
    ----------
    pca
        ``explained_variance_ratio`` (component). With ``eigenvalues`` (rank) the logarithmic panel also shows, faint,
        those beyond the kept components; with ``noise_ratio`` (rank) both mark the edge of counting noise: components
        left of it have a ratio over 1.
    advised
        Number of components to mark as advised.
    elbow
        Components before the elbow, as :func:`eds_chunked.advise_components` finds it; the elbow is the one after them.
    critical_variance
        Ratio above which components were counted, drawn across.
    width_mm
        Width of the figure on paper; in one column the axes stand one under the other.

    Raises
    ------
    ChunkLayoutError
        ``pca`` has no ``explained_variance_ratio``, or with other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500.

    References
    ----------
    Keenan and Kotula (2004), Surf. Interface Anal. 36, 203; Cattell (1966), Multivar. Behav. Res. 1, 245; Satopaa et
    al. (2011), ICDCS Workshops, 166.
    """
    require(pca, EXPLAINED_VARIANCE_RATIO)
    ratio = pca[EXPLAINED_VARIANCE_RATIO].values[:_SHOWN]
    rank = np.arange(1, len(ratio) + 1)
    width = page_inches(width_mm)
    narrow = is_narrow(width)
    figure = new_figure(width, 4.8 if narrow else 2.9, what="Scree", title=map_title(pca))
    linear, logarithmic = panels = figure.subplots(*((2, 1) if narrow else (1, 2)))
    for axes in panels:
        others: tuple[Floats, Floats] = (np.zeros(0), np.zeros(0))
        if EIGENVALUES in pca:
            others = _other_eigenvalues(pca[EIGENVALUES].values, ratio)
            axes.plot(*others, color=FAINT, marker=".", markersize=2, label="all other eigenvalues")
        axes.plot(rank, ratio, color=INK, marker="o", markersize=3, label="components")
        if NOISE_RATIO in pca:
            edge = int(np.count_nonzero(pca[NOISE_RATIO].values > 1))
            axes.axvline(edge + 0.5, color=VERMILION, linestyle="--", label=f"noise edge: {edge} above")
        known = dict(zip([*rank, *others[0]], [*ratio, *others[1]], strict=True))
        if advised in known:
            axes.plot(advised, known[advised], "o", label=f"advised: {advised}", **_open_marker(BLUE))
        if elbow is not None and elbow + 1 in known:
            axes.plot(
                elbow + 1, known[elbow + 1], "D", label=f"elbow: {elbow} before it", **_open_marker(GREEN, size=7)
            )
        if critical_variance is not None:
            above = sum(value > critical_variance for value in known.values())
            axes.axhline(
                critical_variance, color=PURPLE, linestyle=":", linewidth=1.2,
                label=f"critical ratio {critical_variance:.3g}: {above} above",
            )  # fmt: skip
        axes.set_xlabel("component")
    linear.set(ylabel="explained variance ratio", title="linear", xlim=(0, max(20, len(ratio)) + 1))
    linear.set_ylim(bottom=0)
    linear.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    logarithmic.set(title="logarithmic", xscale="log")
    scale_by_tens(logarithmic)
    logarithmic.xaxis.set_major_formatter("{x:g}")
    logarithmic.xaxis.set_minor_formatter(NullFormatter())
    # The curve falls away from this corner, only the noise edge may cross it: hence the frame.
    linear.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="none")
    return figure


def _open_marker(colour: str, size: float = 9) -> dict[str, Any]:
    return {
        "markersize": size,
        "markerfacecolor": "none",
        "markeredgecolor": colour,
        "markeredgewidth": 1.4,
        "clip_on": False,
    }


def _other_eigenvalues(eigenvalues: Floats, ratio: Floats) -> tuple[Floats, Floats]:
    """Return rank and ratio of the eigenvalues (rank,) beyond those of the components, whose ratio (component,) is."""
    first = eigenvalues[0] if eigenvalues.size else 0.0
    # Numerical zeros (empty channels) say nothing, and would stretch the axis to 1e-17.
    beyond = np.flatnonzero(eigenvalues > 1e-9 * first)[len(ratio) :]
    return beyond + 1, eigenvalues[beyond] * (ratio[0] / first if len(beyond) else 0.0)
