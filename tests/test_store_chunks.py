"""Tiles as stored bytes: the same keys, bytes and shards as Zarr's own, and straight to CSR."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, BytesCodec
from zarr.storage import MemoryStore

from eds_chunked.kernels.sparse import from_dense, to_dense
from eds_chunked.store.chunks import StoredTiles, stored_tiles
from eds_chunked.store.tile_codecs import TILE_CODECS

TILE = (8, 8, 61)
SHAPE = (19, 43, 61)
SHARDS = [None, (8, 32, 61)]


@pytest.fixture(scope="module", params=sorted(TILE_CODECS))
def codec(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=SHARDS, ids=["chunks", "shards"])
def shards(request: pytest.FixtureRequest) -> tuple[int, ...] | None:
    return request.param


def drawn(dtype: str = "u2") -> np.ndarray:
    counts = np.random.default_rng(5).poisson(0.7, SHAPE).astype(dtype)
    counts[2, 3, 4] = 1000 if dtype != "u1" else 250
    counts[8:16, 8:16] = 0
    return counts


def array_of(codec: str, shards: Any, dtype: str = "u2", store: MemoryStore | None = None) -> zarr.Array:
    return zarr.create_array(
        MemoryStore() if store is None else store, name="counts", shape=SHAPE, chunks=TILE, shards=shards, dtype=dtype,
        fill_value=0, config={"write_empty_chunks": True}, **TILE_CODECS[codec].pipeline(),
    )  # fmt: skip


def tiles_of(array: zarr.Array) -> StoredTiles:
    tiles = stored_tiles(array)
    assert tiles is not None
    return tiles


def write_by_ourselves(tiles: StoredTiles, counts: np.ndarray) -> None:
    rows, columns = tiles.grid
    for row in range(rows):
        for first in range(0, columns, tiles.unit):
            encoded = []
            for column in range(first, min(columns, first + tiles.unit)):
                tile = counts[row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]
                encoded.append(tiles.encode(from_dense(tile.reshape(-1, SHAPE[2])), tile.shape[:2]))
            tiles.write(row, first, encoded)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
def test_zarr_reads_what_we_write(codec: str, shards: Any, dtype: str) -> None:
    counts = drawn(dtype)
    array = array_of(codec, shards, dtype)
    write_by_ourselves(tiles_of(array), counts)
    np.testing.assert_array_equal(array[...], counts)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4"])
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_we_read_what_zarr_writes(codec: str, shards: Any, dtype: str, data: st.DataObject) -> None:
    counts = drawn(dtype)
    array = array_of(codec, shards, dtype)
    array[...] = counts
    tiles = tiles_of(array)
    assert tiles.codec is TILE_CODECS[codec]
    assert tiles.grid == (3, 6)
    row, column = data.draw(st.integers(0, 2)), data.draw(st.integers(0, 5))
    ends = [(row * 8, min(19, row * 8 + 8)), (column * 8, min(43, column * 8 + 8)), (0, 61)]
    box = []
    for first, stop in ends:
        a = data.draw(st.integers(first, stop - 1))
        box.append(slice(a, data.draw(st.integers(a + 1, stop))))
    csr = tiles.load(*box)
    expected = counts[tuple(box)]
    np.testing.assert_array_equal(to_dense(csr).reshape(expected.shape), expected)


def test_our_chunks_are_zarrs_byte_for_byte(codec: str) -> None:
    ours, theirs = MemoryStore(), MemoryStore()
    write_by_ourselves(tiles_of(array_of(codec, None, store=ours)), drawn())
    array_of(codec, None, store=theirs)[...] = drawn()
    keys = {key for key in theirs._store_dict if "/c/" in key}
    assert len(keys) == 18
    assert {key: ours._store_dict[key].to_bytes() for key in keys} == {
        key: theirs._store_dict[key].to_bytes() for key in keys
    }


def test_an_absent_tile_is_no_tile_of_zeros(codec: str, shards: Any) -> None:
    array = array_of(codec, shards)
    with pytest.raises(FileNotFoundError, match="absent"):
        tiles_of(array).read(0, 0)
    if shards is not None:
        tiles = tiles_of(array)
        tiles.write(0, 0, [tiles.encode(from_dense(drawn()[:8, :8].reshape(64, 61)), (8, 8))])
        tiles.read(0, 0)
        with pytest.raises(FileNotFoundError, match="has no tile 1"):
            tiles.read(0, 1)


def test_a_damaged_shard_index_is_found() -> None:
    array = array_of("counts", SHARDS[1])
    write_by_ourselves(tiles_of(array), drawn())
    key = "counts/c/0/0/0"
    data = bytearray(array.store._store_dict[key].to_bytes())
    data[-10] ^= 1
    array.store._store_dict[key] = array.store._store_dict[key].from_bytes(bytes(data))
    with pytest.raises(ValueError, match="does not fit its checksum"):
        tiles_of(array).read(0, 0)


@pytest.mark.parametrize("codec_with_bytes", ["zstd", "lz4"])
def test_a_flipped_byte_in_a_stock_codec_is_found(codec_with_bytes: str) -> None:
    array = array_of(codec_with_bytes, None)
    tiles = tiles_of(array)
    write_by_ourselves(tiles, drawn())
    data = bytearray(tiles.read(0, 0))
    data[len(data) // 2] ^= 4
    tiles.write(0, 0, [bytes(data)])
    with pytest.raises(ValueError, match="checksum"):
        tiles.load(slice(0, 8), slice(0, 8), slice(0, 61))


@pytest.mark.parametrize(
    "arguments",
    [
        {"compressors": BloscCodec(cname="lz4")},
        {"compressors": None},
        {"chunks": (8, 8, 31), **TILE_CODECS["counts"].pipeline()},
        {"shards": (16, 16, 61), **TILE_CODECS["counts"].pipeline()},
        {"serializer": BytesCodec(endian="big"), **TILE_CODECS["zstd"].pipeline()},
        {"dtype": "i2", **TILE_CODECS["zstd"].pipeline()},
        {"dtype": "f4", **TILE_CODECS["zstd"].pipeline()},
    ],
)
def test_what_convert_does_not_write_is_left_to_zarr(arguments: dict[str, Any]) -> None:
    given = {"shape": SHAPE, "chunks": TILE, "dtype": "u2"} | arguments
    assert stored_tiles(zarr.create_array(MemoryStore(), **given)) is None


def test_an_array_opened_in_the_other_byte_order_has_the_same_counts() -> None:
    counts = drawn()
    array = array_of("zstd", None, dtype=">u2")
    array[...] = counts
    loaded = to_dense(tiles_of(array).load(slice(0, 8), slice(0, 8), slice(0, 61)))
    np.testing.assert_array_equal(loaded.reshape(8, 8, 61), counts[:8, :8])
