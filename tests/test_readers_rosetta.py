"""What RosettaSciIO reads for us: boxes of its lazy arrays, and the formats that it can only load whole."""

from __future__ import annotations

import bz2
import json
import struct
import sys
import tracemalloc
import types
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eds_chunked import memory
from eds_chunked.errors import MemoryBudgetError, ParameterError, SourceError
from eds_chunked.readers import describe, open_source
from eds_chunked.readers.base import Box
from eds_chunked.readers.rosetta import RosettaReader
from eds_chunked.schema import SEM, TEM
from tests.ripple_files import random_counts

Array = np.ndarray[Any, Any]

SHAPE = (13, 7, 61)


def read_all(reader: Any, rows: int, box: Box | None = None) -> Array:
    whole = box or Box.whole(reader.header.shape)
    bands = list(reader.bands(rows, box))
    assert [band.y0 for band in bands] == list(range(whole.ys.start, whole.ys.stop, rows))
    assert {band.counts.dtype for band in bands} == {reader.header.dtype}
    return np.concatenate([band.counts for band in bands])


# ------------------------------------------------------------------------------------------------ lazy formats


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chunk=st.tuples(st.integers(1, 13), st.integers(1, 7), st.integers(1, 61)),
    order=st.permutations(range(3)),
    rows=st.integers(1, 15),
    limit=st.sampled_from([0, 1 << 26]),
    data=st.data(),
)
def test_any_chunks_and_axis_order_of_a_lazy_array(
    tmp_path: Path, chunk: tuple[int, int, int], order: list[int], rows: int, limit: int, data: Any
) -> None:
    import dask.array as da

    counts = random_counts(SHAPE, high=200).astype(np.uint16)
    stored = da.from_array(counts.transpose(order), chunks=tuple(chunk[i] for i in order))
    axes = [{"name": name, "navigate": name != "Energy"} for name in ("y", "x", "Energy")]
    signal = {"data": stored, "axes": [axes[i] for i in order], "metadata": {"General": {"title": "made"}}}
    starts = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    box = Box(*(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, SHAPE, strict=True)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eds_chunked.readers.rosetta.slab_bytes", lambda memory: limit)
        patch.setattr("rsciio.nexus.file_reader", lambda path, lazy=False: [signal])
        (tmp_path / "a.nxs").touch()
        reader = RosettaReader(tmp_path / "a.nxs")
        np.testing.assert_array_equal(read_all(reader, rows), counts)
        np.testing.assert_array_equal(read_all(reader, rows, box), counts[box])


@pytest.mark.parametrize("rows", [1, 8, 64])
@pytest.mark.parametrize("box", [None, Box(slice(3, 60), slice(5, 31), slice(100, 300))])
def test_peak_bytes_bounds_what_is_allocated(tmp_path: Path, rows: int, box: Box | None) -> None:
    counts = random_counts((64, 61, 512), high=9).astype(np.uint16)
    path = tmp_path / "a.emd"
    with h5py.File(path, "w") as file:  # of the Berkeley kind
        file.attrs["version_major"], file.attrs["version_minor"] = 0, 2
        group = file.create_group("signals/map")
        group.attrs["emd_group_type"] = 1
        group.create_dataset("data", data=counts, chunks=(16, 61, 128), compression="gzip")
        for i, (name, units) in enumerate((("y", "nm"), ("x", "nm"), ("Energy", "eV")), 1):
            dim = group.create_dataset(f"dim{i}", data=np.arange(counts.shape[i - 1], dtype=float))
            dim.attrs["name"], dim.attrs["units"] = name, units
    reader = open_source(path)
    next(reader.bands(1))
    tracemalloc.start()
    for band in reader.bands(rows, box):
        assert band.rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= reader.peak_bytes(rows, box)


def test_it_cannot_be_salvaged(tmp_path: Path) -> None:
    (tmp_path / "a.pts").touch()
    with pytest.raises(ParameterError, match=r"found a \.pts file, expected a \.bcf, a \.spd, or an \.rpl/\.raw pair"):
        open_source(tmp_path / "a.pts", salvage=True)


# -------------------------------------------------------------------------------------------------------- JEOL

PTS = (8, 16, 4096)


def pts_counts(high: int = 3) -> Array:
    rng = np.random.default_rng(7)
    counts = np.zeros(PTS, np.int64)
    at = tuple(rng.integers(0, n, 900) for n in PTS)
    np.add.at(counts, at, rng.integers(1, high + 1, 900))
    return counts


def _jeol(tree: dict[str, Any]) -> bytes:
    """Write a header tree: a mark, the key, the type and length of the value, the value, what is below, a mark."""
    text = b""
    for key, value in tree.items():
        below = b""
        if isinstance(value, dict):
            page, value = value.pop("page", ""), value
            below = _jeol(value)
            kind, packed = (12, page.encode()) if page else (0, b"")
        elif isinstance(value, str):
            kind, packed = 12, value.encode() + b"\0"
        elif isinstance(value, int):
            kind, packed = 3, struct.pack("<i", value)
        else:
            kind, packed = 5, struct.pack("<d", value)
        text += b"\1" + struct.pack("<i", len(key)) + key.encode() + struct.pack("<ii", kind, len(packed))
        text += packed + below + b"\xff"
    return text


def write_pts(path: Path, counts: Array) -> Path:
    """Write a JEOL point file: all X-rays one after the other, in two frames."""
    height, width, _ = counts.shape
    tree = {
        "PTTD Data": {
            "AnalyzableMap MeasData": {
                "Meas Cond": {"Pixels": f"{width}x{height}", "Tpl": "T1"},
                "MeasCond": {"Mag": 1000.0, "AccKV": 15.0},
                "Doc": {
                    "CoefA": 0.01,
                    "CoefB": 0.02,
                    "DwellTime(msec)": 1.0,
                    "Sweep": 2,
                    "RealTime": 30.0,
                    "LiveTime": 28.0,
                },
            }
        },
        "PTTD Param": {
            "Params": {
                "PARAMPAGE0": {
                    "page": "SEM",
                    "ScanSize": 0.128,
                    "DirAng": 0.0,
                    "DetT": "EX",
                    "ElevAng": 30.0,
                    "MnKaRES": 130.0,
                },
                "PARAMPAGE1": {"page": "EDXRF", "Tpl": {"T1": {"DigZ": 10}}},
            }
        },
    }
    events = []
    for frame in range(2):
        part = counts // 2 if frame else counts - counts // 2
        for y in range(height):
            events.append(0x9000 | y * (4096 // height))
            for x in range(width):
                events.append(0x8000 | x * (4096 // width))
                events.extend(0xB000 | np.repeat(np.arange(4096), part[y, x]))
    header = _jeol(tree) + b"\xff"
    start = 4 + 8 + 24 + 128 + 132 + 8
    data = start + 12 + len(header)
    head = struct.pack("<I8s6I", 304, b"", 0, 0, start, len(header), data, 2 * len(events))
    head += bytes(128 + 132) + struct.pack("<d", 44000.0)
    path.write_bytes(head + bytes(12) + header + np.array(events, "<u2").tobytes())
    return path


def test_a_point_file_says_what_it_takes_before_it_is_loaded(tmp_path: Path, monkeypatch: Any) -> None:
    counts = pts_counts()
    path = write_pts(tmp_path / "a.pts", counts)
    asked: list[dict[str, Any]] = []
    import rsciio.jeol

    original = rsciio.jeol.file_reader

    def spy(name: str, **options: Any) -> Any:
        asked.append(options)
        return original(name, **options)

    monkeypatch.setattr("rsciio.jeol.file_reader", spy)
    reader = open_source(path)
    header = reader.header
    assert (header.shape, header.dtype) == (PTS, np.uint16)
    assert header.energy_scale == pytest.approx(0.01)
    assert header.energy_offset == pytest.approx(0.02 - 0.01 * 10)
    assert header.pixel_size == pytest.approx((0.128 / 8, 0.128 / 16))
    assert (header.beam_energy, header.signal_type, header.real_time) == (15.0, SEM, 30.0)
    dense = counts.size * 2
    assert dense + path.stat().st_size < reader.peak_bytes(1) < 1.5 * dense + (1 << 21)
    assert describe(path) == (header,)
    assert all(options["rebin_energy"] == 4096 for options in asked)
    box = Box(slice(2, 7), slice(3, 11), slice(1000, 3000))
    np.testing.assert_array_equal(read_all(reader, 3, box), counts[box])
    np.testing.assert_array_equal(read_all(reader, 3), counts)
    assert "rebin_energy" not in asked[-1]


def test_more_than_255_counts_of_a_channel_are_counted(tmp_path: Path) -> None:
    counts = pts_counts()
    counts[3, 5, 77] = 700
    np.testing.assert_array_equal(read_all(open_source(write_pts(tmp_path / "a.pts", counts)), 8), counts)


def test_loading_a_point_file_stays_within_the_bound(tmp_path: Path) -> None:
    reader = open_source(write_pts(tmp_path / "a.pts", pts_counts()))
    list(open_source(tmp_path / "a.pts").bands(8))  # what compiling takes is no part of it
    tracemalloc.start()
    for band in reader.bands(2):
        del band
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= reader_bound(tmp_path / "a.pts", 2)
    assert peak > pts_counts().size * 2


def reader_bound(path: Path, rows: int) -> int:
    return open_source(path).peak_bytes(rows)


def test_a_point_file_too_large_to_look_into(tmp_path: Path, monkeypatch: Any) -> None:
    path = write_pts(tmp_path / "a.pts", pts_counts())
    monkeypatch.setattr(memory, "resolve_limit", lambda given: memory.resident() + 100)
    with pytest.raises(
        MemoryBudgetError, match=r"loaded whole, taking .* or more, expected at most .*export the map as"
    ):
        open_source(path)


@pytest.mark.parametrize("content", [b"", b"not a point file at all", struct.pack("<I", 304) + bytes(500)])
def test_a_point_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pts").write_bytes(content)
    with pytest.raises(SourceError, match=r"found JEOL: .*expected an undamaged \.pts"):
        open_source(tmp_path / "a.pts")


def test_a_jeol_project_is_no_map(tmp_path: Path) -> None:
    (tmp_path / "a.asw").write_bytes(bytes(100))
    with pytest.raises(SourceError, match=r"found a JEOL project.*name the \.pts file"):
        open_source(tmp_path / "a.asw")


# ------------------------------------------------------------------------------------------------------- Velox


def write_velox(path: Path, counts: Array, *, detectors: int = 2) -> Path:
    """Write a Velox .emd: a stream of X-rays for each detector, 65535 after each pixel, in two frames."""
    height, width, channels = counts.shape
    stated = {
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1500000000"}},
        "BinaryResult": {
            "PixelSize": {"width": "2.5e-9", "height": "5e-9"},
            "Offset": {"x": "0", "y": "0"},
            "PixelUnitX": "m",
            "PixelUnitY": "m",
            "Detector": "SuperXG2",
            "DetectorIndex": "0",
        },
        "Detectors": {"Detector-0": {"DetectorName": "SuperXG21", "Dispersion": "5", "OffsetEnergy": "-250"}},
        "Optics": {"AccelerationVoltage": "200000"},
        "Scan": {},
    }

    def metadata(group: h5py.Group) -> None:
        text = np.frombuffer(json.dumps(stated).encode() + bytes(50), np.uint8)
        group.create_dataset("Metadata", data=text[:, None])

    def documents(group: h5py.Group, name: str, value: dict[str, Any]) -> None:
        group.create_dataset(name, data=[json.dumps(value)], dtype=h5py.string_dtype())

    with h5py.File(path, "w") as file:
        documents(file, "Version", {"format": "Velox", "version": "7"})
        file.create_group("Presentation/Displays/ImageDisplay")
        image = file.create_group("Data/Image/i0")
        image.create_dataset("Data", data=np.zeros((height, width, 1), np.uint16), chunks=(height, width, 1))
        metadata(image)
        documents(file.create_group("Data/SpectrumImage/s0"), "SpectrumImageSettings", {"endFramePosition": "2"})
        left = counts
        for i in range(detectors):
            part = left if i == detectors - 1 else counts // detectors
            left = left - part
            stream = []
            for frame in range(2):
                for pixel in (part // 2 if frame else part - part // 2).reshape(-1, channels):
                    stream += [*np.repeat(np.arange(channels), pixel), 65535]
            group = file.create_group(f"Data/SpectrumStream/d{i}")
            group.create_dataset("Data", data=np.array(stream, np.uint16)[:, None])
            documents(group, "AcquisitionSettings", {"bincount": str(channels), "StreamEncoding": "uint16"})
            metadata(group)
    return path


@pytest.fixture
def sparse(monkeypatch: Any) -> None:
    """Stand in for a package that RosettaSciIO asks for, and needs for its lazy mode only."""
    made = types.ModuleType("sparse")
    made.__spec__ = ModuleSpec("sparse", None)
    made.COO = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sparse", made)


@pytest.mark.parametrize("detectors", [1, 2])
def test_a_velox_file_says_what_it_takes_before_it_is_loaded(tmp_path: Path, sparse: None, detectors: int) -> None:
    shape = (7, 11, 64)
    counts = random_counts(shape, high=9).astype(np.int64)
    path = write_velox(tmp_path / "a.emd", counts, detectors=detectors)
    reader = open_source(path)
    header = reader.header
    assert (header.shape, header.dtype) == (shape, np.uint16)
    assert (header.energy_scale, header.energy_offset, header.energy_calibrated) == (0.005, -0.25, True)
    assert header.pixel_size == pytest.approx((0.005, 0.0025))
    assert (header.beam_energy, header.signal_type) == (200.0, TEM)
    assert describe(path) == (header,)
    with h5py.File(path) as file:
        stream = max(group["Data"].size for group in file["Data/SpectrumStream"].values())
    assert reader.peak_bytes(1) >= counts.size * 2 + 3 * stream
    box = Box(slice(1, 6), slice(2, 9), slice(3, 50))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(read_all(reader, 3, box), counts[box])
        np.testing.assert_array_equal(read_all(reader, 3), counts)
        (expected,) = (s for s in _velox_oracle(path) if s["data"].ndim == 3)
    np.testing.assert_array_equal(expected["data"], counts)
    # What we say of the file ourselves is what the library says of it once it is loaded.
    scale, offset = expected["axes"][2]["scale"], expected["axes"][2]["offset"]
    assert (header.energy_scale, header.energy_offset) == pytest.approx((scale, offset))
    assert [axis["units"] for axis in expected["axes"]] == ["nm", "nm", "keV"]
    assert header.pixel_size == pytest.approx([axis["scale"] / 1e3 for axis in expected["axes"][:2]])
    (image,) = reader.images()
    assert image.pixels.shape == shape[:2]


def _velox_oracle(path: Path) -> Any:
    from rsciio.emd import file_reader

    return file_reader(str(path))


def test_velox_without_the_package_that_its_reader_needs(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "sparse", None)
    reader = open_source(write_velox(tmp_path / "a.emd", random_counts((3, 5, 17), high=3)))
    with pytest.raises(
        SourceError, match=r"a\.emd: found no package 'sparse', .* RosettaSciIO .*Fix: pip install sparse$"
    ):
        list(reader.bands(1))


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("Data/SpectrumStream", "no stream of spectra, expected a Velox spectrum image that was not pruned"),
        ("Data/Image", "no image, which would tell the size"),
        ("Data/SpectrumStream/d0/Metadata", "what is no EMD file of Velox"),
    ],
)
def test_a_velox_file_that_lacks_something(tmp_path: Path, remove: str, message: str) -> None:
    path = write_velox(tmp_path / "a.emd", random_counts((3, 5, 17), high=3))
    with h5py.File(path, "a") as file:
        del file[remove]
    with pytest.raises(SourceError, match=message):
        open_source(path)


# ------------------------------------------------------------------------------------------------------ Phenom


def test_a_phenom_file_that_would_take_too_much_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "a.elid"
    # 50 MB of empty pixels in 40 bytes, each of which would take four bytes.
    path.write_bytes(bz2.compress(b"EID2" + bytes(50_000_000)))
    monkeypatch.setattr(memory, "resolve_limit", lambda given: memory.resident() + 100_000_000)
    tracemalloc.start()
    with pytest.raises(
        MemoryBudgetError,
        match=r"memory to open .*a\.elid: found a format that is loaded whole, taking 10\d MB or more.*export the map",
    ):
        open_source(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000


@pytest.mark.parametrize("content", [b"", b"something else", bz2.compress(bytes(100))[:-9]])
def test_a_phenom_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.elid").write_bytes(content)
    with pytest.raises(SourceError, match=r"found (what is no whole bzip2 stream|Phenom: )"):
        open_source(tmp_path / "a.elid")
