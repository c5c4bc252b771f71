"""From component maps to phases, against the practical's recipe in scikit-image on the whole map."""

import json
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from skimage.filters import threshold_multiotsu, threshold_otsu, threshold_triangle
from skimage.morphology import closing, diamond, opening, remove_small_holes, remove_small_objects

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, MemoryBudgetError, ParameterError
from eds_chunked.phases import segment
from eds_chunked.phases.segment import segment_phases
from tests.decomposition_maps import as_map, rock_counts
from tests.real_data import real_data

TRUTH = (np.add.outer(np.arange(31) ** 2 // 40, np.arange(47)) // 13 % 3).astype(int)
DEAD = (slice(12, 14), slice(20, 25))


def ragged(length):
    """Chunk lengths that add up to ``length``."""
    cuts = st.sets(st.integers(1, length - 1), max_size=5)
    return cuts.map(lambda inner: tuple(np.diff([0, *sorted(inner), length]).tolist()))


def made_nmf(seed=0, chunks=None):
    rng = np.random.default_rng(seed)
    loadings = np.stack([(k + 1) * ((k == TRUTH) + rng.gamma(1, 0.2, TRUTH.shape)) for k in range(3)])
    loadings[:, *DEAD] = 0
    loadings = loadings.astype(np.float32)
    factors = rng.random((3, 61)).astype(np.float32) / np.array([1, 2, 3], np.float32)[:, None]
    um = {"units": schema.MICROMETRE}
    return xr.Dataset(
        {
            schema.FACTORS: ((schema.COMPONENT, schema.ENERGY), factors),
            schema.LOADINGS: (
                (schema.COMPONENT, schema.Y, schema.X),
                loadings if chunks is None else da.from_array(loadings, chunks=chunks),
            ),
        },
        coords={
            schema.COMPONENT: [1, 2, 3],
            schema.Y: (schema.Y, np.arange(31) * 0.5, um),
            schema.X: (schema.X, np.arange(47) * 0.25, um),
            schema.ENERGY: np.linspace(0, 10, 61),
        },
        attrs={
            schema.FINGERPRINT: "abc",
            schema.TITLE: "a rock",
            schema.ELEMENTS: ["Si", "O"],
            schema.PIXEL_SIZE: [0.5, 0.25],
            schema.STEP: schema.NMF,
            schema.PARAMETERS: {"n_components": 3},
        },
    )


BY_RULE = {
    "otsu": threshold_otsu,
    "multiotsu": lambda image: threshold_multiotsu(image, classes=3)[-1],
    "triangle": threshold_triangle,
}


def whole_map_mask(image, min_size, *, rule="otsu", cut=0, heal=0):
    """Return the mask that scikit-image makes of a whole map."""
    finite = np.isfinite(image)
    mask = np.greater_equal(image, BY_RULE[rule](image[finite]))
    mask = opening(mask, diamond(cut), mode="ignore") if cut else mask
    mask = closing(mask, diamond(heal), mode="ignore") if heal else mask
    most = max(0, min_size - 1)
    return remove_small_holes(remove_small_objects(mask, max_size=most), max_size=most) & finite


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 99),
    rule=st.sampled_from(list(BY_RULE)),
    min_size=st.sampled_from([0, 1, 4, 20, 100]),
    cut=st.integers(0, 2),
    heal=st.integers(0, 2),
    holes=st.booleans(),
    block_bytes=st.sampled_from([1500, 6000, 2**25]),
    chunks=st.tuples(ragged(3), ragged(31), ragged(47)),
)
def test_masks_equal_scikit_image_on_the_whole_map_for_every_chunking(
    seed, rule, min_size, cut, heal, holes, block_bytes, chunks
):
    nmf = made_nmf(seed)
    if holes:
        left_out = np.random.default_rng(seed + 1).random(TRUTH.shape) < 0.02
        left_out[5:14, 8:29] = True
        nmf[schema.LOADINGS].values[:, left_out] = np.nan
    asked = {"min_size": min_size, "threshold": rule, "opening": cut, "closing": heal}
    whole = segment_phases(nmf, **asked)
    chunked = nmf.assign({schema.LOADINGS: nmf[schema.LOADINGS].copy(data=da.from_array(nmf.loadings.values, chunks))})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "_BLOCK_BYTES", block_bytes)
        phases = segment_phases(chunked, **asked)
    maps = nmf[schema.LOADINGS].values
    expected = np.stack([whole_map_mask(image, min_size, rule=rule, cut=cut, heal=heal) for image in maps])
    np.testing.assert_array_equal(phases[schema.MASK], expected)
    np.testing.assert_array_equal(phases[schema.N_PIXELS], expected.sum(axis=(1, 2)))
    np.testing.assert_allclose(phases[schema.AREA_FRACTION], expected.mean(axis=(1, 2)), rtol=1e-15)
    xr.testing.assert_identical(phases, whole)


