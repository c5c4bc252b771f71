"""The whole way from a microscope's file to phases, spectra and grain sizes, and each step of it on a store.

A step reads from the store what the step before saved there, and saves its own result as a new revision.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import dask
import numpy as np
import pandas as pd
import xarray as xr

from eds_chunked import memory as budget
from eds_chunked import schema
from eds_chunked.decomposition.advice import ComponentAdvice, advise_components
from eds_chunked.decomposition.exact import exact_need
from eds_chunked.decomposition.low_rank import reconstruct
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.engine.blocks import Blocks
from eds_chunked.errors import ParameterError, StoreExistsError
from eds_chunked.grains.split import separate_grains
from eds_chunked.grains.statistics import compare_phases
from eds_chunked.phases.modal import modal_table
from eds_chunked.phases.segment import segment_phases
from eds_chunked.phases.sums import phase_spectra
from eds_chunked.readers import open_source
from eds_chunked.readers.base import MapHeader, Reader
from eds_chunked.report.assemble import results_need, write_results
from eds_chunked.store.backend import (
    HeldBackStore,
    Location,
    delete_dir,
    is_remote,
    list_dir,
    location_text,
    zarr_store,
)
from eds_chunked.store.calibration import calibrate
from eds_chunked.store.conversion import convert
from eds_chunked.store.layout import ROOT_DOCUMENT, tile_shape
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load_fresh, save
from eds_chunked.store.source import CountsSource

Window = tuple[float, float]

LOWEST_ENERGY = 0.2
"""keV. Below lie the zero (strobe) peak and electronic noise, which are the same in every mineral."""


def analysis_window(ds: xr.Dataset, energy: Window | None = None) -> xr.Dataset:
    """Select the channels to analyse: ``energy`` in keV, or from 0.2 keV to the beam energy where that is known.

    Raises
    ------
    ParameterError
        The window is empty or lies outside the axis.
    """
    axis = ds[schema.ENERGY]
    if energy is None:
        if axis.attrs.get("units") != schema.KEV:
            return ds
        energy = (LOWEST_ENERGY, float(ds.attrs.get(schema.BEAM_ENERGY) or np.inf))
    _check_window(energy, float(axis[0]), float(axis[-1]), str(axis.attrs.get("units", "")))
    return ds.sel({schema.ENERGY: slice(*energy)})


def _check_window(window: Window, first: float, last: float, unit: str) -> None:
    low, high = window
    if not low < high or high < first or low > last:
        raise ParameterError(
            "energy window",
            found=f"{low:g} to {high:g}",
            expected=f"a part of {first:.4g} to {last:.4g} {unit}",
            fix="--energy 0.2:12",
        )


def pca_step(
    store: Location,
    *,
    energy: Window | None = None,
    n_components: int = 20,
    memory: str | int | None = None,
    **options: Any,
) -> str:
    """Run PCA on the map of a store and save it; returns the address of the result."""
    ds = analysis_window(open_map(store), energy)
    return save(pca(ds, n_components=n_components, memory=memory, **options), store)


def nmf_step(
    store: Location,
    *,
    energy: Window | None = None,
    n_components: int | None = None,
    memory: str | int | None = None,
    **options: Any,
) -> str:
    """Run NMF on the map of a store and save it; without ``n_components`` the saved PCA advises them."""
    if n_components is None:
        n_components = advise_components(load_fresh(store, schema.PCA)).n_components
    ds = analysis_window(open_map(store), energy)
    return save(nmf(ds, n_components=n_components, memory=memory, **options), store)


def phases_step(store: Location, *, parent: str = schema.NMF, name: str | None = None, **options: Any) -> str:
    """Segment the phases of a saved NMF and save them."""
    return save(segment_phases(load_fresh(store, parent), **options), store, name=name)


def spectra_step(
    store: Location,
    *,
    parent: str = schema.PHASES,
    name: str | None = None,
    memory: str | int | None = None,
    **options: Any,
) -> str:
    """Sum the spectra of saved phases, over all channels of the map, and save them."""
    spectra = phase_spectra(open_map(store), phases=load_fresh(store, parent), memory=memory, **options)
    return save(spectra, store, name=name)


def model_step(
    store: Location,
    target: Location,
    *,
    parent: str = schema.NMF,
    components: Sequence[int] | None = None,
    memory: str | int | None = None,
) -> tuple[int, ...]:
    """Write the low-rank model of a saved result as a Zarr store of its own; returns its shape (y, x, energy).

    It is there when it is whole: its group is written last.
    """
    text = location_text(target)
    if list_dir(target, "") or os.path.isfile(text):
        raise StoreExistsError(f"model {text}", found="something there", expected="a new place", fix="choose another")
    lazy = reconstruct(load_fresh(store, parent), components=components).to_dataset()
    tile = 4 * math.prod(lazy[schema.MODEL].data.chunksize)
    how = budget.plan(budget.Need("model", 0, 4 * tile), memory=memory)
    held = HeldBackStore(zarr_store(target), ROOT_DOCUMENT)
    try:
        with dask.config.set(scheduler="threads", num_workers=how.workers):
            lazy.to_zarr(held, mode="a", consolidated=False)
    except BaseException:
        delete_dir(target, "")
        raise
    held.commit()
    return tuple(lazy[schema.MODEL].shape)


def grains_step(store: Location, *, parent: str = schema.PHASES, name: str | None = None, **options: Any) -> str:
    """Separate the grains of saved phases and save them."""
    return save(separate_grains(load_fresh(store, parent), **options), store, name=name)


@dataclass(frozen=True)
class RunSummary:
    """What :func:`run` made."""

    store: str
    folder: Path
    report: Path
    advice: ComponentAdvice | None
    addresses: tuple[str, ...]
    modal: pd.DataFrame
    grain_sizes: pd.DataFrame
    files: tuple[Path, ...]
    seconds: dict[str, float] = field(repr=False)
    peak_bytes: int = 0


def run(
    source: Location | Reader,
    store: Location,
    *,
    folder: str | os.PathLike[str] | None = None,
    pick: str | int | None = None,
    calibration: Mapping[str, Any] | None = None,
    energy: Window | None = None,
    n_components: int = 20,
    n_phases: int | None = None,
    min_size: int | None = None,
    memory: str | int | None = None,
    overwrite: bool = False,
) -> RunSummary:
    """Take a map through the whole workflow; computes.

    Convert, calibrate, PCA, number of components, NMF, phases, phase spectra, grains, grain sizes, figures, report.
    Every result is saved in the store, so each step can be run again alone with other parameters.

    Parameters
    ----------
    source
        The microscope's file, or a reader.
    store
        Path or URL of the Zarr store to make.
    folder
        Where pictures and tables go; default: ``<store>-results`` beside the store, or in the working folder if the
        store is behind a URL.
    pick
        The spectrum image, for files with several.
    calibration
        Arguments of :func:`eds_chunked.calibrate`, to correct what the file says.
    energy
        Window of the analysis in keV; default: 0.2 keV to the beam energy.
    n_components
        Principal components to keep; fewer where the map cannot have as many.
    n_phases
        Number of phases (NMF components); default: as the PCA advises.
    min_size
        Pixels that an object, a hole or a grain needs to stay; default: 100, or a thousandth of a small map.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.
    overwrite
        Replace an existing store.

    Returns
    -------
    RunSummary
    """
    text = location_text(store)
    target = results_folder(text) if folder is None else Path(folder)
    reader = source
    if isinstance(reader, str | os.PathLike):
        reader = open_source(Path(reader), pick=pick, memory=memory)
    moves_axis = calibration is not None and not calibration.keys().isdisjoint(_MOVES_THE_AXIS)
    _check_early(reader.header, n_phases=n_phases, energy=None if moves_axis else energy, memory=memory)
    clock = _Clock()
    budget.return_freed_memory_to_the_system()
    ds = convert(reader, store, memory=memory, overwrite=overwrite)
    clock.lap("convert")
    if calibration:
        ds = calibrate(store, **calibration)
        clock.lap("calibrate")
    window = analysis_window(ds, energy)
    most = min(window.sizes[schema.ENERGY], window.sizes[schema.Y] * window.sizes[schema.X])
    addresses = [pca_step(store, energy=energy, n_components=min(n_components, most), memory=memory)]
    clock.lap("pca")
    advice = None
    if n_phases is None:
        advice = advise_components(load_fresh(store, schema.PCA))
        n_phases = advice.n_components
    addresses.append(nmf_step(store, energy=energy, n_components=n_phases, memory=memory))
    clock.lap("nmf")
    addresses.append(phases_step(store, parent=addresses[-1], min_size=min_size))
    clock.lap("phases")
    phases = addresses[-1]
    addresses.append(spectra_step(store, parent=phases, memory=memory))
    clock.lap("spectra")
    addresses.append(grains_step(store, parent=phases))
    clock.lap("grains")
    *files, report = write_results(store, target, memory=memory)
    clock.lap("figures and report")
    return RunSummary(
        store=text,
        folder=target,
        report=report,
        advice=advice,
        addresses=tuple(addresses),
        modal=modal_table(load_fresh(store, phases)),
        grain_sizes=compare_phases(load_fresh(store, addresses[-1])),
        files=tuple(files),
        seconds=clock.laps,
        peak_bytes=budget.peak_resident(),
    )


def results_folder(store: Location) -> Path:
    """Return where pictures and tables of a store go unless the user says: beside it, or here for one elsewhere."""
    path = Path(location_text(store))
    name = f"{path.stem}-results"
    return Path.cwd() / name if is_remote(store) else path.with_name(name)


_MOVES_THE_AXIS = ("energy_scale", "energy_offset", "zero_peak")

_GROWTH = 110 * budget.MB
"""What a conversion leaves behind in the process: code that was compiled, buffers that stay."""


def _check_early(header: MapHeader, *, n_phases: int | None, energy: Window | None, memory: str | int | None) -> None:
    """Refuse before the conversion what would be refused after it, or would not fit after it."""
    height, width, n_channels = header.shape
    most = min(height * width, n_channels)
    if n_phases is not None and not 1 <= n_phases <= most:
        raise ParameterError("number of phases", found=n_phases, expected=f"1 to {most}", fix="--phases 4")
    first, step = header.energy_offset, header.energy_scale
    if energy is not None:
        _check_window(energy, first, first + step * (n_channels - 1), schema.KEV)
    tile = tile_shape(n_channels)
    dtype = np.dtype(np.uint8 if header.dtype.itemsize == 1 else np.uint16)
    whole = Blocks(CountsSource("", "", "", "", header.shape, tile, dtype), (0, 0, 0), header.shape)
    pca_need, figures_need = exact_need(whole), results_need(height * width)
    largest = max(pca_need.fixed + pca_need.per_worker, figures_need.fixed)
    budget.plan(budget.Need("run", largest + _GROWTH, 0), memory=memory)


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.laps[name], self._last = now - self._last, now
