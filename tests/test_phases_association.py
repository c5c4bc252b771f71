"""Association: boundary counts against plain NumPy, perimeters against scikit-image, lengths against geometry."""

import math

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.spatial import Voronoi
from skimage.measure import label as label_image
from skimage.measure import perimeter_crofton

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.figures import png
from eds_chunked.kernels.enclosure import outer_neighbours
from eds_chunked.phases import contacts
from eds_chunked.phases.contacts import association, boundary_bias
from eds_chunked.phases.modal import modal_table
from eds_chunked.phases.naming import merge_phases
from tests.decomposition_maps import ragged

SQUARE = (0.5, 0.5)
FLAT = (0.5, 0.2)


def made_phases(label, n_phases, *, size=SQUARE, units=schema.MICROMETRE, chunks=None, analysed=None):
    label = np.asarray(label, np.uint8)
    mask = np.stack([label == k for k in range(1, n_phases + 1)])
    data = label if chunks is None else da.from_array(label, chunks=chunks)
    phases = xr.Dataset(
        {schema.MASK: ((schema.PHASE, schema.Y, schema.X), mask), schema.LABEL: ((schema.Y, schema.X), data)},
        coords={
            schema.PHASE: np.arange(1, n_phases + 1),
            schema.Y: (schema.Y, np.arange(label.shape[0]) * size[0], {"units": units}),
            schema.X: (schema.X, np.arange(label.shape[1]) * size[1], {"units": units}),
        },
        attrs={schema.PIXEL_SIZE: list(size)},
    )
    if analysed is not None:
        phases = phases.assign_coords({schema.ANALYSED_PIXEL: ((schema.Y, schema.X), analysed)})
    return phases


