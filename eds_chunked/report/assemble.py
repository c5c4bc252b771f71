"""What a store has to show: its pictures, its tables, and the report that holds both."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import xarray as xr

from eds_chunked import figures, progress, schema
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.errors import MissingResultError, ParameterError
from eds_chunked.grains.files import write_grain_files
from eds_chunked.grains.statistics import (
    ENOUGH_GRAINS,
    FewGrainsWarning,
    compare_phases,
    grain_size_statistics,
)
from eds_chunked.grains.usable import FEWEST_GRAINS
from eds_chunked.memory import MB, Need, plan
from eds_chunked.phases.modal import MIXED_ROW, UNASSIGNED_ROW, modal_table
from eds_chunked.report.page import render
from eds_chunked.store.backend import Location, location_text
from eds_chunked.store.opening import check_store, open_map
from eds_chunked.store.results import load, newest, revisions, why_stale

MUCH_LEFT_OVER = 5.0
"""Per cent of the area that may be unassigned or mixed without a warning."""


class Picture(NamedTuple):
    """A figure as PNG with the words that go with it; ``name`` is the stem of its file."""

    name: str
    caption: str
    alt: str
    png: bytes


def stored(store: Location, step: str) -> xr.Dataset | None:
    """Return the last result of a step, or None if there is none yet."""
    try:
        return load(store, step)
    except MissingResultError:
        return None


def pictures(store: Location) -> Iterator[Picture]:
    """Draw what the store has results for, one figure at a time, in the order of the work."""
    ds = open_map(store)
    title = schema.text(ds.attrs.get(schema.TITLE, ""))
    yield Picture(
        "sum_spectrum",
        "Sum spectrum and maximum-pixel spectrum",
        f"Counts against energy for the map {title}, logarithmic",
        figures.png(figures.draw_sum_spectrum(ds)),
    )
    pca, nmf = stored(store, schema.PCA), stored(store, schema.NMF)
    phases, spectra, grains = (stored(store, step) for step in (schema.PHASES, schema.SPECTRA, schema.GRAINS))
    if pca is not None:
        advice = advise_components(pca)
        scree = figures.draw_scree(
            pca, advised=advice.n_components, elbow=advice.elbow, critical_variance=advice.critical_variance
        )
        yield Picture(
            "scree",
            "Scree plot: explained variance of the principal components",
            f"Explained variance ratio by component, linear and logarithmic. {advice}",
            figures.png(scree),
        )
        yield Picture(
            "pca",
            "Principal components: loadings and factors",
            f"{pca.sizes[schema.COMPONENT]} component maps beside their spectra",
            figures.png(figures.draw_components(pca)),
        )
    if nmf is not None:
        yield Picture(
            "nmf",
            "NMF components: loadings and factors",
            f"{nmf.sizes[schema.COMPONENT]} component maps beside their spectra",
            figures.png(figures.draw_components(nmf)),
        )
    model = stored(store, schema.MODEL)
    if model is not None:
        yield Picture(
            "model",
            "Fit of the low-rank model: chi-square and residual",
            "Maps of chi-square and residual, and chi-square by energy; 1 is counting noise alone",
            figures.png(figures.draw_model_fit(model)),
        )
    if phases is not None:
        source = load(store, phases.attrs[schema.PARENT]) if schema.PARENT in phases.attrs else nmf
        # Clusters have no thresholds.
        cut = source is not None and schema.THRESHOLD in phases
        numbers = [int(number) for number in phases[schema.PHASE].values] if cut else []
        for number in numbers:
            assert source is not None
            yield Picture(
                f"threshold_{number}",
                f"Component {number}: histogram with threshold, mask before and after cleaning",
                f"Histogram of loading {number} and its mask before and after small objects and holes were removed",
                figures.png(figures.draw_threshold(source, phases, component=int(number))),
            )
        yield Picture(
            "phase_map",
            "Phases (exclusive)",
            "Map of the phases with their area shares",
            figures.png(figures.draw_phase_map(phases)),
        )
    if spectra is not None:
        yield Picture(
            "phase_spectra",
            "Phase spectra, counts a pixel",
            "Spectrum of each phase on a logarithmic scale",
            figures.png(figures.draw_phase_spectra(spectra)),
        )
    if grains is not None:
        # Not the last phases, which may have been made again since.
        origin = load(store, grains.attrs[schema.PARENT]) if schema.PARENT in grains.attrs else phases
        yield Picture(
            "grain_map", "Grains", "Map of the separated grains in the colour of their phase",
            figures.png(figures.draw_grain_map(grains, origin)),
        )  # fmt: skip
        for phase in _phases_with_sizes(grains):
            for scale in ("linear", "log"):
                yield Picture(
                    f"grain_size_{phase}_{scale}",
                    f"Apparent grain diameters of phase {phase}, {scale} scale",
                    f"Histogram and density of the grain diameters of phase {phase} with mean, median, geometric mean",
                    figures.png(grain_size_statistics(grains, phase=phase, scale=scale).plot()),
                )


def _phases_with_sizes(grains: xr.Dataset) -> list[int]:
    sizes = compare_phases(grains)
    return [int(phase) for phase in sizes.loc[sizes["n_used"] >= FEWEST_GRAINS, schema.PHASE]]


def tables(store: Location) -> dict[str, tuple[str, pd.DataFrame]]:
    """Return the tables that the store has results for: by name of file, caption and rows."""
    found: dict[str, tuple[str, pd.DataFrame]] = {}
    phases, grains = stored(store, schema.PHASES), stored(store, schema.GRAINS)
    if phases is not None:
        found["modal"] = ("Modal table: exclusive phases close to 100 %; masks may overlap", modal_table(phases))
    if grains is not None:
        found["grain_sizes"] = ("Grain sizes by phase (apparent diameters)", compare_phases(grains))
        for phase in _phases_with_sizes(grains):
            table = grain_size_statistics(grains, phase=phase).table()
            found[f"grain_size_{phase}"] = (f"Grain size statistics of phase {phase}", table)
    return found


def results_need(n_pixels: int) -> Need:
    """Memory of drawing: Matplotlib, the table of X-ray lines, a figure of 200 dots an inch, maps of the pixels."""
    return Need("figures", 300 * MB + 60 * n_pixels, 0)


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
    check_store(store)
    plan(results_need(open_map(store)[schema.TOTAL_COUNTS].size), memory=memory)
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with _few_grains_are_listed():
        written = _write_tables(store, target)
    drawn = _draw(store)
    for number, picture in enumerate(drawn, start=1):
        path = target / f"{number:02d}_{picture.name}.png"
        path.write_bytes(picture.png)
        written.append(path)
    return [*written, _write_page(store, target / "report.html", drawn)]


def _draw(store: Location) -> list[Picture]:
    with progress.step("figures", 1) as done, _few_grains_are_listed():
        drawn = list(pictures(store))
        done(1)
    return drawn


def _write_tables(store: Location, target: Path) -> list[Path]:
    written = []
    for name, (_, table) in tables(store).items():
        path = target / f"{name}.csv"
        table.to_csv(path, index=False)
        written.append(path)
    spectra, grains = stored(store, schema.SPECTRA), stored(store, schema.GRAINS)
    if spectra is not None:
        path = target / "phase_spectra.csv"
        _spectra_table(spectra).to_csv(path, index=False)
        written.append(path)
    if grains is not None:
        written += write_grain_files(grains, target, stem=Path(location_text(store)).stem)
    return written


def _spectra_table(spectra: xr.Dataset) -> pd.DataFrame:
    unit = spectra[schema.ENERGY].attrs.get("units", schema.KEV)
    columns = {f"{schema.ENERGY}_{unit}": spectra[schema.ENERGY].values}
    for number in spectra[schema.PHASE].values:
        columns[f"phase_{number}_counts"] = spectra[schema.SPECTRUM].sel({schema.PHASE: number}).values
    return pd.DataFrame(columns)


def write_report(store: Location, target: str | os.PathLike[str]) -> Path:
    """Write the report of a store: one HTML file with its pictures, tables, parameters and warnings.

    Parameters
    ----------
    store
        Path or URL of the store.
    target
        The .html file; one that is there is replaced.

    Returns
    -------
    The path of the file.
    """
    path = Path(target)
    if path.suffix.lower() not in (".html", ".htm"):
        raise ParameterError("report file", found=path.name, expected="a name that ends in .html", fix="report.html")
    check_store(store)
    path.parent.mkdir(parents=True, exist_ok=True)
    return _write_page(store, path, _draw(store))


@contextmanager
def _few_grains_are_listed() -> Iterator[None]:
    """Keep a phase with few grains from warning of it for every figure and table: the report lists it once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FewGrainsWarning)
        yield


