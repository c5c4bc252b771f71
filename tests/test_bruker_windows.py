"""Boxes of a .bcf map: what is outside is neither materialised nor, where there is an index, inflated."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eds_chunked.errors import ParameterError, SourceError
from eds_chunked.kernels.sparse import Csr, to_dense
from eds_chunked.readers import bruker
from eds_chunked.readers.base import Box
from eds_chunked.readers.bruker import BrukerReader
from eds_chunked.readers.bruker_container import Container
from eds_chunked.readers.bruker_index import find_row
from tests import bcf_files
from tests.real_data import real_data
from tests.test_bruker_reading import compile_kernels, eager, read_bands

CUBE = bcf_files.counts((11, 7, 61), seed=3)


@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    compile_kernels(tmp_path_factory.mktemp("compiled"))


def read_box(path: Path, box: Box, rows: int = 3, *, salvage: bool = False) -> np.ndarray:
    reader = BrukerReader(path, salvage=salvage)
    return read_bands(reader, reader.bands(rows, box), box, rows)


def part(n: int) -> st.SearchStrategy[slice]:
    return st.integers(0, n - 1).flatmap(lambda start: st.integers(start + 1, n).map(lambda stop: slice(start, stop)))


@given(
    data=st.data(),
    shape=st.tuples(st.integers(1, 13), st.integers(1, 9), st.integers(1, 200)),
    packing=st.sampled_from(bcf_files.PACKINGS),
    extra=st.integers(0, 3),
    version=st.sampled_from([1, 2]),
    compressed=st.booleans(),
    uneven=st.booleans(),
    block_size=st.sampled_from([7, 100, 1000, 0x80000]),
    scatter=st.booleans(),
    rows=st.integers(1, 6),
    density=st.floats(0, 0.5),
    largest=st.sampled_from([1, 15, 256, 700]),
    seed=st.integers(0, 99),
    decoders=st.integers(1, 3),
)
@settings(max_examples=150, deadline=None)
def test_a_box_is_a_slice_of_the_whole(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, shape: tuple[int, int, int], packing: str,
    extra: int, version: int, compressed: bool, uneven: bool, block_size: int, scatter: bool, rows: int,
    density: float, largest: int, seed: int, decoders: int,
) -> None:  # fmt: skip
    cube = bcf_files.counts(shape, seed=seed, density=min(density, 4000 / np.prod(shape)), largest=largest)
    path = bcf_files.write(
        tmp_path_factory.getbasetemp() / "box.bcf", [cube], packing=packing, extra=extra, version=version,
        compressed=compressed, uneven=uneven, block_size=block_size, scatter=scatter,
    )  # fmt: skip
    box = Box(*(data.draw(part(n)) for n in shape))
    with several_decoders(decoders):
        np.testing.assert_array_equal(read_box(path, box, rows), cube[box])


@contextmanager
def several_decoders(n: int) -> Iterator[None]:
    """Read as on a machine with more processors, which decodes several bands at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bruker, "_n_decoders", lambda: n)
        yield


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_several_decoders_give_the_bands_and_the_damage_of_one(tmp_path: Path, rows: int) -> None:
    cube = bcf_files.counts((11, 7, 61), seed=3, density=0.4)
    path = bcf_files.write(tmp_path / "a.bcf", [cube], compressed=False, chunk_size=1024)
    # A byte in the middle of the map: the checksum of its chunk finds it.
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)

    def outcome() -> tuple[list[tuple[int, int, bytes]], str]:
        found = []
        with pytest.raises(SourceError) as damage:  # noqa: PT012
            for band in BrukerReader(path, salvage=True).bands(rows):
                assert isinstance(band.counts, Csr)
                found.append((band.y0, band.rows, to_dense(band.counts, np.uint32).tobytes()))
        return found, str(damage.value)

    with several_decoders(1):
        one = outcome()
    assert 0 < sum(n for _, n, _ in one[0]) < len(cube)
    with several_decoders(3):
        assert outcome() == one


def test_several_decoders_are_in_the_projected_peak(tmp_path: Path) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [CUBE])
    with several_decoders(1):
        one = BrukerReader(path).peak_bytes(3)
    with several_decoders(3):
        assert BrukerReader(path).peak_bytes(3) == 4 * one
    old = bcf_files.write(tmp_path / "old.bcf", [CUBE], version=1)
    with several_decoders(1):
        one = BrukerReader(old).peak_bytes(3)
    with several_decoders(3):
        # Without an index nobody knows where a row begins.
        assert BrukerReader(old).peak_bytes(3) == one


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("first", range(11))
def test_reading_resumes_at_any_row(tmp_path: Path, version: int, first: int) -> None:
    # Runs of rows without a pixel, in the middle and at the end, are not in the index.
    cube = CUBE.copy()
    cube[[0, 4, 5, 6, 9, 10]] = 0
    path = bcf_files.write(tmp_path / "a.bcf", [cube], version=version, block_size=90)
    np.testing.assert_array_equal(read_box(path, Box.whole(cube.shape, first_row=first)), cube[first:])


