"""Which X-ray lines an element shows under a beam, and how strong its softer lines can be beside the harder ones."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

from eds_chunked import schema
from eds_chunked.xray_table import line_table

ABUNDANCE: dict[str, float] = {
    **{"Be": 2.8, "B": 10, "C": 200, "N": 19, "O": 461e3, "F": 585, "Na": 23600, "Mg": 23300, "Al": 82300},
    **{"Si": 282e3, "P": 1050, "S": 350, "Cl": 145, "Ar": 3.5, "K": 20900, "Ca": 41500, "Sc": 22, "Ti": 5650},
    **{"V": 120, "Cr": 102, "Mn": 950, "Fe": 56300, "Co": 25, "Ni": 84, "Cu": 60, "Zn": 70, "Ga": 19, "Ge": 1.5},
    **{"As": 1.8, "Se": 0.05, "Br": 2.4, "Rb": 90, "Sr": 370, "Y": 33, "Zr": 165, "Nb": 20, "Mo": 1.2, "Ru": 0.001},
    **{"Rh": 0.001, "Pd": 0.015, "Ag": 0.075, "Cd": 0.15, "In": 0.25, "Sn": 2.3, "Sb": 0.2, "Te": 0.001, "I": 0.45},
    **{"Cs": 3, "Ba": 425, "La": 39, "Ce": 66.5, "Pr": 9.2, "Nd": 41.5, "Sm": 7.05, "Eu": 2.0, "Gd": 6.2, "Tb": 1.2},
    **{"Dy": 5.2, "Ho": 1.3, "Er": 3.5, "Tm": 0.52, "Yb": 3.2, "Lu": 0.8, "Hf": 3, "Ta": 2, "W": 1.25, "Re": 0.0007},
    **{"Os": 0.0015, "Ir": 0.001, "Pt": 0.005, "Au": 0.004, "Hg": 0.085, "Tl": 0.85, "Pb": 14, "Bi": 0.0085},
    **{"Th": 9.6, "U": 2.7},
}
"""Parts per million by weight of the Earth's crust (CRC Handbook of Chemistry and Physics, 2016). What a solid sample
does not hold, noble gases but argon and what decays within a human life, is left out."""

DISPERSED = frozenset((
    "Sc", "Ga", "Ge", "Rb", "In", "Cs", "Hf", "Re", "Tl",
    "Pr", "Sm", "Eu", "Gd", "Tb", "Dy", "Ho", "Er", "Tm", "Yb", "Lu",
))  # fmt: skip
"""Elements that have hardly a mineral of their own: they take the place of others that are alike, as rare earths do of
Ce, La and Y (Goldschmidt 1954, Geochemistry)."""

# A of the fluorescence yield Z^4 / (A + Z^4), and electrons, of each shell.
_YIELD = {"K": 1e6, "L": 1e8, "M": 1.5e9}
_ELECTRONS = {"K": 2, "L": 8, "M": 18}
# An edge lies this far above the highest line of its subshell, at most.
_EDGE_OVER_LINE = 1.03
_SUBSHELL = {"Lb1": "L2", "Ln": "L2", "Lg1": "L2", "Lb3": "L1", "Lb4": "L1", "Lg3": "L1"}
_SUBSHELL |= {"Mb": "M4", "Mg": "M3", "M3O4": "M3", "M3O5": "M3", "M2N4": "M3"}
_WEAKEST = 0.001
# Below, relative weights in tables are unsure (absorption, bonds), and every line stands for itself.
_FREE_BELOW_KEV = 1.0
# Softer lines are absorbed on their way out, so an estimate without absorption is a bound, this factor for its errors.
MARGIN = 4.0
# Below 1 keV less than a tenth of the estimate is seen (La of iron at 20 kV: a thirtieth), and less yet the softer.
_SOFT_MARGIN = 0.5
# Vacancies of L1 soon move to L2 and L3: the table has Lb3 of titanium, at the energy of O Ka, at a quarter of La.
_FEW = {"Lb3": 0.1, "Lb4": 0.1, "Lg3": 0.1}
# Lines of other subshells against the strongest of the shell: measured ones are this much of those in tables. That has
# Mg of lead at 0.2 of Ma, where spectra have a twentieth.
_WEIGHT_ERROR = {
    **{"Kb": (0.7, 1.4), "L": (0.75, 1.3), "L2": (0.75, 1.3), "L1": (0.4, 1.3)},
    **{"M": (0.75, 1.3), "M4": (0.75, 1.3), "M3": (0.1, 1.2), "Mz": (0.3, 1.3)},
}
# Tables are of free atoms, and Ca has no 3d electron there to fill a vacancy of L3 with. In solids its La is as strong
# as Ll, which C Ka lies beside.
_LEAST_LA = 0.5
# The table has Mz of lead at 0.006 of Ma, that of hafnium at 0.06.
_LEAST_MZ = 0.03
# A shell that the beam hardly excites, or whose X-rays pass through the detector, can be missing.
_LEAST_OVERVOLTAGE = 1.3
_LEAST_EFFICIENCY = 0.25


@dataclass(frozen=True)
class Line:
    """One X-ray line: name, energy in keV and weight relative to the strongest of its shell."""

    name: str
    energy: float
    weight: float


Group = tuple[Line, ...]


@dataclass(frozen=True)
class Families:
    """The lines of an element that a spectrum can hold, and what their intensities can be.

    Every spectrum of the element is a sum, with weights >= 0, of ``leading`` and ``following``: groups of lines with
    fixed relative weights. In each of ``following`` a softer shell is added, at the most that is possible, to one count
    of the strongest line of the harder shell, so that it cannot come alone. ``soft`` are lines below 1 keV of softer
    shells, alone, which ``following`` ends with: no evidence for the element, since continuum and tails are uncertain
    there.
    """

    element: str
    lines: Group
    leading: tuple[Group, ...]
    following: tuple[Group, ...]
    soft: tuple[Group, ...]

    @property
    def generators(self) -> tuple[Group, ...]:
        """Return leading and following groups."""
        return (*self.leading, *self.following)


def detector_efficiency(energy: float) -> float:
    """Return the share of X-rays of ``energy`` (keV) that 0.45 mm of silicon stop; absorption falls as energy cubed."""
    return -math.expm1(-3.55 * (10 / energy) ** 3)


@functools.lru_cache(maxsize=1024)
def families_of(element: str, *, low: float, high: float, beam: float) -> Families | None:
    """Return the lines of ``element`` between ``low`` and ``high`` keV that a beam of ``beam`` keV excites, or None.

    References
    ----------
    Intensities: Bethe's cross-section in the form (U - 1)^1.67 (Reed 2005, Electron Microprobe Analysis), with U the
    beam energy over the edge, and the fluorescence yield Z^4 / (A + Z^4) (Burhop 1955).
    """
    table = line_table(element)
    number = schema.PERIODIC_TABLE.index(element) + 1
    shells = []
    for shell in "KLM":
        every = {
            name: (energy, max(weight, _LEAST_LA) if name == "La" and energy < _FREE_BELOW_KEV else weight)
            for name, (energy, weight) in table.items()
            if name[0] == shell
        }
        edges: dict[str, float] = {}
        for name, (energy, _) in every.items():
            subshell = _SUBSHELL.get(name, shell)
            edges[subshell] = max(edges.get(subshell, 0.0), _EDGE_OVER_LINE * energy)
        lines = tuple(
            Line(name, energy - (_doublet(number) if name == "Ka" else 0.0), weight)
            for name, (energy, weight) in sorted(every.items(), key=lambda item: -item[1][1])
            if weight >= _WEAKEST and low <= energy <= high and edges[_SUBSHELL.get(name, shell)] < beam
        )
        if lines and lines[0].weight >= 0.5:
            shells.append((shell, lines, beam / edges.get(shell, _EDGE_OVER_LINE * lines[0].energy)))
    if not shells:
        return None
    first: list[list[Group]] = []
    following: list[Group] = []
    soft: list[Group] = []
    leader: tuple[Group, float] | None = None
    for shell, lines, overvoltage in shells:
        free = lines[0].energy < _FREE_BELOW_KEV and shell != "K"
        groups = [_alone(line) for line in lines] if free else _uncertain(lines)
        if leader is None:
            first.append(groups)
            if overvoltage >= _LEAST_OVERVOLTAGE and detector_efficiency(lines[0].energy) >= _LEAST_EFFICIENCY:
                leader = lines, _excited(shell, number, overvoltage) * detector_efficiency(lines[0].energy)
        else:
            usual = _excited(shell, number, overvoltage) / leader[1]
            bounds = [MARGIN] * len(groups)
            if free:
                bounds = [
                    _SOFT_MARGIN * _FEW.get(line.name, 1.0) * min(1.0, line.energy**2, 2 * line.weight)
                    for line in lines
                ]
            following += [
                (*leader[0], *_scaled(group, bound * usual)) for group, bound in zip(groups, bounds, strict=True)
            ]
            soft += groups if free else []
    # What is too hard to be relied on stands behind the shell that leads.
    leading = tuple(group for groups in reversed(first) for group in groups)
    in_order = [*reversed(shells[: len(first)]), *shells[len(first) :]]
    every_line = tuple(line for _, lines, _ in in_order for line in lines)
    return Families(element, every_line, leading, tuple(following), tuple(soft))


def _alone(line: Line) -> Group:
    return (replace(line, weight=1.0),)


def _scaled(group: Group, by: float) -> Group:
    return tuple(replace(line, weight=by * line.weight) for line in group)


def _uncertain(lines: Group) -> list[Group]:
    """Return groups of lines such that mixtures of them are what the weights of a shell can be.

    Vacancies of each subshell are made at a rate of its own, so its lines are stronger or weaker together. The groups
    are the corners of a simplex about the box of all rates: as many as there are subshells, none a sum of others.
    """
    parts: dict[str, list[Line]] = {}
    for line in lines:
        parts.setdefault(_part(line), []).append(line)
    leading, *others = (tuple(part) for part in parts.values())
    lowest = (*leading, *(line for part in others for line in _scaled(part, _rates(part)[0])))
    groups = [lowest]
    for part in others:
        low, high = _rates(part)
        groups.append((*lowest, *_scaled(part, len(others) * (high - low))))
    return groups


def _part(line: Line) -> str:
    return line.name if line.name in ("Kb", "Mz") else _SUBSHELL.get(line.name, line.name[0])


def _rates(part: Group) -> tuple[float, float]:
    """Return the least and the most that lines of a subshell can be of what tables say."""
    low, high = _WEIGHT_ERROR[_part(part[0])]
    return low, max(high, _LEAST_MZ / part[0].weight) if part[0].name == "Mz" else high


def _doublet(number: int) -> float:
    """Return how far (keV) the mean of Ka1 and Ka2, which no such detector parts, lies below Ka1, the one of the table.

    A third of their distance, which is 13 eV for iron and grows with the fourth power of the atomic number.
    """
    return 0.013 * (number / 26) ** 4 / 3


def _excited(shell: str, number: int, overvoltage: float) -> float:
    """Relative number of X-rays of a shell that a beam makes."""
    fluorescence = number**4 / (_YIELD[shell] + number**4)
    return float(_ELECTRONS[shell] * fluorescence * (overvoltage - 1) ** 1.67)
