"""The .rpl/.raw reader against NumPy and RosettaSciIO: every layout, type and byte order, and faulty files."""

from __future__ import annotations

import itertools
import re
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rsciio import ripple as oracle

from eds_chunked.errors import CountsError, ParameterError, SourceError, SourceNotFoundError
from eds_chunked.readers import describe, open_source
from eds_chunked.readers.base import Band, Box
from eds_chunked.readers.ripple import RippleReader
from eds_chunked.schema import SEM, TEM
from tests.ripple_files import random_counts, write_ripple

SHAPE = (7, 11, 61)
LAYOUTS = ("vector", "image")
ORDERS = ("little-endian", "big-endian")
TYPES = ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f4", "f8")


def read_all(reader: Any, rows: int, box: Box | None = None) -> np.ndarray[Any, Any]:
    """Read by bands, and check that they are whole, in order, unsigned and of the promised type."""
    whole = box or Box.whole(reader.header.shape)
    bands, y = [], whole.ys.start
    for band in reader.bands(rows, box):
        assert band.y0 == y
        assert band.counts.shape == (band.rows, *whole.shape[1:])
        assert band.rows == min(rows, whole.ys.stop - y)
        assert band.counts.dtype == reader.header.dtype
        assert band.counts.dtype.isnative
        bands.append(band.counts)
        y += band.rows
    assert y == whole.ys.stop
    return np.concatenate(bands)


def by_rosetta(path: Path) -> np.ndarray[Any, Any]:
    (signal,) = oracle.file_reader(str(path))
    data = np.asarray(signal["data"])
    return data.transpose(1, 2, 0) if signal["axes"][0]["name"] == "depth" else data


@pytest.mark.parametrize(("record_by", "order", "dtype"), list(itertools.product(LAYOUTS, ORDERS, TYPES)))
def test_equals_rosettasciio_for_every_layout_order_and_type(
    tmp_path: Path, record_by: str, order: str, dtype: str
) -> None:
    counts = random_counts(SHAPE, high=120 if dtype.endswith("1") else 30_000)
    path = write_ripple(tmp_path / "a.rpl", counts, record_by=record_by, byte_order=order, dtype=dtype)
    reader = RippleReader(path)
    assert reader.header.shape == SHAPE
    assert reader.header.dtype == np.dtype(f"u{min(int(dtype[1:]), 4)}" if dtype[0] != "f" else "u4")
    np.testing.assert_array_equal(read_all(reader, 3), counts)
    np.testing.assert_array_equal(read_all(reader, 3), by_rosetta(path))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(2, 150)),
    rows=st.integers(1, 11),
    record_by=st.sampled_from(LAYOUTS),
    order=st.sampled_from(ORDERS),
    dtype=st.sampled_from(TYPES),
    offset=st.integers(0, 13),
)
def test_any_shape_band_and_offset(
    tmp_path: Path, shape: tuple[int, int, int], rows: int, record_by: str, order: str, dtype: str, offset: int
) -> None:
    counts = random_counts(shape, high=100)
    path = write_ripple(tmp_path / "a.rpl", counts, record_by=record_by, byte_order=order, dtype=dtype, offset=offset)
    np.testing.assert_array_equal(read_all(RippleReader(path), rows), counts)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    record_by=st.sampled_from(LAYOUTS),
    order=st.sampled_from(ORDERS),
    dtype=st.sampled_from(TYPES),
    rows=st.integers(1, 9),
    offset=st.integers(0, 5),
    data=st.data(),
)
def test_a_box_is_what_numpy_cuts_out(
    tmp_path: Path, record_by: str, order: str, dtype: str, rows: int, offset: int, data: Any
) -> None:
    counts = random_counts(SHAPE, high=100)
    path = write_ripple(tmp_path / "a.rpl", counts, record_by=record_by, byte_order=order, dtype=dtype, offset=offset)
    # Whole axes are read in another way than parts of them.
    part = [data.draw(st.just((0, n)) | st.tuples(st.integers(0, n - 1), st.just(n))) for n in SHAPE]
    box = Box(*(slice(a, data.draw(st.just(b) | st.integers(a + 1, b))) for a, b in part))
    np.testing.assert_array_equal(read_all(RippleReader(path), rows, box), counts[box])


@pytest.mark.parametrize("record_by", LAYOUTS)
def test_large_planes_are_read_in_several_groups(tmp_path: Path, record_by: str) -> None:
    counts = random_counts((3, 97, 200), high=9)
    path = write_ripple(tmp_path / "a.rpl", counts, record_by=record_by, dtype="u4")
    np.testing.assert_array_equal(read_all(RippleReader(path), 2), counts)


