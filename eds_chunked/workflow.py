"""The whole way from a microscope's file to phases, spectra and grain sizes, and each step of it on a store.

A step reads from the store what the step before saved there, and saves its own result as a new revision.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from eds_chunked import memory as budget
from eds_chunked import schema
from eds_chunked.dask_cluster import active_client
from eds_chunked.decomposition.advice import (
    CRITICAL_VARIANCE,
    ComponentAdvice,
    advise_components,
    check_critical_variance,
)
from eds_chunked.decomposition.low_rank import reconstruct
from eds_chunked.decomposition.nonnegative import nmf
from eds_chunked.decomposition.principal import pca
from eds_chunked.decomposition.residuals import residual
from eds_chunked.decomposition.result import template
from eds_chunked.dry_run import is_dry, noted_plans, tell
from eds_chunked.engine.binning import rebin
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.exclusion import exclude
from eds_chunked.engine.mask_file import read_pixel_mask
from eds_chunked.engine.planning import plan
from eds_chunked.errors import ParameterError, StoreExistsError, StoreFullError
from eds_chunked.grains.spectra import grain_spectra
from eds_chunked.grains.split import separate_grains
from eds_chunked.grains.statistics import compare_phases
from eds_chunked.interchange.decompositions import Results
from eds_chunked.interchange.learning_results import read_learning_results, write_learning_results
from eds_chunked.interchange.spectrum_files import SPECTRUM_SUFFIXES, write_spectra
from eds_chunked.memory import Need, Plan
from eds_chunked.phases.cleaning import min_size_in_pixels
from eds_chunked.phases.clustering import cluster
from eds_chunked.phases.elements import identify_elements
from eds_chunked.phases.modal import modal_table
from eds_chunked.phases.naming import MERGES, merge_phases
from eds_chunked.phases.rates import Per
from eds_chunked.phases.segment import segment_phases
from eds_chunked.phases.sums import phase_spectra
from eds_chunked.readers import open_source
from eds_chunked.readers.base import MapHeader, Reader
from eds_chunked.report.assemble import results_need, write_report, write_results
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
from eds_chunked.store.conversion import STATED_TOTAL, check_shape, convert
from eds_chunked.store.description import describe_header
from eds_chunked.store.export import export
from eds_chunked.store.layout import ROOT_DOCUMENT, tile_shape
from eds_chunked.store.opening import lazy_counts, open_map
from eds_chunked.store.results import load, load_fresh, newest, reads_of, revisions, save
from eds_chunked.store.run_log import recorded
from eds_chunked.store.source import CountsToCome

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


@dataclass(frozen=True)
class Part:
    """What of a map is analysed, beside the window of energies.

    ``bins`` are rows, columns and channels that are added up first; the others then are of bins. ``mask`` is a file
    (see :func:`eds_chunked.engine.mask_file.read_pixel_mask`), or the address of a result that left out the same
    pixels, and ``exclude_energy`` and ``min_counts`` are as for :func:`eds_chunked.exclude`.
    """

    bins: tuple[int, int, int] | None = None
    exclude_energy: tuple[Window, ...] = ()
    min_counts: float | None = None
    mask: str | None = None

    def of(self, store: Location) -> xr.Dataset:
        """Open this part of the map of a store, lazily."""
        ds = open_map(store)
        if self.bins is not None:
            ds = rebin(ds, **dict(zip((schema.Y, schema.X, schema.ENERGY), self.bins, strict=True)))
        pixels = None if self.mask is None else ~self._mask(store, (ds.sizes[schema.Y], ds.sizes[schema.X]))
        return exclude(ds, pixels=pixels, energy=self.exclude_energy or None, min_counts=self.min_counts)

    def _mask(self, store: Location, shape: tuple[int, int]) -> np.ndarray[Any, Any]:
        text = str(self.mask)
        if text.split("/")[0] not in schema.STEPS or os.path.exists(text):
            return read_pixel_mask(Path(text), shape)
        result = load(store, text)
        if schema.ANALYSED_PIXEL not in result.coords:
            return np.ones(shape, np.bool_)
        mask: np.ndarray[Any, Any] = result[schema.ANALYSED_PIXEL].values
        return mask


_WHOLE = Part()


@recorded("pca")
def pca_step(
    store: Location,
    *,
    energy: Window | None = None,
    part: Part = _WHOLE,
    n_components: int = 20,
    critical_variance: float | None = None,
    memory: str | int | None = None,
    **options: Any,
) -> str:
    """Run PCA on the map of a store and save it; returns the address of the result.

    A critical variance ratio is saved with it, for the advice on components and the scree figure.
    """
    critical = {} if critical_variance is None else {CRITICAL_VARIANCE: check_critical_variance(critical_variance)}
    ds = analysis_window(part.of(store), energy)
    result = pca(ds, n_components=n_components, memory=memory, **options)
    result.attrs[schema.PARAMETERS] = result.attrs[schema.PARAMETERS] | critical
    return save(result, store)


@recorded("nmf")
def nmf_step(
    store: Location,
    *,
    energy: Window | None = None,
    part: Part = _WHOLE,
    n_components: int | None = None,
    start: str | None = None,
    fixed_factors: str | None = None,
    memory: str | int | None = None,
    **options: Any,
) -> str:
    """Run NMF on the map of a store and save it; without ``n_components`` the saved PCA advises them.

    ``start`` and ``fixed_factors`` are addresses of results of the store, or ``other.zarr:nmf/k4`` of another one.
    """
    addresses = (("start", start), ("fixed_factors", fixed_factors))
    given: dict[str, Any] = {what: _result_at(store, where) for what, where in addresses if where is not None}
    if n_components is None and not any(result.attrs.get(schema.STEP) == schema.NMF for result in given.values()):
        n_components = advise_components(load_fresh(store, schema.PCA)).decided()
    ds = analysis_window(part.of(store), energy)
    return save(nmf(ds, n_components=n_components, memory=memory, **given, **options), store)


def _result_at(store: Location, where: str) -> xr.Dataset:
    """Load a result of the store, or of another one where its path stands before a colon."""
    other, colon, address = where.rpartition(":")
    return load(other if colon else store, address)


@recorded("cluster")
def cluster_step(store: Location, *, parent: str = schema.NMF, name: str | None = None, **options: Any) -> str:
    """Cluster the loadings of a saved PCA or NMF into phases and save them."""
    return save(cluster(load_fresh(store, parent), **options), store, name=name)


@recorded("phases")
def phases_step(store: Location, *, parent: str = schema.NMF, name: str | None = None, **options: Any) -> str:
    """Segment the phases of a saved NMF and save them."""
    return save(segment_phases(load_fresh(store, parent), **options), store, name=name)


@recorded("merge")
def merge_step(
    store: Location,
    *,
    merges: Mapping[str, Sequence[int]],
    parent: str | None = None,
    name: str | None = None,
    memory: str | int | None = None,
) -> str:
    """Name saved phases, those that are one mineral as one, and save them beside what they were made of.

    Without ``parent`` they are the newest that are not merged already, so that numbers are those of the first table.
    """
    if not merges:
        raise ParameterError(
            "phases to merge or name", found="none", expected="at least one name", fix="--merge feldspar=2,5"
        )
    if parent is None:
        made = [revision for revision in revisions(store) if revision.step == schema.PHASES]
        plain = [revision.address for revision in made if MERGES not in revision.attrs.get(schema.PARAMETERS, {})]
        parent = plain[-1] if plain else schema.PHASES
    origin = newest(store, parent)
    if origin.step != schema.PHASES:
        raise ParameterError(
            "phases to merge or name",
            found=origin.address,
            expected=f"saved phases, such as {schema.PHASES}/{origin.run}",
            fix=f"--from {schema.PHASES}/{origin.run}",
        )
    if name == origin.run:
        # A newer revision of its own parent's run would make itself stale.
        raise ParameterError(
            "run name",
            found=f"{name!r}, that of {origin.address}",
            expected="another one, so that the phases that were merged stay",
            fix=f"--name {name}-merged",
        )
    return save(merge_phases(load_fresh(store, origin.address), merges=merges, memory=memory), store, name=name)


@recorded("spectra")
def spectra_step(
    store: Location,
    *,
    parent: str | None = None,
    of_grains: bool = False,
    name: str | None = None,
    memory: str | int | None = None,
    **options: Any,
) -> str:
    """Sum the spectra of saved phases, or grains, over all channels of the map in their bins, and save them.

    ``parent`` is the address of the phases, or of the grains; by default the newest.
    """
    labels = load_fresh(store, parent or (schema.GRAINS if of_grains else schema.PHASES))
    ds = Part(bins=labels.attrs.get(schema.REBIN)).of(store)
    if of_grains:
        return save(grain_spectra(ds, grains=labels, name=name, memory=memory, **options), store, name=name)
    return save(phase_spectra(ds, phases=labels, memory=memory, **options), store, name=name)


def elements_step(store: Location, *, parent: str = schema.SPECTRA, **options: Any) -> pd.DataFrame:
    """Return the candidate elements of saved phase spectra; nothing is saved."""
    return identify_elements(load_fresh(store, parent), **options)


@recorded("model")
def model_step(
    store: Location,
    *,
    parent: str = schema.NMF,
    name: str | None = None,
    components: Sequence[int] | None = None,
    memory: str | int | None = None,
) -> str:
    """Compare the map of a store with the low-rank model of a saved result, and save the residual and chi-square."""
    result = load_fresh(store, parent)
    ds = _map_of(result, store)
    return save(residual(ds, result, components=components, memory=memory), store, name=name)


def _map_of(result: xr.Dataset, store: Location) -> xr.Dataset:
    """Open the region, and the energies where it has them, of the map that a result was made from, in its bins."""
    ds = Part(bins=result.attrs.get(schema.REBIN)).of(store)
    for axis in (schema.Y, schema.X, schema.ENERGY):
        if axis not in result.coords:
            continue
        own = result[axis].values
        half = abs(float(own[-1] - own[0])) / max(1, len(own) - 1) / 2
        ds = ds.sel({axis: slice(float(own[0]) - half, float(own[-1]) + half)})
    return ds


@recorded("write model")
def write_model(
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
    result = load_fresh(store, parent)
    lazy = reconstruct(result, components=components).to_dataset()
    tile = 4 * math.prod(lazy[schema.MODEL].data.chunksize)
    _check_room(text, lazy[schema.MODEL].nbytes)
    how = plan(
        budget.Need("model", 0, 4 * tile),
        memory=memory,
        reads=[reads_of(result, schema.LOADINGS)],
        writes=lazy.nbytes,
    )
    held = HeldBackStore(zarr_store(target), ROOT_DOCUMENT)
    try:
        with dask.config.set(scheduler="threads", num_workers=how.workers):
            lazy.to_zarr(held, mode="a", consolidated=False)
    except BaseException:
        delete_dir(target, "")
        raise
    held.commit()
    return tuple(lazy[schema.MODEL].shape)


def _check_room(target: str, n_bytes: int) -> None:
    """Refuse to fill a disk; that it did fill up is told where bytes are written."""
    if is_remote(target):
        return
    place = next(folder for folder in Path(target).parents if folder.exists())
    free = shutil.disk_usage(place).free
    if free < n_bytes:
        raise StoreFullError(
            f"model {target}",
            found=f"{budget.format_size(free)} free",
            expected=f"{budget.format_size(n_bytes)}, 4 bytes a value",
            fix="another disk, or only what you need: eds_chunked.reconstruct is lazy",
        )


@recorded("export")
def export_step(
    store: Location,
    target: Location,
    *,
    parent: str | None = None,
    codec: str | None = None,
    numbers: Sequence[int] | None = None,
    per: Per | None = None,
    memory: str | int | None = None,
    overwrite: bool = False,
) -> Path | str | list[Path]:
    """Write the map of a store, a copy of the store, or a saved result for other software; returns where.

    Results are decompositions (``.npz``) and summed spectra (``.msa``, ``.csv``), of which ``numbers`` are the phases
    or grains to write, and ``per`` ("pixel" or "second") asks for means.
    """
    text = location_text(target)
    suffix = "" if is_remote(target) else Path(text).suffix.lower()
    of_spectra = suffix in SPECTRUM_SUFFIXES
    if parent is not None and suffix != ".npz" and not of_spectra:
        raise ParameterError(
            f"export to {text}",
            found=f"--from {parent}",
            expected="a result only for .npz, .msa and .csv",
            fix="leave --from out",
        )
    if codec is not None and (suffix == ".npz" or of_spectra):
        raise ParameterError(
            f"codec for {text}", found=repr(codec), expected=f"none: {suffix} has no counts", fix="leave --codec out"
        )
    if (numbers is not None or per is not None) and not of_spectra:
        raise ParameterError(
            f"export to {text}",
            found="--numbers" if numbers is not None else "--per",
            expected="them only for spectra, .msa and .csv",
            fix="leave it out",
        )
    if of_spectra:
        spectra = load_fresh(store, parent or schema.SPECTRA)
        return write_spectra(spectra, text, numbers=numbers, per=per, overwrite=overwrite)
    if suffix == ".npz":
        return write_learning_results(load_fresh(store, parent or schema.NMF), text, overwrite=overwrite, memory=memory)
    return export(store, target, codec=codec, memory=memory, overwrite=overwrite)


@recorded("import")
def import_step(
    store: Location,
    path: str | os.PathLike[str],
    *,
    energy: Window | None = None,
    results: Results = "decomposition",
    name: str | None = None,
) -> str:
    """Save HyperSpy's learning results (.npz) as a result of the map of a store; returns its address."""
    ds = open_map(store)
    if energy is not None:
        ds = analysis_window(ds, energy)
    return save(read_learning_results(ds, path, results=results, name=name), store)


