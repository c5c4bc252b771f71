"""How a tile of counts becomes the bytes of a chunk, and back: the codecs that ``convert`` offers.

The bytes are those that Zarr would make with the same codecs. Made here they come straight from CSR and go straight to
it: with the count codec no dense block exists in between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import google_crc32c
import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd
from zarr.abc.codec import Codec
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec, ZstdCodec
from zarr.codecs.bytes import Endian

from eds_chunked.kernels import count_codec
from eds_chunked.kernels.sparse import Csr, from_dense, pad_pixels, to_dense
from eds_chunked.store.codec import CountsCodec

CHECKSUM_BYTES = 4

Shape = tuple[int, int, int]


class TileCodec(Protocol):
    """One way to store tiles."""

    @property
    def name(self) -> str:
        """What ``--codec`` calls it."""
        ...

    @property
    def independent_of_dtype(self) -> bool:
        """Whether the bytes stay valid when the dtype of the array is narrowed or widened."""
        ...

    def pipeline(self) -> dict[str, Any]:
        """Return the arguments of ``zarr.create_array`` that say the same to Zarr."""
        ...

    def wrote(self, codecs: Sequence[Codec]) -> bool:
        """Tell whether chunks with these codecs of Zarr are such tiles."""
        ...

    def encode(self, tile: Csr, shape: tuple[int, int], chunk: Shape, dtype: np.dtype[Any]) -> bytes:
        """Encode the pixels of a tile of ``shape`` (rows, columns), in raster order; one at the edge is padded."""
        ...

    def decode(self, data: bytes, chunk: Shape, channels: slice, dtype: np.dtype[Any]) -> Csr:
        """Return a range of channels of all pixels of a chunk; raise ValueError or RuntimeError for damaged bytes."""
        ...


class _Counts:
    """The count codec with zstd behind it, whose checksum finds flipped bytes."""

    name = "counts"
    independent_of_dtype = True
    _entropy = Zstd(level=1, checksum=True)

    def pipeline(self) -> dict[str, Any]:
        return {"serializer": CountsCodec(), "compressors": [ZstdCodec(level=1, checksum=True)]}

    def wrote(self, codecs: Sequence[Codec]) -> bool:
        return [type(codec) for codec in codecs] == [CountsCodec, ZstdCodec]

    def encode(self, tile: Csr, shape: tuple[int, int], chunk: Shape, dtype: np.dtype[Any]) -> bytes:
        return bytes(self._entropy.encode(count_codec.encode(pad_pixels(tile, shape, chunk[:2]))))

    def decode(self, data: bytes, chunk: Shape, channels: slice, dtype: np.dtype[Any]) -> Csr:
        # No chunk is longer than its counts in four bytes and a header.
        most = 4 * math.prod(chunk) + count_codec.HEADER_BYTES
        if not 0 <= zstd_content_bytes(data) <= most:
            raise ValueError(f"a frame that claims to hold more than the {most} bytes of a tile")
        return count_codec.decode(self._entropy.decode(data), math.prod(chunk[:2]), chunk[2], channels, dtype)


class _Blosc:
    """A stock codec, which every Zarr can read, with a checksum: Blosc has none."""

    independent_of_dtype = False

    def __init__(self, name: Literal["zstd", "lz4"]) -> None:
        self.name: Literal["zstd", "lz4"] = name
        self._blosc = Blosc(cname=name, clevel=1, shuffle=Blosc.BITSHUFFLE)

    def pipeline(self) -> dict[str, Any]:
        return {"compressors": [BloscCodec(cname=self.name, clevel=1, shuffle="bitshuffle"), Crc32cCodec()]}

    def wrote(self, codecs: Sequence[Codec]) -> bool:
        if [type(codec) for codec in codecs] != [BytesCodec, BloscCodec, Crc32cCodec]:
            return False
        order, blosc = codecs[0], codecs[1]
        little = isinstance(order, BytesCodec) and order.endian in (None, Endian.little)
        return little and isinstance(blosc, BloscCodec) and blosc.cname.value == self.name

    def encode(self, tile: Csr, shape: tuple[int, int], chunk: Shape, dtype: np.dtype[Any]) -> bytes:
        packed: bytes = bytes(self._blosc.encode(to_dense(pad_pixels(tile, shape, chunk[:2]), dtype)))
        return packed + checksum_of(packed)

    def decode(self, data: bytes, chunk: Shape, channels: slice, dtype: np.dtype[Any]) -> Csr:
        packed, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if checksum_of(packed) != checksum:
            raise ValueError("a checksum that does not fit")
        # Bytes 4 to 8 of the header are the size of what is inside: nothing is inflated that is no tile.
        if int.from_bytes(packed[4:8], "little") != math.prod(chunk) * dtype.itemsize:
            raise ValueError("a block that claims to hold something else than a tile")
        dense = np.frombuffer(self._blosc.decode(packed), dtype)
        return from_dense(dense.reshape(-1, chunk[2])[:, channels])


_ZSTD_MAGIC = bytes.fromhex("28b52ffd")


def zstd_content_bytes(data: bytes) -> int:
    """Return how many bytes a zstd frame says that it holds, -1 where it does not say (RFC 8878, 3.1.1.1)."""
    if data[:4] != _ZSTD_MAGIC or len(data) < 5:
        return -1
    descriptor = data[4]
    single_segment = bool(descriptor & 0x20)
    start = 5 + (not single_segment) + (0, 1, 2, 4)[descriptor & 3]
    width = (int(single_segment), 2, 4, 8)[descriptor >> 6]
    if width == 0 or len(data) < start + width:
        return -1
    # Sizes of two bytes begin at 256.
    return int.from_bytes(data[start : start + width], "little") + (256 if width == 2 else 0)


def checksum_of(data: bytes) -> bytes:
    """Return the CRC-32C of bytes as Zarr stores it."""
    return int(google_crc32c.value(data)).to_bytes(CHECKSUM_BYTES, "little")


TILE_CODECS: dict[str, TileCodec] = {codec.name: codec for codec in (_Counts(), _Blosc("zstd"), _Blosc("lz4"))}
