"""Expected X-ray spectra of minerals: chemistry, lines, bremsstrahlung, detector.

Good enough to look and to decompose like a measured spectrum (relative intensities within a factor of two or so), not
good enough for quantification. The bremsstrahlung is that of Kramers (Philos. Mag. 46 (1923) 836).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Element:
    """Atomic number, atomic weight (g/mol) and X-ray lines: name, energy (keV), share of its family."""

    number: int
    weight: float
    lines: tuple[tuple[str, float, float], ...]


ELEMENTS = {
    "C": Element(6, 12.011, (("Ka", 0.277, 1.0),)),
    "O": Element(8, 15.999, (("Ka", 0.525, 1.0),)),
    "F": Element(9, 18.998, (("Ka", 0.677, 1.0),)),
    "Na": Element(11, 22.990, (("Ka", 1.041, 1.0),)),
    "Mg": Element(12, 24.305, (("Ka", 1.254, 1.0),)),
    "Al": Element(13, 26.982, (("Ka", 1.487, 0.99), ("Kb", 1.557, 0.01))),
    "Si": Element(14, 28.085, (("Ka", 1.740, 0.98), ("Kb", 1.836, 0.02))),
    "P": Element(15, 30.974, (("Ka", 2.013, 0.96), ("Kb", 2.139, 0.04))),
    "S": Element(16, 32.06, (("Ka", 2.307, 0.94), ("Kb", 2.464, 0.06))),
    "Cl": Element(17, 35.45, (("Ka", 2.622, 0.92), ("Kb", 2.816, 0.08))),
    "K": Element(19, 39.098, (("Ka", 3.313, 0.90), ("Kb", 3.590, 0.10))),
    "Ca": Element(20, 40.078, (("Ka", 3.691, 0.89), ("Kb", 4.012, 0.11), ("La", 0.341, 1.0))),
    "Ti": Element(22, 47.867, (("Ka", 4.510, 0.88), ("Kb", 4.931, 0.12), ("La", 0.452, 1.0))),
    "Cr": Element(24, 51.996, (("Ka", 5.415, 0.88), ("Kb", 5.947, 0.12), ("La", 0.573, 1.0))),
    "Mn": Element(25, 54.938, (("Ka", 5.898, 0.88), ("Kb", 6.490, 0.12), ("La", 0.637, 1.0))),
    "Fe": Element(26, 55.845, (("Ka", 6.403, 0.88), ("Kb", 7.057, 0.12), ("La", 0.705, 1.0))),
}


@dataclass(frozen=True)
class Mineral:
    """Name and atoms per formula unit; hydrogen has no X-rays and is left out."""

    name: str
    formula: dict[str, float]

    def mean_atomic_number(self) -> float:
        """Return the mean atomic number by weight, on which backscattering and bremsstrahlung depend."""
        weights = {symbol: n * ELEMENTS[symbol].weight for symbol, n in self.formula.items()}
        return sum(ELEMENTS[symbol].number * w for symbol, w in weights.items()) / sum(weights.values())


# From the most to the least abundant in the rock.
MINERALS = (
    Mineral("quartz", {"Si": 1, "O": 2}),
    Mineral("albite", {"Na": 1, "Al": 1, "Si": 3, "O": 8}),
    Mineral("K-feldspar", {"K": 1, "Al": 1, "Si": 3, "O": 8}),
    Mineral("biotite", {"K": 1, "Mg": 1.5, "Fe": 1.5, "Al": 1, "Si": 3, "O": 12}),
    Mineral("ilmenite", {"Fe": 0.9, "Mn": 0.1, "Ti": 1, "O": 3}),
    Mineral("apatite", {"Ca": 5, "P": 3, "O": 12, "F": 0.7, "Cl": 0.3}),
    Mineral("calcite", {"Ca": 1, "C": 1, "O": 3}),
    Mineral("pyrite", {"Fe": 1, "S": 2}),
)
# The mineral that is one pixel large: chromium is in no other.
RARE_MINERAL = Mineral("chromite", {"Fe": 1, "Cr": 2, "O": 4})

_MN_KA = ELEMENTS["Mn"].lines[0][1]
_FWHM_MN_KA = 0.130
_FWHM_TO_SIGMA = 1 / (2 * np.sqrt(2 * np.log(2)))
_L_YIELD = 0.005
# Bremsstrahlung against lines, such that about a third of the X-rays of quartz are bremsstrahlung.
_BREMSSTRAHLUNG = 4e-5
_LOWEST_KEV = 0.05


def fwhm(energy: Array | float) -> Array | float:
    """Return the detector's resolution (keV) at ``energy`` (keV): 130 eV at Mn Ka, growing by 2.5 eV per eV squared."""
    return np.sqrt(_FWHM_MN_KA**2 + 2.5e-3 * (np.asarray(energy) - _MN_KA))


def _transmission(energy: Array | float) -> Array | float:
    """Share of the X-rays that leaves the sample and passes the detector's window."""
    share: Array | float = np.exp(-((0.2 / energy) ** 2)) / (1 + (1.1 / energy) ** 3)
    return share


def peak(energy: float, edges: Array) -> Array:
    """Return the shares of a line at ``energy`` (keV) that fall between ``edges`` (keV, channels + 1)."""
    return np.diff(ndtr((edges - energy) / (fwhm(energy) * _FWHM_TO_SIGMA)))


def mineral_lines(mineral: Mineral, *, beam_energy: float) -> dict[str, tuple[float, float]]:
    """Return energy (keV) and relative intensity of every line that the beam excites, by names such as ``Fe_Ka``."""
    mass = sum(n * ELEMENTS[symbol].weight for symbol, n in mineral.formula.items())
    lines = {}
    for symbol, n in mineral.formula.items():
        element = ELEMENTS[symbol]
        for name, energy, share in element.lines:
            if energy < beam_energy:
                k_yield = element.number**4 / (1e6 + element.number**4)
                excited = (beam_energy / energy - 1) ** 1.67 * (k_yield if name[0] == "K" else _L_YIELD)
                intensity = n / mass * excited * share * float(_transmission(energy))
                lines[f"{symbol}_{name}"] = (energy, intensity)
    return lines


def mineral_spectrum(mineral: Mineral, *, edges: Array, beam_energy: float) -> Array:
    """Return the shape of the spectrum (channels,) between ``edges`` (keV): its sum is 1, or 0 if nothing is seen."""
    centre = (edges[1:] + edges[:-1]) / 2
    seen = (centre > _LOWEST_KEV) & (centre < beam_energy)
    spectrum = np.zeros(len(centre))
    at = centre[seen]
    spectrum[seen] = _BREMSSTRAHLUNG * mineral.mean_atomic_number() * (beam_energy / at - 1) * _transmission(at)
    spectrum *= np.diff(edges)
    for energy, intensity in mineral_lines(mineral, beam_energy=beam_energy).values():
        spectrum += intensity * peak(energy, edges)
    total = spectrum.sum()
    return spectrum / total if total > 0 else spectrum
