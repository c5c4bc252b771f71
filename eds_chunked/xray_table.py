"""Energies and relative weights of X-ray lines, and how they are absorbed, from the tables that come with eXSpy."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np

# keV. The table of eXSpy has these up to 87 eV too low, a whole peak's width beside others of the same elements there.
_RIGHT = {
    "La": {"Ma": 0.833, "Mb": 0.854},
    "Ce": {"Ma": 0.883, "Mb": 0.902},
    **{"Pr": {"Ma": 0.929}, "Nd": {"Ma": 0.978}, "Sm": {"Ma": 1.081}, "Eu": {"Ma": 1.131}, "Gd": {"Ma": 1.185}},
}


@functools.cache
def _material() -> Any:
    with warnings.catch_warnings():
        # HyperSpy warns about its own names when it is imported; nobody who asks for a line can mend that.
        warnings.simplefilter("ignore")
        # Imported here since it costs seconds and some 60 MB, and what needs no lines does without it.
        from exspy import material

    return material


@functools.cache
def line_table(element: str) -> dict[str, tuple[float, float]]:
    """Return energy in keV and relative weight of each line of ``element``; empty for what is no element.

    Names are those of Siegbahn in Latin letters (``Ka``, ``Lb1``); the strongest line of a shell has weight 1.

    References
    ----------
    Bearden (1967), Rev. Mod. Phys. 39, 78 (M lines of La to Gd, which the table has wrong).
    """
    elements = _material().elements
    if element not in elements:
        return {}
    properties = elements[element].as_dictionary()["Atomic_properties"]
    lines = {name: (line["energy (keV)"], line["weight"]) for name, line in properties.get("Xray_lines", {}).items()}
    return lines | {name: (energy, lines[name][1]) for name, energy in _RIGHT.get(element, {}).items()}


@functools.cache
def _absorption_table(element: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    # Closer than a detector can tell: the function of eXSpy takes energies one by one.
    energy = np.geomspace(0.05, 100.0, 6000)
    try:
        with np.errstate(all="ignore"):
            values = np.asarray(_material().mass_absorption_coefficient(element, energy), np.float64)
    except AttributeError:
        return energy, np.zeros(len(energy))
    # Zeros and what lies beside them fill up the tables of some elements.
    there = np.isfinite(values) & (values > 0)
    return energy, np.exp(np.interp(np.log(energy), np.log(energy[there]), np.log(values[there])))


def absorption(element: str, energy: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the mass absorption coefficients (cm2/g) of ``element`` at ``energy`` (keV), steps at edges included.

    Zero for what has no table: hydrogen, helium, and beyond uranium.

    References
    ----------
    Chantler et al. (2005), X-Ray Form Factor, Attenuation and Scattering Tables, NIST, doi:10.18434/T4HS32.
    """
    return np.asarray(np.interp(energy, *_absorption_table(element)))
