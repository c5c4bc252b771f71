"""Maps for the tests of decompositions and phase spectra, and the dense matrices to compare with."""

import dask.array as da
import numpy as np
import xarray as xr
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from eds_chunked import schema
from eds_chunked.kernels.sparse import to_dense
from eds_chunked.readers.base import Band, Box, MapHeader
from eds_chunked.synthetic import rock

DEAD_CHANNELS = [0, 17, 60]
DEAD_PIXELS = (slice(12, 14), slice(20, 25))


def as_map(counts, *, chunks=None, **attrs):
    """Return a map of the array, in dask chunks if wanted; coordinates as a store has them."""
    height, width, n_channels = counts.shape
    um, kev = {"units": schema.MICROMETRE}, {"units": schema.KEV}
    data = counts if chunks is None else da.from_array(counts, chunks=chunks)
    return xr.Dataset(
        {schema.COUNTS: (schema.VARIABLES[schema.COUNTS].dims, data)},
        coords={
            schema.Y: (schema.Y, np.arange(height) * 0.5, um),
            schema.X: (schema.X, np.arange(width) * 0.25, um),
            schema.ENERGY: (schema.ENERGY, np.arange(n_channels) * 0.02 - 0.1, kev),
        },
        attrs=attrs,
    )


def made_counts(shape=(31, 47, 61), *, n_phases=3, dose=60, seed=1):
    """Return Poisson counts (uint16) of phases of unequal area and brightness; no row or column is like another."""
    rng = np.random.default_rng(seed)
    height, width, n_channels = shape
    spectra = rng.gamma(0.5, 1, (n_phases, n_channels)) + 0.02
    spectra *= dose * np.linspace(1, 2, n_phases)[:, None] / spectra.sum(axis=1)[:, None]
    phase = np.add.outer(np.arange(height) ** 2 // 40, np.arange(width)) // 13 % n_phases
    shading = np.linspace(0.7, 1.3, width)[:, None]
    return rng.poisson(spectra[phase] * shading).astype(np.uint16)


def with_dead(counts):
    """Return a copy with dead pixels and dead channels, first and last ones among them."""
    counts = counts.copy()
    counts[..., DEAD_CHANNELS] = 0
    counts[DEAD_PIXELS] = 0
    counts[0, 0] = 0
    counts[-1, -1] = 0
    return counts


def rock_counts(made):
    """Return all counts of a synthetic rock, dense."""
    width, n_channels = made.header.shape[1:]
    return np.concatenate([to_dense(band.counts).reshape(-1, width, n_channels) for band in made.bands(64)])


def small_rock(shape=(101, 127, 251), **parameters):
    """Return a rock whose channels reach from the strobe peak to 12 keV."""
    return rock(shape, energy_scale=12.47 / shape[2], **{"grain_size": 9.0, "seed": 5, **parameters})


def matrix(counts):
    """Return counts as float64 (pixels, channels)."""
    return counts.reshape(-1, counts.shape[-1]).astype(np.float64)


def weights(X):
    """Return sqrt(a_i) and sqrt(b_j) of Keenan & Kotula, with 1 for what is dead."""
    a, b = X.sum(axis=1), X.sum(axis=0)
    return np.sqrt(np.where(a > 0, a, 1)), np.sqrt(np.where(b > 0, b, 1))


def poisson_scaled(X):
    """Return the matrix that the decompositions analyse."""
    a, b = weights(X)
    return X / a[:, None] / b


def rows_of(maps):
    """Return maps (component, y, x) as float64 (component, pixels)."""
    values = np.asarray(maps, np.float64)
    return values.reshape(len(values), -1)


def cosines(found, truth):
    """Return the cosine of every true spectrum with the found one that is matched to it."""
    found, truth = (rows / np.linalg.norm(rows, axis=1)[:, None] for rows in (np.asarray(found), np.asarray(truth)))
    table = truth @ found.T
    return table[linear_sum_assignment(-table)]


def subspace_cosines(found, exact):
    """Return the cosines of the principal angles between the row spaces, falling."""
    bases = [np.linalg.qr(np.asarray(rows, np.float64).T)[0] for rows in (found, exact)]
    return np.linalg.svd(bases[0].T @ bases[1], compute_uv=False)


def ragged(length):
    """Draw chunk lengths that add up to ``length``."""
    cuts = st.sets(st.integers(1, length - 1), max_size=4)
    return cuts.map(lambda inner: tuple(np.diff([0, *sorted(inner), length]).tolist()))


def ragged_chunks(shape):
    """Draw chunks of a map, the energy cut too."""
    return st.tuples(*(ragged(length) for length in shape))


def assert_same_bits(found, expected):
    """Compare two results: every value, to the last bit."""
    assert set(found.variables) == set(expected.variables)
    for name in expected.variables:
        left, right = found[name].values, expected[name].values
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right, err_msg=str(name))


class ArrayReader:
    """An array as a :class:`eds_chunked.readers.base.Reader`."""

    def __init__(self, counts):
        self.counts = counts
        self.header = MapHeader("array", counts.shape, counts.dtype, 0.02, -0.1, pixel_size=(0.5, 0.25))

    def peak_bytes(self, rows, box=None):
        return rows * self.counts[0].nbytes

    def bands(self, rows, box=None):
        ys, xs, channels = box or Box.whole(self.header.shape)
        for y0 in range(ys.start, ys.stop, rows):
            part = self.counts[y0 : min(ys.stop, y0 + rows), xs, channels]
            yield Band(y0, len(part), part)

    def images(self):
        return iter(())
