"""A stored map for other software: HyperSpy's .hspy, written tile by tile, or a copy of the store in another codec."""

from __future__ import annotations

import os
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rsciio.hspy
import xarray as xr

from eds_chunked import progress, schema
from eds_chunked.errors import ParameterError, StoreExistsError
from eds_chunked.in_order import in_order
from eds_chunked.memory import Need, plan
from eds_chunked.store.backend import Location, is_remote, location_text, room_at
from eds_chunked.store.opening import open_map
from eds_chunked.store.recoding import recode
from eds_chunked.store.source import CountsSource, counts_source

Array = np.ndarray[Any, Any]
Tree = dict[str, Any]

_CHUNK_BYTES = 2**20
"""Chunks are of at most this size, as HyperSpy makes them: it reads a whole chunk to show one spectrum."""
_DEFLATE_LEVEL = 1
_GROUP = "map"
_STORE = ".zarr"


def export(
    store: Location,
    target: Location,
    *,
    codec: str | None = None,
    memory: str | int | None = None,
    overwrite: bool = False,
) -> Path | str:
    """Write the map of a store for other software; computes, streamed tile by tile.

    To ``.hspy`` goes the map with its metadata: ``hyperspy.api.load(target)`` gives an EDSSEMSpectrum or EDSTEMSpectrum
    with the same counts and axes. To ``.zarr``, or a URL, goes a copy of the whole store with its images and saved
    results, its counts packed by ``codec``: every Zarr 3 reads it, whether this package is installed or not.

    Parameters
    ----------
    store
        Path or URL of the store.
    target
        What to write; its suffix says the format, ``.hspy`` or ``.zarr``. A URL is a store.
    codec
        How a ``.zarr`` packs its counts: ``"zstd"`` (default) or ``"lz4"``, which every Zarr reads, or ``"counts"``.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.
    overwrite
        Replace an existing file or store; of the latter all, its results too.

    Returns
    -------
    The path of the file or store, or its URL.

    Raises
    ------
    ParameterError
        The suffix is of no format that can be written, the folder does not exist, or there is no such codec.
    StoreExistsError
        ``target`` exists and ``overwrite`` is false, or it is something else than what would be written.
    StoreError
        A tile of the store is damaged.
    StoreFullError
        The disk is full.
    MemoryBudgetError
        One tile needs more memory than the budget leaves.

    Notes
    -----
    On disks it is written under another name beside the target and renamed when it is whole; on object stores the copy
    opens when it is whole.

    A ``.zarr`` has consolidated metadata, so that xarray opens it with one request. They are taken away when a result
    is saved in it, or when it is calibrated, since they would hide that.

    Memory: a few tiles a worker.
    """
    if is_remote(target) or Path(target).suffix.lower() == _STORE:
        place = recode(store, target, codec=codec, memory=memory, overwrite=overwrite)
        return place if is_remote(place) else Path(place)
    path = Path(target)
    write = _FORMATS.get(path.suffix.lower())
    if write is None:
        raise ParameterError(
            f"export to {path}",
            found=f"suffix {path.suffix!r}",
            expected=f"one of {', '.join((*_FORMATS, _STORE))}",
            fix=f"eds-chunked export STORE {path.stem}.hspy",
        )
    if codec is not None:
        raise ParameterError(
            f"codec for {path}",
            found=repr(codec),
            expected=f"none, since {path.suffix} has its own way to pack counts",
            fix=f"leave it out, or export to {path.stem}{_STORE}",
        )
    _check_place(path, overwrite=overwrite)
    ds = open_map(store)
    draft = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with room_at(path):
            write(ds, draft, memory)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def _check_place(path: Path, *, overwrite: bool) -> None:
    if not path.parent.is_dir():
        raise ParameterError(
            f"export to {path}", found=f"no folder {path.parent}", expected="a folder that exists", fix="make it first"
        )
    if path.is_dir():
        raise StoreExistsError(f"export to {path}", found="a folder", expected="a new file", fix="choose another name")
    if path.exists() and not overwrite:
        raise StoreExistsError(
            f"export to {path}", found="a file", expected="a new file", fix="add --overwrite to replace it"
        )