@recorded("grains")
def grains_step(
    store: Location,
    *,
    parent: str = schema.PHASES,
    name: str | None = None,
    memory: str | int | None = None,
    **options: Any,
) -> str:
    """Separate the grains of saved phases, measure them with the total counts of the map, and save them."""
    phases = load_fresh(store, parent)
    ds = _map_of(phases, store)
    return save(separate_grains(phases, ds=ds, memory=memory, **options), store, name=name)


def report_step(
    store: Location, target: str | os.PathLike[str] | None = None, *, memory: str | int | None = None
) -> list[Path]:
    """Write what a store has to show; returns the paths of the files, the report last.

    A name that ends in .html gets the report alone, any other is a folder that gets pictures and tables too. By default
    that is ``<store>-results``.
    """
    place = results_folder(store) if target is None else Path(target)
    if place.suffix.lower() in (".html", ".htm"):
        return [write_report(store, place, memory=memory)]
    return write_results(store, place, memory=memory)


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
    min_size: int | str | None = None,
    merges: Mapping[str, Sequence[int]] | None = None,
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
        Pixels that an object, a hole or a grain needs to stay, or their area such as ``"50um2"``; default: 100, or a
        thousandth of a small map.
    merges
        Numbers of phases by the name that they get as one, such as ``{"feldspar": [2, 5], "quartz": [1]}``, for a map
        of which they are known from an earlier run; else see :func:`eds_chunked.merge_phases`.
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
    if isinstance(source, str | os.PathLike):
        reader = open_source(Path(source), pick=pick, memory=memory)
        # A worker opens the file itself.
        given = reader if active_client() is None else source
    else:
        reader = given = source
    moves_axis = calibration is not None and not calibration.keys().isdisjoint(_MOVES_THE_AXIS)
    _check_early(reader.header, n_phases=n_phases, energy=None if moves_axis else energy)
    if min_size is not None:
        known = reader.header.pixel_size or (calibration or {}).get("pixel_size")
        min_size_in_pixels(min_size, pixel_size=(1, 1, schema.MICROMETRE if known else schema.UNCALIBRATED))
    coming = _plans_to_come(
        reader.header, energy=energy, whole=moves_axis, n_components=n_components, n_phases=n_phases
    )
    drawing = results_need(math.prod(reader.header.shape[:2]))
    _check_memory(coming, drawing, memory)
    if is_dry():
        with noted_plans(stop=True) as made:
            convert(given, store, pick=pick, memory=memory, overwrite=overwrite)
        for one in made:
            tell(one, goes_on=True)
        for one in coming:
            plan(_grown(one.need), memory=memory, reads=one.reads, writes=one.writes, goes_on=True)
        budget.plan(_grown(drawing), memory=memory)
    clock = _Clock()
    budget.return_freed_memory_to_the_system()
    ds = convert(given, store, pick=pick, memory=memory, overwrite=overwrite)
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
        n_phases = advice.decided()
    addresses.append(nmf_step(store, energy=energy, n_components=n_phases, memory=memory))
    clock.lap("nmf")
    addresses.append(phases_step(store, parent=addresses[-1], min_size=min_size, memory=memory))
    if merges:
        addresses.append(merge_step(store, merges=merges, parent=addresses[-1], memory=memory))
    clock.lap("phases")
    phases = addresses[-1]
    addresses.append(spectra_step(store, parent=phases, memory=memory))
    clock.lap("spectra")
    addresses.append(grains_step(store, parent=phases, memory=memory))
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


