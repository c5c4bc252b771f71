"""Grain tables and diameters as text files, and diameters from one."""

from __future__ import annotations

import re
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError, SourceError, SourceNotFoundError
from eds_chunked.grains.measure import grain_table
from eds_chunked.grains.usable import name_of_phase, phases_of, usable_grains

_UNIT = re.compile(r"unit: (\w+)")


def write_grain_files(
    grains: xr.Dataset,
    folder: str | PathLike[str],
    *,
    stem: str,
    include_edge: bool = False,
    min_pixels: int | None = None,
    parquet: bool = False,
) -> list[Path]:
    """Write the grains of every phase as a table, and their diameters as a plain list of numbers.

    ``<stem>_grains_<phase>.csv`` holds all grains of the phase with the columns of :func:`eds_chunked.grain_table`; its
    column ``phase`` has the name that the phase was given, or else its number. ``<stem>_diameters_<phase>.txt`` holds
    the diameters of the grains that count in size statistics, one a line, under one ``#`` line with their unit, number,
    edge rule and minimum size. A phase without grains gets its files too.

    Parameters
    ----------
    grains
        What :func:`eds_chunked.separate_grains` returned.
    folder
        Where to write; made if it does not exist. Files of the same name are replaced.
    stem
        Beginning of the file names.
    include_edge, min_pixels
        As in :func:`eds_chunked.grain_size_statistics`.
    parquet
        Also write each table as ``<stem>_grains_<phase>.parquet``, which keeps every digit and every type. Needs
        pyarrow.

    Returns
    -------
    list of Path
        The files, a table, with ``parquet`` a second one, and a list of diameters a phase.

    Raises
    ------
    ParameterError
        ``stem`` is not the beginning of a file name, ``min_pixels`` is negative, or there is no pyarrow for
        ``parquet``.

    Notes
    -----
    Memory: about 500 bytes a grain of the largest phase.
    """
    if not stem or Path(stem).name != stem:
        raise ParameterError("stem", found=repr(stem), expected="the beginning of a file name", fix="stem='map'")
    if parquet:
        check_parquet()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for phase in phases_of(grains):
        name = name_of_phase(grains, phase)
        rows = grain_table(grains, phase=phase).assign(**{schema.PHASE: name})
        table = folder / f"{stem}_grains_{phase}.csv"
        rows.to_csv(table, index=False, lineterminator="\n")
        written.append(table)
        if parquet:
            written.append(table.with_suffix(".parquet"))
            rows.to_parquet(written[-1], engine="pyarrow", index=False)
        usable = usable_grains(grains, phase=phase, include_edge=include_edge, min_pixels=min_pixels)
        header = (
            f"equivalent circular diameters of phase {name}; unit: {usable.unit}; n: {len(usable.diameters)}; "
            f"{usable.edge_rule}; {usable.size_rule}"
        )
        diameters = folder / f"{stem}_diameters_{phase}.txt"
        np.savetxt(diameters, usable.diameters, fmt="%.9g", header=header, encoding="utf-8")
        written.append(diameters)
    return written


def check_parquet() -> None:
    """Raise ParameterError where no parquet can be written."""
    if find_spec("pyarrow") is None:
        raise ParameterError(
            "parquet", found="no pyarrow", expected="pyarrow, which writes it", fix="pip install 'eds-chunked[parquet]'"
        )


def read_diameters(path: str | PathLike[str]) -> np.ndarray[Any, Any]:
    """Read diameters from a text file: one number a line, ``#`` begins a comment.

    Parameters
    ----------
    path
        A file such as :func:`write_grain_files` writes.

    Returns
    -------
    ndarray
        (n,) float64; empty for a file of comments only.

    Raises
    ------
    SourceNotFoundError
        There is no such file.
    SourceError
        A line is not one number.
    """
    diameters = []
    for number, line in enumerate(_lines(path), start=1):
        content = line.partition("#")[0].strip()
        if not content:
            continue
        try:
            diameters.append(float(content))
        except ValueError:
            raise SourceError(
                f"line {number} of {path}",
                found=repr(content[:60]),
                expected="one diameter a line, and # before a comment",
                fix="keep one column of numbers; for a grain table, pass its column of diameters",
            ) from None
    return np.array(diameters, dtype=np.float64)


def diameter_unit(path: str | PathLike[str]) -> str:
    """Return the unit that a file of diameters states in its first ``#`` line; ``um`` where it states none."""
    first = next(iter(_lines(path)), "")
    stated = _UNIT.search(first) if first.startswith("#") else None
    return stated.group(1) if stated else schema.MICROMETRE


def _lines(path: str | PathLike[str]) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise SourceNotFoundError(
            f"file {path}", found="no such file", expected="a text file of diameters", fix="check the path"
        ) from None
    except (UnicodeDecodeError, IsADirectoryError, PermissionError) as error:
        raise SourceError(
            f"file {path}",
            found=type(error).__name__,
            expected="a readable text file of diameters",
            fix="check the path",
        ) from None
