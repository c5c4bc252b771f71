"""The .zspy reader against RosettaSciIO and NumPy: chunks, axis orders, boxes, metadata, zip files, and faulty ones."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rsciio.zspy import file_reader as oracle
from rsciio.zspy._api import ZspyWriter
from zarr.storage import LocalStore

from eds_chunked.errors import CountsError, ParameterError, SourceError
from eds_chunked.readers import describe, open_source
from eds_chunked.readers.base import Box
from eds_chunked.readers.zspy import ZspyReader
from eds_chunked.schema import SEM
from tests.ripple_files import random_counts

Array = np.ndarray[Any, Any]

SHAPE = (13, 7, 61)

ROW = {"name": "y", "scale": 0.5, "offset": 0.0, "units": "\u00b5m", "navigate": True}
COLUMN = {"name": "x", "scale": 250.0, "offset": 3.0, "units": "nm", "navigate": True}
ENERGY = {"name": "Energy", "scale": 10.0, "offset": -480.0, "units": "eV", "navigate": False}


def read_all(reader: Any, rows: int, box: Box | None = None) -> Array:
    whole = box or Box.whole(reader.header.shape)
    bands = list(reader.bands(rows, box))
    assert [band.y0 for band in bands] == list(range(whole.ys.start, whole.ys.stop, rows))
    assert {band.counts.dtype for band in bands} == {reader.header.dtype}
    return np.concatenate([band.counts for band in bands])


ABSENT = "ignore:.*chunks are absent:UserWarning"
"""zarr leaves out a chunk that has only zeros."""


def write(path: Path, data: Array, *axes: dict[str, Any], name: str = "map", **options: Any) -> Path:
    """Write one signal with zarr in HyperSpy's layout: every chunking and every axis order."""
    root = zarr.open_group(path, mode="a", zarr_format=2)
    root.attrs.update(file_format="ZSpy", file_format_version="3.3")
    group = root.require_group("Experiments").create_group(name)
    array = group.create_array("data", shape=data.shape, dtype=data.dtype, **{"chunks": data.shape, **options})
    array[...] = data
    for i, axis in enumerate(axes):
        group.create_group(f"axis-{i}").attrs.update({k: "_None_" if v is None else v for k, v in axis.items()})
    group.create_group("original_metadata")
    group.create_group("metadata")
    return path


def zipped(folder: Path) -> Path:
    """Pack a folder as zarr's ZipStore does, and remove it."""
    path = folder.with_name(f"zipped-{folder.name}")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        for inside in sorted(folder.rglob("*")):
            if inside.is_file():
                file.write(inside, inside.relative_to(folder).as_posix())
    shutil.rmtree(folder)
    return path


SIGNAL = {
    "axes": [{**axis, "size": n} for axis, n in zip((ROW, COLUMN, ENERGY), SHAPE, strict=True)],
    "metadata": {
        "General": {"title": "dacite", "date": "2020-07-29"},
        "Signal": {"signal_type": "EDS_SEM"},
        "Sample": {"elements": ["Fe", "O", "Si"], "xray_lines": []},
        "Acquisition_instrument": {
            "SEM": {"beam_energy": 20, "Detector": {"EDS": {"live_time": 3.5, "real_time": 4.0}}}
        },
    },
    "original_metadata": {"series": [{"a": 1}, {"a": 2.5}], "none": None, "pair": ("b", "c")},
    "attributes": {"_lazy": False, "ragged": False},
    "learning_results": {},
    "models": {},
    "package_info": {"package": "rosettasciio", "package_version": "0"},
}


def write_with_rosettasciio(path: Path, counts: Array, **options: Any) -> Path:
    """Write with RosettaSciIO's own writer; of its ``file_writer`` only the choice of a store needs zarr 2."""
    root = zarr.open_group(path, mode="w", zarr_format=2)
    root.attrs.update(file_format="ZSpy", file_format_version="3.3")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        group = root.require_group("Experiments").require_group("dacite")
        compressor = numcodecs.Blosc(cname="zstd", clevel=1, shuffle=numcodecs.Blosc.SHUFFLE)
        ZspyWriter(root, {**SIGNAL, "data": counts}, group, compressor=compressor, **options).write()
    return path


