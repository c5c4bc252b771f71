"""Separate the grains of a phase map: distance transform, seeds, watershed.

Everything is two-dimensional and done in memory, one phase at a time in the phase's own window.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from scipy import ndimage as ndi
from skimage.morphology import local_maxima
from skimage.segmentation import watershed

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.grains.measure import grain_columns
from eds_chunked.store.provenance import result_attributes

Array = np.ndarray[Any, Any]

H_MAXIMA = "h-maxima"
PRACTICAL = "practical"


class UnsplitPhaseWarning(UserWarning):
    """One phase fills the whole map, so there is no boundary to measure distances from."""


def separate_grains(
    phases: xr.Dataset, *, method: str = H_MAXIMA, h: float = 1.0, min_size: int | None = None
) -> xr.Dataset:
    """Separate the grains of every phase and measure them (computes at once; two-dimensional).

    Each phase's mask is split by a watershed of its distance transform, flooded from one seed a grain, with neighbours
    across pixel sides only (connectivity 1). Distances are in pixels; where pixels are not square they are in pixel
    widths. Phases never share a grain, and every pixel of a phase belongs to exactly one grain, so grain areas add up
    to phase areas. Touching grains whose outline has no neck cannot be told apart by their shape.

    Parameters
    ----------
    phases
        ``label (y, x)``: 0 unassigned, 1..n phase, 255 mixed; with coordinates where the map is calibrated.
    method
        How seeds are found. ``"h-maxima"``: summits of the distance map that rise more than ``h`` above the pass to a
        higher summit; a wavy outline does not split a grain. ``"practical"``: all peaks in a 3 x 3 neighbourhood, which
        splits grains more often. In the latter, pieces without a peak of their own (a corner of theirs touches a larger
        one) become grains too.
    h
        Height of a summit in pixels, for ``"h-maxima"``.
    min_size
        Grains of fewer pixels are left out of size statistics and diameter files. The map and the table keep all.

    Returns
    -------
    Dataset
        ``grain_label (y, x)`` int32, numbered from 1 by phase, then in raster order of a grain's first pixel; and the
        grain table as columns over ``grain``, lengths in um, or in pixels when the map is uncalibrated.

    Raises
    ------
    ParameterError
        Unknown method, negative ``h`` or ``min_size``, or labels that are not whole numbers.
    ChunkLayoutError
        ``phases`` has no ``label`` over (y, x).

    Warns
    -----
    UnsplitPhaseWarning
        A phase fills the whole map: it stays one grain.

    Notes
    -----
    Memory: about 80 bytes a pixel of the largest phase's window, above the input.

    The table does not depend on anything but the label map: seeds of equal height are flooded in raster order
    (a plain watershed takes them in its heap's order, which a distant grain can change).

    References
    ----------
    L. Vincent and P. Soille, Watersheds in digital spaces, IEEE PAMI 13 (1991) 583; P. Soille, Morphological Image
    Analysis, 2nd ed. (2004), section 6.3 (h-maxima).

    Examples
    --------
    >>> import numpy as np, xarray as xr
    >>> y, x = np.mgrid[:21, :37]
    >>> discs = ((y - 10) ** 2 + (x - 10) ** 2 <= 64) | ((y - 10) ** 2 + (x - 24) ** 2 <= 64)
    >>> grains = separate_grains(xr.Dataset({"label": (("y", "x"), discs.astype("uint8"))}))
    >>> grains.sizes["grain"], bool(grains["n_pixels"].sum() == discs.sum())
    (2, True)
    """
    if min_size is None:
        min_size = int(phases.attrs.get(schema.PARAMETERS, {}).get("min_size", 0))
    _check_parameters(method, h, min_size)
    schema.require(phases, schema.LABEL)
    label = np.asarray(phases[schema.LABEL].values)
    if not np.issubdtype(label.dtype, np.integer):
        raise ParameterError(
            f"variable {schema.LABEL!r}",
            found=f"dtype {label.dtype}",
            expected="whole numbers: 0 unassigned, 1..n phase, 255 mixed",
            fix="pass what segment_phases returned, or .astype('uint8')",
        )
    height, width, unit = schema.pixel_size(phases)
    sampling = None if np.isclose(height, width, rtol=1e-6, atol=0) else (height / width, 1.0)

    grain_label, phase_of_grain = _separate(label, h=h if method == H_MAXIMA else None, sampling=sampling)
    coords = {axis: phases.coords[axis] for axis in (schema.Y, schema.X) if axis in phases.coords}
    y, x = (
        np.asarray(coords[axis].values, dtype=float) if axis in coords else np.arange(phases.sizes[axis]) * size
        for axis, size in ((schema.Y, height), (schema.X, width))
    )
    grains = grain_columns(grain_label, phase_of_grain, y=y, x=x, size=(height, width), unit=unit)
    grains[schema.GRAIN_LABEL] = ((schema.Y, schema.X), grain_label, schema.attributes(schema.GRAIN_LABEL))
    grains = grains.assign_coords(coords)

    parameters: dict[str, object] = {"method": method, "min_size": int(min_size)}
    if method == H_MAXIMA:
        parameters["h"] = float(h)
    grains.attrs = result_attributes(phases, schema.GRAINS, parameters) | {
        schema.N_PHASES: max(int(phases.sizes.get(schema.PHASE, 0)), int(phase_of_grain.max(initial=0))),
    }
    return grains


def _check_parameters(method: str, h: float, min_size: int) -> None:
    if method not in (H_MAXIMA, PRACTICAL):
        raise ParameterError(
            "method", found=repr(method), expected=f"{H_MAXIMA!r} or {PRACTICAL!r}", fix=f"method={H_MAXIMA!r}"
        )
    if not (np.isfinite(h) and h >= 0):
        raise ParameterError("h", found=h, expected="a height in pixels, 0 or more", fix="h=1.0")
    if min_size < 0:
        raise ParameterError("min_size", found=min_size, expected="a number of pixels, 0 or more", fix="min_size=0")


def _separate(label: Array, *, h: float | None, sampling: tuple[float, float] | None) -> tuple[Array, Array]:
    """Return grain numbers (y, x) int32 and the phase of each grain; 3 x 3 peaks are the seeds where ``h`` is None."""
    grain_label = np.zeros(label.shape, dtype=np.int32)
    phase_of_grain = np.zeros(0, dtype=np.int16)
    for phase, box in enumerate(ndi.find_objects(label, max_label=schema.MIXED - 1), start=1):
        if box is None:
            continue
        # One pixel of background around the phase makes its distances those of the whole map; at the map's border
        # there is none to add, since what lies beyond is unknown and not background.
        window = tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, label.shape, strict=True))
        mask = label[window] == phase
        if mask.all():
            warnings.warn(
                f"Phase {phase} fills the map of {label.shape[0]} x {label.shape[1]} pixels and is left as one grain.",
                UnsplitPhaseWarning,
                stacklevel=3,
            )
            basins = mask.astype(np.int32)
        else:
            distance = ndi.distance_transform_edt(mask, sampling=sampling)
            seeds = _peaks(distance, mask) if h is None else _summits(distance, mask, h)
            basins = _flood(distance, mask, seeds)
        # Codes are in the order of first appearance: raster order.
        numbers, found = pd.factorize(basins[mask])
        grain_label[window][mask] = numbers + 1 + len(phase_of_grain)
        phase_of_grain = np.append(phase_of_grain, np.full(len(found), phase, dtype=np.int16))
    return grain_label, phase_of_grain


def _peaks(distance: Array, mask: Array) -> Array:
    """Return the pixels of ``mask`` that no pixel of their 3 x 3 neighbourhood exceeds."""
    highest: Array = ndi.maximum_filter(distance, size=3, mode="nearest")
    peaks: Array = (highest == distance) & mask
    return peaks


def _summits(distance: Array, mask: Array, h: float) -> Array:
    """Return one pixel, the first of the highest, of each summit more than ``h`` above its pass to a higher summit.

    These are the h-maxima that a morphological reconstruction of ``distance - h`` finds. That takes a sort of all
    pixels; here the passes between the basins of all regional maxima are ranked instead, which are far fewer. Flooding
    downwards keeps the pass between any two maxima, whichever basin gets the pixels of a plateau.
    """
    maxima, n = ndi.label(local_maxima(distance, connectivity=1) & mask)
    pixel = np.flatnonzero(maxima)
    first = pixel[np.unique(maxima.ravel()[pixel], return_index=True)[1]]
    height = distance.ravel()[first]

    basin = watershed(-distance, maxima, mask=mask, connectivity=1) - 1
    low, high, level = _passes(basin, distance, n)
    kept = _rise_above(height.tolist(), low.tolist(), high.tolist(), level.tolist(), h)

    seeds = np.zeros(distance.shape, dtype=bool)
    seeds.ravel()[first[kept]] = True
    return seeds


def _passes(basin: Array, distance: Array, n: int) -> tuple[Array, Array, Array]:
    """Return the pairs of touching basins and the height of the pass between them, highest pass first."""
    pairs, levels = [], []
    for here, there in (((slice(1, None),), (slice(-1),)), ((..., slice(1, None)), (..., slice(-1)))):
        a, b = basin[here], basin[there]
        border = np.nonzero((a != b) & (a >= 0) & (b >= 0))
        a, b = a[border].astype(np.int64), b[border].astype(np.int64)
        pairs.append(np.minimum(a, b) * n + np.maximum(a, b))
        levels.append(np.minimum(distance[here][border], distance[there][border]))
    pair, level = np.concatenate(pairs), np.concatenate(levels)
    order = np.lexsort((pair, -level))
    pair, level = pair[order], level[order]
    # The first of each pair is its highest pass; sorting the positions restores the order by height.
    once = np.sort(np.unique(pair, return_index=True)[1])
    return pair[once] // n, pair[once] % n, level[once]


def _rise_above(height: list[float], low: list[int], high: list[int], level: list[float], h: float) -> Array:
    """Join basins from the highest pass down; the lower summit of a pair stays one if it is more than ``h`` above."""
    parent = list(range(len(height)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    kept = np.ones(len(height), dtype=bool)
    for a, b, saddle in zip(low, high, level, strict=True):
        upper, lower = root(a), root(b)
        if upper == lower:
            continue
        # Of two equal summits the first in raster order counts as the higher one.
        if (height[upper], lower) < (height[lower], upper):
            upper, lower = lower, upper
        if saddle >= height[lower] - h:
            kept[lower] = False
        parent[lower] = upper
    return kept


def _flood(distance: Array, mask: Array, seeds: Array) -> Array:
    """Flood ``mask`` from the connected ``seeds`` down the distance map; pieces without a seed get a number as well."""
    markers, n_markers = ndi.label(seeds)
    # Whole numbers instead of distances: the rank of the level, and in it first the seeds' pixels in raster order.
    _, level = np.unique(distance[mask], return_inverse=True)
    n_seeds = np.count_nonzero(seeds)
    surface = np.zeros(distance.shape)
    surface[mask] = -level * float(n_seeds + 1)
    surface[seeds] -= np.arange(n_seeds, 0, -1)
    basins: Array = watershed(surface, markers, mask=mask, connectivity=1)
    left, _ = ndi.label(mask & (basins == 0))
    basins[left > 0] = left[left > 0] + n_markers
    return basins
