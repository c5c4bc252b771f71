"""``ds.eds``: the steps of the analysis as methods of an xarray Dataset."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import xarray as xr

from eds_chunked import schema

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@xr.register_dataset_accessor("eds")  # type: ignore[no-untyped-call]
class EdsAccessor:
    """Shortcuts on a map: ``ds.eds.window(0.2, 12).eds.pca()``. Each calls the function of the same name."""

    def __init__(self, ds: xr.Dataset) -> None:
        self._ds = ds

    def window(self, low: float | None = None, high: float | None = None) -> xr.Dataset:
        """Select the energies to analyse, in keV; by default from 0.2 keV to the beam energy where that is known.

        Raises
        ------
        ParameterError
            The window is empty or lies outside the axis.
        """
        from eds_chunked.workflow import analysis_window

        if low is None and high is None:
            return analysis_window(self._ds)
        return analysis_window(self._ds, (-math.inf if low is None else low, math.inf if high is None else high))

    def exclude(self, **what: Any) -> xr.Dataset:
        """See :func:`eds_chunked.exclude`."""
        from eds_chunked.engine.exclusion import exclude

        return exclude(self._ds, **what)

    def rebin(self, *, y: int = 1, x: int = 1, energy: int = 1) -> xr.Dataset:
        """See :func:`eds_chunked.rebin`."""
        from eds_chunked.engine.binning import rebin

        return rebin(self._ds, y=y, x=x, energy=energy)

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
