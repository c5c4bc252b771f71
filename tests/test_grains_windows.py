"""Grains in windows: the same pixels and the same table for every window and chunking, in bounded memory."""

import json
import subprocess
import sys
import warnings

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.measure import label as connected
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

import eds_chunked as edc
from eds_chunked import schema, workflow
from eds_chunked.errors import MemoryBudgetError
from eds_chunked.grains import split
from eds_chunked.grains.measure import grain_table
from eds_chunked.grains.split import GiantPieceWarning, UnsplitPhaseWarning, separate_grains
from eds_chunked.grains.windows import IS_PHASE, Layer, windows_of
from eds_chunked.kernels.connected import connected_pieces, piece_boxes
from eds_chunked.readers import open_source
from tests.decomposition_maps import ragged, rock_counts
from tests.real_data import real_data

SIDES = ndi.generate_binary_structure(2, 1)
SHAPE = (67, 89)


@pytest.fixture
def windows(monkeypatch):
    """Return a function that sets how many pixels a window has."""

    def set_pixels(most):
        monkeypatch.setattr(split, "WINDOW_PIXELS", most)
        monkeypatch.setattr(split, "SMALLEST_WINDOW", most)

    return set_pixels


def made_labels(seed, shape=SHAPE, smooth=2.0, phases=4):
    rng = np.random.default_rng(seed)
    fields = [ndi.gaussian_filter(rng.standard_normal(shape), smooth + k) * (smooth + k) for k in range(phases)]
    label = (np.argmax(fields, axis=0) + 1).astype(np.uint8)
    label[rng.random(shape) < 0.02] = schema.UNASSIGNED
    label[rng.random(shape) < 0.01] = schema.MIXED
    return label


def as_phases(label, *, chunks=None, size=None):
    data = label if chunks is None else da.from_array(label, chunks=chunks)
    ds = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), data)})
    for axis, step in zip((schema.Y, schema.X), size or (1.0, 1.0), strict=True):
        units = {"units": schema.MICROMETRE}
        ds = ds.assign_coords({axis: (axis, 0.25 + step * np.arange(ds.sizes[axis]), units)})
    return ds


def assert_same(found, expected):
    np.testing.assert_array_equal(found[schema.GRAIN_LABEL].values, expected[schema.GRAIN_LABEL].values)
    for name in expected.data_vars:
        np.testing.assert_array_equal(found[name].values, expected[name].values, err_msg=str(name))
    assert found.attrs == expected.attrs


def partition(numbers):
    """Return numbers renamed by the raster position of their first pixel."""
    found, first, which = np.unique(numbers, return_index=True, return_inverse=True)
    return np.where(found == 0, 0, first + 1)[which].reshape(numbers.shape)


def seeds_of_scikit_image(distance, mask, h):
    """Return seeds (y, x) of the whole map: 3 x 3 peaks, or the first pixel of the h-maxima of a reconstruction."""
    seeds = np.zeros(mask.shape, bool)
    if h is None:
        peaks = peak_local_max(
            distance,
            min_distance=1,
            threshold_abs=None,
            threshold_rel=None,
            exclude_border=False,
            footprint=np.ones((3, 3)),
            labels=mask.astype(int),
        )
        seeds[tuple(peaks.T)] = True
        return seeds
    relief = np.where(mask, distance, -2 * h - 1)
    lowered = reconstruction(relief - h, relief, method="dilation", footprint=SIDES)
    regions = connected(local_maxima(lowered, connectivity=1) & mask, connectivity=1)
    # Of each region the first of its highest pixels.
    order = np.lexsort((np.arange(mask.size), -distance.ravel(), regions.ravel()))
    numbers, first = np.unique(regions.ravel()[order], return_index=True)
    seeds.ravel()[order[first[numbers > 0]]] = True
    return seeds


