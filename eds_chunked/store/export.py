"""A stored map for other software: HyperSpy's .hspy, written tile by tile, or a copy of the store in another codec."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rsciio.hspy
import xarray as xr

from eds_chunked import progress, schema
from eds_chunked.errors import ParameterError
from eds_chunked.in_order import in_order
from eds_chunked.memory import MB, Need, plan
from eds_chunked.store.backend import Location, is_remote, location_text
from eds_chunked.store.hyperspy_tree import Tree, axis_of, metadata_tree, original_metadata_tree
from eds_chunked.store.opening import open_map
from eds_chunked.store.recoding import recode
from eds_chunked.store.run_log import recorded
from eds_chunked.store.source import CountsSource, counts_source, reads_of_tiles
from eds_chunked.store.whole_files import written_whole

Array = np.ndarray[Any, Any]

_CHUNK_BYTES = 2**20
"""Chunks are of at most this size, as HyperSpy makes them: it reads a whole chunk to show one spectrum."""
_DEFLATE_LEVEL = 1
_GROUP = "map"
_STORE = ".zarr"

_LOADED = 50 * MB
"""HDF5, what RosettaSciIO loads to write it, and what both keep meanwhile, as measured: no more for larger maps."""


@recorded("export")
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
            fix=f"eds-chunked export STORE {path.stem}.hspy; of a result: write_learning_results(result, 'FILE.npz')",
        )
    if codec is not None:
        raise ParameterError(
            f"codec for {path}",
            found=repr(codec),
            expected=f"none, since {path.suffix} has its own way to pack counts",
            fix=f"leave it out, or export to {path.stem}{_STORE}",
        )
    with written_whole(path, overwrite=overwrite) as draft:
        write(open_map(store), draft, memory)
    return path


# --------------------------------------------------------------------------------------------- counts to HDF5
def _write_hspy(ds: xr.Dataset, path: Path, memory: str | int | None) -> None:
    source = counts_source(location_text(ds.encoding["source"]), ds.attrs[schema.FINGERPRINT])
    tile = int(np.prod(source.tile)) * source.dtype.itemsize
    # Of each tile: as decoded, the codec's buffer, one padded chunk after the other, and their compressed bytes twice.
    chosen = plan(
        Need("export", _LOADED, 5 * tile),
        memory=memory,
        reads=[reads_of_tiles(source)],
        writes=ds[schema.COUNTS].nbytes,
    )
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
    with progress.step("export", len(corners), unit="tiles") as done:
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


# ------------------------------------------------------------------------------------------- the rest to HDF5
def _signal(ds: xr.Dataset) -> Tree:
    """Return the map as RosettaSciIO's writers want a signal, with one zero in place of its counts."""
    metadata = metadata_tree(ds)
    metadata["General"]["title"] = _GROUP
    return {
        "data": np.zeros((1, 1, 1), np.uint8),
        "axes": [axis_of(ds, schema.Y), axis_of(ds, schema.X), axis_of(ds, schema.ENERGY)],
        "metadata": _hdf5_tree(metadata),
        "original_metadata": _hdf5_tree(original_metadata_tree(ds)),
        "attributes": {"_lazy": False, "ragged": False},
        "package_info": {"package": "exspy", "package_version": version("exspy")},
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
    }


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