@pytest.mark.parametrize("order", ORDERS)
def test_largest_values_do_not_wrap(tmp_path: Path, order: str) -> None:
    for dtype in ("u1", "u2", "u4", "i2", "i4"):
        counts = np.zeros(SHAPE, np.uint32)
        counts[5, 3, 17] = np.iinfo(dtype).max
        path = write_ripple(tmp_path / "a.rpl", counts, byte_order=order, dtype=dtype)
        np.testing.assert_array_equal(read_all(RippleReader(path), 4), counts)


@pytest.mark.parametrize("record_by", LAYOUTS)
def test_a_file_of_rosettasciio_reads_back(tmp_path: Path, record_by: str) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    names, sizes = ("height", "width", "Energy"), SHAPE
    axes = [
        {"name": n, "size": s, "scale": c, "offset": o, "units": u, "navigate": n != "Energy"}
        for n, s, c, o, u in zip(
            names, sizes, (250.0, 500.0, 0.02), (0.0, 0.0, -0.48), ("nm", "nm", "keV"), strict=True
        )
    ]
    data = counts
    if record_by == "image":
        data, axes = counts.transpose(2, 0, 1), [{**axes[2], "navigate": True}, *axes[:2]]
        axes[1]["navigate"] = axes[2]["navigate"] = False
    signal = {
        "data": np.ascontiguousarray(data),
        "axes": axes,
        "metadata": {
            "General": {"title": "dacite"},
            "Signal": {"signal_type": "EDS_SEM"},
            "Acquisition_instrument": {"SEM": {"beam_energy": 20.0, "Detector": {"EDS": {"live_time": 3.5}}}},
        },
    }
    oracle.file_writer(str(tmp_path / "b.rpl"), signal)
    reader = RippleReader(tmp_path / "b.rpl")
    np.testing.assert_array_equal(read_all(reader, 2), counts)
    header = reader.header
    assert (header.energy_scale, header.energy_offset, header.energy_calibrated) == (0.02, -0.48, True)
    assert header.pixel_size == (0.25, 0.5)
    assert (header.title, header.signal_type) == ("dacite", SEM)
    assert (header.beam_energy, header.live_time) == (20.0, 3.5)