def grains_of_scikit_image(mask, *, h, sampling=None):
    """Return grains (y, x) of a whole mask, and 0 where no seed is: a watershed of seeds that are made different."""
    distance = ndi.distance_transform_edt(mask, sampling=sampling)
    seeds = seeds_of_scikit_image(distance, mask, h)
    surface = -distance
    surface[seeds] += np.linspace(-1e-6, -1e-7, np.count_nonzero(seeds))
    return watershed(surface, connected(seeds, connectivity=1), mask=mask, connectivity=1)


def n_different(grains, label, *, h, sampling=None):
    """Count the pixels of all phases that are in another grain than on the whole map of scikit-image."""
    n = 0
    for phase in range(1, int(label[label < schema.MIXED].max()) + 1):
        mask = label == phase
        if not mask.any():
            continue
        expected = grains_of_scikit_image(mask, h=h, sampling=sampling)
        # What has no peak of its own has no grain there.
        expected = np.where(expected > 0, expected, connected(mask & (expected == 0), connectivity=1) + expected.max())
        n += np.count_nonzero(partition(np.where(mask, grains, 0)) != partition(np.where(mask, expected, 0)))
    return n


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    most=st.integers(150, 3000),
    chunks=st.tuples(ragged(SHAPE[0]), ragged(SHAPE[1])),
    method=st.sampled_from(["h-maxima", "practical"]),
    size=st.sampled_from([(1.0, 1.0), (1.3, 0.4)]),
)
def test_every_window_and_every_chunking_gives_the_same(seed, most, chunks, method, size):
    label = made_labels(seed)
    expected = separate_grains(as_phases(label, size=size), method=method)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", GiantPieceWarning)
        patch.setattr(split, "WINDOW_PIXELS", most)
        patch.setattr(split, "SMALLEST_WINDOW", most)
        found = separate_grains(as_phases(label, chunks=chunks, size=size), method=method)
    assert found[schema.GRAIN_LABEL].chunks is not None
    assert_same(found, expected)


@pytest.mark.filterwarnings("ignore::eds_chunked.grains.split.GiantPieceWarning")
@pytest.mark.parametrize("h", [None, 0.5, 1.0])
@pytest.mark.parametrize("most", [10**6, 900])
def test_no_pixel_differs_from_scikit_image_on_the_whole_map(windows, most, h):
    windows(most)
    given_h = {"method": "practical"} if h is None else {"h": h}
    for seed in range(4):
        label = made_labels(seed, smooth=1.5)
        grains = separate_grains(as_phases(label), **given_h)[schema.GRAIN_LABEL].values
        assert n_different(grains, label, h=h) == 0
    aspect = 1.7
    grains = separate_grains(as_phases(label, size=(aspect, 1.0)), **given_h)[schema.GRAIN_LABEL].values
    assert n_different(grains, label, h=h, sampling=(aspect, 1.0)) == 0


@pytest.mark.filterwarnings("ignore::eds_chunked.grains.split.GiantPieceWarning")
@pytest.mark.parametrize("h", [None, 1.0])
def test_no_pixel_differs_on_the_masks_of_a_real_rock(windows, h):
    counts = rock_counts(open_source(real_data("P45_12bit_packed_8bit_compressed.bcf")))
    # Lines of Na, Al, Si, K, Ca and Fe, each beside its own mean: the brightest names the mineral.
    energy = -0.4724 + 0.010001 * np.arange(counts.shape[2])
    lines = [counts[..., np.abs(energy - line) < 0.06].sum(axis=2) for line in (1.041, 1.487, 1.74, 3.313, 3.691, 6.4)]
    smooth = [ndi.gaussian_filter(line.astype(float), 0.8) / line.mean() for line in lines]
    label = (np.argmax(smooth, axis=0) + 1).astype(np.uint8)
    assert len(np.unique(label)) == 6
    windows(700)
    grains = separate_grains(as_phases(label), **({"method": "practical"} if h is None else {"h": h}))
    assert grains.sizes[schema.GRAIN] > 500
    assert n_different(grains[schema.GRAIN_LABEL].values, label, h=h) == 0


