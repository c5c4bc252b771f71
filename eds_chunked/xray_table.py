"""Energies and relative weights of X-ray lines, and how they are absorbed, from the tables that come with eXSpy."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np


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
    """
    elements = _material().elements
    if element not in elements:
        return {}
    properties = elements[element].as_dictionary()["Atomic_properties"]
    return {name: (line["energy (keV)"], line["weight"]) for name, line in properties.get("Xray_lines", {}).items()}


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
