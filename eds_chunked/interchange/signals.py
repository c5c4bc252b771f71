"""Maps, spectra and images as HyperSpy signals."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.low_rank import with_mean
from eds_chunked.decomposition.result import check_same_axes
from eds_chunked.engine.scratch import scratch_folder
from eds_chunked.errors import ParameterError
from eds_chunked.interchange.decompositions import LOADINGS, hyperspy_members
from eds_chunked.interchange.learning_results import loading_rows
from eds_chunked.store.backend import room_at
from eds_chunked.store.hyperspy_tree import Tree, axis_of, metadata_tree, original_metadata_tree

Array = np.ndarray[Any, Any]

_SPECTRA = "spectra"
_IMAGES = "images"
_BAND_BYTES = 2**23
"""Loadings that are copied at once."""


def to_hyperspy(ds: xr.Dataset, *, variable: str | None = None, results: xr.Dataset | None = None) -> Any:
    """Return a map, spectra or images as a HyperSpy signal; lazy where they are, reads none of the counts.

    A map becomes an EDSSEMSpectrum or EDSTEMSpectrum of eXSpy with its axes, beam energy, elements, title and times;
    so do phase spectra, factors and models, with their phases or components to navigate by. Loadings, masks, labels
    and other maps of pixels become a Signal2D.

    Parameters
    ----------
    ds
        A map, or the result of a step.
    variable
        What to take of ``ds``; default: the counts of a map, else the spectra of phases.
    results
        PCA or NMF of the same pixels and channels, to be the map's ``learning_results``: then
        ``plot_decomposition_results()``, ``get_decomposition_loadings()``, ``get_decomposition_model()`` and
        ``blind_source_separation`` work without a decomposition in HyperSpy. The mean of a centred PCA is the first
        of HyperSpy's components.

    Returns
    -------
    The signal: a lazy one of dask arrays, a plain one of arrays in memory, which it shares.

    Raises
    ------
    ParameterError
        ``variable`` is not there, or is neither spectra nor images; or there is no map for the results.
    ChunkLayoutError
        ``results`` are of another region or window.

    Notes
    -----
    HyperSpy cannot plot loadings that are lazy. They are read, if they are not in memory, into a scratch file that is
    mapped into memory: they take disk, not RAM. Excluded pixels and channels are NaN in them and masked, as in
    HyperSpy; the counts stay whole.

    Memory: 8 MB of loadings at a time.

    Examples
    --------
    >>> import eds_chunked as edc  # doctest: +SKIP
    >>> ds = edc.open("map.zarr")
    >>> signal = edc.to_hyperspy(ds, results=edc.load("map.zarr", "nmf/k4"))
    >>> signal.plot_decomposition_results()
    """
    name = _choose(ds, variable)
    if name in schema.VARIABLES:
        schema.require(ds, name)
    values = ds[name]
    kind = _kind(values)
    metadata = metadata_tree(ds)
    if name != schema.COUNTS:
        title = schema.VARIABLES[name].doc if name in schema.VARIABLES else name
        metadata["General"]["title"] = " of ".join(text for text in (title, metadata["General"]["title"]) if text)
    original = original_metadata_tree(ds)
    if schema.N_PIXELS in ds and schema.ENERGY in values.dims:
        # Sums over so many pixels: no single live time holds for all of them.
        original["eds_chunked"][schema.N_PIXELS] = ds[schema.N_PIXELS].values.tolist()
        for microscope in metadata["Acquisition_instrument"].values():
            for time in ("live_time", "real_time"):
                microscope.get("Detector", {}).get("EDS", {}).pop(time, None)
    signal = _signal(values, ds, kind=kind, metadata=metadata, original=original)
    if results is not None:
        if name != schema.COUNTS:
            raise ParameterError(
                "results",
                found=f"results beside {name!r}",
                expected="results beside the map that was decomposed",
                fix="to_hyperspy(ds, results=nmf)",
            )
        schema.require(results, schema.FACTORS, schema.LOADINGS)
        check_same_axes(ds, results)
        members = hyperspy_members(results)
        members["original_shape"] = tuple(int(size) for size in members["original_shape"])
        members[LOADINGS["decomposition"]] = _loadings(with_mean(results))
        for member, value in members.items():
            setattr(signal.learning_results, member, value)
    return signal


def _choose(ds: xr.Dataset, variable: str | None) -> str:
    if not hasattr(ds, "data_vars"):
        schema.require(ds)
    if variable is None:
        variable = next((name for name in (schema.COUNTS, schema.SPECTRUM) if name in ds), None)
    if variable is None or variable not in ds.variables:
        names = sorted(str(name) for name in ds.variables if _dims(ds[name]) is not None)
        raise ParameterError(
            "variable",
            found="none given" if variable is None else repr(variable),
            expected=f"one of {', '.join(names)}" if names else "spectra or images in the Dataset",
            fix=f"to_hyperspy(ds, variable={names[0]!r})" if names else "pass a map or the result of a step",
        )
    return variable


def _dims(values: xr.DataArray) -> str | None:
    dims = tuple(map(str, values.dims))
    if dims[-1:] == (schema.ENERGY,):
        return _SPECTRA
    return _IMAGES if dims[-2:] == (schema.Y, schema.X) else None


def _kind(values: xr.DataArray) -> str:
    kind = _dims(values)
    if kind is None or values.dtype.kind not in "biuf" or 0 in values.shape:
        raise ParameterError(
            f"variable {values.name!r}",
            found=f"{values.dtype} of dimensions {dict(values.sizes)}",
            expected=f"numbers; the last dimension is {schema.ENERGY}, or the last two are {schema.Y} and {schema.X}",
            fix="choose another variable, or ds.transpose(...)",
        )
    return kind


def _signal(values: xr.DataArray, ds: xr.Dataset, *, kind: str, metadata: Tree, original: Tree) -> Any:
    exspy, hyperspy = _libraries()
    lazy = "Lazy" if values.chunks is not None else ""
    if kind == _SPECTRA:
        tem = metadata["Signal"]["signal_type"] == schema.TEM
        make = getattr(exspy, f"{lazy}EDS{'TEM' if tem else 'SEM'}Spectrum")
        signal_axes = {schema.ENERGY}
    else:
        make = getattr(hyperspy, f"{lazy}Signal2D")
        metadata["Signal"] = {"signal_type": ""}
        signal_axes = {schema.Y, schema.X}
    axes = [axis_of(ds, str(name)) | {"navigate": name not in signal_axes} for name in values.dims]
    return make(values.data, axes=axes, metadata=metadata, original_metadata=original)


def _libraries() -> tuple[ModuleType, ModuleType]:
    """Return the modules of signals of eXSpy and HyperSpy; importing them takes seconds."""
    with warnings.catch_warnings():
        # eXSpy imports HyperSpy's classes from where they no longer are; the user of a signal cannot mend that.
        warnings.filterwarnings("ignore", message="Importing .* is deprecated", category=UserWarning)
        import exspy.signals
        import hyperspy.signals
    return exspy.signals, hyperspy.signals


def _loadings(results: xr.Dataset) -> Array:
    """Return the loadings (pixels, components): a view of what is in memory, or a mapped file."""
    loadings = results[schema.LOADINGS]
    k, height, width = loadings.shape
    if loadings.chunks is None:
        return np.asarray(loadings.values.reshape(k, -1).T)
    place = Path(scratch_folder()) / "loadings"
    rows = max(1, min(max(loadings.chunks[1]), _BAND_BYTES // (k * width * loadings.dtype.itemsize)))
    # Component after component, so that HyperSpy's maps of them are views of the file. Written, not mapped: of a disk
    # that is full a mapped file cannot tell.
    with room_at(place), place.open("wb") as file:
        first = 0
        for piece in loading_rows(results, rows):
            for component in range(k):
                file.seek((component * height * width + first) * piece.itemsize)
                file.write(np.ascontiguousarray(piece[:, component]).data)
            first += len(piece)
    return np.memmap(place, loadings.dtype, mode="r", shape=(k, height * width)).T
