"""Which grains count in size statistics: not those that the map's edge cuts, nor those that are too small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.grains.measure import grain_unit

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class UsableGrains:
    """Diameters (n,) in ``unit``, how many grains were left out and why, and the rule in words."""

    diameters: Array
    unit: str
    n_edge_excluded: int
    n_small_excluded: int
    edge_rule: str
    size_rule: str


def phases_of(grains: xr.Dataset) -> range:
    """Return the numbers of all phases of the map, those without a grain included."""
    grain_unit(grains)
    highest = int(grains[schema.PHASE].max()) if grains.sizes[schema.GRAIN] else 0
    return range(1, max(highest, int(grains.attrs.get(schema.N_PHASES, 0))) + 1)


def usable_grains(grains: xr.Dataset, *, phase: int | None, include_edge: bool, min_pixels: int | None) -> UsableGrains:
    """Select the grains that count; a grain both cut and small is counted as cut.

    ``phase=None`` takes all phases, ``min_pixels=None`` the minimum size that the grains were made with.
    """
    unit = grain_unit(grains)
    if phase is not None and phase not in phases_of(grains):
        raise ParameterError(
            "phase", found=phase, expected=f"one of {list(phases_of(grains))}", fix="phase=1, or phase=None for all"
        )
    if min_pixels is None:
        parameters = grains.attrs.get(schema.PARAMETERS)
        min_pixels = int(parameters.get("min_size", 0)) if isinstance(parameters, Mapping) else 0
    if min_pixels < 0:
        raise ParameterError("min_pixels", found=min_pixels, expected="0 or more", fix="min_pixels=0")

    of_phase = np.ones(grains.sizes[schema.GRAIN], dtype=bool)
    if phase is not None:
        of_phase = np.asarray(grains[schema.PHASE].values) == phase
    at_edge = np.asarray(grains[schema.TOUCHES_EDGE].values, dtype=bool)
    cut = of_phase & at_edge & (not include_edge)
    small = of_phase & ~cut & (np.asarray(grains[schema.N_PIXELS].values) < min_pixels)
    n_cut, n_small = int(cut.sum()), int(small.sum())
    diameters = np.asarray(grains[schema.measured(schema.ECD, unit)].values, dtype=np.float64)
    return UsableGrains(
        diameters=diameters[of_phase & ~cut & ~small],
        unit=unit,
        n_edge_excluded=n_cut,
        n_small_excluded=n_small,
        edge_rule=(
            f"grains that touch the map's edge are counted ({int((of_phase & at_edge).sum())})"
            if include_edge
            else f"grains that touch the map's edge are left out ({n_cut})"
        ),
        size_rule=f"grains under {min_pixels} pixels are left out ({n_small})" if min_pixels else "no minimum size",
    )
