"""Opening a store: the map, a result, or the tree of all of it."""

from __future__ import annotations

import os
import warnings
from typing import Any

import dask.array as da
import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning

from eds_chunked import schema
from eds_chunked.errors import StoreError, StoreNotFoundError
from eds_chunked.store.backend import Location, exists, list_dir, location_text, zarr_store
from eds_chunked.store.layout import (
    FORMAT,
    FORMAT_ATTR,
    FORMAT_VERSION,
    ROOT_DOCUMENT,
    VERSION_ATTR,
    group_document,
)
from eds_chunked.store.source import counts_source


def is_ours(location: Location) -> bool:
    """Tell whether there is a store of this package at ``location``, whole or not."""
    if not exists(location, ROOT_DOCUMENT):
        return False
    try:
        root = zarr.open_group(zarr_store(location, read_only=True), mode="r")
    except (ValueError, KeyError, FileNotFoundError):
        return False  # a zarr.json, but of an array or of another version
    return root.attrs.get(FORMAT_ATTR) == FORMAT


def check_store(location: Location) -> None:
    """Raise an error that says what is at ``location``, unless it is a whole store."""
    text = location_text(location)
    if not list_dir(location, "") and not os.path.isfile(text):
        raise StoreNotFoundError(
            f"store {text}", found="nothing", expected="an eds_chunked store", fix=f"eds-chunked convert SOURCE {text}"
        )
    if not is_ours(location):
        raise StoreError(
            f"store {text}",
            found="something else",
            expected="an eds_chunked store",
            fix="eds-chunked convert SOURCE STORE",
        )
    version = zarr.open_group(zarr_store(location, read_only=True), mode="r").attrs.get(VERSION_ATTR)
    if version != FORMAT_VERSION:
        raise StoreError(
            f"store {text}",
            found=f"format version {version}",
            expected=f"version {FORMAT_VERSION}",
            fix="open it with the version of eds_chunked that wrote it",
        )
    if not exists(location, group_document(schema.MAP_GROUP)):
        raise StoreError(
            f"store {text}",
            found="a map whose conversion did not finish",
            expected="a whole map",
            fix=f"eds-chunked convert SOURCE {text} --overwrite",
        )


def open_map(location: Location) -> xr.Dataset:
    """Open the map of a store, lazily.

    Returns
    -------
    Dataset with ``counts`` (y, x, energy) as a dask array of one chunk a tile, the survey, and coordinates in um and
    keV. Nothing but metadata and coordinates is read.

    Raises
    ------
    StoreNotFoundError, StoreError
        There is no store, or its conversion did not finish.
    """
    check_store(location)
    text = location_text(location)
    ds: xr.Dataset = xr.open_zarr(
        zarr_store(location, read_only=True),
        group=schema.MAP_GROUP,
        chunks=None,
        consolidated=False,
        drop_variables=[schema.COUNTS],
    )
    source = counts_source(text, ds.attrs[schema.FINGERPRINT])
    # No fancy indexing is pushed down to the source: the engine recognises plain slices of it.
    counts = da.from_array(source, chunks=source.tile, asarray=False, fancy=False)
    ds[schema.COUNTS] = (schema.VARIABLES[schema.COUNTS].dims, counts, schema.attributes(schema.COUNTS))
    ds.encoding["source"] = text
    return ds


def open_tree(location: Location) -> xr.DataTree:
    """Open everything in a store as a DataTree: the map, the images and all committed results, lazily."""
    check_store(location)
    store: Any = zarr_store(location, read_only=True)
    with warnings.catch_warnings():
        # A result that is being written, or was left by a crash, has no group document yet, and Zarr points at it.
        warnings.filterwarnings("ignore", "Object at .* is not recognized", ZarrUserWarning)
        return xr.open_datatree(store, engine="zarr", consolidated=False, chunks={})


open = open_map  # its public name; within the package the builtin keeps its own
