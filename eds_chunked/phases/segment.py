"""From component maps to phases: thresholds, clean masks and exclusive labels in one Dataset."""

from __future__ import annotations

import math

import dask
import dask.array as da
import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.dask_cluster import losses_told
from eds_chunked.engine.planning import budget
from eds_chunked.engine.scratch import IN_MEMORY, kept_on_disk
from eds_chunked.errors import ParameterError
from eds_chunked.memory import MB, Need
from eds_chunked.phases.cleaning import area_of_min_size, fill_small_holes, min_size_in_pixels, remove_small_objects
from eds_chunked.phases.labels import check_decision, exclusive_labels
from eds_chunked.phases.morphology import check_size, close_mask, open_mask
from eds_chunked.phases.threshold import OTSU, Threshold, check_thresholds, loading_thresholds
from eds_chunked.store.provenance import result_attributes
from eds_chunked.store.results import reads_of

__all__ = ["segment_phases"]

# Loadings of one block. Whatever the tile of the counts was, 2-D work is quicker in few blocks; at 32 MiB the full-size
# map (1295 x 1820, 4 components) took 0.33 GB instead of 0.11 and no less time.
_BLOCK_BYTES = 8 * 2**20

MIN_SIZE = 100
"""Pixels of the smallest object that is kept, on a map of at least a thousand times as many."""

MIN_AREA = "min_area_um2"
"""Parameter of a result: the area that was asked for, where ``min_size`` was given as one."""


_LOADED = 40 * MB
"""What is loaded at the first call, beyond the reserve of every plan: scikit-image, SciPy's filters, kernels."""


