"""What a reader of a report must know first, and what the map is."""

from __future__ import annotations

from eds_chunked import schema
from eds_chunked.errors import MissingResultError
from eds_chunked.figures.reading import strips
from eds_chunked.grains.statistics import ENOUGH_GRAINS
from eds_chunked.phases.modal import LEFT_OUT_ROW, MIXED_ROW, UNASSIGNED_ROW
from eds_chunked.report.findings import Findings, word
from eds_chunked.report.sections import DECISIONS, GRAINS, SIZES, SPECTRA
from eds_chunked.store.backend import location_text
from eds_chunked.store.results import newest, why_stale

MUCH_LEFT_OVER = 5.0
"""Per cent of the area that may be unassigned, mixed or left out without a warning."""
MUCH_CUT = 10.0
"""Per cent of the area of a phase's grains that the map's edge may cut without a warning."""

_NO_PHASE = (UNASSIGNED_ROW, MIXED_ROW, LEFT_OUT_ROW)


def facts_of(found: Findings) -> dict[str, object]:
    """Return what the map is, by name."""
    ds = found.map
    height, width, unit = schema.pixel_size(ds)
    energy = ds[schema.ENERGY]
    counts = int(ds[schema.SUM_SPECTRUM].sum())
    n_pixels = ds.sizes[schema.Y] * ds.sizes[schema.X]
    facts: dict[str, object] = {
        "map": f"{ds.sizes[schema.Y]} x {ds.sizes[schema.X]} pixels x {energy.size} channels",
        "pixel": f"{height:.4g} x {width:.4g} {unit}",
        "energy": f"{float(energy[0]):.4g} to {float(energy[-1]):.4g} {energy.attrs.get('units', '')}",
        "counts": f"{counts:,} in all, {counts / n_pixels:,.3g} a pixel",
    }
    words = {
        schema.SIGNAL_TYPE: "signal type",
        schema.BEAM_ENERGY: "beam energy / keV",
        schema.ELEMENTS: "elements",
        schema.LIVE_TIME: "live time / s",
        schema.REAL_TIME: "real time / s",
    }
    return facts | {name: ds.attrs[key] for key, name in words.items() if ds.attrs.get(key)}


def warnings_of(found: Findings) -> list[str]:
    """Return what a reader must know before anything else."""
    return [*_of_the_store(found), *_of_phases(found), *_of_grains(found)]


def words_of(found: Findings) -> dict[str, list[str]]:
    """Return sentences by section."""
    words: dict[str, list[str]] = {}
    small = _small_margins(found)
    if small is not None:
        limit, percent = small
        words[DECISIONS] = [
            f"In {percent:.1f} % of the pixels that have a phase it was less than {limit:g} ahead of the second best."
        ]
    if found.why_no_elements:
        words[SPECTRA] = [f"Elements were not looked for. {found.why_no_elements}"]
    if found.grains is not None:
        parameters = found.grains.attrs.get(schema.PARAMETERS, {})
        said = ", ".join(f"{name} {value}" for name, value in parameters.items())
        words[GRAINS] = [f"{found.grains.sizes[schema.GRAIN]:,} grains ({said})."]
        words[SIZES] = [
            "Diameters are those of circles of the grains' areas in the section, and no diameters of the grains."
        ]
    return words


def _of_the_store(found: Findings) -> list[str]:
    said = []
    missing = found.map.attrs.get(schema.MISSING_ROWS)
    if missing:
        said.append(f"{missing} rows of the map could not be read from the file and are empty.")
    for step in schema.STEPS:
        try:
            revision = newest(found.store, step)
        except MissingResultError:
            if step in schema.RUN_STEPS:
                said.append(f"There is no {step} result yet: eds-chunked {step} {location_text(found.store)}")
            continue
        reason = why_stale(found.store, revision)
        if reason is not None:
            said.append(f"{revision.address} is stale: {reason}.")
    return said


def _of_phases(found: Findings) -> list[str]:
    if found.modal is None:
        return []
    said = []
    rows = found.modal.to_dict("records")
    for row in rows:
        name, percent = str(row[schema.PHASE]), float(row["area_percent"])
        if name in _NO_PHASE and percent > MUCH_LEFT_OVER:
            said.append(f"{percent:.1f} % of the area is {name}.")
    return said + [
        f"{_called(str(row[schema.PHASE]))} has no pixels left: all objects above its threshold were smaller than the "
        "minimum size."
        for row in rows
        if row[schema.N_PIXELS] == 0 and str(row[schema.PHASE]) not in _NO_PHASE
    ]


def _of_grains(found: Findings) -> list[str]:
    if found.grains is None or found.sizes is None:
        return []
    grains = found.grains
    phase, size = grains[schema.PHASE].values, grains[schema.N_PIXELS].values
    at_edge = grains[schema.TOUCHES_EDGE].values.astype(bool)
    said, few = [], []
    for row in found.sizes.to_dict("records"):
        number = int(row[schema.PHASE])
        own = phase == number
        area = int(size[own].sum())
        percent = 100 * int(size[own & at_edge].sum()) / area if area else 0.0
        if percent > MUCH_CUT:
            said.append(
                f"{_capital(word(grains, number))}: {int((own & at_edge).sum()):,} of {int(own.sum()):,} grains, "
                f"{percent:.0f} % of their area, touch the map's edge and are in no size statistics."
            )
        if int(row["n_used"]) < ENOUGH_GRAINS:
            few.append(f"{word(grains, number)} ({row['n_used']})")
    if few:
        said.append(
            f"Averages of sizes may be off by more than 4 % where there are fewer than {ENOUGH_GRAINS} whole grains: "
            f"{', '.join(few)}."
        )
    return said


def _called(row: str) -> str:
    return f"Phase {row}" if row.isdecimal() else _capital(row)


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]


def _small_margins(found: Findings) -> tuple[float, float] | None:
    """Return a margin, and the per cent of the pixels with a phase that was decided by less."""
    phases = found.phases
    limit = None if phases is None else phases.attrs.get(schema.PARAMETERS, {}).get("mixed_margin")
    if phases is None or schema.MARGIN not in phases or limit is None:
        return None
    n_small, n_pixels = 0, 0
    for top, label in strips(phases[schema.LABEL]):
        margin = phases[schema.MARGIN].isel({schema.Y: slice(top, top + len(label))}).values
        has_phase = (label != schema.UNASSIGNED) & (label != schema.MIXED)
        n_pixels += int(has_phase.sum())
        n_small += int((has_phase & (margin < limit)).sum())
    return float(limit), 100 * n_small / max(1, n_pixels)
