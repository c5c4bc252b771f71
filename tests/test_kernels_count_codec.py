"""The count codec: equal to its twin, exact for every input, and never out of bounds."""

from __future__ import annotations

import hashlib
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked.kernels import count_codec
from eds_chunked.kernels.sparse import from_dense, to_dense
from tests import count_payload

DTYPES = ("u1", "u2", "u4")


def decoded(payload: bytes, dense: np.ndarray, channels: slice | None = None, dtype: str | None = None) -> np.ndarray:
    channels = channels or slice(0, dense.shape[1])
    return to_dense(count_codec.decode(payload, *dense.shape, channels, np.dtype(dtype or dense.dtype)))


def drawn_counts(shape: tuple[int, int], *, fill: float, largest: int, seed: int, dtype: str) -> np.ndarray:
    """Counts over the whole range of sizes, most of them small."""
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(0, np.log(largest + 1), shape)).astype(np.uint64)
    most = min(largest, int(np.iinfo(dtype).max))
    return (np.clip(size, 1, most) * (rng.random(shape) < fill)).astype(dtype)


counts = st.builds(
    drawn_counts,
    st.tuples(st.integers(1, 23), st.integers(1, 411)),
    fill=st.sampled_from([0.0, 0.003, 0.05, 0.4, 0.97, 1.0]),
    largest=st.sampled_from([1, 7, 8, 9, 134, 135, 136, 255, 256, 65535, 65536, 2**32 - 1]),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(DTYPES),
)


@given(counts)
@settings(max_examples=150, deadline=None)
def test_bytes_equal_those_of_the_format_description(dense: np.ndarray) -> None:
    payload = count_codec.encode(from_dense(dense))
    assert payload == count_payload.encode(dense)
    np.testing.assert_array_equal(count_payload.decode(payload), dense)


@given(counts, st.data())
@settings(max_examples=150, deadline=None)
def test_any_range_of_channels_comes_back_exactly(dense: np.ndarray, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, dense.shape[1] - 1))
    stop = data.draw(st.integers(first + 1, dense.shape[1]))
    payload = count_codec.encode(from_dense(dense))
    csr = count_codec.decode(payload, *dense.shape, slice(first, stop), dense.dtype)
    np.testing.assert_array_equal(to_dense(csr), dense[:, first:stop])
    assert csr.value.dtype == dense.dtype
    assert csr.n_channels == stop - first
    assert np.all(csr.value > 0)


@pytest.mark.parametrize("n_channels", [65535, 65536, 65537, 140_003])
def test_any_number_of_channels(n_channels: int) -> None:
    dense = np.zeros((3, n_channels), np.uint16)
    dense[0, [0, 30, 31, 62, 95]] = [1, 2, 3, 300, 9]
    dense[2, [n_channels - 1]] = 65535
    payload = count_codec.encode(from_dense(dense))
    assert payload == count_payload.encode(dense)
    np.testing.assert_array_equal(decoded(payload, dense), dense)


def test_a_full_pixel_of_many_channels() -> None:
    dense = np.ones((2, 70_001), np.uint8)
    payload = count_codec.encode(from_dense(dense))
    np.testing.assert_array_equal(decoded(payload, dense), dense)


def test_bytes_do_not_depend_on_the_dtype_and_a_wider_one_reads_them() -> None:
    dense = drawn_counts((11, 131), fill=0.3, largest=255, seed=5, dtype="u1")
    payloads = {count_codec.encode(from_dense(dense.astype(dtype))) for dtype in DTYPES}
    assert len(payloads) == 1
    for dtype in DTYPES:
        np.testing.assert_array_equal(decoded(payloads.copy().pop(), dense, dtype=dtype), dense)


@pytest.mark.parametrize("fill", [0.01, 1.0])
def test_a_count_that_the_dtype_cannot_hold_is_an_error_and_not_another_count(fill: float) -> None:
    dense = drawn_counts((7, 61), fill=fill, largest=255, seed=3, dtype="u2")
    dense[3, 5] = 256
    payload = count_codec.encode(from_dense(dense))
    with pytest.raises(ValueError, match="dtype of the array cannot hold"):
        decoded(payload, dense, dtype="u1")
    dense[3, 5] = 255
    np.testing.assert_array_equal(decoded(count_codec.encode(from_dense(dense)), dense, dtype="u1"), dense)


@given(counts)
@settings(max_examples=60, deadline=None)
def test_no_block_is_longer_than_its_dense_bytes(dense: np.ndarray) -> None:
    assert len(count_codec.encode(from_dense(dense))) <= 28 + dense.size * np.min_scalar_type(dense.max()).itemsize