def test_every_piece_is_whole_in_one_window():
    for most in (150, 700, 2500):
        label = made_labels(3, smooth=1.0)
        layer = Layer(label)
        seen = np.zeros(label.shape, int)
        for window in windows_of(layer, most=most):
            part = layer.read(window.ys, window.xs)
            piece, n = connected_pieces(part, IS_PHASE)
            kept = window.kept(piece_boxes(piece, n))
            seen[window.ys, window.xs] += np.append(False, kept)[piece]
        np.testing.assert_array_equal(seen, (label > 0) & (label < schema.MIXED))


def masks_of(seed, n_phases=3):
    """Return masks (phase, y, x) that overlap, one of them empty."""
    rng = np.random.default_rng(seed)
    masks = np.array([ndi.gaussian_filter(rng.standard_normal(SHAPE), 2 + k) > 0.02 for k in range(n_phases)])
    masks[1] = False
    return masks


@pytest.mark.filterwarnings("ignore::eds_chunked.grains.split.GiantPieceWarning")
@pytest.mark.parametrize("most", [10**6, 800])
@pytest.mark.parametrize("method", ["h-maxima", "practical"])
def test_grains_of_masks_are_those_of_each_mask_alone(windows, method, most):
    windows(most)
    masks = masks_of(2)
    assert (masks.sum(axis=0) > 1).any()
    ds = xr.Dataset({schema.MASK: ((schema.PHASE, schema.Y, schema.X), masks)}, coords={schema.PHASE: [1, 2, 3]})
    grains = separate_grains(ds, source="mask", method=method)
    assert grains[schema.GRAIN_LABEL].dims == (schema.PHASE, schema.Y, schema.X)
    assert grains.attrs[schema.PARAMETERS]["source"] == "mask"
    assert grains.attrs[schema.N_PHASES] == 3
    number, table = grains[schema.GRAIN_LABEL].values, grain_table(grains)
    assert list(table.grain_id) == list(range(1, number.max() + 1))
    for phase, mask in enumerate(masks, start=1):
        alone = separate_grains(
            xr.Dataset({schema.LABEL: ((schema.Y, schema.X), mask * np.uint8(phase))}), method=method
        )
        own = number[phase - 1]
        before = int((table.phase < phase).sum())
        np.testing.assert_array_equal(np.where(own > 0, own - before, 0), alone[schema.GRAIN_LABEL].values)
        columns = [name for name in table.columns if name != schema.GRAIN_ID]
        mine = grain_table(grains, phase=phase)[columns]
        pd.testing.assert_frame_equal(mine, grain_table(alone)[columns], check_exact=True)
        assert len(mine) == len(np.unique(own[own > 0]))
    # Phases keep their numbers in a selection.
    some = separate_grains(ds.isel({schema.PHASE: [2]}), source="mask", method=method)
    assert set(grain_table(some).phase) == {3}


@pytest.mark.filterwarnings("ignore::eds_chunked.grains.statistics.FewGrainsWarning")
def test_grains_of_masks_are_saved_and_loaded(tmp_path):
    store = str(tmp_path / "map.zarr")
    ds = edc.convert(edc.synthetic.rock((41, 53, 61), counts_per_pixel=80, n_phases=3, energy_scale=0.3), store)
    edc.save(edc.nmf(ds.eds.window(0.2, 20), n_components=3), store)
    edc.save(edc.segment_phases(edc.load(store, "nmf"), min_size=4), store)
    for source in ("mask", "label"):
        address = workflow.grains_step(store, source=source, memory="2GB")
        loaded = edc.load(store, address)
        expected = separate_grains(edc.load(store, "phases"), ds=ds, source=source)
        pd.testing.assert_frame_equal(grain_table(loaded), grain_table(expected), check_exact=True)
        np.testing.assert_array_equal(loaded[schema.GRAIN_LABEL].values, expected[schema.GRAIN_LABEL].values)
        inside = loaded[schema.GRAIN_LABEL].values > 0
        assert grain_table(loaded).total_counts.sum() == (inside * ds[schema.TOTAL_COUNTS].values).sum()
        assert len(edc.compare_phases(loaded)) == 3
    areas = grain_table(loaded).groupby(schema.PHASE).n_pixels.sum()
    modal = edc.modal_table(edc.load(store, "phases"))
    assert areas.tolist() == modal[schema.N_PIXELS].iloc[:3].tolist()


