"""The Gram matrix with full channels taken as dense columns, and products with it, against NumPy."""

import numpy as np
import pytest

from eds_chunked.kernels import gram as kernel
from eds_chunked.kernels.gram import add_gram, add_product
from eds_chunked.kernels.sparse import from_dense

N_PIXELS, N_CHANNELS = 397, 151


def made_block(dtype=np.uint8, *, seed=0):
    """Channels from nearly empty to never zero, the full ones scattered; a dead channel and dead pixels."""
    rng = np.random.default_rng(seed)
    mean = 10.0 ** rng.uniform(-2.5, 1.2, N_CHANNELS)
    block = rng.poisson(mean * np.linspace(0.5, 2, N_PIXELS)[:, None])
    block[:, 17], block[5], block[-1] = 0, 0, 0
    return block.astype(dtype)


def assert_is_gram(block, weight, **close):
    gram = np.zeros((block.shape[1],) * 2)
    add_gram(from_dense(block), weight, gram)
    dense = block.astype(np.float64)
    assert not np.tril(gram, -1).any()
    np.testing.assert_allclose(gram, np.triu(dense.T @ (weight[:, None] * dense)), **{"rtol": 1e-12} | close)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.float32, np.float64])
def test_full_channels_are_summed_like_the_others(dtype):
    block = made_block(dtype)
    full = (block > 0).mean(axis=0) > kernel.FULL
    assert kernel.FEWEST_FULL < full.sum() < N_CHANNELS - 20
    weight = np.random.default_rng(1).random(N_PIXELS) / 3
    assert_is_gram(block, weight)
    assert_is_gram(block * dtype(0.5) if block.dtype.kind == "f" else block // 2, weight)


def test_large_counts_keep_their_digits():
    # 32-bit floats would hold 24 bits of them.
    block = made_block(np.uint32)
    block[block > 0] += np.uint32(2**31 + 1)
    assert_is_gram(block, np.ones(N_PIXELS))


@pytest.mark.parametrize(("most_columns", "cached_bytes"), [(1, 600_000), (37, 20_000), (512, 1), (90, 100_000)])
def test_groups_of_columns_and_parts_of_pixels_make_no_difference(most_columns, cached_bytes, monkeypatch):
    monkeypatch.setattr(kernel, "MOST_COLUMNS", most_columns)
    monkeypatch.setattr(kernel, "_CACHED_BYTES", cached_bytes)
    assert_is_gram(made_block(seed=2), np.random.default_rng(3).random(N_PIXELS))


def test_block_without_a_zero_is_summed():
    assert_is_gram(made_block(np.uint16) + np.uint16(1), np.linspace(0, 1, N_PIXELS))


def test_both_ways_agree(monkeypatch):
    block, weight = made_block(seed=4), np.random.default_rng(5).random(N_PIXELS)
    grams = np.ones((2, N_CHANNELS, N_CHANNELS))
    add_gram(from_dense(block), weight, grams[0])
    monkeypatch.setattr(kernel, "FEWEST_FULL", N_CHANNELS + 1)
    add_gram(from_dense(block), weight, grams[1])
    np.testing.assert_allclose(grams[0], grams[1], rtol=1e-13)
    assert (grams[0] != grams[1]).any()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint32, np.float32])
def test_product_equals_that_with_the_matrix(dtype):
    block, rng = made_block(dtype, seed=6), np.random.default_rng(7)
    weight, vectors = rng.random(N_PIXELS), rng.normal(size=(N_CHANNELS, 7))
    before = rng.normal(size=(N_CHANNELS, 7))
    out = before.copy()
    add_product(from_dense(block), weight, vectors, out)
    dense = block.astype(np.float64)
    expected = dense.T @ (weight[:, None] * (dense @ vectors))
    np.testing.assert_allclose(out - before, expected, atol=1e-12 * np.abs(expected).max())