# --------------------------------------------------------------------------------------------- counts to HDF5
def _write_hspy(ds: xr.Dataset, path: Path, memory: str | int | None) -> None:
    source = counts_source(location_text(ds.encoding["source"]), ds.attrs[schema.FINGERPRINT])
    tile = int(np.prod(source.tile)) * source.dtype.itemsize
    # Of each tile: as decoded, the codec's buffer, one padded chunk after the other, and their compressed bytes twice.
    chosen = plan(Need("export", 0, 5 * tile), memory=memory)
    # RosettaSciIO knows how HyperSpy's trees go into HDF5. It names the group after the title, which may be no name in
    # HDF5, so the true title is put afterwards; and it would send the counts through a graph with a task per chunk.
    rsciio.hspy.file_writer(str(path), _signal(ds), show_progressbar=False)
    with h5py.File(path, "r+") as file:
        group = file["Experiments"][_GROUP]
        group["metadata/General"].attrs["title"] = _hdf5_text(ds.attrs.get(schema.TITLE, ""))
        del group["data"]
        _write_counts(group, source, workers=chosen.workers)


def _write_counts(group: h5py.Group, source: CountsSource, *, workers: int) -> None:
    chunk = _chunk_shape(source)
    data = group.create_dataset(
        "data",
        shape=source.shape,
        dtype=source.dtype,
        chunks=chunk,
        compression="gzip",
        compression_opts=_DEFLATE_LEVEL,
        shuffle=True,
    )
    corners = list(_corners(source.shape, source.tile))
    with progress.step("export", len(corners)) as done:
        for tile in in_order(lambda corner: _packed_tile(source, *corner, chunk), corners, workers=workers):
            for start, packed in tile:
                data.id.write_direct_chunk(start, packed)
            done(1)


def _chunk_shape(source: CountsSource) -> tuple[int, int, int]:
    """Squares of pixels that divide a tile, all channels, so that no chunk is written twice."""
    side, _, n_channels = source.tile
    while side > 1 and side * side * n_channels * source.dtype.itemsize > _CHUNK_BYTES:
        side //= 2
    return min(side, source.shape[0]), min(side, source.shape[1]), n_channels


def _packed_tile(
    source: CountsSource, y0: int, x0: int, chunk: tuple[int, int, int]
) -> list[tuple[tuple[int, int, int], bytes]]:
    """Return the chunks of a tile as HDF5 stores them: shuffled and deflated here, since HDF5 does it on one thread."""
    tile = source[y0 : y0 + source.tile[0], x0 : x0 + source.tile[1]]
    packed = []
    whole = np.zeros(chunk, source.dtype)
    for y, x in _corners(tile.shape, chunk):
        part = tile[y : y + chunk[0], x : x + chunk[1]]
        if part.shape != chunk:  # chunks at the edge of the map are stored whole
            whole[:] = 0
        whole[: part.shape[0], : part.shape[1]] = part
        shuffled = whole.view(np.uint8).reshape(-1, source.dtype.itemsize).T
        packed.append(((y0 + y, x0 + x, 0), zlib.compress(shuffled.tobytes(), _DEFLATE_LEVEL)))
    return packed


def _corners(shape: tuple[int, ...], chunk: tuple[int, int, int]) -> Iterator[tuple[int, int]]:
    for y in range(0, shape[0], chunk[0]):
        for x in range(0, shape[1], chunk[1]):
            yield y, x


# -------------------------------------------------------------------------------- the map as HyperSpy describes it
_DETECTOR = ("Detector", "EDS")
_PLACES: dict[str, tuple[tuple[str, ...], float]] = {
    "magnification": (("magnification",), 1.0),
    "working_distance_mm": (("working_distance",), 1.0),
    "detector_type": ((*_DETECTOR, "detector_type"), 1.0),
    "elevation_angle_deg": ((*_DETECTOR, "elevation_angle"), 1.0),
    "azimuth_angle_deg": ((*_DETECTOR, "azimuth_angle"), 1.0),
    "energy_resolution_mn_ka_ev": ((*_DETECTOR, "energy_resolution_MnKa"), 1.0),
    "stage_x_um": (("Stage", "x"), 1e-3),
    "stage_y_um": (("Stage", "y"), 1e-3),
    "stage_z_um": (("Stage", "z"), 1e-3),
    "stage_rotation_deg": (("Stage", "rotation"), 1.0),
    "stage_tilt_deg": (("Stage", "tilt_alpha"), 1.0),
}
"""Where HyperSpy keeps, below the microscope, what our own readers call by these names, and the factor to its unit."""