def test_a_file_of_hyperspy_reads_back(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hyperspy.api as hs

        signal = hs.signals.Signal1D(random_counts(SHAPE).astype(np.uint8))
        signal.set_signal_type("EDS_TEM")
        signal.axes_manager[-1].units, signal.axes_manager[-1].scale, signal.axes_manager[-1].offset = "eV", 10.0, -20.0
        signal.metadata.set_item("Acquisition_instrument.TEM.beam_energy", 200.0)
        signal.save(tmp_path / "c.rpl")
    reader = RippleReader(tmp_path / "c.rpl")
    np.testing.assert_array_equal(read_all(reader, 5), signal.data)
    header = reader.header
    assert (header.energy_scale, header.energy_offset, header.pixel_size) == (0.01, -0.02, None)
    assert (header.signal_type, header.beam_energy) == (TEM, 200.0)


@pytest.mark.parametrize("names", [("a.rpl", "a.raw"), ("a.RPL", "a.RAW"), ("A.rpl", "a.Raw"), ("x.y.rpl", "x.y.raw")])
def test_either_file_in_any_case_opens_the_pair(tmp_path: Path, names: tuple[str, str]) -> None:
    counts = random_counts(SHAPE)
    path = write_ripple(tmp_path / "source.rpl", counts, dtype="u2")
    path.with_suffix(".raw").rename(tmp_path / names[1])
    path.rename(tmp_path / names[0])
    write_ripple(tmp_path / "other.rpl", counts * 2)
    for name in names:
        np.testing.assert_array_equal(read_all(open_source(tmp_path / name), 4), counts)
    assert describe(tmp_path / names[1])[0].shape == SHAPE


def header_of(tmp_path: Path, **keys: Any) -> Any:
    table = {key.replace("_", "-"): value for key, value in keys.items()}
    return RippleReader(write_ripple(tmp_path / "h.rpl", random_counts((2, 3, 5)), keys=table)).header


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, (1.0, 0.0, False)),
        ({"ev_per_chan": 10}, (0.01, 0.0, True)),
        ({"ev_per_chan": "5.0"}, (0.005, 0.0, True)),
        ({"ev_per_chan": 0}, (1.0, 0.0, False)),
        ({"depth_scale": 10, "depth_origin": -480, "depth_units": "eV"}, (0.01, -0.48, True)),
        ({"depth_scale": 0.01, "depth_origin": -0.48, "depth_units": "KeV", "ev_per_chan": 0}, (0.01, -0.48, True)),
        ({"depth_scale": 1.0, "depth_origin": 0.0, "depth_units": "None", "ev_per_chan": 1}, (1.0, 0.0, False)),
        ({"depth_scale": 3.0, "depth_origin": 7.0, "depth_units": "<undefined>"}, (1.0, 0.0, False)),
        ({"depth_scale": 0.0, "depth_units": "keV"}, (1.0, 0.0, False)),
    ],
)
def test_energies_are_kev(tmp_path: Path, keys: dict[str, Any], expected: tuple[float, float, bool]) -> None:
    header = header_of(tmp_path, **keys)
    assert (header.energy_scale, header.energy_offset, header.energy_calibrated) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        ({"height_scale": 250, "height_units": "nm", "width_scale": 500, "width_units": "nm"}, (0.25, 0.5)),
        ({"height_scale": 2, "height_units": "\u00b5m", "width_scale": 3, "width_units": "\u03bcm"}, (2.0, 3.0)),
        ({"height_scale": 2, "height_units": "um", "width_scale": 0.003, "width_units": "mm"}, (2.0, 3.0)),
        ({"height_scale": -2e-6, "height_units": "m", "width_scale": 4000, "width_units": "pm"}, (2.0, 0.004)),
        ({"width_scale": 1.5, "width_units": "um"}, (1.5, 1.5)),
        ({"height_scale": 1.0, "height_units": "None", "width_scale": 1.0, "width_units": "None"}, None),
        ({"height_scale": 0, "height_units": "um", "width_scale": 0, "width_units": "um"}, None),
        # RosettaSciIO drops a Greek mu when it writes Latin-1.
        ({"height_scale": 8.737, "height_units": "m", "width_scale": 8.737, "width_units": "m"}, (8.737, 8.737)),
    ],
)
def test_pixel_sizes_are_um(tmp_path: Path, keys: dict[str, Any], expected: tuple[float, float] | None) -> None:
    found = header_of(tmp_path, **keys).pixel_size
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-12))


def test_a_latin_1_micro_sign_and_comments_are_read(tmp_path: Path) -> None:
    path = write_ripple(tmp_path / "a.rpl", random_counts((2, 3, 5)), keys={"data-length": None})
    text = path.read_text() + "\n;Mag\t2000\ndata-Length\t4 ; bytes\nwidth-scale\t2\nwidth-units\t\u00b5m\n"
    path.write_bytes(text.encode("latin-1"))
    assert RippleReader(path).header.pixel_size == (2.0, 2.0)


def test_everything_else_is_kept_as_metadata(tmp_path: Path) -> None:
    header = header_of(tmp_path, elevation_angle=35.0, date="2020-07-29", title="thin section", signal="EDS_TEM")
    assert header.metadata["rpl"]["elevation-angle"] == "35.0"
    assert header.metadata["rpl"]["date"] == "2020-07-29"
    assert (header.title, header.signal_type) == ("thin section", TEM)


@pytest.mark.parametrize(
    "lisp",
    [
        "((WIDTH 11) (HEIGHT 7) (DEPTH 61) (OFFSET 0) (DATA-TYPE :UNSIGNED) (DATA-LENGTH 2)\n"
        " (BYTE-ORDER :BIG-ENDIAN) (RECORD-BY :IMAGE))",
        "(MLX::\n(MLX::WIDTH : 11)\n(MLX::HEIGHT : 7)\n(MLX::DEPTH : 61)\n(MLX::OFFSET : 0)\n(MLX::DATA-LENGTH : 2)\n"
        "(MLX::DATA-TYPE : UNSIGNED)\n(MLX::BYTE-ORDER : BIG-ENDIAN)\n(MLX::RECORD-BY : IMAGE)\n)",
    ],
)
def test_the_old_lisp_lists_are_read(tmp_path: Path, lisp: str) -> None:
    counts = random_counts(SHAPE)
    path = write_ripple(tmp_path / "a.rpl", counts, record_by="image", byte_order="big-endian", dtype="u2")
    path.write_text(lisp)
    np.testing.assert_array_equal(read_all(RippleReader(path), 4), counts)
    if "MLX" in lisp:
        np.testing.assert_array_equal(by_rosetta(path), counts)


