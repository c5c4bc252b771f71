"""Results while they are written: a revision that nobody sees until it is committed.

A step streams its maps straight into the place where they will stay. Committing puts one document; a crash before that
leaves the earlier revision as it was.
"""

from __future__ import annotations

import atexit
import json
import os
import platform
import re
import uuid
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from operator import methodcaller
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from eds_chunked.schema import ENERGY, GRAIN, RESULTS_GROUP, VARIABLES, X, Y
from eds_chunked.store.backend import (
    HeldBackStore,
    Location,
    delete_dir,
    is_remote,
    list_dir,
    location_text,
    zarr_store,
)
from eds_chunked.store.consolidation import forget_consolidated
from eds_chunked.store.layout import CHECKED, CLAIMS, group_document, revision_group
from eds_chunked.store.lock import local_folder
from eds_chunked.store.provenance import now
from eds_chunked.store.spectra_table import CHECKED_SPECTRA, spectra_shape

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

REVISION_NAME = re.compile(r"(?P<run>[a-z][a-z0-9_-]*)\.r(?P<number>[0-9]+)")

_LONGEST = timedelta(days=7)
"""No draft is open for longer, where no lock can tell."""
_MAP_CHUNK = 1024
"""Chunk side of maps that are in memory when they are written."""


@dataclass(frozen=True)
class MapTarget:
    """A stored array that workers write pieces of; no two may write the same chunk."""

    location: str
    path: str

    def open(self) -> zarr.Array[Any]:
        """Return the array itself, for many pieces."""
        return zarr.open_array(zarr_store(self.location), path=self.path, mode="r+")

    def write(self, key: Any, values: np.ndarray[Any, Any]) -> None:
        self.open()[key] = values


class Draft:
    """A new revision of a run, not committed yet."""

    def __init__(self, location: Location, step: str, run: str) -> None:
        self.location, self.step, self.run = location_text(location), step, run
        forget_consolidated(self.location)
        self.number = _claim(self.location, step, run)
        self._held = _hold(self.location, step, run, self.number)
        self.group = revision_group(step, run, self.number)
        self._store = HeldBackStore(zarr_store(self.location), group_document(self.group))
        self._content: dict[Any, _Content] = {}
        self.committed = False
        _open_drafts[self.location, self.group] = self

    def declare(self, template: xr.Dataset) -> None:
        """Write the documents of all arrays, and the values of those that are in memory; lazy ones are filled later."""
        encoding = {str(name): _encoding(variable) for name, variable in template.variables.items()}
        template.drop_encoding().to_zarr(
            self._store, group=self.group, mode="a", consolidated=False, compute=False, encoding=encoding
        )

    def copy(self, result: xr.Dataset) -> None:
        """Write a result that is elsewhere, piece by piece."""
        lazy = [name for name, variable in result.variables.items() if variable.chunks is not None]
        regular = {name: _regular_chunks(result.variables[name]) for name in lazy}
        result = result.assign({name: result[name].chunk(chunks) for name, chunks in regular.items()})
        encoding = {str(name): _encoding(variable) for name, variable in result.variables.items()}
        result = result.drop_encoding()
        result.attrs = {}  # The commit puts them.
        result.to_zarr(self._store, group=self.group, mode="a", consolidated=False, encoding=encoding)

    def target(self, name: str) -> MapTarget:
        """Return where the pieces of array ``name`` go."""
        return MapTarget(self.location, f"{self.group}/{name}")

    def put(self, name: str, values: np.ndarray[Any, Any]) -> None:
        """Write an array whole."""
        self.target(name).write(Ellipsis, values)

    def open(self) -> xr.Dataset:
        """Return the result, lazy on what was written; it stays valid when the revision is committed."""
        ds = open_result(self._store, self.group)
        self._content = {name: _content(variable) for name, variable in ds.variables.items()}
        ds.encoding["group"] = self.group
        ds.encoding["source"] = self.location
        return ds

    def holds(self, ds: xr.Dataset) -> bool:
        """Tell whether ``ds`` still is what was written here: no variable taken away, added or changed."""
        return self._content == {name: _content(variable) for name, variable in ds.variables.items()}

    def commit(self, attrs: dict[str, Any]) -> None:
        """Make the revision exist, with these attributes."""
        # NumPy's numbers and arrays are welcome in attributes, as they are in xarray.
        plain = json.loads(json.dumps(attrs, default=methodcaller("tolist")))
        zarr.open_group(self._store, path=self.group, mode="r+").attrs.put(plain)
        self._store.commit()
        self.committed = True
        self._close()

    def discard(self) -> None:
        """Delete what was written."""
        try:
            delete_dir(self.location, self.group)
        finally:
            self._close()

    def _close(self) -> None:
        _open_drafts.pop((self.location, self.group), None)
        if self._held is not None:
            os.close(self._held)
            self._held = None


_open_drafts: dict[tuple[str, str], Draft] = {}

_Content = tuple[Any, ...]


def _content(variable: xr.Variable) -> _Content:
    """What a variable holds, to be compared without computing: of lazy values the name that dask gives them.

    Not the object: ``ds["loadings"][0] = 0`` and ``*=`` change a variable in place.
    """
    if variable.chunks is not None:
        return variable.dims, variable.data.name, repr(variable.attrs)
    return variable.dims, variable.values.tobytes(), repr(variable.attrs)