def _signal(ds: xr.Dataset) -> Tree:
    """Return the map as RosettaSciIO's writers want a signal, with one zero in place of its counts."""
    return {
        "data": np.zeros((1, 1, 1), np.uint8),
        "axes": [_axis(ds, schema.Y), _axis(ds, schema.X), _axis(ds, schema.ENERGY)],
        "metadata": _hdf5_tree(_metadata(ds)),
        "original_metadata": _hdf5_tree(_original_metadata(ds)),
        "attributes": {"_lazy": False, "ragged": False},
        "package_info": {"package": "exspy", "package_version": version("exspy")},
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
    }


def _axis(ds: xr.Dataset, name: str) -> Tree:
    values = ds[name].values
    energy = name == schema.ENERGY
    unit = {schema.MICROMETRE: "µm", schema.KEV: "keV"}.get(ds[name].attrs.get("units", ""))
    if len(values) > 1:
        step = float(values[-1] - values[0]) / (len(values) - 1)
    else:
        step = 1.0 if energy else float(ds.attrs[schema.PIXEL_SIZE][(schema.Y, schema.X).index(name)])
    return {
        "_type": "UniformDataAxis",
        "name": "Energy" if energy else name,
        "size": len(values),
        "scale": step,
        "offset": float(values[0]),
        "units": unit,
        "navigate": not energy,
        "is_binned": energy,
    }


def _metadata(ds: xr.Dataset) -> Tree:
    source, attrs = _branch(ds.attrs, schema.SOURCE_METADATA), ds.attrs
    kind = "TEM" if attrs.get(schema.SIGNAL_TYPE) == schema.TEM else "SEM"
    microscopes = _branch(source, "Acquisition_instrument")
    instrument = _branch(microscopes, kind) or next((m for m in microscopes.values() if isinstance(m, dict)), {})
    for name, (place, factor) in _PLACES.items():
        value = source.get(name)
        _put(instrument, place, value * factor if isinstance(value, int | float) else value)
    # What the store says goes last: it may have been calibrated since it was read.
    _put(instrument, ("beam_energy",), attrs.get(schema.BEAM_ENERGY))
    _put(instrument, (*_DETECTOR, "live_time"), attrs.get(schema.LIVE_TIME))
    _put(instrument, (*_DETECTOR, "real_time"), attrs.get(schema.REAL_TIME))
    elements = list(attrs.get(schema.ELEMENTS, []))
    sample = _branch(source, "Sample") | {"elements": elements}
    lines = sample.get("xray_lines")
    if isinstance(lines, list):
        sample["xray_lines"] = [line for line in lines if str(line).split("_")[0] in elements]
    sample = {name: value for name, value in sample.items() if value != []}
    return {
        "General": _branch(source, "General") | {"title": _GROUP},
        "Signal": {"signal_type": attrs.get(schema.SIGNAL_TYPE, schema.SEM), "quantity": "X-rays (Counts)"},
        "Sample": sample,
        "Acquisition_instrument": {kind: instrument},
    }


def _original_metadata(ds: xr.Dataset) -> Tree:
    source = _branch(ds.attrs, schema.SOURCE_METADATA)
    original = _branch(source, "original_metadata") or source
    return original | {"eds_chunked": {schema.HISTORY: ds.attrs.get(schema.HISTORY, [])}}


def _branch(tree: Mapping[str, Any], name: str) -> Tree:
    """Return a copy of a branch, or an empty one."""
    branch = tree.get(name)
    return {key: _branch(branch, key) or value for key, value in branch.items()} if isinstance(branch, dict) else {}


def _put(tree: Tree, place: tuple[str, ...], value: Any) -> None:
    if value is None:
        return
    for name in place[:-1]:
        if not isinstance(tree.get(name), dict):
            tree[name] = {}
        tree = tree[name]
    tree[place[-1]] = value


def _hdf5_tree(value: Any) -> Any:
    """Return a metadata tree whose names and texts HDF5 can hold: a slash or a lone dot would be a path there."""
    if isinstance(value, dict):
        return {_hdf5_name(name): _hdf5_tree(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_hdf5_tree(item) for item in value]
    return _hdf5_text(value) if isinstance(value, str) else value


def _hdf5_name(name: str) -> str:
    text = _hdf5_text(name).replace("/", "-")
    return text if text.strip(".") else f"_{text}"


def _hdf5_text(text: Any) -> str:
    return str(text).replace("\0", "")


_FORMATS: dict[str, Callable[[xr.Dataset, Path, str | int | None], None]] = {".hspy": _write_hspy}
