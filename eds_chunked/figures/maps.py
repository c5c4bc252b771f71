"""Maps on paper: in true proportions, with a scale bar, and a legend beside or under them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation

from eds_chunked.figures.reading import reduction
from eds_chunked.figures.style import INK, is_narrow, map_title, new_figure, plain_legend, words_inches
from eds_chunked.schema import MICROMETRE, X, Y, pixel_size

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

_HEADING_INCHES = 0.55
_ROW_INCHES = 0.15
_HANDLE_INCHES = 0.45
_UNDER_BAR_POINTS = 16

SCALE_BAR = "scale bar"


def proportions(ds: xr.Dataset) -> float:
    """Return height over width of the map of ``ds`` as drawn."""
    height, width, _ = pixel_size(ds)
    return height * ds.sizes[Y] / (width * ds.sizes[X])


def map_inches(ds: xr.Dataset, *, widest: float, tallest: float) -> tuple[float, float]:
    """Return width and height in inches of the map of ``ds`` within a box, its proportions kept."""
    ratio = proportions(ds)
    width = min(widest, tallest / ratio)
    return width, width * ratio


def show_map(
    axes: Axes,
    image: np.ndarray[Any, Any],
    *,
    ds: xr.Dataset,
    most: int | None = None,
    bar: bool = True,
    **style: Any,
) -> AxesImage:
    """Draw ``image``, the (reduced or enlarged) map of ``ds``, in the map's units from its upper left corner.

    It was reduced to ``most`` pixels a side; ``bar`` puts a scale bar under the map. ``style`` goes to
    :meth:`matplotlib.axes.Axes.imshow`.
    """
    height, width, unit = pixel_size(ds)
    rows, columns = ds.sizes[Y], ds.sizes[X]
    # A reduced image is padded to whole blocks: its extent may pass the map's edge, and the limits cut it there.
    n = reduction(ds, most)
    down, across = (n * image.shape[0], n * image.shape[1]) if n > 1 else (rows, columns)
    drawn = axes.imshow(image, extent=(0, across * width, down * height, 0), origin="upper", aspect="equal", **style)
    axes.set(xlim=(0, columns * width), ylim=(rows * height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    # A narrow map stands under the beginning of its title, which may be wider than the map, and a low one close to it.
    axes.set_anchor("NW")
    if bar:
        _add_scale_bar(axes, columns * width, unit=unit)
    return drawn


def area_of(colour: str, words: str) -> Patch:
    """Return the entry of a legend for pixels of ``colour``."""
    return Patch(facecolor=colour, edgecolor=INK, linewidth=0.3, label=words)


def map_with_legend(
    ds: xr.Dataset, entries: Sequence[Artist], *, what: str, width: float, tallest: float, beside: float = 0.0
) -> tuple[Figure, Axes]:
    """Return a figure of at most ``width`` inches for the map of ``ds``, and its axes, to which the legend is added.

    The legend stands beside the map where that leaves the map most of the width, and under it else. ``beside`` is room
    in inches for a colour bar, which sends the legend under the map too.
    """
    words = [str(entry.get_label()) for entry in entries]
    legend = (_HANDLE_INCHES + max(map(words_inches, words))) if entries else 0.0
    under = bool(entries) and (is_narrow(width) or beside > 0 or legend > 0.33 * width)
    free = width - 0.2 - beside - (0.0 if under else legend)
    columns = max(1, int((width - 0.2) / (legend + 0.1))) if under else 1
    rows = math.ceil(sum(1 + word.count("\n") for word in words) / columns)
    map_width, map_height = map_inches(ds, widest=free, tallest=tallest)
    used = width if under else min(width, max(3.2, map_width + width - free))
    # The layout comes out a few dots low beside a colour bar.
    height = _HEADING_INCHES + map_height + (0.15 + _ROW_INCHES * rows) * under + 0.12 * (beside > 0)
    figure = new_figure(used, max(height, 1.4, 0.4 + _ROW_INCHES * rows), what=what, title=map_title(ds))
    axes = figure.subplots()
    if under:
        place = axes.transAxes + ScaledTranslation(0, -_UNDER_BAR_POINTS / 72, figure.dpi_scale_trans)
        options: dict[str, Any] = {"bbox_to_anchor": (0.0, 0.0), "bbox_transform": place, "ncols": columns}
    else:
        options = {"bbox_to_anchor": (1.01, 1.0)}
    if entries:
        plain_legend(
            axes.legend(handles=list(entries), loc="upper left", borderaxespad=0, columnspacing=1.2, **options)
        )
    return figure, axes


def bar_length(extent: float) -> float:
    """Return the largest of 1, 2, 5 x 10^n that is at most a third of ``extent``."""
    decade = 10.0 ** math.floor(math.log10(extent / 3))
    return next(step * decade for step in (5, 2, 1) if step * decade <= extent / 3 * (1 + 1e-9))


def _add_scale_bar(axes: Axes, extent: float, *, unit: str) -> None:
    length = bar_length(extent)
    if unit != MICROMETRE:
        length = max(1.0, length)
    # Under the map, not on it: there it hides nothing and is black on white whatever the map's colours are.
    under = axes.get_xaxis_transform() + ScaledTranslation(0, -9 / 72, axes.figure.dpi_scale_trans)
    bar = Line2D([0, length], [0, 0], color=INK, linewidth=2.5, solid_capstyle="butt", transform=under, clip_on=False)
    bar.set_gid(SCALE_BAR)
    axes.add_artist(bar)
    axes.annotate(
        length_text(length, unit),
        (length, 0),
        xycoords=under,
        xytext=(4, 0),
        textcoords="offset points",
        va="center_baseline",
        fontsize=7,
        annotation_clip=False,
        parse_math=False,
        gid=SCALE_BAR,
    )


def length_text(length: float, unit: str) -> str:
    """Return a length with a unit that keeps its number short: ``200 nm``, ``50 µm``, ``2 mm``, ``20 pixels``."""
    if unit != MICROMETRE:
        return f"{length:g} {unit}" + ("s" if unit == "pixel" and length != 1 else "")
    for limit, factor, name in ((1.0, 1e3, "nm"), (1e3, 1.0, "µm")):
        if length < limit * (1 - 1e-9):
            return f"{length * factor:g} {name}"
    return f"{length / 1e3:g} mm"
