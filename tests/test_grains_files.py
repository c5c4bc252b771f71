"""Grain files: what is written is what is read, by NumPy and pandas too."""

import warnings

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError, SourceError, SourceNotFoundError
from eds_chunked.grains import files
from eds_chunked.grains.files import diameter_unit, read_diameters, write_grain_files
from eds_chunked.grains.measure import grain_table
from eds_chunked.grains.split import separate_grains


@pytest.fixture
def grains():
    """Phase 1: three grains, one of them cut; phase 2: one; phase 3: none."""
    label = np.zeros((23, 31), dtype=np.uint8)
    label[0:3, 4:9] = label[6:8, 5:7] = label[10:15, 20:27] = 1
    label[17:21, 2:5] = 2
    phases = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), label)})
    for axis in (schema.Y, schema.X):
        phases = phases.assign_coords(
            {axis: (axis, 8.737 * np.arange(phases.sizes[axis]), {"units": schema.MICROMETRE})}
        )
    phases[schema.N_PIXELS] = (schema.PHASE, [1, 1, 0])
    return separate_grains(phases)


def test_files_hold_the_table_and_the_diameters(grains, tmp_path):
    written = write_grain_files(grains, tmp_path / "new", stem="dacite")
    assert [path.name for path in written] == [
        f"dacite_{kind}_{phase}.{suffix}"
        for phase in (1, 2, 3)
        for kind, suffix in (("grains", "csv"), ("diameters", "txt"))
    ]
    for phase in (1, 2, 3):
        expected = grain_table(grains, phase=phase)
        table = pd.read_csv(written[2 * phase - 2], keep_default_na=False, na_values={schema.TOTAL_COUNTS: [""]})
        pd.testing.assert_frame_equal(table, expected, check_dtype=False, rtol=1e-14)
        kept = expected.ecd_um[~expected.touches_edge].to_numpy()
        np.testing.assert_allclose(read_diameters(written[2 * phase - 1]), kept, rtol=1e-8)
        assert diameter_unit(written[2 * phase - 1]) == "um"
    assert len(pd.read_csv(written[0])) == 3


def test_numpy_loads_any_number_of_grains(grains, tmp_path):
    _, many, _, one, _, none = write_grain_files(grains, tmp_path, stem="dacite")
    assert np.loadtxt(many).shape == (2,)
    assert np.loadtxt(one) == pytest.approx(2 * np.sqrt(12 * 8.737**2 / np.pi))
    with warnings.catch_warnings():
        # NumPy warns that there are no data, which is so.
        warnings.simplefilter("ignore", UserWarning)
        assert np.loadtxt(none).size == 0
    assert read_diameters(none).shape == (0,)


def test_the_comment_states_unit_number_edge_rule_and_minimum(grains, tmp_path):
    first = write_grain_files(grains, tmp_path, stem="a", min_pixels=5)[1].read_text(encoding="utf-8").splitlines()
    assert first[0] == (
        "# equivalent circular diameters of phase 1; unit: um; n: 1; grains that touch the map's edge are left "
        "out (1); grains under 5 pixels are left out (1)"
    )
    assert len(first) == 2
    with_edge = write_grain_files(grains, tmp_path, stem="a", include_edge=True)[1]
    assert "edge are counted (1); no minimum size" in with_edge.read_text(encoding="utf-8")
    assert len(read_diameters(with_edge)) == 3


def test_uncalibrated_diameters_say_so(grains, tmp_path):
    phases = xr.Dataset({schema.LABEL: grains[schema.GRAIN_LABEL].drop_vars([schema.Y, schema.X]).astype(np.uint8)})
    path = write_grain_files(separate_grains(phases), tmp_path, stem="plain")[3]
    assert diameter_unit(path) == "pixel"
    assert read_diameters(path) == pytest.approx([2 * np.sqrt(4 / np.pi)])


def test_phases_are_called_by_the_names_they_were_given(grains, tmp_path):
    grains.attrs[schema.PHASE_NAMES] = {"1": "feldspar", "3": "iron oxide"}
    written = write_grain_files(grains, tmp_path, stem="dacite")
    assert set(pd.read_csv(written[0])[schema.PHASE]) == {"feldspar"}
    assert set(pd.read_csv(written[2])[schema.PHASE]) == {2}
    assert "of phase iron oxide; unit: um; n: 0" in written[5].read_text(encoding="utf-8")


def test_parquet_keeps_types_and_digits(grains, tmp_path):
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow: pip install 'eds-chunked[parquet]'")
    written = write_grain_files(grains, tmp_path, stem="dacite", parquet=True)
    assert [path.suffix for path in written] == [".csv", ".parquet", ".txt"] * 3
    for phase in (1, 2, 3):
        expected = grain_table(grains, phase=phase).assign(**{schema.PHASE: str(phase)})
        pd.testing.assert_frame_equal(pd.read_parquet(written[3 * phase - 2]), expected, check_exact=True)


def test_parquet_without_pyarrow_is_refused_before_a_file_is_written(grains, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "find_spec", lambda name: None)
    with pytest.raises(ParameterError, match=r"parquet: found no pyarrow.*pip install 'eds-chunked\[parquet\]'"):
        write_grain_files(grains, tmp_path / "new", stem="dacite", parquet=True)
    assert not (tmp_path / "new").exists()


def test_plain_lists_of_numbers_are_read(tmp_path):
    path = tmp_path / "sizes.txt"
    path.write_text("\ufeff1.5\n\n  2e1   # a large one\n# none\n3\n", encoding="utf-8")
    np.testing.assert_array_equal(read_diameters(path), [1.5, 20, 3])
    assert diameter_unit(path) == "um"


@pytest.mark.parametrize("line", ["Area\tCirc", "1.5, 2.5", "1.5 2.5", "quartz"])
def test_a_line_that_is_not_a_number_is_named(tmp_path, line):
    path = tmp_path / "sizes.txt"
    path.write_text(f"# sizes\n1.5\n{line}\n", encoding="utf-8")
    with pytest.raises(SourceError, match=r"line 3 of .*sizes.txt: found '"):
        read_diameters(path)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(SourceNotFoundError, match=r"none.txt"):
        read_diameters(tmp_path / "none.txt")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(bytes(range(128, 256)))
    with pytest.raises(SourceError, match="UnicodeDecodeError"):
        read_diameters(binary)
    with pytest.raises(SourceError, match="IsADirectoryError"):
        read_diameters(tmp_path)


@pytest.mark.parametrize("stem", ["", "a/b", "../a"])
def test_a_stem_is_no_path(grains, tmp_path, stem):
    with pytest.raises(ParameterError, match="stem"):
        write_grain_files(grains, tmp_path, stem=stem)
