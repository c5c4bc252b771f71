"""Where things are in a store, and how large a tile is."""

from __future__ import annotations

import math
import os
from typing import Any

from zarr.codecs import ZstdCodec

from eds_chunked.schema import COUNTS, MAP_GROUP, RESULTS_GROUP

FORMAT = "eds_chunked"
FORMAT_VERSION = 1
FORMAT_ATTR = "format"
VERSION_ATTR = "format_version"
READER_ATTR = "how_to_read"
HOW_TO_READ = (
    "A Zarr 3 store: xarray.open_datatree(store, consolidated=False, chunks={}), or eds_chunked.open(store). "
    "Where the codec of the counts is eds_chunked.counts, both need: pip install eds-chunked."
)

ROOT_DOCUMENT = "zarr.json"

PRIVATE_FOLDER = f"{MAP_GROUP}/{COUNTS}/__eds"
"""What the package notes for itself: journal, lock, claims, run log. Loose files among groups would make Zarr warn."""
CLAIMS = f"{PRIVATE_FOLDER}/claims"
"""The numbers of revisions that are taken."""
LOG = f"{PRIVATE_FOLDER}/log"
"""What ran on the store, a document an entry."""

CHECKED: dict[str, Any] = {"compressors": (ZstdCodec(level=1, checksum=True),)}
"""How everything but the counts is encoded: every Zarr reads it, and a flipped bit is an error."""

_TILE_BYTES = 32 * 2**20
_LARGEST_SIDE = 64

_SHARD_TILES = 16
_TILES_WITHOUT_SHARDS = 10_000
"""So many files or objects every file system and object store takes with ease."""


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


def shard_shape(
    shape: tuple[int, int, int], tile: tuple[int, int, int], *, wanted: bool | None
) -> tuple[int, int, int] | None:
    """Return the shard of ``counts`` for a map of ``shape``, or None where every tile is a chunk of its own.

    A shard is one row of tiles high, since a conversion goes through the map in rows, and 16 tiles wide. With
    ``wanted=None`` there are shards from some 10 000 tiles on.
    """
    side_y, side_x, depth = tile
    n_tiles = -(-shape[0] // side_y) * -(-shape[1] // side_x)
    if wanted is False or (wanted is None and n_tiles <= _TILES_WITHOUT_SHARDS):
        return None
    return side_y, side_x * _SHARD_TILES, depth


def beside(path: str) -> tuple[str, str]:
    """Return where the replacement of the store at ``path`` is built, and where that store waits for its removal."""
    hidden = os.path.join(os.path.dirname(path), f".{os.path.basename(path)}")
    return f"{hidden}.new", f"{hidden}.old"


def revision_group(step: str, run: str, number: int) -> str:
    """Group of one revision of a run: ``results/nmf/k4.r2``."""
    return f"{RESULTS_GROUP}/{step}/{run}.r{number}"
