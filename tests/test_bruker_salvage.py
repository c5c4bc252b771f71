"""Damaged .bcf maps: the whole rows before the damage come out exactly; a file that is cut off opens on request."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eds_chunked.errors import SourceError
from eds_chunked.readers import open_source
from eds_chunked.readers.base import Box
from eds_chunked.readers.bruker import BrukerReader, describe
from eds_chunked.readers.bruker_container import Container
from eds_chunked.readers.bruker_index import find_row
from tests import bcf_files
from tests.real_data import real_data
from tests.test_bruker_reading import compile_kernels, eager, read, read_bands

CUBE = bcf_files.counts((13, 5, 61), seed=4)
CHUNK = 0x220


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    compile_kernels(tmp_path_factory.mktemp("compiled"))


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is truncated")
        yield


def salvaged(path: Path, rows: int = 4, *, salvage: bool = True) -> tuple[np.ndarray, str]:
    """Rows before the damage, and the error; the text is empty if there is none."""
    reader = BrukerReader(path, salvage=salvage)
    bands, message = [], ""
    try:
        for band in reader.bands(rows):
            bands.append(band)
    except SourceError as error:
        message = str(error)
    return read_bands(reader, bands, Box.whole(reader.header.shape), rows), message


@pytest.mark.parametrize("compressed", [True, False], ids=["zlib", "plain"])
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_cut_off_anywhere(tmp_path: Path, compressed: bool, version: int) -> None:
    # Chunks so small that the pointers of the map take several tables; those come before its data.
    cube = bcf_files.counts((13, 11, 61), seed=4, density=0.9)
    path = bcf_files.write(
        tmp_path / "whole.bcf", [cube], packing="pulses16", version=version, compressed=compressed, chunk_size=CHUNK,
        block_size=300, front=True, name="x" * 99,
    )  # fmt: skip
    np.testing.assert_array_equal(read(path), cube)
    whole = path.read_bytes()
    cut = tmp_path / "cut.bcf"
    heights = []
    for share in np.linspace(0.02, 1, 60):
        cut.write_bytes(whole[: int(share * len(whole))])
        try:
            found, message = salvaged(cut)
        except SourceError:
            assert not heights  # nothing of the map is there yet
            continue
        np.testing.assert_array_equal(found, cube[: len(found)])
        assert ("truncated" in message) == (len(found) < len(cube))
        heights.append(len(found))
        if len(found) < len(cube):
            with pytest.raises(
                SourceError, match=rf"truncated.*eds-chunked convert {cut} STORE --salvage keeps the who"
            ):
                BrukerReader(cut)
    assert heights == sorted(heights)
    assert set(heights) == set(range(len(cube) + 1)) - {1}  # row 1 is empty, and no file ends behind its four bytes


@pytest.mark.parametrize("damage", ["cut", "xor"])
def test_rows_within_a_cut_block_are_kept(tmp_path: Path, damage: str) -> None:
    # The whole map is one zlib block, of many chunks.
    cube = bcf_files.counts((29, 11, 61), seed=4, density=0.9)
    path = bcf_files.write(
        tmp_path / "a.bcf", [cube], packing="pulses16", front=True, chunk_size=CHUNK, block_size=1 << 20
    )
    whole = path.read_bytes()
    heights = []
    for chunk in range(1, len(whole) // CHUNK):
        place = bcf_files.PROLOGUE + chunk * CHUNK
        data = bytearray(whole[: place + 100] if damage == "cut" else whole)
        if damage == "xor":
            data[place + 40] ^= 1
        path.write_bytes(data)
        try:
            found, message = salvaged(path)
        except SourceError:
            continue  # in the header or the pointers
        np.testing.assert_array_equal(found, cube[: len(found)])
        assert message or len(found) == 29
        heights.append(len(found))
    assert set(range(2, 29)) <= set(heights)


def test_nothing_is_kept_of_a_block_with_a_wrong_checksum_of_its_own(tmp_path: Path) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [CUBE], packing="words", block_size=1 << 20, chunk_size=0x10000)
    container = Container(path)
    table = container.files["EDSDatabase/SpectrumData0"].first_table
    data = bytearray(path.read_bytes())
    place = bcf_files.PROLOGUE + table * 0x10000 + 32
    (chunk,) = struct.unpack_from("<I", data, place)
    place = bcf_files.PROLOGUE + chunk * 0x10000
    # The CRC-16 of the first block, with the XOR of its chunk made right again.
    data[place + 32 + 128 + 8] ^= 1
    (xor,) = struct.unpack_from("<I", data, place + 4)
    struct.pack_into("<I", data, place + 4, xor ^ 1)
    path.write_bytes(data)
    with pytest.raises(SourceError, match="found CRC-16"):
        BrukerReader(path, salvage=True)


def test_missing_pointer_tables(tmp_path: Path) -> None:
    cube = bcf_files.counts((29, 7, 61), seed=4, density=0.9)
    path = bcf_files.write(
        tmp_path / "a.bcf", [cube], packing="pulses16", compressed=False, chunk_size=CHUNK, version=1
    )
    data = bytearray(path.read_bytes())
    # The second pointer table of the map has a wrong checksum: 128 pointers of 512 bytes are left.
    table = Container(path).files["EDSDatabase/SpectrumData0"].first_table + 1
    data[bcf_files.PROLOGUE + table * CHUNK + 40] ^= 1
    path.write_bytes(data)
    with pytest.raises(SourceError, match=r"chunk table of EDSDatabase/SpectrumData0.*checksum.*--salvage"):
        BrukerReader(path)
    found, message = salvaged(path)
    assert "chunk table of EDSDatabase/SpectrumData0" in message
    assert "--salvage" not in message
    np.testing.assert_array_equal(found, cube[: len(found)])
    lengths = [len(bcf_files.map_stream(cube[:n], "pulses16")[0]) for n in range(30)]
    assert len(found) == sum(length <= 128 * (CHUNK - 32) for length in lengths) - 1 < 29


def test_a_wrong_checksum_of_a_chunk(tmp_path: Path) -> None:
    for compressed in (True, False):
        path = bcf_files.write(
            tmp_path / "a.bcf", [CUBE], packing="words", compressed=compressed, chunk_size=CHUNK, block_size=300
        )
        whole = path.read_bytes()
        # Chunks in the order of the file: the map comes after the header.
        seen = set()
        for chunk in range(1, len(whole) // CHUNK):
            data = bytearray(whole)
            data[bcf_files.PROLOGUE + chunk * CHUNK + 300] ^= 8
            path.write_bytes(data)
            try:
                found, message = salvaged(path)
            except SourceError:
                continue
            np.testing.assert_array_equal(found, CUBE[: len(found)])
            assert bool(message) == (len(found) < 13)
            seen.add(len(found))
        assert len(seen) > 4


@pytest.mark.parametrize("salvage", [False, True])
@pytest.mark.parametrize("row", [0, 1, 5, 12])
@pytest.mark.parametrize("rows", [1, 4, 64])
def test_a_bad_record(tmp_path: Path, salvage: bool, row: int, rows: int) -> None:
    cube = np.maximum(CUBE, 1)
    stream, index = bcf_files.map_stream(cube, "mixed")
    places = np.frombuffer(index[8:], "<i8").reshape(13, 5)
    files = bcf_files.contents([cube])
    bad = bytearray(stream)
    struct.pack_into("<H", bad, places[row, 3] + 8, 9)
    files["SpectrumData0"] = bytes(bad)
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files))
    found, message = salvaged(path, rows, salvage=salvage)
    np.testing.assert_array_equal(found, cube[:row])
    assert f"row {row}, byte {places[row, 3] - 4:#x} of the stream: found pixel packing 9" in message
    assert ("--salvage keeps the whole rows before the damage" in message) != salvage


def test_the_last_whole_rows_are_as_narrow_as_their_counts(tmp_path: Path) -> None:
    # The row that is lost has made the band wide.
    cube = CUBE.copy()
    cube[7, 1, 5] = 70_000
    files = bcf_files.contents([cube], packing="words")
    lost = len(bcf_files.map_stream(cube[:8], "words")[0]) - 5
    files["SpectrumData0"] = files["SpectrumData0"][:lost]
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files))
    found, message = salvaged(path, 13)
    assert "the end of the stream" in message
    np.testing.assert_array_equal(found, cube[:7])


def test_damage_of_the_index_is_no_matter_when_salvaging(tmp_path: Path) -> None:
    files = bcf_files.contents([CUBE])
    for damaged in (b"", files["SpectrumPositions0"][:7], struct.pack("<II", 5, 13) + bytes(900), b"\xff" * 528):
        path = tmp_path / "a.bcf"
        path.write_bytes(bcf_files.pack({**files, "SpectrumPositions0": damaged}))
        with pytest.raises(SourceError, match="SpectrumPositions0"):
            BrukerReader(path)
        reader = BrukerReader(path, salvage=True)
        box = Box.whole(CUBE.shape, first_row=6)
        np.testing.assert_array_equal(read_bands(reader, reader.bands(4, box), box, 4), CUBE[6:])


def test_an_index_of_another_size_is_not_followed_when_salvaging(tmp_path: Path) -> None:
    # Twice as wide as the map, with the map's own places: what is row 3 of it is row 6 of the map, and the other way.
    cube = bcf_files.counts((12, 6, 61), seed=4)
    cube[:, 0, 3] += 1
    files = bcf_files.contents([cube])
    places = np.full((12, 12), -1, "<i8")
    places[:, :6] = np.frombuffer(files["SpectrumPositions0"][8:], "<i8").reshape(12, 6)
    files["SpectrumPositions0"] = struct.pack("<II", 12, 12) + places.tobytes()
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files))
    with pytest.raises(SourceError, match="expected 12 x 12, as EDSDatabase/SpectrumPositions0 says"):
        BrukerReader(path)
    box = Box.whole(cube.shape, first_row=6)
    reader = BrukerReader(path, salvage=True)
    np.testing.assert_array_equal(read_bands(reader, reader.bands(4, box), box, 4), cube[6:])
    with pytest.raises(SourceError, match="SpectrumPositions0: found 12 x 12, expected 12 x 6 pixels"):
        find_row(Container(path), "EDSDatabase/SpectrumPositions0", 6, shape=(12, 6))


def test_the_truncation_is_told_once(tmp_path: Path) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [CUBE], front=True, packing="pulses16", compressed=False)
    path.write_bytes(path.read_bytes()[:-1500])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        open_source(path, salvage=True)
    assert len([warning for warning in told if "is truncated" in str(warning.message)]) == 1


def test_what_cannot_be_salvaged_says_nothing_of_it(tmp_path: Path) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [CUBE], front=True, compressed=False)
    path.write_bytes(path.read_bytes()[:8000])
    for salvage in (False, True):
        with pytest.raises(SourceError, match=r"HeaderData.*truncated") as caught:
            BrukerReader(path, salvage=salvage)
        assert "--salvage" not in str(caught.value)


def test_a_real_map_cut_off(tmp_path: Path) -> None:
    whole = real_data("P45_12bit_packed_8bit_compressed.bcf")
    (other,) = eager(whole)
    cut = tmp_path / "cut.bcf"
    for share in (0.6, 0.8, 0.95):
        data = whole.read_bytes()
        cut.write_bytes(data[: int(share * len(data))])
        with pytest.raises(SourceError, match="--salvage keeps"):
            describe(cut)
        reader = open_source(cut, salvage=True)
        assert isinstance(reader, BrukerReader)
        found, message = salvaged(cut, 16)
        assert "truncated" in message
        np.testing.assert_array_equal(found, other[: len(found)])
        assert 10 < len(found) < 75
