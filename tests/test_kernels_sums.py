"""Compressed blocks, sums, Gram matrices and non-negative least squares, against plain NumPy and SciPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import nnls

from eds_chunked.kernels.gram import add_gram, project, symmetrise, weighted_squares
from eds_chunked.kernels.nnls import solve_nonnegative
from eds_chunked.kernels.reduce import (
    channel_sums,
    mask_sums,
    max_spectrum,
    pixel_sums,
    weighted_channel_sums,
)
from eds_chunked.kernels.sparse import channel_dtype, concatenate, from_dense, take_pixels, to_dense

DTYPES = [np.uint8, np.uint16, np.uint32]


@st.composite
def blocks(draw, dtypes=tuple(DTYPES)):
    """(pixels, channels): mostly zeros, or none, or all at the dtype's maximum, with dead pixels and channels."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(st.tuples(st.integers(1, 9), st.integers(1, 13)))
    largest = np.iinfo(dtype).max
    element = draw(st.sampled_from([st.just(0), st.just(largest), st.integers(0, largest), st.integers(0, 3)]))
    block = draw(arrays(dtype, shape, elements=element, fill=st.just(0)))
    if draw(st.booleans()):
        block[draw(st.integers(0, shape[0] - 1))] = 0
        block[:, draw(st.integers(0, shape[1] - 1))] = 0
    return block


drawn = settings(max_examples=60, deadline=None)


@drawn
@given(blocks())
def test_compressed_rows_hold_the_nonzero_values_in_order(block):
    csr = from_dense(block)
    pixel, channel = np.nonzero(block)
    assert np.array_equal(csr.channel, channel)
    assert np.array_equal(csr.value, block[pixel, channel])
    assert np.array_equal(np.diff(csr.indptr), np.count_nonzero(block, axis=1))
    assert (csr.n_pixels, csr.n_channels) == block.shape
    assert csr.value.dtype == block.dtype
    back = to_dense(csr)
    assert back.dtype == block.dtype
    assert np.array_equal(back, block)
    assert np.array_equal(to_dense(csr, np.uint64), block)


@pytest.mark.parametrize("dtype", [">u2", ">u4", ">f4", "<f2", np.longdouble, "i8", "f8"])
def test_any_numeric_dtype_compresses(dtype):
    block = np.array([[0, 3, 0], [7, 0, 250]]).astype(dtype)
    csr = from_dense(block)
    assert csr.value.dtype.isnative
    assert np.array_equal(to_dense(csr), block.astype(float))


def test_views_and_read_only_blocks_compress():
    block = np.arange(60, dtype=np.uint16).reshape(5, 12)
    assert np.array_equal(to_dense(from_dense(block[::2, 1:8])), block[::2, 1:8])
    block.flags.writeable = False
    assert np.array_equal(to_dense(from_dense(block)), block)


def test_channels_beyond_sixteen_bits_keep_their_numbers():
    assert channel_dtype(65536) == np.uint16
    assert channel_dtype(65537) == np.uint32
    block = np.zeros((2, 65539), np.uint8)
    block[1, 65538], block[0, 65536] = 9, 4
    assert np.array_equal(to_dense(from_dense(block)), block)
    assert np.array_equal(channel_sums(from_dense(block)), block.sum(axis=0))


@drawn
@given(blocks(), st.data())
def test_taken_and_joined_pixels_are_those_of_the_array(block, data):
    pixels = np.array(data.draw(st.lists(st.integers(0, len(block) - 1), max_size=12)), dtype=np.int64)
    csr = from_dense(block)
    assert np.array_equal(to_dense(take_pixels(csr, pixels)), block[pixels])
    cut = data.draw(st.integers(0, len(block)))
    first, rest = (take_pixels(csr, np.arange(*ends)) for ends in ((0, cut), (cut, len(block))))
    joined = concatenate([first, rest])
    assert joined.indptr.dtype == np.int64
    assert joined.channel.dtype == csr.channel.dtype
    assert np.array_equal(to_dense(joined), block)
    assert np.array_equal(to_dense(concatenate([rest, first])), np.concatenate([block[cut:], block[:cut]]))


@drawn
@given(blocks())
def test_sums_and_maxima_equal_numpy(block):
    csr = from_dense(block)
    for found, axis in ((channel_sums(csr), 0), (pixel_sums(csr), 1)):
        assert found.dtype == np.uint64
        assert np.array_equal(found, block.sum(axis=axis, dtype=np.uint64))
    largest, owner = max_spectrum(csr)
    assert np.array_equal(largest, block.max(axis=0))
    assert np.array_equal(owner, np.where(block.max(axis=0) > 0, block.argmax(axis=0), -1))


@drawn
@given(blocks(), st.data())
def test_sums_over_masks_equal_numpy(block, data):
    mask = data.draw(arrays(bool, (3, len(block))))
    found = mask_sums(from_dense(block), mask)
    assert found.dtype == np.uint64
    assert np.array_equal(found, [block[m].sum(axis=0, dtype=np.uint64) for m in mask])


def test_integer_sums_are_exact_beyond_what_a_double_holds():
    block = np.full((3, 2), 2**62 + 1, np.uint64)
    assert channel_sums(from_dense(block)).tolist() == [3 * (2**62 + 1)] * 2
    assert pixel_sums(from_dense(block)).tolist() == [2 * (2**62 + 1)] * 3
    assert mask_sums(from_dense(block), np.ones((1, 3), bool))[0].tolist() == [3 * (2**62 + 1)] * 2


