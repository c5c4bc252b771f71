"""``ds.eds``: the steps of the analysis as methods of an xarray Dataset."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import xarray as xr

from eds_chunked import schema
from eds_chunked.memory import format_size
from eds_chunked.store.backend import exists
from eds_chunked.store.layout import group_document
from eds_chunked.store.results import revisions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from eds_chunked.explorer import ComponentExplorer, MapExplorer


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

    def plot_components(self, **options: Any) -> Figure:
        """Draw the components of a PCA or NMF: see :func:`eds_chunked.figures.draw_components`."""
        from eds_chunked.figures import draw_components

        return draw_components(self._ds, **options)

    def plot_phases(self, **options: Any) -> Figure:
        """Draw the phase map: see :func:`eds_chunked.figures.draw_phase_map`."""
        from eds_chunked.figures import draw_phase_map

        return draw_phase_map(self._ds, **options)

    def plot_spectra(self, **options: Any) -> Figure:
        """Draw the spectra of phases: see :func:`eds_chunked.figures.draw_phase_spectra`."""
        from eds_chunked.figures import draw_phase_spectra

        return draw_phase_spectra(self._ds, **options)

    def explore(self, *, image: xr.DataArray | None = None) -> MapExplorer:
        """Click on the map and see spectra: see :func:`eds_chunked.explorer.explore`."""
        from eds_chunked.explorer import explore

        return explore(self._ds, image=image)

    def explore_components(self) -> ComponentExplorer:
        """Leaf through components: see :func:`eds_chunked.explorer.explore_components`."""
        from eds_chunked.explorer import explore_components

        return explore_components(self._ds)

    def __repr__(self) -> str:
        facts = self._facts()
        room = max(map(len, facts))
        return "\n".join(["eds_chunked", *(f"  {name:<{room}}  {value}" for name, value in facts.items())])

    def _repr_html_(self) -> str:
        from html import escape

        rows = "".join(
            f"<tr><th scope='row' style='text-align:left'>{escape(name)}</th>"
            f"<td style='text-align:left'>{escape(value)}</td></tr>"
            for name, value in self._facts().items()
        )
        return f"<table><caption>eds_chunked</caption>{rows}</table>"

    def _facts(self) -> dict[str, str]:
        """Say what this is and what is stored of it, without reading counts."""
        ds = self._ds
        height, width, unit = schema.pixel_size(ds)
        facts = {"title": schema.text(ds.attrs.get(schema.TITLE, "")) or "-", "pixel": f"{height:g} x {width:g} {unit}"}
        if schema.ENERGY in ds.coords and ds.sizes[schema.ENERGY]:
            energy = ds[schema.ENERGY]
            ends = f"{float(energy[0]):.4g} to {float(energy[-1]):.4g} {energy.attrs.get('units', schema.KEV)}"
            facts["energy"] = f"{energy.size} channels, {ends}"
        for name, variable in ds.data_vars.items():
            if name in schema.VARIABLES:
                facts[str(name)] = _described(variable)
        return facts | _in_store(ds.encoding.get("source"))

    @property
    def pixel_size(self) -> tuple[float, float, str]:
        """Pixel height, pixel width and their unit."""
        return schema.pixel_size(self._ds)


def _described(variable: xr.DataArray) -> str:
    sizes = " x ".join(map(str, variable.shape)) or "1"
    said = f"({', '.join(map(str, variable.dims))}) {sizes} {variable.dtype}, {format_size(variable.nbytes)}"
    chunks = variable.chunks
    if chunks is None:
        rows = variable.encoding.get("preferred_chunks", {}).get(schema.Y)
        if rows is None:
            return said
        n_bytes = rows * variable.nbytes // max(1, variable.sizes[schema.Y])
        return f"{said}; of a file, with chunks={{}} read by {rows} rows ({format_size(n_bytes)})"
    largest = [max(sizes) for sizes in chunks]
    n_bytes = math.prod(largest) * variable.dtype.itemsize
    shape, n = " x ".join(map(str, largest)), math.prod(map(len, chunks))
    return f"{said}; lazy, {n:,} chunk{'s' * (n > 1)} of {shape} ({format_size(n_bytes)})"


def _in_store(source: object) -> dict[str, str]:
    """Say where a map is stored, and the results that are stored with it."""
    if not isinstance(source, str) or not exists(source, group_document(schema.MAP_GROUP)):
        return {}
    results = ", ".join(revision.address for revision in revisions(source))
    return {"store": source, "results": results or "none yet"}
