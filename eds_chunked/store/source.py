"""The counts of a store as something that dask can slice: the array behind ``open``."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import zarr

from eds_chunked.errors import EdsError, StoreError
from eds_chunked.kernels.sparse import Csr, from_dense
from eds_chunked.memory import Reads, Stored
from eds_chunked.schema import COUNTS, ENERGY, MAP_GROUP, X, Y
from eds_chunked.store.backend import WholeStore, zarr_store
from eds_chunked.store.chunks import DAMAGE, StoredTiles, stored_tiles


@dataclass(frozen=True)
class CountsSource:
    """Counts (y, x, energy) in a Zarr array; small to send, opened where it is read.

    ``version`` says what the counts are, ``document`` is a digest of how they are stored: together they tell apart
    arrays that stood at one place one after the other.
    """

    location: str
    path: str
    version: str
    document: str
    shape: tuple[int, int, int]
    tile: tuple[int, int, int]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        return 3

    def __getitem__(self, key: Any) -> np.ndarray[Any, Any]:
        with self._damage_at(key):
            return np.asarray(_array(self)[key])

    def load(self, ys: slice, xs: slice, channels: slice) -> Csr:
        """Return the counts of a box that lies within one tile: straight from its bytes, or of another codec dense."""
        tiles = _tiles(self)
        if tiles is None:
            return from_dense(self[ys, xs, channels].reshape(-1, channels.stop - channels.start))
        with self._damage_at((ys, xs, channels)):
            return tiles.load(ys, xs, channels)

    def stored_bytes(self, y: int, x: int) -> int:
        """Return the bytes that reading the tile with this pixel takes; as inflated where the layout is another."""
        tiles = _tiles(self)
        row, column = y // self.tile[0], x // self.tile[1]
        if tiles is None:
            return math.prod(self.tile) * self.dtype.itemsize
        with self._damage_at((slice(y, y + 1), slice(x, x + 1), slice(0, self.shape[2]))):
            return tiles.n_bytes(row, column)

    @contextmanager
    def _damage_at(self, key: Any) -> Iterator[None]:
        try:
            yield
        except EdsError:
            raise  # a store that does not answer is not damaged
        except DAMAGE as error:
            # Damage shows as whatever the codec raises; the place is what the user needs.
            raise StoreError(
                f"tile at {_text(key)} of {self.path} in {self.location}",
                found=f"unreadable bytes ({error})",
                expected="a whole tile",
                fix="convert the source again with --overwrite",
            ) from error


@dataclass(frozen=True)
class CountsToCome(CountsSource):
    """Counts that are not there yet, to plan with: a dry run does not make them. There is nothing to read.

    ``mean_counts`` are those of a pixel, where they are known.
    """

    mean_counts: float = math.inf

    @classmethod
    def of(
        cls,
        shape: tuple[int, int, int],
        tile: tuple[int, int, int],
        dtype: np.dtype[Any],
        *,
        mean_counts: float = math.inf,
    ) -> CountsToCome:
        return cls("", "", "", "", shape, tile, dtype, mean_counts=mean_counts)

    def stored_bytes(self, y: int, x: int) -> int:
        """Return the most that a tile may take."""
        return math.prod(self.tile) * self.dtype.itemsize


@lru_cache(maxsize=32)
def _array(source: CountsSource) -> zarr.Array[Any]:
    # Opened once a process: opening reads a document, which costs more than a small tile.
    return _open(source.location, source.path)


@lru_cache(maxsize=32)
def _tiles(source: CountsSource) -> StoredTiles | None:
    return stored_tiles(_array(source))


def _open(location: str, path: str) -> zarr.Array[Any]:
    try:
        return zarr.open_array(WholeStore(zarr_store(location, read_only=True)), path=path, mode="r")
    except (FileNotFoundError, KeyError, ValueError) as error:
        raise StoreError(
            f"{path} in {location}",
            found=f"no array that opens on {platform.node()} ({error})",
            expected="the counts of the map",
            fix="on a cluster put the store where all workers see it; else convert the source again with --overwrite",
        ) from error


def _text(key: Any) -> str:
    """``y 0:64, x 64:101, energy 0:2048`` for a tuple of slices."""
    if not isinstance(key, tuple) or not all(isinstance(k, slice) for k in key):
        return str(key)
    return ", ".join(f"{axis} {k.start}:{k.stop}" for axis, k in zip((Y, X, ENERGY), key, strict=False))


def reads_of_tiles(source: CountsSource) -> Reads:
    """Return what a pass over all tiles reads."""

    def stored() -> Stored:
        height, width, _ = source.shape
        corners = list(product(range(0, height, source.tile[0]), range(0, width, source.tile[1])))
        return Stored(len(corners), sum(source.stored_bytes(y, x) for y, x in corners))

    return Reads("tiles of the map", stored)


def counts_source(location: str, version: str, path: str = f"{MAP_GROUP}/{COUNTS}") -> CountsSource:
    """Return the source of the counts array at ``path`` of a store."""
    array = _open(location, path)
    height, width, n_channels = array.shape
    side_y, side_x, depth = array.chunks
    shape, tile = (height, width, n_channels), (side_y, side_x, depth)
    document = hashlib.sha256(json.dumps(array.metadata.to_dict(), default=str).encode()).hexdigest()
    return CountsSource(location, path, version, document, shape, tile, np.dtype(array.dtype))
