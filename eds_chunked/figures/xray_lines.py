"""X-ray lines of the elements of a map, and their labels over a spectrum."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.transforms import ScaledTranslation

from eds_chunked.figures.style import FAINT, INK
from eds_chunked.xray_table import line_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Main line of a family, and the one beside it that is labelled where a detector tells the two apart.
_FAMILIES = (("Ka", "Kb"), ("La", "Lb1"), ("Ma", "Mb"))
_RESOLVED_KEV = 0.14
_WEAKEST = 0.05
_LOWEST_KEV = 0.1
_HIGH_PEAK = 0.03
_LABEL_INCHES = 0.125
_FARTHEST_PITCHES = 0.8
_GREEK = str.maketrans("abgz", "αβγζ")

LINE_LABEL = "line label"


@dataclass(frozen=True)
class Line:
    """An X-ray line: its label (``Fe Kα``), energy in keV, and whether it is the one its element is known by here."""

    label: str
    energy: float
    main: bool


def lines_between(elements: Iterable[str], low: float, high: float) -> list[Line]:
    """Return the lines of ``elements`` worth a label between two energies in keV, by rising energy."""
    found = []
    for element in dict.fromkeys(map(str, elements)):
        table = {
            name: energy
            for name, (energy, weight) in line_table(element).items()
            if weight >= _WEAKEST and max(low, _LOWEST_KEV) <= energy <= high
        }
        known_by = next((first for first, _ in _FAMILIES if first in table), None)
        for first, second in _FAMILIES:
            for name in (first, second):
                resolved = name == first or table.get(name, 0.0) - table.get(first, 0.0) >= _RESOLVED_KEV
                if name in table and resolved:
                    # Only the letter of the line is Greek, not that of the element.
                    label = f"{element} {name.translate(_GREEK)}"
                    found.append(Line(label, table[name], main=name == known_by))
    return sorted(found, key=lambda line: line.energy)


def label_lines(
    axes: Axes,
    *below: Axes,
    elements: Iterable[str],
    energy: np.ndarray[Any, Any],
    height: np.ndarray[Any, Any],
    inches: float,
    most: int | None = None,
) -> None:
    """Write the lines of ``elements`` above ``axes``, side by side, each with a leader to its energy.

    Parameters
    ----------
    axes, below
        The spectrum; its x limits (keV) are set. Axes below it with the same limits get the lines without labels.
    elements
        Chemical symbols.
    energy, height
        The spectrum (energy,) in keV and counts: where there is no room for all, the highest peaks keep theirs. Lines
        that are not the main one of their element are left out where they would push labels far from their lines.
    inches
        Width of ``axes`` on paper, at least.
    most
        The largest number of labels, and then only of main lines and peaks over 3 % of the highest; None is as many as
        there is room for.
    """
    low, high = axes.get_xlim()
    lines = lines_between(elements, low, high)
    peak = dict(zip(lines, np.interp([line.energy for line in lines], energy, height), strict=True))
    pitch = _LABEL_INCHES * (high - low) / inches
    room = int((high - low) / pitch)
    ranked = sorted(lines, key=lambda line: peak[line], reverse=True)
    main = [line for line in ranked if line.main]
    if most is None:
        lines = _beside(main[:room], [line for line in ranked if not line.main], pitch=pitch, low=low, high=high)
    else:
        lines = [line for line in main if peak[line] > _HIGH_PEAK * max(peak.values())][: min(room, most)]
    lines = sorted(lines, key=lambda line: line.energy)
    where = spread([line.energy for line in lines], pitch=pitch, low=low, high=high)
    top = axes.get_xaxis_transform()
    above = top + ScaledTranslation(0, 9 / 72, axes.figure.dpi_scale_trans)
    for line, x in zip(lines, where, strict=True):
        for spectrum in (axes, *below):
            spectrum.axvline(line.energy, color=INK, alpha=0.18, linewidth=0.5, zorder=0)
        axes.annotate(
            line.label,
            (line.energy, 1.0),
            xycoords=top,
            xytext=(x, 1.0),
            textcoords=above,
            arrowprops={
                "arrowstyle": "-",
                "linewidth": 0.5,
                "color": FAINT,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0.5, 0),
            },
            annotation_clip=False,
            rotation=90,
            ha="center",
            va="bottom",
            fontsize=7,
            parse_math=False,
            gid=LINE_LABEL,
        )


def _beside(main: list[Line], others: list[Line], *, pitch: float, low: float, high: float) -> list[Line]:
    """Return ``main`` and those ``others`` whose labels fit beside them: a label far from its line is misread."""

    def farthest(lines: list[Line]) -> float:
        wanted = sorted(line.energy for line in lines)
        return float(np.abs(spread(wanted, pitch=pitch, low=low, high=high) - wanted).max(initial=0))

    kept = list(main)
    limit = max(farthest(kept), _FARTHEST_PITCHES * pitch)
    for line in others:
        if (len(kept) + 1) * pitch < high - low and farthest([*kept, line]) <= limit:
            kept.append(line)
    return kept


def spread(wanted: list[float], *, pitch: float, low: float, high: float) -> np.ndarray[Any, Any]:
    """Return the places nearest to ``wanted`` (rising) that keep ``pitch`` between neighbours within low..high.

    Least squares under order: with ``pitch`` times the rank taken off it is an isotonic regression.

    References
    ----------
    Barlow et al. (1972), Statistical Inference under Order Restrictions (pool adjacent violators).
    """
    from scipy.optimize import isotonic_regression

    if not wanted:
        return np.empty(0)
    steps = pitch * np.arange(len(wanted))
    fitted = isotonic_regression(np.asarray(wanted) - steps).x
    return np.asarray(np.clip(fitted, low, max(low, high - steps[-1])) + steps)
