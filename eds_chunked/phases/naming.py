"""Names of phases, and phases that are one mineral made one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.engine.planning import plan
from eds_chunked.errors import ParameterError
from eds_chunked.memory import Need
from eds_chunked.store.provenance import result_attributes
from eds_chunked.store.results import reads_of

__all__ = ["LEFT_OUT_ROW", "MERGES", "MIXED_ROW", "UNASSIGNED_ROW", "merge_phases", "phase_names"]

Array = np.ndarray[Any, Any]

MERGES = "merges"
"""Parameter by which merged phases are told from others."""
MIN_SIZE = "min_size"

UNASSIGNED_ROW, MIXED_ROW, LEFT_OUT_ROW = schema.UNASSIGNED_ROW, schema.MIXED_ROW, schema.LEFT_OUT_ROW
_TAKEN = (UNASSIGNED_ROW, MIXED_ROW, LEFT_OUT_ROW)


def phase_names(result: xr.Dataset) -> list[str]:
    """Return what tables call the phases of a result: the name that was given to each, else its number.

    Phases are those of the dimension ``phase``, or 1 to n of grains, which have none. Results that are made from phases
    with names know them too.
    """
    if schema.PHASE in result.coords and result[schema.PHASE].dims == (schema.PHASE,):
        numbers = [int(number) for number in result[schema.PHASE].values]
    else:
        n_phases = result.sizes[schema.PHASE] if schema.PHASE in result.sizes else result.attrs[schema.N_PHASES]
        numbers = list(range(1, n_phases + 1))
    return [schema.phase_name(result.attrs, number) for number in numbers]


def merge_phases(
    phases: xr.Dataset,
    *,
    merges: Mapping[str, Sequence[int]] | None = None,
    names: Mapping[int, str] | None = None,
    memory: str | int | None = None,
) -> xr.Dataset:
    """Compute phases in which those that are one mineral are one, and that have names.

    An NMF often needs two components for one mineral (zoning, shading, topography). A merged phase takes the place of
    the first of its members, and phases are numbered anew from 1. A mixed pixel becomes the merged phase where all the
    masks that hold it are members: then it was undecided between parts of one mineral only.

    Parameters
    ----------
    phases
        ``label`` (y, x) and ``mask`` (phase, y, x), as :func:`eds_chunked.segment_phases` and
        :func:`eds_chunked.dask_cluster` return them.
    merges
        Numbers of phases by the name that they get as one, such as ``{"feldspar": [2, 5]}``.
    names
        Names of phases that stay as they are by their number in ``phases``, such as ``{1: "quartz"}``.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    xarray.Dataset
        In memory: ``label``, ``mask``, and ``n_pixels`` and ``area_fraction`` of the masks, with the names in the
        attributes, from where the spectra, grains, tables and figures that are made of it take them. ``margin`` is kept
        where there is one: it is that of the members, so a lower bound for a merged phase. ``threshold`` is NaN for a
        merged phase. Its run is called ``<run>-merged``.

    Raises
    ------
    ChunkLayoutError
        ``phases`` lacks a variable or has other dimensions.
    ParameterError
        A number that is no phase or is named twice, or a name that is empty, a number, taken, or given twice.
    MemoryBudgetError
        What the map needs does not fit the budget.

    Notes
    -----
    Memory: 2 bytes a pixel and phase, and 20 bytes a pixel.
    """
    schema.require(phases, schema.LABEL, schema.MASK)
    merges = {name: list(members) for name, members in (merges or {}).items()}
    names = dict(names or {})
    n_phases = phases.sizes[schema.PHASE]
    _check_numbers([*names, *(number for members in merges.values() for number in members)], n_phases)
    for name, members in merges.items():
        if not members:
            raise ParameterError(
                f"merge {name!r}", found="no phases", expected="at least one number", fix="merges={'feldspar': [2, 5]}"
            )
    name_of = {min(members): name for name, members in merges.items()} | names
    first_of = {number: min(members) for members in merges.values() for number in members}
    group = np.array([first_of.get(number, number) for number in range(1, n_phases + 1)])
    # Old number to new, from 1 in the order of the first members.
    kept, new = np.unique(group, return_inverse=True)
    new = new + 1
    before = phase_names(phases)
    texts = {
        str(place): name_of.get(int(number), before[number - 1])
        for place, number in enumerate(kept, start=1)
        if int(number) in name_of or before[number - 1] != str(number)
    }
    _check_names([*merges, *names.values()], list(texts.values()))

    plan(
        Need("merge of phases", (2 * n_phases + 20) * phases[schema.LABEL].size, 0),
        memory=memory,
        reads=[reads_of(phases, schema.MASK), reads_of(phases, schema.LABEL)],
        writes=phases.nbytes,
    )
    old_mask = np.asarray(phases[schema.MASK].values)
    mask = np.zeros((len(kept), *old_mask.shape[1:]), np.bool_)
    for number, part in zip(new, old_mask, strict=True):
        mask[number - 1] |= part
    renumber = np.zeros(schema.MIXED + 1, np.uint8)
    renumber[1 : n_phases + 1] = new
    renumber[schema.MIXED] = schema.MIXED
    label = renumber[phases[schema.LABEL].values]
    alone = (label == schema.MIXED) & (mask.sum(axis=0, dtype=np.uint8) == 1)
    alone &= old_mask.sum(axis=0, dtype=np.uint8) > 1
    label[alone] = mask[:, alone].argmax(axis=0) + 1

    n_pixels = mask.sum(axis=(1, 2), dtype=np.int64)
    variables: dict[str, Array] = {
        schema.MASK: mask,
        schema.LABEL: label,
        schema.N_PIXELS: n_pixels,
        schema.AREA_FRACTION: n_pixels / max(1, label.size),
    }
    if schema.MARGIN in phases:
        variables[schema.MARGIN] = phases[schema.MARGIN].values
    if schema.THRESHOLD in phases:
        single = np.bincount(new - 1) == 1
        variables[schema.THRESHOLD] = np.where(single, phases[schema.THRESHOLD].values[kept - 1], np.nan)
    coords = {
        name: phases[name].variable.compute()
        for name in (schema.Y, schema.X, schema.ANALYSED_PIXEL)
        if name in phases.coords
    }
    parameters: dict[str, Any] = {MERGES: merges, "names": {str(number): name for number, name in names.items()}}
    made_with = phases.attrs.get(schema.PARAMETERS, {})
    if MIN_SIZE in made_with:
        # Of the pieces of a mask still, and what grains are held to.
        parameters[MIN_SIZE] = made_with[MIN_SIZE]
    attrs = result_attributes(phases, schema.PHASES, parameters) | {schema.PHASE_NAMES: texts}
    attrs[schema.RUN] = "-".join([*([attrs[schema.RUN]] if schema.RUN in attrs else []), "merged"])
    return xr.Dataset(
        {name: (schema.VARIABLES[name].dims, values, schema.attributes(name)) for name, values in variables.items()},
        coords={**coords, schema.PHASE: np.arange(1, len(kept) + 1)},
        attrs=attrs,
    )


def _check_numbers(numbers: list[int], n_phases: int) -> None:
    wrong = [number for number in numbers if number not in range(1, n_phases + 1) or numbers.count(number) > 1]
    if wrong or not numbers:
        raise ParameterError(
            "phases to merge or name",
            found=sorted(set(wrong)) or "none",
            expected=f"numbers of 1 to {n_phases}, each once",
            fix="merges={'feldspar': [2, 5]}, names={1: 'quartz'}",
        )


def _check_names(given: list[str], every: list[str]) -> None:
    for name in given:
        usable = isinstance(name, str) and name == schema.name_text(name) != "" and not name.isdecimal()
        if not usable or name in _TAKEN or every.count(name) > 1:
            raise ParameterError(
                "name of a phase",
                found=repr(name),
                expected=f"a different name for each phase, no number, none of {', '.join(_TAKEN)}, no = + - @ first",
                fix="merges={'feldspar': [2, 5]}, names={1: 'quartz'}",
            )
