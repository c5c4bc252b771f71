"""The .hspy reader against RosettaSciIO: chunks, axis orders, types, metadata, and faulty files."""

from __future__ import annotations

import json
import re
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rsciio import hspy as oracle

from eds_chunked.errors import CountsError, ParameterError, SourceError
from eds_chunked.readers import describe, open_source
from eds_chunked.readers.base import Box
from eds_chunked.readers.hspy import HspyReader
from eds_chunked.schema import SEM, TEM
from tests.real_data import real_data
from tests.ripple_files import random_counts

SHAPE = (13, 7, 61)
REAL = "88_ES-LP_G8_selection2_cropped2.hspy"

ROW = {"name": "y", "scale": 0.5, "offset": 0.0, "units": "\u00b5m", "navigate": True}
COLUMN = {"name": "x", "scale": 250.0, "offset": 3.0, "units": "nm", "navigate": True}
ENERGY = {"name": "Energy", "scale": 10.0, "offset": -480.0, "units": "eV", "navigate": False}


def read_all(reader: Any, rows: int, box: Box | None = None) -> np.ndarray[Any, Any]:
    ys = slice(0, reader.header.shape[0]) if box is None else box.ys
    bands = list(reader.bands(rows, box))
    starts = list(range(ys.start, ys.stop, rows))
    assert [band.y0 for band in bands] == starts
    assert [band.rows for band in bands] == np.diff([*starts, ys.stop]).tolist()
    assert {band.counts.dtype for band in bands} == {reader.header.dtype}
    return np.concatenate([band.counts for band in bands])


def write(
    path: Path,
    data: np.ndarray[Any, Any],
    *axes: dict[str, Any],
    name: str = "map",
    metadata: dict[str, Any] | None = None,
    **options: Any,
) -> Path:
    """Write one signal with h5py: every chunking and every axis order, unlike HyperSpy's own writer."""
    with h5py.File(path, "a") as file:
        file.attrs["file_format"], file.attrs["file_format_version"] = "HyperSpy", "3.3"
        group = file.require_group("Experiments").create_group(name)
        group.create_dataset("data", data=data, **options)
        for i, axis in enumerate(axes):
            group.create_group(f"axis-{i}").attrs.update({k: "_None_" if v is None else v for k, v in axis.items()})
        group.create_group("original_metadata")
        tree = group.create_group("metadata")
        for address, value in (metadata or {}).items():
            *folders, key = address.split(".")
            tree.require_group("/".join(folders)).attrs[key] = value
    return path


