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

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.phases import cleaning
from eds_chunked.phases.cleaning import (
    area_of_min_size,
    fill_small_holes,
    min_size_in_pixels,
    remove_small_objects,
)

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


UM = schema.MICROMETRE


@pytest.mark.parametrize(
    ("asked", "pixel_size", "pixels"),
    [
        ("2.5um2", (0.5, 0.25, UM), 20),
        ("2.51 um2", (0.5, 0.25, UM), 21),
        ("2.49um2", (0.5, 0.25, UM), 20),
        # 0.1 * 0.1 is a little more than 0.01: one pixel too few without a tolerance, and 0.7 / 3 one too many.
        ("1um2", (0.1, 0.1, UM), 100),
        ("0.7um2", (0.7 / 3, 0.1, UM), 30),
        ("3\u00b5m^2", (2.0, 1.0, UM), 2),
        ("0um2", (2.0, 1.0, UM), 0),
        ("1e", (2.0, 1.0, UM), None),
        (37, (2.0, 1.0, UM), 37),
        (np.int64(37), (1.0, 1.0, schema.UNCALIBRATED), 37),
    ],
)
def test_an_area_is_the_fewest_pixels_that_have_it(asked, pixel_size, pixels):
    if pixels is None:
        with pytest.raises(ParameterError, match="or an area such as '50um2'"):
            min_size_in_pixels(asked, pixel_size=pixel_size)
    else:
        assert min_size_in_pixels(asked, pixel_size=pixel_size) == pixels


@settings(max_examples=60, deadline=None)
@given(
    height=st.floats(0.003, 90),
    width=st.floats(0.003, 90),
    pixels=st.integers(1, 10**6),
)
def test_an_area_of_whole_pixels_is_that_many(height, width, pixels):
    # As a pixel size comes from coordinates, with their rounding.
    read = tuple(float((3 * size + 700 * size) - 702 * size) for size in (height, width))
    assert min_size_in_pixels(f"{pixels * height * width:.15f}um2", pixel_size=(*read, UM)) == pixels


def test_an_area_on_a_map_without_pixel_size_is_an_error_that_says_how_to_calibrate():
    with pytest.raises(ParameterError, match=r"min_size: found '5um2' on a map .* in um.*eds-chunked calibrate"):
        min_size_in_pixels("5um2", pixel_size=(1.0, 1.0, schema.UNCALIBRATED))


@pytest.mark.parametrize("asked", ["5", "-5um2", "5um", "um2", "5 um2 2", "5mm2", 2.5, None, True, -1])
def test_a_size_that_is_neither_is_one_clear_error(asked):
    assert not isinstance(asked, str) or area_of_min_size(asked) is None
    with pytest.raises(ParameterError, match=r"min_size: found .*a whole number of pixels, 0 or more, or an area"):
        min_size_in_pixels(asked, pixel_size=(2.0, 1.0, UM))


def test_objects_of_exactly_the_area_stay():
    mask = np.zeros((11, 13), bool)
    mask[2, 1:6] = True
    mask[5, 6:10] = True
    fewest = min_size_in_pixels("0.625um2", pixel_size=(0.5, 0.25, UM))
    found = remove_small_objects(da.from_array(mask, chunks=(3, 4)), min_size=fewest).compute()
    assert found.sum() == 5
