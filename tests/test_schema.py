"""The registry of names: nothing twice, nothing without a meaning, and checks that name what is wrong."""

import numpy as np
import pytest
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError


@pytest.mark.parametrize("registry", [schema.VARIABLES, schema.GRAIN_COLUMNS])
def test_every_variable_is_described(registry):
    for name, spec in registry.items():
        assert spec.name == name
        # Those that ImageJ reads have its spelling.
        assert name == name.lower() or name in schema.IMAGEJ_COLUMNS
        assert spec.kind in "uifb"
        assert spec.doc
        assert spec.units
        assert len(set(spec.dims)) == len(spec.dims)


def test_attributes_explain_a_variable():
    assert schema.attributes(schema.COUNTS) == {"long_name": "X-ray counts", "units": "counts"}
    assert schema.column_attributes(schema.measured(schema.ECD, "um"))["units"] == "um"


@pytest.mark.parametrize(
    ("quantity", "unit", "name"),
    [("ecd", "um", "ecd_um"), ("area", "um", "area_um2"), ("ecd", "pixel", "ecd_px"), ("area", "pixel", "area_px")],
)
def test_a_column_has_its_unit_in_its_name(quantity, unit, name):
    assert schema.measured(quantity, unit) == name
    assert (name in schema.GRAIN_COLUMNS) == (quantity != schema.AREA)


@pytest.mark.parametrize("name", ["k4", "main", "low-dose", "a_1"])
def test_run_names_that_work(name):
    assert schema.check_run_name(name) == name


@pytest.mark.parametrize("name", ["", "K4", "4k", "a/b", "a.r1", "..", "a b", "a\n", "é"])
def test_run_names_that_cannot_be_part_of_a_path_are_refused(name):
    with pytest.raises(ParameterError, match="run name: found"):
        schema.check_run_name(name)


def counts(dims):
    return xr.Dataset({schema.COUNTS: (dims, np.zeros((2, 3, 5), np.uint8))})


def test_require_takes_what_is_right():
    schema.require(counts((schema.Y, schema.X, schema.ENERGY)), schema.COUNTS)


@pytest.mark.parametrize("dims", [("x", "y", "energy"), ("energy", "y", "x"), ("y", "x", "channel")])
def test_require_names_wrong_dimensions(dims):
    with pytest.raises(ChunkLayoutError, match=r"variable 'counts': found dimensions .* Fix: .*'y', 'x', 'energy'"):
        schema.require(counts(dims), schema.COUNTS)


def test_require_names_a_missing_variable():
    with pytest.raises(ChunkLayoutError, match=r"'loadings': found a Dataset with \['counts'\]"):
        schema.require(counts(("y", "x", "energy")), schema.LOADINGS)


def test_pixel_size_follows_the_coordinates():
    ds = counts(("y", "x", "energy")).assign_coords(
        y=("y", [1.0, 1.5], {"units": "um"}), x=("x", [3.0, 3.25, 3.5], {"units": "um"})
    )
    assert schema.pixel_size(ds) == (0.5, 0.25, "um")
    assert schema.pixel_size(ds.isel(x=slice(None, None, 2))) == (0.5, 0.5, "um")
    assert schema.pixel_size(ds.isel(y=slice(None, None, -1))) == (0.5, 0.25, "um")
    one_row = ds.isel(y=slice(0, 1)).assign_attrs({schema.PIXEL_SIZE: [0.5, 0.25]})
    assert schema.pixel_size(one_row) == (0.5, 0.25, "um")
    assert schema.pixel_size(counts(("y", "x", "energy"))) == (1.0, 1.0, "pixel")


def test_text_is_one_line():
    assert schema.text("two\n lines\t here ") == "two lines here"
    assert schema.text(None) == "None"