@pytest.fixture(scope="module")
def real_loadings(tmp_path_factory):
    """Return what nmf makes of maps from microscopes, by their file."""
    found = {}

    def of(name):
        if name not in found:
            ds = edc.convert(real_data(name), tmp_path_factory.mktemp("real") / "map.zarr")
            found[name] = edc.nmf(ds.sel(energy=slice(0.2, 20)), n_components=3, max_epochs=2).load()
        return found[name]

    return of


@pytest.mark.parametrize("name", ["P45_the_default_job.bcf", "88_ES-LP_G8_selection2_cropped2.hspy"])
@pytest.mark.parametrize("rule", list(BY_RULE))
def test_masks_of_real_loadings_equal_scikit_image(real_loadings, name, rule):
    nmf = real_loadings(name)
    maps = nmf[schema.LOADINGS].values
    for chunks, min_size, cut, heal in (((3, 17, 29), 7, 0, 0), ((1, 13, 64), 20, 1, 0), ((2, 64, 11), 3, 0, 1)):
        chunked = nmf.assign({schema.LOADINGS: nmf[schema.LOADINGS].copy(data=da.from_array(maps, chunks))})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(segment, "_BLOCK_BYTES", 3 * 4 * 500)
            phases = segment_phases(chunked, threshold=rule, min_size=min_size, opening=cut, closing=heal)
        expected = np.stack([whole_map_mask(image, min_size, rule=rule, cut=cut, heal=heal) for image in maps])
        np.testing.assert_array_equal(phases[schema.MASK], expected)
        assert 0 < expected.mean() < 1


def accuracy(phases, truth):
    """Return the share of pixels whose label is the true phase; unassigned and mixed ones are wrong."""
    label, n = phases[schema.LABEL].values, phases.sizes[schema.PHASE]
    table = np.array([[np.sum((label == k) & (truth == j)) for j in range(1, n + 1)] for k in range(1, n + 1)])
    return table[linear_sum_assignment(-table)].sum() / truth.size


@pytest.mark.parametrize("seed", [3, 8])
def test_labels_are_true_where_borders_are_blurred(seed):
    """The beam excites a pixel about it: at 100 counts a pixel 98 % are right, borders and all."""
    made = edc.synthetic.rock(
        (201, 307, 256), energy_scale=0.048, counts_per_pixel=100, n_phases=4, blur=1.0, grain_size=40, seed=seed
    )
    mixture, truth = made.mixture(0, 201), made.labels(0, 201)
    assert np.mean(mixture.max(axis=2) < 0.9) > 0.05
    ds = as_map(rock_counts(made)).assign_coords({schema.ENERGY: -0.47 + 0.048 * np.arange(256)})
    nmf = edc.nmf(ds.sel(energy=slice(0.2, None)), n_components=4, max_epochs=3)
    phases = segment_phases(nmf)
    assert accuracy(phases, truth) >= 0.98
    # What is left open lies at the borders, and the margin tells.
    label, margin = phases[schema.LABEL].values, phases[schema.MARGIN].values
    open_ones = (label == schema.UNASSIGNED) | (label == schema.MIXED)
    assert mixture.max(axis=2)[open_ones].mean() < 0.75 < mixture.max(axis=2).mean()
    assert margin[open_ones].mean() < 0.5 < margin.mean()


def test_labels_find_the_truth():
    phases = segment_phases(made_nmf(), min_size=10)
    alive = np.ones(TRUTH.shape, bool)
    alive[DEAD] = False
    assert np.mean(phases[schema.LABEL].values[alive] == TRUTH[alive] + 1) > 0.9