def _write_page(store: Location, path: Path, drawn: list[Picture]) -> Path:
    ds = open_map(store)
    with _few_grains_are_listed():
        page = render(
            title=schema.text(ds.attrs.get(schema.TITLE) or path.stem),
            figures=[(picture.caption, picture.alt, picture.png) for picture in drawn],
            tables=list(tables(store).values()),
            facts=_facts(ds, store),
            warnings=_warnings(store),
        )
    partial = path.with_name(f".{path.name}.part")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path


def _facts(ds: xr.Dataset, store: Location) -> dict[str, object]:
    height, width, unit = schema.pixel_size(ds)
    energy = ds[schema.ENERGY]
    facts: dict[str, object] = {
        "map": f"{ds.sizes[schema.Y]} x {ds.sizes[schema.X]} pixels x {energy.size} channels",
        "pixel": f"{height:.4g} x {width:.4g} {unit}",
        "energy": f"{float(energy[0]):.4g} to {float(energy[-1]):.4g} {energy.attrs.get('units', '')}",
        "counts": int(ds[schema.SUM_SPECTRUM].sum()),
    }
    for name in (schema.SIGNAL_TYPE, schema.BEAM_ENERGY, schema.ELEMENTS, schema.LIVE_TIME):
        if ds.attrs.get(name):
            facts[name] = ds.attrs[name]
    for revision in revisions(store):
        facts[revision.address] = dict(revision.attrs.get(schema.PARAMETERS, {}))
    facts["versions"] = dict(ds.attrs[schema.HISTORY][-1]["versions"])
    return facts