def test_a_file_of_rosettasciio_reads_back(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    metadata = {
        "General": {"title": "dacite", "date": "2020-07-29"},
        "Signal": {"signal_type": "EDS_SEM"},
        "Sample": {"elements": ["Fe", "O", "Si"], "xray_lines": []},
        "Acquisition_instrument": {
            "SEM": {"beam_energy": 20, "Detector": {"EDS": {"live_time": 3.5, "real_time": 4.0, "azimuth_angle": 0.0}}}
        },
    }
    signal = {
        "data": counts,
        "axes": [{**axis, "size": n} for axis, n in zip((ROW, COLUMN, ENERGY), SHAPE, strict=True)],
        "metadata": metadata,
        "original_metadata": {"series": [{"a": 1}, {"a": 2.5}], "long": list(range(3000)), "none": None},
        "attributes": {"_lazy": False, "ragged": False},
        "tmp_parameters": {},
        "learning_results": {},
        "models": {},
        "package_info": {"package": "rosettasciio", "package_version": "0"},
    }
    path = tmp_path / "a.hspy"
    oracle.file_writer(str(path), signal)
    reader = HspyReader(path)
    (expected,) = oracle.file_reader(str(path))
    for rows in (1, 5, 13):
        np.testing.assert_array_equal(read_all(reader, rows), expected["data"])
    header = reader.header
    assert (header.energy_scale, header.energy_offset, header.energy_calibrated) == (0.01, -0.48, True)
    assert header.pixel_size == (0.5, 0.25)
    assert (header.title, header.signal_type, header.elements) == ("dacite", SEM, ("Fe", "O", "Si"))
    assert (header.beam_energy, header.live_time, header.real_time) == (20.0, 3.5, 4.0)
    kept = json.loads(json.dumps(header.metadata))
    assert {key: kept[key] for key in metadata} == metadata
    assert kept["original_metadata"] == {"series": [{"a": 1}, {"a": 2.5}], "long": None, "none": None}
    assert kept["axes"][2] == {**ENERGY, "size": 61}


def test_a_file_of_hyperspy_reads_back(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import hyperspy.api as hs

        signal = hs.signals.Signal1D(random_counts(SHAPE).astype(np.uint8))
        signal.set_signal_type("EDS_TEM")
        axis = signal.axes_manager[-1]
        axis.name, axis.units, axis.scale, axis.offset = "Energy", "keV", 0.02, -1.9
        signal.add_elements(["Mg", "Si"])
        signal.save(tmp_path / "c.hspy", chunks=(3, 4, 61))
    reader = HspyReader(tmp_path / "c.hspy")
    np.testing.assert_array_equal(read_all(reader, 4), signal.data)
    header = reader.header
    assert (header.energy_scale, header.energy_offset, header.pixel_size) == (0.02, -1.9, None)
    assert (header.signal_type, header.elements, header.title) == (TEM, ("Mg", "Si"), "")


def test_the_real_map(tmp_path: Path) -> None:
    path = real_data(REAL)
    reader = open_source(path)
    header = reader.header
    assert header.shape == (80, 80, 1917)
    assert header.dtype == np.uint8
    assert read_all(reader, 33).sum() == 716_887
    assert (header.energy_scale, header.energy_offset) == (0.01000467828, 0.83151949728)
    assert header.pixel_size == (0.00985911335721014, 0.00985911335721014)
    assert (header.signal_type, header.beam_energy, header.live_time) == (TEM, 200.0, 28.085)
    assert header.elements == ("Al", "Ca", "Fe", "Hf", "Lu", "Mg", "Nd", "O", "Si", "Sm", "U")
    assert json.loads(json.dumps(header.metadata))["original_metadata"]["Microscope"]["Mag"] == 20000
    (expected,) = oracle.file_reader(str(path))
    np.testing.assert_array_equal(read_all(reader, 7), expected["data"])


AGAIN = "ignore:.*each is unpacked .* times:UserWarning"


@pytest.mark.filterwarnings(AGAIN)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(2, 40)),
    chunk=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40)),
    order=st.permutations(range(3)),
    rows=st.integers(1, 11),
    dtype=st.sampled_from(["u1", ">u2", "<u4", "u8", ">i2", "i4", "f4", ">f8"]),
    limit=st.sampled_from([0, 700, 1 << 26]),
    data=st.data(),
)
def test_any_chunks_axis_order_and_box(
    tmp_path: Path,
    shape: tuple[int, int, int],
    chunk: tuple[int, int, int],
    order: list[int],
    rows: int,
    dtype: str,
    limit: int,
    data: Any,
) -> None:
    counts = random_counts(shape, high=100)
    path = tmp_path / "a.hspy"
    path.unlink(missing_ok=True)
    axes = [(ROW, COLUMN, ENERGY)[i] for i in order]
    stored = counts.transpose(order).astype(dtype)
    chunks = tuple(min(chunk[i], shape[i]) for i in order)
    write(path, stored, *axes, chunks=chunks, compression="gzip", compression_opts=1)
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    box = Box(*(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eds_chunked.readers.experiments.slab_bytes", lambda memory: limit)
        reader = HspyReader(path)
        assert reader.header.shape == shape
        assert reader.header.pixel_size == (0.5, 0.25)
        np.testing.assert_array_equal(read_all(reader, rows), counts)
        np.testing.assert_array_equal(read_all(reader, rows, box), counts[box])


def test_chunks_that_are_too_high_for_the_memory_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = random_counts((97, 31, 512), high=9).astype(np.uint16)  # 31 744 bytes a row
    path = write(tmp_path / "a.hspy", counts, ROW, COLUMN, ENERGY, chunks=(97, 31, 8), compression="lzf")
    read: list[int] = []
    original = h5py.Dataset.read_direct

    def spy(self: Any, out: Any, window: Any) -> None:
        read.append(window[0].stop - window[0].start)
        original(self, out, window)

    monkeypatch.setattr(h5py.Dataset, "read_direct", spy)
    monkeypatch.setattr("eds_chunked.memory.resident", lambda: 100_000_000)  # what the tests before this one left
    reader = HspyReader(path, memory="335MB")  # 5 MB are left, of which a slab may take an eighth: 19 rows
    with pytest.warns(UserWarning, match=r"a\.hspy: its chunks hold 97 rows, .*each is unpacked 6 times") as told:
        np.testing.assert_array_equal(read_all(reader, 4), counts)
    assert read == [17, 17, 17, 17, 17, 12]
    np.testing.assert_array_equal(read_all(reader, 4), counts)  # and is told once
    # The figure that the warning names is enough.
    (budget,) = re.findall(r"once with --memory (\d+MB)$", str(told[0].message))
    read.clear()
    np.testing.assert_array_equal(read_all(HspyReader(path, memory=budget), 4), counts)
    assert read == [97]
    assert HspyReader(path, memory=budget).peak_bytes(4) < 100 * 31744 + 4 * 97 * 31 * 8 * 2 + 2 * 4 * 31744 + (1 << 21)


def test_parts_of_chunks_that_are_not_packed_are_no_matter(tmp_path: Path) -> None:
    counts = random_counts((97, 31, 512), high=9).astype(np.uint16)
    path = write(tmp_path / "a.hspy", counts, ROW, COLUMN, ENERGY, chunks=(97, 31, 8))
    np.testing.assert_array_equal(read_all(HspyReader(path, memory="1MB"), 4), counts)


def test_too_little_memory_is_not_taken_for_an_array_that_cannot_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.hspy", random_counts(SHAPE), ROW, COLUMN, ENERGY)
    original = h5py.Group.__getitem__

    def short_of_memory(self: Any, name: str) -> Any:
        if name == "data":
            raise MemoryError
        return original(self, name)

    monkeypatch.setattr(h5py.Group, "__getitem__", short_of_memory)
    for call in (open_source, describe):
        with pytest.raises(MemoryError):
            call(path)


def test_contiguous_data(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    reader = HspyReader(write(tmp_path / "a.hspy", counts, ROW, COLUMN, ENERGY))
    np.testing.assert_array_equal(read_all(reader, 4), counts)


@pytest.mark.parametrize("rows", [1, 2, 4, 6, 13])
def test_each_chunk_is_read_once(tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    reader = HspyReader(write(tmp_path / "a.hspy", counts, ROW, COLUMN, ENERGY, chunks=(4, 3, 61)))
    read: list[tuple[int, int]] = []
    original = h5py.Dataset.read_direct

    def spy(self: Any, out: Any, window: Any) -> None:
        read.append((window[0].start, window[0].stop))
        original(self, out, window)

    monkeypatch.setattr(h5py.Dataset, "read_direct", spy)
    np.testing.assert_array_equal(read_all(reader, rows), counts)
    assert all(start % 4 == 0 for start, _ in read)
    assert [start for start, _ in read] == [0, *(stop for _, stop in read[:-1])]


def test_a_line_scan_is_one_row(tmp_path: Path) -> None:
    counts = random_counts((1, 11, 61)).astype(np.uint8)
    for name, data, axes in (("a", counts[0], (COLUMN, ENERGY)), ("b", counts[0].T, (ENERGY, COLUMN))):
        reader = HspyReader(write(tmp_path / f"{name}.hspy", data, *axes))
        assert reader.header.shape == (1, 11, 61)
        assert reader.header.pixel_size == (0.25, 0.25)
        np.testing.assert_array_equal(read_all(reader, 4), counts)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"units": "keV", "scale": 0.01, "offset": -0.48}, (0.01, -0.48, True)),
        ({"units": None}, (1.0, 0.0, False)),
        ({"units": None, "name": None}, (1.0, 0.0, False)),
        ({"scale": 0.0}, (1.0, 0.0, False)),
    ],
)
def test_energies_are_kev(tmp_path: Path, change: dict[str, Any], expected: tuple[float, float, bool]) -> None:
    counts = random_counts(SHAPE)
    header = HspyReader(write(tmp_path / "a.hspy", counts, ROW, COLUMN, {**ENERGY, **change})).header
    assert (header.energy_scale, header.energy_offset, header.energy_calibrated) == expected


