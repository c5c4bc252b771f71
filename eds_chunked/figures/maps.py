"""Maps on paper: reduced to what a page can show, in true proportions, with a scale bar."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from eds_chunked.figures.style import INK
from eds_chunked.schema import MICROMETRE, X, Y, pixel_size

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

MOST_PIXELS = 1500
"""A map is drawn with at most this many pixels along its longer side."""

SCALE_BAR = "scale bar"


def reduction(shown: xr.DataArray | xr.Dataset) -> int:
    """Return by how much a map (y, x) is reduced along each axis before it is drawn."""
    return math.ceil(max(shown.sizes[Y], shown.sizes[X]) / MOST_PIXELS)


def every_nth(labels: xr.DataArray) -> np.ndarray[Any, Any]:
    """Return labels (y, x) for display: every n-th pixel, since labels have no mean."""
    n = reduction(labels)
    return np.asarray(labels.isel({Y: slice(None, None, n), X: slice(None, None, n)}).values)


def block_means(values: xr.DataArray) -> np.ndarray[Any, Any]:
    """Return values (y, x) for display: means over blocks, masked where there is nothing finite."""
    n = reduction(values)
    if n > 1:
        # The last blocks are padded with NaN and their means skip it, so no row or column is lost.
        values = values.coarsen({Y: n, X: n}, boundary="pad").mean()
    return np.ma.masked_invalid(values.values)


def proportions(ds: xr.Dataset) -> float:
    """Return height over width of the map of ``ds`` as drawn."""
    height, width, _ = pixel_size(ds)
    return height * ds.sizes[Y] / (width * ds.sizes[X])


def map_inches(ds: xr.Dataset, *, widest: float, tallest: float) -> tuple[float, float]:
    """Return width and height in inches of the map of ``ds`` within a box, its proportions kept."""
    ratio = proportions(ds)
    width = min(widest, tallest / ratio)
    return width, width * ratio


def show_map(axes: Axes, image: np.ndarray[Any, Any], *, ds: xr.Dataset, bar: bool = True, **style: Any) -> AxesImage:
    """Draw ``image``, the (reduced or enlarged) map of ``ds``, in the map's units from its upper left corner.

    ``style`` goes to :meth:`matplotlib.axes.Axes.imshow`; ``bar`` puts a scale bar under the map.
    """
    height, width, unit = pixel_size(ds)
    rows, columns = ds.sizes[Y], ds.sizes[X]
    # A reduced image is padded to whole blocks: its extent may pass the map's edge, and the limits cut it there.
    n = reduction(ds)
    down, across = (n * image.shape[0], n * image.shape[1]) if n > 1 else (rows, columns)
    drawn = axes.imshow(image, extent=(0, across * width, down * height, 0), origin="upper", aspect="equal", **style)
    axes.set(xlim=(0, columns * width), ylim=(rows * height, 0), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    # A narrow map stands under the beginning of its title, which may be wider than the map.
    axes.set_anchor("W")
    if bar:
        _add_scale_bar(axes, columns * width, unit=unit)
    return drawn


def bar_length(extent: float) -> float:
    """Return the largest of 1, 2, 5 x 10^n that is at most a third of ``extent``."""
    decade = 10.0 ** math.floor(math.log10(extent / 3))
    return next(step * decade for step in (5, 2, 1) if step * decade <= extent / 3 * (1 + 1e-9))


def _add_scale_bar(axes: Axes, extent: float, *, unit: str) -> None:
    length = bar_length(extent)
    if unit != MICROMETRE:
        length = max(1.0, length)
    # Under the map, not on it: there it hides nothing and is black on white whatever the map's colours are.
    under = axes.get_xaxis_transform() + ScaledTranslation(0, -7 / 72, axes.figure.dpi_scale_trans)
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