def _warnings(store: Location) -> list[str]:
    found = []
    for step in schema.STEPS:
        try:
            revision = newest(store, step)
        except MissingResultError:
            if step in schema.RUN_STEPS:
                found.append(f"There is no {step} result yet: eds-chunked {step} {location_text(store)}")
            continue
        reason = why_stale(store, revision)
        if reason is not None:
            found.append(f"{revision.address} is stale: {reason}.")
    phases, grains = stored(store, schema.PHASES), stored(store, schema.GRAINS)
    if phases is not None:
        modal = modal_table(phases)
        for name, percent in zip(modal["phase"], modal["area_percent"], strict=True):
            if name in (UNASSIGNED_ROW, MIXED_ROW) and float(percent) > MUCH_LEFT_OVER:
                found.append(f"{float(percent):.1f} % of the area is {name}.")
        empty = modal.loc[modal["n_pixels"] == 0, "phase"]
        found += [
            f"Phase {name} has no pixels left: all objects above its threshold were smaller than the minimum size."
            for name in empty
            if name not in (UNASSIGNED_ROW, MIXED_ROW)
        ]
    if grains is not None:
        sizes = compare_phases(grains)
        for phase, n_used in zip(sizes[schema.PHASE], sizes["n_used"], strict=True):
            if int(n_used) < ENOUGH_GRAINS:
                found.append(
                    f"Phase {phase}: {n_used} whole grains; averages are good to some per cent from {ENOUGH_GRAINS}."
                )
    return found
