"""Tiles in the codecs that ``convert`` offers, by dose."""

from __future__ import annotations

import numpy as np

from eds_chunked import synthetic
from eds_chunked.store.tile_codecs import TILE_CODECS


class Tiles:
    """One tile of a rock."""

    params = ([18.0, 100.0, 400.0, 1500.0], ["counts", "zstd"])
    param_names = ("counts_per_pixel", "codec")
    chunk = (64, 64, 2048)

    def setup(self, counts_per_pixel: float, codec: str) -> None:
        height, width, channels = self.chunk
        rock = synthetic.rock(self.chunk, counts_per_pixel=counts_per_pixel, energy_scale=0.01 * 2048 / channels)
        self.tile = next(rock.bands(height)).counts
        self.shape, self.dtype = (height, width), np.dtype(np.uint16)
        self.codec = TILE_CODECS[codec]
        self.data = self.codec.encode(self.tile, self.shape, self.chunk, self.dtype)
        self.time_decode(counts_per_pixel, codec)  # compiles

    def time_encode(self, counts_per_pixel: float, codec: str) -> None:
        self.codec.encode(self.tile, self.shape, self.chunk, self.dtype)

    def time_decode(self, counts_per_pixel: float, codec: str) -> None:
        self.codec.decode(self.data, self.chunk, slice(0, self.chunk[2]), self.dtype)

    def track_bytes_a_pixel(self, counts_per_pixel: float, codec: str) -> float:
        return len(self.data) / (self.chunk[0] * self.chunk[1])

    track_bytes_a_pixel.unit = "bytes"  # type: ignore[attr-defined]