@pytest.mark.parametrize("channels", [slice(0, 30), slice(20, 61)])
@pytest.mark.parametrize("packing", ["nibbles", "words", "longs"])
def test_counts_outside_the_window_do_not_widen_the_values(tmp_path: Path, channels: slice, packing: str) -> None:
    cube = np.minimum(CUBE, 9)
    cube[:, :, 30 if channels.start == 0 else 19] = 70_000
    path = bcf_files.write(tmp_path / "a.bcf", [cube], packing=packing)
    box = Box(slice(0, 11), slice(1, 6), channels)
    np.testing.assert_array_equal(read_box(path, box), cube[box])  # which checks the dtype
    assert all(band.counts.value.dtype == np.uint8 for band in BrukerReader(path).bands(4, box))


@pytest.mark.parametrize("packing", ["nibbles", "bytes", "words", "longs", "pulses16", "pulses12"])
@pytest.mark.parametrize("extra", [0, 1])
def test_channels_beyond_the_last_are_an_error_outside_the_window_too(tmp_path: Path, packing: str, extra: int) -> None:
    # The header has 50 channels and the records 61.
    files = bcf_files.contents([CUBE[:, :, :50]], version=1)
    cube = np.zeros_like(CUBE)
    cube[2, 3, 4], cube[7, 3, 55] = 2, 3
    files["SpectrumData0"] = bcf_files.map_stream(cube, packing, extra)[0]
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files, version=1))
    box = Box(slice(0, 11), slice(2, 5), slice(1, 20))
    with pytest.raises(SourceError, match=r"row 7, .*counts in channel 55, expected 0 to 49"):
        read_box(path, box)
    # Pixels that are outside are not decoded at all.
    beside = Box(slice(0, 11), slice(0, 3), slice(1, 20))
    np.testing.assert_array_equal(read_box(path, beside), cube[beside])


@pytest.mark.parametrize(
    "box",
    [
        Box(slice(0, 12), slice(0, 7), slice(0, 61)),
        Box(slice(3, 3), slice(0, 7), slice(0, 61)),
        Box(slice(0, 11), slice(-1, 7), slice(0, 61)),
        Box(slice(0, 11), slice(0, 7), slice(0, 61, 2)),
    ],
)
def test_boxes_that_are_none(tmp_path: Path, box: Box) -> None:
    path = bcf_files.write(tmp_path / "a.bcf", [CUBE])
    with pytest.raises(ParameterError, match="of the box"):
        next(BrukerReader(path).bands(3, box))


def test_a_box_of_a_real_map_equals_rosettasciio() -> None:
    path = real_data("P45_8bit_compressed_80keV_range.bcf")
    (whole,) = eager(path)
    box = Box(slice(13, 61), slice(29, 88), slice(47, 1200))
    np.testing.assert_array_equal(read_box(path, box, 17), whole[box])


# ------------------------------------------------------------------------------------------------------------ index
def damaged_block(version: int, uneven: bool = False) -> bytes:
    """Map whose fourth block does not inflate; the checksums of the chunks are right."""
    files = bcf_files.contents([CUBE], packing="words", version=version)
    packed = {name: bytearray(bcf_files.zlib_blocks(raw, version, 900, uneven)) for name, raw in files.items()}
    at = 128
    for _ in range(3):
        at += 16 + struct.unpack_from("<I", packed["SpectrumData0"], at)[0]
    packed["SpectrumData0"][at + 40] ^= 255
    return bcf_files.container({name: bytes(raw) for name, raw in packed.items()}, version=version)


@pytest.mark.parametrize("uneven", [False, True])
def test_with_the_index_nothing_before_the_box_is_inflated(tmp_path: Path, uneven: bool) -> None:
    box = Box.whole(CUBE.shape, first_row=8)
    path = tmp_path / "a.bcf"
    path.write_bytes(damaged_block(2, uneven))
    np.testing.assert_array_equal(read_box(path, box), CUBE[box])
    path.write_bytes(damaged_block(1, uneven))
    with pytest.raises(SourceError, match="block 3 of"):
        read_box(path, box)


