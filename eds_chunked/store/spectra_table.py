"""Tables of many spectra, written chunk by chunk while a map is read.

The bytes are made and put here, as those of tiles are; with the same codecs they are what Zarr makes. By way of Zarr a
chunk takes three times as long, most of it in waiting for its event loop.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from numcodecs.blosc import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from eds_chunked.store.tile_codecs import checksum_of

Array = np.ndarray[Any, Any]

CHECKED_SPECTRA: dict[str, Any] = {
    "compressors": (BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"), Crc32cCodec())
}
"""How tables of spectra are encoded: every Zarr reads it, a flipped bit is an error, and it is four times as fast as
what the other results have, and smaller."""

_CHUNK_BYTES = 2 * 2**20

_blosc = Blosc(cname="lz4", clevel=1, shuffle=Blosc.BITSHUFFLE)


def spectra_shape(n_spectra: int, n_channels: int, itemsize: int) -> tuple[int, int]:
    """Return the chunk of a table of spectra: rows of all channels, 2 MiB of them."""
    return max(1, min(n_spectra, _CHUNK_BYTES // (n_channels * itemsize))), n_channels


def write_spectra_chunk(array: zarr.Array[Any], chunk: int, spectra: Array) -> None:
    """Write one chunk of a table of spectra: its rows, of which the last chunk may have fewer."""
    whole = spectra
    if spectra.shape != array.chunks:
        whole = np.zeros(array.chunks, spectra.dtype)  # a chunk at the edge is stored whole
        whole[: len(spectra)] = spectra
    packed = bytes(_blosc.encode(np.ascontiguousarray(whole, array.dtype.newbyteorder("<"))))
    data = default_buffer_prototype().buffer.from_bytes(packed + checksum_of(packed))
    sync(array.store.set(f"{array.path}/{array.metadata.encode_chunk_key((chunk, 0))}", data))
