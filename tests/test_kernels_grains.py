"""The kernels of grains against SciPy, scikit-image and plain Python: distances, pieces, floods, outlines, hulls."""

import heapq

import numpy as np
import pytest
from scipy import ndimage as ndi
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import label as connected
from skimage.measure import regionprops
from skimage.segmentation import watershed

from eds_chunked import schema
from eds_chunked.grains.windows import IS_PHASE
from eds_chunked.kernels.connected import connected_pieces, piece_boxes
from eds_chunked.kernels.distance import squared_distances
from eds_chunked.kernels.flooding import flood, local_peaks
from eds_chunked.kernels.outline import HULL, OUTLINE, SUMS, grain_hulls, grain_outlines, grain_sums


def made_labels(seed, shape=(37, 53), smooth=2.0):
    rng = np.random.default_rng(seed)
    fields = [ndi.gaussian_filter(rng.standard_normal(shape), smooth + k) * (smooth + k) for k in range(3)]
    label = (np.argmax(fields, axis=0) + 1).astype(np.uint8)
    label[rng.random(shape) < 0.02] = schema.UNASSIGNED
    label[rng.random(shape) < 0.01] = schema.MIXED
    return label


def made_grains(seed, shape=(37, 53)):
    """Return grains of any shape, holes and all, that connect by pixel sides, and how many there are."""
    grain = connected(made_labels(seed, shape, 1.3), background=0, connectivity=1).astype(np.int32)
    return grain, int(grain.max())


@pytest.mark.parametrize("aspect", [1.0, 2.0, 0.37, 1.234, 8.7 / 3.3])
def test_distances_are_those_of_scipy_to_the_last_bit(aspect):
    for seed in range(6):
        label = made_labels(seed)
        found = np.sqrt(squared_distances(label, IS_PHASE, aspect))
        for phase in (1, 2, 3):
            mask = label == phase
            expected = ndi.distance_transform_edt(mask, sampling=(aspect, 1.0))
            np.testing.assert_array_equal(found[mask], expected[mask])
        assert not found[~IS_PHASE[label]].any()


def test_distances_are_those_to_the_nearest_of_all_other_pixels():
    label = made_labels(3, (11, 17))
    y, x = (part.ravel() for part in np.indices(label.shape))
    far = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2).astype(float)
    far[label.ravel()[:, None] == label.ravel()] = np.inf
    expected = np.where(IS_PHASE[label], far.min(axis=1).reshape(label.shape), 0)
    np.testing.assert_array_equal(squared_distances(label, IS_PHASE, 1.0), expected)
    assert np.isinf(squared_distances(np.ones((5, 7), np.uint8), IS_PHASE, 1.0)).all()
    for line in (np.array([[1, 1, 2, 2, 2, 1]], np.uint8), np.array([[1, 1, 2, 2, 2, 1]], np.uint8).T):
        assert squared_distances(line, IS_PHASE, 1.0).ravel().tolist() == [4, 1, 1, 4, 1, 1]


def test_pieces_and_boxes_are_those_of_scikit_image():
    for seed in range(6):
        label = made_labels(seed, smooth=1.0)
        piece, n = connected_pieces(label, IS_PHASE)
        expected = connected(np.where(IS_PHASE[label], label, 0), background=0, connectivity=1)
        np.testing.assert_array_equal(piece, expected)
        boxes = piece_boxes(piece, n)
        assert n > 50
        for region, box in zip(regionprops(expected), boxes, strict=True):
            top, left, bottom, right = region.bbox
            assert box.tolist() == [top, bottom, left, right, region.coords[0, 1]]


def ranked(label):
    height, rank = np.unique(squared_distances(label, IS_PHASE, 1.0), return_inverse=True)
    return rank.reshape(label.shape).astype(np.int32), height