def test_signal_type_follows_the_instrument_when_unstated(tmp_path: Path) -> None:
    counts = random_counts(SHAPE)
    for kind, expected in (("TEM", TEM), ("SEM", SEM)):
        address = f"Acquisition_instrument.{kind}.beam_energy"
        path = write(tmp_path / f"{kind}.hspy", counts, ROW, COLUMN, ENERGY, metadata={address: 80.0})
        header = HspyReader(path).header
        assert (header.signal_type, header.beam_energy) == (expected, 80.0)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hspy", random_counts(SHAPE), ROW, COLUMN, ENERGY)
    with h5py.File(path, "a") as file:
        group = file["Experiments/map/metadata"].create_group("Model")
        # A pickle that would raise ZeroDivisionError when it is loaded.
        group.attrs["_bs_code"] = np.void(b"cbuiltins\neval\n(V1/0\ntR.")
        group.create_dataset("_bs_more", data=np.void(b"cbuiltins\neval\n(V1/0\ntR."))
    assert HspyReader(path).header.metadata["Model"] == {}


# -------------------------------------------------------------------------------------------- several, or none


def test_several_maps_are_listed_and_picked(tmp_path: Path) -> None:
    path = tmp_path / "a.hspy"
    first, second = random_counts(SHAPE), random_counts((5, 3, 17), seed=1)
    write(path, first, ROW, COLUMN, ENERGY, name="coarse")
    write(path, second, ROW, COLUMN, ENERGY, name="fine")
    image = np.arange(77.0).reshape(7, 11)
    write(path, image, {**ROW, "navigate": False}, {**COLUMN, "navigate": False}, name="BSE")
    write(path, first[0, 0], ENERGY, name="spot")
    with pytest.raises(
        SourceError,
        match=r"found 2 spectrum images .*1 'coarse' \(13, 7, 61\), 2 'fine' \(5, 3, 17\).*--map NUMBER",
    ):
        open_source(path)
    for pick, expected in ((1, first), ("2", second), (2, second), ("fine", second)):
        np.testing.assert_array_equal(read_all(open_source(path, pick=pick), 4), expected)
    for wrong in (0, 3, "BSE", "-1"):
        with pytest.raises(ParameterError, match=f"found {wrong!r}, expected the number or name of one of: 1 'coarse'"):
            open_source(path, pick=wrong)
    assert [header.title for header in describe(path)] == ["coarse", "fine"]
    (found,) = open_source(path, pick=1).images()
    assert (found.name, found.pixel_size) == ("BSE", (0.5, 0.25))
    np.testing.assert_array_equal(found.pixels, image)