def _check_early(header: MapHeader, *, n_phases: int | None, energy: Window | None) -> None:
    """Refuse before the conversion what would be refused after it, and before the plan what cannot be planned."""
    check_shape(header)
    height, width, n_channels = header.shape
    most = min(height * width, n_channels)
    if n_phases is not None and not 1 <= n_phases <= most:
        raise ParameterError("number of phases", found=n_phases, expected=f"1 to {most}", fix="--phases 4")
    first, step = header.energy_offset, header.energy_scale
    if energy is not None:
        _check_window(energy, first, first + step * (n_channels - 1), schema.KEV)


def _grown(need: Need) -> Need:
    return replace(need, fixed=need.fixed + _GROWTH)


def _check_memory(coming: list[Plan], drawing: Need, memory: str | int | None) -> None:
    """Refuse a run of which something will not fit, naming a budget that is enough for all of it.

    Steps take the memory of this process or of a worker; figures and the report are made here.
    """
    largest = max(one.need.fixed + one.need.per_worker for one in coming)
    with noted_plans():  # The plan of no step: it is not told of.
        if active_client() is None:
            largest = max(largest, drawing.fixed)
        else:
            budget.plan(_grown(drawing), memory=memory)
        plan(_grown(Need("run", largest, 0)), memory=memory)