@pytest.mark.parametrize("version", [1, 2])
def test_nothing_behind_the_box_is_decoded(tmp_path: Path, version: int) -> None:
    files = bcf_files.contents([CUBE], version=version)
    files["SpectrumData0"] = files["SpectrumData0"][:-9]
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files, version=version))
    box = Box(slice(2, 10), slice(0, 7), slice(0, 61))
    np.testing.assert_array_equal(read_box(path, box), CUBE[box])


def with_index(change: dict[int, int] | None = None, cut: int | None = None) -> bytes:
    """Map whose index has other values at some places (counted in pixels)."""
    files = bcf_files.contents([CUBE])
    index = bytearray(files["SpectrumPositions0"])
    for pixel, value in (change or {}).items():
        struct.pack_into("<q", index, 8 + 8 * pixel, value)
    files["SpectrumPositions0"] = bytes(index[:cut])
    return bcf_files.pack(files)


PLACES = np.frombuffer(bcf_files.map_stream(CUBE)[1][8:], "<i8").reshape(11, 7)
FIRST = 5 * 7 + int(np.flatnonzero(PLACES[5] != -1)[0])


@pytest.mark.parametrize(
    ("change", "cut"),
    [
        ({FIRST: PLACES.max()}, None),
        ({FIRST: -1}, None),
        ({FIRST: 1 << 62}, None),
        ({FIRST: -(1 << 62)}, None),
        ({FIRST: 17}, None),
        ({FIRST: int(PLACES[5].max()) + 1}, None),
        ({}, 8 + 8 * 7 * 5 + 3),
    ],
)
def test_an_index_that_disagrees_with_the_stream(tmp_path: Path, change: dict[int, int], cut: int | None) -> None:
    path = tmp_path / "a.bcf"
    path.write_bytes(with_index(change, cut))
    box = Box(slice(5, 9), slice(0, 7), slice(0, 61))
    with pytest.raises(SourceError, match=r"SpectrumPositions0"):
        read_box(path, box)
    # To salvage, the stream alone will do.
    np.testing.assert_array_equal(read_box(path, box, salvage=True), CUBE[box])
    # A box from the first row on needs no index.
    top = Box(slice(0, 9), slice(0, 7), slice(0, 61))
    np.testing.assert_array_equal(read_box(path, top), CUBE[top])


FULL = np.maximum(CUBE, 1)


def shifted(by: int, first: int) -> bytes:
    """Map without gaps, whose index has from row ``first`` on the places of the rows ``by`` below."""
    files = bcf_files.contents([FULL])
    places = np.frombuffer(files["SpectrumPositions0"][8:], "<i8").reshape(11, 7)
    wrong = places.copy()
    wrong[first : 11 - by] = places[first + by :]
    # Behind the end of the map they go on as if there was more of it.
    wrong[11 - by :] = places[-1].max() + 100 * np.arange(1, 7 * by + 1).reshape(by, 7)
    files["SpectrumPositions0"] = files["SpectrumPositions0"][:8] + wrong.tobytes()
    return bcf_files.pack(files, block_size=60)


@pytest.mark.parametrize("by", [1, 3])
def test_an_index_that_is_shifted(tmp_path: Path, by: int) -> None:
    path = tmp_path / "a.bcf"
    path.write_bytes(shifted(by, 0))
    box = Box(slice(4, 8), slice(0, 7), slice(0, 61))
    with pytest.raises(SourceError, match=r"SpectrumPositions0: found row 0 .*expected byte 0x1a8\. "):
        read_box(path, box)
    np.testing.assert_array_equal(read_box(path, box, salvage=True), FULL[box])


@pytest.mark.parametrize("first", [1, 3, 4])
def test_an_index_that_falls_back(tmp_path: Path, first: int) -> None:
    # The places of the row before once more: nothing rises from it to its copy.
    files = bcf_files.contents([FULL])
    places = np.frombuffer(files["SpectrumPositions0"][8:], "<i8").reshape(11, 7).copy()
    places[first:] = places[first - 1 : -1].copy()
    files["SpectrumPositions0"] = files["SpectrumPositions0"][:8] + places.tobytes()
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files, block_size=60))
    box = Box(slice(4, 8), slice(0, 7), slice(0, 61))
    with pytest.raises(SourceError, match=rf"SpectrumPositions0: found row {first} .*or behind"):
        read_box(path, box)
    np.testing.assert_array_equal(read_box(path, box, salvage=True), FULL[box])


