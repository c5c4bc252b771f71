"""EDAX .spd: equal to what RosettaSciIO reads, in memory that the reader states, with the calibration beside it."""

from __future__ import annotations

import json
import struct
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rsciio.edax import file_reader

import eds_chunked as edc
from eds_chunked.cli import main
from eds_chunked.errors import ParameterError, SourceError
from eds_chunked.readers import describe, open_source
from eds_chunked.readers.base import Box
from eds_chunked.readers.edax import EdaxReader
from eds_chunked.schema import HISTORY, SEM
from tests.edax_files import write_ipr, write_spc, write_spd
from tests.ripple_files import random_counts

SHAPE = (13, 7, 61)


def read_all(reader: Any, rows: int, box: Box | None = None) -> np.ndarray[Any, Any]:
    whole = box or Box.whole(reader.header.shape)
    bands = list(reader.bands(rows, box))
    assert [band.y0 for band in bands] == list(range(whole.ys.start, whole.ys.stop, rows))
    assert {band.counts.dtype for band in bands} == {reader.header.dtype}
    return np.concatenate([band.counts for band in bands])


def calibrated(folder: Path, counts: np.ndarray[Any, Any], **spc: Any) -> Path:
    path = write_spd(folder / "map.spd", counts, image="C:\\EDAX\\image 3.bmp")
    write_spc(folder / "map.spc", **spc)
    write_ipr(folder / "image 3.ipr", height=0.5, width=0.25)
    return path


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(dtype=st.sampled_from(["u1", "u2", "u4"]), rows=st.integers(1, 15), data=st.data())
def test_a_box_is_what_numpy_cuts_out(tmp_path: Path, dtype: str, rows: int, data: Any) -> None:
    counts = random_counts(SHAPE, high=200).astype(dtype)
    reader = open_source(write_spd(tmp_path / "a.spd", counts))
    assert isinstance(reader, EdaxReader)
    assert (reader.header.shape, reader.header.dtype) == (SHAPE, np.dtype(dtype))
    np.testing.assert_array_equal(read_all(reader, rows), counts)
    starts = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    box = Box(*(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, SHAPE, strict=True)))
    np.testing.assert_array_equal(read_all(reader, rows, box), counts[box])


