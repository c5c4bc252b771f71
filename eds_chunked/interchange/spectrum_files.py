"""Summed spectra as files that other software reads: EMSA/MSA, one file a spectrum, and CSV with all of them."""

from __future__ import annotations

import csv
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.errors import ParameterError
from eds_chunked.phases.naming import phase_names
from eds_chunked.phases.rates import Per, mean_spectra, summed_spectra
from eds_chunked.store.whole_files import written_whole

Array = np.ndarray[Any, Any]

MSA, CSV = ".msa", ".csv"
SPECTRUM_SUFFIXES = (MSA, CSV)

_MOST = 1000
"""So many files or columns other software bears. The spectra of all grains are in the store."""
_LINE = 64
"""Characters of a title in one line of an .msa."""
_EVEN = 1e-6
"""Channels by which energies may miss even steps."""


def write_spectra(
    spectra: xr.Dataset,
    path: str | os.PathLike[str],
    *,
    numbers: Sequence[int] | None = None,
    per: Per | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write summed spectra as EMSA/MSA (ISO 22029) or CSV; computes those that are lazy.

    An ``.msa`` holds one spectrum. Of several each gets a file, named after ``path`` and its number: ``out_1.msa``,
    ``out_2.msa``. Names of phases go into titles, never into names of files. A ``.csv`` has a row a channel: its
    energy, unit in the header, and a column a spectrum. Counts are written as the whole numbers that they are.

    Parameters
    ----------
    spectra
        Result of :func:`eds_chunked.phase_spectra` or :func:`eds_chunked.grain_spectra`.
    path
        File to write; its name ends in .msa or .csv.
    numbers
        Phases or grains to write, in this order; all by default, 1000 at most.
    per
        ``"pixel"`` or ``"second"`` writes means (:func:`eds_chunked.mean_spectra`) in place of counts. Of a spectrum
        without pixels they are empty cells in a .csv, and zeros in an .msa, which has no other.
    overwrite
        Replace existing files.

    Returns
    -------
    The files that were written. Each is there when it is whole.

    Raises
    ------
    ParameterError
        Another suffix, no such folder, a number that there is none of, too many spectra, or for .msa energies that are
        not evenly spaced.
    MissingResultError
        Counts a second of pixels whose live time is not known.
    StoreExistsError
        A file exists and ``overwrite`` is false; then none is written.
    StoreFullError
        The disk is full.

    Notes
    -----
    Memory: the spectra that are written, and of a lazy table the chunks that they are in.

    References
    ----------
    ISO 22029:2022, Microbeam analysis: EMSA/MAS standard file format for spectral-data exchange.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in SPECTRUM_SUFFIXES:
        raise ParameterError(
            f"spectra to {target}",
            found=f"suffix {target.suffix!r}",
            expected=" or ".join(SPECTRUM_SUFFIXES),
            fix=f"{target.stem}{MSA}",
        )
    chosen = _chosen(spectra, numbers, target)
    found = _Spectra.of(chosen, per)
    if suffix == CSV:
        with written_whole(target, overwrite=overwrite) as draft, draft.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(_table(found))
        return [target]
    scale = _scale(found.energy)
    several = len(found.numbers) > 1
    files = (
        [target.with_name(f"{target.stem}_{number}{target.suffix}") for number in found.numbers]
        if several
        else [target]
    )
    with ExitStack() as drafts:
        # All places are looked at before the first file is written.
        places = [drafts.enter_context(written_whole(file, overwrite=overwrite)) for file in files]
        for i, place in enumerate(places):
            place.write_bytes("".join(f"{line}\r\n" for line in _msa(found, i, scale)).encode("ascii"))
    return files


@dataclass(frozen=True)
class _Spectra:
    """Values (spectra, channels) in memory, and what titles and headers say of them."""

    what: str
    numbers: list[int]
    names: list[str]
    energy: Array
    energy_unit: str
    values: Array
    unit: str
    n_pixels: list[int] | None
    live_time: list[float] | None
    attrs: dict[str, Any]

    @classmethod
    def of(cls, spectra: xr.Dataset, per: Per | None) -> _Spectra:
        sums = summed_spectra(spectra)
        what = str(sums.dims[0])
        values = sums if per is None else mean_spectra(spectra, per=per)
        numbers = _numbers(spectra, what)
        names = phase_names(spectra) if what == schema.PHASE else [str(number) for number in numbers]
        has_axis = schema.ENERGY in spectra.coords
        energy = spectra[schema.ENERGY].values if has_axis else np.arange(spectra.sizes[schema.ENERGY])
        unit = spectra[schema.ENERGY].attrs.get("units", schema.KEV) if has_axis else schema.CHANNEL
        return cls(
            what=what,
            numbers=numbers,
            names=names,
            energy=np.asarray(energy, np.float64),
            energy_unit=str(unit),
            values=values.values,
            unit={None: "counts", "pixel": "counts/pixel", "second": "counts/s"}[per],
            n_pixels=_column(spectra, schema.N_PIXELS),
            live_time=_column(spectra, schema.LIVE_TIMES),
            attrs=dict(spectra.attrs),
        )

    def title(self, i: int) -> str:
        """Return the title of a spectrum: which one, and of which map."""
        name = "" if self.names[i] == str(self.numbers[i]) else f" {schema.text(self.names[i])}"
        of_map = schema.text(self.attrs.get(schema.TITLE, ""))
        return f"{self.what} {self.numbers[i]}{name}" + (f", {of_map}" if of_map else "")


def _numbers(spectra: xr.Dataset, what: str) -> list[int]:
    if what in spectra.coords:
        return [int(number) for number in spectra[what].values]
    return list(range(1, spectra.sizes[what] + 1))


def _column(spectra: xr.Dataset, name: str) -> list[Any] | None:
    return spectra[name].values.tolist() if name in spectra else None


def _chosen(spectra: xr.Dataset, numbers: Sequence[int] | None, target: Path) -> xr.Dataset:
    what = str(summed_spectra(spectra).dims[0])
    there = _numbers(spectra, what)
    missing = sorted(set(numbers or ()) - set(there))
    if missing or (numbers is not None and len(numbers) == 0):
        raise ParameterError(
            f"{what} to write",
            found=", ".join(map(str, missing)) or "none",
            expected=f"numbers from {min(there)} to {max(there)} of which there is a spectrum",
            fix=f"numbers=[{there[0]}]",
        )
    if numbers is not None:
        place = {number: i for i, number in enumerate(there)}
        spectra = spectra.isel({what: [place[number] for number in dict.fromkeys(numbers)]})
    if spectra.sizes[what] > _MOST:
        raise ParameterError(
            f"spectra to {target}",
            found=f"{spectra.sizes[what]} spectra",
            expected=f"at most {_MOST} for other software",
            fix=f"name those that you want: numbers={there[:3]}; all of them are in the store as an array",
        )
    return spectra


# ------------------------------------------------------------------------------------------------------------- CSV
def _table(found: _Spectra) -> Iterator[list[str]]:
    """Yield the rows of a table: energies, and a column a spectrum; numbers as short as they are exact."""
    unit = found.unit.replace("/", "_per_").replace("per_s", "per_second") if "/" in found.unit else found.unit
    columns = [
        f"{found.what}_{number}" + (f"_{schema.text(name)}" if name != str(number) else "") + f"_{unit}"
        for number, name in zip(found.numbers, found.names, strict=True)
    ]
    yield [f"{schema.ENERGY}_{found.energy_unit}", *columns]
    for energy, values in zip(found.energy.tolist(), found.values.T.tolist(), strict=True):
        yield [f"{energy:.10g}", *("" if value != value else str(value) for value in values)]


# ------------------------------------------------------------------------------------------------------------- MSA
def _scale(energy: Array) -> float:
    """Return the width of a channel; raise ParameterError where channels have none in common."""
    scale = float(energy[-1] - energy[0]) / (len(energy) - 1) if len(energy) > 1 else 1.0
    even = energy[0] + scale * np.arange(len(energy))
    if scale <= 0 or np.abs(energy - even).max() > _EVEN * scale:
        raise ParameterError(
            "energies of an .msa",
            found="channels that are not evenly spaced and rising",
            expected="a first energy and one width for all channels",
            fix=f"sum the spectra of a whole window of energies, or write a {CSV}",
        )
    return scale


def _msa(found: _Spectra, i: int, scale: float) -> Iterator[str]:
    """Yield the lines of a file: keywords in the order of the standard, then a value a line."""
    made = _time(found.attrs.get(schema.CREATED))
    values = np.nan_to_num(found.values[i], nan=0.0) if found.values.dtype.kind == "f" else found.values[i]
    yield _keyword("FORMAT", "EMSA/MAS Spectral Data File")
    yield _keyword("VERSION", "1.0")
    yield from _lines("TITLE", found.title(i))
    yield _keyword("DATE", f"{made.day:02d}-{_MONTHS[made.month - 1]}-{made.year}")
    yield _keyword("TIME", f"{made.hour:02d}:{made.minute:02d}")
    yield _keyword("OWNER", "")
    yield _keyword("NPOINTS", len(values))
    yield _keyword("NCOLUMNS", 1)
    yield _keyword("XUNITS", _plain(found.energy_unit))
    yield _keyword("YUNITS", found.unit)
    yield _keyword("DATATYPE", "Y")
    yield _keyword("XPERCHAN", repr(scale))
    yield _keyword("OFFSET", repr(float(found.energy[0])))
    yield _keyword("SIGNALTYPE", "EDS")
    yield _keyword("XLABEL", "Energy")
    yield _keyword("YLABEL", "X-rays")
    if found.attrs.get(schema.BEAM_ENERGY):
        yield _keyword("BEAMKV", repr(float(found.attrs[schema.BEAM_ENERGY])), "kV")
    if found.live_time is not None and found.live_time[i] > 0:
        yield _keyword("LIVETIME", repr(float(found.live_time[i])), "s")
    n_pixels = "" if found.n_pixels is None else f"sum of {found.n_pixels[i]} pixels, "
    yield from _lines("COMMENT", f"{n_pixels}eds_chunked {version('eds-chunked')}")
    yield _keyword("SPECTRUM", "Spectral Data Starts Here")
    yield from (f"{value}," for value in values.tolist())
    yield _keyword("ENDOFDATA", "")


_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def _keyword(name: str, value: object, unit: str = "") -> str:
    keyword = f"{name:<9}-{unit}" if unit else name
    return f"#{keyword:<12}: {value}"


def _lines(name: str, text: str) -> Iterator[str]:
    """Yield a text in as many lines of the keyword as it needs."""
    plain = _plain(text)
    for start in range(0, max(1, len(plain)), _LINE):
        yield _keyword(name, plain[start : start + _LINE])


def _plain(text: str) -> str:
    """Return a text in ASCII on one line, without what readers take for the end of a keyword."""
    letters = unicodedata.normalize("NFKD", text.replace("µ", "u"))
    bare = "".join(letter for letter in letters if not unicodedata.combining(letter))
    ascii_text = bare.encode("ascii", "replace").decode()
    return " ".join(re.sub(r"[\x00-\x1f\x7f]|:(?=\s|$)", " ", ascii_text).split())


def _time(created: Any) -> datetime:
    """Return when a result was saved, or now for one that was not."""
    return datetime.now(UTC) if created is None else datetime.fromisoformat(str(created))