_PHASES_TO_PLAN_FOR = 8
"""Phases that a plan is made for before the PCA says how many there are."""


def _plans_to_come(
    header: MapHeader, *, energy: Window | None, whole: bool, n_components: int, n_phases: int | None
) -> list[Plan]:
    """Plan the steps from PCA to grains as if memory had no bound, on a map and results that are not there yet.

    With ``whole`` all channels are taken, where the energies may still change.
    """
    ds = _map_to_come(header)
    window = ds if whole else analysis_window(ds, energy)
    height, width, most = *header.shape[:2], min(window.sizes[schema.ENERGY], math.prod(header.shape[:2]))
    k = min(n_phases or _PHASES_TO_PLAN_FOR, most)
    components = template(window, blocks_of(window), k)
    components[schema.FACTORS] = components[schema.FACTORS] + 1.0
    labels = xr.Variable((schema.Y, schema.X), da.zeros((height, width), dtype=np.uint8, chunks=1024))
    phases = xr.Dataset({schema.LABEL: labels}, coords={**ds.coords, schema.PHASE: range(1, k + 1)})
    phases = phases.drop_vars(schema.ENERGY)
    steps: list[Callable[[], object]] = [
        lambda: pca(window, n_components=min(n_components, most), memory=_UNBOUNDED),
        lambda: nmf(window, n_components=k, memory=_UNBOUNDED),
        lambda: segment_phases(components, memory=_UNBOUNDED),
        lambda: phase_spectra(ds, phases=phases, memory=_UNBOUNDED),
        lambda: separate_grains(phases, memory=_UNBOUNDED),
    ]
    plans = []
    for step in steps:
        with noted_plans(stop=True) as made:
            step()
        plans += made
    return plans


_UNBOUNDED = 10**18


def _map_to_come(header: MapHeader) -> xr.Dataset:
    """Return a map as a conversion will make it, with counts that are not there yet."""
    ds = describe_header(header, what="plan")
    # The dtype that its largest count will need is not known; more than two bytes are rare.
    dtype = np.dtype(np.uint8 if header.dtype.itemsize == 1 else np.uint16)
    mean_counts = float(header.metadata.get(STATED_TOTAL, math.inf)) / math.prod(header.shape[:2])
    source = CountsToCome.of(header.shape, tile_shape(header.shape[2]), dtype, mean_counts=mean_counts)
    ds[schema.COUNTS] = lazy_counts(source)
    return ds


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = perf_counter()

    def lap(self, name: str) -> None:
        now = perf_counter()
        self.laps[name], self._last = now - self._last, now