@pytest.mark.parametrize("empty", [0, 3])
def test_an_index_is_anchored_behind_empty_rows(tmp_path: Path, empty: int) -> None:
    cube = FULL.copy()
    cube[:empty] = 0
    path = bcf_files.write(tmp_path / "a.bcf", [cube], block_size=60)
    box = Box(slice(5, 9), slice(0, 7), slice(0, 61))
    np.testing.assert_array_equal(read_box(path, box), cube[box])
    files = bcf_files.contents([cube])
    places = np.frombuffer(files["SpectrumPositions0"][8:], "<i8").copy()
    places[places != -1] += 4
    files["SpectrumPositions0"] = files["SpectrumPositions0"][:8] + places.tobytes()
    path.write_bytes(bcf_files.pack(files))
    with pytest.raises(SourceError, match=f"found row {empty} .*expected byte {0x1A8 + 4 * empty:#x}"):
        read_box(path, box)


def test_the_index_takes_little_memory(tmp_path: Path) -> None:
    shape = (700, 1000)
    places = np.full(shape, -1, "<i8")
    places[:, 1:-1] = 0x1A8 + 4 * np.arange(700)[:, None] + 30 * np.arange(700 * 998).reshape(700, 998)
    path = tmp_path / "a.bcf"
    index = struct.pack("<II", *shape) + places.tobytes()
    path.write_bytes(bcf_files.container({"SpectrumPositions0": index}, chunk_size=0x10000))
    container = Container(path)
    tracemalloc.start()
    try:
        start = find_row(container, "EDSDatabase/SpectrumPositions0", 690, shape=shape)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert start == (int(places[690, 1]) - 8, struct.pack("<II", 998, 1))
    assert len(index) == 8 + 5_600_000
    assert peak < 1.1 * 12 * (1 << 20)


# ----------------------------------------------------------------------------------------------------------- memory
def band_bytes(path: Path, rows: int, box: Box | None = None) -> int:
    """Most bytes of a band, with the arrays that its own are parts of."""
    most = 0
    for band in BrukerReader(path).bands(rows, box):
        arrays = (band.counts.indptr, band.counts.channel, band.counts.value)
        most = max(most, sum(array.nbytes if array.base is None else array.base.nbytes for array in arrays))
    return most


def test_the_projected_peak_covers_the_bands(tmp_path: Path) -> None:
    cube = bcf_files.counts((64, 40, 300), density=0.3)
    path = bcf_files.write(tmp_path / "a.bcf", [cube], block_size=0x80000)
    reader = BrukerReader(path)
    assert [band.rows for band in reader.bands(64)] == [64]
    growth = reader.peak_bytes(64) - reader.peak_bytes(1)
    # A band that moves to larger arrays, and the one before.
    assert 2 * band_bytes(path, 64) < growth < 5 * band_bytes(path, 64)
    box = Box(slice(0, 64), slice(10, 20), slice(100, 150))
    assert reader.peak_bytes(64, box) - reader.peak_bytes(1, box) < growth / 15
    assert band_bytes(path, 64, box) * 2 < reader.peak_bytes(64, box) - reader.peak_bytes(1, box)


@pytest.mark.parametrize("largest", [9, 300, 70_000])
def test_bands_brighter_than_the_header_says_come_out_shorter(tmp_path: Path, largest: int) -> None:
    cube = np.zeros((40, 20, 211), np.uint32)
    cube[15:29] = bcf_files.counts((14, 20, 211), density=0.97, largest=largest)
    files = bcf_files.contents([np.zeros_like(cube)], version=1)
    files["SpectrumData0"] = bcf_files.map_stream(cube, "words")[0]
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files, version=1))
    reader = BrukerReader(path)
    bands = list(reader.bands(10))
    np.testing.assert_array_equal(read_bands(reader, bands, Box.whole(cube.shape), 10), cube)
    assert {band.y0 for band in bands} > {0, 10, 20, 30}
    # Room for one row, however bright.
    allowed = 6 * 21 * 211
    assert 3 * allowed < reader.peak_bytes(10)
    for band in bands:
        assert len(band.counts.channel.base) * (2 + band.counts.value.itemsize) <= allowed


def test_a_row_finds_room_however_bright_it_is(tmp_path: Path) -> None:
    cube = np.zeros((40, 3, 97), np.uint32)
    cube[20:23] = 70_000
    cube[21] = 3
    # The header knows nothing of all this.
    files = bcf_files.contents([np.zeros_like(cube)], version=1)
    files["SpectrumData0"] = bcf_files.map_stream(cube, "longs")[0]
    path = tmp_path / "a.bcf"
    path.write_bytes(bcf_files.pack(files, version=1))
    reader = BrukerReader(path)
    bands = list(reader.bands(40))
    np.testing.assert_array_equal(read_bands(reader, bands, Box.whole(cube.shape), 40), cube)
    assert len(bands) > 2
