"""A tiny writer of Bruker .bcf files for tests, in pure Python, so that the suite stands without any other writer.

The layers are separate functions, so that a test can damage one and seal the layers above it properly:
``map_stream`` (records) -> ``zlib_blocks`` (CRC-16) -> ``container`` (XOR-32).
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

PROLOGUE = 0x118
STREAM_HEADER = 0x1A0
PACKINGS = ("pulses16", "pulses12", "nibbles", "bytes", "words", "longs", "mixed")
_CODES = {"nibbles": 1, "bytes": 2, "words": 4, "longs": 8}


def _crc_of_byte(crc: int) -> int:
    for _ in range(8):
        crc = (crc >> 1) ^ 0xA001 if crc & 1 else crc >> 1
    return crc


_CRC = [_crc_of_byte(byte) for byte in range(256)]


def crc16(data: bytes) -> int:
    """CRC-16/ARC, byte by byte."""
    crc = 0
    for byte in data:
        crc = crc >> 8 ^ _CRC[(crc ^ byte) & 255]
    return crc


# ------------------------------------------------------------------------------------------------- pixel records
def bunch(code: int, values: Sequence[int]) -> bytes:
    """One bunch of channels; the gain is the smallest value, so that it matters."""
    n = len(values)
    if code == 0:
        return bytes([0, n])
    gain = min(min(values), 255 if code == 1 else 65535)
    rest = [int(v) - gain for v in values]
    if code == 1:
        nibbles = [*rest, 0]
        body = bytes(nibbles[i] | nibbles[i + 1] << 4 for i in range(0, n, 2))
        return bytes([1, n, gain]) + body
    head, item = {2: ("<H", "B"), 4: ("<I", "H"), 8: ("<Q", "I")}[code]
    return bytes([code, n]) + struct.pack(head, gain) + struct.pack(f"<{n}{item}", *rest)


def _fits(code: int, values: Sequence[int]) -> bool:
    gain = min(min(values), 255 if code == 1 else 65535)
    return max(values) - gain < {1: 16, 2: 1 << 8, 4: 1 << 16, 8: 1 << 32}[code]


def bunches(spectrum: Sequence[int], code: int, longest: int = 7) -> bytes:
    """Bunches up to the last occupied channel, runs of zeros apart; a code that is too narrow gives way to a wider."""
    used = [int(v) for v in np.trim_zeros(np.asarray(spectrum), "b")]
    out, at = b"", 0
    while at < len(used):
        zeros = next((i for i, v in enumerate(used[at : at + 254]) if v), min(254, len(used) - at))
        if zeros >= 3:
            out, at = out + bunch(0, used[at : at + zeros]), at + zeros
            continue
        values = used[at : at + longest]
        wide = code
        while not _fits(wide, values):
            wide *= 2
        out, at = out + bunch(wide, values), at + len(values)
    return out


def record(x: int, spectrum: np.ndarray, packing: str, extra: int = 0) -> bytes:
    """Pixel record; every ``extra``-th count of a bunch pixel becomes an additional pulse (0: none), last first."""
    spectrum = np.asarray(spectrum)
    last = len(np.trim_zeros(spectrum, "b"))
    covered = tail = 0
    if packing.startswith("pulses") and spectrum.sum() > 65535:
        packing = "words"  # the number of pulses has 16 bits
    # A very bright pixel must not be spelt out pulse by pulse where no pulse is wanted.
    pulsed = extra or packing in ("pulses16", "pulses12")
    channels = np.repeat(np.arange(len(spectrum)), spectrum) if pulsed else np.empty(0, np.int64)
    if packing in ("pulses16", "pulses12"):
        n = len(channels)
        if packing == "pulses16":
            flag, data = 0, channels.astype("<u2").tobytes()
        else:
            bits = "".join(f"{c:012b}" for c in channels)
            bits += "0" * (-len(bits) % 16)
            flag, data = 1, b"".join(struct.pack("<H", int(bits[i : i + 16], 2)) for i in range(0, len(bits), 16))
        pulses = b""
    else:
        apart = channels[::extra][:65535][::-1] if extra else channels[:0]
        spectrum = spectrum - np.bincount(apart, minlength=len(spectrum)).astype(spectrum.dtype)
        n, pulses = len(apart), apart.astype("<u2").tobytes()
        covered = len(np.trim_zeros(spectrum, "b"))
        flag, data = 2, bunches(spectrum, _CODES[packing]) + struct.pack("<I", 2 * n)
        tail = len(data) & 0xFFFF
    return struct.pack("<IHHIHHHI", x, last, covered, 0x000C0000, flag, tail, n, len(data)) + data + pulses


def map_stream(cube: np.ndarray, packing: str = "nibbles", extra: int = 0) -> tuple[bytes, bytes]:
    """Stream of the map (rows, columns, channels) and its index; pixels without counts have no record."""
    height, width, n_channels = cube.shape
    out = bytearray(struct.pack("<IIIB", height, width, n_channels, 1).ljust(STREAM_HEADER, b"\xa5"))
    index = np.full((height, width), -1, "<i8")
    for y in range(height):
        occupied = np.flatnonzero(cube[y].any(axis=1))
        out += struct.pack("<I", len(occupied))
        for x in occupied:
            kind = PACKINGS[(x + y) % 6] if packing == "mixed" else packing
            index[y, x] = len(out) + 4
            out += record(int(x), cube[y, x], kind, extra)
    return bytes(out), struct.pack("<II", height, width) + index.tobytes()


# ----------------------------------------------------------------------------------------------------- container
def zlib_blocks(raw: bytes, version: int = 2, block_size: int = 1000, uneven: bool = False) -> bytes:
    """Compressed file: header and independent zlib blocks; ``uneven`` ones are full, half full and nearly empty."""
    lengths, starts = ([block_size, block_size // 2 + 1, 1] if uneven else [block_size]), [0]
    while starts[-1] < len(raw):
        starts.append(starts[-1] + lengths[len(starts) % len(lengths)])
    parts = [raw[start:stop] for start, stop in pairwise(starts)]
    out = bytearray((b"AACS" + struct.pack("<IIIfB", block_size, 0, len(parts), 2.0, 1)).ljust(128, b"\0"))
    for part in parts:
        packed = zlib.compress(part, 1)
        mark = len(packed) + 16 if version == 2 else len(out) + 16 + len(packed)
        out += struct.pack("<IIII", len(packed), len(part), crc16(part), mark) + packed
    return bytes(out)


def seal(data: bytearray, chunk: int) -> None:
    """Make the checksum of one chunk right again."""
    (size,) = struct.unpack_from("<I", data, 0x128)
    start = PROLOGUE + chunk * size
    words = np.frombuffer(bytes(data[start + 32 : start + 32 + (size - 32) // 4 * 4]), "<u4")
    struct.pack_into("<I", data, start + 4, int(np.bitwise_xor.reduce(words)))


def container(
    files: Mapping[str, bytes], *, chunk_size: int = 1024, version: int = 2, scatter: bool = False, front: bool = False
) -> bytes:
    """Container with ``files`` (stored bytes by name in EDSDatabase).

    Chunks: prologue, for each file its tables and data, directory; or, as the vendor does, the directory in ``front``.
    """
    room = chunk_size - 32
    per = room // 512
    n_directory = -(-(len(files) + 1) // per)
    chunks: list[tuple[int, int, bytes]] = [(0, 0, b"")]  # next, kind, payload
    if front:
        chunks += [(0, 0, b"")] * n_directory
    entries = [("EDSDatabase", -1, 0, -1, 1)]
    for name, content in files.items():
        n = -(-len(content) // room)
        n_tables = max(1, -(-n // (room // 4)))
        first = len(chunks)
        order = np.arange(n)
        if scatter:
            order = np.random.default_rng(5).permutation(n)
        where = order + first + n_tables
        for i in range(n_tables):
            part = where[i * (room // 4) : (i + 1) * (room // 4)]
            chunks.append((first + i + 1 if i + 1 < n_tables else 0xFFFFFFFF, 5, part.astype("<u4").tobytes()))
        data = [b""] * n
        for i in range(n):
            data[order[i]] = content[i * room : (i + 1) * room]
        chunks += [(0xDEADBEEF, 6, payload) for payload in data]
        entries.append((name, first, len(content), 0, 0))
    directory = 1 if front else len(chunks)
    rows = [
        struct.pack("<iQQQQIi", first, size, 1, 2, 3, 0x10 * folder, parent)
        + bytes(176)
        + bytes([folder, 0, 0, 0])
        + name.encode().ljust(256, b"\0")
        + bytes(32)
        for name, first, size, parent, folder in entries
    ]
    chunks[directory : directory + n_directory] = [
        (directory + i + 1, 1, b"".join(rows[i * per : (i + 1) * per])) for i in range(n_directory)
    ]
    while (len(chunks) - 1) % 8:
        chunks.append((0, 0, b""))
    out = bytearray(b"AAMVHFSS" + struct.pack("<q", 0x7FFFFFFFFFFFFFFE)).ljust(PROLOGUE, b"\0")
    for following, kind, payload in chunks:
        out += struct.pack("<IIB", following, 0, kind).ljust(32, b"\x5a") + payload.ljust(room, b"\0")
    out[PROLOGUE : PROLOGUE + 8] = b"AASFSSGN"
    struct.pack_into("<ffIIIIII", out, 0x120, 2.8, 2.8 if version == 2 else 2.6, chunk_size, 8, 1, 1, 1, n_directory)
    struct.pack_into("<III", out, 0x140, directory, len(rows), len(chunks))
    for i in range(1, len(chunks)):
        seal(out, i)
    return bytes(out)


# -------------------------------------------------------------------------------------------------------- header
def image_xml(name: str, planes: Mapping[str, np.ndarray], inside: str = "") -> str:
    """The node of an image in the header."""
    first = next(iter(planes.values()))
    out = f'<ClassInstance Type="TRTImageData"{f" Name={name!r}" if name else ""}><TRTHeaderedClass/>'
    out += f"<ItemSize>{first.itemsize}</ItemSize><Width>{first.shape[1]}</Width><Height>{first.shape[0]}</Height>"
    out += f"<PlaneCount>{len(planes)}</PlaneCount>"
    for i, (title, pixels) in enumerate(planes.items()):
        data = base64.b64encode(np.ascontiguousarray(pixels).astype(f"<u{pixels.itemsize}").tobytes()).decode()
        out += f"<Plane{i}><Description>{title}</Description><Data>{data}</Data></Plane{i}>"
    return out + inside + "</ClassInstance>"


def header_xml(
    cubes: Sequence[np.ndarray],
    *,
    version: int = 2,
    scale: str = "1.0001E-2",
    offset: str = "-4.72E-1",
    microscope: str = "<HV>20</HV><DX>1,25</DX><DY>0.75</DY><Mag>1,5E2</Mag>",
    name: str = "Bröt & Käse",
    images: Mapping[str, np.ndarray] | None = None,
    elements: Sequence[tuple[str, int]] = (("Fe", 26), ("O", 8)),
) -> bytes:
    """XML header of maps of one size."""
    height, width, _ = cubes[0].shape
    regions = "".join(
        f'<ClassInstance Type="TRTSpectrumRegion" Name="{symbol}"><Element>{z}</Element></ClassInstance>'
        for symbol, z in elements
    )
    images = {"BSE": np.arange(height * width, dtype=np.uint16).reshape(height, width)} if images is None else images
    overview = image_xml("any", {"Ch 1": np.full((3, 5), 7, np.uint16)})
    spectra = ""
    for i, cube in enumerate(cubes):
        channels = ",".join(map(str, cube.sum(axis=(0, 1), dtype=np.int64)))
        spectra += (
            f'<SpectrumData{i}><ClassInstance Type="TRTSpectrum"><TRTHeaderedClass>'
            '<ClassInstance Type="TRTSpectrumHardwareHeader"><Amplification>2E4</Amplification></ClassInstance>'
            '<ClassInstance Type="TRTDetectorHeader"><Type>XFlash 6|30</Type></ClassInstance>'
            '<ClassInstance Type="TRTESMAHeader"><PrimaryEnergy>2E1</PrimaryEnergy>'
            "<ElevationAngle>3,5E1</ElevationAngle></ClassInstance></TRTHeaderedClass>"
            f'<ClassInstance Type="TRTSpectrumHeader"><CalibAbs>{offset}</CalibAbs><CalibLin>{scale}</CalibLin>'
            "<SigmaAbs>2.286813269E-4</SigmaAbs><SigmaLin>4.466391048E-4</SigmaLin></ClassInstance>"
            f"<Channels>{channels}</Channels></ClassInstance></SpectrumData{i}>"
        )
    escaped = name.replace("&", "&amp;")
    xml = (
        '<?xml version="1.0" encoding="WINDOWS-1252" standalone="yes"?><TRTSpectrumDatabase><RTHeader/>'
        f'<ClassInstance Type="TRTSpectrumDatabase" Name="{escaped}">'
        f"<Header><Date>14.3.2017</Date><Time>19:4:11</Time><FileVersion>{version}</FileVersion></Header>"
        f'<ClassInstance Type="TRTSEMData">{microscope}</ClassInstance>'
        '<ClassInstance Type="TRTSEMStageData"><X>6,2E4</X><Tilt>0.5</Tilt></ClassInstance>'
        '<ClassInstance Type="TRTDSPConfiguration"><PixelAverage>16</PixelAverage><LineAverage>2</LineAverage>'
        "<PixelTime>2</PixelTime></ClassInstance>"
        + (image_xml("", images) if images else "")
        + image_xml("PixelTimes", {"times": np.full((height, width), 30, np.uint32)})
        + f'<ClassInstance Type="TRTContainerClass" Name="x"><ChildClassInstances>{regions}'
        f'<ClassInstance Type="TRTContainerClass" Name="OverviewImages"><ChildClassInstances>{overview}'
        "</ChildClassInstances></ClassInstance></ChildClassInstances></ClassInstance>"
        f"<LineCounter>{','.join(['30'] * height)}</LineCounter>{spectra}</ClassInstance></TRTSpectrumDatabase>"
    )
    return xml.encode("cp1252")


# -------------------------------------------------------------------------------------------------------- a file
def contents(
    cubes: Sequence[np.ndarray], *, packing: str = "nibbles", extra: int = 0, version: int = 2, **xml: object
) -> dict[str, bytes]:
    """Uncompressed files of a hypermap by name."""
    files = {"HeaderData": header_xml(cubes, version=version, **xml)}  # type: ignore[arg-type]
    for i, cube in enumerate(cubes):
        files[f"SpectrumData{i}"], index = map_stream(cube, packing, extra)
        if version == 2:
            files[f"SpectrumPositions{i}"] = index
    return files


def pack(
    files: Mapping[str, bytes],
    *,
    version: int = 2,
    compressed: bool = True,
    chunk_size: int = 1024,
    block_size: int = 1000,
    uneven: bool = False,
    scatter: bool = False,
    front: bool = False,
) -> bytes:
    """Bytes of the .bcf that holds ``files``."""
    if compressed:
        files = {name: zlib_blocks(raw, version, block_size, uneven) for name, raw in files.items()}
    return container(files, chunk_size=chunk_size, version=version, scatter=scatter, front=front)


def write(path: Path, cubes: Sequence[np.ndarray], **options: object) -> Path:
    """Write a .bcf of ``cubes``; options are those of :func:`contents`, :func:`pack` and :func:`header_xml`."""
    names = ("compressed", "chunk_size", "block_size", "uneven", "scatter", "front")
    packing = {key: options.pop(key) for key in names if key in options}
    version = options.get("version", 2)
    path.write_bytes(pack(contents(cubes, **options), version=version, **packing))  # type: ignore[arg-type]
    return path


def counts(shape: tuple[int, int, int], *, seed: int = 0, density: float = 0.1, largest: int = 9) -> np.ndarray:
    """Asymmetric sparse counts with some empty pixels, an empty row and every border occupied."""
    rng = np.random.default_rng(seed)
    cube = rng.integers(1, largest, shape, dtype=np.uint32, endpoint=True) * (rng.random(shape) < density)
    cube = cube * (rng.random(shape[:2]) < 0.8)[:, :, None]
    if shape[0] > 2:
        cube[1] = 0
    cube[-1, -1, -1] = largest
    cube[0, 0, 0] = 1
    return cube.astype(np.uint32)
