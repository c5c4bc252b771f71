"""Mutated .bcf files: each one reads exactly or raises SourceError, in bounded time.

``mutants`` draws them, ``outcome`` reads one and judges it: the whole map, then a box of it, then what can be salvaged.
``benchmarks/fuzz_bcf.py`` runs the same over many more.
Mutations are made at four depths, so that they get past the checksums of the layers above: the file as it is, the file
with its chunk checksums made right, the compressed content of one file in it, and its plain content.
"""

from __future__ import annotations

import struct
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from eds_chunked.errors import SourceError
from eds_chunked.kernels.sparse import Csr
from eds_chunked.readers.base import Band, Box
from eds_chunked.readers.bruker import BrukerReader
from eds_chunked.readers.bruker_container import Container
from tests import bcf_files
from tests.real_data import FOLDER
from tests.test_bruker_reading import compile_kernels

DEPTHS = ("file", "sealed", "stored", "content")
SECONDS = 2.0
INDEX = "SpectrumPositions0"

Triples = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Seed:
    """A healthy file: its bytes, its plain contents, its counts by (pixel, channel, value), how it was packed."""

    name: str
    data: bytes
    files: Mapping[str, bytes]
    counts: Triples
    compressed: bool


@dataclass(frozen=True)
class Mutant:
    number: int
    seed: Seed
    depth: str
    data: bytes
    stream: bytes | None  # the map's plain stream, where it is what was changed


# ------------------------------------------------------------------------------------------- an independent decoder
def decode(stream: bytes, n_channels: int) -> Triples:
    """Decode a map stream record by record in plain Python; ValueError where it breaks a rule of the format."""
    return join(list(decode_rows(stream, n_channels)))


