"""Spectra of minerals as an electron microscope would count them, for what looks for elements in spectra.

Nothing here comes from the code that is measured: energies and edges are those of the X-ray Data Booklet (Bearden
1967; Bearden & Burr 1967), weights within a shell are typical ones and drawn anew for every rock, intensities follow
Green & Cosslett (1961) and Philibert (1963) with the absorption coefficients of Chantler (2005). Absorption makes the
continuum step at edges; the detector adds a window, a dead layer, tails, escape and sum peaks, a strobe peak, and an
axis that is off.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import ndtr

from eds_chunked import schema

with warnings.catch_warnings():
    # HyperSpy warns about its own names when it is imported.
    warnings.simplefilter("ignore")
    from exspy import material

Array = np.ndarray[Any, Any]

# Number, weight (g/mol); edges (keV) of K, L3 and M5 and what is strongest above them.
_ATOMS: dict[str, tuple[int, float, dict[str, tuple[float, dict[str, float]]]]] = {
    "C": (6, 12.01, {"K": (0.284, {"Ka": 0.277})}),
    "N": (7, 14.01, {"K": (0.410, {"Ka": 0.3924})}),
    "O": (8, 16.00, {"K": (0.543, {"Ka": 0.5249})}),
    "F": (9, 19.00, {"K": (0.697, {"Ka": 0.6768})}),
    "Na": (11, 22.99, {"K": (1.071, {"Ka": 1.04098})}),
    "Mg": (12, 24.31, {"K": (1.303, {"Ka": 1.2536, "Kb": 1.3022})}),
    "Al": (13, 26.98, {"K": (1.560, {"Ka": 1.48656, "Kb": 1.55745})}),
    "Si": (14, 28.09, {"K": (1.839, {"Ka": 1.73978, "Kb": 1.83594})}),
    "P": (15, 30.97, {"K": (2.146, {"Ka": 2.01335, "Kb": 2.1391})}),
    "S": (16, 32.06, {"K": (2.472, {"Ka": 2.30739, "Kb": 2.46404})}),
    "Cl": (17, 35.45, {"K": (2.822, {"Ka": 2.62187, "Kb": 2.8156})}),
    "K": (19, 39.10, {"K": (3.608, {"Ka": 3.31291, "Kb": 3.5896})}),
    "Ca": (20, 40.08, {"K": (4.039, {"Ka": 3.69082, "Kb": 4.0127}), "L": (0.346, {"La": 0.3413, "Ll": 0.3027})}),
    "Ti": (22, 47.87, {"K": (4.966, {"Ka": 4.50886, "Kb": 4.93181}), "L": (0.454, {"La": 0.4522, "Ll": 0.3953})}),
    "V": (23, 50.94, {"K": (5.465, {"Ka": 4.94968, "Kb": 5.42729}), "L": (0.512, {"La": 0.5113, "Ll": 0.4465})}),
    "Cr": (24, 52.00, {"K": (5.989, {"Ka": 5.41163, "Kb": 5.94671}), "L": (0.574, {"La": 0.5728, "Ll": 0.5003})}),
    "Mn": (25, 54.94, {"K": (6.539, {"Ka": 5.89505, "Kb": 6.49045}), "L": (0.639, {"La": 0.6374, "Ll": 0.5563})}),
    "Fe": (26, 55.85, {"K": (7.112, {"Ka": 6.39951, "Kb": 7.05798}), "L": (0.707, {"La": 0.7050, "Ll": 0.6152})}),
    "Co": (27, 58.93, {"K": (7.709, {"Ka": 6.92535, "Kb": 7.64943}), "L": (0.778, {"La": 0.7762, "Ll": 0.6778})}),
    "Ni": (28, 58.69, {"K": (8.333, {"Ka": 7.47243, "Kb": 8.26466}), "L": (0.853, {"La": 0.8515, "Ll": 0.7427})}),
    "Cu": (29, 63.55, {"K": (8.979, {"Ka": 8.04115, "Kb": 8.90529}), "L": (0.933, {"La": 0.9297, "Ll": 0.8111})}),
    "Zn": (30, 65.38, {"K": (9.659, {"Ka": 8.63119, "Kb": 9.5720}), "L": (1.022, {"La": 1.0117, "Ll": 0.884})}),
    "As": (33, 74.92, {"K": (11.867, {"Ka": 10.53181, "Kb": 11.7262}), "L": (1.324, {"La": 1.2820, "Ll": 1.1201})}),
    "Br": (35, 79.90, {"K": (13.474, {"Ka": 11.90867, "Kb": 13.2914}), "L": (1.550, {"La": 1.48043, "Ll": 1.2935})}),
    "Sr": (38, 87.62, {"K": (16.105, {"Ka": 14.14263, "Kb": 15.8357}), "L": (1.940, {"La": 1.80656, "Ll": 1.5822})}),
    "Y": (39, 88.91, {"K": (17.038, {"Ka": 14.93310, "Kb": 16.7378}), "L": (2.080, {"La": 1.92256, "Ll": 1.6858})}),
    "Zr": (40, 91.22, {"K": (17.998, {"Ka": 15.74700, "Kb": 17.6678}), "L": (2.223, {"La": 2.04236, "Ll": 1.7920})}),
    "Nb": (41, 92.91, {"K": (18.986, {"Ka": 16.58360, "Kb": 18.6225}), "L": (2.371, {"La": 2.16589, "Ll": 1.9023})}),
    "Mo": (42, 95.95, {"L": (2.520, {"La": 2.29316, "Ll": 2.0157})}),
    "Ag": (47, 107.87, {"L": (3.351, {"La": 2.98431, "Ll": 2.6337})}),
    "Sn": (50, 118.71, {"L": (3.929, {"La": 3.44398, "Ll": 3.0450})}),
    "Sb": (51, 121.76, {"L": (4.132, {"La": 3.60472, "Ll": 3.1886})}),
    "Ba": (56, 137.33, {"L": (5.247, {"La": 4.46626, "Ll": 3.9541})}),
    "La": (57, 138.91, {"L": (5.483, {"La": 4.65097, "Ll": 4.1245}), "M": (0.836, {"Ma": 0.833})}),
    "Ce": (58, 140.12, {"L": (5.723, {"La": 4.84020, "Ll": 4.2875}), "M": (0.884, {"Ma": 0.883})}),
    "Nd": (60, 144.24, {"L": (6.208, {"La": 5.23040, "Ll": 4.6330}), "M": (0.981, {"Ma": 0.978})}),
    "Hf": (72, 178.49, {"L": (9.561, {"La": 7.89900, "Ll": 6.9596}), "M": (1.662, {"Ma": 1.6446})}),
    "Ta": (73, 180.95, {"L": (9.881, {"La": 8.14610, "Ll": 7.1731}), "M": (1.735, {"Ma": 1.7100})}),
    "W": (74, 183.84, {"L": (10.207, {"La": 8.39760, "Ll": 7.3878}), "M": (1.809, {"Ma": 1.7754})}),
    "Au": (79, 196.97, {"L": (11.919, {"La": 9.71330, "Ll": 8.4939}), "M": (2.206, {"Ma": 2.1229})}),
    "Hg": (80, 200.59, {"L": (12.284, {"La": 9.98880, "Ll": 8.7210}), "M": (2.295, {"Ma": 2.1953})}),
    "Pb": (82, 207.2, {"L": (13.035, {"La": 10.5515, "Ll": 9.1845}), "M": (2.484, {"Ma": 2.3455})}),
    "Bi": (83, 208.98, {"L": (13.419, {"La": 10.8388, "Ll": 9.4204}), "M": (2.580, {"Ma": 2.4226})}),
    "Th": (90, 232.04, {"L": (16.300, {"La": 12.9687, "Ll": 11.1186}), "M": (3.332, {"Ma": 2.9961})}),
    "U": (92, 238.03, {"L": (17.166, {"La": 13.6147, "Ll": 11.6183}), "M": (3.552, {"Ma": 3.1708})}),
}
# Energies of the minor lines of L and M shells, over those in _ATOMS.
_MINOR = {
    "Zn": {"Lb1": 1.0347}, "As": {"Lb1": 1.3170}, "Br": {"Lb1": 1.5259}, "Cu": {"Lb1": 0.9498}, "Ni": {"Lb1": 0.8688},
    "Sr": {"Lb1": 1.87172}, "Y": {"Lb1": 1.99584}, "Zr": {"Lb1": 2.1244, "Lb2": 2.2194, "Lg1": 2.3027},
    "Nb": {"Lb1": 2.2574, "Lb2": 2.3670, "Lg1": 2.4618}, "Mo": {"Lb1": 2.39481, "Lb2": 2.5183, "Lg1": 2.6235},
    "Ag": {"Lb1": 3.15094, "Lb2": 3.34781, "Lg1": 3.51959}, "Sn": {"Lb1": 3.66280, "Lb2": 3.90486, "Lg1": 4.13112},
    "Sb": {"Lb1": 3.84357, "Lb2": 4.10078, "Lg1": 4.34779}, "Ba": {"Lb1": 4.82753, "Lb2": 5.1565, "Lg1": 5.5311},
    "La": {"Lb1": 5.0421, "Lb2": 5.3835, "Lg1": 5.7885}, "Ce": {"Lb1": 5.2622, "Lb2": 5.6134, "Lg1": 6.0520},
    "Nd": {"Lb1": 5.7216, "Lb2": 6.0894, "Lg1": 6.6021},
    "Hf": {"Lb1": 9.0227, "Lb2": 9.3473, "Lg1": 10.5158, "Mb": 1.6976, "Mz": 1.281},
    "Ta": {"Lb1": 9.3431, "Lb2": 9.6518, "Lg1": 10.8952, "Mb": 1.7655, "Mz": 1.330, "Mg": 1.9647},
    "W": {"Lb1": 9.67235, "Lb2": 9.9615, "Lg1": 11.2859, "Mb": 1.8349, "Mz": 1.3835, "Mg": 2.0356},
    "Au": {"Lb1": 11.4423, "Lb2": 11.5847, "Lg1": 13.3817, "Mb": 2.2046, "Mz": 1.6603, "Mg": 2.4095},
    "Hg": {"Lb1": 11.8226, "Lb2": 11.9241, "Lg1": 13.8301, "Mb": 2.2825, "Mz": 1.7231, "Mg": 2.4873},
    "Pb": {"Lb1": 12.6137, "Lb2": 12.6226, "Lg1": 14.7644, "Mb": 2.4427, "Mz": 1.8395, "Mg": 2.6535},
    "Bi": {"Lb1": 13.0235, "Lb2": 12.9799, "Lg1": 15.2477, "Mb": 2.5256, "Mz": 1.9022, "Mg": 2.7355},
    "Th": {"Lb1": 16.2022, "Lb2": 15.6237, "Lg1": 18.9825, "Mb": 3.1458, "Mz": 2.3222, "Mg": 3.3697},
    "U": {"Lb1": 17.2200, "Lb2": 16.4283, "Mb": 3.3367, "Mz": 2.5068, "Mg": 3.5657},
}  # fmt: skip
_WEIGHTS = {"Ka": 1.0, "La": 1.0, "Ma": 1.0, "Lb1": 0.5, "Ll": 0.04, "Mb": 0.55, "Mg": 0.06, "Mz": 0.02}
_WEIGHTS |= {"Ln": 0.012}
# Their energies are Bearden's too, taken from the table of eXSpy; weights are not.
_FROM_TABLE = ("Ln", "Lb3", "Lb4", "Lg3")
# Weights that grow while an outer shell fills, by atomic number (X-ray Data Booklet, table 1-3).
_GROWING = {
    "Kb": ((12, 14, 16, 20, 26, 40), (0.01, 0.028, 0.06, 0.115, 0.135, 0.16)),
    "Lb2": ((39, 40, 42, 47, 56, 82), (0.0, 0.01, 0.05, 0.12, 0.18, 0.22)),
    "Lb3": ((30, 35, 40, 50, 56, 82), (0.004, 0.03, 0.05, 0.09, 0.11, 0.06)),
    "Lb4": ((30, 35, 40, 50, 56, 82), (0.002, 0.015, 0.025, 0.05, 0.07, 0.05)),
    "Lg3": ((30, 40, 56, 82), (0.001, 0.008, 0.03, 0.02)),
    "Lg1": ((39, 40, 42, 47, 56, 82), (0.0, 0.015, 0.03, 0.055, 0.085, 0.12)),
}
_SHELLS = {"K": (2, 1.12e6), "L": (4, 1.0e8), "M": (10, 1.4e9)}
# Spread of the logarithms of what is drawn: of the X-rays of a shell, and of its lines against the strongest.
_SHELL_SPREAD, _LINE_SPREAD = 0.25, 0.1
_STRONGEST = ("Ka", "La", "Ma")
_TAKE_OFF = math.radians(40)
_LOWEST_KEV = 0.08
# Of quartz at 20 kV a third of the X-rays is continuum.
_BREMSSTRAHLUNG = 2.6e-7


def _weight(name: str, number: int) -> float:
    """Return the weight of a line against the strongest of its shell, Ka2, La2 and Ma2 counted with Ka, La and Ma."""
    return float(np.interp(number, *_GROWING[name])) if name in _GROWING else _WEIGHTS[name]


def lines_of(element: str, *, beam: float, rng: np.random.Generator | None = None) -> dict[str, tuple[float, float]]:
    """Return energy (keV) and relative intensity, before absorption, of each line that ``beam`` (keV) excites.

    With ``rng`` shells are a quarter stronger or weaker, and lines a tenth.
    """
    number, _, shells = _ATOMS[element]
    found = {}
    for shell, (edge, energies) in shells.items():
        if edge >= beam:
            continue
        electrons, a = _SHELLS[shell]
        u = beam / edge
        made = electrons * number**4 / (a + number**4) * (u * math.log(u) - u + 1)
        made *= 1.0 if rng is None else float(np.exp(_SHELL_SPREAD * rng.standard_normal()))
        minor = {name: e for name, e in _MINOR.get(element, {}).items() if name[0] == shell}
        if shell == "L" and edge > 1.0:
            table = material.elements[element].as_dictionary()["Atomic_properties"]["Xray_lines"]
            minor |= {name: table[name]["energy (keV)"] for name in _FROM_TABLE if name in table}
        for name, energy in {**energies, **minor}.items():
            weight = _weight(name, number)
            if name == "Ll" and energy < 1.0:
                # Ll of light metals is as strong as the absorbed La.
                weight = min(1.0, 0.08 * energy**-4)
            exact = rng is None or name in _STRONGEST
            drawn = 1.0 if exact else float(np.exp(_LINE_SPREAD * rng.standard_normal()))
            found[name] = energy, made * weight * drawn
    return found


@dataclass(frozen=True)
class Instrument:
    """What an axis claims and what is true; the detector's faults.

    ``mixing`` is the share of counts that come from another phase. ``offset`` (keV) and ``gain`` are what the axis
    reads too low: a line at E is found at (E - offset) / (1 + gain).
    """

    beam: float = 20.0
    channels: int = 2048
    width: float = 0.01
    first: float = -0.48
    offset: float = 0.0
    gain: float = 0.0
    fwhm: float = 130.0
    escape: float = 0.010
    pile_up: float = 0.004
    tail: float = 0.03
    strobe: float = 0.05
    mixing: float = 0.0

    @property
    def energy(self) -> Array:
        """Energies (channels,) that the file states, keV."""
        return self.first + self.width * np.arange(self.channels)

    def edges(self) -> Array:
        """Return true energies of the edges of channels, keV."""
        stated = self.first + self.width * (np.arange(self.channels + 1) - 0.5)
        return np.asarray(self.offset + (1 + self.gain) * stated)

    def width_at(self, energy: Array | float) -> Any:
        """Return the full width at half maximum, keV."""
        return np.sqrt((self.fwhm / 1000) ** 2 + 2.48e-3 * (np.asarray(energy) - 5.895))

    def peak(self, energy: float) -> Array:
        """Return the shares (channels,) of a line that fall into the channels."""
        return np.asarray(np.diff(ndtr((self.edges() - energy) / (float(self.width_at(energy)) / 2.3548))))

    def efficiency(self, energy: Array) -> Array:
        """Return the share of X-rays that a polymer window, contact and dead layer let through, and silicon stops."""
        layers = {"C": 2.5e-5, "O": 8e-6, "Al": 4e-6}
        window = sum(thickness * _absorption(element, energy) for element, thickness in layers.items())
        silicon = _absorption("Si", energy)
        return np.asarray(np.exp(-window - 3.5e-5 * silicon) * -np.expm1(-0.105 * silicon))


def _absorption(element: str, energy: Array) -> Array:
    """Mass absorption coefficients, cm2/g."""
    within = np.clip(np.atleast_1d(energy), 0.1, 40.0)
    return np.asarray(material.mass_absorption_coefficient(element, within), np.float64)


@dataclass(frozen=True)
class Mineral:
    """Name, atoms per formula unit (hydrogen left out), and whether a coat of carbon lies on it."""

    name: str
    formula: dict[str, float]
    coated: bool = False

    @property
    def elements(self) -> set[str]:
        """What is there, the coat as well."""
        return set(self.formula) | ({"C"} if self.coated else set())


@dataclass(frozen=True)
class Drawn:
    """Expected counts of a mineral: all of them, and those of each line and of the continuum before the detector."""

    total: Array
    continuum: Array
    lines: dict[str, Array]


def expected(mineral: Mineral, counts: float, at: Instrument, *, rng: np.random.Generator | None = None) -> Drawn:
    """Return the counts of ``mineral`` that are expected where ``counts`` are collected in all."""
    mass = {e: n * _ATOMS[e][1] for e, n in mineral.formula.items()}
    share = {e: m / sum(mass.values()) for e, m in mass.items()}
    mean_z = sum(c * _ATOMS[e][0] for e, c in share.items())
    mean_a = sum(c * _ATOMS[e][1] for e, c in share.items())

    def escaping(energy: Array, edge: Array | float) -> Array:
        chi = sum(c * _absorption(e, energy) for e, c in share.items()) / math.sin(_TAKE_OFF)
        sigma = 4.5e5 / np.maximum(at.beam**1.65 - np.asarray(edge) ** 1.65, 1e-3)
        h = 1.2 * mean_a / mean_z**2
        return np.asarray(1 / ((1 + chi / sigma) * (1 + h / (1 + h) * chi / sigma)))

    edges = at.edges()
    centre = (edges[1:] + edges[:-1]) / 2
    here = (centre > _LOWEST_KEV) & (centre < at.beam)
    rest = np.zeros(len(centre))
    seen = centre[here]
    rest[here] = _BREMSSTRAHLUNG * mean_z * (at.beam - seen) / seen * escaping(seen, seen) * at.efficiency(seen)
    rest *= np.diff(edges) / 0.01
    lines = {}
    for element, c in share.items():
        _, weight, shells = _ATOMS[element]
        for name, (energy, intensity) in lines_of(element, beam=at.beam, rng=rng).items():
            one = np.array([energy])
            through = escaping(one, shells[name[0]][0])[0] * at.efficiency(one)[0]
            lines[f"{element} {name}"] = c / weight * intensity * through * at.peak(energy)
    every = rest + sum(lines.values())
    if mineral.coated:
        lines["C Ka"] = lines.get("C Ka", 0.0) + 0.012 * every.sum() * at.peak(0.277)
    # Broadening of the continuum matters at its edges only.
    sigma = 0.030 / at.width
    kernel = np.exp(-0.5 * (np.arange(-20, 21) / sigma) ** 2)
    rest = np.convolve(rest, kernel / kernel.sum(), mode="same")
    scale = counts / (rest + sum(lines.values())).sum()
    rest, lines = scale * rest, {name: scale * line for name, line in lines.items()}
    return Drawn(_detected(rest + sum(lines.values()), centre, counts, at), rest, lines)


def _detected(pure: Array, energy: Array, counts: float, at: Instrument) -> Array:
    """Return what the detector makes of what reaches it."""
    above = np.where(energy > 1.839, pure * (1.839 / np.maximum(energy, 0.1)) ** 2.2, 0.0)
    escaped = at.escape * np.interp(energy, energy - 1.7398, above, right=0.0)
    soft = np.where(energy < 0.9, pure, 0.0)
    place = 2 * energy[0] + (energy[1] - energy[0]) * np.arange(2 * len(pure) - 1)
    pairs = np.convolve(pure, pure) + 1.5 * np.convolve(soft, pure)
    # The second of two pulses is not counted whole where it comes late.
    late = np.linspace(0.0, 0.07, 8)
    summed = np.mean([np.interp(energy, place - by, pairs, left=0, right=0) for by in late], axis=0)
    summed *= at.pile_up / counts
    fall = np.exp(-np.arange(1, 80) * at.width / 0.07)
    fall /= fall.sum()
    share = at.tail * (0.3 + np.exp(-energy / 1.0))
    lost = np.convolve((share * pure)[::-1], np.concatenate([[0.0], fall]))[: len(pure)][::-1]
    kept = pure * (1 - share - at.escape * (above > 0) * (1.839 / np.maximum(energy, 0.1)) ** 2.2)
    return np.asarray(np.maximum(kept + lost + escaped + summed + at.strobe * counts * at.peak(0.0), 0.0))


@dataclass(frozen=True)
class Clearest:
    """The clearest line of an element: its standard deviations by counts alone, and at best beside all else."""

    line: str
    by_counts: float
    bound: float

    @property
    def sigma(self) -> float:
        """The lesser of both."""
        return min(self.by_counts, self.bound)


def clearest_lines(drawn: Drawn, at: Instrument) -> dict[str, Clearest]:
    """Return for each element its clearest line above 0.2 keV, and how clear that is.

    ``by_counts`` are its counts within 0.6 widths of its energy over the root of all counts there, what lies under it
    included. ``bound`` is what the information in the whole spectrum leaves of it (Cramer & Rao): the line over the
    standard deviation of its amplitude where those of all other elements and of the continuum, in steps of 1 keV, are
    not known. Of other elements the shapes are known to within what they are drawn with: 25 % a shell, 10 % a line.
    Axis, detector and artefacts are known. No estimate is surer than that.
    """
    edges = at.edges()
    centre = (edges[1:] + edges[:-1]) / 2
    seen = (centre > 0.2) & (centre < at.beam)
    noise = np.sqrt(np.maximum(drawn.total[seen], 1e-9))
    hats = np.stack([np.maximum(1 - np.abs(centre - middle), 0.0) for middle in np.arange(0.0, at.beam + 1)])
    continuum = [(hat * drawn.continuum)[seen] / noise for hat in hats]
    shapes = {name: line[seen] / noise for name, line in drawn.lines.items()}
    best: dict[str, Clearest] = {}
    for element in dict.fromkeys(name.split()[0] for name in shapes):
        free, known = list(continuum), []
        for other in {name.split()[0] for name in shapes} - {element}:
            own = {name: shape for name, shape in shapes.items() if name.split()[0] == other}
            free.append(np.sum(list(own.values()), axis=0))
            for shell in "KLM":
                known.append(_SHELL_SPREAD * np.sum([s for n, s in own.items() if n.split()[1][0] == shell], axis=0))
            known += [_LINE_SPREAD * s for name, s in own.items() if name.split()[1] not in _STRONGEST]
        known = [shape for shape in known if np.ndim(shape)]
        nuisance = np.stack([*free, *known], axis=1)
        nuisance = nuisance[:, nuisance.any(axis=0)]
        # An error that is known to within 1 is one more measurement of 0.
        prior = np.zeros((len(known), nuisance.shape[1]))
        prior[:, nuisance.shape[1] - len(known) :] = np.eye(len(known))
        rows = np.concatenate([nuisance, prior])
        for name, shape in shapes.items():
            middle = float((centre * drawn.lines[name]).sum() / max(drawn.lines[name].sum(), 1e-30))
            if name.split()[0] != element or middle < 0.2:
                continue
            window = np.abs(centre - middle) < 0.6 * float(at.width_at(max(middle, 0.1)))
            counted = float(drawn.lines[name][window].sum()) / math.sqrt(max(float(drawn.total[window].sum()), 1e-9))
            target = np.concatenate([shape, np.zeros(len(known))])
            left = target - rows @ np.linalg.lstsq(rows, target, rcond=1e-9)[0]
            one = Clearest(name, counted, float(np.sqrt(left @ left)))
            if element not in best or one.sigma > best[element].sigma:
                best[element] = one
    return best


def mixed(one: Drawn, other: Drawn, share: float) -> Drawn:
    """Return ``one`` with a share of its counts from ``other``."""
    lines: dict[str, Array] = {name: (1 - share) * line for name, line in one.lines.items()}
    for name, line in other.lines.items():
        lines[name] = lines.get(name, 0.0) + share * line
    total, continuum = (
        (1 - share) * first + share * second
        for first, second in ((one.total, other.total), (one.continuum, other.continuum))
    )
    return Drawn(total, continuum, lines)


def spectra_of(table: Sequence[Array] | Array, at: Instrument) -> xr.Dataset:
    """Return counts (phase, energy) as phase_spectra gives them."""
    counts = np.atleast_2d(np.asarray(table)).astype(np.uint64)
    return xr.Dataset(
        {schema.SPECTRUM: ((schema.PHASE, schema.ENERGY), counts)},
        coords={
            schema.PHASE: np.arange(1, len(counts) + 1),
            schema.ENERGY: (schema.ENERGY, at.energy, {"units": schema.KEV}),
        },
        attrs={schema.BEAM_ENERGY: at.beam},
    )