# ------------------------------------------------------------------------------------------------- wrong files


@pytest.mark.parametrize(("change", "word"), [(-1, "truncated"), (1, "correct h.rpl")])
def test_a_raw_of_the_wrong_size_names_both_sizes(tmp_path: Path, change: int, word: str) -> None:
    path = write_ripple(tmp_path / "h.rpl", random_counts(SHAPE), dtype="u2", offset=5)
    raw = path.with_suffix(".raw")
    data = raw.read_bytes()
    raw.write_bytes(data[:change] if change < 0 else data + b"x")
    expected = 7 * 11 * 61 * 2 + 5
    with pytest.raises(SourceError, match=f"found {expected + change} bytes, expected {expected} bytes.*{word}"):
        RippleReader(path)


def test_a_raw_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    path = write_ripple(tmp_path / "h.rpl", random_counts(SHAPE))
    bands = RippleReader(path).bands(2)
    next(bands)
    raw = path.with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"found \d+ bytes, expected \d+ bytes"):
        list(bands)


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
@pytest.mark.parametrize(("kept", "whole"), [(5 * 11 * 61 * 2 + 700, 5), (4 * 11 * 61 * 2, 4), (11 * 61 * 2, 1)])
@pytest.mark.parametrize("dtype", ["u2", "i2"])
def test_what_is_left_of_a_truncated_file_is_salvaged(
    tmp_path: Path, rows: int, kept: int, whole: int, dtype: str
) -> None:
    counts = random_counts(SHAPE)
    path = write_ripple(tmp_path / "h.rpl", counts, dtype=dtype, offset=3)
    raw = path.with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[: 3 + kept])
    with pytest.raises(SourceError, match="truncated"):
        open_source(path)
    reader = open_source(path, salvage=True)
    assert reader.header.shape == SHAPE
    found: list[Band] = []
    with pytest.raises(SourceError, match=rf"found {3 + kept} bytes, expected {3 + 7 * 11 * 61 * 2} bytes.*truncated"):
        found.extend(reader.bands(rows))  # keeps what came before the error
    assert [band.y0 for band in found] == list(range(0, whole, rows))
    np.testing.assert_array_equal(np.concatenate([band.counts for band in found]), counts[:whole])
    # A box before the end is whole.
    box = Box(slice(0, whole), slice(2, 9), slice(5, 50))
    np.testing.assert_array_equal(read_all(reader, rows, box), counts[box])


@pytest.mark.parametrize("record_by", LAYOUTS)
def test_salvage_of_a_whole_file_changes_nothing(tmp_path: Path, record_by: str) -> None:
    counts = random_counts(SHAPE)
    reader = open_source(write_ripple(tmp_path / "h.rpl", counts, record_by=record_by), salvage=True)
    np.testing.assert_array_equal(read_all(reader, 3), counts)


@pytest.mark.parametrize(
    ("record_by", "kept", "message"),
    [
        ("image", -1, "recorded by image: the last channels are missing in every row, expected record-by vector"),
        ("vector", 11 * 61 * 4 - 1, "expected at least one whole row of 2684 bytes"),
        ("vector", 0, "found 0 of 18788 bytes"),
    ],
)
def test_what_cannot_be_salvaged(tmp_path: Path, record_by: str, kept: int, message: str) -> None:
    path = write_ripple(tmp_path / "h.rpl", random_counts(SHAPE), record_by=record_by)
    raw = path.with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[:kept])
    with pytest.raises(SourceError, match=message):
        open_source(path, salvage=True)


def test_salvage_does_not_hide_a_raw_that_is_too_long(tmp_path: Path) -> None:
    path = write_ripple(tmp_path / "h.rpl", random_counts(SHAPE))
    path.with_suffix(".raw").write_bytes(path.with_suffix(".raw").read_bytes() + b"x")
    with pytest.raises(SourceError, match=r"correct h\.rpl"):
        open_source(path, salvage=True)