def open_result(store: Store, group: str) -> xr.Dataset:
    """Open a result: maps and spectra of grains lazily, the rest (a few numbers and spectra) in memory.

    Variables are in the order of the schema.
    """
    lazy: xr.Dataset = xr.open_zarr(store, group=group, chunks={}, consolidated=False)
    # Without dask: the few numbers are read here and now, whatever cluster is active.
    plain = xr.open_zarr(store, group=group, chunks=None, consolidated=False)
    order = {name: number for number, name in enumerate(VARIABLES)}
    names = sorted(lazy.data_vars, key=lambda name: order.get(str(name), len(order)))
    small = [name for name in names if Y not in lazy[name].dims and not _is_spectra(lazy[name].variable)]
    loaded = plain[small].load()
    variables = {name: loaded[name] if name in small else lazy[name] for name in names}
    return xr.Dataset(variables, coords=lazy.coords, attrs=lazy.attrs)


def draft_of(ds: xr.Dataset, location: Location) -> Draft | None:
    """Return the draft in the store at ``location`` that holds ``ds``, if there is one."""
    draft = _open_drafts.get((location_text(location), str(ds.encoding.get("group"))))
    return draft if draft is not None and draft.holds(ds) else None


@atexit.register
def _discard_open_drafts() -> None:
    """Delete the drafts of this process when it ends; what cannot be deleted then is left to ``clean``.

    Drivers of object stores may need threads, of which an interpreter that ends starts no more.
    """
    for draft in sorted(_open_drafts.values(), key=lambda draft: is_remote(draft.location)):
        with suppress(Exception):
            draft.discard()


def revision_numbers(location: Location, step: str) -> dict[str, list[int]]:
    """Return the numbers that exist for each run of a step, rising, committed or not."""
    found: dict[str, list[int]] = {}
    for name in list_dir(location, f"{RESULTS_GROUP}/{step}"):
        match = REVISION_NAME.fullmatch(name)
        if match:
            found.setdefault(match["run"], []).append(int(match["number"]))
    return {run: sorted(numbers) for run, numbers in found.items()}


def _claim(location: str, step: str, run: str) -> int:
    """Take the next free number of a run. Of two that try at once one gets it: the claim is put only if absent."""
    number = max(revision_numbers(location, step).get(run, [0]))
    store = zarr_store(location)
    prototype = default_buffer_prototype()
    mine = json.dumps({"id": uuid.uuid4().hex, "when": now(), "host": platform.node()}).encode()
    while True:
        number += 1
        key = _claim_key(step, run, number)
        sync(store.set_if_not_exists(key, prototype.buffer.from_bytes(mine)))
        holder = sync(store.get(key, prototype))
        if holder is not None and holder.to_bytes() == mine:
            return number


def _claim_key(step: str, run: str, number: int) -> str:
    return f"{CLAIMS}/{step}/{run}.r{number}"


def _hold(location: str, step: str, run: str, number: int) -> int | None:
    """Lock a claim for as long as its draft is open: the system gives the lock back whatever ends this process."""
    folder = local_folder(location)
    if folder is None or fcntl is None:
        return None
    descriptor = os.open(folder / _claim_key(step, run, number), os.O_RDONLY)
    with suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def why_open(location: Location, step: str, run: str, number: int) -> str | None:
    """Tell why a revision that is not committed may still be written by somebody, or None if it was left behind.

    A lock on its claim says so for certain where it was claimed on this machine, on a disk. Elsewhere its age has to.
    """
    key = _claim_key(step, run, number)
    held = _is_locked(location, key)
    if held:
        return "being written"
    claim = sync(zarr_store(location, read_only=True).get(key, default_buffer_prototype()))
    try:
        about = json.loads(b"" if claim is None else claim.to_bytes())
        host, age = about["host"], datetime.now(UTC) - datetime.fromisoformat(about["when"])
    except (ValueError, TypeError, KeyError):
        return f"of unknown age: its claim {'is gone' if claim is None else 'cannot be read'}"
    if (held is False and host == platform.node()) or age > _LONGEST:
        return None
    return f"claimed by {host} less than {_LONGEST.days} days ago"


def _is_locked(location: Location, key: str) -> bool | None:
    """Tell whether a claim is locked; None where there are no locks."""
    folder = local_folder(location)
    if folder is None or fcntl is None:
        return None
    try:
        descriptor = os.open(folder / key, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return False


def _is_spectra(variable: xr.Variable) -> bool:
    """Tell whether a variable has a spectrum a grain."""
    return variable.dims == (GRAIN, ENERGY)


def _regular_chunks(variable: xr.Variable) -> dict[Any, int]:
    """Squares of pixels, one layer each, for maps, some rows of a table of spectra; whole otherwise."""
    if _is_spectra(variable):
        n_spectra, n_channels = variable.shape
        rows = spectra_shape(n_spectra, n_channels, variable.dtype.itemsize)
        return dict(zip(variable.dims, rows, strict=True))
    if Y not in variable.dims or variable.ndim < 2:
        return dict.fromkeys(variable.dims, -1)
    return {dim: min(size, _MAP_CHUNK) if dim in (Y, X) else 1 for dim, size in variable.sizes.items()}


def _encoding(variable: xr.Variable) -> dict[str, Any]:
    if variable.chunks is not None:
        codecs = CHECKED_SPECTRA if _is_spectra(variable) else CHECKED
        return codecs | {"chunks": tuple(sizes[0] for sizes in variable.chunks)}
    if Y not in variable.dims or variable.ndim < 2:
        return CHECKED
    return CHECKED | {"chunks": tuple(_regular_chunks(variable).values())}