def test_values_that_are_no_integers_are_summed_in_double_precision():
    block = np.array([[0.1, 0, 2.5], [0.2, 0, 1e9]], np.float32)
    for found, axis in ((channel_sums(from_dense(block)), 0), (pixel_sums(from_dense(block)), 1)):
        assert found.dtype == np.float64
        # The order of a sum of two does not matter, so it is the same to the bit.
        assert np.array_equal(found, block.astype(float).sum(axis=axis))


@drawn
@given(blocks(), st.data())
def test_weighted_sums_equal_numpy(block, data):
    pixel_weight = data.draw(arrays(float, len(block), elements=st.sampled_from([0.0, 0.25, 1.0, 3.7])))
    channel_weight = data.draw(arrays(float, block.shape[1], elements=st.sampled_from([0.0, 0.5, 2.3])))
    csr, dense = from_dense(block), block.astype(float)
    # Sums of up to 13 products that differ in order only: rounding stays below 1e-13.
    np.testing.assert_allclose(weighted_channel_sums(csr, pixel_weight), pixel_weight @ dense, rtol=1e-13)
    np.testing.assert_allclose(weighted_squares(csr, channel_weight), dense**2 @ channel_weight, rtol=1e-13)


@drawn
@given(blocks(), st.data())
def test_gram_equals_the_matrix_product(block, data):
    weight = data.draw(arrays(float, len(block), elements=st.sampled_from([0.0, 0.25, 1.0, 3.7])))
    dense, n = block.astype(float), block.shape[1]
    before = np.arange(n * n, dtype=float).reshape(n, n)
    gram = before.copy()
    add_gram(from_dense(block), weight, gram)
    assert np.array_equal(np.tril(gram, -1), np.tril(before, -1))
    np.testing.assert_allclose(
        np.triu(gram - before), np.triu(dense.T @ np.diag(weight) @ dense), rtol=1e-10, atol=1e-9
    )


def test_gram_of_two_halves_adds_up_to_that_of_the_block():
    rng = np.random.default_rng(0)
    block = rng.poisson(0.3, (97, 53)).astype(np.uint16)
    block[5], block[:, 11] = 0, 0
    weight = rng.random(97)
    whole, halves = np.zeros((53, 53)), np.zeros((53, 53))
    add_gram(from_dense(block), weight, whole)
    for part in (slice(0, 40), slice(40, 97)):
        add_gram(from_dense(block[part]), weight[part], halves)
    np.testing.assert_allclose(halves, whole, rtol=1e-13)
    symmetrise(whole)
    np.testing.assert_allclose(whole, block.T @ np.diag(weight) @ block, rtol=1e-12)


@pytest.mark.parametrize("n", [1, 255, 256, 257, 521])
def test_symmetrise_copies_the_upper_triangle(n):
    gram = np.arange(n * n, dtype=float).reshape(n, n)
    expected = np.triu(gram) + np.triu(gram, 1).T
    symmetrise(gram)
    assert np.array_equal(gram, expected)


@drawn
@given(blocks(), st.integers(1, 4))
def test_projection_equals_the_matrix_product(block, n_spectra):
    spectra = np.random.default_rng(0).normal(size=(block.shape[1], n_spectra))
    found = project(from_dense(block), spectra.astype(np.float32))
    np.testing.assert_allclose(found, block @ spectra.astype(np.float32).astype(float), rtol=1e-10, atol=1e-6)
    assert found.shape == (len(block), n_spectra)
    # A slice of a larger matrix, as the caller may have it.
    np.testing.assert_allclose(
        project(from_dense(block), spectra[:, ::2]), block @ spectra[:, ::2], rtol=1e-9, atol=1e-6
    )


@pytest.mark.parametrize(("k", "seed"), [(1, 0), (2, 1), (4, 2), (7, 3)])
def test_nonnegative_least_squares_equals_scipy(k, seed):
    rng = np.random.default_rng(seed)
    # Components of very different scale, and targets of which many lie outside the cone.
    spectra = rng.random((k, 53)) * 10.0 ** rng.integers(-3, 4, (k, 1))
    pixels = np.concatenate([rng.random((20, k)) @ spectra, rng.normal(size=(30, 53)), np.zeros((1, 53))])
    found = solve_nonnegative(spectra @ spectra.T, pixels @ spectra.T)
    expected = np.array([nnls(spectra.T, pixel)[0] for pixel in pixels])
    assert (found >= 0).all()
    # Coordinate descent stops at 1e-8 of the largest step, times the condition of the spectra.
    scale = np.sqrt((spectra**2).sum(axis=1))
    np.testing.assert_allclose(found * scale, expected * scale, atol=1e-5 * np.abs(expected * scale).max())
    assert (found[-1] == 0).all()


def test_a_dead_component_gets_nothing_and_no_nan():
    spectra = np.array([[1.0, 2, 0], [0, 0, 0], [0, 1, 3]])
    pixels = np.array([[1.0, 5, 9], [0, 0, 0]])
    found = solve_nonnegative(spectra @ spectra.T, pixels @ spectra.T)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, [[1, 0, 3], [0, 0, 0]], atol=1e-6)