def test_a_golden_chunk_pins_the_format() -> None:
    """Written down byte by byte; a change of it is a new version."""
    dense = np.zeros((3, 201), np.uint32)
    dense[0, [0, 32, 62, 63]] = [1, 2, 7, 8]
    dense[2, [40, 41, 42, 43, 75, 200]] = [1, 2, 3, 1000, 2**32 - 1, 1]
    payload = count_codec.encode(from_dense(dense))
    expected = bytes.fromhex(
        "01000000 03000000 c9000000 0a00000000000000 0400000000000000"
        "0400 0000 0600"
        "00 3f dd e0  1f 20 40 e0 ff 1f"
        "00 09 00 5d"
        "00 e007 f7ffffff0f"
    )
    assert payload == expected
    np.testing.assert_array_equal(decoded(expected, dense), dense)
    full = np.arange(1, 13, dtype=np.uint32).reshape(3, 4) * 300
    expected = bytes.fromhex(
        "01010200 03000000 04000000 0000000000000000 00000000000000002c5884b0dc0834608cb8e410 01020304050708090a0b0c0e"
    )
    assert count_codec.encode(from_dense(full)) == expected
    np.testing.assert_array_equal(decoded(expected, full), full)


def test_a_larger_block_has_the_bytes_it_had_when_the_format_was_fixed() -> None:
    dense = np.fromfunction(lambda i, j: (i * 7919 + j * 104729) % 1009, (61, 509)).astype(np.uint32)
    dense = np.where(dense < 60, dense**2, 0)
    digest = hashlib.sha256(count_codec.encode(from_dense(dense))).hexdigest()
    assert digest == "ad6a12e2145f259d1e2810bbd7234e2935bc3cd201cee153614ee4875f5db805"


def _payload(fill: float = 0.2, shape: tuple[int, int] = (13, 97)) -> tuple[bytes, np.ndarray]:
    dense = drawn_counts(shape, fill=fill, largest=3000, seed=11, dtype="u2")
    return count_codec.encode(from_dense(dense)), dense


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_hostile_bytes_give_an_error_or_other_counts_but_stay_in_bounds(data: st.DataObject) -> None:
    """Every index is checked: a decoded block has the shape it was asked for, rising channels and positive values."""
    payload, dense = _payload(fill=data.draw(st.sampled_from([0.05, 0.3, 1.0])))
    mutated = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutated)))
    whole = data.draw(st.booleans())
    first = data.draw(st.integers(0, dense.shape[1] - 1))
    try:
        csr = count_codec.decode(
            bytes(mutated if whole else mutated[:cut]), *dense.shape, slice(first, dense.shape[1]), dense.dtype
        )
    except ValueError:
        return
    assert csr.n_pixels == dense.shape[0]
    assert csr.indptr[0] == 0
    assert csr.indptr[-1] == len(csr.channel) == len(csr.value)
    for i in range(csr.n_pixels):
        row = csr.channel[csr.indptr[i] : csr.indptr[i + 1]].astype(int)
        assert np.all(np.diff(row) > 0)
        assert np.all(row < csr.n_channels)
    assert np.all(csr.value > 0)


@given(st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_noise_is_an_error(noise: bytes) -> None:
    header = struct.pack("<4B2I2Q", 1, 0, 0, 0, 13, 97, len(noise), 0)
    for payload in (noise, header + noise):
        with pytest.raises(ValueError, match=r"where|known|other lengths"):
            count_codec.decode(payload, 13, 97, slice(0, 97), np.dtype("u2"))


@pytest.mark.parametrize(
    ("at", "value", "says"),
    [
        (0, 2, "version 2"),
        (1, 7, "mode 7"),
        (3, 1, "version"),
        (4, 12, "12 pixels"),
        (8, 96, "96 channels|of 96"),
        (12, 255, "does not end|other lengths"),
        (19, 255, "where at least"),
        (20, 255, "does not end|other lengths"),
        (28, 255, "other lengths|beyond"),
    ],
)
def test_a_wrong_header_says_what_is_wrong(at: int, value: int, says: str) -> None:
    payload, dense = _payload()
    wrong = bytearray(payload)
    wrong[at] = value
    with pytest.raises(ValueError, match=says):
        decoded(bytes(wrong), dense)


def test_streams_must_be_used_up_exactly() -> None:
    payload, dense = _payload()
    for wrong in (payload + b"\0", payload[:-1], payload[:27], b""):
        with pytest.raises(ValueError, match=r"length|bytes, where|does not end"):
            decoded(wrong, dense)


def test_an_integer_that_never_ends() -> None:
    payload = struct.pack("<4B2I2Q", 1, 0, 0, 0, 1, 61, 1, 6) + b"\1\0" + b"\x1f" + b"\xff" * 6
    with pytest.raises(ValueError, match="does not end"):
        count_codec.decode(payload, 1, 61, slice(0, 61), np.dtype("u1"))


@pytest.mark.parametrize(("at", "mode"), [(2, "sparse"), (12, "dense"), (20, "dense")])
def test_fields_of_the_other_mode_must_be_zero(at: int, mode: str) -> None:
    payload, dense = _payload(fill=0.2 if mode == "sparse" else 1.0)
    assert payload[1] == (mode == "dense")
    wrong = bytearray(payload)
    wrong[at] = 1
    with pytest.raises(ValueError, match="other mode"):
        decoded(bytes(wrong), dense)


def test_nothing_out_of_bounds_is_read_or_written(tmp_path: Path) -> None:
    """The tests with hostile bytes once more, with kernels that check every index."""
    environment = os.environ | {"NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    tests = "hostile or noise or streams or never_ends or twin or any_range"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", tests]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