@pytest.mark.parametrize("missing", [".raw", ".rpl"])
def test_a_missing_partner_is_named(tmp_path: Path, missing: str) -> None:
    path = write_ripple(tmp_path / "h.rpl", random_counts(SHAPE))
    path.with_suffix(missing).unlink()
    left = path.with_suffix(".rpl" if missing == ".raw" else ".raw")
    with pytest.raises(SourceNotFoundError, match=f"no h{missing} beside it"):
        open_source(left)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"width": None}, "key 'width' of .*no such key"),
        ({"record-by": None}, "key 'record-by' of .*no such key"),
        ({"byte-order": None}, "key 'byte-order' of .*no such key"),
        ({"height": 0}, "key 'height' of .*found '0', expected a whole number above 0"),
        ({"depth": -5}, "key 'depth' of .*found '-5'"),
        ({"width": "eleven"}, "key 'width' of .*found 'eleven'"),
        ({"width": 11.5}, "key 'width' of .*found '11.5'"),
        ({"offset": -1}, "key 'offset' of .*found '-1'"),
        ({"data-length": 3}, "key 'data-length' of .*found '3', expected 1 or 2 or 4 or 8"),
        ({"data-type": "complex"}, "key 'data-type' of .*found 'complex'"),
        ({"data-type": "float", "data-length": 2}, "key 'data-length' of .*found '2', expected 4 or 8"),
        ({"byte-order": "middle"}, "key 'byte-order' of .*found 'middle'"),
        ({"record-by": "spectrum"}, "key 'record-by' of .*found 'spectrum'"),
        ({"record-by": "dont-care"}, "record-by dont-care .*a single image"),
        ({"depth": 1, "width": 11 * 61}, "depth 1: a single image"),
        ({"ev-per-chan": "ten"}, "key 'ev-per-chan' of .*found 'ten', expected a number"),
        ({"depth-scale": "nan"}, "key 'depth-scale' of .*found 'nan', expected a number"),
    ],
)
def test_keys_that_make_no_sense_are_named(tmp_path: Path, keys: dict[str, Any], message: str) -> None:
    path = write_ripple(tmp_path / "h.rpl", random_counts(SHAPE), dtype="u4", keys=keys)
    with pytest.raises(SourceError, match=message):
        RippleReader(path)


@pytest.mark.parametrize("record_by", LAYOUTS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        ("i2", -3, "-3"),
        ("i8", 2**32, "4294967296"),
        ("u8", 2**40, str(2**40)),
        ("f4", -1.0, "-1.0"),
        ("f4", 0.5, "0.5"),
        ("f8", np.nan, "nan"),
        ("f4", np.inf, "inf"),
        ("f8", 2.0**33, "8589934592.0"),
    ],
)
def test_a_value_that_is_no_count_is_named_with_its_pixel(
    tmp_path: Path, record_by: str, order: str, dtype: str, value: float, shown: str
) -> None:
    values = random_counts((7, 11, 131), high=9).astype(dtype)
    values[4, 6, 101] = value
    path = write_ripple(tmp_path / "h.rpl", values, record_by=record_by, byte_order=order)
    with pytest.raises(CountsError, match=re.escape(f"found {shown} at y=4, x=6, channel=101,")):
        list(RippleReader(path).bands(3))


def test_a_pair_holds_one_map(tmp_path: Path) -> None:
    path = write_ripple(tmp_path / "h.rpl", random_counts(SHAPE), keys={"title": "rock"})
    assert open_source(path, pick=1).header.shape == SHAPE
    assert open_source(path, pick="rock").header.shape == SHAPE
    with pytest.raises(ParameterError, match=r"found 2, expected the number or name of one of: 1 'rock' \(7, 11, 61\)"):
        open_source(path, pick=2)


# ------------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("record_by", LAYOUTS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f8"])
@pytest.mark.parametrize("rows", [1, 8, 64])
def test_peak_bytes_bounds_what_is_allocated(tmp_path: Path, record_by: str, dtype: str, rows: int) -> None:
    counts = random_counts((64, 61, 512), high=9)
    reader = RippleReader(
        write_ripple(tmp_path / "h.rpl", counts, record_by=record_by, dtype=dtype, byte_order="big-endian")
    )
    for box in (None, Box(slice(3, 60), slice(5, 31), slice(100, 300)), Box(slice(0, 64), slice(0, 61), slice(7, 9))):
        tracemalloc.start()
        for band in reader.bands(rows, box):
            assert band.rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= reader.peak_bytes(rows, box)
        # A bound that is far too high would be of no use either.
        assert reader.peak_bytes(rows, box) <= 2 * peak + (1 << 19)


@pytest.mark.parametrize("record_by", LAYOUTS)
def test_a_caller_that_drops_its_band_holds_one_at_a_time(tmp_path: Path, record_by: str) -> None:
    counts = random_counts((64, 61, 512), high=9)
    reader = RippleReader(write_ripple(tmp_path / "h.rpl", counts, record_by=record_by, dtype="u2"))
    tracemalloc.start()
    for band in reader.bands(16):
        del band
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= reader.peak_bytes(16) - 16 * 61 * 512 * 2
