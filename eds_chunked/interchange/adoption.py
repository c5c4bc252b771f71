"""HyperSpy signals as maps and results of this package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.result import variable
from eds_chunked.engine.scratch import scratch_folder
from eds_chunked.errors import ParameterError
from eds_chunked.interchange.decompositions import (
    KINDS,
    LOADINGS,
    Results,
    adopt,
    check_shapes,
    names_of,
)
from eds_chunked.interchange.means import MEAN, NAVIGATION_MASK, is_a_number_a_pixel, with_whole_mean
from eds_chunked.readers.base import MapHeader
from eds_chunked.readers.signal import Signal, find_maps
from eds_chunked.readers.units import in_um
from eds_chunked.store.backend import room_at
from eds_chunked.store.description import describe_header

Array = np.ndarray[Any, Any]


def from_hyperspy(signal: Any, *, results: Results | None = None, name: str | None = None) -> xr.Dataset:
    """Return a HyperSpy spectrum image as a map, or what it was decomposed into as a result; reads no counts.

    The map works in :func:`eds_chunked.pca`, :func:`eds_chunked.nmf` and all other steps like one from a store. To put
    it into a store: ``convert(DatasetReader(from_hyperspy(signal)), "map.zarr")``.

    Parameters
    ----------
    signal
        EDSSEMSpectrum, EDSTEMSpectrum or Signal1D with two navigation axes; lazy or not.
    results
        None gives the map; ``"decomposition"`` or ``"bss"`` gives what HyperSpy's decomposition, or the blind source
        separation after it, left in ``signal.learning_results``.
    name
        Name of the run when the result is saved; default ``hs<number of components>``.

    Returns
    -------
    A map: ``counts`` (y, x, energy), lazy if the signal is and otherwise a view of its data, with coordinates in um
    and keV (pixels and channels where the axes have no such units) and HyperSpy's metadata. Or a result, as
    :func:`eds_chunked.read_learning_results` returns it.

    Raises
    ------
    ParameterError
        No spectrum image: a single spectrum, a line scan, images, or a stack of maps; or it has no such results.

    Notes
    -----
    A signal whose counts were changed to floats can be analysed as it is, but the noise edge and
    :func:`eds_chunked.advise_components` need integers: ``signal.change_dtype("uint16")``.

    Memory: none for a map. Lazy loadings of a result are computed into a scratch file.
    """
    if results is not None and results not in KINDS:
        raise ParameterError(
            "results", found=repr(results), expected=f"None, {', '.join(map(repr, KINDS))}", fix=f"results={KINDS[0]!r}"
        )
    _check_dimensions(signal)
    axes = [axis.get_axis_dictionary() for axis in signal.axes_manager._axes]
    title = schema.text(signal.metadata.General.title)
    source = f"HyperSpy signal {title!r}" if title else "HyperSpy signal"
    metadata, original = signal.metadata.as_dictionary(), signal.original_metadata.as_dictionary()
    metadata.pop("_HyperSpy", None)  # how it folds and draws the signal
    found, others = find_maps(source, [Signal(title, signal.data, axes, metadata, original)])
    if not found:
        raise ParameterError(
            "signal",
            found=others[0].removeprefix(f"{title!r}: "),
            expected="an EDS spectrum image: numbers on two navigation axes and one uniform energy axis",
            fix="signal.set_signal_type('EDS_SEM') and signal.axes_manager[-1].units = 'keV'",
        )
    header, layout, _ = found[0]
    header = replace(header, origin=_origin(header, axes[layout.row or 0], axes[layout.column]))
    ds = describe_header(header, what="from_hyperspy")
    ds[schema.COUNTS] = variable(schema.COUNTS, layout.as_map(signal.data))
    if results is None:
        return ds
    members = _members(signal.learning_results, results)
    shapes = {key: np.shape(value) for key, value in members.items()}
    if NAVIGATION_MASK in members:
        shapes[NAVIGATION_MASK] = (members[NAVIGATION_MASK].size,)
    check_shapes(ds, shapes, results=results, where=f"learning results of {source}")
    height, width, n_channels = header.shape
    members = with_whole_mean(members, n_pixels=height * width, n_channels=n_channels, where=source)
    if layout.row is not None and layout.row > layout.column:
        # HyperSpy's pixels are in the order of the array, here column by column.
        of_pixels = {LOADINGS[results], NAVIGATION_MASK} | ({MEAN} if is_a_number_a_pixel(members) else set())
        for key in of_pixels & members.keys():
            members[key] = np.array(members[key].reshape(width, height, -1).swapaxes(0, 1)).reshape(height * width, -1)
    return adopt(ds, members, results=results, name=name, where=source, source=source)


def _check_dimensions(signal: Any) -> None:
    if not hasattr(signal, "axes_manager"):
        raise ParameterError(
            "signal",
            found=type(signal).__name__,
            expected="a HyperSpy signal",
            fix="hs.load('map.hspy', lazy=True); of a Dataset there is nothing to convert",
        )
    n_navigation, n_signal = signal.axes_manager.navigation_dimension, signal.axes_manager.signal_dimension
    if n_signal == 1 and n_navigation == 2 and not signal.ragged:
        return
    what, fix = "ragged data", "give the spectrum image itself"
    if n_signal != 1:
        what = "images" if n_signal == 2 else f"a signal of {n_signal} dimensions"
        fix = "signal.as_signal1D('Energy') makes a spectrum image of a stack of energy images"
    elif n_navigation == 0:
        what, fix = "a single spectrum", "give the spectrum image that it is the sum of"
    elif n_navigation == 1:
        what = "a line scan"
        fix = "signal.save('line.hspy') and eds_chunked.convert('line.hspy', 'line.zarr'): a line is a map of one row"
    elif n_navigation > 2:
        what = f"a stack of maps ({n_navigation} navigation axes)"
        fix = f"choose one of them: signal.inav[:, :{', 0' * (n_navigation - 2)}]"
    raise ParameterError(
        "signal",
        found=f"{what} {signal.data.shape}",
        expected="a spectrum image: two navigation axes and one of energy",
        fix=fix,
    )


def _origin(header: MapHeader, *axes: Mapping[str, Any]) -> tuple[float, float]:
    """Return where the centre of the first pixel is, in um, or in pixels where there is no pixel size."""
    places = []
    for axis in axes:
        offset, scale = float(axis.get("offset", 0.0)), float(axis.get("scale", 1.0))
        place = in_um(offset, axis.get("units")) if header.pixel_size is not None else offset / (scale or 1.0)
        # Coordinates rise; of an axis that falls only the distances are kept.
        places.append(place if place is not None and scale > 0 else 0.0)
    return places[0], places[1]


def _members(learning_results: Any, results: Results) -> dict[str, Any]:
    """Return what there is of the results, of plain types; lazy loadings are computed into a scratch file."""
    found: dict[str, Any] = {}
    for name in names_of(results):
        value = getattr(learning_results, name, None)
        if isinstance(value, da.Array) and name == LOADINGS[results]:
            value = _on_disk(value)
        elif isinstance(value, da.Array):
            value = value.compute()
        if isinstance(value, str | bool | np.ndarray):
            found[name] = value
    return found


def _on_disk(loadings: da.Array) -> Array:
    place = Path(scratch_folder()) / "loadings"
    loadings = loadings.rechunk({0: "auto", 1: -1})
    with room_at(place), place.open("wb") as file:
        for band in loadings.blocks:
            file.write(np.ascontiguousarray(band.compute()).data)
    return np.memmap(place, loadings.dtype, mode="r", shape=loadings.shape)