@pytest.mark.parametrize(
    ("data", "axes", "reason"),
    [
        (np.ones(61), (ENERGY,), "1 dimension (61)"),
        (np.ones((2, 3, 5, 7)), (ROW, ROW, COLUMN, ENERGY), "4 dimensions (2 x 3 x 5 x 7)"),
        (np.ones((3, 5, 7), complex), (ROW, COLUMN, ENERGY), "values of type complex128"),
        (np.ones((3, 5)), ({**ROW, "navigate": False}, {**COLUMN, "navigate": False}), "2 signal axes and no energy"),
        (np.ones((3, 5, 7)), (ROW, COLUMN, {**ENERGY, "axis": np.arange(7.0)}), "energy axis is not uniform"),
    ],
)
def test_a_file_without_a_map_says_what_it_holds(
    tmp_path: Path, data: np.ndarray[Any, Any], axes: tuple[dict[str, Any], ...], reason: str
) -> None:
    path = write(tmp_path / "a.hspy", data, *axes, name="thing")
    for call in (open_source, describe):
        with pytest.raises(SourceError, match=f"found no spectrum image, but 'thing': .*{re.escape(reason)}"):
            call(path)


def test_an_eels_map_is_no_eds_map(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.hspy", random_counts(SHAPE), ROW, COLUMN, ENERGY, metadata={"Signal.signal_type": "EELS"}
    )
    with pytest.raises(SourceError, match="an EELS signal 13 x 7 x 61"):
        open_source(path)