def test_the_result_has_the_words_of_the_schema():
    phases = segment_phases(made_nmf(chunks=(1, 7, 11)), min_size=10, mixed_margin=0.1)
    for name in phases.data_vars:
        spec = schema.VARIABLES[name]
        assert (phases[name].dims, phases[name].dtype.kind) == (spec.dims, spec.kind)
        assert phases[name].attrs == schema.attributes(name)
        assert isinstance(phases[name].data, np.ndarray)
    assert set(phases.data_vars) == {
        schema.MASK, schema.LABEL, schema.MARGIN, schema.THRESHOLD, schema.N_PIXELS, schema.AREA_FRACTION
    }  # fmt: skip
    assert (phases[schema.LABEL].dtype, phases[schema.MARGIN].dtype) == (np.uint8, np.float32)
    assert phases[schema.PHASE].values.tolist() == [1, 2, 3]
    assert set(phases.coords) == {schema.PHASE, schema.Y, schema.X}
    assert schema.pixel_size(phases) == (0.5, 0.25, schema.MICROMETRE)
    assert phases.attrs.pop(schema.RESULT_ID)
    assert phases.attrs == {
        schema.FINGERPRINT: "abc",
        schema.TITLE: "a rock",
        schema.ELEMENTS: ["Si", "O"],
        schema.PIXEL_SIZE: [0.5, 0.25],
        schema.STEP: schema.PHASES,
        schema.PARAMETERS: {"min_size": 10, "threshold": "otsu", "opening": 0, "closing": 0, "mixed_margin": 0.1},
    }


def test_a_size_in_um2_is_the_fewest_pixels_that_have_it():
    in_pixels = segment_phases(made_nmf(), min_size=20)
    # Pixels are 0.5 x 0.25 um, 0.125 um2.
    by_area = segment_phases(made_nmf(), min_size="2.5um2")
    np.testing.assert_array_equal(by_area[schema.MASK], in_pixels[schema.MASK])
    assert by_area.attrs[schema.PARAMETERS]["min_size"] == 20
    assert by_area.attrs[schema.PARAMETERS]["min_area_um2"] == 2.5
    assert "min_area_um2" not in in_pixels.attrs[schema.PARAMETERS]
    plain = made_nmf().drop_vars([schema.Y, schema.X])
    with pytest.raises(
        ParameterError, match=r"min_size: found '2\.5um2' on a map whose pixels have no size.*calibrate"
    ):
        segment_phases(plain.assign_attrs({schema.PIXEL_SIZE: [1.0, 1.0]}), min_size="2.5um2")


