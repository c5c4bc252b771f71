"""Thresholds of component maps: scikit-image on the whole map is the reference, for every chunking."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.exposure import histogram
from skimage.filters import threshold_multiotsu, threshold_otsu, threshold_triangle

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.phases.threshold import Histogram, loading_histograms, loading_thresholds

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


BY_RULE = {
    "otsu": threshold_otsu,
    "multiotsu": lambda image: threshold_multiotsu(image, classes=3)[-1],
    "triangle": threshold_triangle,
}


@settings(max_examples=60, deadline=None)
@given(
    rule=st.sampled_from(list(BY_RULE)),
    seed=st.integers(0, 999),
    scale=st.sampled_from([1e-12, 0.37, 1.0, 7e5, -2.0]),
    chunks=st.tuples(ragged(3), ragged(31), ragged(47)),
    dtype=st.sampled_from([np.float32, np.float64]),
    holes=st.booleans(),
)
def test_every_rule_equals_scikit_image_for_every_chunking(rule, seed, scale, chunks, dtype, holes):
    maps = two_classes(seed, scale).astype(dtype)
    if holes:
        maps[:, 3:9, 4:21] = np.nan
        maps[1, 0, 0], maps[1, 30, 46] = np.inf, -np.inf
    found = loading_thresholds(result(da.from_array(maps, chunks=chunks)), threshold=rule)
    expected = [BY_RULE[rule](image[np.isfinite(image)]) for image in maps]
    assert found.tolist() == [float(value) for value in expected]
    assert all(value.dtype == dtype for value in expected)


@pytest.mark.parametrize("rule", list(BY_RULE))
@pytest.mark.parametrize("values", [[0, 1], [0, 0, 0, 1], [0, 1, 1, 1], [0, 1, 2], [0, 0, 1, 2, 2, 2], [0, 1, 1, 1, 5]])
def test_rules_equal_scikit_image_on_maps_of_few_values(rule, values):
    image = np.resize(np.array(values, np.float32), (31, 47))
    if rule == "multiotsu" and len(set(values)) < 3:
        with pytest.raises(ParameterError, match=r"component 1: found pixels in 2 of 256 bins.*'multiotsu'.*'otsu'"):
            loading_thresholds(result(image[None]), threshold=rule)
    else:
        assert loading_thresholds(result(image[None]), threshold=rule)[0] == BY_RULE[rule](image)


def test_the_triangle_equals_scikit_image_on_histograms_of_all_shapes():
    rng = np.random.default_rng(3)
    for n in range(300):
        counts = rng.integers(0, 4, 256) * rng.integers(0, 9, 256)
        counts[[0, -1]] += 1
        counts[rng.integers(256)] += rng.integers(0, 60)
        image = np.repeat(np.arange(256), counts).astype(np.float32)
        found = Histogram(counts, np.arange(256)).threshold("triangle")
        # The number of scikit-image's bin, whose centre is a little off the whole number.
        assert found == round(float(threshold_triangle(image)) * 256 / 255 - 0.5), n


def test_each_component_can_have_its_own_rule_or_number():
    maps = two_classes(4)
    chunked = result(da.from_array(maps, chunks=(2, 16, 24)))
    found = loading_thresholds(chunked, threshold=["triangle", 1.5, "otsu"])
    assert found.tolist() == [threshold_triangle(maps[0]), 1.5, threshold_otsu(maps[2])]
    assert loading_thresholds(chunked, threshold=2.5).tolist() == [2.5] * 3
    maps[1] = 7
    found = loading_thresholds(result(maps), threshold=["otsu", 7, "multiotsu"])
    assert found.tolist() == [threshold_otsu(maps[0]), 7, threshold_multiotsu(maps[2])[-1]]
    with pytest.raises(ParameterError, match=r"component 2: found 7\.0 in every finite pixel"):
        loading_thresholds(result(maps).drop_vars(schema.COMPONENT), threshold=[1, "triangle", "otsu"])


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


def test_pixels_that_are_not_finite_are_not_counted():
    maps = two_classes(5)
    maps[:, 3:9, 4:21] = np.nan
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
        ([0.5, 1.0], "2 of them"),
        (["otsu"] * 4, "4 of them"),
        ([], "0 of them"),
        (np.nan, "nan"),
        (True, "True"),
        ([0.5, "Otsu", 1.0], "'Otsu'"),
        ([0.5, True, 1.0], "True"),
        ([0.5, np.nan, 1.0], "nan"),
        ([0.5, np.inf, 1.0], "inf"),
        (["a", "b", "c"], "'a'"),
        (None, "None"),
        ([[0.5, 0.5, 0.5]], r"\[\[0.5"),
    ],
)
def test_wrong_thresholds_are_one_clear_error(threshold, found):
    with pytest.raises(ParameterError, match=f"threshold: found .*{found}.*expected 'otsu', .*or a list of 3"):
        loading_thresholds(result(two_classes(1)), threshold=threshold)


def test_a_dataset_without_loadings_is_refused():
    with pytest.raises(ChunkLayoutError, match="loadings"):
        loading_thresholds(xr.Dataset())
