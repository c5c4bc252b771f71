"""Where things are in a store, and how large a tile is."""

from __future__ import annotations

import math

from eds_chunked.schema import RESULTS_GROUP

FORMAT = "eds_chunked"
FORMAT_VERSION = 1
FORMAT_ATTR = "format"
VERSION_ATTR = "format_version"
READER_ATTR = "how_to_read"
HOW_TO_READ = "A Zarr 3 store: xarray.open_datatree(store, consolidated=False, chunks={}), or eds_chunked.open(store)."

ROOT_DOCUMENT = "zarr.json"

_TILE_BYTES = 32 * 2**20
_LARGEST_SIDE = 64


def group_document(group: str) -> str:
    """Key of the document that makes ``group`` a group."""
    return f"{group}/zarr.json"


def tile_shape(n_channels: int) -> tuple[int, int, int]:
    """Return the chunk of ``counts``: a square of pixels x all channels.

    A tile of uint32 is at most 32 MiB: 64 x 64 pixels at 2048 channels, a smaller power of two for more. It depends
    on the map alone, never on the memory budget: a store outlives the machine that wrote it.
    """
    side = math.isqrt(_TILE_BYTES // (4 * n_channels))
    side = min(_LARGEST_SIDE, 2 ** max(0, side.bit_length() - 1))
    return side, side, n_channels


def revision_group(step: str, run: str, number: int) -> str:
    """Group of one revision of a run: ``results/nmf/k4.r2``."""
    return f"{RESULTS_GROUP}/{step}/{run}.r{number}"
