"""Grains against whole-map scikit-image, against discs of known size, and against themselves in other company."""

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.measure import label as connected
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, MissingResultError, ParameterError
from eds_chunked.grains.measure import grain_table
from eds_chunked.grains.split import UnsplitPhaseWarning, separate_grains
from eds_chunked.kernels.flooding import summits

SIDES = ndi.generate_binary_structure(2, 1)


def phase_map(label, *, size=None):
    """Return a phases Dataset; ``size`` is (height, width) of a pixel in um."""
    ds = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), np.asarray(label, dtype=np.uint8))})
    if size is not None:
        for axis, step, start in zip((schema.Y, schema.X), size, (3.0, -11.0), strict=True):
            ds = ds.assign_coords(
                {axis: (axis, start + step * np.arange(ds.sizes[axis]), {"units": schema.MICROMETRE})}
            )
    return ds


def rock(seed, shape=(61, 83), grain=3.0, phases=3):
    """Return labels of smooth random phases with some unassigned and some mixed pixels."""
    rng = np.random.default_rng(seed)
    fields = [ndi.gaussian_filter(rng.standard_normal(shape), grain + k) * (grain + k) for k in range(phases)]
    label = (np.argmax(fields, axis=0) + 1).astype(np.uint8)
    label[rng.random(shape) < 0.01] = schema.UNASSIGNED
    label[rng.random(shape) < 0.005] = schema.MIXED
    return label


def partition(numbers):
    """Return numbers renamed by the raster position of their first pixel, so that equal partitions are equal arrays."""
    found, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    return np.where(found == 0, 0, first + 1)[which].reshape(numbers.shape)


def distinct_surface(distance, seeds):
    """Return -distance with seeds lowered a little, earlier ones more: far less than two distances can differ."""
    surface = -distance
    surface[seeds] += np.linspace(-1e-6, -1e-7, np.count_nonzero(seeds))
    return surface


def seeds_above(distance, mask, h):
    """Return our h-maxima (y, x) of a distance map."""
    height, rank = np.unique(distance, return_inverse=True)
    piece, _ = ndi.label(mask)
    return summits(rank.reshape(mask.shape).astype(np.int32), piece, height, h).astype(bool)


@pytest.mark.parametrize("seed", range(6))
def test_practical_is_the_whole_map_chain_of_scikit_image(seed):
    label = rock(seed)
    grains = separate_grains(phase_map(label), method="practical")[schema.GRAIN_LABEL].values
    for phase in (1, 2, 3):
        mask = label == phase
        distance = ndi.distance_transform_edt(mask)
        coordinates = peak_local_max(
            distance,
            min_distance=1,
            threshold_abs=None,
            threshold_rel=None,
            exclude_border=False,
            footprint=np.ones((3, 3)),
            labels=mask.astype(int),
        )
        seeds = np.zeros(mask.shape, dtype=bool)
        seeds[tuple(coordinates.T)] = True
        markers, _ = ndi.label(seeds, structure=SIDES)
        expected = watershed(distinct_surface(distance, seeds), markers, connectivity=1, mask=mask)

        np.testing.assert_array_equal(grains[mask] > 0, True)
        seeded = expected > 0
        np.testing.assert_array_equal(partition(np.where(seeded, grains, 0)), partition(expected))
        # What the chain loses are pieces of the phase without a peak; here each is one grain.
        lost = mask & ~seeded
        np.testing.assert_array_equal(partition(np.where(lost, grains, 0)), partition(connected(lost, connectivity=1)))


@pytest.mark.parametrize("h", [0.0, 0.5, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(3))
def test_h_maxima_are_those_of_a_morphological_reconstruction(seed, h):
    mask = rock(seed, grain=4.0, phases=2) == 1
    distance = ndi.distance_transform_edt(mask)
    seeds = seeds_above(distance, mask, h)

    # The background is put so low that every piece of the phase keeps its highest summit.
    relief = np.where(mask, distance, -2 * h - 1)
    flooded = reconstruction(relief - h, relief, method="dilation", footprint=SIDES)
    regions = connected(local_maxima(flooded, connectivity=1) & mask, connectivity=1)

    assert regions.max() > 3
    assert np.count_nonzero(seeds) == regions.max()
    np.testing.assert_array_equal(np.bincount(regions[seeds], minlength=regions.max() + 1)[1:], 1)

    expected = watershed(distinct_surface(distance, seeds), connected(seeds, connectivity=1), connectivity=1, mask=mask)
    grains = separate_grains(phase_map(mask), h=h)[schema.GRAIN_LABEL].values
    np.testing.assert_array_equal(partition(grains), partition(expected))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["h-maxima", "practical"]), st.integers(0, 3))
