"""Damaged and hostile .bcf files: one SourceError each, that names the place, in bounded time."""

from __future__ import annotations

import struct
import time
import tracemalloc
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.parsers import expat

import numpy as np
import pytest

from eds_chunked.errors import SourceError
from eds_chunked.readers.bruker import BrukerReader, describe
from eds_chunked.readers.bruker_blocks import inflate
from tests import bcf_files
from tests.bcf_files import PROLOGUE, STREAM_HEADER, seal
from tests.test_bruker_reading import compile_kernels, read

CUBE = bcf_files.counts((3, 5, 61), seed=4)
CHUNK = 1024


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    compile_kernels(tmp_path_factory.mktemp("compiled"))


def read_all(path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reader = BrukerReader(path)
        for _ in reader.bands(2):
            pass
        for _ in reader.images():
            pass


def fails(tmp_path: Path, data: bytes, match: str) -> None:
    """Reading everything must end in a SourceError that names the file, within two seconds."""
    path = tmp_path / "bad.bcf"
    path.write_bytes(data)
    begin = time.perf_counter()
    with pytest.raises(SourceError, match=match) as caught:
        read_all(path)
    assert str(path) in str(caught.value)
    assert time.perf_counter() - begin < 2


def healthy(**options: object) -> bytearray:
    files = bcf_files.contents([CUBE], **options)  # type: ignore[arg-type]
    return bytearray(bcf_files.pack(files, chunk_size=CHUNK))


def directory(data: bytes) -> tuple[int, int]:
    """First directory chunk and its offset in the file."""
    (chunk,) = struct.unpack_from("<I", data, 0x140)
    return chunk, PROLOGUE + chunk * CHUNK


def table_of(data: bytes, entry: int) -> tuple[int, int]:
    """Chunk and payload offset of the first pointer table of a directory entry (one entry in each directory chunk)."""
    (table,) = struct.unpack_from("<i", data, directory(data)[1] + entry * CHUNK + 32)
    return table, PROLOGUE + table * CHUNK + 32


# -------------------------------------------------------------------------------------------------------- container
@pytest.mark.parametrize("data", [b"", b"BCF\2\2" + bytes(4000), b"PK\3\4" * 900], ids=["empty", "genomics", "zip"])
def test_other_files(tmp_path: Path, data: bytes) -> None:
    fails(tmp_path, data, "byte 0: .*expected b'AAMVHFSS")


@pytest.mark.parametrize("n", [9, 0x118, 0x120, 0x14B])
def test_cut_in_the_prologue(tmp_path: Path, n: int) -> None:
    fails(tmp_path, bytes(healthy()[:n]), "byte 0x118.*expected b'AASFSSGN'")


@pytest.mark.parametrize(
    ("offset", "value", "match"),
    [
        (0x128, 0, "chunks of 0 bytes"),
        (0x128, 0xFFFFFFFF, "chunks of 4294967295 bytes"),
        (0x140, 0xFFFFFFFF, "directory.*chunk number 4294967295"),
        (0x140, 0, "directory.*chunk number 0"),
        (0x144, 0, "0 directory entries"),
        (0x144, 0xFFFFFFFF, "4294967295 directory entries"),
        (0x148, 0, "0x144.*expected 1 to 0"),
    ],
)
def test_container_geometry(tmp_path: Path, offset: int, value: int, match: str) -> None:
    data = healthy()
    struct.pack_into("<I", data, offset, value)
    fails(tmp_path, bytes(data), match)


def test_directory_that_is_no_directory(tmp_path: Path) -> None:
    data = healthy()
    struct.pack_into("<I", data, 0x140, 1)
    fails(tmp_path, bytes(data), "directory, chunk 1 .*kind 5, expected kind 1")


def test_directory_chain_that_loops(tmp_path: Path) -> None:
    data = healthy()
    chunk, at = directory(data)
    struct.pack_into("<I", data, at + CHUNK, chunk)
    fails(tmp_path, bytes(data), "directory.*a loop back to chunk")


@pytest.mark.parametrize(("parent", "match"), [(1, "cyclic"), (99, "parent 99"), (-7, "parent -7")])
def test_folders_that_loop(tmp_path: Path, parent: int, match: str) -> None:
    data = healthy()
    chunk, at = directory(data)
    struct.pack_into("<i", data, at + CHUNK + 32 + 40, parent)
    seal(data, chunk + 1)
    fails(tmp_path, bytes(data), f"directory entry 1 .*{match}")


def test_two_files_of_one_name(tmp_path: Path) -> None:
    data = healthy()
    chunk, at = directory(data)
    data[at + 2 * CHUNK + 32 + 224 : at + 2 * CHUNK + 32 + 240] = b"HeaderData".ljust(16, b"\0")
    seal(data, chunk + 2)
    fails(tmp_path, bytes(data), "second 'EDSDatabase/HeaderData'")


@pytest.mark.parametrize(
    ("missing", "match"),
    [("HeaderData", "no EDSDatabase/HeaderData"), ("SpectrumData0", "expected EDSDatabase/SpectrumData0")],
)
def test_without_a_map(tmp_path: Path, missing: str, match: str) -> None:
    files = bcf_files.contents([CUBE])
    del files[missing]
    fails(tmp_path, bcf_files.pack(files), match)


def test_ebsd_only(tmp_path: Path) -> None:
    fails(tmp_path, bcf_files.pack({"EBSDPatterns": b"x" * 99}), "EBSD-only")


@pytest.mark.parametrize("share", [0.2, 0.5, 0.7])
@pytest.mark.parametrize("compressed", [True, False])
def test_truncated(tmp_path: Path, share: float, compressed: bool) -> None:
    data = bcf_files.pack(bcf_files.contents([CUBE], packing="words"), compressed=compressed)
    # The directory comes last in our files, so it is the first thing that is missed.
    path = tmp_path / "cut.bcf"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.warns(UserWarning, match="truncated"), pytest.raises(SourceError, match="truncated"):
        BrukerReader(path)


def test_truncated_in_the_map(tmp_path: Path) -> None:
    # The header's chunks come before those of the map, and the directory is copied to the front of them.
    files = bcf_files.contents([CUBE], packing="words", version=1)
    data = bytearray(bcf_files.pack(files, version=1, chunk_size=4096))
    chunk, at = struct.unpack_from("<I", data, 0x140)[0], 0
    at = PROLOGUE + chunk * 4096
    table, size = struct.unpack_from("<iQ", data, at + 32 + 2 * 512)
    (last,) = struct.unpack_from("<I", data, PROLOGUE + table * 4096 + 32 + 4 * (-(-size // 4064) - 1))
    spare = bytes(data[at : at + 4096])
    moved = last
    keep = bytes(data[PROLOGUE + last * 4096 : PROLOGUE + (last + 1) * 4096])
    data[PROLOGUE + moved * 4096 : PROLOGUE + (moved + 1) * 4096] = spare
    data[at : at + 4096] = keep
    struct.pack_into("<I", data, 0x140, moved)
    struct.pack_into("<I", data, PROLOGUE + table * 4096 + 32 + 4 * (-(-size // 4064) - 1), chunk)
    seal(data, table)
    path = tmp_path / "moved.bcf"
    path.write_bytes(bytes(data))
    np.testing.assert_array_equal(read(path), CUBE)
    path.write_bytes(bytes(data[: PROLOGUE + chunk * 4096 + 100]))
    with pytest.warns(UserWarning, match="truncated"), pytest.raises(SourceError, match=r"SpectrumData0.*truncated"):
        BrukerReader(path)


def test_only_the_unused_tail_is_missing(tmp_path: Path) -> None:
    data = healthy()
    struct.pack_into("<I", data, 0x148, struct.unpack_from("<I", data, 0x148)[0] + 8)
    path = tmp_path / "tail.bcf"
    path.write_bytes(bytes(data))
    with pytest.warns(UserWarning, match="truncated"):
        np.testing.assert_array_equal(read(path), CUBE)


@pytest.mark.parametrize("entry", [1, 2], ids=["header", "map"])
def test_checksum_of_a_chunk(tmp_path: Path, entry: int) -> None:
    data = healthy()
    _, at = table_of(data, entry)
    (chunk,) = struct.unpack_from("<I", data, at)
    data[PROLOGUE + chunk * CHUNK + 500] ^= 16
    fails(tmp_path, bytes(data), rf"chunk {chunk} at byte {PROLOGUE + chunk * CHUNK:#x}: found checksum")


@pytest.mark.parametrize(
    ("pointer", "match"), [(0, "chunk number 0"), (0xFFFFFFF0, "chunk number 4294967280"), (None, "twice")]
)
def test_pointers_of_a_file(tmp_path: Path, pointer: int | None, match: str) -> None:
    data = healthy()
    table, at = table_of(data, 1)
    struct.pack_into("<I", data, at, struct.unpack_from("<I", data, at + 4)[0] if pointer is None else pointer)
    seal(data, table)
    fails(tmp_path, bytes(data), f"chunk table of EDSDatabase/HeaderData: found .*{match}")


def test_pointer_tables_that_loop(tmp_path: Path) -> None:
    files = bcf_files.contents([CUBE], name="long" * 20000)
    data = bytearray(bcf_files.pack(files, chunk_size=0x220, compressed=False))
    struct.pack_into("<I", data, PROLOGUE + 0x220, 1)
    fails(tmp_path, bytes(data), "HeaderData.*a loop back to chunk 1")


def test_two_files_that_share_a_chunk(tmp_path: Path) -> None:
    data = bytearray(bcf_files.pack(bcf_files.contents([CUBE], packing="words"), chunk_size=CHUNK, compressed=False))
    _, at = table_of(data, 1)
    other, other_at = table_of(data, 2)
    # The map's first chunk must stay, or it would be no map; its last one is taken from the header.
    size = struct.unpack_from("<Q", data, directory(data)[1] + 2 * CHUNK + 32 + 4)[0]
    last = -(-size // (CHUNK - 32)) - 1
    assert last > 0
    struct.pack_into("<I", data, other_at + 4 * last, struct.unpack_from("<I", data, at)[0])
    seal(data, other)
    fails(tmp_path, bytes(data), "a chunk of two files")


@pytest.mark.parametrize("size", [0, 1 << 40, (1 << 64) - 1])
def test_size_of_a_file(tmp_path: Path, size: int) -> None:
    data = healthy()
    chunk, at = directory(data)
    struct.pack_into("<Q", data, at + 2 * CHUNK + 32 + 4, size)
    seal(data, chunk + 2)
    fails(tmp_path, bytes(data), f"SpectrumData0': found {size} bytes")


# ------------------------------------------------------------------------------------------------------ compression
def stored(change: Callable[[bytearray], bytes | None], name: str = "SpectrumData0") -> bytes:
    """File whose compressed ``name`` went through ``change``; checksums of the chunks are right."""
    files = {key: bytearray(bcf_files.zlib_blocks(raw)) for key, raw in bcf_files.contents([CUBE]).items()}
    changed = change(files[name])
    if changed is not None:
        files[name] = bytearray(changed)
    return bcf_files.container({key: bytes(raw) for key, raw in files.items()})


def put(form: str, at: int, value: int) -> Callable[[bytearray], None]:
    return lambda data: struct.pack_into(form, data, at, value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (put("B", 20, 3), "compression method 3"),
        (put("<I", 4, 0), "blocks of 0 bytes"),
        (put("<I", 4, 1 << 31), "blocks of 2147483648 bytes"),
        (put("<I", 12, 0), "a map header of 416 bytes"),
        (put("<I", 12, 1 << 30), "expected a block header"),
        (put("<I", 128, 0), "block 0 .*0 compressed bytes"),
        (put("<I", 128, 1 << 31), "block 0 .*2147483648 compressed bytes"),
        (put("<I", 132, 0), "block 0 .*a block of 0 bytes"),
        (put("<I", 132, 1 << 31), "block 0 .*a block of 2147483648 bytes"),
        (put("<I", 132, 913), "more than 913 bytes after decompression"),
        (put("<I", 136, 0x12345), "CRC-16 .*expected 0x12345"),
        (put("B", 150, 0xFF), "block 0 of .* at stored byte 0x80: found "),
        (lambda data: data[:100], "a compression header of 128 bytes"),
    ],
)
def test_blocks(tmp_path: Path, change: Callable[[bytearray], None], match: str) -> None:
    fails(tmp_path, stored(change), match)


def test_a_zip_bomb_stops_at_its_declared_size(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)

    def change(data: bytearray) -> bytes:
        return bytes(data[:128]) + struct.pack("<IIII", len(bomb), 1000, 0, 0) + bomb

    # 64 MiB in 64 KiB: even the compressed size is refused before anything is inflated.
    fails(tmp_path, stored(change), "compressed bytes for 1000")
    small = zlib.compress(bytes(1 << 20), 9)

    def change_less(data: bytearray) -> bytes:
        return bytes(data[:128]) + struct.pack("<IIII", len(small), 1000, 0, 0) + small

    fails(tmp_path, stored(change_less), "more than 1000 bytes")


def test_inflating_a_bomb_takes_no_memory() -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)
    peaks = []
    for size in (1000, 1 << 26):
        tracemalloc.start()
        try:
            with pytest.raises(ValueError, match=r"more than 1000 bytes|CRC-16"):
                inflate(bomb, size, 1)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert peaks[0] < 1 << 20
    assert peaks[1] > 1 << 26  # so what ISA-L allocates is seen


def test_blocks_that_end_early_or_go_on(tmp_path: Path) -> None:
    files = bcf_files.contents([CUBE])
    path = tmp_path / "a.bcf"
    packed = {name: bcf_files.zlib_blocks(raw) for name, raw in files.items()}
    packed["SpectrumData0"] += b"tail"
    path.write_bytes(bcf_files.container(packed))
    with pytest.warns(UserWarning, match="4 bytes follow the last block"):
        np.testing.assert_array_equal(read(path), CUBE)


# ----------------------------------------------------------------------------------------------------------- stream
def with_stream(stream: bytes, cube: np.ndarray = CUBE, compressed: bool = True) -> bytes:
    files = bcf_files.contents([cube], version=1)
    files["SpectrumData0"] = stream
    return bcf_files.pack(files, version=1, compressed=compressed)


def one_row(*records: bytes, n: int | None = None) -> bytes:
    """Stream of a map of 3 x 5 x 61 whose first row is given and whose others are empty."""
    head = bcf_files.map_stream(CUBE)[0][:STREAM_HEADER]
    return head + struct.pack("<I", len(records) if n is None else n) + b"".join(records) + bytes(8)


def record(
    x: int = 1, *, flag: int = 2, data: bytes = b"", covered: int = 0, n: int = 0, size: int | None = None,
    tail: int | None = None, pulses: bytes = b"",
) -> bytes:  # fmt: skip
    """Record with any fields; ``data`` of bunches gets the length of its pulses behind."""
    if flag >= 2:
        data += struct.pack("<I", 2 * n if tail is None else tail)
    return struct.pack("<IHHIHHHI", x, 61, covered, 0, flag, 0, n, len(data) if size is None else size) + data + pulses


def test_flag_3_is_read_as_bunches(tmp_path: Path) -> None:
    path = tmp_path / "a.bcf"
    path.write_bytes(with_stream(one_row(record(2, flag=3, covered=3, data=bytes([2, 3, 5, 1, 0, 9, 1])))))
    expected = np.zeros_like(CUBE)
    expected[0, 2, :3] = 261, 270, 262
    np.testing.assert_array_equal(read(path), expected)


def test_zeros_inside_a_bunch_are_no_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.bcf"
    path.write_bytes(with_stream(one_row(record(2, covered=4, data=bytes([1, 4, 0, 0x30, 0x04])))))
    expected = np.zeros_like(CUBE)
    expected[0, 2, [1, 2]] = 3, 4
    np.testing.assert_array_equal(read(path), expected)


@pytest.mark.parametrize(
    ("stream", "match"),
    [
        (one_row(n=6), "row 0, .*a row of 6 pixels, expected at most 5"),
        (one_row(n=0xFFFFFFFF), "a row of 4294967295 pixels"),
        (one_row(record(5)), "row 0, byte 0x1a4 .*pixel at x = 5"),
        (one_row(record(0xFFFFFFFF)), "pixel at x = 4294967295"),
        (one_row(record(2), record(2)), "pixel at x = 2"),
        (one_row(record(2), record(1)), "pixel at x = 1"),
        (one_row(record(3), record(4), record(5)), "pixel at x = 3"),
        (one_row(record(flag=4)), "packing 4"),
        (one_row(record(flag=0, n=3, data=bytes(4))), "record of 4 bytes"),
        (one_row(record(flag=1, n=3, data=bytes(4))), "record of 4 bytes"),
        (one_row(record(size=3)), "record of 3 bytes"),
        (one_row(record(size=0xFFFFFFF0)), "record of 4294967280 bytes"),
        (one_row(record(covered=60, size=845)), "record of 845 bytes"),
        (one_row(record(tail=2)), "record of 2 bytes"),
        (one_row(record(n=2, tail=0, pulses=bytes(4))), "record of 0 bytes"),
        (one_row(record(covered=3, data=bytes([3, 3, 0, 0]))), "broken bunch"),
        (one_row(record(covered=3, data=bytes([2, 0, 0, 0, 1]))), "broken bunch"),
        (one_row(record(covered=3, data=bytes([0]))), "broken bunch"),
        (one_row(record(covered=3, data=bytes([2, 3, 0, 0, 1, 1]))), "broken bunch"),
        (one_row(record(covered=3, data=bytes([2, 2, 0, 0, 1, 1]))), "broken bunch"),
        (one_row(record(covered=3, data=bytes([0, 4]))), "broken bunch .*cover 3 channels"),
        (one_row(record(covered=62, data=bytes([0, 61, 2, 1, 0, 0, 1]))), "channel 61, expected 0 to 60"),
        (one_row(record(n=1, pulses=b"\x3d\0")), "channel 61"),
        (one_row(record(flag=0, n=2, data=b"\xff\xff\1\0")), "channel 65535"),
        (one_row(record(flag=1, n=1, data=b"\xf0\xff")), "channel 4095"),
        (one_row(record(covered=1, data=struct.pack("<BBQI", 8, 1, 0xFFFFFFFF, 1))), "count of 4294967296"),
        (one_row(record(covered=1, data=struct.pack("<BBQI", 8, 1, 1 << 63, 1))), "a count above 2"),
        (
            one_row(record(covered=1, n=1, pulses=bytes(2), data=struct.pack("<BBQI", 8, 1, 0xFFFFFFFF, 0))),
            "count of 4",
        ),
        (one_row(record(), n=2), "end of the stream|packing|pixel at x"),
        (one_row(record(size=400, covered=60)), "the end of the stream"),
        (one_row(record())[:-4], "row 2, byte 0x1c2 .*the end of the stream"),
        (one_row(record())[:-1], "row 2, .*the end of the stream"),
        (one_row()[: STREAM_HEADER - 1], "a map header of 416 bytes"),
        (one_row()[:STREAM_HEADER], "3 rows, expected at most 0|the end of the stream"),
    ],
)
@pytest.mark.parametrize("compressed", [True, False])
def test_records(tmp_path: Path, stream: bytes, match: str, compressed: bool) -> None:
    fails(tmp_path, with_stream(stream, compressed=compressed), match)


@pytest.mark.parametrize("height", [0, 2, 4, 0xFFFFFFFF])
def test_size_of_the_map(tmp_path: Path, height: int) -> None:
    stream = bytearray(bcf_files.map_stream(CUBE)[0])
    struct.pack_into("<I", stream, 0, height)
    fails(tmp_path, with_stream(bytes(stream)), f"byte 0: found {height} x 5 pixels")


def test_more_rows_than_the_stream_has_room_for(tmp_path: Path) -> None:
    files = bcf_files.contents([CUBE], version=1, images={})
    stream = bytearray(files["SpectrumData0"])
    struct.pack_into("<II", stream, 0, 60000, 60000)
    files["SpectrumData0"] = bytes(stream)
    fails(tmp_path, bcf_files.pack(files, version=1), "60000 rows, expected at most")


def test_index_of_another_size(tmp_path: Path) -> None:
    files = bcf_files.contents([CUBE])
    files["SpectrumPositions0"] = struct.pack("<II", 5, 3) + files["SpectrumPositions0"][8:]
    fails(tmp_path, bcf_files.pack(files), "expected 5 x 3, as EDSDatabase/SpectrumPositions0 says")


def test_bytes_behind_the_last_row(tmp_path: Path) -> None:
    path = tmp_path / "a.bcf"
    path.write_bytes(with_stream(bcf_files.map_stream(CUBE)[0] + b"abc"))
    with pytest.warns(UserWarning, match="3 bytes follow the last row"):
        np.testing.assert_array_equal(read(path), CUBE)


def test_bands_before_the_damage_are_read(tmp_path: Path) -> None:
    stream = bcf_files.map_stream(CUBE, "words")[0]
    path = tmp_path / "a.bcf"
    path.write_bytes(with_stream(stream[:-3]))
    bands = BrukerReader(path).bands(1)
    assert [next(bands).y0, next(bands).y0] == [0, 1]
    with pytest.raises(SourceError, match="row 2"):
        next(bands)


# ----------------------------------------------------------------------------------------------------------- header
def with_header(change: Callable[[bytes], bytes]) -> bytes:
    files = bcf_files.contents([CUBE])
    files["HeaderData"] = change(files["HeaderData"])
    return bcf_files.pack(files)


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(xml: bytes) -> bytes:
        assert old in xml
        return xml.replace(old, new)

    return change


LAUGHS = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;">]><TRTSpectrumDatabase>'
OUTSIDE = b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><TRTSpectrumDatabase>'


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda xml: b"", "SpectrumData0|HeaderData"),
        (lambda xml: b"no xml", "broken XML"),
        (lambda xml: xml[:-9], "broken XML"),
        (swap(b"WINDOWS-1252", b"no-such-code"), "broken XML"),
        (swap(b"<TRTSpectrumDatabase>", LAUGHS), "broken XML"),
        (swap(b"<TRTSpectrumDatabase>", OUTSIDE), "broken XML"),
        (swap(b"<RTHeader/>", b"<a>" * 5000 + b"</a>" * 5000), "nested more than 100 deep"),
        (swap(b'Type="TRTSpectrumDatabase"', b'Type="TRTOther"'), "expected a TRTSpectrumDatabase"),
        (swap(b"SpectrumData0>", b"SpectrumData1>"), r"sum spectra \[1\]"),
        (swap(b'Type="TRTSpectrum"', b'Type="TRTOther"'), "found 0 channels"),
        (swap(b"<Channels>", b"<Channels>x"), "Channels with"),
        (swap(b"Channels>", b"Other>"), "Channels with"),
        (swap(b"<CalibLin>1.0001E-2</CalibLin>", b""), "CalibLin None"),
        (swap(b"<CalibLin>1.0001E-2", b"<CalibLin>0"), "CalibLin 0"),
        (swap(b"<CalibLin>1.0001E-2", b"<CalibLin>-1"), "CalibLin -1"),
        (swap(b"<CalibLin>1.0001E-2", b"<CalibLin>nan"), "CalibLin nan"),
        (swap(b"<CalibLin>1.0001E-2", b"<CalibLin>text"), "CalibLin text"),
        (swap(b"<CalibAbs>-4.72E-1", b"<CalibAbs>inf"), "CalibAbs inf"),
        (swap(b"<Height>3<", b"<Height>7<"), "expected 7 x 5, as EDSDatabase/HeaderData"),
        (swap(b"<ItemSize>2<", b"<ItemSize>3<"), "image 'BSE'"),
        (swap(b"<ItemSize>2<", b"<ItemSize>4<"), "image 'BSE': found 30 bytes"),
        (swap(b"<Data>AAAB", b"<Data>AAA"), "image 'BSE'"),
    ],
)
def test_headers(tmp_path: Path, change: Callable[[bytes], bytes], match: str) -> None:
    fails(tmp_path, with_header(change), match)


HOSTILE = {
    "elements": (b"<RTHeader/>", b"<RTHeader/>" + b"<a/>" * 1_000_000, "elements and text"),
    "attributes": (b"<RTHeader/>", b"<RTHeader/>" + b"<a b='1' c='2'/>" * 200_000, "elements and text"),
    "names": (b"<RTHeader/>", b"".join(b"<a%d/>" % i for i in range(300_000)), "elements and text"),
    "one text": (b"<RTHeader/>", b"<RTHeader>" + b"x" * (40 << 20) + b"</RTHeader>", "elements and text"),
    "lines": (b"<RTHeader/>", b"<RTHeader>" + (b"x" * 39 + b"\n") * (1 << 20) + b"</RTHeader>", "elements and text"),
    "channels": (b"<Channels>", b"<Channels>" + b"1," * 70_000, "channels, expected 1 to 65536"),
    "counts": (b"<Channels>", b"<Channels>" + b"1," * (16 << 20), "elements and text"),
    "a count": (b"<Channels>", b"<Channels>" + b"1" * (8 << 20), "Channels with"),
    "attribute": (b"<RTHeader/>", b'<RTHeader a="' + b"x" * (40 << 20) + b'"/>', "a tag or comment of more"),
    "many in one tag": (
        b"<RTHeader/>", b"<RTHeader %s/>" % b" ".join(b"a%d=''" % i for i in range(900_000)), "a tag or comment of more"
    ),
    "comment": (b"<RTHeader/>", b"<!--" + b"x" * (40 << 20) + b"-->", "a tag or comment of more"),
    "image": (b"<Data>", b"<Data>" + b"A" * (40 << 20), "image with more data than its sizes"),
}  # fmt: skip


@pytest.fixture(scope="module")
def plain_parse_seconds() -> float:
    """Processor time of this machine, as it is now, for the events of a million elements: a measure for the others."""
    seen = 0

    def count(*_: object) -> None:
        nonlocal seen
        seen += 1

    parser = expat.ParserCreate()
    parser.StartElementHandler = count
    begin = time.process_time()
    parser.Parse(b"<a>" + b"<a/>" * 1_000_000 + b"</a>", True)
    seconds = time.process_time() - begin
    assert seen == 1_000_001
    return seconds


@pytest.mark.parametrize("name", HOSTILE)
def test_headers_that_would_fill_the_memory(tmp_path: Path, name: str, plain_parse_seconds: float) -> None:
    old, new, match = HOSTILE[name]
    files = bcf_files.contents([CUBE])
    files["HeaderData"] = files["HeaderData"].replace(old, new, 1)
    # zlib at level 1 and CRC-16 in plain Python are too slow for that much.
    path = tmp_path / "bad.bcf"
    path.write_bytes(bcf_files.container(files, chunk_size=1 << 20))
    begin = time.process_time()
    with pytest.raises(SourceError, match=match):
        read_all(path)
    assert time.process_time() - begin < 8 * plain_parse_seconds
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match=match):
            read_all(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 96 << 20


@pytest.mark.parametrize("lines", [b"1," * 70_000, b"9" * 4000, b"9" * 5000])
def test_a_line_counter_that_counts_nothing(tmp_path: Path, lines: bytes) -> None:
    path = tmp_path / "a.bcf"
    path.write_bytes(with_header(swap(b"<LineCounter>", b"<LineCounter>" + lines)))
    (header,) = describe(path)
    assert header.real_time is None


def test_line_breaks_in_an_image(tmp_path: Path) -> None:
    def wrap(xml: bytes) -> bytes:
        at = xml.index(b"<Data>AAAB") + 10
        return xml[:at] + b"\r\n" + xml[at : at + 4] + b"\n" + xml[at + 4 :]

    path = tmp_path / "a.bcf"
    path.write_bytes(with_header(wrap))
    image = next(iter(BrukerReader(path).images()))
    np.testing.assert_array_equal(image.pixels, np.arange(15).reshape(3, 5))


def test_a_header_needs_few_of_its_nodes(tmp_path: Path) -> None:
    path = tmp_path / "bare.bcf"
    path.write_bytes(
        with_header(
            lambda xml: (
                b"<TRTSpectrumDatabase><ClassInstance Type='TRTSpectrumDatabase'>"
                + xml[xml.index(b"<SpectrumData0>") :].replace(b"TRTHeaderedClass", b"Other")
            )
        )
    )
    (header,) = describe(path)
    assert header.title == "bare"
    assert header.beam_energy is None
    assert header.real_time is None
    assert header.pixel_size is None
    np.testing.assert_array_equal(read(path), CUBE)
