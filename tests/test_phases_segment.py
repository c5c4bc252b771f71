"""From component maps to phases, against the practical's recipe in scikit-image on the whole map."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.phases import segment
from eds_chunked.phases.segment import segment_phases

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


def practical_mask(image, min_size):
    mask = image >= threshold_otsu(image)
    return remove_small_holes(remove_small_objects(mask, max_size=min_size - 1), max_size=min_size - 1)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 99),
    min_size=st.sampled_from([1, 4, 20, 100]),
    block_bytes=st.sampled_from([600, 3000, 2**25]),
    chunks=st.tuples(ragged(3), ragged(31), ragged(47)),
)
def test_masks_equal_the_practical_for_every_chunking(seed, min_size, block_bytes, chunks):
    nmf = made_nmf(seed, chunks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "_BLOCK_BYTES", block_bytes)
        phases = segment_phases(nmf, min_size=min_size)
    whole = segment_phases(made_nmf(seed), min_size=min_size)
    expected = np.stack([practical_mask(image, min_size) for image in nmf[schema.LOADINGS].values])
    np.testing.assert_array_equal(phases[schema.MASK], expected)
    np.testing.assert_array_equal(phases[schema.N_PIXELS], expected.sum(axis=(1, 2)))
    np.testing.assert_allclose(phases[schema.AREA_FRACTION], expected.mean(axis=(1, 2)), rtol=1e-15)
    xr.testing.assert_identical(phases, whole)


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
        ({"threshold": [1.0, 2.0]}, "threshold: found 2 numbers, expected 'otsu' or 3 finite numbers"),
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
    nmf[schema.LOADINGS].values[1] = 0
    with pytest.raises(ParameterError, match=r"component 2: found 0\.0 in every finite pixel"):
        segment_phases(nmf)
    with pytest.raises(ChunkLayoutError, match="factors"):
        segment_phases(nmf.drop_vars(schema.FACTORS))
    with pytest.raises(ChunkLayoutError, match="dimensions"):
        segment_phases(made_nmf().transpose(schema.X, ...))
    with pytest.raises(ParameterError, match="number of phases: found 255"):
        segment_phases(made_nmf().isel(component=[0] * 255))
