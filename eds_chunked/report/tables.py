"""The tables of a report, which are written as CSV files too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from eds_chunked import schema
from eds_chunked.grains.statistics import grain_size_statistics
from eds_chunked.phases.elements import AMBIGUOUS, FOUND, POSSIBLE
from eds_chunked.phases.modal import INTERVAL
from eds_chunked.report.findings import Findings, word
from eds_chunked.report.sections import ASSOCIATION, MADE, PHASES, SIZES, SPECTRA
from eds_chunked.store.results import revisions

_DECISIONS = (FOUND, POSSIBLE, AMBIGUOUS)


class Table(NamedTuple):
    """Rows with their caption. A page shows ``shown``, what a reader compares, where the file has more."""

    name: str
    caption: str
    rows: pd.DataFrame
    section: str
    shown: pd.DataFrame | None = None


def tables(found: Findings) -> list[Table]:
    """Return the tables that the store has results for."""
    return [*_of_phases(found), *_of_elements(found), *_of_association(found), *_of_sizes(found)]


def tables_of_making(found: Findings) -> list[Table]:
    """Return the tables that say how everything was made: results with their parameters, versions of the software."""
    return [
        Table("results", "Results of the store and the parameters that they were made with", _results(found), MADE),
        Table("versions", "Versions", _versions(found), MADE),
    ]


def _of_phases(found: Findings) -> list[Table]:
    if found.modal is None:
        return []
    caption = (
        "Modal table: exclusive phases close to 100 %, masks may overlap; "
        f"low and high: interval ({found.modal.attrs.get(INTERVAL, '')})"
    )
    return [Table("modal", caption, found.modal, PHASES)]


def _of_elements(found: Findings) -> list[Table]:
    if found.elements is None or found.spectra is None:
        return []
    spectra, evidence = found.spectra, found.elements
    names = {int(number): word(spectra, int(number)) for number in spectra[schema.PHASE].values}
    rows = []
    for number, name in names.items():
        of_phase = evidence[evidence[schema.PHASE] == number]
        said = {decision: of_phase.loc[of_phase["decision"] == decision, "element"] for decision in _DECISIONS}
        rows.append({schema.PHASE: name} | {decision: " ".join(elements) for decision, elements in said.items()})
    named = evidence.assign(**{schema.PHASE: evidence[schema.PHASE].map(names)})
    shown = [schema.PHASE, "element", "line", "energy_kev", "lines", "net_counts", "background", "sigma", "decision"]
    shown += ["overlaps", "reason"]
    return [
        Table("elements", "Candidate elements of the phases; nothing is quantified", pd.DataFrame(rows), SPECTRA),
        Table("element_evidence", "The evidence for them, line by line", named, SPECTRA, named[shown]),
    ]


def _of_association(found: Findings) -> list[Table]:
    if found.association is None:
        return []
    touching = found.association
    low, high = (f"{100 * part:+.1f}" for part in touching.bias)
    bias = f"a straight boundary is found {low} to {high} % too long, by its direction, and right over all directions"
    found_tables = [
        Table("association", f"Boundaries between phases; {bias}", touching.contacts, ASSOCIATION),
        Table("surfaces", "Perimeter, free surface and specific surface", touching.surfaces, ASSOCIATION),
    ]
    if len(touching.inclusions):
        found_tables.append(Table("inclusions", "Inclusions", touching.inclusions, ASSOCIATION))
    return found_tables


def _of_sizes(found: Findings) -> list[Table]:
    if found.sizes is None or found.grains is None:
        return []
    unit = schema.UNCALIBRATED if schema.measured("median", schema.UNCALIBRATED) in found.sizes else schema.MICROMETRE
    averages = ("arithmetic_mean", "geometric_mean", "geometric_mean_ci_low", "geometric_mean_ci_high", "median")
    columns = [
        *("name", "n_grains", "n_used", "n_edge_excluded", "n_small_excluded"),
        *(schema.measured(name, unit) for name in (*averages, "d10", "d90")),
        *("multiplicative_sd", "reason"),
    ]
    shown = found.sizes[columns].rename(columns={"name": schema.PHASE})
    found_tables = [Table("grain_sizes", "Grain sizes by phase (apparent diameters)", found.sizes, SIZES, shown)]
    for phase in found.phases_with_sizes:
        statistics = grain_size_statistics(found.grains, phase=phase).table()
        caption = f"Grain size statistics of {word(found.grains, phase)}"
        found_tables.append(Table(f"grain_size_{phase}", caption, statistics, SIZES))
    return found_tables


def _results(found: Findings) -> pd.DataFrame:
    rows = [
        {
            "result": revision.address,
            "made from": revision.attrs.get(schema.PARENT, "map"),
            "when": str(revision.attrs.get(schema.CREATED, ""))[:19].replace("T", " "),
            "parameters": _words(revision.attrs.get(schema.PARAMETERS, {})),
        }
        for revision in revisions(found.store)
    ]
    made = [
        {"result": "map", "made from": "", "when": str(event["when"])[:19].replace("T", " ")}
        | {"parameters": _words({"step": event["what"], **event["parameters"]})}
        for event in found.map.attrs.get(schema.HISTORY, [])
    ]
    return pd.DataFrame([*made, *rows])


def _versions(found: Findings) -> pd.DataFrame:
    """Return the versions of the map and, where a result was made with others, of that too."""
    history = found.map.attrs.get(schema.HISTORY, [])
    columns: dict[str, Mapping[str, str]] = {"map": history[-1]["versions"]} if history else {}
    for revision in revisions(found.store):
        versions = revision.attrs.get(schema.VERSIONS, {})
        if versions and versions not in columns.values():
            columns[revision.address] = versions
    packages = list(dict.fromkeys(name for versions in columns.values() for name in versions))
    return pd.DataFrame(
        [
            {"package": package} | {made: versions.get(package, "") for made, versions in columns.items()}
            for package in packages
        ]
    )


def _words(parameters: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name}: {value if isinstance(value, str) else json.dumps(_plain(value), ensure_ascii=False, default=str)}"
        for name, value in parameters.items()
    )


def _plain(value: Any) -> Any:
    """Return a parameter without the digits that only say how its arithmetic was rounded."""
    if isinstance(value, float):
        return float(f"{value:.10g}")
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
