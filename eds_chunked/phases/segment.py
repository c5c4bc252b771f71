"""From component maps to phases: thresholds, clean masks and exclusive labels in one Dataset."""

from __future__ import annotations

from collections.abc import Sequence

import dask
import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.phases.cleaning import check_min_size, fill_small_holes, remove_small_objects
from eds_chunked.phases.labels import check_decision, exclusive_labels
from eds_chunked.phases.morphology import check_size, close_mask, open_mask
from eds_chunked.phases.threshold import OTSU, loading_thresholds
from eds_chunked.store.provenance import result_attributes

__all__ = ["segment_phases"]

# Loadings of one block. Whatever the tile of the counts was, 2-D work is quicker in few blocks; at 32 MiB the full-size
# map (1295 x 1820, 4 components) took 0.33 GB instead of 0.11 and no less time.
_BLOCK_BYTES = 8 * 2**20

MIN_SIZE = 100
"""Pixels of the smallest object that is kept, on a map of at least a thousand times as many."""


def segment_phases(
    nmf: xr.Dataset,
    *,
    min_size: int | None = None,
    threshold: str | Sequence[float] = OTSU,
    opening: int = 0,
    closing: int = 0,
    mixed_margin: float = 0.2,
) -> xr.Dataset:
    """Compute one mask a component and the exclusive phase of every pixel.

    A pixel is in a mask where its loading reaches the threshold; then objects, and after them holes, of fewer than
    ``min_size`` pixels go (pixels connect by their edges). Masks may overlap. The label decides by share of counts,
    and says "mixed" where it can not. A threshold a map assumes two kinds of pixel: a component that varies smoothly
    over the map has no right threshold, and then the number given by hand is as good as Otsu's.

    Parameters
    ----------
    nmf
        ``factors`` (component, energy) and ``loadings`` (component, y, x), as :func:`eds_chunked.nmf` returns them.
        At most 254 components. Pixels without loadings (NaN) are unassigned.
    min_size
        Pixels that an object, or a piece of background, needs to stay; 0 keeps everything. Default: 100, or a
        thousandth of the pixels of a smaller map.
    threshold
        ``"otsu"``, or one number a component.
    opening, closing
        Times that masks are opened, then closed, with the 3 x 3 cross before small objects go: opening cuts thin
        bridges between grains, closing heals thin cracks. 0 does neither.
    mixed_margin
        Margin (share of counts, 0 to 1) under which a pixel in several masks is mixed.

    Returns
    -------
    xarray.Dataset
        In memory: ``mask`` (phase, y, x) bool, ``label`` (y, x) uint8 (0 unassigned, 1..n, 255 mixed), ``margin``
        (y, x) float32, and per phase ``threshold``, ``n_pixels`` and ``area_fraction``, the last two of the masks.
        Phase i is the i-th component.

    Raises
    ------
    ChunkLayoutError
        ``nmf`` lacks a variable or has other dimensions.
    ParameterError
        A parameter out of range, thresholds that are not one a component, a constant map under Otsu, a map without
        finite pixels, or factors with a negative sum.

    Notes
    -----
    Memory: 2 bytes a pixel and phase for the masks, 10 bytes a pixel, and a few blocks of 8 MiB a thread; 0.11 GB
    for 4 components of 1295 x 1820 pixels. The loadings are read four times, in blocks.

    References
    ----------
    N. Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62-66, doi:10.1109/TSMC.1979.4310076.
    """
    schema.require(nmf, schema.FACTORS, schema.LOADINGS)
    n_pixels_of_map = nmf.sizes[schema.Y] * nmf.sizes[schema.X]
    min_size = check_min_size(min(MIN_SIZE, n_pixels_of_map // 1000) if min_size is None else min_size)
    opening, closing = check_size(opening, "opening"), check_size(closing, "closing")
    loadings = da.asarray(nmf[schema.LOADINGS].data)
    loadings = loadings.rechunk((-1, "auto", "auto"), block_size_limit=_BLOCK_BYTES)
    factor_sums = _analysed_factors(nmf).sum(schema.ENERGY, dtype=np.float64, skipna=False).values
    # Before the first pass: a wrong parameter should cost no reading.
    check_decision(factor_sums=factor_sums, mixed_margin=mixed_margin)
    blocked = nmf.assign({schema.LOADINGS: (nmf[schema.LOADINGS].dims, loadings)})
    thresholds = loading_thresholds(blocked, threshold=threshold)

    # Persisted, phase after phase: labels of the objects (4 bytes a pixel) exist for one phase at a time, loadings for
    # one block, and on a cluster the masks stay with the workers until the result is gathered.
    above = (loadings >= thresholds[:, None, None]).persist()
    cleaned = []
    for raw in above:
        shaped = close_mask(open_mask(raw, size=opening), size=closing)
        objects = remove_small_objects(shaped, min_size=min_size)
        cleaned.append(fill_small_holes(objects, min_size=min_size).persist())
    # A pixel that is left out is in no phase, whatever hole of a mask was filled about it.
    masks = da.stack(cleaned) & ~da.isnan(loadings).any(axis=0)
    label, margin = exclusive_labels(loadings, masks=masks, factor_sums=factor_sums, mixed_margin=mixed_margin)
    mask, label, margin = dask.compute(masks, label, margin)

    n_pixels = mask.sum(axis=(1, 2), dtype=np.int64)
    variables = {
        schema.MASK: mask,
        schema.LABEL: label,
        schema.MARGIN: margin,
        schema.THRESHOLD: thresholds,
        schema.N_PIXELS: n_pixels,
        schema.AREA_FRACTION: n_pixels / label.size,
    }
    coords = {
        name: nmf[name].variable.compute() for name in (schema.Y, schema.X, schema.ANALYSED_PIXEL) if name in nmf.coords
    }
    parameters = {
        "min_size": min_size,
        "threshold": threshold if isinstance(threshold, str) else thresholds.tolist(),
        "opening": opening,
        "closing": closing,
        "mixed_margin": float(mixed_margin),
    }
    return xr.Dataset(
        {name: (schema.VARIABLES[name].dims, values, schema.attributes(name)) for name, values in variables.items()},
        coords={**coords, schema.PHASE: np.arange(1, len(mask) + 1)},
        attrs=result_attributes(nmf, schema.PHASES, parameters),
    )


def _analysed_factors(nmf: xr.Dataset) -> xr.DataArray:
    """Return the factors without the channels that were left out, which are NaN."""
    factors = nmf[schema.FACTORS]
    if schema.ANALYSED_CHANNEL not in nmf.coords:
        return factors
    return factors.isel({schema.ENERGY: np.flatnonzero(nmf[schema.ANALYSED_CHANNEL].values)})
