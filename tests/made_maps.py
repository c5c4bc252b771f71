"""Small made maps of prime sizes, and a reader of them, for the tests of the store and the engine."""

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.kernels.sparse import from_dense
from eds_chunked.readers.base import Band, Box, ElectronImage, MapHeader
from eds_chunked.store.drafts import Draft

SHAPE = (71, 101, 61)


def made_counts(shape=SHAPE, dtype="u1", seed=0):
    """Sparse counts without any symmetry, with dead pixels, dead channels and one bright pixel."""
    rng = np.random.default_rng(seed)
    height, width, n_channels = shape
    brightness = np.add.outer(np.arange(height) * 0.01, np.arange(width) ** 1.5 * 0.001)
    spectrum = 1 / (1 + np.arange(n_channels)) + 0.3 * (np.arange(n_channels) % 7 == 3)
    counts = rng.poisson(brightness[:, :, None] * spectrum).astype(dtype)
    counts[height // 3, : width // 2] = 0
    counts[:, :, n_channels // 4] = 0
    counts[height // 2, width // 3, n_channels // 2] = 200
    return counts


class MadeReader:
    """Gives an array as a reader would: in bands, dense or as CSR, of its own height where it is told one."""

    def __init__(self, counts, *, csr=False, rows=None, dtype=None, peak=10**6, images=(), **header):
        self.counts, self.csr, self.rows, self.peak, self._images = counts, csr, rows, peak, images
        about = {"pixel_size": (0.5, 0.25), "title": "made"} | header
        self.header = MapHeader("made.map", counts.shape, np.dtype(dtype or counts.dtype), 0.01, -0.1, **about)

    def peak_bytes(self, rows, box=None):
        return self.peak

    def bands(self, rows, box=None):
        ys, xs, channels = box or Box.whole(self.header.shape)
        for y0 in range(ys.start, ys.stop, self.rows or rows):
            part = self.counts[y0 : min(ys.stop, y0 + (self.rows or rows)), xs, channels]
            flat = part.reshape(-1, part.shape[2])
            yield Band(y0, len(part), from_dense(flat) if self.csr else part)

    def images(self):
        yield from (ElectronImage(*image) for image in self._images)


def made_result(ds, *, run="k2", value=1.0, **attrs):
    """A result of the map ``ds`` as the step ``nmf`` would return it, in memory."""
    height, width = ds.sizes[schema.Y], ds.sizes[schema.X]
    loadings = value * (1 + np.arange(2 * height * width, dtype=np.float32).reshape(2, height, width))
    factors = value * (1 + np.arange(2 * ds.sizes[schema.ENERGY], dtype=np.float32).reshape(2, -1))
    return xr.Dataset(
        {
            schema.LOADINGS: (schema.VARIABLES[schema.LOADINGS].dims, loadings),
            schema.FACTORS: (schema.VARIABLES[schema.FACTORS].dims, factors),
        },
        coords={schema.COMPONENT: [1, 2]} | {axis: ds[axis] for axis in (schema.Y, schema.X, schema.ENERGY)},
        attrs={schema.STEP: schema.NMF, schema.RUN: run, schema.FINGERPRINT: ds.attrs[schema.FINGERPRINT]} | attrs,
    )


def made_draft(ds, *, value=1.0, run="k2"):
    """The same as a step leaves it: written to the store of ``ds``, not committed, opened lazily."""
    result = made_result(ds, value=value, run=run)
    draft = Draft(ds.encoding["source"], schema.NMF, run)
    lazy = result.assign({schema.LOADINGS: result[schema.LOADINGS].chunk({schema.COMPONENT: 2, schema.Y: 64})})
    draft.declare(lazy.assign_attrs({schema.REVISION: draft.number}))
    draft.put(schema.LOADINGS, result[schema.LOADINGS].values)
    return draft.open()