def flooded_with_a_heap(level, seed, piece):
    """Flood in Python as scikit-image 0.26 does: a heap of (value, age), no value under that of the pixel before."""
    basin = seed.copy()
    places = list(zip(*np.nonzero(seed), strict=True))
    heap = [(-int(level[y, x]), age - len(places), y, x) for age, (y, x) in enumerate(places)]
    heapq.heapify(heap)
    age = 0
    while heap:
        value, _, y, x = heapq.heappop(heap)
        for v, u in ((y - 1, x), (y, x - 1), (y, x + 1), (y + 1, x)):
            inside = 0 <= v < piece.shape[0] and 0 <= u < piece.shape[1]
            if inside and piece[v, u] == piece[y, x] and not basin[v, u]:
                age += 1
                basin[v, u] = basin[y, x]
                heapq.heappush(heap, (max(-int(level[v, u]), value), age, v, u))
    return basin


def test_a_flood_from_any_seeds_is_that_of_a_heap():
    rng = np.random.default_rng(4)
    for seed in range(12):
        label = made_labels(seed)
        rank, height = ranked(label)
        piece, _ = connected_pieces(label, IS_PHASE)
        # Seeds that need not be peaks, one or more pixels each: higher ground lies beside some of them.
        found, _ = connected_pieces((rng.random(label.shape) < 0.03) * label, IS_PHASE)
        expected = flooded_with_a_heap(rank, found, piece)
        flood(rank, found, piece, len(height))
        np.testing.assert_array_equal(found, expected)


def test_a_flood_from_some_of_the_peaks_is_that_of_scikit_image():
    rng = np.random.default_rng(4)
    for seed in range(12):
        label = made_labels(seed)
        rank, height = ranked(label)
        piece, _ = connected_pieces(label, IS_PHASE)
        # Higher ground without a seed lies behind lower one.
        seeds, _ = connected_pieces(local_peaks(rank, label, piece) * label, IS_PHASE)
        kept = np.append(False, rng.random(seeds.max()) < 0.5)
        seeds = np.where(kept[seeds], seeds, np.int32(0))
        found = seeds.copy()
        flood(rank, found, piece, len(height))
        for phase in (1, 2, 3):
            mask = label == phase
            surface = -rank.astype(float)
            there = (seeds > 0) & mask
            surface[there] += np.linspace(-0.5, -0.1, np.count_nonzero(there))
            expected = watershed(surface, np.where(mask, seeds, 0), mask=mask, connectivity=1)
            np.testing.assert_array_equal(found[mask], expected[mask])


def test_peaks_are_those_of_a_maximum_filter():
    for seed in range(4):
        label = made_labels(seed)
        rank, _ = ranked(label)
        piece, _ = connected_pieces(label, IS_PHASE)
        found = local_peaks(rank, label, piece)
        for phase in (1, 2, 3):
            mask = label == phase
            distance = ndi.distance_transform_edt(mask)
            expected = (ndi.maximum_filter(distance, size=3, mode="nearest") == distance) & mask
            np.testing.assert_array_equal(found[mask], expected[mask])


def test_sums_of_grains_are_those_of_their_pixels():
    grain, n = made_grains(1)
    found = grain_sums(grain, n)
    padded = np.pad(grain, 1)
    for region, sums in zip(regionprops(grain), found, strict=True):
        y, x = region.coords.T
        dy, dx = y - y[0], x - x[0]
        moments = [dy.sum(), dx.sum(), (dy * dy).sum(), (dx * dx).sum(), (dy * dx).sum()]
        own = padded == region.label
        across = [np.count_nonzero(np.diff(own, axis=axis)) for axis in (1, 0)]
        across += [np.count_nonzero(own[1:, 1:] != own[:-1, :-1]), np.count_nonzero(own[:-1, 1:] != own[1:, :-1])]
        assert dict(zip(SUMS, sums.tolist(), strict=True)) == dict(
            zip(SUMS, [len(y), y[0], x[0], y.max(), x.min(), x.max(), *moments, *across], strict=True)
        )


