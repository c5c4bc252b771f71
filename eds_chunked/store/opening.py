"""Opening a store: the map, a result, or the tree of all of it."""

from __future__ import annotations

import os
import shlex
import warnings
from enum import Enum
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from zarr.errors import ZarrUserWarning

from eds_chunked import schema
from eds_chunked.errors import StoreError, StoreNotFoundError
from eds_chunked.store.backend import Location, exists, list_dir, location_text, zarr_store
from eds_chunked.store.journal import PLAN, Journal, plan_at
from eds_chunked.store.layout import (
    FORMAT,
    FORMAT_ATTR,
    FORMAT_VERSION,
    ROOT_DOCUMENT,
    VERSION_ATTR,
    beside,
    group_document,
)
from eds_chunked.store.lock import MARK, local_folder, only_a_lock
from eds_chunked.store.origin import PATH
from eds_chunked.store.source import CountsSource, counts_source


class State(Enum):
    """What is at a location."""

    NOTHING = "nothing"
    FOREIGN = "something else"
    UNFINISHED = "a store without a map"
    WHOLE = "a store"


def state_of(location: Location) -> State:
    """Tell what is at ``location``."""
    if not list_dir(location, "") and not os.path.isfile(location_text(location)):
        return State.NOTHING
    if is_ours(location):
        return State.WHOLE if exists(location, group_document(schema.MAP_GROUP)) else State.UNFINISHED
    if not exists(location, ROOT_DOCUMENT) and exists(location, PLAN):
        return State.UNFINISHED
    folder = local_folder(location)
    return State.NOTHING if folder is not None and folder.is_dir() and only_a_lock(folder) else State.FOREIGN


def is_ours(location: Location) -> bool:
    """Tell whether there is a store of this package at ``location``, whole or not."""
    if not exists(location, ROOT_DOCUMENT):
        return False
    try:
        root = zarr.open_group(zarr_store(location, read_only=True), mode="r")
    except (ValueError, KeyError, FileNotFoundError):
        return False  # a zarr.json, but of an array or of another version
    return root.attrs.get(FORMAT_ATTR) == FORMAT


def unfinished(location: Location, *, at: str | None = None) -> tuple[str, str]:
    """Say of a store without a map how far its conversion came, and what command goes on with it.

    ``at`` is the store that the command is to name, where it is another.
    """
    plan = plan_at(location, at=at)
    words = ["eds-chunked", "convert", "SOURCE", shlex.quote(at or location_text(location)), "--resume"]
    if plan is None:
        return "a map whose conversion stopped before its first row", " ".join(words)
    words[2] = shlex.quote(str(plan.source[PATH]))
    if plan.pick is not None:
        words += ["--map", shlex.quote(str(plan.pick))]
    stopped_at = Journal(zarr_store(location, read_only=True)).stopped_at
    return f"a map whose conversion stopped at row {stopped_at} of {plan.shape[0]}", " ".join(words)


def check_no_half_replacement(path: str) -> None:
    """Raise StoreError if a crash left ``path`` without a store, between the old one and the one to replace it."""
    new, old = beside(path)
    marked = os.path.isfile(os.path.join(old, MARK))
    if marked and state_of(path) is State.NOTHING and state_of(old) in (State.WHOLE, State.UNFINISHED):
        _, command = unfinished(new, at=path)
        raise StoreError(
            f"store {path}",
            found="a replacement that stopped halfway: the old store and the new one wait beside",
            expected="one store",
            fix=command,
        )


def check_store(location: Location) -> None:
    """Raise an error that says what is at ``location``, unless it is a whole store."""
    text = location_text(location)
    state = state_of(location)
    if state is State.NOTHING:
        folder = local_folder(location)
        if folder is not None:
            check_no_half_replacement(os.path.realpath(folder))
        raise StoreNotFoundError(
            f"store {text}", found="nothing", expected="an eds_chunked store", fix=f"eds-chunked convert SOURCE {text}"
        )
    if state is State.FOREIGN:
        raise StoreError(
            f"store {text}",
            found="something else",
            expected="an eds_chunked store",
            fix="eds-chunked convert SOURCE STORE",
        )
    if state is State.UNFINISHED:
        found, command = unfinished(location)
        raise StoreError(f"store {text}", found=found, expected="a whole map", fix=command)
    version = zarr.open_group(zarr_store(location, read_only=True), mode="r").attrs.get(VERSION_ATTR)
    if version != FORMAT_VERSION:
        raise StoreError(
            f"store {text}",
            found=f"format version {version}",
            expected=f"version {FORMAT_VERSION}",
            fix="open it with the version of eds_chunked that wrote it",
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
    ds[schema.COUNTS] = lazy_counts(counts_source(text, ds.attrs[schema.FINGERPRINT]))
    ds.encoding["source"] = text
    return ds


def lazy_counts(source: CountsSource) -> xr.Variable:
    """Return the counts of a source as a variable of one chunk a tile; nothing is read."""
    # No fancy indexing is pushed down to the source: the engine recognises plain slices of it.
    meta = np.empty((0, 0, 0), source.dtype)  # else dask would read some
    counts = da.from_array(source, chunks=source.tile, asarray=False, fancy=False, meta=meta)
    return xr.Variable(schema.VARIABLES[schema.COUNTS].dims, counts, schema.attributes(schema.COUNTS))


def open_tree(location: Location) -> xr.DataTree:
    """Open everything in a store as a DataTree: the map, the images and all committed results, lazily."""
    check_store(location)
    store: Any = zarr_store(location, read_only=True)
    with warnings.catch_warnings():
        # A result that is being written, or was left by a crash, has no group document yet, and Zarr points at it.
        warnings.filterwarnings("ignore", "Object at .* is not recognized", ZarrUserWarning)
        return xr.open_datatree(store, engine="zarr", consolidated=False, chunks={})


open = open_map  # its public name; within the package the builtin keeps its own
