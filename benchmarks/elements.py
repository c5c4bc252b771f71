"""Which elements of minerals does `identify_elements` find, what does it find that is not there, and how fast is it?

    python -m benchmarks elements [--seeds 3] [--quick] [--json elements.json] [--real ../shared/data]

Rocks of six minerals, each its own phase, as a microscope would count them (benchmarks/element_rocks.py, which shares
no code with the fit). Thresholds were set with the rocks called "development"; nothing was set with those held out, of
which an earlier search had been looked at, nor with those for confirmation, looked at once (element_sets.py).
Every rock is counted at several doses, each time by the next instrument of a list: beams of 10 to 20 kV, detectors of
several widths, axes that are off by half a channel to one and a half, or 0.1 % in scale, and phases that mix.

Recall is the share of elements with a clear line that are found. How clear a line is, is known from the truth: by
counts alone (its own within 0.6 widths over the root of all counts there, those of other elements under it included),
and as the bound of Cramer and Rao, by which no estimate can tell it from what else is in the spectrum. A line is
clear if it stands out by 5 standard deviations in both ways: V Ka under Ti Kb may have any number of counts, but is a
part of that peak which nobody knows. Recall of all lines that are clear by counts is given beside. Answers
"ambiguous" that name the element and "possible" count as not found, and stand beside. What is found and not there is
false, one by one.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from time import process_time

import numpy as np
import pandas as pd
import xarray as xr

import eds_chunked as edc
from benchmarks.codec import machine
from benchmarks.element_rocks import Instrument, Mineral, clearest_lines, expected, mixed, spectra_of
from benchmarks.element_sets import CONFIRMATION, DEVELOPMENT, HELD_OUT
from eds_chunked import schema

Rocks = Iterable[tuple[str, Sequence[Mineral]]]

SETS: dict[str, Rocks] = {"development": DEVELOPMENT, "held out": HELD_OUT, "confirmation": CONFIRMATION}
DOSES = (300.0, 3e3, 3e4, 3e5, 3e6)
"""Counts of a phase."""
CLEAR = 5.0
N_PHASES = 4
REAL = {
    "P45_12bit_packed_8bit_compressed.bcf": (0.2, 20.0),
    "P45_8bit_compressed_80keV_range.bcf": (0.2, 20.0),
    "P45_the_default_job.bcf": (0.2, 20.0),
    "88_ES-LP_G8_selection2_cropped2.hspy": (0.9, 19.0),
}
"""Real maps, and the energies (keV) at which they are decomposed."""
INSTRUMENTS = {
    "as stated": Instrument(),
    "offset +5 eV": Instrument(offset=0.005),
    "offset -15 eV": Instrument(offset=-0.015),
    "offset +15 eV": Instrument(offset=0.015),
    "gain +0.1 %": Instrument(gain=0.001),
    "gain -0.1 %, offset +10 eV": Instrument(gain=-0.001, offset=0.010),
    "123 eV": Instrument(fwhm=123.0),
    "145 eV": Instrument(fwhm=145.0),
    "10 kV": Instrument(beam=10.0),
    "15 kV": Instrument(beam=15.0),
    "20 eV channels": Instrument(channels=1024, width=0.02),
    "a tenth of the next phase": Instrument(mixing=0.1),
}


@dataclass(frozen=True)
class Outcome:
    """What was found in a mineral: elements with a clear line, those found, abstained from or missed; false ones.

    ``ambiguous``, ``possible`` and ``missed`` are elements with their clearest line and its sigma. ``blurred`` have a
    line that is clear by its counts alone, and ``blurred_found`` are those of them that were found.
    """

    rocks: str
    rock: str
    mineral: str
    instrument: str
    counts: float
    seed: int
    clear: list[str]
    found: list[str]
    blurred: list[str]
    blurred_found: list[str]
    ambiguous: list[str]
    possible: list[str]
    missed: list[str]
    false: list[str]
    seconds: float


def outcomes(
    sets: dict[str, Rocks] = SETS,
    *,
    doses: Sequence[float] = DOSES,
    instruments: dict[str, Instrument] = INSTRUMENTS,
    seeds: Iterable[int] = (0,),
) -> Iterator[Outcome]:
    """Look at every rock at every dose with the next instrument; ``seconds`` are those of all minerals of the rock.

    What is drawn of one set does not depend on the others.
    """
    for of, rocks in sets.items():
        following = cycle(instruments.items())
        for dose in doses:
            for seed in seeds:
                for rock, minerals in rocks:
                    yield from _rock_outcomes(of, rock, minerals, dose=dose, seed=seed, instrument=next(following))


def _rock_outcomes(
    of: str, rock: str, minerals: Sequence[Mineral], *, dose: float, seed: int, instrument: tuple[str, Instrument]
) -> Iterator[Outcome]:
    stated, at = instrument
    rng = np.random.default_rng([seed, int(dose), *rock.encode(), len(stated)])
    drawn = [expected(mineral, dose, at, rng=rng) for mineral in minerals]
    there = [mineral.elements for mineral in minerals]
    if at.mixing:
        drawn = [mixed(one, other, at.mixing) for one, other in zip(drawn, [*drawn[1:], drawn[0]], strict=True)]
        there = [one | other for one, other in zip(there, [*there[1:], there[0]], strict=True)]
    spectra = spectra_of([rng.poisson(one.total) for one in drawn], at)
    began = process_time()
    table = edc.identify_elements(spectra)
    seconds = process_time() - began
    for phase, (mineral, one) in enumerate(zip(minerals, drawn, strict=True), 1):
        rows = table[table[schema.PHASE] == phase]
        sure = set(rows.loc[rows["decision"] == "found", "element"])
        unsure = _named(rows[rows["decision"] == "ambiguous"])
        weak = set(rows.loc[rows["decision"] == "possible", "element"]) - unsure
        clearest = clearest_lines(one, at)
        clear = {element for element, seen in clearest.items() if seen.sigma >= CLEAR}
        blurred = {element for element, seen in clearest.items() if seen.by_counts >= CLEAR} - clear
        said = {element: f"{seen.line} ({seen.sigma:.0f} sigma)" for element, seen in clearest.items()}
        lacking = sorted(clear - sure)
        yield Outcome(
            rocks=of,
            rock=rock,
            mineral=mineral.name,
            instrument=stated,
            counts=dose,
            seed=seed,
            clear=sorted(clear),
            found=sorted(clear & sure),
            blurred=sorted(blurred),
            blurred_found=sorted(blurred & sure),
            ambiguous=[said[element] for element in lacking if element in unsure],
            possible=[said[element] for element in lacking if element in weak],
            missed=[said[element] for element in lacking if element not in unsure | weak],
            false=sorted(sure - there[phase - 1]),
            seconds=seconds,
        )


def _named(rows: pd.DataFrame) -> set[str]:
    """Return the elements that ambiguous answers name."""
    alternatives = re.findall(r"\b[A-Z][a-z]?\b", " ".join(rows["reason"]))
    return set(rows["element"]) | (set(alternatives) & set(schema.PERIODIC_TABLE))


@dataclass(frozen=True)
class Score:
    """Numbers over some outcomes; ``most_false`` is that of the worst phase."""

    phases: int
    clear: int
    found: int
    blurred: int
    blurred_found: int
    ambiguous: int
    possible: int
    false: int
    most_false: int

    @classmethod
    def of(cls, some: Sequence[Outcome]) -> Score:
        """Add up."""
        return cls(
            phases=len(some),
            clear=sum(len(one.clear) for one in some),
            found=sum(len(one.found) for one in some),
            blurred=sum(len(one.blurred) for one in some),
            blurred_found=sum(len(one.blurred_found) for one in some),
            ambiguous=sum(len(one.ambiguous) for one in some),
            possible=sum(len(one.possible) for one in some),
            false=sum(len(one.false) for one in some),
            most_false=max((len(one.false) for one in some), default=0),
        )

    @property
    def recall(self) -> float:
        """Share of the clear elements that were found."""
        return self.found / self.clear if self.clear else float("nan")

    @property
    def recall_by_counts(self) -> float:
        """The same of all that are clear by counts alone."""
        every = self.clear + self.blurred
        return (self.found + self.blurred_found) / every if every else float("nan")


def report(found: Sequence[Outcome]) -> str:
    """Return Markdown tables: recall and false elements by rocks and dose, and by instrument; what went wrong."""
    lines = []
    groups: tuple[tuple[str, Callable[[Outcome], str]], ...] = (
        ("counts of a phase", lambda one: f"{one.counts:g}"),
        ("instrument", lambda one: one.instrument),
    )
    for name in dict.fromkeys(one.rocks for one in found):
        own = [one for one in found if one.rocks == name]
        for title, key in groups:
            lines += [
                f"| {name}: {title} | phases | clear | recall | by counts | recall | ambiguous | possible "
                "| false a phase | most |",
                "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
            ]
            for value in [*dict.fromkeys(map(key, own)), "all"]:
                score = Score.of([one for one in own if value in ("all", key(one))])
                lines.append(
                    f"| {value} | {score.phases} | {score.clear} | {score.recall:.3f} "
                    f"| {score.clear + score.blurred} | {score.recall_by_counts:.3f} | {score.ambiguous} "
                    f"| {score.possible} | {score.false / score.phases:.3f} | {score.most_false} |"
                )
            lines.append("")
        for title in ("missed", "ambiguous", "possible", "false"):
            counted = Counter(f"{element} in {one.mineral}" for one in own for element in getattr(one, title))
            most = ", ".join(f"{what}" + (f" {times}x" if times > 1 else "") for what, times in counted.most_common(20))
            lines.append(f"{name}, {title}: {most or 'none'}.")
        lines.append("")
    times = sorted(one.seconds for one in found)
    lines.append(
        f"A rock of six minerals: {times[len(times) // 2]:.2f} s of a processor (median), {times[-1]:.2f} s at most."
    )
    return "\n".join(lines)


def real_maps(folder: Path) -> Iterator[str]:
    """Yield what is found in the phases of the real maps in ``folder``, a line a phase."""
    for name, (low, high) in REAL.items():
        if not (folder / name).exists():
            print(f"{folder / name} is not here", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as scratch:
            ds = edc.convert(folder / name, str(Path(scratch) / "map.zarr"))
            phases = edc.segment_phases(edc.nmf(ds.eds.window(low, high), n_components=N_PHASES))
            spectra: xr.Dataset = edc.phase_spectra(ds, phases=phases).load()
            began = process_time()
            table = edc.identify_elements(spectra)
            yield f"{name}, {process_time() - began:.2f} s of a processor; sigmas of all lines in brackets:"
            for number, rows in table[table["element"] != ""].groupby(schema.PHASE):
                said = {
                    decision: " ".join(
                        f"{row.element} ({row.sigma:.0f})"
                        for row in rows.loc[rows["decision"] == decision].itertuples()
                    )
                    for decision in ("found", "ambiguous", "possible", "artefact")
                }
                counts = int(spectra[schema.SPECTRUM].sel({schema.PHASE: number}).sum())
                yield f"  {number} ({counts} counts): " + "; ".join(f"{d} {e or '-'}" for d, e in said.items())


def main(arguments: Sequence[str] | None = None) -> None:
    """Look at the rocks and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks elements", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two doses, two instruments")
    parser.add_argument("--seeds", type=int, default=1, help="drawings of each rock, dose and instrument")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where every outcome is written")
    parser.add_argument("--real", type=Path, metavar="FOLDER", help="real maps to look at as well")
    given = parser.parse_args(arguments)
    doses, instruments = DOSES, INSTRUMENTS
    if given.quick:
        doses, instruments = DOSES[1:3], {name: INSTRUMENTS[name] for name in ("as stated", "offset +15 eV")}
    found = []
    for one in outcomes(doses=doses, instruments=instruments, seeds=range(given.seeds)):
        found.append(one)
        if one.missed or one.false:
            print(
                f"{one.mineral}, {one.instrument}, {one.counts:g}: missed {one.missed}, false {one.false}",
                file=sys.stderr,
            )
    print(f"{machine()['processor']}; {given.seeds} drawings.\n")
    print(report(found))
    if given.json:
        outcome = {"machine": machine(), "outcomes": [asdict(one) for one in found]}
        given.json.write_text(json.dumps(outcome, indent=1, default=str))
    if given.real:
        print()
        for line in real_maps(given.real):
            print(line)


if __name__ == "__main__":
    main()
