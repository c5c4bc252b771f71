"""What a low-rank model leaves of the counts: residual and chi-square, of every pixel and of every channel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.low_rank import model_part
from eds_chunked.decomposition.result import check_same_axes, template, variable
from eds_chunked.engine.blocks import Block, Blocks, Lane, blocks_of
from eds_chunked.engine.exclusion import analysed_part
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.lazy_maps import piece
from eds_chunked.engine.output import begin_result, empty_maps
from eds_chunked.engine.planning import plan
from eds_chunked.errors import StaleResultError
from eds_chunked.kernels.chi_square import chi_square
from eds_chunked.kernels.reduce import channel_sums, pixel_sums
from eds_chunked.kernels.sparse import keep
from eds_chunked.memory import Need
from eds_chunked.store.drafts import MapTarget
from eds_chunked.store.results import reads_of

Array = np.ndarray[Any, Any]

FLOOR = 0.01
"""Least variance of a channel, in mean counts a channel of the pixel: where the weakest continuum of a spectrum lies.

One count in a channel that the model leaves empty adds 1 / (FLOOR x counts of the pixel) to a chi-square of 1, which is
many times its spread up to some 1000 counts a pixel. With a tenth of this floor such counts are all that a map shows.
"""


def residual(
    ds: xr.Dataset,
    result: xr.Dataset,
    *,
    components: Sequence[int] | None = None,
    memory: str | int | None = None,
) -> xr.Dataset:
    """Compare a map with the low-rank model of a PCA or NMF result; computes, one pass.

    Chi-square is Pearson's, its variance the mean that the model foretells: where the model is right and all else is
    counting noise it is 1, at any dose. Over the channels of a pixel it shows where a phase is missing, over the pixels
    of a channel which line it has. A model fitted to the same counts takes a part of their noise with it: at fewer
    counts than some 50 a pixel, or with many components, 1 is not reached.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), the selection that the result was made from.
    result
        Dataset with ``factors`` (component, energy) and ``loadings`` (component, y, x).
    components
        Numbers of the components that the model is made of, from 1; all by default.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset with ``residual`` (y, x; counts, float32, lazy) and ``residual_spectrum`` (energy; counts), the sums of
    counts minus model over channels and over pixels, and ``chi_square`` (y, x; float32, lazy) and
    ``chi_square_spectrum`` (energy). All are NaN in pixels and channels that are left out of the map or the result.

    Raises
    ------
    ParameterError
        A component that the result does not have, or a result whose model is not loadings . factors.
    ChunkLayoutError
        The result is of another region or other energies than ``ds``.
    StaleResultError
        The result was made from another map.
    MemoryBudgetError

    Notes
    -----
    Of counts x and model means m, negative ones taken for zero, chi-square is the sum of (x - m)^2 / max(m, f) over the
    number of channels (pixels) that the model has. The floor f is a hundredth of the pixel's mean counts a channel, in
    the model or the map, whichever is more. A channel under the floor counts as m / f of one, so that the expected
    value is 1 whatever the floor; the number is at least 1. The spread of a pixel's value is sqrt((2 + 1/m) / E) for E
    channels of mean m.

    Memory: for each worker one block, and the loadings of one lane (256 x 256 pixels at 2048 channels).

    References
    ----------
    Pearson (1900), Philosophical Magazine 50, 157.
    """
    part = model_part(result, components)
    check_same_axes(ds, part)
    _check_same_map(ds, result)
    run = schema.check_run_name(str(result.attrs.get(schema.RUN, "main")))
    ds = _without_channels(ds, np.isfinite(part[schema.FACTORS].values).all(axis=0))
    blocks = blocks_of(ds, memory=memory)
    factors = part[schema.FACTORS].values.astype(np.float64)
    model = _Model(part[schema.LOADINGS].data, factors if blocks.channels is None else factors[:, blocks.channels])
    # The coordinates of the map and what is left out of it, without loadings and factors.
    declared = template(ds, blocks, 1).drop_dims(schema.COMPONENT)
    for name in (schema.RESIDUAL, schema.CHI_SQUARE):
        declared[name] = variable(name, empty_maps(blocks, 1)[0])
    for name in (schema.RESIDUAL_SPECTRUM, schema.CHI_SQUARE_SPECTRUM):
        declared[name] = variable(name, np.zeros(blocks.shape[2]))
    reads = [blocks.reads(), reads_of(result, schema.LOADINGS)]
    how = plan(_need(blocks, model), memory=memory, reads=reads, writes=declared.nbytes)
    parameters = {} if components is None else {"components": [int(number) for number in components]}
    draft = begin_result(ds, schema.MODEL, run, declared, parameters, blocks, parent=result)
    work = _ResidualWork(model.factors, draft.target(schema.RESIDUAL), draft.target(schema.CHI_SQUARE))
    sums = run_pass(blocks, work, join_residuals, plan=how, maps=model.of_lane)
    draft.put(schema.RESIDUAL_SPECTRUM, blocks.spread(sums.counts - sums.loadings @ model.factors))
    draft.put(schema.CHI_SQUARE_SPECTRUM, blocks.spread(_ratio(sums.chi_square, sums.n_pixels)))
    return draft.open()


class ResidualSums(NamedTuple):
    """Sums over pixels: of their counts, loadings and squared residuals, and in how many the model has a channel."""

    counts: Array
    loadings: Array
    chi_square: Array
    n_pixels: Array

    def plus(self, other: ResidualSums) -> ResidualSums:
        return ResidualSums(*(mine + its for mine, its in zip(self, other, strict=True)))


def join_residuals(total: ResidualSums, lane: ResidualSums) -> ResidualSums:
    """Add the sums of two lanes."""
    return total.plus(lane)


@dataclass(frozen=True)
class _Model:
    """Loadings (components, y, x), lazy or in memory, and factors (components, analysed channels)."""

    loadings: Any
    factors: Array

    def of_lane(self, lane: Lane) -> Any:
        """Return the loadings of a lane."""
        return self.loadings[:, lane.ys, lane.xs]


@dataclass(frozen=True)
class _ResidualWork:
    """Writes residual and chi-square of the pixels of a lane, and sums what those of the channels are made of."""

    factors: Array
    residual: MapTarget
    chi_square: MapTarget

    def __call__(self, lane: Lane, blocks: Iterator[Block], loadings: Any) -> ResidualSums:
        loadings = np.asarray(piece(loadings), np.float32)
        n_components, n_channels = self.factors.shape
        single, counts_of_a_loading = self.factors.astype(np.float32), self.factors.sum(axis=1)
        maps = np.empty((2, *lane.shape), np.float32)
        sums = ResidualSums(*(np.zeros(n) for n in (n_channels, n_components, n_channels, n_channels)))
        for block in blocks:
            here = block.within(lane)
            weights = np.ascontiguousarray(loadings[:, *here].reshape(n_components, -1).T)
            used = np.isfinite(weights).all(axis=1)
            if block.used is not None:
                used &= block.used
            weights[~used] = 0
            counts = block.counts if used.all() else keep(block.counts, pixels=used)
            total, expected = pixel_sums(counts), weights.astype(np.float64) @ counts_of_a_loading
            squares = chi_square(counts, weights, single, self._floor(np.maximum(total, expected)))
            found = np.stack([total - expected, _ratio(squares.of_pixel, squares.channels_of_pixel)])
            maps[:, *here] = np.where(used, found, np.nan).reshape(2, *block.shape)
            sums = sums.plus(
                ResidualSums(
                    counts=channel_sums(counts),
                    loadings=weights.sum(axis=0, dtype=np.float64),
                    chi_square=squares.of_channel,
                    n_pixels=squares.pixels_of_channel,
                )
            )
        self.residual.write((lane.ys, lane.xs), maps[0])
        self.chi_square.write((lane.ys, lane.xs), maps[1])
        return sums

    def _floor(self, total: Array) -> Array:
        """Return the least variance of a channel, for pixels of so many counts."""
        n_channels = max(1, int(np.count_nonzero(self.factors.any(axis=0))))
        return np.where(total > 0, FLOOR / n_channels * total, 1.0)


def _ratio(squares: Array, number: Array) -> Array:
    """Return the mean square; never over less than one, so that counts where there is no model cannot be infinite."""
    # What rounding leaves below zero is zero.
    return np.maximum(squares, 0) / np.maximum(number, 1)


def _need(blocks: Blocks, model: _Model) -> Need:
    n_components = len(model.factors)
    of_lane = 4 * blocks.lane_side**2 * (2 * n_components + 2)
    chunk = 4 * math.prod(model.loadings.chunksize) if isinstance(model.loadings, da.Array) else 0
    spectra = 8 * (4 * n_components + 12) * blocks.n_channels
    return Need("model", spectra, blocks.bytes_of_a_block + of_lane + chunk + spectra)


def _without_channels(ds: xr.Dataset, has: Array) -> xr.Dataset:
    """Leave out of a map the channels that the model does not have, too."""
    if has.all():
        return ds
    kept = analysed_part(ds, schema.ANALYSED_CHANNEL)
    values = has if kept is None else has & kept
    return ds.assign_coords({schema.ANALYSED_CHANNEL: variable(schema.ANALYSED_CHANNEL, values)})


def _check_same_map(ds: xr.Dataset, result: xr.Dataset) -> None:
    if result.attrs.get(schema.FINGERPRINT) != ds.attrs.get(schema.FINGERPRINT):
        raise StaleResultError(
            "model",
            found="a result of another map, or of this one before it was calibrated",
            expected="a result of this map",
            fix="run pca or nmf again",
        )
