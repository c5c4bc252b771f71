"""Consolidated metadata: all documents of a store in that of its root, so that others open it with one request.

Only an exported store has them. They hide what is added to a store and changed in it later, so whoever writes takes
them away first; this package never reads them.
"""

from __future__ import annotations

import json
import warnings

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.errors import ZarrUserWarning

from eds_chunked.store.backend import Location, zarr_store
from eds_chunked.store.layout import ROOT_DOCUMENT

_CONSOLIDATED = "consolidated_metadata"


def consolidate(store: Store) -> None:
    """Put all documents into that of the root."""
    with warnings.catch_warnings():
        # That it is no part of the Zarr 3 specification yet; xarray and zarr-python both read it.
        warnings.filterwarnings("ignore", "Consolidated metadata is currently not part", ZarrUserWarning)
        zarr.consolidate_metadata(store)


def forget_consolidated(location: Location) -> None:
    """Take consolidated metadata away, if there are any: the store is about to be written."""
    store = zarr_store(location)
    document = sync(store.get(ROOT_DOCUMENT, default_buffer_prototype()))
    if document is None or _CONSOLIDATED.encode() not in document.to_bytes():
        return
    root = json.loads(document.to_bytes())
    if root.pop(_CONSOLIDATED, None) is not None:
        sync(store.set(ROOT_DOCUMENT, default_buffer_prototype().buffer.from_bytes(json.dumps(root).encode())))