def test_every_pixel_of_a_phase_is_in_one_connected_grain_of_that_phase(seed, method, phases):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, phases + 1, (11, 17)).astype(np.uint8)
    label[ndi.binary_opening(rng.random(label.shape) < 0.7)] = min(phases, 1)
    label[0, 0] = schema.MIXED
    grains = separate_grains(phase_map(label), method=method)
    number, table = grains[schema.GRAIN_LABEL].values, grain_table(grains)

    np.testing.assert_array_equal(number > 0, (label > 0) & (label < schema.MIXED))
    assert list(table.grain_id) == list(range(1, number.max() + 1))
    np.testing.assert_array_equal(np.append(0, table.phase)[number][number > 0], label[number > 0])
    assert table.n_pixels.sum() == np.count_nonzero(number)
    # Grains are connected across pixel sides, and numbered by phase, then by their first pixel.
    assert connected(number, connectivity=1).max() == len(table)
    first = np.unique(number[number > 0], return_index=True)[1]
    assert list(zip(table.phase, first, strict=True)) == sorted(zip(table.phase, first, strict=True))


@pytest.mark.parametrize("method", ["h-maxima", "practical"])
def test_other_grains_far_away_change_nothing(method):
    rng = np.random.default_rng(5)
    for seed in range(10):
        # A frame of background, since the map's edge is none: grains there have other distances.
        here = np.pad(rock(seed, (41, 53), phases=2) == 1, 1)
        alone = separate_grains(phase_map(here), method=method)[schema.GRAIN_LABEL].values
        both = np.zeros((97, 113), dtype=bool)
        window = (slice(12, 12 + here.shape[0]), slice(17, 17 + here.shape[1]))
        both[window] = here
        side = rng.integers(3, 11, 2)
        both[: side[0], 90 : 90 + side[0]] = True
        both[80 : 80 + side[1], 2 : 2 + side[1]] = True
        together = separate_grains(phase_map(both), method=method)[schema.GRAIN_LABEL].values
        np.testing.assert_array_equal(partition(together[window]), partition(alone))


def disc(shape, y, x, radius, stretch=1.0):
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    return ((rows - y) * stretch) ** 2 + (columns - x) ** 2 <= radius**2


@pytest.mark.parametrize("radius", [10.3, 14.7, 22.1, 31.9])
def test_a_disc_has_its_own_diameter(radius):
    label = disc((83, 97), 40.3, 45.8, radius)
    table = grain_table(separate_grains(phase_map(label, size=(0.7, 0.7))))
    assert len(table) == 1
    assert table.ecd_um[0] == pytest.approx(2 * radius * 0.7, rel=0.01)
    assert table.centroid_x_um[0] == pytest.approx(-11 + 0.7 * 45.8, abs=0.05)
    assert table.centroid_y_um[0] == pytest.approx(3 + 0.7 * 40.3, abs=0.05)
    assert table.major_um[0] == pytest.approx(2 * radius * 0.7, rel=0.02)
    assert table.minor_um[0] == pytest.approx(2 * radius * 0.7, rel=0.02)


@pytest.mark.parametrize("method", ["h-maxima", "practical"])
def test_touching_discs_are_two_grains(method):
    left, right = disc((41, 71), 20, 20, 14), disc((41, 71), 20, 45, 12)
    grains = separate_grains(phase_map(left | right), method=method)
    assert grains.sizes[schema.GRAIN] == 2
    number = grains[schema.GRAIN_LABEL].values
    assert number[20, 20] != number[20, 45]
    assert np.bincount(number[left & ~right]).max() >= 0.97 * np.count_nonzero(left & ~right)


def test_a_wavy_outline_splits_in_the_practical_but_not_by_h_maxima():
    grain = ndi.gaussian_filter(np.random.default_rng(8).standard_normal((60, 140)), 1.2) * 3
    rows, columns = np.mgrid[:60, :140]
    mask = ((rows - 30) / 12.0) ** 2 + ((columns - 70) / 60.0) ** 2 + 0.5 * grain * 0.3 < 1
    mask = ndi.binary_fill_holes(connected(mask, connectivity=1) == connected(mask, connectivity=1)[30, 70])
    assert separate_grains(phase_map(mask), h=3.0).sizes[schema.GRAIN] == 1
    assert separate_grains(phase_map(mask), method="practical").sizes[schema.GRAIN] > 5


def test_pixels_that_are_not_square():
    # Two round grains of 24 um side by side in y, on pixels twice as high as wide.
    mask = disc((37, 41), 9.5, 20, 12, stretch=2.0) | disc((37, 41), 20.5, 20, 12, stretch=2.0)
    table = grain_table(separate_grains(phase_map(mask, size=(2.0, 1.0))))
    assert len(table) == 2
    np.testing.assert_allclose(table.ecd_um, 24, rtol=0.05)

    distance = ndi.distance_transform_edt(mask, sampling=(2.0, 1.0))
    assert distance.max() == pytest.approx(12, abs=1)
    seeds = seeds_above(distance, mask, 1.0)
    expected = watershed(distinct_surface(distance, seeds), connected(seeds, connectivity=1), connectivity=1, mask=mask)
    found = separate_grains(phase_map(mask, size=(2.0, 1.0)))[schema.GRAIN_LABEL].values
    np.testing.assert_array_equal(partition(found), partition(expected))