def test_an_hdf5_file_that_is_damaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hspy", random_counts(SHAPE), ROW, COLUMN, ENERGY)
    data = path.read_bytes()
    path.write_bytes(data[:-500])
    with pytest.raises(SourceError, match=r"found a file that HDF5 cannot open .*truncated"):
        open_source(path)
    path.write_text("this is a text")
    with pytest.raises(SourceError, match="found a file that HDF5 cannot open"):
        open_source(path)


def test_a_damaged_chunk_names_its_rows(tmp_path: Path) -> None:
    counts = random_counts(SHAPE)
    path = write(tmp_path / "a.hspy", counts, ROW, COLUMN, ENERGY, chunks=(4, 7, 61), compression="gzip")
    with h5py.File(path) as file:
        where = file["Experiments/map/data"].id.get_chunk_info(1)
    data = bytearray(path.read_bytes())
    data[where.byte_offset : where.byte_offset + where.size] = b"\xff" * where.size
    path.write_bytes(data)
    for rows in (4, 6, 13):
        bands = HspyReader(path).bands(rows)
        band = next(bands)
        assert (band.y0, band.rows) == (0, 4)
        np.testing.assert_array_equal(band.counts, counts[:4])
        with pytest.raises(SourceError, match="damaged data in row 4 "):
            next(bands)
    # A box that does not touch the damage reads as if there were none.
    box = Box(slice(8, 13), slice(1, 6), slice(3, 50))
    np.testing.assert_array_equal(read_all(HspyReader(path), 2, box), counts[box])


def test_it_cannot_be_salvaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hspy", random_counts(SHAPE), ROW, COLUMN, ENERGY)
    with pytest.raises(
        ParameterError, match=r"found a \.hspy file, expected a \.bcf, a \.spd, or an \.rpl/\.raw pair.*--salvage"
    ):
        open_source(path, salvage=True)


@pytest.mark.parametrize("value", [-1.0, 0.25, np.nan])
def test_a_value_that_is_no_count_is_named_with_its_pixel(tmp_path: Path, value: float) -> None:
    values = random_counts(SHAPE).astype(np.float64)
    values[9, 4, 50] = value
    path = write(tmp_path / "a.hspy", values.transpose(2, 0, 1), ENERGY, ROW, COLUMN, chunks=(7, 3, 7))
    with pytest.raises(CountsError, match=f"found {value} at y=9, x=4, channel=50,"):
        list(HspyReader(path).bands(4))


# ------------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("dtype", ["u1", "u2", "f8"])
@pytest.mark.parametrize("rows", [1, 8, 64])
@pytest.mark.parametrize("chunks", [(20, 31, 512), (5, 61, 64), (64, 61, 16), None])
def test_peak_bytes_bounds_what_is_allocated(tmp_path: Path, dtype: str, rows: int, chunks: Any) -> None:
    counts = random_counts((64, 61, 512), high=9).astype(dtype)
    reader = HspyReader(write(tmp_path / "a.hspy", counts, ROW, COLUMN, ENERGY, chunks=chunks))
    for box in (None, Box(slice(3, 60), slice(5, 31), slice(100, 300))):
        tracemalloc.start()
        for band in reader.bands(rows, box):
            assert band.rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= reader.peak_bytes(rows, box)


def test_a_caller_that_drops_its_band_holds_one_at_a_time(tmp_path: Path) -> None:
    counts = random_counts((64, 61, 512), high=9).astype(np.uint16)
    reader = HspyReader(write(tmp_path / "a.hspy", counts, ROW, COLUMN, ENERGY))
    tracemalloc.start()
    for band in reader.bands(32):
        del band
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= reader.peak_bytes(32) - 32 * 61 * 512 * 2
