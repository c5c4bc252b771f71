"""Energies to keV and lengths to um, from the spellings that microscope files use."""

from __future__ import annotations

import unicodedata

# How many of the unit make one keV or one um; a value is multiplied by the first number and divided by the second,
# so that 10 eV is exactly the float 0.01 and 250 nm exactly 0.25.
_ENERGY = {"kev": (1.0, 1.0), "ev": (1.0, 1e3)}
_LENGTH = {
    "m": (1e6, 1.0),
    "cm": (1e4, 1.0),
    "mm": (1e3, 1.0),
    "um": (1.0, 1.0),
    "micron": (1.0, 1.0),
    "microns": (1.0, 1.0),
    "micrometer": (1.0, 1.0),
    "micrometers": (1.0, 1.0),
    "micrometre": (1.0, 1.0),
    "micrometres": (1.0, 1.0),
    "nm": (1.0, 1e3),
    "å": (1.0, 1e4),
    "angstrom": (1.0, 1e4),
    "pm": (1.0, 1e6),
}


def _spelling(unit: object) -> str:
    # NFKC joins the micro sign with the Greek mu; the two characters before m are a micro sign read as Latin-1.
    text = unicodedata.normalize("NFKC", str(unit).strip().replace("\u00c2\u00b5", "\u00b5")).casefold()
    return text.replace("\u03bc", "u")


def in_kev(value: float, unit: object) -> float | None:
    """Return an energy in keV, or None where ``unit`` is no unit of energy."""
    return _convert(value, _ENERGY.get(_spelling(unit)))


def in_um(value: float, unit: object) -> float | None:
    """Return a length in um, or None where ``unit`` is no unit of length."""
    return _convert(value, _LENGTH.get(_spelling(unit)))


def _convert(value: float, factors: tuple[float, float] | None) -> float | None:
    return None if factors is None else value * factors[0] / factors[1]
