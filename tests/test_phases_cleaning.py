"""Specks and holes: scikit-image on the whole map is the reference, for every chunking."""

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from skimage.measure import label
from skimage.morphology import remove_small_holes
from skimage.morphology import remove_small_objects as skimage_remove_small_objects

from eds_chunked.errors import ParameterError
from eds_chunked.phases import cleaning
from eds_chunked.phases.cleaning import fill_small_holes, remove_small_objects

SHAPE = (31, 47)


def ragged(length):
    """Chunk lengths that add up to ``length``."""
    cuts = st.sets(st.integers(1, length - 1), max_size=6)
    return cuts.map(lambda inner: tuple(np.diff([0, *sorted(inner), length]).tolist()))


def noise_mask(seed, density):
    # Near the percolation threshold pieces of all sizes and shapes occur, and many cross several chunks.
    return np.random.default_rng(seed).random(SHAPE) < density


def spiral():
    """One object, one pixel wide, that winds through every chunk; so does the background."""
    mask = np.zeros(SHAPE, bool)
    top, left, bottom, right = 0, 0, 30, 46
    while bottom - top > 3 and right - left > 3:
        mask[top, left : right + 1] = True
        mask[top : bottom + 1, right] = True
        mask[bottom, left : right + 1] = True
        mask[top + 2 : bottom + 1, left] = True
        mask[top + 2, left : left + 3] = True
        top, left, bottom, right = top + 2, left + 2, bottom - 2, right - 2
    return mask


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 9999),
    density=st.sampled_from([0.05, 0.4, 0.5, 0.6, 0.95]),
    min_size=st.sampled_from([0, 1, 2, 3, 7, 20, 100, 10_000]),
    chunks=st.tuples(ragged(31), ragged(47)),
)
@example(seed=0, density=0.0, min_size=5, chunks=((31,), (47,)))
@example(seed=0, density=1.0, min_size=5, chunks=((15, 16), (23, 24)))
@example(seed=0, density=1.0, min_size=31 * 47, chunks=((1,) * 31, (47,)))
@example(seed=0, density=1.0, min_size=31 * 47 + 1, chunks=((15, 16), (23, 24)))
def test_both_equal_scikit_image_for_every_chunking(seed, density, min_size, chunks):
    mask = noise_mask(seed, density)
    chunked = da.from_array(mask, chunks=chunks)
    max_size = max(min_size - 1, 0)
    objects = remove_small_objects(chunked, min_size=min_size)
    expected = skimage_remove_small_objects(mask, max_size=max_size)
    np.testing.assert_array_equal(objects, expected)
    cleaned = fill_small_holes(objects, min_size=min_size)
    np.testing.assert_array_equal(cleaned, remove_small_holes(expected, max_size=max_size))
    assert cleaned.dtype == bool
    assert cleaned.chunks == chunks


@settings(max_examples=25, deadline=None)
@given(chunks=st.tuples(ragged(31), ragged(47)), extra=st.sampled_from([0, 1]), flip=st.booleans())
def test_a_spiral_through_all_chunks_is_one_object(chunks, extra, flip):
    assert label(spiral(), connectivity=1).max() == 1
    mask = spiral() ^ flip
    min_size = int(np.count_nonzero(spiral())) + extra
    expected = skimage_remove_small_objects(mask, max_size=min_size - 1)
    found = remove_small_objects(da.from_array(mask, chunks=chunks), min_size=min_size)
    np.testing.assert_array_equal(found, expected)


def test_an_object_of_exactly_min_size_stays_and_diagonal_pixels_are_apart():
    mask = np.zeros((11, 13), bool)
    mask[2, 1:6] = True
    mask[3, 6:10] = True
    found = remove_small_objects(da.from_array(mask, chunks=(3, 4)), min_size=5).compute()
    assert found.sum() == 5
    assert found[2, 1:6].all()


def test_background_at_the_border_is_filled():
    mask = np.ones((11, 13), bool)
    mask[0, 3:7] = False
    mask[10, 12] = False
    assert fill_small_holes(da.from_array(mask, chunks=(4, 5)), min_size=5).all().compute()
    assert not fill_small_holes(da.from_array(mask, chunks=(4, 5)), min_size=4).compute()[0, 3:7].any()


def test_a_numpy_mask_is_as_good_as_a_dask_mask():
    mask = noise_mask(3, 0.5)
    expected = skimage_remove_small_objects(mask, max_size=6)
    np.testing.assert_array_equal(remove_small_objects(mask, min_size=7), expected)


def test_nothing_is_computed_before_it_is_asked_for():
    def scheduler(*args, **kwargs):
        raise AssertionError("computed")

    mask = da.from_array(noise_mask(3, 0.5), chunks=(7, 11))
    with dask.config.set(scheduler=scheduler):
        cleaned = fill_small_holes(remove_small_objects(mask, min_size=7), min_size=7)
        with pytest.raises(AssertionError, match="computed"):
            cleaned.compute()


def test_each_block_is_labelled_once_a_step_and_read_once(monkeypatch):
    reads, labelled = [], []

    def read(block):
        reads.append(block.shape)
        return block

    label_block = cleaning._label_block

    def count(mask):
        labelled.append(mask.shape)
        return label_block(mask)

    monkeypatch.setattr(cleaning, "_label_block", count)
    mask = da.from_array(noise_mask(3, 0.5), chunks=(16, 24)).map_blocks(read, dtype=bool, meta=np.empty((0, 0), bool))
    fill_small_holes(remove_small_objects(mask, min_size=7), min_size=7).compute()
    assert len(reads) == 4
    assert len(labelled) == 2 * 4


def test_the_graph_grows_with_the_number_of_blocks_and_no_faster():
    def tasks(n):
        mask = da.zeros((8 * n, 8 * n), chunks=8, dtype=bool)
        return len(dict(remove_small_objects(mask, min_size=5).__dask_graph__()))

    assert tasks(12) <= 4 * tasks(6)


@pytest.mark.parametrize("function", [remove_small_objects, fill_small_holes])
@pytest.mark.parametrize("min_size", [-1, 2.5, "7", None, True])
def test_a_wrong_min_size_is_one_clear_error(function, min_size):
    with pytest.raises(ParameterError, match=r"min_size: found .*expected a whole number of pixels"):
        function(noise_mask(3, 0.5), min_size=min_size)