def corners_of(image):
    """Return the corners (y, x) of the outline of an image without holes, clockwise, from where ImageJ begins."""
    inside = np.pad(image, 1)
    after = {}
    for y, x in zip(*np.nonzero(inside), strict=True):
        for (v, u), begin, step in (
            ((y - 1, x), (y, x), (0, 1)),
            ((y, x + 1), (y, x + 1), (1, 0)),
            ((y + 1, x), (y + 1, x + 1), (0, -1)),
            ((y, x - 1), (y + 1, x), (-1, 0)),
        ):
            if not inside[v, u]:
                after.setdefault(begin, []).append(step)
    y = np.flatnonzero(inside.any(axis=1))[0]
    x = np.flatnonzero(inside[y])[0]
    while inside[y, x]:
        x += 1
    place, step = (y + 1, x), (1, 0)
    walked = []
    while not walked or (place, step) != ((y + 1, x), (1, 0)):
        right = (step[1], -step[0])
        going = right if right in after[place] else next(iter(after[place]))
        walked.append((place, step != going))
        step = going
        place = place[0] + step[0], place[1] + step[1]
    return [place for place, turns in walked if turns], len(walked)


def perimeter_of_imagej(corners):
    """Return sides less 2 - sqrt(2) for every corner that counts, pixels of side 1."""
    sides = [abs(b[0] - a[0]) + abs(b[1] - a[1]) for a, b in zip(corners, [*corners[1:], corners[0]], strict=True)]
    counted, n = False, 0
    for before in [sides[-1], *sides[:-1]]:
        counted = before > 1 or not counted
        n += counted
    return sum(sides), n


def test_outlines_are_walked_as_imagej_does():
    for seed in range(3):
        grain, n = made_grains(seed)
        found = grain_outlines(grain, grain_sums(grain, n))
        for region, outline in zip(regionprops(grain), found, strict=True):
            background = connected(np.pad(~region.image, 1, constant_values=True), background=0, connectivity=2)
            filled = (background != 1)[1:-1, 1:-1]
            corners, n_sides = corners_of(filled)
            sides, counted = perimeter_of_imagej(corners)
            assert sides == n_sides
            got = dict(zip(OUTLINE, outline.tolist(), strict=True))
            assert got["along_x"] + got["along_y"] == sides
            assert got["corners"] == counted
            assert got["enclosed"] == np.count_nonzero(filled)


@pytest.mark.parametrize("size", [(1.0, 1.0), (0.7, 1.9)])
def test_hulls_are_those_of_the_corners_of_pixels(size):
    grain, n = made_grains(2)
    sums = grain_sums(grain, n)
    found = grain_hulls(grain, sums, *size)
    for region, row, whole in zip(regionprops(grain), found, sums, strict=True):
        hull = dict(zip(HULL, row, strict=True))
        corners = np.concatenate([region.coords + np.array(add) for add in ((0, 0), (0, 1), (1, 0), (1, 1))])
        expected = ConvexHull(corners * np.array(size))
        points = (corners * np.array(size))[expected.vertices]
        widths = [np.ptp(points @ normal[:2]) for normal in expected.equations]
        assert hull["area"] * size[0] * size[1] == pytest.approx(expected.volume, rel=1e-12)
        assert hull["feret"] == pytest.approx(pdist(points).max(), rel=1e-12)
        assert hull["min_feret"] == pytest.approx(min(widths), rel=1e-9)
        # Both ends of the longest distance are corners, the first is not right of the other.
        start = np.array([hull["y"] + whole[SUMS.index("top")], hull["x"] + whole[SUMS.index("left")]])
        end = start + np.array([-hull["rise"], hull["run"]])
        assert hull["run"] >= 0
        assert {tuple(start), tuple(end)} <= {tuple(corner) for corner in corners.astype(float)}
        assert np.hypot(*((end - start) * np.array(size))) == pytest.approx(hull["feret"], rel=1e-12)
