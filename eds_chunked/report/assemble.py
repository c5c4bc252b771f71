"""The report of a store, and the folder of pictures, tables and files that goes with it."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import xarray as xr

from eds_chunked import progress, schema
from eds_chunked.errors import ParameterError
from eds_chunked.figures.reading import MOST_PIXELS
from eds_chunked.grains.files import write_grain_files
from eds_chunked.memory import MB, Need, plan
from eds_chunked.report.findings import Findings, few_grains_are_listed
from eds_chunked.report.notes import facts_of, warnings_of, words_of
from eds_chunked.report.page import Figure, Section, render
from eds_chunked.report.pictures import Picture, pictures
from eds_chunked.report.sections import SECTIONS
from eds_chunked.report.tables import Table, tables, tables_of_making
from eds_chunked.store.backend import Location, location_text
from eds_chunked.store.run_log import recorded

__all__ = ["Picture", "pictures", "results_need", "write_report", "write_results"]


def results_need(n_pixels: int) -> Need:
    """Memory of the report: libraries and the table of X-ray lines; a figure; connected pieces.

    Figures read a map in strips, and show at most 1500 x 1500 pixels of it. What grows with the map are the pieces of
    the association, 450 bytes each, of which there is one in 50 pixels where small objects were removed.
    """
    shown = min(n_pixels, MOST_PIXELS**2)
    return Need("figures", 410 * MB + 50 * shown + 12 * n_pixels, 0)


@recorded("report")
def write_results(store: Location, folder: str | os.PathLike[str], *, memory: str | int | None = None) -> list[Path]:
    """Write all that the store has results for into ``folder``: pictures, tables and the report.

    Pictures are numbered PNG files, tables CSV files, diameters text files for ``numpy.loadtxt``, and ``report.html``
    holds all of it in one file.

    Parameters
    ----------
    store
        Path or URL of the store.
    folder
        Made where it does not exist; files of the same names are replaced.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    The paths of the files, the report last.
    """
    found = _planned(store, memory)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with few_grains_are_listed():
        listed = tables(found)
        written = _write_tables(found, listed, target)
    drawn = _draw(found)
    for number, picture in enumerate(drawn, start=1):
        path = target / f"{number:02d}_{picture.name}.png"
        path.write_bytes(picture.png)
        written.append(path)
    return [*written, _write_page(found, listed, drawn, target / "report.html")]


@recorded("report")
def write_report(store: Location, target: str | os.PathLike[str], *, memory: str | int | None = None) -> Path:
    """Write the report of a store: one HTML file with its pictures, tables, parameters and warnings.

    Parameters
    ----------
    store
        Path or URL of the store.
    target
        The .html file; one that is there is replaced.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    The path of the file.
    """
    path = Path(target)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ParameterError("report file", found=path.name, expected="a name that ends in .html", fix="report.html")
    found = _planned(store, memory)
    path.parent.mkdir(parents=True, exist_ok=True)
    with few_grains_are_listed():
        listed = tables(found)
    return _write_page(found, listed, _draw(found), path)


def _planned(store: Location, memory: str | int | None) -> Findings:
    found = Findings(store)
    plan(results_need(found.map[schema.TOTAL_COUNTS].size), memory=memory)
    return found


def _draw(found: Findings) -> list[Picture]:
    with progress.step("figures", 1, unit="") as done, few_grains_are_listed():
        drawn = list(pictures(found))
        done(1)
    return drawn


def _write_tables(found: Findings, listed: list[Table], target: Path) -> list[Path]:
    written = []
    for table in [*listed, *tables_of_making(found)]:
        path = target / f"{table.name}.csv"
        table.rows.to_csv(path, index=False)
        written.append(path)
    if found.spectra is not None:
        path = target / "phase_spectra.csv"
        _spectra_table(found.spectra).to_csv(path, index=False)
        written.append(path)
    if found.grains is not None:
        written += write_grain_files(found.grains, target, stem=Path(location_text(found.store)).stem)
    return written


def _spectra_table(spectra: xr.Dataset) -> pd.DataFrame:
    unit = spectra[schema.ENERGY].attrs.get("units", schema.KEV)
    columns = {f"{schema.ENERGY}_{unit}": spectra[schema.ENERGY].values}
    for number in spectra[schema.PHASE].values:
        columns[f"phase_{number}_counts"] = spectra[schema.SPECTRUM].sel({schema.PHASE: number}).values
    return pd.DataFrame(columns)


def _write_page(found: Findings, listed: list[Table], drawn: list[Picture], path: Path) -> Path:
    words = words_of(found)
    every = [*listed, *tables_of_making(found)]
    page = render(
        title=found.title or path.stem,
        facts=facts_of(found),
        warnings=warnings_of(found),
        sections=[
            Section(
                name,
                words.get(name, []),
                [
                    Figure(picture.caption, picture.alt, picture.png, picture.plots)
                    for picture in drawn
                    if picture.section == name
                ],
                [
                    (table.caption, table.rows if table.shown is None else table.shown)
                    for table in every
                    if table.section == name
                ],
            )
            for name in SECTIONS
        ],
    )
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path
