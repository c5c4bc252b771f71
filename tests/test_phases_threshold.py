"""Thresholds of component maps: scikit-image on the whole map is the reference, for every chunking."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import histogram
from skimage.filters import threshold_otsu

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.phases.threshold import loading_histograms, loading_thresholds

SHAPE = (3, 31, 47)


def ragged(length):
    """Chunk lengths that add up to ``length``."""
    cuts = st.sets(st.integers(1, length - 1), max_size=5)
    return cuts.map(lambda inner: tuple(np.diff([0, *sorted(inner), length]).tolist()))


def two_classes(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    inside = np.add.outer(np.arange(31), 2 * np.arange(47)) % 37 < 11
    maps = [k + 1 + inside * (3 + k) + rng.gamma(2, 0.5, inside.shape) for k in range(3)]
    return (np.stack(maps) * scale).astype(np.float32)


def result(maps):
    return xr.Dataset(
        {schema.LOADINGS: ((schema.COMPONENT, schema.Y, schema.X), maps)},
        coords={schema.COMPONENT: np.arange(1, len(maps) + 1)},
    )


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-12, 0.37, 1.0, 7e5]),
    chunks=st.tuples(ragged(3), ragged(31), ragged(47)),
)
def test_otsu_equals_scikit_image_for_every_chunking(seed, scale, chunks):
    maps = two_classes(seed, scale)
    found = loading_thresholds(result(da.from_array(maps, chunks=chunks)))
    expected = [threshold_otsu(image) for image in maps]
    assert found.tolist() == [float(value) for value in expected]
    assert all(value.dtype == np.float32 for value in expected)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), chunks=st.tuples(ragged(3), ragged(31), ragged(47)))
def test_histograms_equal_scikit_image_for_every_chunking(seed, chunks):
    maps = two_classes(seed)
    for found, image in zip(loading_histograms(result(da.from_array(maps, chunks=chunks))), maps, strict=True):
        counts, centers = histogram(image.ravel(), 256, source_range="image")
        np.testing.assert_array_equal(found.counts, counts)
        np.testing.assert_array_equal(found.centers, centers)
        assert found.centers.dtype == np.float32
        assert found.counts.sum() == image.size


def test_pixels_that_are_not_finite_are_dropped():
    maps = two_classes(5)
    maps[:, 3:9, 4:21] = np.nan
    maps[1, 0, 0], maps[1, 30, 46] = np.inf, -np.inf
    found = loading_thresholds(result(da.from_array(maps, chunks=(2, 3, 17))))
    expected = [threshold_otsu(image[np.isfinite(image)]) for image in maps]
    np.testing.assert_array_equal(found, expected)
    assert loading_histograms(result(maps))[0].counts.sum() == 31 * 47 - 6 * 17


def test_a_numpy_map_is_as_good_as_a_dask_map():
    maps = two_classes(8)
    np.testing.assert_array_equal(loading_thresholds(result(maps)), [threshold_otsu(image) for image in maps])


def test_each_pass_reads_each_block_once():
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    maps = da.from_array(two_classes(2), chunks=(3, 16, 24))
    loading_thresholds(result(maps.map_blocks(read, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))))
    assert len(reads) == 2 * 4


@pytest.mark.parametrize("value", [0.0, 3.5])
def test_a_constant_map_is_an_error_that_names_the_component(value):
    maps = two_classes(1)
    maps[1] = value
    with pytest.raises(ParameterError, match=rf"component 2: found {value} in every finite pixel"):
        loading_thresholds(result(maps))
    with pytest.raises(ParameterError, match="component 7"):
        loading_thresholds(result(maps).assign_coords({schema.COMPONENT: [3, 7, 9]}))
    with pytest.raises(ParameterError, match="component 2"):
        loading_thresholds(result(maps).drop_vars(schema.COMPONENT))


def test_values_too_close_for_a_histogram_are_an_error_that_names_the_component():
    maps = two_classes(1)
    maps[2] = 1
    maps[2, 0, 0] = np.nextafter(np.float32(1), np.float32(2))
    with pytest.raises(ParameterError, match=r"component 3: found values from .* too close"):
        loading_thresholds(result(maps))


def test_a_map_without_finite_pixels_is_an_error_that_names_the_component():
    maps = two_classes(1)
    maps[0] = np.nan
    with pytest.raises(ParameterError, match="component 1: found no finite pixel"):
        loading_thresholds(result(maps))


def test_integer_maps_are_refused():
    with pytest.raises(ParameterError, match="floating point"):
        loading_thresholds(result(two_classes(1).astype(np.int32)))


@pytest.mark.parametrize("given_values", [[0.5, 1.25, -3], (0.5, 1.25, -3.0), np.array([0.5, 1.25, -3.0], np.float32)])
def test_own_thresholds_are_taken_as_they_are(given_values):
    maps = da.from_array(np.zeros(SHAPE, np.float32)).map_blocks(_never, dtype=np.float32, meta=np.empty((0, 0, 0)))
    assert loading_thresholds(result(maps), threshold=given_values).tolist() == [0.5, 1.25, -3.0]


def _never(block):
    raise AssertionError("own thresholds need no pass over the map")


@pytest.mark.parametrize(
    ("threshold", "found"),
    [
        ("Otsu", "'Otsu'"),
        ([0.5, 1.0], "2 numbers"),
        ([0.5] * 4, "4 numbers"),
        ([], "0 numbers"),
        (0.5, "0.5"),
        ([0.5, np.nan, 1.0], "nan"),
        ([0.5, np.inf, 1.0], "inf"),
        (["a", "b", "c"], "'a'"),
        (None, "None"),
        ([[0.5, 0.5, 0.5]], r"\[\[0.5"),
    ],
)
def test_wrong_thresholds_are_one_clear_error(threshold, found):
    with pytest.raises(ParameterError, match=f"threshold: found .*{found}.*expected 'otsu' or 3 finite numbers"):
        loading_thresholds(result(two_classes(1)), threshold=threshold)


def test_a_dataset_without_loadings_is_refused():
    with pytest.raises(ChunkLayoutError, match="loadings"):
        loading_thresholds(xr.Dataset())
