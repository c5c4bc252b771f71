"""The grain table: columns that others read, against regionprops and against ImageJ's definitions."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import ndimage as ndi
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import regionprops

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError, StaleResultError
from eds_chunked.grains.measure import GrainShapes, Grid, grain_columns, grain_table, measure_window
from eds_chunked.grains.split import separate_grains

IMAGEJ = "Area Circ Feret FeretX FeretY FeretAngle MinFeret AR Round Solidity"
OURS = """grain_id phase ecd_{u} perimeter_{u} major_{u} minor_{u} n_pixels centroid_x_{u} centroid_y_{u} touches_edge
n_neighbours total_counts reason"""


def phase_map(label, *, size=None):
    ds = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), np.asarray(label, dtype=np.uint8))})
    if size is not None:
        for axis, step, start in zip((schema.Y, schema.X), size, (3.0, -11.0), strict=True):
            units = {"units": schema.MICROMETRE}
            ds = ds.assign_coords({axis: (axis, start + step * np.arange(ds.sizes[axis]), units)})
    return ds


def rock(seed, shape=(61, 83)):
    rng = np.random.default_rng(seed)
    fields = [ndi.gaussian_filter(rng.standard_normal(shape), 3 + k) * (3 + k) for k in range(3)]
    label = (np.argmax(fields, axis=0) + 1).astype(np.uint8)
    label[rng.random(shape) < 0.01] = schema.UNASSIGNED
    return label


def one_grain(image, *, size=None):
    """Return the row of a grain that is not split."""
    table = grain_table(separate_grains(phase_map(np.pad(np.asarray(image), 1), size=size), h=1e6))
    assert len(table) == 1
    return table.iloc[0]


@pytest.mark.parametrize(("size", "u"), [(None, "px"), ((0.5, 0.5), "um")])
def test_columns_are_those_that_are_expected_in_their_order(size, u):
    grains = separate_grains(phase_map(rock(1), size=size))
    table = grain_table(grains)
    assert list(table.columns) == (IMAGEJ + " " + OURS.format(u=u)).split()
    for name in table.columns:
        assert grains[name].dims == (schema.GRAIN,)
        assert grains[name].attrs["long_name"]
    length = "pixel" if size is None else "um"
    assert grains["Feret"].attrs["units"] == grains[f"ecd_{u}"].attrs["units"] == length
    assert grains["Area"].attrs["units"] == ("pixel" if size is None else "um2")
    assert grains[schema.GRAIN_LABEL].dtype == np.int32
    assert (schema.X in grains.coords) == (size is not None)


@pytest.mark.parametrize("size", [(1.0, 1.0), (0.37, 0.37), (2.3, 0.9)])
def test_ours_are_those_of_regionprops(size):
    grains = separate_grains(phase_map(rock(4), size=size), method="practical")
    number, table = grains[schema.GRAIN_LABEL].values, grain_table(grains)
    regions = regionprops(number, spacing=size)
    assert len(table) == len(regions) > 100
    expected = pd.DataFrame(
        {
            schema.GRAIN_ID: region.label,
            schema.N_PIXELS: region.num_pixels,
            "Area": region.area,
            "ecd_um": region.equivalent_diameter_area,
            "major_um": region.axis_major_length,
            "centroid_y_um": region.centroid[0] + 3,
            "centroid_x_um": region.centroid[1] - 11,
        }
        for region in regions
    )
    for name in expected:
        np.testing.assert_allclose(table[name], expected[name], rtol=1e-9, atol=1e-9, err_msg=name)
    # The minor axis of a line is 0 but for rounding, of which the square root is taken.
    minor = [region.axis_minor_length for region in regions]
    np.testing.assert_allclose(table.minor_um, minor, rtol=1e-6, atol=1e-6)
    boxes = np.array([region.bbox for region in regions])
    touches = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == number.shape).any(axis=1)
    np.testing.assert_array_equal(table.touches_edge, touches)
    assert 0 < touches.sum() < len(table)
    if size[0] == size[1]:
        crofton = [region.perimeter_crofton * size[0] for region in regionprops(number)]
        np.testing.assert_allclose(table.perimeter_um, crofton, rtol=1e-12)


@pytest.mark.parametrize("size", [(0.7, 0.7), (0.7, 1.9)])
def test_the_first_ten_are_as_imagej_defines_them(size):
    grains = separate_grains(phase_map(rock(7), size=size), method="practical")
    number, table = grains[schema.GRAIN_LABEL].values, grain_table(grains)
    height, width = size
    for region, row in zip(regionprops(number), table.itertuples(index=False), strict=True):
        corners = np.concatenate([region.coords + np.array(add) for add in ((0, 0), (0, 1), (1, 0), (1, 1))])
        hull = ConvexHull(corners * np.array(size))
        points = hull.points[hull.vertices]
        assert row.Area == pytest.approx(region.area * height * width)
        assert row.Solidity == pytest.approx(row.Area / hull.volume)
        assert row.Feret == pytest.approx(pdist(points).max())
        assert row.MinFeret == pytest.approx(min(np.ptp(points @ normal[:2]) for normal in hull.equations))
        # The line from (FeretX, FeretY), its left end, at FeretAngle, anticlockwise, ends at another corner.
        start = np.array([row.FeretY - 3 + height / 2, row.FeretX + 11 + width / 2])
        assert 0 <= row.FeretAngle < 180
        angle = np.radians(row.FeretAngle - 180 * (row.FeretAngle > 90))
        way = row.Feret * np.array([-np.sin(angle), np.cos(angle)])
        for end in (start, start + way):
            assert np.abs(hull.points - end).max(axis=1).min() < 1e-9
        # Second moments of the pixels' areas, by cutting each pixel into 20 x 20; the ratio needs no scaling.
        fine = (np.arange(20) + 0.5) / 20
        y = (region.coords[:, 0, None, None] + fine[:, None] + 0 * fine).ravel() * height
        x = (region.coords[:, 1, None, None] + 0 * fine[:, None] + fine).ravel() * width
        low, high = np.linalg.eigvalsh(np.cov(np.stack([y, x]), ddof=0))
        np.testing.assert_allclose(row.AR, np.sqrt(high / low), rtol=3e-3)
        major = 2 * np.sqrt(row.Area / np.pi * row.AR)
        assert row.Round == pytest.approx(4 * row.Area / (np.pi * major**2))
        assert 0 < row.Circ <= 1


def test_circularity_has_the_perimeter_of_imagej():
    # Of ImageJ's own documentation: 4 - 2 (2 - sqrt 2) for one pixel, 8 - 4 (2 - sqrt 2) for two by two.
    cut = 2 - np.sqrt(2)
    one, four = one_grain(np.ones((1, 1))), one_grain(np.ones((2, 2)))
    assert one.Circ == pytest.approx(min(1, 4 * np.pi * 1 / (4 - 2 * cut) ** 2))
    assert four.Circ == pytest.approx(min(1, 4 * np.pi * 4 / (8 - 4 * cut) ** 2))
    bar = one_grain(np.ones((3, 17)))
    assert bar.Circ == pytest.approx(4 * np.pi * 51 / (40 - 4 * cut) ** 2)
    # On pixels of 2 x 5 um; a hole changes the area, and not the outline.
    ring = np.ones((3, 17))
    ring[1, 4:9] = 0
    wide = one_grain(ring, size=(2.0, 5.0))
    outer = 2 * (3 * 2 + 17 * 5) - 4 * (2 + 5 - np.hypot(2, 5))
    assert wide.Circ == pytest.approx(4 * np.pi * 46 * 10 / outer**2)


def test_a_round_grain_is_round_and_a_bar_is_a_bar():
    y, x = np.mgrid[:81, :81] - 40
    disc = one_grain(y**2 + x**2 <= 38.3**2, size=(0.5, 0.5))
    assert disc.perimeter_um == pytest.approx(np.pi * 38.3, rel=0.01)
    assert disc.Feret == pytest.approx(38.3, rel=0.02)
    assert disc.MinFeret == pytest.approx(38.3, rel=0.02)
    np.testing.assert_allclose([disc.AR, disc.Round], 1, atol=1e-6)
    assert disc.Solidity > 0.97
    bar = one_grain(np.ones((2, 31)), size=(3.0, 0.5))
    np.testing.assert_allclose([bar.AR, bar.Round], [15.5 / 6, 6 / 15.5])
    assert bar.MinFeret == pytest.approx(6)
    assert bar.Feret == pytest.approx(np.hypot(6, 15.5))
    # Of the two diagonals that from the upper right corner, whose left end is the lower one of row 3.
    assert (bar.FeretX, bar.FeretY) == (-11 + 0.25, 3 + 2.5 * 3)
    assert bar.FeretAngle == pytest.approx(np.degrees(np.arctan2(6, 15.5)))


def test_a_grain_of_one_pixel_has_all_measures():
    row = one_grain(np.ones((1, 1)), size=(0.5, 0.5))
    assert row.n_pixels == 1
    assert row.ecd_um == pytest.approx(2 * np.sqrt(0.25 / np.pi))
    assert (row.Feret, row.MinFeret, row.AR, row.Round, row.Solidity) == pytest.approx((np.sqrt(0.5), 0.5, 1, 1, 1))
    assert (row.major_um, row.minor_um) == (0, 0)
    assert row.reason == ""


def test_neighbours_are_the_grains_that_share_a_side():
    grains = separate_grains(phase_map(rock(2)), method="practical")
    number, table = grains[schema.GRAIN_LABEL].values, grain_table(grains)
    beside = {grain: set() for grain in table.grain_id}
    for one, other in ((number[1:], number[:-1]), (number[:, 1:], number[:, :-1])):
        for a, b in zip(one.ravel(), other.ravel(), strict=True):
            if a != b and a and b:
                beside[a].add(b)
                beside[b].add(a)
    assert list(table.n_neighbours) == [len(beside[grain]) for grain in table.grain_id]
    # Corners do not count, nor what is no grain.
    assert list(grain_table(separate_grains(phase_map([[1, 0, 2], [0, 1, 2]]))).n_neighbours) == [0, 1, 1]


def test_counts_of_grains_are_those_of_the_map():
    rng = np.random.default_rng(3)
    phases = phase_map(rock(3), size=(0.5, 0.5))
    counts = rng.integers(0, 2**40, phases[schema.LABEL].shape, dtype=np.uint64)
    ds = xr.Dataset({schema.TOTAL_COUNTS: ((schema.Y, schema.X), counts)}, coords=phases.coords)
    grains = separate_grains(phases, ds=ds)
    number, table = grains[schema.GRAIN_LABEL].values, grain_table(grains)
    assert table.total_counts.dtype == np.uint64
    assert [int(n) for n in table.total_counts] == [int(counts[number == grain].sum()) for grain in table.grain_id]
    assert grain_table(separate_grains(phases)).total_counts.isna().all()
    with pytest.raises(ChunkLayoutError, match="along x"):
        separate_grains(phases, ds=ds.isel({schema.X: slice(1, None)}))
    with pytest.raises(StaleResultError, match="another map"):
        separate_grains(phases, ds=ds.assign_attrs({schema.FINGERPRINT: "other"}))
    with pytest.raises(ChunkLayoutError, match="total_counts"):
        separate_grains(phases, ds=ds.drop_vars(schema.TOTAL_COUNTS))


def test_a_grain_that_cannot_be_measured_is_a_row_of_nan_with_its_reason():
    number = np.zeros((9, 13), np.int32)
    number[1:4, 1:4] = 1
    number[6, 2] = number[6, 9] = 2  # not in one piece
    number[2:7, 6:8] = 3
    shapes = measure_window(number, 3, np.ones_like(number, np.uint8), size=(1.0, 1.0), corner=(0, 0))
    grid = Grid.of(phase_map(number > 0, size=(1.0, 1.0)))
    columns = grain_columns(shapes, grid=grid, n_neighbours=np.zeros(3, np.int64), total_counts=None)
    table = grain_table(columns)
    assert list(table.reason) == ["", "not in one piece", ""]
    measures = [name for name in table.columns if table[name].dtype == float and name != schema.TOTAL_COUNTS]
    assert len(measures) == 16
    assert table.loc[1, measures].isna().all()
    assert table.loc[[0, 2], measures].notna().all().all()
    assert table.loc[1, ["grain_id", "phase", "n_pixels"]].tolist() == [2, 1, 2]
    assert len(GrainShapes.joined([])) == 0
    # Size statistics leave it out, and say so.
    four = xr.concat([columns, columns.isel({schema.GRAIN: [0]})], schema.GRAIN)
    with pytest.warns(UserWarning, match="3 grains"):
        assert edc.grain_size_statistics(four).n_unmeasured == 1


def test_a_phase_with_no_grain_inside_the_edges_is_told():
    label = np.zeros((11, 17), np.uint8)
    label[0:3, 2:5] = label[8:11, 1:4] = label[4:7, 15:17] = 2
    label[2:4, 8:10] = label[6:8, 8:10] = label[5:7, 4:6] = 1
    grains = separate_grains(phase_map(label, size=(1.0, 1.0)).assign_coords({schema.PHASE: [1, 2, 3]}))
    assert grain_table(grains, phase=2).touches_edge.all()
    assert len(grain_table(grains, phase=3)) == 0
    for phase, cut in ((2, 3), (3, 0)):
        message = rf"grains of phase {phase}: found 0 usable \(grains that touch the map's edge are left out \({cut}\)"
        with pytest.raises(ParameterError, match=message):
            edc.grain_size_statistics(grains, phase=phase)
    compared = edc.compare_phases(grains)
    assert list(compared.reason) == ["", "0 usable grains, 3 are needed", "0 usable grains, 3 are needed"]
    assert compared.loc[1:, "median_um"].isna().all()