def blobs(shape, n_phases, *, seed=0, smooth=1.3):
    """Return labels 0, 1..n, 255 in patches that nest and touch in every way."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.random(shape), smooth) for _ in range(n_phases + 2)]
    return np.array([*range(n_phases + 1), schema.MIXED], np.uint8)[np.argmax(fields, axis=0)]


def boundary(found, one, other):
    table = found.contacts
    row = table[(table["phase"] == one) & (table["neighbour"] == other)]
    return float(row[f"boundary_{found.unit}"].sum())


# ------------------------------------------------------------------------------------------------- by hand
def test_counts_by_hand():
    found = association(made_phases([[1, 1, 2], [1, 1, 2], [0, 255, 255]], 2, size=(1, 1)))
    side, diagonal = math.pi / 8, math.pi / 8 / math.sqrt(2)
    assert boundary(found, "1", "2") == pytest.approx(2 * side + 2 * diagonal, rel=1e-14)
    assert boundary(found, "1", "unassigned") == pytest.approx(side + diagonal, rel=1e-14)
    assert boundary(found, "1", "mixed") == pytest.approx(side + 2 * diagonal, rel=1e-14)
    assert boundary(found, "2", "mixed") == pytest.approx(side + diagonal, rel=1e-14)
    assert boundary(found, "2", "unassigned") == 0
    surfaces = found.surfaces.set_index("phase")
    assert list(surfaces.index) == ["1", "2", "unassigned", "mixed"]
    assert surfaces["n_pixels"].tolist() == [4, 2, 1, 2]
    assert surfaces["area_um2"].tolist() == [4, 2, 1, 2]
    perimeter = 4 * side + 5 * diagonal
    assert surfaces.loc["1", "perimeter_um"] == pytest.approx(perimeter, rel=1e-14)
    assert surfaces.loc["1", "free_percent"] == pytest.approx(100 * (side + diagonal) / perimeter, rel=1e-14)
    assert surfaces.loc["1", "specific_surface_per_um"] == pytest.approx(4 / math.pi * perimeter / 4, rel=1e-14)
    assert found.contacts["n_contacts"].tolist() == [1] * len(found.contacts)


def by_numpy(label, size):
    """Return boundary lengths (257, 257) from every pair of pixels, one after the other."""
    height, width = size
    turn = math.atan2(height, width)
    lines = {(0, 1): (turn, height), (1, 0): (math.pi / 2 - turn, width)}
    between = height * width / math.hypot(height, width)
    lines |= {(1, 1): (math.pi / 4, between), (1, -1): (math.pi / 4, between)}
    found = np.zeros((257, 257))
    for y in range(label.shape[0]):
        for x in range(label.shape[1]):
            for (down, right), (turned, apart) in lines.items():
                v, u = y + down, x + right
                if v < label.shape[0] and 0 <= u < label.shape[1] and label[y, x] != label[v, u]:
                    found[label[y, x], label[v, u]] += turned * apart / 2
                    found[label[v, u], label[y, x]] += turned * apart / 2
    return found


@pytest.mark.parametrize("size", [SQUARE, FLAT, (0.3, 1.1)])
def test_lengths_are_those_of_a_plain_loop_over_the_map(size):
    label = blobs((31, 47), 3)
    expected = by_numpy(label, size)
    found = association(made_phases(label, 3, size=size))
    names = {"1": 1, "2": 2, "3": 3, "unassigned": 0, "mixed": 255}
    for one, left in names.items():
        for other, right in names.items():
            assert boundary(found, one, other) == pytest.approx(expected[left, right], rel=1e-12)
    assert found.matrix().sum(axis=1).to_numpy() == pytest.approx(100)
    lengths = found.matrix(lengths=True)
    np.testing.assert_allclose(lengths, lengths.T, rtol=1e-14)
    np.testing.assert_allclose(lengths.sum(axis=1), found.surfaces["perimeter_um"], rtol=1e-14)


def test_perimeters_are_those_of_scikit_image():
    label = blobs((71, 101), 3, smooth=3)
    # scikit-image counts the frame of zeros around an image as background, we stop at the border of the map.
    label[[0, -1]] = label[:, [0, -1]] = 1
    surfaces = association(made_phases(label, 3, size=(1, 1))).surfaces.set_index("phase")
    for number in (2, 3):
        expected = perimeter_crofton(label == number, directions=4)
        assert surfaces.loc[str(number), "perimeter_um"] == pytest.approx(expected, rel=1e-12)


# ------------------------------------------------------------------------------------------------ chunking
@settings(max_examples=15, deadline=None)
@given(chunks=st.tuples(ragged(31), ragged(47)), strip=st.sampled_from([1, 47, 94, 300, 2**20]), seed=st.integers(0, 9))
def test_the_same_for_every_chunking_and_strip(chunks, strip, seed):
    label = blobs((31, 47), 4, seed=seed)
    analysed = np.arange(47) % 13 > 0
    analysed = np.broadcast_to(analysed, label.shape)
    label = np.where(analysed, label, 0)
    whole = association(made_phases(label, 4, size=FLAT, analysed=analysed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contacts, "_STRIP_PIXELS", strip)
        parts = association(made_phases(label, 4, size=FLAT, chunks=chunks, analysed=analysed))
    assert "left out" in whole.surfaces["phase"].tolist()
    for name in ("contacts", "surfaces", "inclusions"):
        pd.testing.assert_frame_equal(getattr(parts, name), getattr(whole, name), check_exact=True)


# ---------------------------------------------------------------------------------------------- inclusions
def by_filling(label, n_phases):
    """Return (phase, host) -> pieces, pixels: fill a piece's holes, and look at the ring around it on the whole map."""
    found = {}
    pieces = label_image(label, background=-1, connectivity=1)
    for number in range(1, pieces.max() + 1):
        piece = pieces == number
        phase = int(label[piece][0])
        filled = ndimage.binary_fill_holes(piece)
        ring = ndimage.binary_dilation(filled) & ~filled
        at_border = piece[[0, -1]].any() or piece[:, [0, -1]].any()
        around = np.unique(label[ring])
        if 1 <= phase <= n_phases and not at_border and len(around) == 1 and 1 <= around[0] <= n_phases:
            count, n = found.get((phase, int(around[0])), (0, 0))
            found[phase, int(around[0])] = (count + 1, n + int(piece.sum()))
    return found


def table_of(found):
    return {
        (int(row.phase), int(row.host)): (row.n_pieces, row.n_pixels)
        for row in found.inclusions.itertuples(index=False)
    }


