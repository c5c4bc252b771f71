"""The map as the detector saw it: the counts of each pixel."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eds_chunked.figures.maps import map_with_legend, show_map
from eds_chunked.figures.reading import block_means
from eds_chunked.figures.style import PAGE_MM, page_inches, styled
from eds_chunked.schema import TOTAL_COUNTS, require

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.figure import Figure

_TALLEST = 6.0
_BAR_INCHES = 0.65
_SHOWN = (0.005, 0.995)


@styled
def draw_counts_map(ds: xr.Dataset, *, width_mm: float = PAGE_MM) -> Figure:
    """Draw the total counts of the pixels of a map with a scale bar.

    Parameters
    ----------
    ds
        The map: ``total_counts`` (y, x). The scale ends at the 0.5 and 99.5 % quantiles of what is shown, so that
        single bright pixels do not darken the map.
    width_mm
        Largest width of the figure on paper.

    Raises
    ------
    ChunkLayoutError
        ``ds`` has no ``total_counts``, or with other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500.

    Notes
    -----
    Memory: of a map that is not in memory, a row of its chunks at a time, and a picture of at most 1500 x 1500 pixels.
    """
    require(ds, TOTAL_COUNTS)
    figure, axes = map_with_legend(
        ds, [], what="Counts", width=page_inches(width_mm), tallest=_TALLEST, beside=_BAR_INCHES
    )
    counts = block_means(ds[TOTAL_COUNTS])
    known = np.ma.compressed(counts)
    low, high = (float(end) for end in np.quantile(known, _SHOWN)) if known.size else (0.0, 1.0)
    drawn = show_map(axes, counts, ds=ds, cmap="cividis", vmin=low, vmax=max(high, low + 1.0))
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02, aspect=30)
    bar.outline.set_visible(False)
    bar.set_label("counts of a pixel")
    bar.ax.locator_params(nbins=5)
    return figure