def test_a_giant_piece_is_exact_and_says_so(windows):
    label = np.ones(SHAPE, np.uint8)
    label[5::17, 7::19] = 2
    expected = separate_grains(as_phases(label))
    windows(1000)
    with pytest.warns(
        GiantPieceWarning, match=r"spans 67 x 89 of the map's 67 x 89 pixels.*exactly.*143 kB instead of 24 kB"
    ):
        found = separate_grains(as_phases(label))
    assert_same(found, expected)


def test_a_piece_too_large_for_the_budget_is_refused_with_figures(monkeypatch):
    shape = (60_000, 50_000)
    giant = split.Window(slice(0, shape[0]), slice(0, shape[1]), shape, own=np.array([0]))
    monkeypatch.setattr(split, "windows_of", lambda layer, most: [giant])
    phases = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), unreadable(shape))})
    message = (
        r"piece of a phase that spans 60000 x 50000 .* expected 72 GB for it, at least \d+ MB in all.*--memory \d+MB"
    )
    with pytest.raises(MemoryBudgetError, match=message):
        separate_grains(phases, memory="2GB")


def test_a_phase_that_fills_the_map_is_left_whole_whatever_the_window(windows):
    windows(500)
    with pytest.warns(UnsplitPhaseWarning, match="Phase 2 fills the map"), pytest.warns(GiantPieceWarning):
        table = grain_table(separate_grains(as_phases(np.full(SHAPE, 2, np.uint8))))
    assert table.n_pixels.tolist() == [SHAPE[0] * SHAPE[1]]


def unreadable(shape):
    """Return labels that nobody may read."""

    def refuse():
        raise AssertionError("something was read")

    return da.map_blocks(refuse, chunks=tuple((n,) for n in shape), dtype=np.uint8, meta=np.empty((0, 0), np.uint8))


def test_too_small_a_budget_is_refused_before_anything_is_read():
    phases = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), unreadable((5000, 5000)))})
    with pytest.raises(MemoryBudgetError, match=r"memory for grains: found a budget of 120 MB"):
        separate_grains(phases, memory="120MB")


BUDGET_RUN = """
import json, sys
import numpy as np, xarray as xr, zarr
import eds_chunked as edc
from eds_chunked import memory
memory.return_freed_memory_to_the_system()
rock = np.asarray(edc.synthetic.rock((512, 512, 61), n_phases=4, grain_size=20, energy_scale=0.3).labels(0, 512))
array = zarr.create_array(sys.argv[1], name="label", shape=(4096, 3072), chunks=(512, 512), dtype="uint8",
                          dimension_names=("y", "x"))
for y in range(0, 4096, 512):
    for x in range(0, 3072, 512):
        array[y : y + 512, x : x + 512] = rock
phases = xr.open_zarr(sys.argv[1], consolidated=False, chunks={})
grains = edc.separate_grains(phases, memory=sys.argv[2])
print(json.dumps([memory.peak_resident(), grains.sizes["grain"], int(grains["n_pixels"].sum())]))
"""


def test_a_map_three_times_a_window_keeps_its_budget(tmp_path):
    budget = 480 * 10**6
    command = [sys.executable, "-c", BUDGET_RUN, str(tmp_path / "labels.zarr"), "480MB"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak, n_grains, n_pixels = json.loads(done.stdout)
    assert n_pixels == 4096 * 3072
    assert n_grains > 10_000
    assert peak <= budget
