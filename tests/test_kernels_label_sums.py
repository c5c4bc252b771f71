"""Sums per label and extents of labels: equal to plain NumPy."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked.kernels.label_sums import label_extents, label_sums
from eds_chunked.kernels.sparse import from_dense


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.integers(1, 9),
    value=st.sampled_from([np.uint8, np.uint16, np.uint32, np.float32]),
    total=st.sampled_from([np.uint32, np.uint64, np.float64]),
)
def test_label_sums_are_numpys(seed, n, value, total):
    rng = np.random.default_rng(seed)
    block = rng.poisson(0.6, (53, 31)).astype(value)
    row = rng.integers(-1, n, 53)
    if np.dtype(value).kind == "f" and np.dtype(total).kind == "u":
        total = np.float64
    before = rng.integers(0, 5, (n, 31)).astype(total)
    found = before.copy()
    label_sums(from_dense(block), row, found)
    expected = before.copy()
    np.add.at(expected, row[row >= 0], block[row >= 0].astype(total))
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(1, 9))
def test_extents_are_numpys(seed, n):
    rng = np.random.default_rng(seed)
    row = rng.integers(-1, n, (23, 7))
    tile_row = np.sort(rng.integers(3, 8, 23))
    n_pixels, first, last = np.zeros(n, np.int64), np.full(n, 99), np.full(n, -1)
    label_extents(row, tile_row, n_pixels, first, last)
    for label in range(n):
        rows = tile_row[(row == label).any(axis=1)]
        assert n_pixels[label] == np.count_nonzero(row == label)
        assert (first[label], last[label]) == ((rows.min(), rows.max()) if len(rows) else (99, -1))
