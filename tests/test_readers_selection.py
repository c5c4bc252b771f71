"""Regions, energy windows and rebinning against NumPy on the whole map, over every reader that can be cut."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked.cli import main, parameters
from eds_chunked.errors import ParameterError, SourceError
from eds_chunked.kernels.sparse import Csr, from_dense, to_dense
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader, Reader
from eds_chunked.readers.ripple import RippleReader
from eds_chunked.readers.selection import Selection, selected
from eds_chunked.schema import COUNTS as COUNTS_NAME
from eds_chunked.schema import ENERGY, HISTORY, PIXEL_SIZE, X, Y, pixel_size
from eds_chunked.store.calibration import calibrate
from eds_chunked.store.description import describe_map
from eds_chunked.store.export import export
from eds_chunked.store.opening import open_map
from eds_chunked.store.survey import Survey
from tests.ripple_files import random_counts, write_ripple

Array = np.ndarray[Any, Any]

SHAPE = (13, 11, 61)


@dataclass
class ArrayReader:
    """A reader over an array: bands of any heights, dense or CSR, and damage from a row on if wanted."""

    counts: Array
    heights: tuple[int, ...] = ()
    sparse: bool = False
    damaged_from: int | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    asked: list[Box] = field(default_factory=list)

    @property
    def header(self) -> MapHeader:
        known = {"energy_scale": 0.1, "energy_offset": -0.2, "pixel_size": (0.5, 0.25), **self.changes}
        return MapHeader("made", self.counts.shape, self.counts.dtype, **known)

    def peak_bytes(self, rows: int, box: Box | None = None) -> int:
        n_rows, width, channels = (box or Box.whole(self.counts.shape)).shape
        return 2 * min(rows, n_rows) * width * channels * self.counts.itemsize

    def bands(self, rows: int, box: Box | None = None) -> Iterator[Band]:
        box = box or Box.whole(self.counts.shape)
        self.asked.append(box)
        y, i = box.ys.start, 0
        while y < box.ys.stop:
            height = min(rows, box.ys.stop - y, *self.heights[i % len(self.heights) :][:1] if self.heights else (rows,))
            i += 1
            stop = y + height
            if self.damaged_from is not None:
                stop = min(stop, self.damaged_from)
            if stop > y:
                part = self.counts[y:stop, box.xs, box.channels].copy()
                yield Band(y, stop - y, from_dense(part.reshape(-1, part.shape[2])) if self.sparse else part)
            if stop < y + height:
                raise SourceError("made", found="damage", expected="none", fix="none")
            y = stop

    def images(self) -> Iterator[ElectronImage]:
        yield ElectronImage("BSE", self.counts[:, :, 0])


def read_all(reader: Reader, rows: int, box: Box | None = None) -> Array:
    """Read every band, checking where it says that it is."""
    whole = box or Box.whole(reader.header.shape)
    y, parts = whole.ys.start, []
    for band in reader.bands(rows, box):
        assert (band.y0, 0 < band.rows <= rows) == (y, True)
        y += band.rows
        counts = band.counts
        if isinstance(counts, Csr):
            counts = to_dense(counts).reshape(band.rows, -1, counts.n_channels)
        assert counts.dtype.kind == "u"
        assert np.can_cast(counts.dtype, reader.header.dtype)
        parts.append(counts)
    assert y == whole.ys.stop
    return np.concatenate(parts)


def binned(counts: Array, bins: tuple[int, int, int]) -> Array:
    """Sum to bins from the corner on, without the last one where it is not full."""
    full = counts[tuple(slice(0, size // n * n) for size, n in zip(counts.shape, bins, strict=True))].astype(np.uint64)
    shape = [part for size, n in zip(full.shape, bins, strict=True) for part in (size // n, n)]
    return full.reshape(shape).sum((1, 3, 5))


def described(reader: Reader) -> xr.Dataset:
    return describe_map(reader.header, Survey(reader.header.shape))


@st.composite
def part_of(draw: Any, size: int, at_least: int = 1) -> slice:
    start = draw(st.integers(0, size - at_least))
    return slice(start, draw(st.integers(start + at_least, size)))


@st.composite
def selections(draw: Any) -> tuple[tuple[slice, slice], slice, tuple[int, int, int] | None]:
    ys, xs, channels = (draw(part_of(size)) for size in SHAPE)
    bins = draw(st.none() | st.tuples(*(st.integers(1, min(5, axis.stop - axis.start)) for axis in (ys, xs, channels))))
    return (ys, xs), channels, bins


COUNTS = random_counts(SHAPE, high=250)


@settings(max_examples=120, deadline=None)
@given(
    chosen=selections(),
    heights=st.lists(st.integers(1, 7), max_size=4).map(tuple),
    sparse=st.booleans(),
    rows=st.integers(1, 15),
    dtype=st.sampled_from(["u1", "u2", "u4"]),
    data=st.data(),
)
def test_what_is_selected_is_what_numpy_selects(
    chosen: Any, heights: tuple[int, ...], sparse: bool, rows: int, dtype: str, data: Any
) -> None:
    (ys, xs), channels, bins = chosen
    source = ArrayReader(COUNTS.astype(dtype), heights, sparse)
    # Limits halfway between channels: which of them is in does not depend on rounding.
    energy = (-0.2 + 0.1 * (channels.start - 0.5), -0.2 + 0.1 * (channels.stop - 0.5))
    reader = Selection(source, region=(ys, xs), energy=energy, rebin=bins)
    expected = binned(COUNTS[ys, xs, channels], bins or (1, 1, 1))
    assert reader.header.shape == expected.shape
    np.testing.assert_array_equal(read_all(reader, rows), expected)
    # A box of the map that came out, as resuming asks for.
    box = Box(*(data.draw(part_of(size)) for size in expected.shape))
    np.testing.assert_array_equal(read_all(reader, rows, box), expected[box])
    # What lies outside is never asked for.
    for asked in source.asked:
        for axis, kept in zip(asked, (ys, xs, channels), strict=True):
            assert kept.start <= axis.start < axis.stop <= kept.stop


@settings(max_examples=60, deadline=None)
@given(chosen=selections(), calibrated=st.booleans())
def test_coordinates_are_the_mean_of_what_they_were(chosen: Any, calibrated: bool) -> None:
    (ys, xs), _, bins = chosen
    source = ArrayReader(COUNTS, changes={} if calibrated else {"pixel_size": None, "energy_calibrated": False})
    before, reader = described(source), Selection(source, region=(ys, xs), rebin=bins)
    after, n = described(reader), bins or (1, 1, 1)
    for axis, kept, merged in ((Y, ys, n[0]), (X, xs, n[1]), (ENERGY, slice(0, SHAPE[2]), n[2])):
        values = before[axis].values[kept]
        full = values[: len(values) // merged * merged].reshape(-1, merged).mean(1)
        np.testing.assert_allclose(after[axis].values, full, rtol=1e-12, atol=1e-12)
        assert after[axis].attrs == before[axis].attrs
    # From the coordinates, and for maps of one row or column from what is stored.
    height, width, unit = pixel_size(before)
    assert pixel_size(after)[:2] == pytest.approx((height * n[0], width * n[1]), rel=1e-9)
    assert after.attrs[PIXEL_SIZE] == pytest.approx([height * n[0], width * n[1]])
    assert pixel_size(after)[2] == unit == ("um" if calibrated else "pixel")


@settings(max_examples=80, deadline=None)
@given(low=st.floats(-1, 7), high=st.floats(-1, 7))
def test_an_energy_window_is_that_of_xarray(low: float, high: float) -> None:
    low, high = sorted((low, high))
    source = ArrayReader(COUNTS)
    ds = described(source)
    wanted = ds[ENERGY].sel({ENERGY: slice(low - 1e-7, high + 1e-7)}).values  # 1e-6 of a channel
    if not len(wanted):
        with pytest.raises(ParameterError, match=r"no channel between .* 61 channels from -0\.2 to 5\.8 keV, 0\.1 keV"):
            Selection(source, energy=(low, high))
        return
    np.testing.assert_allclose(described(Selection(source, energy=(low, high)))[ENERGY].values, wanted, atol=1e-12)


def test_a_window_holds_the_channels_at_its_ends() -> None:
    centres = described(ArrayReader(COUNTS))[ENERGY].values
    reader = Selection(ArrayReader(COUNTS), energy=(centres[7], centres[19]))
    assert reader.header.shape[2] == 13
    assert reader.header.energy_offset == centres[7]
    assert Selection(ArrayReader(COUNTS), energy=(-math.inf, centres[3])).header.shape[2] == 4


@given(offset=st.integers(-60, 60), first=st.integers(0, 60), last=st.integers(0, 60))
def test_typed_ends_are_the_channels_that_they_name(offset: int, first: int, last: int) -> None:
    """Of 10 eV a channel, in numbers with two decimals: 35 times 0.01 is more than 0.35."""
    first, last = sorted((first, last))
    source = ArrayReader(COUNTS, changes={"energy_scale": 0.01, "energy_offset": offset / 100})
    low, high = (f"{(offset + channel) / 100:.2f}" for channel in (first, last))
    header = Selection(source, energy=(float(low), float(high))).header
    assert (header.shape[2], header.channel_origin) == (last - first + 1, first)
    # A tenth of a percent of a channel is no rounding.
    if first < last:
        inside = Selection(source, energy=(float(low) + 1e-5, float(high) - 1e-5)).header if last - first > 1 else None
        assert inside is None or inside.shape[2] == last - first - 1


def test_a_typed_window_of_the_command_line(tmp_path: Path) -> None:
    keys = {"depth-scale": 0.01, "depth-units": "keV", "depth-origin": 0.0}
    source = write_ripple(tmp_path / "h.rpl", COUNTS, keys=keys)
    result = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "h.zarr"), "--energy", "0:0.35"])
    assert result.exit_code == 0, result.stderr
    assert open_map(tmp_path / "h.zarr").sizes[ENERGY] == 36


@pytest.mark.parametrize(("dtype", "bins", "expected"), [("u1", (1, 1, 2), "u2"), ("u2", (5, 4, 8), "u4")])
def test_the_type_holds_the_largest_sum(dtype: str, bins: tuple[int, int, int], expected: str) -> None:
    full = np.full(SHAPE, np.iinfo(dtype).max, dtype)
    reader = Selection(ArrayReader(full), rebin=bins)
    assert reader.header.dtype == np.dtype(expected)
    assert (read_all(reader, 3) == math.prod(bins) * int(full[0, 0, 0])).all()
    assert Selection(ArrayReader(full), rebin=(1, 1, 1)).header.dtype == np.dtype(dtype)


def test_the_largest_type_stays() -> None:
    full = np.full((2, 2, 2), 2**32 - 1, np.uint32)
    reader = Selection(ArrayReader(full), rebin=(2, 2, 2))
    assert reader.header.dtype == np.uint64
    assert read_all(reader, 1).tolist() == [[[8 * (2**32 - 1)]]]


# -------------------------------------------------------------------------------------------------- in the store


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("calibrated", [True, False])
def test_what_is_stored_keeps_its_place(tmp_path: Path, calibrated: bool) -> None:
    keys = {"depth-scale": 0.1, "depth-units": "keV", "depth-origin": -0.2}
    if calibrated:
        keys |= {"height-scale": 0.5, "height-units": "um", "width-scale": 0.25, "width-units": "um"}
    source, store = write_ripple(tmp_path / "h.rpl", COUNTS, keys=keys), tmp_path / "h.zarr"
    given = ["--region", "2:,3:10", "--energy", "0.05:4.05", "--rebin", "2,3,4"]
    result = CliRunner().invoke(main, ["convert", str(source), str(store), *given])
    assert result.exit_code == 0, result.stderr
    assert "the bins leave out, at the end, 1 of the rows, 1 of the columns" in result.stderr
    ds = open_map(store)
    assert ds.attrs[HISTORY][0]["parameters"]["left_out"] == {"rows": 1, "columns": 1}
    expected = binned(COUNTS[2:, 3:10, 3:43], (2, 3, 4))
    np.testing.assert_array_equal(ds[COUNTS_NAME].values, expected)
    dy, dx, unit = (0.5, 0.25, "um") if calibrated else (1.0, 1.0, "pixel")
    np.testing.assert_allclose(ds[Y].values, (2.5 + 2 * np.arange(5)) * dy)
    np.testing.assert_allclose(ds[X].values, (4.0 + 3 * np.arange(2)) * dx)
    assert pixel_size(ds)[2] == unit
    assert pixel_size(ds)[:2] == pytest.approx((2 * dy, 3 * dx))
    np.testing.assert_allclose(ds[ENERGY].values, -0.2 + 0.1 * (4.5 + 4 * np.arange(10)))
    # Out again, with the axes that HyperSpy will see.
    export(store, tmp_path / "h.hspy")
    with h5py.File(tmp_path / "h.hspy") as file:
        (signal,) = file["Experiments"].values()
        axes = [dict(signal[f"axis-{i}"].attrs) for i in range(3)]
    assert [axis["offset"] for axis in axes] == pytest.approx([2.5 * dy, 4.0 * dx, 0.25])
    assert [axis["scale"] for axis in axes] == pytest.approx([2 * dy, 3 * dx, 0.4])
    # A new size of the pixels moves the corner with them.
    ds = calibrate(store, pixel_size=(10.0, 30.0))
    np.testing.assert_allclose(ds[Y].values, 12.5 + 10.0 * np.arange(5))
    np.testing.assert_allclose(ds[X].values, 40.0 + 30.0 * np.arange(2))


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--region", "3"),
        ("--region", "0:5,1:2,3:4"),
        ("--region", "-1:5,0:3"),
        ("--region", "0:5,0:3:2"),
        ("--region", "0:1.5,0:3"),
        ("--rebin", "0"),
        ("--rebin", "2,2,2,2"),
        ("--rebin", "2,"),
        ("--rebin", "1.5"),
        ("--energy", "5"),
        ("--energy-scale", "ten"),
    ],
)
def test_an_option_that_makes_no_sense(tmp_path: Path, option: str, text: str) -> None:
    source = write_ripple(tmp_path / "h.rpl", COUNTS)
    result = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "h.zarr"), f"{option}={text}"])
    assert (result.exit_code, option in result.stderr, repr(text) in result.stderr) == (2, True, True)
    assert not (tmp_path / "h.zarr").exists()


@pytest.mark.parametrize(
    ("text", "expected"), [("2", (2, 2, 1)), ("2,3", (2, 3, 1)), (" 4, 1,8", (4, 1, 8)), ("1,1,2", (1, 1, 2))]
)
def test_bins_of_the_command_line(text: str, expected: tuple[int, int, int]) -> None:
    assert parameters.bins(text) == expected


def test_regions_of_the_command_line() -> None:
    assert parameters.region("3:10, 5:") == (slice(3, 10), slice(5, None))
    assert parameters.region(":,:7") == (slice(None), slice(None, 7))


# ------------------------------------------------------------------------------------------------- energy scale


def test_an_energy_scale_comes_before_the_window() -> None:
    # The file says 100 eV a channel, and it is 10.
    source = ArrayReader(COUNTS)
    reader = selected(source, energy_scale=0.01, energy=(0.0, 0.1))
    header = reader.header
    assert (header.energy_scale, header.energy_calibrated) == (0.01, True)
    assert header.energy_offset == pytest.approx(0.0)
    assert header.shape[2] == 11
    np.testing.assert_array_equal(read_all(reader, 4), COUNTS[:, :, 20:31])


def test_an_energy_scale_calibrates_an_axis_that_counts_channels() -> None:
    source = ArrayReader(
        COUNTS, changes={"energy_calibrated": False, "energy_scale": 1.0, "energy_offset": 0.0, "pixel_size": None}
    )
    with pytest.raises(ParameterError, match=r"energies count channels, and a window in keV.*add --energy-scale KEV"):
        selected(source, energy=(0.5, 1.5))
    reader = selected(source, energy=(0.495, 1.505), energy_scale=0.01)
    assert reader.header.energy_calibrated
    np.testing.assert_array_equal(read_all(reader, 4), COUNTS[:, :, 50:])


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (10, r"found 10 keV a channel, expected 0\.0005 to 0\.2\. Fix: --energy-scale 0\.01 \(10 eV\)"),
        (0.21, r"found 0\.21 keV a channel, expected 0\.0005 to 0\.2\. Fix: --energy-scale 0\.01 "),
        (5, r"--energy-scale 0\.005 \(5 eV\)"),
        (0.0004, r"found 0\.0004 keV a channel"),
    ],
)
def test_an_energy_scale_in_ev(scale: float, message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        selected(ArrayReader(COUNTS), energy_scale=scale)
    assert selected(ArrayReader(COUNTS), energy_scale=0.2, rebin=(1, 1, 4)).header.energy_scale == pytest.approx(0.8)


@pytest.mark.parametrize("calibrated", [True, False])
def test_an_energy_scale_of_a_selection_keeps_channel_0_of_the_file(calibrated: bool) -> None:
    changes = (
        {"energy_scale": 0.02, "energy_offset": -0.2} if calibrated else {"energy_scale": 1.0, "energy_offset": 5.0}
    )
    source = ArrayReader(COUNTS, changes={**changes, "energy_calibrated": calibrated})
    # Channels 10 to 41, four to one.
    inner = (
        Selection(source, energy=(0.0, 0.639), rebin=(1, 1, 4)) if calibrated else Selection(source, rebin=(1, 1, 4))
    )
    header = Selection(inner, energy_scale=0.04).header
    first = 11.5 if calibrated else 1.5
    assert header.channel_origin == first
    assert header.energy_offset == pytest.approx((-0.2 if calibrated else 0.05) + 0.01 * first)


@pytest.mark.parametrize("scale", [0, -0.01, math.nan, math.inf, True, "0.01"])
def test_an_energy_scale_that_cannot_be(scale: Any) -> None:
    with pytest.raises(ParameterError, match=r"energy_scale: found .*--energy-scale 0\.01"):
        selected(ArrayReader(COUNTS), energy_scale=scale)


# ------------------------------------------------------------------------------------------------- what is told


def test_nothing_asked_is_the_reader_itself() -> None:
    source = ArrayReader(COUNTS)
    assert selected(source) is source


def test_what_was_asked_is_recorded() -> None:
    source = ArrayReader(COUNTS, changes={"parameters": {"first": 1}})
    reader = selected(
        source,
        region=(slice(2, None), slice(np.int64(1), 9)),
        energy=(-math.inf, 4.0),
        rebin=(2, 1, 3),
        energy_scale=0.1,
    )
    expected = {
        "first": 1,
        "region": [[2, 13], [1, 9]],
        "energy": [None, 4.0],
        "rebin": [2, 1, 3],
        "energy_scale": 0.1,
    }
    assert dict(reader.header.parameters) == expected
    (event,) = described(reader).attrs[HISTORY]
    # Of 11 rows, 8 columns and 43 channels.
    assert event["parameters"] == {"source": "made", **expected, "left_out": {"rows": 1, "channels": 1}}
    assert json.loads(json.dumps(event, allow_nan=False))["parameters"]["region"] == [[2, 13], [1, 9]]


def test_a_selection_of_a_selection() -> None:
    inner = Selection(ArrayReader(COUNTS, sparse=True), region=(slice(1, 13), slice(2, 11)), rebin=(2, 1, 1))
    outer = Selection(inner, region=(slice(1, 6), slice(1, 8)), rebin=(2, 3, 4))
    step = binned(COUNTS[1:13, 2:11], (2, 1, 1))
    np.testing.assert_array_equal(read_all(outer, 2), binned(step[1:6, 1:8], (2, 3, 4)))
    assert outer.header.binned == (4, 3)
    assert (outer.header.channel_origin, outer.header.channels_binned) == (1.5, 4)
    # Row 1 of 2-row bins begins at row 3; the middle of rows 3 to 6 is 4.5.
    assert outer.header.origin[0] == pytest.approx(4.5 * 0.5)


def test_images_are_those_of_the_file() -> None:
    (image,) = Selection(ArrayReader(COUNTS), region=(slice(3, 5), slice(0, 2))).images()
    assert image.pixels.shape == SHAPE[:2]


# -------------------------------------------------------------------------------------------------- bad requests


@pytest.mark.parametrize(
    ("region", "found"),
    [
        ((slice(0, 14), slice(0, 11)), "0:14,0:11"),
        ((slice(13, 14), slice(0, 11)), "13:14,0:11"),
        ((slice(5, 5), slice(0, 11)), "5:5,0:11"),
        ((slice(0, 5), slice(8, 3)), "0:5,8:3"),
        ((slice(-3, None), slice(0, 11)), "-3:,0:11"),
        ((slice(0, 10, 2), slice(0, 11)), "0:10:2,0:11"),
        ((slice(0, 2.5), slice(0, 11)), "0:2.5,0:11"),
        ((slice(0, True), slice(0, 11)), "0:True,0:11"),
    ],
)
def test_a_region_beyond_the_map(region: Any, found: str) -> None:
    with pytest.raises(
        ParameterError,
        match=rf"region of made: found {found}, expected at least one pixel within rows 0:13 and columns 0:11",
    ):
        Selection(ArrayReader(COUNTS), region=region)


@pytest.mark.parametrize("region", [(slice(0, 3),), slice(0, 3), (0, 3), ((0, 3), (1, 4))])
def test_a_region_that_is_none(region: Any) -> None:
    with pytest.raises(ParameterError, match="expected a slice of rows and a slice of columns"):
        Selection(ArrayReader(COUNTS), region=region)


@pytest.mark.parametrize("energy", [(3, 1), (1,), (1, 2, 3), ("a", "b"), (math.nan, 2), 3.0])
def test_an_energy_window_that_is_none(energy: Any) -> None:
    with pytest.raises(ParameterError, match="expected the lowest and the highest keV"):
        Selection(ArrayReader(COUNTS), energy=energy)


@pytest.mark.parametrize("rebin", [2, (2, 2), (0, 1, 1), (1, -1, 1), (1.0, 1, 1), (True, 1, 1), "222"])
def test_bins_that_are_none(rebin: Any) -> None:
    with pytest.raises(ParameterError, match="expected three whole numbers above 0"):
        Selection(ArrayReader(COUNTS), rebin=rebin)


def test_bins_larger_than_what_is_kept() -> None:
    with pytest.raises(ParameterError, match=r"found bins of 4 x 1 x 1 .*no more than what is kept of the map, 3 x 11"):
        Selection(ArrayReader(COUNTS), region=(slice(0, 3), slice(0, 11)), rebin=(4, 1, 1))


# -------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(("damaged_from", "bins", "whole"), [(8, 2, 4), (9, 2, 4), (8, 3, 2), (1, 2, 0), (0, 1, 0)])
def test_damage_comes_after_all_whole_rows(sparse: bool, damaged_from: int, bins: int, whole: int) -> None:
    source = ArrayReader(COUNTS, (3, 2), sparse, damaged_from=damaged_from)
    reader = Selection(source, rebin=(bins, 1, 1), region=(slice(0, 13), slice(0, 11)))
    bands: list[Band] = []
    with pytest.raises(SourceError, match="found damage"):
        bands.extend(reader.bands(3))  # keeps what came before the error
    assert sum(band.rows for band in bands) == whole
    expected = binned(COUNTS, (bins, 1, 1))
    for band in bands:
        found = to_dense(band.counts) if isinstance(band.counts, Csr) else band.counts
        np.testing.assert_array_equal(
            found.reshape(band.rows, SHAPE[1], SHAPE[2]), expected[band.y0 : band.y0 + band.rows]
        )


# -------------------------------------------------------------------------------------------------------- memory


def test_wide_bins_take_little_more_than_the_reader(tmp_path: Path) -> None:
    counts = np.random.default_rng(1).poisson(0.3, (50, 83, 512)).astype(np.uint16)
    whole = RippleReader(write_ripple(tmp_path / "h.rpl", counts))
    reader = selected(whole, rebin=(8, 8, 1))
    np.testing.assert_array_equal(read_all(reader, 3), binned(counts, (8, 8, 1)))
    assert {band.counts.value.dtype for band in reader.bands(1) if isinstance(band.counts, Csr)} == {np.dtype("u1")}
    for rows in (1, 4):
        tracemalloc.start()
        for band in reader.bands(rows):
            assert band.rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= reader.peak_bytes(rows)
        # Eight whole rows as CSR are never held: a value takes 6 bytes there.
        whole_rows = 8 * 83 * 512 * 6
        assert reader.peak_bytes(rows) - whole.peak_bytes(rows) < whole_rows


@pytest.mark.parametrize("rebin", [None, (2, 2, 1), (3, 1, 4), (1, 1, 2), (8, 8, 1)])
@pytest.mark.parametrize("rows", [1, 4, 16])
@pytest.mark.parametrize("record_by", ["vector", "image"])
def test_peak_bytes_bounds_what_is_allocated(tmp_path: Path, rebin: Any, rows: int, record_by: str) -> None:
    # The worst case: no value is zero.
    counts = random_counts((48, 61, 512), high=9).astype(np.uint16) + np.uint16(1)
    reader = selected(
        RippleReader(write_ripple(tmp_path / "h.rpl", counts, record_by=record_by)),
        region=(slice(5, 43), slice(7, 53)),
        energy_scale=0.01,
        energy=(0.5, 4.0),
        rebin=rebin,
    )
    next(reader.bands(1))  # what compiling takes is no part of it
    tracemalloc.start()
    total = 0
    for band in reader.bands(rows):
        total += band.rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == reader.header.shape[0]
    assert peak <= reader.peak_bytes(rows)
    # A bound that is far too high would be of no use either.
    assert reader.peak_bytes(rows) <= 4 * peak + (1 << 19)


def test_only_the_box_is_held(tmp_path: Path) -> None:
    counts = random_counts((80, 61, 1024), high=9).astype(np.uint16)
    whole = RippleReader(write_ripple(tmp_path / "h.rpl", counts))
    part = selected(whole, region=(slice(0, 80), slice(10, 16)), energy_scale=0.01, energy=(1.0, 1.5))
    assert part.peak_bytes(80) < whole.peak_bytes(80) / 10
    tracemalloc.start()
    (band,) = part.bands(80)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert band.counts.shape == (80, 6, 51)
    assert peak <= part.peak_bytes(80)


def test_selecting_imports_neither_numba_nor_dask() -> None:
    code = "import sys, eds_chunked.readers.selection; print(*sorted({m.partition('.')[0] for m in sys.modules}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numba", "dask", "zarr", "h5py", "xarray"} & set(run.stdout.split())