@pytest.mark.parametrize("consolidated", [False, True])
def test_a_file_of_rosettasciio_reads_back(tmp_path: Path, consolidated: bool) -> None:
    counts = random_counts(SHAPE).astype(np.uint16)
    path = write_with_rosettasciio(tmp_path / "a.zspy", counts, chunks=(5, 3, 61))
    if consolidated:
        zarr.consolidate_metadata(LocalStore(path))
    reader = open_source(path)
    assert isinstance(reader, ZspyReader)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (expected,) = oracle(str(path))
    for rows in (1, 5, 13):
        np.testing.assert_array_equal(read_all(reader, rows), expected["data"])
    header = reader.header
    assert (header.energy_scale, header.energy_offset, header.energy_calibrated) == (0.01, -0.48, True)
    assert header.pixel_size == (0.5, 0.25)
    assert (header.title, header.signal_type, header.elements) == ("dacite", SEM, ("Fe", "O", "Si"))
    assert (header.beam_energy, header.live_time, header.real_time) == (20.0, 3.5, 4.0)
    kept = json.loads(json.dumps(header.metadata))
    assert {key: kept[key] for key in expected["metadata"]} == expected["metadata"] == SIGNAL["metadata"]
    assert kept["original_metadata"] == {"series": [{"a": 1}, {"a": 2.5}], "none": None, "pair": ["b", "c"]}
    assert kept["axes"][2] == {**ENERGY, "size": 61}
    assert describe(path) == (header,)


