"""The count codec as Zarr knows it: ``eds_chunked.counts``, found by its entry point wherever the package is installed.

xarray, Zarr and napari then read the counts of a store as an ordinary dense array.
"""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from eds_chunked.errors import ChunkLayoutError, StoreError
from eds_chunked.kernels import count_codec
from eds_chunked.kernels.sparse import from_dense, to_dense

NAME = "eds_chunked.counts"


@dataclass(frozen=True)
class CountsCodec(ArrayBytesCodec):
    """Zarr v3 array-to-bytes codec for photon counts: unsigned integers of 1, 2 or 4 bytes, mostly zeros.

    The last axis of a chunk are the channels. Put an entropy coder behind it: ``ZstdCodec(level=1, checksum=True)``.
    The bytes do not depend on the dtype of the array. Format: ``docs/count-codec.md``.
    """

    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        version = dict(data.get("configuration", {})).get("version")
        if version != count_codec.VERSION:
            raise StoreError(
                f"codec {NAME}",
                found=f"version {version}",
                expected=f"version {count_codec.VERSION}",
                fix="open it with the version of eds_chunked that wrote it",
            )
        return cls()

    def to_dict(self) -> dict[str, Any]:
        return {"name": NAME, "configuration": {"version": count_codec.VERSION}}

    def validate(self, *, shape: Any, dtype: Any, chunk_grid: Any) -> None:
        native = dtype.to_native_dtype()
        if native.kind != "u" or native.itemsize > 4 or len(shape) == 0:
            raise ChunkLayoutError(
                f"codec {NAME}",
                found=f"an array of {native} with {len(shape)} axes",
                expected="unsigned integers of 1, 2 or 4 bytes, with channels as last axis",
                fix="choose another codec, or convert the counts to uint32",
            )

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        *pixels, n_channels = chunk_spec.shape
        dtype = np.dtype(chunk_spec.dtype.to_native_dtype())
        channels = slice(0, n_channels)
        counts = count_codec.decode(chunk_bytes.as_numpy_array(), math.prod(pixels), n_channels, channels, dtype)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(to_dense(counts).reshape(chunk_spec.shape))

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        counts = from_dense(chunk_array.as_numpy_array().reshape(-1, chunk_spec.shape[-1]))
        return chunk_spec.prototype.buffer.from_bytes(count_codec.encode(counts))

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_bytes, chunk_spec)

    async def _encode_single(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_array, chunk_spec)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        raise NotImplementedError(f"{NAME} makes chunks of no fixed size")
