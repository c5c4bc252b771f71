"""Maps to click on: the spectrum under the pointer, and components one after the other.

With matplotlib alone, so that the same works in Jupyter (``%matplotlib widget``) and in a window.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.widgets import RectangleSelector, Slider

from eds_chunked.errors import ParameterError
from eds_chunked.figures.components import colour_scale
from eds_chunked.figures.maps import show_map
from eds_chunked.figures.reading import block_means
from eds_chunked.figures.spectra import elements_of, energy_label, energy_window
from eds_chunked.figures.style import INK, VERMILION, StyledFigure, map_title, scale_by_tens, short, styled
from eds_chunked.figures.xray_lines import label_lines
from eds_chunked.schema import COMPONENT, COUNTS, ENERGY, FACTORS, LOADINGS, TOTAL_COUNTS, X, Y, pixel_size, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.backend_bases import KeyEvent, MouseEvent

_INCHES = (9.0, 3.9)
_DPI = 110
_LABELS = 6
_SPECTRUM_INCHES = 5.0


class MapExplorer:
    """A map beside the spectrum of the pixel that was clicked, or the summed spectrum of the box that was dragged.

    Arrow keys move to the next pixel. ``spectrum`` (energy,) is what is shown, ``window`` the rows and columns that it
    is the sum of. Keep the object as long as the figure is used.
    """

    @styled
    def __init__(self, ds: xr.Dataset, image: xr.DataArray) -> None:
        self._ds = ds
        self._size = pixel_size(ds)[:2]
        self.figure = plt.figure(figsize=_INCHES, dpi=_DPI, layout="constrained", FigureClass=StyledFigure)
        left, self._axes = self.figure.subplots(1, 2, width_ratios=(2, 3))
        shown = block_means(image)
        show_map(left, shown, ds=ds, cmap="cividis")
        left.set_title(short(map_title(ds) or "map", 40), parse_math=False)
        self._box = left.add_patch(Rectangle((0, 0), 1, 1, fill=False, edgecolor=VERMILION, linewidth=1.5))
        scale_by_tens(self._axes)
        energy = ds[ENERGY].values
        (self._line,) = self._axes.plot(energy, np.ones(energy.size), color=INK, drawstyle="steps-mid", linewidth=0.7)
        self._axes.set(xlabel=energy_label(ds), ylabel="counts")
        self._map = left
        self._selector = RectangleSelector(left, self._dragged, useblit=False, minspanx=1e-9, minspany=1e-9)
        self.figure.canvas.mpl_connect("button_release_event", self._released)
        self.figure.canvas.mpl_connect("button_press_event", self._pressed)
        self.figure.canvas.mpl_connect("key_press_event", self._key)
        self._from: tuple[int, int] | None = None
        brightest = np.unravel_index(int(np.ma.argmax(shown)), shown.shape)
        by = [-(-ds.sizes[axis] // n) for axis, n in zip((Y, X), shown.shape, strict=True)]
        self.show(*(slice(int(i) * n, int(i) * n + 1) for i, n in zip(brightest, by, strict=True)))

    @styled
    def show(self, ys: slice, xs: slice) -> None:
        """Show the sum of a window of the map; only its tiles are read."""
        self.window = ys, xs
        counts = self._ds[COUNTS].isel({Y: ys, X: xs})
        self.spectrum = counts.sum((Y, X), dtype=np.uint64).compute(scheduler="threads").values
        height, width = self._size
        self._box.set_bounds(xs.start * width, ys.start * height, (xs.stop - xs.start) * width,
                             (ys.stop - ys.start) * height)  # fmt: skip
        for old in [*self._axes.texts, *self._axes.lines[1:], *self._axes.collections]:
            old.remove()
        self._line.set_ydata(np.maximum(self.spectrum.astype(np.float64), 0.7))
        self._axes.set_ylim(0.7, max(20.0, 3.0 * float(self.spectrum.max(initial=0))))
        self._axes.set_xlim(energy_window(self._ds, self.spectrum))
        label_lines(
            self._axes,
            elements=elements_of(self._ds),
            energy=self._ds[ENERGY].values,
            height=self.spectrum.astype(np.float64),
            inches=_SPECTRUM_INCHES,
            most=_LABELS,
        )
        n = (ys.stop - ys.start) * (xs.stop - xs.start)
        where = f"pixel y {ys.start}, x {xs.start}"
        where = where if n == 1 else f"y {ys.start}:{ys.stop}, x {xs.start}:{xs.stop} ({n:,} pixels)"
        # In the panel: over it stand the labels of the lines.
        said = f"{where}: {int(self.spectrum.sum()):,} counts"
        self._axes.text(0.99, 0.97, said, transform=self._axes.transAxes, ha="right", va="top", fontweight="bold")
        self.figure.canvas.draw_idle()

    def _pixel(self, event: MouseEvent | KeyEvent) -> tuple[int, int] | None:
        if event.inaxes is not self._map or event.xdata is None or event.ydata is None:
            return None
        row, column = int(event.ydata / self._size[0]), int(event.xdata / self._size[1])
        return min(max(row, 0), self._ds.sizes[Y] - 1), min(max(column, 0), self._ds.sizes[X] - 1)

    def _pressed(self, event: MouseEvent) -> None:
        # While the toolbar zooms or pans, clicks are its own.
        self._from = None if self.figure.canvas.widgetlock.locked() or event.button != 1 else self._pixel(event)

    def _released(self, event: MouseEvent) -> None:
        pixel = self._pixel(event)
        if pixel is not None and pixel == self._from:
            self.show(slice(pixel[0], pixel[0] + 1), slice(pixel[1], pixel[1] + 1))

    def _dragged(self, press: MouseEvent, release: MouseEvent) -> None:
        first, last = self._pixel(press), self._pixel(release)
        self._selector.set_visible(False)
        if first is None or last is None or first == last:
            return
        ys, xs = (slice(min(ends), max(ends) + 1) for ends in zip(first, last, strict=True))
        self.show(ys, xs)

    def _key(self, event: KeyEvent) -> None:
        step = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}.get(str(event.key))
        if step is None:
            return
        at = (window.start + by for window, by in zip(self.window, step, strict=True))
        y, x = (min(max(place, 0), self._ds.sizes[axis] - 1) for place, axis in zip(at, (Y, X), strict=True))
        self.show(slice(y, y + 1), slice(x, x + 1))


class ComponentExplorer:
    """The map and the spectrum of one component, with a slider; the arrow keys go to the next and the one before.

    ``component`` is the number that is shown, from 1 on. Keep the object as long as the figure is used.
    """

    @styled
    def __init__(self, result: xr.Dataset) -> None:
        self._result = result
        self.figure = plt.figure(figsize=_INCHES, dpi=_DPI, layout="constrained", FigureClass=StyledFigure)
        panels = self.figure.subplot_mosaic("ms;bb", width_ratios=(2, 3), height_ratios=(12, 1))
        self._map, self._spectrum = panels["m"], panels["s"]
        n = result.sizes[COMPONENT]
        self._slider = Slider(panels["b"], "component", 1, max(n, 2), valinit=1, valstep=1, valfmt=f"%d of {n}")
        self._slider.on_changed(lambda number: self._show(int(number)))
        self.figure.canvas.mpl_connect("key_press_event", self._key)
        self._show(1)

    @styled
    def _show(self, number: int) -> None:
        result = self._result
        self.component = number = min(number, result.sizes[COMPONENT])
        image = block_means(result[LOADINGS].isel({COMPONENT: number - 1}))
        factor = result[FACTORS].values[number - 1]
        self._map.clear()
        self._spectrum.clear()
        show_map(self._map, image, ds=result, **colour_scale(image))
        self._map.set_title(f"component {number}", fontweight="bold")
        self._spectrum.plot(result[ENERGY].values, factor, color=INK, linewidth=0.7)
        self._spectrum.axhline(0, color=INK, linewidth=0.4)
        self._spectrum.set(xlabel=energy_label(result), ylabel="factor", xlim=energy_window(result, np.abs(factor)))
        label_lines(
            self._spectrum,
            elements=elements_of(result),
            energy=result[ENERGY].values,
            height=np.abs(factor),
            inches=_SPECTRUM_INCHES,
            most=_LABELS,
        )
        self.figure.canvas.draw_idle()

    def _key(self, event: KeyEvent) -> None:
        step = {"right": 1, "left": -1}.get(str(event.key), 0)
        number = self.component + step
        if step and 1 <= number <= self._result.sizes[COMPONENT]:
            self._slider.set_val(number)


def explore(ds: xr.Dataset, *, image: xr.DataArray | None = None) -> MapExplorer:
    """Show a map to click on, beside the spectrum of what was clicked; computes the counts of that alone.

    Parameters
    ----------
    ds
        The map.
    image
        What is shown as the map (y, x): its total counts by default, which a file that was not converted has not.

    Raises
    ------
    ChunkLayoutError
        ``ds`` has no counts, or no total counts where no image is given.
    ParameterError
        The image is of another size.

    Notes
    -----
    Memory: a tile for a click, what is dragged for a box; a picture of at most 1500 x 1500 pixels.
    """
    require(ds, COUNTS, *([TOTAL_COUNTS] if image is None else []))
    if image is None:
        image = ds[TOTAL_COUNTS]
    shape = {axis: ds.sizes[axis] for axis in (Y, X)}
    if dict(image.sizes) != shape:
        raise ParameterError("image", found=dict(image.sizes), expected=shape, fix="an image of the same map")
    return MapExplorer(ds, image)


def explore_components(result: xr.Dataset) -> ComponentExplorer:
    """Show the components of a PCA or NMF one after the other: map and spectrum, by a slider or the arrow keys.

    Parameters
    ----------
    result
        ``factors`` (component, energy) and ``loadings`` (component, y, x).

    Raises
    ------
    ChunkLayoutError
        ``result`` lacks a variable or has other dimensions.

    Notes
    -----
    Memory: as that of :func:`eds_chunked.figures.draw_components`, of one component.
    """
    require(result, FACTORS, LOADINGS)
    return ComponentExplorer(result)


__all__ = ["ComponentExplorer", "MapExplorer", "explore", "explore_components"]