@pytest.mark.filterwarnings(ABSENT)
@pytest.mark.filterwarnings("ignore:.*each is unpacked .* times:UserWarning")
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(2, 40)),
    chunk=st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40)),
    order=st.permutations(range(3)),
    rows=st.integers(1, 11),
    dtype=st.sampled_from(["u1", ">u2", "<u4", "u8", ">i2", "i4", "f4", ">f8"]),
    limits=st.sampled_from([(0, 0), (1 << 26, 1 << 9), (1 << 26, 1 << 26)]),
    memory_order=st.sampled_from(["C", "F"]),
    data=st.data(),
)
def test_any_chunks_axis_order_and_box(
    tmp_path: Path,
    shape: tuple[int, int, int],
    chunk: tuple[int, int, int],
    order: list[int],
    rows: int,
    dtype: str,
    limits: tuple[int, int],
    memory_order: str,
    data: Any,
) -> None:
    counts = random_counts(shape, high=100)
    path = tmp_path / "a.zspy"
    shutil.rmtree(path, ignore_errors=True)
    axes = [(ROW, COLUMN, ENERGY)[i] for i in order]
    chunks = tuple(min(chunk[i], shape[i]) for i in order)
    write(path, counts.transpose(order).astype(dtype), *axes, chunks=chunks, order=memory_order)
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    box = Box(*(slice(a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eds_chunked.readers.experiments.slab_bytes", lambda memory: limits[0])
        patch.setattr("eds_chunked.readers.zspy._REQUEST_BYTES", limits[1])
        reader = ZspyReader(path)
        assert (reader.header.shape, reader.header.pixel_size) == (shape, (0.5, 0.25))
        np.testing.assert_array_equal(read_all(reader, rows), counts)
        np.testing.assert_array_equal(read_all(reader, rows, box), counts[box])


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("separator", [".", "/"])
def test_folders_nested_folders_and_zip_files(tmp_path: Path, pack: bool, separator: str) -> None:
    counts = random_counts(SHAPE).astype(np.uint8)
    encoding = {"name": "v2", "separator": separator}
    path = write(tmp_path / "a.zspy", counts, ROW, COLUMN, ENERGY, chunks=(5, 4, 61), chunk_key_encoding=encoding)
    if pack:
        path = zipped(path)
    np.testing.assert_array_equal(read_all(open_source(path), 4), counts)
    assert describe(path)[0].title == "map"


def test_chunks_outside_the_box_are_not_opened(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.uint16) + np.uint16(1)
    path = write(tmp_path / "a.zspy", counts, ROW, COLUMN, ENERGY, chunks=(4, 3, 16))
    # What is not needed is destroyed; chunks are needed where rows 4:8, columns 3:6 and channels 16:48 are.
    for file in (path / "Experiments/map/data").glob("*.*.*"):
        if file.name not in ("1.1.1", "1.1.2"):
            file.write_bytes(b"broken")
    box = Box(slice(5, 8), slice(3, 6), slice(17, 48))
    np.testing.assert_array_equal(read_all(ZspyReader(path), 2, box), counts[box])


def test_numbers_and_texts_among_the_metadata(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zspy", random_counts(SHAPE), ROW, COLUMN, ENERGY)
    group = zarr.open_group(path, mode="a", zarr_format=2)["Experiments/map/original_metadata"]
    for name, values in (("_list_whole", [1, 2, 3]), ("_tuple_real", [0.5, 1.5]), ("long", np.arange(5000.0))):
        data = np.asarray(values)
        group.create_array(name, shape=data.shape, dtype=data.dtype)[...] = data
    group.create_array("bytes", shape=(2,), dtype="S3")[...] = np.array([b"abc", b"de"])
    found = ZspyReader(path).header.metadata["original_metadata"]
    assert found == {"whole": [1, 2, 3], "real": [0.5, 1.5], "long": None, "bytes": ["abc", "de"]}


def test_a_line_scan_is_one_row(tmp_path: Path) -> None:
    counts = random_counts((1, 11, 61)).astype(np.uint8)
    for name, data, axes in (("a", counts[0], (COLUMN, ENERGY)), ("b", counts[0].T, (ENERGY, COLUMN))):
        reader = ZspyReader(write(tmp_path / f"{name}.zspy", data, *axes))
        np.testing.assert_array_equal(read_all(reader, 4), counts)
        box = Box(slice(0, 1), slice(2, 9), slice(3, 50))
        np.testing.assert_array_equal(read_all(reader, 4, box), counts[box])


def test_several_maps_are_listed_and_picked(tmp_path: Path) -> None:
    path = tmp_path / "a.zspy"
    first, second = random_counts(SHAPE), random_counts((5, 3, 17), seed=1)
    write(path, first, ROW, COLUMN, ENERGY, name="coarse")
    write(path, second, ROW, COLUMN, ENERGY, name="fine")
    image = np.arange(77.0).reshape(7, 11)
    write(path, image, {**ROW, "navigate": False}, {**COLUMN, "navigate": False}, name="BSE")
    with pytest.raises(SourceError, match=r"found 2 spectrum images .*'coarse' .*'fine' .*--map NUMBER"):
        open_source(path)
    np.testing.assert_array_equal(read_all(open_source(path, pick="fine"), 4), second)
    with pytest.raises(ParameterError, match="found 'BSE', expected the number or name of one of"):
        open_source(path, pick="BSE")
    assert [header.title for header in describe(path)] == ["coarse", "fine"]
    (found,) = open_source(path, pick="coarse").images()
    assert (found.name, found.pixel_size) == ("BSE", (0.5, 0.25))
    np.testing.assert_array_equal(found.pixels, image)


# --------------------------------------------------------------------------------------------------- faulty ones


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zspy", random_counts(SHAPE), ROW, COLUMN, ENERGY)
    # A pickle that would raise ZeroDivisionError when it is loaded.
    evil = b"cbuiltins\neval\n(V1/0\ntR."
    for place, dtype in (("metadata/evil", "|O"), ("metadata/number", "<i4")):
        folder = path / "Experiments/map" / place
        folder.mkdir()
        document = {
            "zarr_format": 2,
            "shape": [1],
            "chunks": [1],
            "dtype": dtype,
            "order": "C",
            "fill_value": None,
            "compressor": None,
            "filters": [{"id": "pickle", "protocol": 5}],
        }
        (folder / ".zarray").write_text(json.dumps(document))
        (folder / "0").write_bytes(evil)
    metadata = ZspyReader(path).header.metadata
    assert metadata.get("evil") is None
    assert metadata.get("number") is None
    document = json.loads((path / "Experiments/map/data/.zarray").read_text())
    document["filters"] = [{"id": "pickle", "protocol": 5}]
    (path / "Experiments/map/data/.zarray").write_text(json.dumps(document))
    with pytest.raises(SourceError, match="but 'map': data of a type or codec that is not known"):
        ZspyReader(path)


def test_a_damaged_chunk_names_its_row_after_all_rows_before_it(tmp_path: Path) -> None:
    counts = random_counts(SHAPE).astype(np.uint16) + np.uint16(1)
    path = write(tmp_path / "a.zspy", counts, ROW, COLUMN, ENERGY, chunks=(4, 7, 61))
    (path / "Experiments/map/data/1.0.0").write_bytes(b"broken")
    bands = ZspyReader(path).bands(6)
    band = next(bands)
    assert (band.y0, band.rows) == (0, 4)
    np.testing.assert_array_equal(band.counts, counts[:4])
    with pytest.raises(SourceError, match="damaged data in row 4 "):
        next(bands)


@pytest.mark.parametrize("separator", [".", "/"])
@pytest.mark.parametrize("pack", [False, True])
def test_absent_chunks_read_as_zeros_and_are_told_once(tmp_path: Path, separator: str, pack: bool) -> None:
    counts = random_counts(SHAPE).astype(np.uint16) + np.uint16(1)
    encoding = {"name": "v2", "separator": separator}
    path = write(tmp_path / "a.zspy", counts, ROW, COLUMN, ENERGY, chunks=(4, 3, 16), chunk_key_encoding=encoding)
    data = path / "Experiments/map/data"
    for key in ("1.0.2", "3.2.3"):
        (data / key.replace(".", separator)).unlink()
        y, x, channel = (int(i) * n for i, n in zip(key.split("."), (4, 3, 16), strict=True))
        counts[y : y + 4, x : x + 3, channel : channel + 16] = 0
    # Neither what lies beside the chunks nor a chunk beyond the end makes up for them.
    (data / "9.0.0").write_bytes(b"left over")
    (data / "notes.txt").write_bytes(b"of somebody")
    if pack:
        path = zipped(path)
    reader = ZspyReader(path)
    message = r"a\.zspy: 2 of 48 chunks are absent and read as zeros; copy it again unless it was written without empty"
    with pytest.warns(UserWarning, match=message) as told:
        found = [read_all(reader, 4), read_all(reader, 13)]
    assert len(told) == 1
    np.testing.assert_array_equal(found, [counts, counts])


def test_no_memory_is_no_damage_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.zspy", random_counts(SHAPE).astype(np.uint16) + np.uint16(1), ROW, COLUMN, ENERGY)
    reader = ZspyReader(path)

    def full(*_: Any) -> None:
        raise MemoryError("no room")

    monkeypatch.setattr(reader._container, "read", full)
    with pytest.raises(MemoryError, match="no room"):
        list(reader.bands(4))


@pytest.mark.parametrize("make", ["empty", "text", "json", "zip", "v3"])
def test_what_is_no_zspy(tmp_path: Path, make: str) -> None:
    path = tmp_path / "a.zspy"
    if make == "empty":
        path.mkdir()
    elif make == "text":
        path.write_text("this is a text")
    elif make == "zip":
        path.write_bytes(b"PK\x03\x04 and no more")
    elif make == "json":
        write(path, random_counts(SHAPE), ROW, COLUMN, ENERGY)
        (path / ".zgroup").write_text("{")
    else:
        zarr.open_group(path, mode="w", zarr_format=3)
    for call in (open_source, describe):
        with pytest.raises(SourceError, match=r"a\.zspy: found what zarr cannot open as a group of format 2"):
            call(path)


def test_a_group_without_a_map_says_what_it_holds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zspy", np.ones(61), ENERGY, name="spot")
    with pytest.raises(SourceError, match=r"found no spectrum image, but 'spot': 1 dimension \(61\)"):
        open_source(path)
    other = tmp_path / "b.zspy"
    zarr.open_group(other, mode="w", zarr_format=2)
    with pytest.raises(SourceError, match="found no spectrum image,"):
        open_source(other)


@pytest.mark.parametrize("value", [-1.0, 0.25, np.nan])
def test_a_value_that_is_no_count_is_named_with_its_pixel(tmp_path: Path, value: float) -> None:
    values = random_counts(SHAPE).astype(np.float64)
    values[9, 4, 50] = value
    path = write(tmp_path / "a.zspy", values.transpose(2, 0, 1), ENERGY, ROW, COLUMN, chunks=(7, 3, 7))
    with pytest.raises(CountsError, match=f"found {value} at y=9, x=4, channel=50,"):
        list(ZspyReader(path).bands(4, Box(slice(3, 13), slice(2, 7), slice(40, 61))))


def test_it_cannot_be_salvaged(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zspy", random_counts(SHAPE), ROW, COLUMN, ENERGY)
    with pytest.raises(ParameterError, match=r"found a \.zspy file, expected a \.bcf, a \.spd, or an \.rpl/\.raw pair"):
        open_source(path, salvage=True)


# ------------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("dtype", ["u2", "f8"])
@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("chunks", [(20, 31, 256), (5, 31, 64), (40, 31, 16), (2, 3, 256), (40, 31, 256)])
def test_peak_bytes_bounds_what_is_allocated(tmp_path: Path, dtype: str, rows: int, chunks: Any) -> None:
    # Noise, which no codec can make smaller.
    counts = np.random.default_rng(0).integers(0, 250, (40, 31, 256)).astype(dtype)
    path = write(tmp_path / "a.zspy", counts, ROW, COLUMN, ENERGY, chunks=chunks, compressors=numcodecs.Zstd(1))
    reader = ZspyReader(path)
    for box in (Box.whole(counts.shape), Box(slice(3, 37), slice(5, 21), slice(100, 200))):
        tracemalloc.start()
        for band in reader.bands(rows, box):
            assert band.rows
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak <= reader.peak_bytes(rows, box)


def test_describing_imports_neither_dask_nor_numba(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zspy", random_counts(SHAPE), ROW, COLUMN, ENERGY)
    code = (
        "import sys\nfrom eds_chunked.readers import describe\n"
        "describe(sys.argv[1])\nprint(*sorted({m.partition('.')[0] for m in sys.modules}))"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert not {"dask", "numba", "h5py", "rsciio", "xarray"} & set(run.stdout.split())
