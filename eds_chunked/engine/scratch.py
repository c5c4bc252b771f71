"""Scratch stores: files that live as long as this process needs them."""

from __future__ import annotations

import atexit
import shutil
import tempfile

import dask
import dask.array as da
import zarr
from zarr.codecs import BloscCodec

from eds_chunked.schema import COUNTS
from eds_chunked.store.backend import zarr_store
from eds_chunked.store.layout import tile_shape
from eds_chunked.store.source import CountsSource, counts_source


def scratch_folder() -> str:
    """Make a folder that is removed when the process ends; in dask's ``temporary-directory`` where that is set."""
    folder = tempfile.mkdtemp(prefix="eds_chunked-", dir=dask.config.get("temporary-directory", None))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


_staged: dict[str, CountsSource] = {}


def stage(counts: da.Array) -> CountsSource:
    """Compute a dask array once, chunk by chunk, into a scratch store of tiles; memory follows its own chunks.

    dask names an array by what it computes, so the same array is not computed again for the next pass or step.
    """
    if counts.name in _staged:
        return _staged[counts.name]
    folder = scratch_folder()
    tile = tile_shape(counts.shape[2])
    target = zarr.create_array(
        zarr_store(folder),
        name=COUNTS,
        shape=counts.shape,
        chunks=tile,
        dtype=counts.dtype,
        compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
        fill_value=0,
        config={"write_empty_chunks": True},
    )
    da.store(counts.rechunk(tile), target, lock=False)
    _staged[counts.name] = counts_source(folder, version=counts.name, path=COUNTS)
    return _staged[counts.name]
