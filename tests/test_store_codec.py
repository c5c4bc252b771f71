"""The count codec inside Zarr: an ordinary array for everybody who has the package installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from eds_chunked.errors import ChunkLayoutError, StoreError
from eds_chunked.store.codec import NAME, CountsCodec

BEHIND = [ZstdCodec(level=1, checksum=True)]


def made(store: object, counts: np.ndarray, chunks: tuple[int, ...], **more: object) -> zarr.Array:
    array = zarr.create_array(
        store, name="counts", shape=counts.shape, chunks=chunks, dtype=counts.dtype, serializer=CountsCodec(),
        compressors=BEHIND, dimension_names=("y", "x", "energy")[-counts.ndim :], fill_value=0, **more,
    )  # fmt: skip
    array[...] = counts
    return array


@pytest.fixture
def counts() -> np.ndarray:
    rng = np.random.default_rng(7)
    counts = rng.poisson(rng.gamma(0.3, 2, (19, 23, 61))).astype(np.uint16)
    counts[3, 5, 7] = 65535
    counts[16:, :, :] = 0
    return counts


@given(
    hnp.arrays(
        st.sampled_from(["u1", "u2", "u4"]),
        hnp.array_shapes(min_dims=1, max_dims=4, max_side=9),
        elements=st.sampled_from([0, 0, 0, 1, 2, 8, 255]),
    ),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_any_array_comes_back(counts: np.ndarray, data: st.DataObject) -> None:
    chunks = tuple(data.draw(st.integers(1, size)) for size in counts.shape)
    store = MemoryStore()
    array = zarr.create_array(
        store, shape=counts.shape, chunks=chunks, dtype=counts.dtype, serializer=CountsCodec(), compressors=BEHIND
    )
    array[...] = counts
    np.testing.assert_array_equal(zarr.open_array(store)[...], counts)


@pytest.mark.parametrize("shards", [None, (8, 16, 61)])
def test_xarray_and_zarr_read_it_as_dense(tmp_path: Path, counts: np.ndarray, shards: tuple[int, ...] | None) -> None:
    made(tmp_path / "c.zarr", counts, (8, 8, 61), shards=shards)
    ds = xr.open_zarr(tmp_path / "c.zarr", consolidated=False)
    np.testing.assert_array_equal(ds["counts"].values, counts)
    np.testing.assert_array_equal(
        ds["counts"].isel(y=slice(3, 17), x=5, energy=slice(9, None)).values, counts[3:17, 5, 9:]
    )
    chain = json.loads((tmp_path / "c.zarr/counts/zarr.json").read_text())["codecs"]
    chain = chain if shards is None else chain[0]["configuration"]["codecs"]
    assert chain == [
        {"name": NAME, "configuration": {"version": 1}},
        {"name": "zstd", "configuration": {"level": 1, "checksum": True}},
    ]


def test_a_process_that_never_imports_the_package_reads_it(tmp_path: Path, counts: np.ndarray) -> None:
    made(tmp_path / "c.zarr", counts, (8, 8, 61))
    code = (
        f"import sys, zarr; a = zarr.open_array({str(tmp_path / 'c.zarr')!r}, path='counts'); print(int(a[...].sum()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert int(done.stdout) == int(counts.sum())


def test_the_bytes_are_the_same_for_every_dtype(tmp_path: Path, counts: np.ndarray) -> None:
    for dtype in ("u2", "u4"):
        made(tmp_path / dtype, counts.astype(dtype), (8, 8, 61))
    files = sorted(path.relative_to(tmp_path / "u2") for path in (tmp_path / "u2" / "counts" / "c").rglob("*"))
    assert files
    for file in files:
        if (tmp_path / "u2" / file).is_file():
            assert (tmp_path / "u2" / file).read_bytes() == (tmp_path / "u4" / file).read_bytes()


def test_a_narrowed_data_type_reads_the_same_bytes(tmp_path: Path, counts: np.ndarray) -> None:
    made(tmp_path / "c.zarr", counts.astype("u4"), (8, 8, 61))
    document = tmp_path / "c.zarr/counts/zarr.json"
    document.write_text(document.read_text().replace("uint32", "uint16"))
    array = zarr.open_array(tmp_path / "c.zarr", path="counts", mode="r")
    assert array.dtype == np.uint16
    np.testing.assert_array_equal(array[...], counts)


@pytest.mark.parametrize("dtype", ["i4", "f4", "u8", "bool"])
def test_other_dtypes_are_refused_when_the_array_is_made(dtype: str) -> None:
    with pytest.raises(ChunkLayoutError, match="unsigned integers of 1, 2 or 4 bytes"):
        zarr.create_array(MemoryStore(), shape=(3, 4), dtype=dtype, serializer=CountsCodec())


def test_a_later_version_is_refused(tmp_path: Path, counts: np.ndarray) -> None:
    made(tmp_path / "c.zarr", counts, (8, 8, 61))
    document = tmp_path / "c.zarr/counts/zarr.json"
    content = json.loads(document.read_text())
    assert content["codecs"][0] == {"name": NAME, "configuration": {"version": 1}}
    content["codecs"][0]["configuration"]["version"] = 2
    document.write_text(json.dumps(content))
    with pytest.raises(StoreError, match="version 2, expected version 1"):
        zarr.open_array(tmp_path / "c.zarr", path="counts")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_every_flipped_bit_of_a_chunk_is_found_or_harmless(data: st.DataObject) -> None:
    """The checksum of zstd finds it; what it does not cover (a bit that decoders ignore) changes no count."""
    counts = np.random.default_rng(3).poisson(0.4, (7, 5, 31)).astype(np.uint8)
    store = MemoryStore()
    made(store, counts, (7, 5, 31))
    key = "counts/c/0/0/0"
    chunk = bytearray(store._store_dict[key].to_bytes())
    bit = data.draw(st.integers(0, 8 * len(chunk) - 1))
    chunk[bit // 8] ^= 1 << (bit % 8)
    store._store_dict[key] = store._store_dict[key].from_bytes(bytes(chunk))
    try:
        read = zarr.open_array(store, path="counts")[...]
    except (RuntimeError, ValueError):
        return
    np.testing.assert_array_equal(read, counts)