def test_loadings_are_read_four_times():
    reads = []

    def read(block):
        reads.append(block.shape)
        return block

    nmf = made_nmf(chunks=(3, 16, 24))
    lazy = nmf[schema.LOADINGS].data.map_blocks(read, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    segment_phases(nmf.assign({schema.LOADINGS: (nmf[schema.LOADINGS].dims, lazy)}), min_size=4, opening=1)
    assert len(reads) == 4 * 4


IN_A_PROCESS = """
import json, sys
import numpy as np, dask.array as da, xarray as xr
from eds_chunked import memory, schema
from eds_chunked.dry_run import noted_plans
from eds_chunked.phases import segment

def block(block_info=None):
    (_, _), (y0, y1), (x0, x1) = block_info[None]["array-location"]
    y, x = np.arange(y0, y1, dtype=np.float32)[:, None], np.arange(x0, x1, dtype=np.float32)
    waves = np.sin(y / 37) * np.cos(x / 53 + y / 211)
    noise = np.random.default_rng([y0, x0]).random((4, y1 - y0, x1 - x0), np.float32)
    return np.stack([waves, -waves, np.sin(y / 29 + x / 31), waves**2]).astype(np.float32) + 0.6 * noise

def nmf(n):
    data = da.map_blocks(block, chunks=((4,), (256,) * (n // 256) + (n % 256,), (256,) * (n // 256) + (n % 256,)),
                         dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    return xr.Dataset({schema.LOADINGS: (schema.VARIABLES[schema.LOADINGS].dims, data),
                       schema.FACTORS: ((schema.COMPONENT, schema.ENERGY), np.ones((4, 7)))})

memory.return_freed_memory_to_the_system()
segment.segment_phases(nmf(300))
with noted_plans() as plans:
    phases = segment.segment_phases(nmf(2000), memory=sys.argv[1] if len(sys.argv) > 1 else None)
print(json.dumps({"peak": memory.peak_resident(), "projected": plans[0].peak, "reserve": memory.RESERVE,
                  "idle": plans[0].idle, "pixels": phases.n_pixels.values.tolist()}))
"""


def in_a_process(*budget):
    command = [sys.executable, "-c", IN_A_PROCESS, *budget]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    return done.returncode, done.stderr, json.loads(done.stdout) if done.returncode == 0 else {}


def test_a_map_of_four_million_pixels_stays_within_the_projected_memory():
    code, errors, said = in_a_process()
    assert code == 0, errors
    assert min(said["pixels"]) > 10_000
    # Without the loadings as a whole, which are 64 MB.
    assert said["peak"] <= said["projected"], said
    assert said["projected"] - said["idle"] < 190e6
    smallest = said["projected"] // 10**6 + 20
    code, errors, said = in_a_process(f"{smallest}MB")
    assert code == 0, errors
    assert said["peak"] <= smallest * 10**6


def test_a_large_map_is_kept_on_disk_and_is_the_same(monkeypatch):
    nmf = made_nmf(chunks=(3, 10, 13))
    expected = segment_phases(nmf, min_size=4)
    monkeypatch.setattr(segment, "IN_MEMORY", TRUTH.size - 1)
    found = segment_phases(nmf, min_size=4)
    assert {name for name in found if found[name].chunks} == {schema.MASK, schema.LABEL, schema.MARGIN}
    assert {name for name in expected if expected[name].chunks} == set()
    xr.testing.assert_identical(found.compute(), expected)


def test_too_small_a_budget_is_refused_before_any_reading():
    def never(block):
        raise AssertionError("read")

    nmf = made_nmf(chunks=(3, 31, 47))
    lazy = nmf[schema.LOADINGS].data.map_blocks(never, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    with pytest.raises(MemoryBudgetError, match="memory for phases: found a budget of 20 MB"):
        segment_phases(nmf.assign({schema.LOADINGS: (nmf[schema.LOADINGS].dims, lazy)}), memory="20MB")


def test_phases_inherit_the_run_and_name_their_parent():
    saved = made_nmf().assign_attrs({schema.RUN: "k3", schema.REVISION: 2, schema.RESULT_ID: "the nmf"})
    phases = segment_phases(saved, min_size=10)
    assert phases.attrs[schema.RUN] == "k3"
    assert phases.attrs[schema.PARENT_ID] == "the nmf"
    assert schema.REVISION not in phases.attrs
    assert schema.PARENT_ID not in segment_phases(made_nmf(), min_size=10).attrs


def test_phases_of_selected_components_count_from_one():
    phases = segment_phases(made_nmf().isel(component=[2, 0]), min_size=10)
    assert phases[schema.PHASE].values.tolist() == [1, 2]
    assert phases[schema.THRESHOLD][0] == threshold_otsu(made_nmf()[schema.LOADINGS].values[2])


def test_dead_pixels_are_unassigned_even_in_a_filled_hole():
    nmf = made_nmf()
    nmf[schema.LOADINGS].values[:, 2, 3] = 0
    phases = segment_phases(nmf, min_size=10)
    assert phases[schema.MASK].values[:, 2, 3].any()
    assert (phases[schema.LABEL].values[DEAD] == schema.UNASSIGNED).all()
    assert phases[schema.LABEL].values[2, 3] == schema.UNASSIGNED
    assert not np.isnan(phases[schema.MARGIN]).any()
    assert phases[schema.MARGIN].values[2, 3] == 0


def test_masked_pixels_are_in_no_mask_before_cleaning():
    nmf = made_nmf()
    nmf[schema.LOADINGS].values[:, 5:25, 8:40] = np.nan
    phases = segment_phases(nmf, min_size=1)
    assert not phases[schema.MASK].values[:, 5:25, 8:40].any()
    assert np.isfinite(phases[schema.MARGIN]).all()
    image = nmf[schema.LOADINGS].values[0]
    assert phases[schema.THRESHOLD][0] == threshold_otsu(image[np.isfinite(image)])


def test_own_thresholds_hold_the_pixel_at_the_threshold():
    nmf = made_nmf()
    value = float(nmf[schema.LOADINGS].values[1, 17, 9])
    phases = segment_phases(nmf, min_size=0, threshold=[0.5, value, 1e9])
    np.testing.assert_array_equal(phases[schema.MASK][1], nmf[schema.LOADINGS].values[1] >= value)
    assert phases[schema.MASK].values[1, 17, 9]
    assert phases[schema.N_PIXELS].values[2] == 0
    assert phases.attrs[schema.PARAMETERS]["threshold"] == [0.5, value, 1e9]


def test_one_component_is_a_map_of_one_phase():
    phases = segment_phases(made_nmf().isel(component=[0]), min_size=10)
    np.testing.assert_array_equal(phases[schema.LABEL] == 1, phases[schema.MASK][0] & (phases[schema.MARGIN] > 0))
    assert set(np.unique(phases[schema.MARGIN])) == {0, 1}


def test_a_map_without_calibration_has_no_coordinates_and_still_works():
    phases = segment_phases(made_nmf().drop_vars([schema.Y, schema.X, schema.COMPONENT]), min_size=10)
    assert set(phases.coords) == {schema.PHASE}
    np.testing.assert_array_equal(phases[schema.LABEL], segment_phases(made_nmf(), min_size=10)[schema.LABEL])


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_size": -1}, "min_size: found -1"),
        ({"min_size": 2.5}, "min_size: found 2.5"),
        ({"min_size": "5 apples"}, "min_size: found '5 apples'.*or an area such as '50um2'"),
        ({"threshold": [1.0, 2.0]}, "threshold: found 2 of them, expected 'otsu', .* or a list of 3"),
        ({"opening": -1}, "opening: found -1"),
        ({"threshold": "li"}, "threshold: found 'li'"),
        ({"mixed_margin": 2}, "mixed_margin: found 2"),
    ],
)
def test_wrong_parameters_are_one_clear_error_before_any_reading(parameters, message):
    def never(block):
        raise AssertionError("read")

    nmf = made_nmf(chunks=(3, 31, 47))
    lazy = nmf[schema.LOADINGS].data.map_blocks(never, dtype=np.float32, meta=np.empty((0, 0, 0), np.float32))
    with pytest.raises(ParameterError, match=message):
        segment_phases(nmf.assign({schema.LOADINGS: (nmf[schema.LOADINGS].dims, lazy)}), **parameters)