def join(rows: list[list[tuple[int, int, int]]]) -> Triples:
    table = np.array([triple for row in rows for triple in row], np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def rows_before_damage(stream: bytes, n_channels: int) -> list[list[tuple[int, int, int]]]:
    """Whole rows of a stream, up to the first that breaks a rule."""
    rows = []
    with suppress(ValueError, struct.error):
        for row in decode_rows(stream, n_channels):
            rows.append(row)
    return rows


def decode_rows(stream: bytes, n_channels: int) -> Iterator[list[tuple[int, int, int]]]:
    """Yield (pixel, channel, value) of each row."""
    height, width = struct.unpack_from("<II", stream)
    at = bcf_files.STREAM_HEADER

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise ValueError(what)

    for y in range(height):
        need(at + 4 <= len(stream), "end")
        (n_pixels,) = struct.unpack_from("<I", stream, at)
        at, last, found = at + 4, -1, []
        need(n_pixels <= width, "row")
        for _ in range(n_pixels):
            need(at + 22 <= len(stream), "end")
            x, _, covered, _, flag, _, n, size = struct.unpack_from("<IHHIHHHI", stream, at)
            need(last < x < width, "x")
            need(flag <= 3, "flag")
            at, last = at + 22, x
            body = stream[at : at + size]
            need(len(body) == size, "end")
            at += size
            spectrum: dict[int, int] = {}
            if flag == 0:
                need(size == 2 * n, "size")
                pulses = list(struct.unpack(f"<{n}H", body))
            elif flag == 1:
                need(size == 2 * -(-12 * n // 16), "size")
                bits = "".join(f"{word:016b}" for word in struct.unpack(f"<{size // 2}H", body))
                pulses = [int(bits[12 * i : 12 * i + 12], 2) for i in range(n)]
            else:
                need(size >= 4 and struct.unpack("<I", body[-4:])[0] == 2 * n, "size")
                need(at + 2 * n <= len(stream), "end")
                pulses = list(struct.unpack_from(f"<{n}H", stream, at))
                at += 2 * n
                values, i = [], 0
                body = body[:-4]
                while i < len(body):
                    need(i + 2 <= len(body), "bunch")
                    code, k = body[i], body[i + 1]
                    need(k > 0 and code in (0, 1, 2, 4, 8), "bunch")
                    i += 2
                    if code == 0:
                        values += [0] * k
                        continue
                    gain = int.from_bytes(body[i : i + code], "little")
                    i += code
                    length = -(-k // 2) if code == 1 else k * code // 2
                    part = body[i : i + length]
                    need(len(part) == length, "bunch")
                    i += length
                    if code == 1:
                        values += [gain + (part[j // 2] >> 4 * (j % 2) & 15) for j in range(k)]
                    else:
                        values += [gain + v for v in struct.unpack(f"<{k}{ {2: 'B', 4: 'H', 8: 'I'}[code] }", part)]
                need(len(values) == covered, "bunch")
                spectrum = {c: v for c, v in enumerate(values) if v}
            for c in pulses:
                spectrum[c] = spectrum.get(c, 0) + 1
            need(all(c < n_channels and v < 1 << 32 for c, v in spectrum.items()), "count")
            found += [(y * width + x, c, spectrum[c]) for c in sorted(spectrum)]
        yield found


def triples(reader: BrukerReader, bands: Iterable[Band], box: Box | None = None) -> Triples:
    """All counts of bands by (pixel, channel, value) of the map, without a dense array anywhere."""
    box = box or Box.whole(reader.header.shape)
    width, columns = reader.header.shape[1], box.shape[1]
    parts = [(np.zeros(0, np.int64),) * 3]
    for band in bands:
        assert isinstance(band.counts, Csr)
        n = np.diff(band.counts.indptr)
        assert (n >= 0).all()
        y, x = np.divmod(np.repeat(np.arange(len(n)), n), columns)
        channel = band.counts.channel.astype(np.int64) + box.channels.start
        parts.append(((band.y0 + y) * width + box.xs.start + x, channel, band.counts.value.astype(np.int64)))
    pixel, channel, value = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return pixel, channel, value


# -------------------------------------------------------------------------------------------------------- mutations
NUMBERS = (0, 1, 2, 3, 4, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three random changes: bits, bytes, runs, numbers, moved, lost and doubled pieces, a cut."""
    out = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        if len(out) < 8:
            break
        at = int(rng.integers(len(out) - 4)) if rng.random() < 0.7 else int(rng.integers(min(len(out) - 4, 0x200)))
        n = int(rng.integers(1, min(200, len(out) - at)))
        kind = rng.integers(8)
        if kind == 0:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            out[at] = int(rng.integers(256))
        elif kind == 2:
            out[at : at + n] = rng.bytes(n)
        elif kind == 3:
            struct.pack_into("<I", out, at & ~1, NUMBERS[rng.integers(len(NUMBERS))])
        elif kind == 4:
            struct.pack_into("<H", out, at & ~1, NUMBERS[rng.integers(len(NUMBERS))] & 0xFFFF)
        elif kind == 5:
            del out[at : at + n]
        elif kind == 6:
            out[at:at] = out[at : at + n]
        else:
            out[at : at + n] = bytes(n)
    if rng.random() < 0.1:
        del out[int(rng.integers(len(out))) :]
    return bytes(out)


def seal_all(data: bytes) -> bytes:
    """Make the checksums of all chunks right, as far as the file's geometry still makes sense."""
    out = bytearray(data)
    if len(out) < 0x150:
        return data
    (size,) = struct.unpack_from("<I", out, 0x128)
    if 0x220 <= size <= 0x100000:
        for chunk in range(1, (len(out) - bcf_files.PROLOGUE) // size):
            bcf_files.seal(out, chunk)
    return bytes(out)


def mutants(seeds: list[Seed], n: int, start: int = 0) -> Iterator[Mutant]:
    """``n`` mutants, each a function of its number alone."""
    for number in range(start, start + n):
        rng = np.random.default_rng(number)
        seed, depth = seeds[rng.integers(len(seeds))], DEPTHS[rng.integers(4)]
        stream = None
        if depth in ("file", "sealed"):
            data = mutate(seed.data, rng)
            if depth == "sealed":
                data = seal_all(data)
        else:
            # Half of the changes go to the map, the rest to its header and index.
            name = "SpectrumData0" if rng.random() < 0.5 else list(seed.files)[rng.integers(len(seed.files))]
            files = dict(seed.files)
            # CRC-16 and zlib in plain Python are for small files only.
            compress = seed.compressed and sum(map(len, files.values())) < 100_000
            if depth == "content":
                files[name] = mutate(files[name], rng)
                stream = files[name] if name == "SpectrumData0" else None
            stored = {key: bcf_files.zlib_blocks(raw) if compress else raw for key, raw in files.items()}
            if depth == "stored":
                stored[name] = mutate(stored[name], rng)
            data = bcf_files.container(stored, chunk_size=1024 if len(seed.data) < 200_000 else 0x10000)
        yield Mutant(number, seed, depth, data, stream)


def made_seeds() -> list[Seed]:
    """Tiny files of every packing, both versions, zlib and plain, one with additional pulses, one with two maps."""
    seeds = []
    for i, packing in enumerate(bcf_files.PACKINGS):
        for compressed in (True, False):
            cube = bcf_files.counts((4, 5, 53), seed=i, largest=300 if packing == "words" else 12)
            version = 1 + (i + compressed) % 2
            files = bcf_files.contents([cube], packing=packing, version=version, extra=3 * (i % 2))
            data = bcf_files.pack(files, version=version, compressed=compressed, block_size=700)
            seeds.append(Seed(packing, data, files, decode(files["SpectrumData0"], 53), compressed))
    return seeds


def real_seeds(folder: Path = FOLDER) -> list[Seed]:
    """The real maps that are here."""
    seeds = []
    for path in sorted(folder.glob("*.bcf")):
        container, reader = Container(path), BrukerReader(path)
        files = {name.removeprefix("EDSDatabase/"): container.read(name, 1 << 30) for name in container.files}
        seeds.append(Seed(path.name, path.read_bytes(), files, triples(reader, reader.bands(64)), True))
    return seeds


def outcome(mutant: Mutant, path: Path) -> str:
    """Read a mutant wholly: "refused" (SourceError), "read" (and judged exact) or "other" (another map, well-formed).

    "salvaged" is what was refused, but of which some rows were kept (and judged exact where the truth is known).
    AssertionError where counts are wrong or it took too long; anything else that is raised is a bug as well.
    """
    path.write_bytes(mutant.data)
    n_channels, result, message = 0, None, str(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        begin = time.perf_counter()
        try:
            reader = BrukerReader(path)
            n_channels = reader.header.shape[2]
            result = triples(reader, reader.bands(3))
            for _ in reader.images():
                pass
        except SourceError as error:
            message = str(error)
        assert str(path) in message
        within(SECONDS, begin)
        begin = time.perf_counter()
        check_box(mutant, path, result)
        within(SECONDS, begin)
        begin = time.perf_counter()
        kept = salvaged(path)
        within(SECONDS, begin)
    expected: Triples | None = mutant.seed.counts
    small = len(mutant.data) < 1_000_000
    if mutant.depth == "content":
        if mutant.stream is not None and small:
            rows = rows_before_damage(mutant.stream, n_channels or 53)
            try:
                expected = decode(mutant.stream, n_channels or 53)
            except (ValueError, struct.error):
                expected = None
            if result is not None:
                assert expected is not None, "damage was read without a word"
            elif expected is not None:
                # Nothing is wrong with the records, so it must be the size, which the header and the index know better.
                assert mutant.stream[:8] != mutant.seed.files["SpectrumData0"][:8], "a good stream was refused"
            if kept is not None:
                assert kept[1] == len(rows), "salvaged rows that are damaged, or not all that are whole"
                equal(kept[0], join(rows))
        elif mutant.stream is None:
            expected = None
    elif kept is not None and mutant.depth == "file" and small:
        # Everything is behind a checksum.
        equal(kept[0], tuple(column[mutant.seed.counts[0] < kept[1] * kept[2]] for column in mutant.seed.counts))
    if result is None:
        return "salvaged" if kept is not None and kept[1] else "refused"
    assert kept is not None
    equal(kept[0], result)
    if mutant.depth in ("file", "content") and expected is not None and small:
        equal(result, expected)
        return "read"
    return "other"


def within(seconds: float, begin: float) -> None:
    took = time.perf_counter() - begin
    assert took < seconds, f"{took:.1f} s"


def equal(ours: Triples, other: Triples) -> None:
    for mine, theirs in zip(ours, other, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def check_box(mutant: Mutant, path: Path, whole: Triples | None) -> None:
    """Read a drawn box of the lower half of a mutant, by the index if it has one."""
    rng = np.random.default_rng([mutant.number, 1])
    try:
        reader = BrukerReader(path)
        shape = reader.header.shape
        box = Box(slice(shape[0] // 2, shape[0]), *(part(n, rng) for n in shape[1:]))
        found = triples(reader, reader.bands(3, box), box)
    except SourceError as error:
        if whole is None:
            return
        state = state_of_index(path)
        if state == "right" or (state == "damaged" and INDEX not in str(error)):
            raise AssertionError(f"the box of a good map was refused, its index is {state}") from error
        return
    # An index that was written wrong may lead to another row that looks the same; one that was damaged never does.
    if whole is not None and (mutant.depth == "file" or state_of_index(path) != "wrong"):
        y, x = np.divmod(whole[0], shape[1])
        inside = [box.ys.start <= y, box.xs.start <= x, x < box.xs.stop]
        inside += [box.channels.start <= whole[1], whole[1] < box.channels.stop]
        equal(found, tuple(column[np.logical_and.reduce(inside)] for column in whole))


def part(n: int, rng: np.random.Generator) -> slice:
    start = int(rng.integers(n))
    return slice(start, int(rng.integers(start, n)) + 1)


def state_of_index(path: Path) -> str:
    """Of a map that is whole: whether its index is "right" (or there is none), "damaged", or "wrong" of the map."""
    container = Container(path)
    name, stream = f"EDSDatabase/{INDEX}", container.read("EDSDatabase/SpectrumData0", 1 << 30)
    if name not in container.files:
        return "right"
    try:
        index = container.read(name, 1 << 30)
    except SourceError:
        return "damaged"
    expected = stream[:8] + places(stream).tobytes()
    return "right" if index[: len(expected)] == expected else "wrong"


def places(stream: bytes) -> np.ndarray:
    """Where the pixels of a healthy stream have their records, as the index says it."""
    height, width = struct.unpack_from("<II", stream)
    found, at = np.full((height, width), -1, "<i8"), bcf_files.STREAM_HEADER
    for y in range(height):
        (n_pixels,) = struct.unpack_from("<I", stream, at)
        at += 4
        for _ in range(n_pixels):
            x, _, _, _, flag, _, n, size = struct.unpack_from("<IHHIHHHI", stream, at)
            found[y, x] = at + 4
            at += 22 + size + (2 * n if flag >= 2 else 0)
    return found


def salvaged(path: Path) -> tuple[Triples, int, int] | None:
    """Counts, number and width of the rows before the damage; None if not even the header can be read."""
    bands: list[Band] = []
    try:
        reader = BrukerReader(path, salvage=True)
    except SourceError:
        return None
    with suppress(SourceError):
        for band in reader.bands(3):
            bands.append(band)
    return triples(reader, bands), sum(band.rows for band in bands), reader.header.shape[1]


# ------------------------------------------------------------------------------------------------------------ tests
@pytest.fixture(scope="module", autouse=True)
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> None:
    compile_kernels(tmp_path_factory.mktemp("compiled"))


def test_the_plain_decoder_agrees_with_the_writer() -> None:
    cube = bcf_files.counts((4, 5, 53), largest=300)
    pixel, channel, value = decode(bcf_files.map_stream(cube, "mixed", 3)[0], 53)
    np.testing.assert_array_equal(np.flatnonzero(cube), pixel * 53 + channel)
    np.testing.assert_array_equal(cube[cube > 0], value)


def test_the_plain_index_agrees_with_the_writer() -> None:
    for packing in bcf_files.PACKINGS:
        stream, index = bcf_files.map_stream(bcf_files.counts((4, 5, 53), largest=300), packing, 3)
        assert stream[:8] + places(stream).tobytes() == index


@pytest.mark.parametrize("part", range(4))
def test_mutants(tmp_path: Path, part: int) -> None:
    seen = {"refused": 0, "salvaged": 0, "read": 0, "other": 0}
    for mutant in mutants(made_seeds(), 150, start=150 * part):
        seen[outcome(mutant, tmp_path / "mutant.bcf")] += 1
    assert min(seen.values()) > 0, seen  # else the mutations would be too coarse or too fine


def test_mutants_of_real_maps(tmp_path: Path) -> None:
    seeds = real_seeds()
    if not seeds:
        pytest.skip("real maps are not here (looked in ../shared/data)")
    for mutant in mutants(seeds, 40):
        outcome(mutant, tmp_path / "mutant.bcf")
