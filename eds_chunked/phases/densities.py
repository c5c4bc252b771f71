"""Densities of phases, to turn areas into weights."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

from eds_chunked.errors import ParameterError

__all__ = ["DENSITY_COLUMN", "Densities", "checked_densities"]

DENSITY_COLUMN = "density_g_cm3"
PHASE_COLUMN = "phase"

Densities = Mapping[Any, float] | str | os.PathLike[str]
"""g/cm3 by name or number of a phase, or the path of a CSV file with the columns phase and density_g_cm3."""

_FIX = "a CSV file with the line phase,density_g_cm3 and then lines such as quartz,2.65"


def checked_densities(densities: Densities, rows: Sequence[str], *, n_phases: int) -> dict[str, float]:
    """Return densities by row of the modal table; a row without one is missing from it.

    Parameters
    ----------
    densities
        A mapping, or the path of a file.
    rows
        Names of the rows, phases first.
    n_phases
        Rows that are phases. One with a name can also be called by its number, its place in ``rows`` from 1.

    Raises
    ------
    ParameterError
        A file that cannot be read or has other columns, a phase that there is none of or that comes twice, or a density
        that is no positive number.
    """
    given: list[tuple[str, Any]]
    if isinstance(densities, Mapping):
        given, where = [(str(phase), value) for phase, value in densities.items()], "densities"
    else:
        given, where = _read(densities), f"densities in {os.fspath(densities)}"
    found: dict[str, float] = {}
    for phase, value in given:
        name = rows[int(phase) - 1] if phase.isdecimal() and 1 <= int(phase) <= n_phases else phase
        if name not in rows or name in found:
            raise ParameterError(
                where,
                found=f"phase {phase!r}" + (" twice" if name in found else ""),
                expected=f"each once: {', '.join(rows)}",
                fix="call phases as the modal table does",
            )
        try:
            density = float(value)
        except (TypeError, ValueError):
            density = math.nan
        if not (math.isfinite(density) and density > 0):
            raise ParameterError(
                f"{where}: phase {phase!r}", found=repr(value), expected="a density in g/cm3, more than 0", fix="2.65"
            )
        found[name] = density
    return found


def _read(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    where = f"densities in {os.fspath(path)}"
    try:
        # Spreadsheets start UTF-8 files with a mark.
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ParameterError(where, found=str(error), expected="a CSV file", fix=_FIX) from None
    header = rows[0] if rows else []
    if PHASE_COLUMN not in header or DENSITY_COLUMN not in header:
        raise ParameterError(
            where, found=f"columns {header}", expected=f"{PHASE_COLUMN} and {DENSITY_COLUMN}, between commas", fix=_FIX
        )
    places = header.index(PHASE_COLUMN), header.index(DENSITY_COLUMN)
    for number, row in enumerate(rows, start=1):
        if len(row) <= max(places):
            raise ParameterError(f"{where}, row {number}", found=row, expected=f"{len(header)} cells", fix=_FIX)
    return [(row[places[0]], row[places[1]]) for row in rows[1:] if row[places[1]]]