def test_the_edge_flag_needs_one_pixel_at_any_side():
    label = np.zeros((19, 23), dtype=np.uint8)
    label[0, 5] = label[18, 9] = label[7, 0] = label[11, 22] = 1
    label[1:4, 10:14] = label[15:18, 3:6] = label[9:12, 1:3] = label[5:8, 20:22] = 2
    table = grain_table(separate_grains(phase_map(label)))
    assert list(table.touches_edge[table.phase == 1]) == [True] * 4
    assert list(table.touches_edge[table.phase == 2]) == [False] * 4


def test_the_result_says_what_made_it():
    phases = phase_map(disc((31, 37), 15, 17, 9))
    phases.attrs = {schema.FINGERPRINT: "abc", schema.TITLE: "rock", schema.STEP: schema.PHASES}
    phases[schema.N_PIXELS] = (schema.PHASE, [81, 0, 0])
    attrs = separate_grains(phases, h=2.0, min_size=5).attrs
    assert attrs.pop(schema.RESULT_ID) != separate_grains(phases, h=1.0, min_size=5).attrs[schema.RESULT_ID]
    assert attrs == {
        schema.STEP: schema.GRAINS,
        schema.PARAMETERS: {"source": "label", "method": "h-maxima", "h": 2.0, "min_size": 5},
        schema.N_PHASES: 3,
        schema.FINGERPRINT: "abc",
        schema.TITLE: "rock",
    }
    assert "h" not in separate_grains(phases, method="practical").attrs[schema.PARAMETERS]


def test_a_map_of_one_phase_is_one_grain_and_says_so():
    with pytest.warns(UnsplitPhaseWarning, match="Phase 2 fills the map of 13 x 17 pixels"):
        grains = separate_grains(phase_map(np.full((13, 17), 2)))
    assert grain_table(grains).n_pixels.tolist() == [221]
    assert grains["phase"].item() == 2


def test_a_map_without_phases_has_an_empty_table():
    grains = separate_grains(phase_map(np.full((13, 17), schema.MIXED)))
    assert grains.sizes[schema.GRAIN] == 0
    assert len(grain_table(grains)) == 0


def test_it_does_the_same_twice_and_on_lazy_labels():
    phases = phase_map(rock(9), size=(1.5, 1.5))
    first, again = separate_grains(phases), separate_grains(phases.chunk({schema.Y: 7, schema.X: 13}))
    xr.testing.assert_identical(first, again)


def test_one_phase_of_the_table():
    grains = separate_grains(phase_map(rock(2)))
    whole, second = grain_table(grains), grain_table(grains, phase=2)
    assert 0 < len(second) < len(whole)
    assert list(second.grain_id) == list(whole.grain_id[whole.phase == 2])
    assert list(second.index) == list(range(len(second)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"method": "magic"}, "method: found 'magic'"),
        ({"h": -1.0}, "h: found -1.0"),
        ({"h": float("nan")}, "h: found nan"),
        ({"min_size": -1}, "min_size: found -1"),
        ({"min_size": "5um2"}, "min_size: found '5um2' on a map whose pixels have no size"),
        ({"source": "loadings"}, "source: found 'loadings'"),
    ],
)
def test_parameters_that_cannot_work(change, match):
    with pytest.raises(ParameterError, match=match):
        separate_grains(phase_map(rock(1)), **change)


def test_datasets_that_are_not_phases_or_grains():
    phases = phase_map(rock(1))
    with pytest.raises(ChunkLayoutError, match="label"):
        separate_grains(phases.rename({schema.LABEL: "other"}))
    with pytest.raises(ChunkLayoutError, match="label"):
        separate_grains(phases.transpose(schema.X, schema.Y))
    with pytest.raises(ParameterError, match="float"):
        separate_grains(phases.astype(float))
    with pytest.raises(ParameterError, match="values of 'label': found 0 to 300"):
        separate_grains(phases.astype(int).where(phases[schema.LABEL] != 255, 300).astype(int))
    with pytest.raises(ParameterError, match="selection of 'label'"):
        separate_grains(phases.isel({schema.Y: slice(0, 0)}))
    with pytest.raises(ChunkLayoutError, match="mask"):
        separate_grains(phases, source="mask")
    with pytest.raises(MissingResultError, match="ecd_um"):
        grain_table(phases)
