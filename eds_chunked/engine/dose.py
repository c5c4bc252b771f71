"""How many counts a map has, before it is read: from its survey, or from a few blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.engine.blocks import Blocks
from eds_chunked.kernels.sparse import Csr
from eds_chunked.memory import Reads
from eds_chunked.store.source import CountsToCome

Array = np.ndarray[Any, Any]

_FILLED_WITHOUT_SURVEY = 0.25
_BLOCKS_LOOKED_AT = 9


def filled_channels(ds: xr.Dataset, blocks: Blocks) -> float:
    """Bound the mean number of channels of a pixel that are not zero; assume it where the map has no survey.

    Of Poisson counts with mean m in a channel 1 - exp(-m) of the pixels are not zero. That is concave in m, so taken
    at the mean over all pixels it bounds the mean over pixels of different phases and brightness.
    """
    mean = _mean_spectrum(ds)
    if mean is None:
        return _assumed(blocks)
    return min(float(blocks.n_channels), float(np.sum(-np.expm1(-mean))))


def _assumed(blocks: Blocks) -> float:
    """Assume that counts fall evenly on a quarter of the channels: as many as the source states, else without end."""
    channels = _FILLED_WITHOUT_SURVEY * blocks.n_channels
    counts = blocks.source.mean_counts if isinstance(blocks.source, CountsToCome) else math.inf
    return -channels * math.expm1(-counts / channels)


def mean_counts(blocks: Blocks) -> float:
    """Return about the mean counts of an analysed pixel: of a few blocks from all over the map, which are read.

    Not from the survey: what a map is analysed like must not depend on whether it came with one.
    """
    return _mean(blocks, lambda counts: float(counts.value.sum(dtype=np.float64)))


def mean_filled(blocks: Blocks) -> float:
    """Return about the mean number of analysed channels of an analysed pixel that are not zero, of the same blocks."""
    if isinstance(blocks.source, CountsToCome):
        return _assumed(blocks)
    return _mean(blocks, lambda counts: counts.value.size)


def _mean(blocks: Blocks, quantity: Callable[[Csr], float]) -> float:
    """Return the mean over the pixels of a few blocks, of which one is held at a time."""
    total, pixels = 0.0, 0
    for ys, xs in _places(blocks):
        first = blocks.load(ys, xs).analysed_counts
        total += quantity(first)
        pixels += first.n_pixels
    return total / max(1, pixels)


def _places(blocks: Blocks) -> list[tuple[slice, slice]]:
    """Return where the blocks are that are looked at: the first of some lanes."""
    lanes = blocks.lanes()
    numbers = np.unique(np.linspace(0, len(lanes) - 1, _BLOCKS_LOOKED_AT).round().astype(int))
    return [next(blocks.pieces(lanes[number])) for number in numbers]


def look(blocks: Blocks) -> Reads:
    """Return what :func:`mean_counts` or :func:`mean_filled` reads."""
    return Reads("tiles to look at", lambda: blocks.stored(_places(blocks)))


def _mean_spectrum(ds: xr.Dataset) -> Array | None:
    if schema.TOTAL_COUNTS not in ds or schema.SUM_SPECTRUM not in ds:
        return None
    spectrum = ds[schema.SUM_SPECTRUM].values.astype(np.float64)
    return np.asarray(spectrum / max(1.0, spectrum.sum()) * float(ds[schema.TOTAL_COUNTS].mean()))
