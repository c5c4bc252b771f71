"""The tiles of a counts array as stored bytes, whether each is a chunk of its own or several share a shard.

Zarr's way to a block is dense. This one goes from the bytes of a chunk to CSR and back, by the same keys and layouts.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.codec import Codec
from zarr.abc.store import RangeByteRequest, Store, SuffixByteRequest
from zarr.codecs import ShardingCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from eds_chunked.kernels.sparse import Csr, take_pixels
from eds_chunked.store.tile_codecs import CHECKSUM_BYTES, TILE_CODECS, TileCodec, checksum_of

DAMAGE = (ValueError, RuntimeError, OSError, MemoryError, OverflowError)
"""What reading a damaged tile raises: damaged bytes may promise any size and lie anywhere."""

_ABSENT = np.uint64(2**64 - 1)
_KEPT_INDEXES = 4096


class StoredTiles:
    """The tiles of an array of counts (y, x, energy) with all channels in each.

    Attributes
    ----------
    unit
        Tiles next to each other in a row that are written together: those of a shard, or 1.
    grid
        Tiles in y and in x.
    codec
        What the bytes of a tile are.
    """

    def __init__(self, array: zarr.Array[Any], codec: TileCodec) -> None:
        self.codec = codec
        self._array = array
        self._chunk = _three(array.chunks)
        self._shape = _three(array.shape)
        self.unit = 1 if array.shards is None else array.shards[1] // self._chunk[1]
        self.grid = -(-self._shape[0] // self._chunk[0]), -(-self._shape[1] // self._chunk[1])
        # Bytes are little-endian, whatever order an array in memory was opened with.
        self._dtype = np.dtype(array.dtype).newbyteorder("<")
        self._index = lru_cache(_KEPT_INDEXES)(self._read_index)
        self._folder = _folder(array.store)

    def load(self, ys: slice, xs: slice, channels: slice) -> Csr:
        """Return the counts of a box that lies within one tile."""
        height, width, _ = self._chunk
        row, column = ys.start // height, xs.start // width
        tile = self.codec.decode(self.read(row, column), self._chunk, channels, self._dtype)
        top, left = row * height, column * width
        if (ys.stop - top, xs.stop - left, ys.start, xs.start) == (height, width, top, left):
            return tile
        pixels = np.arange(ys.start - top, ys.stop - top)[:, None] * width + np.arange(xs.start - left, xs.stop - left)
        return take_pixels(tile, pixels.ravel())

    def encode(self, tile: Csr, shape: tuple[int, int]) -> bytes:
        """Return the bytes of a tile of ``shape`` (rows, columns), smaller than a chunk at the edge of the map."""
        return self.codec.encode(tile, shape, self._chunk, self._dtype)

    def read(self, row: int, column: int) -> bytes:
        """Return the bytes of a tile; raise FileNotFoundError if there is none."""
        key = self._key(row, column // self.unit)
        if self._array.shards is None:
            return self._get(key)
        offset, length = self._index(key)[column % self.unit]
        if offset == _ABSENT:
            raise FileNotFoundError(f"{key} has no tile {column}")
        return self._get(key, RangeByteRequest(int(offset), int(offset) + int(length)))

    def n_bytes(self, row: int, column: int) -> int:
        """Return how many bytes :meth:`read` would; raise FileNotFoundError if there is no such tile."""
        key = self._key(row, column // self.unit)
        if self._array.shards is None:
            if self._folder is not None:
                return (self._folder / key).stat().st_size
            return int(sync(self._array.store.getsize(key)))
        offset, length = self._index(key)[column % self.unit]
        if offset == _ABSENT:
            raise FileNotFoundError(f"{key} has no tile {column}")
        return int(length)

    def write(self, row: int, first_column: int, tiles: Sequence[bytes]) -> None:
        """Write the tiles of one unit, the first of them at ``first_column``; at the edge there are fewer."""
        data = tiles[0] if self._array.shards is None else _shard(tiles, self.unit)
        buffer = default_buffer_prototype().buffer.from_bytes(data)
        sync(self._array.store.set(self._key(row, first_column // self.unit), buffer))

    def _key(self, row: int, column: int) -> str:
        key = self._array.metadata.encode_chunk_key((row, column, 0))
        return f"{self._array.path}/{key}".lstrip("/")

    def _get(self, key: str, span: RangeByteRequest | SuffixByteRequest | None = None) -> bytes:
        if self._folder is not None:
            # By way of Zarr's event loop it would take as long as all the decoding of a sparse tile.
            try:
                return _read_file(self._folder / key, span)
            except FileNotFoundError:
                raise FileNotFoundError(f"{key} is absent") from None
        found = sync(self._array.store.get(key, default_buffer_prototype(), span))
        if found is None:
            raise FileNotFoundError(f"{key} is absent")
        return found.to_bytes()

    def _read_index(self, key: str) -> np.ndarray[Any, Any]:
        """Return (offset, length) of the tiles of a shard, as its last bytes say."""
        data = self._get(key, SuffixByteRequest(16 * self.unit + CHECKSUM_BYTES))
        entries, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if len(entries) != 16 * self.unit or checksum_of(entries) != checksum:
            raise ValueError(f"the index of shard {key} does not fit its checksum")
        return np.frombuffer(entries, "<u8").reshape(self.unit, 2)


def stored_tiles(array: zarr.Array[Any]) -> StoredTiles | None:
    """Return the tiles of an array of counts; None if it is stored in another way than ``convert`` does."""
    codecs: Sequence[Codec] = getattr(array.metadata, "codecs", ())
    if array.ndim != 3 or array.chunks[2] != array.shape[2] or np.dtype(array.dtype).kind != "u":
        return None
    if len(codecs) == 1 and isinstance(codecs[0], ShardingCodec):
        shard = codecs[0]
        standard = ShardingCodec(chunk_shape=shard.chunk_shape)
        if (shard.index_codecs, shard.index_location) != (standard.index_codecs, standard.index_location):
            return None
        if array.shards is None or array.shards[0] != array.chunks[0]:
            return None
        codecs = shard.codecs
    codec = next((codec for codec in TILE_CODECS.values() if codec.wrote(codecs)), None)
    return None if codec is None else StoredTiles(array, codec)


def _folder(store: Store) -> Path | None:
    """Return the folder of a store on a local disk."""
    while isinstance(store, WrapperStore):
        store = store._store
    return store.root if isinstance(store, LocalStore) else None


def _read_file(path: Path, span: RangeByteRequest | SuffixByteRequest | None) -> bytes:
    with path.open("rb") as file:
        if isinstance(span, SuffixByteRequest):
            file.seek(-min(span.suffix, os.fstat(file.fileno()).st_size), os.SEEK_END)
        elif span is not None:
            # An index may claim any range; room for it is made before it is read.
            if span.end > os.fstat(file.fileno()).st_size:
                raise ValueError(f"an index that points behind the end of {path.name}")
            file.seek(span.start)
            return file.read(span.end - span.start)
        return file.read()


def _shard(tiles: Sequence[bytes], unit: int) -> bytes:
    """Tiles one after the other, and behind them where each is."""
    index = np.full((unit, 2), _ABSENT, "<u8")
    lengths = [len(tile) for tile in tiles]
    index[: len(tiles), 0] = np.cumsum([0, *lengths[:-1]])
    index[: len(tiles), 1] = lengths
    entries = index.tobytes()
    return b"".join((*tiles, entries, checksum_of(entries)))


def _three(shape: Sequence[int]) -> tuple[int, int, int]:
    y, x, energy = shape
    return y, x, energy