def test_it_says_and_holds_what_rosettasciio_reads(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    path = calibrated(tmp_path, counts, ev=20, start=-0.125, kv=15.0, elements=(26, 8, 14))
    # Its companions are found however they are spelled, where RosettaSciIO wants its own spelling.
    (tmp_path / "image 3.ipr").rename(tmp_path / "Image 3.IPR")
    reader = open_source(path)
    header = reader.header
    (tmp_path / "Image 3.IPR").rename(tmp_path / "image 3.ipr")
    (expected,) = file_reader(str(path), ipr_fname=str(tmp_path / "image 3.ipr"))
    np.testing.assert_array_equal(read_all(reader, 4), expected["data"])
    y, x, energy = expected["axes"][0], expected["axes"][1], expected["axes"][2]
    assert (header.energy_scale, header.energy_offset) == (energy["scale"], energy["offset"]) == (0.02, -0.125)
    assert header.pixel_size == (y["scale"], x["scale"]) == (0.5, 0.25)
    sem = expected["metadata"]["Acquisition_instrument"]["SEM"]
    assert (header.beam_energy, header.live_time) == (sem["beam_energy"], sem["Detector"]["EDS"]["live_time"])
    assert header.metadata["spc"]["detReso"] == sem["Detector"]["EDS"]["energy_resolution_MnKa"] == 129.5
    assert list(header.elements) == expected["metadata"]["Sample"]["elements"] == ["Fe", "O", "Si"]
    assert header.signal_type == expected["metadata"]["Signal"]["signal_type"] == SEM
    assert json.loads(json.dumps(header.metadata)) == header.metadata
    assert (describe(path), header.title, list(reader.images())) == ((header,), "map", [])


def test_without_its_companions_it_is_not_calibrated(tmp_path: Path) -> None:
    header = open_source(write_spd(tmp_path / "a.spd", random_counts(SHAPE))).header
    assert (header.energy_calibrated, header.energy_scale, header.energy_offset) == (False, 1.0, 0.0)
    assert (header.pixel_size, header.beam_energy, header.live_time, header.elements) == (None, None, None, ())
    write_ipr(tmp_path / "a_Img.ipr", height=2.0, width=3.0)  # where the header names no image
    assert open_source(tmp_path / "a.spd").header.pixel_size == (2.0, 3.0)


@pytest.mark.parametrize(("ev", "start"), [(0, 0.0), (-5, 0.0), (10, float("nan"))])
def test_a_calibration_that_makes_no_sense_is_none(tmp_path: Path, ev: int, start: float) -> None:
    header = open_source(calibrated(tmp_path, random_counts(SHAPE), ev=ev, start=start, kv=float("inf"))).header
    assert (header.energy_calibrated, header.energy_scale, header.energy_offset) == (False, 1.0, 0.0)
    assert header.beam_energy is None


# ------------------------------------------------------------------------------------------ a wrong energy scale


def test_a_wrong_scale_is_overridden_and_the_history_says_so(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    path = calibrated(tmp_path, counts, ev=5, start=-0.25)  # it is 20 eV in truth
    store = tmp_path / "map.zarr"
    arguments = ["convert", str(path), str(store), "--energy-scale", "0.02", "--energy", "0:0.5", "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    facts = json.loads(result.stdout)["map"]
    assert facts["energy_scale"] == pytest.approx(0.02)
    ds = edc.open(store)
    # Channel 0 stays where the file has it; the window is one of the right energies.
    energies = -0.25 + 0.02 * np.arange(61)
    kept = (energies >= 0) & (energies <= 0.5)
    np.testing.assert_allclose(ds.energy, energies[kept], rtol=1e-12)
    np.testing.assert_array_equal(ds.counts, counts[:, :, kept])
    converted = ds.attrs[HISTORY][0]
    assert converted["parameters"]["energy_scale"] == 0.02
    assert converted["parameters"]["energy"] == [0.0, 0.5]
    assert ds.attrs["source_metadata"]["spc"]["evPerChan"] == 5  # what the file says stays to be seen


# --------------------------------------------------------------------------------------------------------- damage


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    path = write_spd(tmp_path / "a.spd", counts)
    row, whole = 7 * 61 * 2, path.read_bytes()
    path.write_bytes(whole[: 1064 + 5 * row + 100])
    for call in (open_source, describe):
        with pytest.raises(
            SourceError,
            match=rf"found {1064 + 5 * row + 100} bytes, .* {1064 + 13 * row} bytes.*keeps its 5 whole rows",
        ):
            call(path)
    reader = open_source(path, salvage=True)
    bands = []
    with pytest.raises(SourceError, match="truncated"):
        bands.extend(reader.bands(3))
    np.testing.assert_array_equal(np.concatenate([band.counts for band in bands]), counts[:5])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ds = edc.convert(path, tmp_path / "map.zarr", salvage=True)
    np.testing.assert_array_equal(ds.counts, counts[:5])
    path.write_bytes(whole[: 1064 + row - 1])
    for salvage in (False, True):
        with pytest.raises(SourceError, match=r"truncated$"):
            open_source(path, salvage=salvage)


def test_bytes_behind_the_counts_are_no_matter(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    path = write_spd(tmp_path / "a.spd", counts)
    path.write_bytes(path.read_bytes() + bytes(999))
    np.testing.assert_array_equal(read_all(open_source(path), 4), counts)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "an empty file"),
        (b"MAPSPECTRA_DATA\0", "b'MAPSPECTRA_DATA"),
        (bytes(2000), r"b'\\x00"),
    ],
)
def test_no_map_at_all(tmp_path: Path, content: bytes, found: str) -> None:
    (tmp_path / "a.spd").write_bytes(content)
    with pytest.raises(SourceError, match=f"found {found}.*the beginning of an EDAX map"):
        open_source(tmp_path / "a.spd")


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [(24, "<i", 0), (24, "<i", -7), (28, "<I", 0), (32, "<I", 0), (36, "<I", 3), (40, "<I", 7)],
)
def test_a_header_that_makes_no_sense(tmp_path: Path, place: int, kind: str, value: int) -> None:
    path = write_spd(tmp_path / "a.spd", random_counts(SHAPE))
    data = bytearray(path.read_bytes())
    struct.pack_into(kind, data, place, value)
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"header of .*a\.spd: found .* pixels x"):
        open_source(path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    places=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4), salvage=st.booleans()
)
def test_any_bytes_of_the_headers_are_read_or_refused(tmp_path: Path, places: Any, salvage: bool) -> None:
    counts = random_counts(SHAPE).astype(np.uint8)
    path = calibrated(tmp_path, counts, elements=(8, 14))
    for name in ("map.spd", "map.spc", "image 3.ipr"):
        data = bytearray((tmp_path / name).read_bytes())
        for place, value in places:
            data[place % len(data)] = value
        (tmp_path / name).write_bytes(data)
    try:
        reader = open_source(path, salvage=salvage)
        for band in reader.bands(5):
            assert band.counts.shape[0] == band.rows
    except (SourceError, ParameterError):
        pass


@pytest.mark.parametrize("name", ["map.spc", "image 3.ipr"])
def test_a_companion_that_is_cut_off(tmp_path: Path, name: str) -> None:
    path = calibrated(tmp_path, random_counts(SHAPE))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:60])
    with pytest.raises(SourceError, match=rf"{name}: found 60 bytes, .*give the calibration by hand"):
        open_source(path)
