"""The modal table closes to 100 % and hides nothing."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.phases.modal import modal_table


def made_phases(label, n_phases, *, size=(0.5, 0.25), units=schema.MICROMETRE):
    label = np.asarray(label, np.uint8)
    # Phase 1 has the whole map under its mask, the others nothing but their labels: masks overlap.
    mask = np.stack([(label == k) | (k == 1) for k in range(1, n_phases + 1)])
    return xr.Dataset(
        {
            schema.MASK: ((schema.PHASE, schema.Y, schema.X), mask),
            schema.LABEL: ((schema.Y, schema.X), label),
        },
        coords={
            schema.PHASE: np.arange(1, n_phases + 1),
            schema.Y: (schema.Y, np.arange(label.shape[0]) * size[0], {"units": units}),
            schema.X: (schema.X, np.arange(label.shape[1]) * size[1], {"units": units}),
        },
    )


LABEL = np.array([[1, 1, 1, 0, 255, 255, 3], [1, 3, 3, 0, 0, 255, 3]])


def test_every_number_by_hand():
    table = modal_table(made_phases(LABEL, 3))
    assert list(table.columns) == ["phase", "n_pixels", "area_um2", "area_percent", "mask_percent"]
    assert table["phase"].tolist() == ["1", "2", "3", "unassigned", "mixed"]
    assert table["n_pixels"].tolist() == [4, 0, 4, 3, 3]
    assert table["area_um2"].tolist() == [0.5, 0.0, 0.5, 0.375, 0.375]
    np.testing.assert_allclose(table["area_percent"], np.array([4, 0, 4, 3, 3]) / 14 * 100)
    np.testing.assert_allclose(table["mask_percent"], [100, 0, 4 / 14 * 100, np.nan, np.nan])


@settings(max_examples=50, deadline=None)
@given(
    n_phases=st.integers(1, 254),
    seed=st.integers(0, 9999),
    shape=st.sampled_from([(1, 1), (7, 11), (31, 47), (1, 13)]),
)
def test_areas_always_close_to_100_percent(n_phases, seed, shape):
    values = [schema.UNASSIGNED, *range(1, n_phases + 1), schema.MIXED]
    label = np.random.default_rng(seed).choice(values, shape)
    table = modal_table(made_phases(label, n_phases))
    assert len(table) == n_phases + 2
    assert table["n_pixels"].sum() == label.size
    assert table["area_percent"].sum() == pytest.approx(100, rel=1e-13, abs=0)
    for number, row in zip([*values[1:-1], 0, 255], table["n_pixels"], strict=True):
        assert row == np.count_nonzero(label == number)


def test_a_map_without_pixel_size_says_so():
    table = modal_table(made_phases(LABEL, 3, size=(1, 1), units=schema.UNCALIBRATED))
    assert "area_um2" not in table
    assert table["area_px"].tolist() == table["n_pixels"].tolist()
    bare = made_phases(LABEL, 3).drop_vars([schema.Y, schema.X])
    assert modal_table(bare)["area_px"].tolist() == [4, 0, 4, 3, 3]


def test_a_selection_is_counted_anew():
    phases = made_phases(LABEL, 3)
    phases = phases.assign(
        {schema.LABEL: (phases[schema.LABEL].dims, da.from_array(phases[schema.LABEL].values, chunks=2))}
    )
    table = modal_table(phases.isel(x=slice(0, 3)))
    assert table["n_pixels"].tolist() == [4, 0, 2, 0, 0]
    assert table["area_percent"].sum() == pytest.approx(100, rel=1e-13)
    assert table["mask_percent"].tolist()[0] == 100


def test_labels_without_a_row_are_an_error():
    with pytest.raises(ParameterError, match=r"'label': found \[3\], expected 0, 1 to 2, or 255"):
        modal_table(made_phases(LABEL, 3).isel(phase=[0, 1]))
    with pytest.raises(ParameterError, match="no pixels"):
        modal_table(made_phases(LABEL, 3).isel(x=slice(0, 0)))
    with pytest.raises(ChunkLayoutError, match="mask"):
        modal_table(made_phases(LABEL, 3).drop_vars(schema.MASK))