def test_bad_maps_are_one_clear_error():
    nmf = made_nmf()
    nmf[schema.LOADINGS].values[1] = np.nan
    with pytest.raises(ParameterError, match="component 2: found no finite pixel"):
        segment_phases(nmf)
    with pytest.raises(ParameterError, match="component 1: found no finite pixel"):
        segment_phases(made_nmf().assign({schema.LOADINGS: nmf[schema.LOADINGS] * np.nan}), threshold="triangle")
    with pytest.raises(ParameterError, match=r"selection of loadings: found .*'y': 0"):
        segment_phases(made_nmf().isel(y=slice(0, 0)))
    nmf[schema.LOADINGS].values[1] = 0
    with pytest.raises(ParameterError, match=r"component 2: found 0\.0 in every finite pixel"):
        segment_phases(nmf)
    with pytest.raises(ChunkLayoutError, match="factors"):
        segment_phases(nmf.drop_vars(schema.FACTORS))
    with pytest.raises(ChunkLayoutError, match="dimensions"):
        segment_phases(made_nmf().transpose(schema.X, ...))
    with pytest.raises(ParameterError, match="number of phases: found 255"):
        segment_phases(made_nmf().isel(component=[0] * 255))


def test_an_empty_mask_is_a_phase_without_pixels():
    phases = segment_phases(made_nmf(), min_size=4, threshold=["otsu", 1e9, "otsu"])
    assert phases[schema.N_PIXELS].values[1] == 0
    assert not (phases[schema.LABEL] == 2).any()
    table = edc.modal_table(phases)
    assert table["phase"].tolist() == ["1", "2", "3", "unassigned", "mixed"]
    assert table["n_pixels"][1] == 0
    cleaned_away = segment_phases(made_nmf(), min_size=31 * 47)
    assert cleaned_away[schema.N_PIXELS].values.tolist() == [0, 0, 0]
    with pytest.raises(ParameterError, match="min_size: found 1458, expected at most 1457, the pixels of the map"):
        segment_phases(made_nmf(), min_size=31 * 47 + 1)


def test_maps_without_loadings_anywhere_have_no_phase():
    nmf = made_nmf()
    nmf[schema.LOADINGS].values[:] = np.nan
    phases = segment_phases(nmf, threshold=0.5)
    assert not phases[schema.MASK].any()
    assert (phases[schema.LABEL] == schema.UNASSIGNED).all()
    assert (phases[schema.MARGIN] == 0).all()