def segment_phases(
    nmf: xr.Dataset,
    *,
    min_size: int | str | None = None,
    threshold: Threshold = OTSU,
    opening: int = 0,
    closing: int = 0,
    mixed_margin: float = 0.2,
    memory: str | int | None = None,
) -> xr.Dataset:
    """Compute one mask a component and the exclusive phase of every pixel.

    A pixel is in a mask where its loading reaches the threshold; then objects, and after them holes, smaller than
    ``min_size`` go (pixels connect by their edges). Masks may overlap. The label decides by share of counts,
    and says "mixed" where it can not. A threshold a map assumes two kinds of pixel: a component that varies smoothly
    over the map has no right threshold, and then the number given by hand is as good as Otsu's.

    A phase may be left without a pixel, by its threshold or by ``min_size``: it stays, with an empty mask, and tables
    have a row for it. See :func:`eds_chunked.merge_phases` for names, and for phases that are one mineral.

    Parameters
    ----------
    nmf
        ``factors`` (component, energy) and ``loadings`` (component, y, x), as :func:`eds_chunked.nmf` returns them.
        At most 254 components. Pixels without loadings (NaN) are unassigned.
    min_size
        Pixels that an object, or a piece of background, needs to stay (one of exactly so many stays), or its area in
        um2 as ``"50um2"``; 0 keeps everything. Default: 100, or a thousandth of the pixels of a smaller map.
    threshold
        ``"otsu"``, ``"multiotsu"`` (the upper threshold of three classes), ``"triangle"`` or a number, for all
        components; or a list with one of these for each component, such as ``["otsu", 0.5, "triangle"]``.
    opening, closing
        Times that masks are opened, then closed, with the 3 x 3 cross before small objects go: opening cuts thin
        bridges between grains, closing heals thin cracks. 0 does neither.
    mixed_margin
        Margin (share of counts, 0 to 1) under which a pixel in several masks is mixed.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    xarray.Dataset
        In memory up to 4 million pixels, else lazy on a scratch store that lives as long as the process: ``mask``
        (phase, y, x) bool, ``label`` (y, x) uint8 (0 unassigned, 1..n, 255 mixed), ``margin``
        (y, x) float32, and per phase ``threshold``, ``n_pixels`` and ``area_fraction``, the last two of the masks.
        Phase i is the i-th component.

    Raises
    ------
    ChunkLayoutError
        ``nmf`` lacks a variable or has other dimensions.
    MemoryBudgetError
        What the map needs does not fit the budget.
    ParameterError
        A parameter out of range, thresholds that are not one a component, a map that is constant or has no finite pixel
        where its threshold is a rule's, an area on a map without pixel size, or factors with a negative sum.

    Notes
    -----
    Memory: 2 bytes a pixel and phase for the masks, 12 bytes a pixel, and for each worker a block of 8 MiB of loadings
    about 6 times; of what stays 1 byte a pixel and phase, and 5 bytes a pixel. The loadings are read four times, in
    blocks; no counts are read.

    Masks are those of scikit-image on the whole map (the threshold, ``opening`` and ``closing`` with a diamond,
    ``remove_small_objects``, ``remove_small_holes``) for every chunking, and so are labels.

    References
    ----------
    N. Otsu, IEEE Trans. Syst. Man Cybern. 9 (1979) 62-66, doi:10.1109/TSMC.1979.4310076.
    """
    schema.require(nmf, schema.FACTORS, schema.LOADINGS)
    n_pixels_of_map = nmf.sizes[schema.Y] * nmf.sizes[schema.X]
    if n_pixels_of_map == 0 or nmf.sizes[schema.COMPONENT] == 0:
        raise ParameterError(
            "selection of loadings",
            found=f"{dict(nmf[schema.LOADINGS].sizes)}",
            expected="at least one pixel and one component",
            fix="check the ranges of nmf.sel(y=..., x=...)",
        )
    asked = min(MIN_SIZE, n_pixels_of_map // 1000) if min_size is None else min_size
    fewest = min_size_in_pixels(asked, pixel_size=schema.pixel_size(nmf))
    if fewest > n_pixels_of_map:
        # Not even a mask of the whole map would stay, and then the whole map would be a small hole.
        raise ParameterError(
            "min_size",
            found=f"{asked!r}, {fewest} pixels" if isinstance(asked, str) else fewest,
            expected=f"at most {n_pixels_of_map}, the pixels of the map",
            fix=f"min_size={min(MIN_SIZE, n_pixels_of_map // 1000)}",
        )
    opening, closing = check_size(opening, "opening"), check_size(closing, "closing")
    given = check_thresholds(threshold, nmf.sizes[schema.COMPONENT])
    loadings = da.asarray(nmf[schema.LOADINGS].data)
    loadings = loadings.rechunk((-1, "auto", "auto"), block_size_limit=_BLOCK_BYTES)
    factor_sums = _analysed_factors(nmf).sum(schema.ENERGY, dtype=np.float64, skipna=False).values
    # Before the first pass: a wrong parameter should cost no reading.
    check_decision(factor_sums=factor_sums, mixed_margin=mixed_margin)
    n_phases, height, width = loadings.shape
    allowed = budget(memory)
    how = allowed.plan(
        _need(loadings, allowed.processes),
        reads=[reads_of(nmf, schema.LOADINGS, 4)],
        writes=(n_phases + 6) * height * width + 8 * (height + width + 4 * n_phases),
    )
    # On a cluster the number of workers is its own.
    with dask.config.set(num_workers=how.workers), losses_told("phases"):
        thresholds = loading_thresholds(
            nmf.assign({schema.LOADINGS: (nmf[schema.LOADINGS].dims, loadings)}), threshold=given
        )
        # Persisted, phase after phase: labels of the objects (4 bytes a pixel) exist for one phase at a time, loadings
        # for one block, and on a cluster the masks stay with the workers until the result is gathered.
        above, known = dask.persist(loadings >= thresholds[:, None, None], ~da.isnan(loadings).any(axis=0))
        cleaned = []
        for raw in above:
            shaped = close_mask(open_mask(raw, size=opening), size=closing)
            objects = remove_small_objects(shaped, min_size=fewest)
            # A pixel that is left out is in no phase, whatever hole of a mask was filled about it.
            cleaned.append((fill_small_holes(objects, min_size=fewest) & known).persist())
        del above, raw, shaped, objects
        label, margin = exclusive_labels(
            loadings, masks=da.stack(cleaned), factor_sums=factor_sums, mixed_margin=mixed_margin
        )
        if height * width <= IN_MEMORY:
            label, margin = dask.compute(label, margin)
            mask = np.empty((len(cleaned), *label.shape), np.bool_)
            for place in range(len(mask)):
                mask[place] = cleaned.pop(0).compute()
        else:
            maps = {schema.MASK: da.stack(cleaned), schema.LABEL: label, schema.MARGIN: margin}
            mask, label, margin = kept_on_disk(maps)
            del cleaned, maps
        n_pixels = np.asarray(mask.sum(axis=(1, 2), dtype=np.int64))
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
    area = area_of_min_size(asked)
    parameters = {
        "min_size": fewest,
        **({} if area is None else {MIN_AREA: area}),
        "threshold": given[0] if isinstance(threshold, str | float | int | np.number) else given,
        "opening": opening,
        "closing": closing,
        "mixed_margin": float(mixed_margin),
    }
    return xr.Dataset(
        {name: (schema.VARIABLES[name].dims, values, schema.attributes(name)) for name, values in variables.items()},
        coords={**coords, schema.PHASE: np.arange(1, len(mask) + 1)},
        attrs=result_attributes(nmf, schema.PHASES, parameters),
    )


def _need(loadings: da.Array, processes: int) -> Need:
    n, height, width = loadings.shape
    pixels = math.prod(max(sizes) for sizes in loadings.chunks[1:])
    # Masks as they come and cleaned, the labels of the objects of a phase, label and margin in pieces and whole. Of a
    # block: its pieces, joined, two copies of one without what is not finite, and what labels are made of.
    fixed = _LOADED + (2 * n + 12) * height * width // processes
    return Need("phases", fixed, (5 * loadings.dtype.itemsize * n + 24) * pixels)


def _analysed_factors(nmf: xr.Dataset) -> xr.DataArray:
    """Return the factors without the channels that were left out, which are NaN."""
    factors = nmf[schema.FACTORS]
    if schema.ANALYSED_CHANNEL not in nmf.coords:
        return factors
    return factors.isel({schema.ENERGY: np.flatnonzero(nmf[schema.ANALYSED_CHANNEL].values)})