def nested(seed, smooth):
    """Return labels with grains in grains: patches of two phases, of two more in parts of them, and specks of all."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=(41, 59)), smooth) for _ in range(2)]
    label = 1 + (fields[0] > 0.6 * fields[0].std()) + 2 * (fields[1] > 1.2 * fields[1].std())
    specks = rng.random(label.shape) < 0.03
    label[specks] = rng.choice([0, 1, 2, 3, 4, 255], specks.sum())
    return label


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("smooth", [0.8, 1.6])
def test_inclusions_are_those_that_filling_finds(seed, smooth):
    label = nested(seed, smooth)
    expected = by_filling(label, 4)
    assert sum(count for count, _ in expected.values()) > 10
    found = association(made_phases(label, 4))
    assert table_of(found) == expected
    assert found.surfaces["n_enclosed"].sum() == sum(count for count, _ in expected.values())


def test_a_grain_with_a_divided_hole_is_still_an_inclusion():
    label = np.full((15, 17), 1)
    label[3:12, 4:14] = 2
    label[5:9, 6:12] = 3
    label[5:9, 8:10] = 4  # 3 is in two pieces now, both between 2 and 4
    label[0, 3] = label[13, 1] = 3
    assert table_of(association(made_phases(label, 4))) == {(2, 1): (1, 66), (3, 1): (1, 1)}
    surfaces = association(made_phases(label, 4)).surfaces.set_index("phase")
    assert surfaces.loc["2", "enclosed_percent"] == 100
    assert surfaces.loc["3", ["n_pieces", "n_enclosed"]].tolist() == [4, 1]


@pytest.mark.parametrize("seed", range(5))
def test_the_kernel_is_its_plain_twin(seed):
    """Of every node: neighbours that still reach node 0 when the node is taken away."""
    rng = np.random.default_rng(seed)
    n = 19
    # Trees with few more edges have many enclosed branches.
    edges = {(int(rng.integers(0, node)), node) for node in range(1, n)}
    edges |= {tuple(sorted(map(int, rng.choice(n, 2, replace=False)))) for _ in range(6)}
    near = [sorted({b for a, b in edges if a == i} | {a for a, b in edges if b == i}) for i in range(n)]
    label = rng.integers(0, 4, n)
    start = np.cumsum([0, *map(len, near)])
    arguments = start, np.concatenate(near), label
    smallest, largest = outer_neighbours(*arguments)
    twin_smallest, twin_largest = outer_neighbours.py_func(*arguments)
    np.testing.assert_array_equal(smallest, twin_smallest)
    np.testing.assert_array_equal(largest, twin_largest)
    for node in range(1, n):
        reached, todo = {0}, [0]
        while todo:
            new = set(near[todo.pop()]) - reached - {node}
            reached |= new
            todo += new
        outer = [label[i] for i in near[node] if i in reached]
        assert (smallest[node], largest[node]) == (min(outer), max(outer))


# ------------------------------------------------------------------------------------ accuracy on known shapes
def test_the_stated_bias_is_that_of_straight_boundaries():
    assert boundary_bias(1, 1) == pytest.approx((math.pi / 8 * (1 + math.sqrt(2)) - 1, 0.0262), abs=1e-4)
    y, x = np.mgrid[:601, :601] - 300
    for size in ((1, 1), FLAT):
        low, high = boundary_bias(*size)
        errors = []
        for angle in np.radians([0, 11, 22.5, 37, 45, 68.2, 90, 111, 141]):
            # Cut to a disc, so that each boundary has a known length: the disc's diameter in um.
            side = y * size[0] * math.cos(angle) > x * size[1] * math.sin(angle)
            radius = 290 * min(size)
            inside = (y * size[0]) ** 2 + (x * size[1]) ** 2 < radius**2
            found = association(made_phases(np.where(inside, 1 + side, 0), 2, size=size))
            errors.append(boundary(found, "1", "2") / (2 * radius) - 1)
        assert low - 0.006 < min(errors)
        assert max(errors) < high + 0.006
        assert max(errors) - min(errors) > 0.05


@pytest.mark.parametrize("size", [(1.0, 1.0), (1.0, 0.6)])
def test_discs_of_known_perimeter_area_and_number(size):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:401, :503]
    y, x = y * size[0], x * size[1]
    label, perimeter, area, n = np.full(y.shape, 1), 0.0, 0.0, 0
    for row in np.arange(28, y.max() - 28, 52):
        for column in np.arange(28, x.max() - 28, 52):
            radius = rng.uniform(10, 24)
            centre = row + rng.uniform(-0.5, 0.5), column + rng.uniform(-0.5, 0.5)
            label[(y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2] = 2
            perimeter, area, n = perimeter + 2 * math.pi * radius, area + math.pi * radius**2, n + 1
    found = association(made_phases(label, 2, size=size), free=["1"])
    discs = found.surfaces.set_index("phase").loc["2"]
    assert discs["perimeter_um"] == pytest.approx(perimeter, rel=0.01)
    assert discs["area_um2"] == pytest.approx(area, rel=0.01)
    assert discs["specific_surface_per_um"] == pytest.approx(4 / math.pi * perimeter / area, rel=0.01)
    assert discs["n_pieces"] == discs["n_enclosed"] == n
    assert discs["free_percent"] == 100
    assert found.contacts.loc[0, "n_contacts"] == n


@pytest.mark.parametrize("size", [(1.0, 1.0), (1.0, 0.7)])
def test_voronoi_polygons_of_known_contacts(size):
    rng = np.random.default_rng(8)
    shape = (521, 607)
    extent = np.array(shape) * size
    # Mirrored seeds give edges that end at the map's border.
    seeds = rng.uniform(0, 1, (80, 2)) * extent
    mirrors = [seeds * flip + shift for flip, shift in (((-1, 1), (0, 0)), ((1, -1), (0, 0)))]
    mirrors += [seeds * flip + 2 * extent * shift for flip, shift in (((-1, 1), (1, 0)), ((1, -1), (0, 1)))]
    phase = rng.integers(1, 5, 80)
    diagram = Voronoi(np.concatenate([seeds, *mirrors]))
    expected, edges = np.zeros((5, 5)), np.zeros((5, 5))
    for (one, other), ends in zip(diagram.ridge_points, diagram.ridge_vertices, strict=True):
        if max(one, other) < 80 and phase[one] != phase[other]:
            length = np.linalg.norm(np.subtract(*diagram.vertices[ends]))
            for pair in ((one, other), (other, one)):
                expected[phase[pair[0]], phase[pair[1]]] += length
                edges[phase[pair[0]], phase[pair[1]]] += 1
    centres = np.stack(np.mgrid[: shape[0], : shape[1]], axis=-1) * size + np.array(size) / 2
    label = phase[np.argmin([((centres - seed) ** 2).sum(axis=-1) for seed in seeds], axis=0)]
    found = association(made_phases(label, 4, size=size))
    low, high = boundary_bias(*size)
    for one in range(1, 5):
        for other in range(one + 1, 5):
            error = boundary(found, str(one), str(other)) / expected[one, other] - 1
            # Half a pixel at either end of an edge.
            ends = edges[one, other] / expected[one, other]
            assert low - ends < error < high + ends
    # Over all directions nothing is left of the bias.
    assert found.surfaces["perimeter_um"].sum() == pytest.approx(expected.sum(), rel=0.012)


# ---------------------------------------------------------------------------------------- words and bad input
def test_pixels_left_out_and_maps_without_pixel_size():
    label = np.array([[1, 1, 0, 2], [1, 1, 0, 2], [1, 0, 0, 2]])
    analysed = np.ones(label.shape, bool)
    analysed[:2, 2] = False
    analysed[0, 0] = False  # left out of the fit, and given a phase all the same
    phases = made_phases(label, 2, units=schema.UNCALIBRATED, size=(1, 1), analysed=analysed)
    found = association(phases, free=["left out"])
    assert found.surfaces["phase"].tolist() == ["1", "2", "unassigned", "mixed", "left out"]
    assert found.surfaces["n_pixels"].tolist() == modal_table(phases)["n_pixels"].tolist() == [5, 3, 2, 0, 2]
    assert found.unit == "px"
    assert {"perimeter_px", "area_px", "specific_surface_per_px"} <= set(found.surfaces)
    surfaces = found.surfaces.set_index("phase")
    assert 0 < surfaces.loc["1", "free_percent"] < 100
    assert surfaces.loc["mixed", "reason"] == "no pixels"
    assert surfaces.loc["mixed", ["free_percent", "specific_surface_per_px"]].isna().all()
    assert found.matrix().loc["mixed"].isna().all()


@pytest.mark.parametrize("label", [[[1]], [[2, 2, 2]], [[0]], [[255], [255]]])
def test_maps_of_one_label(label):
    found = association(made_phases(label, 3))
    assert len(found.contacts) == len(found.inclusions) == 0
    assert found.surfaces["perimeter_um"].tolist() == [0] * 5
    assert set(found.surfaces["reason"]) == {"no pixels", "no boundary within the map"}


def test_bad_input():
    phases = made_phases([[1, 2], [2, 1]], 2)
    with pytest.raises(ParameterError, match=r"free: found \['resin'\], expected some of \['1', '2', 'unassigned'"):
        association(phases, free=["resin"])
    with pytest.raises(ParameterError, match=r"'label': found \[2\], expected 0, 1 to 1, or 255"):
        association(phases.isel(phase=[0]))
    with pytest.raises(ParameterError, match="expected pixels, and the dimension phase"):
        association(phases.isel(x=slice(0, 0)))
    with pytest.raises(ChunkLayoutError, match="label"):
        association(phases.drop_vars(schema.LABEL))


# -------------------------------------------------------------------------------------------------- figure
def test_the_heat_map_shows_every_share_and_name():
    phases = merge_phases(made_phases(blobs((41, 59), 4), 4), merges={"K-feldspar $": [2, 4]})
    found = association(phases)
    figure = found.plot()
    axes, bar = figure.axes
    table = found.matrix()
    assert [text.get_text() for text in axes.get_yticklabels()] == table.index.tolist()
    assert [text.get_text() for text in axes.get_xticklabels()] == table.columns.tolist()
    shown = [text.get_text() for text in axes.texts]
    off_diagonal = table.to_numpy()[~np.eye(len(table), dtype=bool)]
    assert shown == [f"{percent:.1f}" for percent in off_diagonal]
    assert bar.get_ylabel() == "% of the phase's boundary"
    assert len(png(figure)) > 10_000


def test_a_map_without_boundaries_has_a_figure():
    figure = association(made_phases([[1, 1]], 2)).plot()
    assert [text.get_text() for text in figure.axes[0].texts] == ["no boundaries within the map"]


# -------------------------------------------------------------------------------------------- merged phases
def test_merged_phases_are_one_and_have_names():
    label = np.array([[1, 2, 5, 255, 255], [3, 4, 5, 0, 2]])
    phases = made_phases(label, 5)
    mask = phases[schema.MASK].values
    mask[1, 0, 3] = mask[4, 0, 3] = True  # mixed between members only
    mask[1, 0, 4] = mask[0, 0, 4] = True  # mixed between a member and another
    phases[schema.THRESHOLD] = (schema.PHASE, np.arange(5.0))
    merged = merge_phases(phases, merges={"feldspar": [5, 2]}, names={4: "quartz"})
    np.testing.assert_array_equal(merged[schema.LABEL], [[1, 2, 2, 2, 255], [3, 4, 2, 0, 2]])
    np.testing.assert_array_equal(merged[schema.MASK][1], mask[1] | mask[4])
    assert merged[schema.N_PIXELS].values.tolist() == [2, 6, 1, 1]
    np.testing.assert_array_equal(merged[schema.THRESHOLD], [0, np.nan, 2, 3])
    assert modal_table(merged)["phase"].tolist() == ["1", "feldspar", "3", "quartz", "unassigned", "mixed"]
    found = association(merged, free=["quartz"])
    assert boundary(found, "quartz", "feldspar") > 0
    again = merge_phases(merged, merges={"quartz and 1": [1, 4]})
    assert modal_table(again)["phase"].tolist()[:3] == ["quartz and 1", "feldspar", "3"]
    assert again.attrs[schema.RUN] == "merged-merged"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "found none"),
        ({"merges": {"a": [1, 4]}}, r"found \[4\], expected numbers of 1 to 3"),
        ({"merges": {"a": [1, 2], "b": [2]}}, r"found \[2\], expected numbers of 1 to 3, each once"),
        ({"merges": {"a": []}, "names": {1: "b"}}, "merge 'a': found no phases"),
        ({"merges": {"mixed": [1, 2]}}, "found 'mixed'"),
        ({"names": {1: "2"}}, "found '2'"),
        ({"names": {1: "a", 2: "a"}}, "found 'a', expected a different name"),
    ],
)
def test_bad_merges(given, match):
    with pytest.raises(ParameterError, match=match):
        merge_phases(made_phases([[1, 2], [2, 3]], 3), **given)
