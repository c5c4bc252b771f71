"""Rebinning of CSR rows against sums of reshaped NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked.kernels.crop import merge_rows, one_row
from eds_chunked.kernels.sparse import Csr, from_dense, to_dense
from tests.ripple_files import random_counts

Array = np.ndarray[Any, Any]


def twin(block: Array, columns: int, channels: int) -> Array:
    """Sum a block (rows, pixels, channels) to one row of bins."""
    _, width, depth = block.shape
    wide = block.astype(np.uint64)
    return wide.reshape(len(block), width // columns, columns, depth // channels, channels).sum((0, 2, 4))


@settings(max_examples=60, deadline=None)
@given(
    bins=st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 7)),
    size=st.tuples(st.integers(1, 7), st.integers(1, 11)),
    dtype=st.sampled_from(["u1", "u2", "u4", "u8"]),
    seed=st.integers(0, 99),
)
def test_sums_are_those_of_numpy(bins: tuple[int, int, int], size: tuple[int, int], dtype: str, seed: int) -> None:
    rows, columns, channels = bins
    block = random_counts((rows, size[0] * columns, size[1] * channels), seed=seed).astype(dtype)
    merged = merge_rows([from_dense(row) for row in block], columns=columns, channels=channels)
    expected = twin(block, columns, channels)
    np.testing.assert_array_equal(to_dense(merged), expected)
    assert (merged.n_pixels, merged.n_channels) == size
    assert merged.value.dtype == np.min_scalar_type(int(expected.max()))
    assert merged.value.all()
    for i in range(merged.n_pixels):
        assert (np.diff(merged.channel[merged.indptr[i] : merged.indptr[i + 1]].astype(int)) > 0).all()


@pytest.mark.parametrize(("value", "times", "dtype"), [(255, 2, np.uint16), (2**32 - 1, 3, np.uint64)])
def test_a_sum_that_the_type_of_the_values_cannot_hold(value: int, times: int, dtype: Any) -> None:
    block = np.full((1, 1, times), value, np.min_scalar_type(value))
    merged = merge_rows([from_dense(block[0])], columns=1, channels=times)
    assert merged.value.tolist() == [value * times]
    assert merged.value.dtype == dtype


def test_empty_pixels_stay_empty() -> None:
    merged = merge_rows([from_dense(np.zeros((6, 10), np.uint8))] * 2, columns=3, channels=5)
    assert merged.indptr.tolist() == [0, 0, 0]
    assert merged.value.dtype == np.uint8


def test_more_channels_than_two_bytes_can_count() -> None:
    block = np.zeros((2, 70_001), np.uint8)
    block[1, 70_000] = 7
    merged = merge_rows([from_dense(block)], columns=2, channels=1)
    assert (merged.channel.tolist(), merged.value.tolist()) == ([70_000], [7])


def test_one_row_is_a_copy() -> None:
    block = random_counts((5, 3, 17))
    csr = from_dense(block.reshape(15, 17))
    for i in range(5):
        row = one_row(csr, i, width=3)
        np.testing.assert_array_equal(to_dense(row), block[i])
        assert not np.shares_memory(row.channel, csr.channel)
        assert not np.shares_memory(row.value, csr.value)
    assert isinstance(row, Csr)
