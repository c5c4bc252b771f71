"""Which grains count in size statistics: not those that the map's edge cuts, nor those that are too small."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.grains.measure import grain_unit

Array = np.ndarray[Any, Any]

FEWEST_GRAINS = 3


@dataclass(frozen=True)
class UsableGrains:
    """Diameters (n,) in ``unit``, how many grains were left out and why, and the rule in words."""

    diameters: Array
    unit: str
    n_edge_excluded: int
    n_small_excluded: int
    edge_rule: str
    size_rule: str
    n_unmeasured: int = 0
    title: str = ""
    boundary_width_um: float | None = None

    @property
    def too_few(self) -> bool:
        """Tell whether there are too few grains for statistics."""
        return len(self.diameters) < FEWEST_GRAINS


def phases_of(grains: xr.Dataset) -> range:
    """Return the numbers of all phases of the map, those without a grain included."""
    grain_unit(grains)
    highest = int(grains[schema.PHASE].max()) if grains.sizes[schema.GRAIN] else 0
    return range(1, max(highest, int(grains.attrs.get(schema.N_PHASES, 0))) + 1)


def usable_grains(grains: xr.Dataset, *, phase: int | None, include_edge: bool, min_pixels: int | None) -> UsableGrains:
    """Select the grains that count; a grain both cut and small is counted as cut, one without a size goes last.

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
    counted = of_phase & ~cut & ~small
    unmeasured = counted & np.isnan(diameters)
    n_unmeasured = int(unmeasured.sum())
    size_rule = f"grains under {min_pixels} pixels are left out ({n_small})" if min_pixels else "no minimum size"
    return UsableGrains(
        diameters=diameters[counted & ~unmeasured],
        unit=unit,
        n_edge_excluded=n_cut,
        n_small_excluded=n_small,
        edge_rule=(
            f"grains that touch the map's edge are counted ({int((of_phase & at_edge).sum())})"
            if include_edge
            else f"grains that touch the map's edge are left out ({n_cut})"
        ),
        size_rule=size_rule + (f"; grains without a size are left out ({n_unmeasured})" if n_unmeasured else ""),
        n_unmeasured=n_unmeasured,
        title=_title(grains, phase),
    )


def chosen_sizes(
    diameters: xr.Dataset | npt.ArrayLike,
    *,
    phase: int | None,
    include_edge: bool,
    min_pixels: int | None,
    boundary_width_um: float | None,
    unit: str | None,
) -> UsableGrains:
    """Return the diameters that count, of a grains Dataset or of an array, checked, with the boundary added.

    Raises
    ------
    ParameterError
        A parameter that does not go with what was passed, diameters that are not positive and finite, or fewer than 3.
    """
    if isinstance(diameters, xr.Dataset):
        if unit is not None:
            raise ParameterError(
                "unit",
                found=repr(unit),
                expected="no unit with a grains Dataset, which has its own",
                fix="leave it out",
            )
        usable = usable_grains(diameters, phase=phase, include_edge=include_edge, min_pixels=min_pixels)
    else:
        if phase is not None or include_edge or min_pixels is not None:
            raise ParameterError(
                "phase, include_edge, min_pixels",
                found="set beside an array of diameters",
                expected="a grains Dataset, since an array does not know its grains' phase, place and pixels",
                fix="grain_size_statistics(separate_grains(phases), phase=1)",
            )
        usable = _given(diameters, unit or schema.MICROMETRE)
    checked = with_boundary(usable, boundary_width_um)
    if checked.too_few:
        raise ParameterError(
            f"grains{' of ' + usable.title if usable.title else ''}",
            found=f"{len(usable.diameters)} usable ({usable.edge_rule}; {usable.size_rule})",
            expected=f"at least {FEWEST_GRAINS}",
            fix="take a larger map, include_edge=True, or a smaller min_pixels",
        )
    return checked


def with_boundary(usable: UsableGrains, boundary_width_um: float | None) -> UsableGrains:
    """Check the diameters and add the width of the grain boundary, which segmentation took from the grains."""
    values = usable.diameters
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if len(wrong):
        raise ParameterError(
            "diameters",
            found=f"{len(wrong)} of {len(values)} not positive and finite, first {values[wrong[0]]} at {wrong[0]}",
            expected="sizes over 0",
            fix="diameters[diameters > 0], after asking where the others come from",
        )
    if boundary_width_um is None:
        return usable
    if not 0 <= boundary_width_um < np.inf:
        raise ParameterError(
            "boundary_width_um", found=repr(boundary_width_um), expected="a width of 0 um or more", fix="leave it out"
        )
    if usable.unit != schema.MICROMETRE:
        raise ParameterError(
            "boundary_width_um",
            found=f"a width in um for diameters in {usable.unit}",
            expected="diameters in um",
            fix="calibrate the map first: eds-chunked calibrate map.zarr --pixel-size 0.5",
        )
    return replace(usable, diameters=values + boundary_width_um, boundary_width_um=float(boundary_width_um))


def name_of_phase(grains: xr.Dataset, phase: int) -> str:
    """Return the name that a phase was given before its grains were separated, else its number."""
    return schema.phase_name(grains.attrs, phase)


def _title(grains: xr.Dataset, phase: int | None) -> str:
    # The phase first: a figure cuts a long title at its end.
    of_phase = "" if phase is None else f"phase {name_of_phase(grains, phase)}"
    parts = [of_phase, schema.text(grains.attrs.get(schema.TITLE, ""))]
    return ", ".join(part for part in parts if part)


def _given(diameters: npt.ArrayLike, unit: str) -> UsableGrains:
    try:
        values = np.array(diameters, dtype=np.float64)
        found = f"numbers of shape {values.shape}"
    except (TypeError, ValueError):
        values = np.empty((0, 0))
        found = f"{type(diameters).__name__} that does not hold numbers"
    if values.ndim != 1:
        raise ParameterError(
            "diameters",
            found=found,
            expected="numbers in one dimension, or a grains Dataset",
            fix="pass one diameter a grain, such as table['ecd_um']",
        )
    return UsableGrains(values, unit, 0, 0, "edge grains unknown: diameters without places", "minimum size unknown")
