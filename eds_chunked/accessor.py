"""``ds.eds``: the steps of the analysis as methods of an xarray Dataset."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import xarray as xr

from eds_chunked import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@xr.register_dataset_accessor("eds")
class EdsAccessor:
    """Shortcuts on a map: ``ds.eds.window(0.2, 12).eds.pca()``. Each calls the function of the same name."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def window(self, low: float, high: float) -> xr.Dataset:
        """Select energies from ``low`` to ``high`` keV; raises ParameterError outside the axis."""
        from eds_chunked.workflow import analysis_window

        return analysis_window(self._ds, (low, high))

    def pca(self, **options: Any) -> xr.Dataset:
        """See :func:`eds_chunked.pca`."""
        from eds_chunked.decomposition.principal import pca

        return pca(self._ds, **options)

    def nmf(self, **options: Any) -> xr.Dataset:
        """See :func:`eds_chunked.nmf`."""
        from eds_chunked.decomposition.nonnegative import nmf

        return nmf(self._ds, **options)

    def plot_sum_spectrum(self) -> Figure:
        """Draw the sum and maximum-pixel spectrum with the X-ray lines of the map's elements."""
        from eds_chunked.figures import draw_sum_spectrum

        return draw_sum_spectrum(self._ds)

    @property
    def pixel_size(self) -> tuple[float, float, str]:
        """Pixel height, pixel width and their unit."""
        return schema.pixel_size(self._ds)
