"""Writing the counts of a map, tile by tile, in the smallest dtype that turns out to be safe."""

from __future__ import annotations

from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore

from eds_chunked.kernels.sparse import Csr, to_dense
from eds_chunked.schema import COUNTS, MAP_GROUP, VARIABLES, attributes
from eds_chunked.store.backend import HeldBackStore, Location, zarr_store
from eds_chunked.store.layout import (
    FORMAT,
    FORMAT_ATTR,
    FORMAT_VERSION,
    HOW_TO_READ,
    READER_ATTR,
    VERSION_ATTR,
    group_document,
    tile_shape,
)

_COUNTS_ARRAY = f"{MAP_GROUP}/{COUNTS}"
_WRITE_ALL = {"array.write_empty_chunks": True}
"""A tile that is absent would read as zeros in silence; written always, its absence is damage."""


class MapWriter:
    """Creates a store and fills ``/map/counts``; the map exists for readers only after :meth:`commit`."""

    def __init__(self, location: Location, shape: tuple[int, int, int]) -> None:
        self.store = HeldBackStore(zarr_store(location), group_document(MAP_GROUP))
        self.shape = shape
        self.tile = tile_shape(shape[2])
        root = {FORMAT_ATTR: FORMAT, VERSION_ATTR: FORMAT_VERSION, READER_ATTR: HOW_TO_READ}
        zarr.create_group(self.store, attributes=root)
        zarr.create_group(self.store, path=MAP_GROUP)
        self._written: list[tuple[slice, slice]] = []
        self._counts = self._declare(np.dtype(np.uint8))

    def _declare(self, dtype: np.dtype[Any]) -> zarr.Array[Any]:
        """Put the document of the counts array, over an earlier one if there is one, and open the array.

        The document is made in memory, since creating an array over another would delete the tiles of that one.
        """
        draft = MemoryStore()
        zarr.create_array(
            draft,
            name=_COUNTS_ARRAY,
            shape=self.shape,
            chunks=self.tile,
            dtype=dtype,
            # Without a checksum five of six flipped bytes would give other counts in silence.
            compressors=[BloscCodec(cname="zstd", clevel=1, shuffle="bitshuffle"), Crc32cCodec()],
            fill_value=0,
            dimension_names=VARIABLES[COUNTS].dims,
            attributes={**attributes(COUNTS)},
        )
        key = group_document(_COUNTS_ARRAY)
        document = sync(draft.get(key, default_buffer_prototype()))
        assert document is not None
        sync(self.store.set(key, document))
        # open_array drops its argument config without a word; what the configuration says at this moment it keeps.
        with zarr.config.set(_WRITE_ALL):
            return zarr.open_array(self.store, path=_COUNTS_ARRAY, mode="r+")

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self._counts.dtype)

    def make_room_for(self, largest: int) -> None:
        """Widen the stored dtype if ``largest`` needs it: tiles that are written already are rewritten one by one.

        At most two widenings happen (1 to 2 to 4 bytes); counting first would read every source twice. Must not run
        while tiles are being written.
        """
        if largest <= np.iinfo(self.dtype).max:
            return
        narrow, self._counts = self._counts, self._declare(np.min_scalar_type(largest))
        for ys, xs in self._written:
            self._counts[ys, xs] = np.asarray(narrow[ys, xs]).astype(self.dtype)

    def write_tile(self, ys: slice, xs: slice, counts: Csr) -> None:
        """Write the pixels of one tile, given in raster order; several threads may write different tiles."""
        shape = (ys.stop - ys.start, xs.stop - xs.start, self.shape[2])
        self._counts[ys, xs] = to_dense(counts, self.dtype).reshape(shape)
        self._written.append((ys, xs))

    def commit(self) -> None:
        """Make the map exist: put the document of its group, in one atomic write."""
        self.store.commit()
