"""A map, a result and their tables in words: what several verbs print."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from eds_chunked import schema
from eds_chunked.cli.output import Facts, Note, Piece, Rows, decimals, duration, number
from eds_chunked.memory import format_size

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from eds_chunked.readers.base import MapHeader
    from eds_chunked.store.run_log import LogEntry


def header_facts(header: MapHeader) -> dict[str, Any]:
    """What a file says of one of its maps."""
    return {
        "title": header.title,
        "shape": list(header.shape),
        "dtype": str(header.dtype),
        # Some files have been edited after their header was written, so this is no total_counts.
        "stated_counts": header.metadata.get("header_total_counts"),
        "energy_first": header.energy_offset,
        "energy_last": header.energy_offset + header.energy_scale * (header.shape[2] - 1),
        "energy_scale": header.energy_scale,
        "energy_unit": schema.KEV if header.energy_calibrated else schema.CHANNEL,
        "pixel_size": None if header.pixel_size is None else list(header.pixel_size),
        "pixel_unit": schema.UNCALIBRATED if header.pixel_size is None else schema.MICROMETRE,
        schema.BEAM_ENERGY: header.beam_energy,
        schema.SIGNAL_TYPE: header.signal_type,
        schema.ELEMENTS: list(header.elements),
        schema.LIVE_TIME: header.live_time,
        schema.REAL_TIME: header.real_time,
        "metadata": dict(header.metadata),
    }


def log_rows(entries: Sequence[LogEntry], heading: str) -> Rows:
    """Return entries of a run log for people, times in the zone of this machine."""
    columns = ["began", "what", "how it ended", "took", "peak", "result, or why not"]
    rows = [
        [
            f"{datetime.fromisoformat(entry.when).astimezone():%Y-%m-%d %H:%M:%S}",
            entry.what,
            entry.outcome,
            "-" if entry.seconds is None else duration(entry.seconds),
            "-" if entry.peak_bytes is None else format_size(entry.peak_bytes),
            entry.result or entry.error,
        ]
        for entry in entries
    ]
    return Rows(columns, rows, heading, words=(*columns[1:3], columns[-1]))


def map_facts(ds: xr.Dataset) -> dict[str, Any]:
    """What a store says of its map."""
    height, width, unit = schema.pixel_size(ds)
    energy = ds[schema.ENERGY]
    first, last = float(energy[0]), float(energy[-1])
    history = ds.attrs.get(schema.HISTORY, [])
    return {
        "title": ds.attrs.get(schema.TITLE, ""),
        "shape": list(ds[schema.COUNTS].shape),
        "dtype": str(ds[schema.COUNTS].dtype),
        "total_counts": int(ds[schema.SUM_SPECTRUM].sum()),
        "energy_first": first,
        "energy_last": last,
        "energy_scale": (last - first) / max(1, energy.size - 1),
        "energy_unit": energy.attrs.get("units", schema.KEV),
        "pixel_size": [height, width],
        "pixel_unit": unit,
        schema.BEAM_ENERGY: ds.attrs.get(schema.BEAM_ENERGY),
        schema.SIGNAL_TYPE: ds.attrs.get(schema.SIGNAL_TYPE),
        schema.ELEMENTS: list(ds.attrs.get(schema.ELEMENTS, [])),
        schema.LIVE_TIME: ds.attrs.get(schema.LIVE_TIME),
        schema.REAL_TIME: ds.attrs.get(schema.REAL_TIME),
        "source": history[0]["parameters"].get("source", "") if history else "",
    }


def map_lines(facts: Mapping[str, Any], heading: str, *more: tuple[str, str]) -> Facts:
    """Return the facts of a map, of a file or a store alike, for people."""
    rows, columns, channels = facts["shape"]
    pixels = rows * columns
    counts = ""
    if "total_counts" in facts:
        total = facts["total_counts"]
        counts = f"{total:,} in all, {number(total / pixels, 3)} a pixel"
    elif facts.get("stated_counts"):
        counts = f"about {facts['stated_counts']:,} in all (by the header)"
    energy_unit = facts["energy_unit"]
    if energy_unit == schema.KEV:
        step = f"{1000 * facts['energy_scale']:.4g} eV"
        energy = f"{facts['energy_first']:.4g} to {facts['energy_last']:.4g} keV, {step} a channel"
    else:
        energy = "not calibrated: eds-chunked calibrate --energy-scale KEV --energy-offset KEV"
    beam = facts[schema.BEAM_ENERGY]
    kind = {schema.SEM: "SEM", schema.TEM: "TEM"}.get(facts[schema.SIGNAL_TYPE] or "", "")
    times = [
        f"{what} {number(float(seconds))} s"
        for what, seconds in (("live", facts[schema.LIVE_TIME]), ("real", facts[schema.REAL_TIME]))
        if seconds
    ]
    dense = pixels * channels * _itemsize(facts["dtype"])
    return Facts(
        [
            ("title", schema.text(facts["title"])),
            ("source", str(facts.get("source", ""))),
            ("map", f"{rows} x {columns} pixels x {channels} channels, {facts['dtype']}, {format_size(dense)} dense"),
            ("counts", counts),
            ("pixel", _pixel(facts)),
            ("energy", energy),
            ("beam", ", ".join(part for part in (f"{beam:g} keV" if beam else "", kind) if part)),
            ("elements", " ".join(facts[schema.ELEMENTS])),
            ("time", ", ".join(times)),
            *more,
        ],
        heading,
    )


def _itemsize(dtype: str) -> int:
    return int("".join(letter for letter in dtype if letter.isdigit()) or 8) // 8


def _pixel(facts: Mapping[str, Any]) -> str:
    if facts["pixel_unit"] == schema.UNCALIBRATED:
        return "size not known: eds-chunked calibrate --pixel-size UM"
    height, width = facts["pixel_size"]
    if math.isclose(height, width, rel_tol=1e-6):
        return f"{height:.4g} um"
    return f"{height:.4g} x {width:.4g} um (height x width)"


def bytes_on_disk(store: str) -> str:
    """Return the size of a store, on a disk or elsewhere."""
    from eds_chunked.store.backend import stored_bytes

    return format_size(stored_bytes(store))


# --------------------------------------------------------------------------------------------------- tables


def modal_rows(table: pd.DataFrame, heading: str = "Phases") -> Rows:
    """Return the modal table for people."""
    from eds_chunked.phases.percent import closed_percent

    area = next(column for column in table.columns if column.startswith("area_") and column != "area_percent")
    unit = area.removeprefix("area_")
    columns = ["phase", "pixels", *(() if unit == "px" else (f"area {unit}",)), "area %", "mask %"]
    rows = []
    # As few decimals as the area of one pixel has to have.
    places = decimals(float((table[area] / table[schema.N_PIXELS]).max()), digits=2)
    # What is printed adds up to 100.00 as well.
    printed = closed_percent(table[schema.N_PIXELS].tolist(), decimals=2)
    for row, percent in zip(table.to_dict("records"), printed, strict=True):
        cells = [str(row["phase"]), f"{row[schema.N_PIXELS]:,}"]
        if unit != "px":
            cells.append(f"{row[area]:,.{places}f}")
        rows.append([*cells, f"{percent:.2f}", _or_dash(row["mask_percent"], 2)])
    return Rows(columns, rows, heading)


_COMPARED = (
    ("mean", "arithmetic_mean"),
    ("geom.\nmean", "geometric_mean"),
    ("median", "median"),
    ("D10", "d10"),
    ("D90", "d90"),
)


def size_pieces(table: pd.DataFrame) -> list[Piece]:
    """Return the key columns of a comparison of grain sizes, why phases have none, and which have few grains."""
    from eds_chunked.grains.statistics import ENOUGH_GRAINS

    unit = next(u for u in (schema.MICROMETRE, schema.UNCALIBRATED) if schema.measured("median", u) in table.columns)
    columns = [schema.PHASE, "grains", "used", "cut by\nedge", "too\nsmall"]
    columns += [name for name, _ in _COMPARED]
    columns.insert(columns.index("median"), "95 % CI")
    rows: list[list[str]] = []
    without: list[str] = []
    few: list[str] = []
    places = decimals(float(table[schema.measured("geometric_mean", unit)].min()))
    for row in table.to_dict("records"):
        cells = {name: _or_dash(row[schema.measured(key, unit)], places) for name, key in _COMPARED}
        low, high = (row[schema.measured(f"geometric_mean_ci_{end}", unit)] for end in ("low", "high"))
        cells["95 % CI"] = f"{low:,.{places}f}-{high:,.{places}f}" if math.isfinite(low) else "-"
        counted = [f"{row[n]:,}" for n in ("n_grains", "n_used", "n_edge_excluded", "n_small_excluded")]
        rows.append([row["name"], *counted, *(cells[name] for name in columns[5:])])
        if row["reason"]:
            without.append(row["name"])
        elif not row["enough_grains"]:
            few.append(row["name"])
    heading = f"Grain sizes (apparent diameters, {unit if unit == schema.MICROMETRE else 'pixels'})"
    pieces: list[Piece] = [Rows(columns, rows, heading)]
    if without:
        pieces.append(Note(f"No averages for {_phases(without)}: too few usable grains."))
    if few:
        pieces.append(
            Note(
                f"Fewer than {ENOUGH_GRAINS} grains of {_phases(few)}: averages of a log-normal population may be off "
                "by more than 4 %."
            )
        )
    return pieces


def _phases(names: list[str]) -> str:
    return f"phase {names[0]}" if len(names) == 1 else f"phases {', '.join(names)}"


def statistics_rows(table: pd.DataFrame, heading: str) -> Rows:
    """Return the size statistics of one sample for people."""
    rows = []
    places = decimals(float(table.loc[(table["unit"] != "1") & (table["measure"] != "precision"), "value"].min()))
    for row in table.to_dict("records"):
        value, low, high = (float(row[name]) for name in ("value", "ci_low", "ci_high"))
        ratio = row["unit"] == "1"
        counted = ratio and value.is_integer()
        digits = max(places, 3) if ratio else places
        interval = f"{low:,.{digits}f}-{high:,.{digits}f}" if math.isfinite(low) else ""
        unit = "" if row["unit"] == "1" else row["unit"]
        # Neither the p-value of a test nor a fine step is 0.
        small = 0 < abs(value) < 10.0**-digits
        said = f"{value:.1g}" if small else f"{value:,.{0 if counted else digits}f}"
        rows.append([row["measure"], said, unit, interval, row["method"]])
    return Rows(["measure", "value", "unit", "95 % CI", "method"], rows, heading, words=("unit", "method"))


def _or_dash(value: float, places: int) -> str:
    return f"{value:,.{places}f}" if math.isfinite(value) else "-"
