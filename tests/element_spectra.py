"""Spectra of known minerals with what a detector adds, and how clearly each of their elements is to be seen."""

from __future__ import annotations

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.synthetic.minerals import (
    ELEMENTS,
    MINERALS,
    RARE_MINERAL,
    Mineral,
    mineral_lines,
    mineral_spectrum,
    peak,
)

EVERY = (*MINERALS, RARE_MINERAL, Mineral("gypsum", {"Ca": 1, "S": 1, "O": 6}), Mineral("halite", {"Na": 1, "Cl": 1}))
SCALE, OFFSET, BEAM = 0.01, -0.48, 20.0
EDGES = OFFSET + SCALE * (np.arange(2049) - 0.5)
ENERGY = (EDGES[1:] + EDGES[:-1]) / 2


def _window(energy):
    return np.abs(ENERGY - energy) < 0.6 * np.sqrt(0.13**2 + 2.5e-3 * (energy - 5.898))


def expected_spectrum(mineral, total, *, escape=0.008, pile_up=0.004, shift=0.004):
    """Return expected counts: the phantom's, then escape peaks, sum peaks and strobe, on an axis that is off."""
    pure = total * mineral_spectrum(mineral, edges=EDGES, beam_energy=BEAM)
    spectrum = pure.copy()
    for energy, intensity in mineral_lines(mineral, beam_energy=BEAM).values():
        if energy > 1.84:
            # What the phantom has of this line, without what lies under it.
            area = pure[_window(energy)].sum() * 0.7 if intensity else 0.0
            spectrum += escape * (1.84 / energy) ** 2 * area * peak(energy - 1.74, EDGES)
    both = np.convolve(pure, pure) / total
    spectrum += pile_up * np.interp(ENERGY, 2 * ENERGY[0] + SCALE * np.arange(len(both)), both)
    spectrum += 0.05 * total * peak(0.0, EDGES)
    return np.interp(ENERGY, ENERGY + shift, spectrum)


def clarity(mineral, total):
    """Return the sigma of the clearest line of each element: net counts over the root of what is in its window."""
    spectrum = expected_spectrum(mineral, total)
    lines = mineral_lines(mineral, beam_energy=BEAM)
    intensity = sum(value for _, value in lines.values())
    pure = total * mineral_spectrum(mineral, edges=EDGES, beam_energy=BEAM)
    only_lines = sum(value * peak(energy, EDGES) for energy, value in lines.values())
    strongest = max(lines, key=lambda name: lines[name][1])
    at = int(np.argmin(np.abs(ENERGY - lines[strongest][0])))
    assert intensity > 0
    # The phantom's spectra are normalised: from the height of the strongest line, less a straight background.
    around = _window(lines[strongest][0])
    around_edges = np.flatnonzero(around)[[0, -1]] + (-8, 8)
    background = pure[around_edges].mean()
    factor = (pure[at] - background) / (only_lines[at] - only_lines[around_edges].mean())
    best = {}
    for name, (energy, value) in lines.items():
        window = _window(energy)
        net = factor * value * peak(energy, EDGES)[window].sum()
        symbol = name.split("_")[0]
        best[symbol] = max(best.get(symbol, 0.0), net / np.sqrt(max(spectrum[window].sum(), net)))
    assert set(best) <= set(ELEMENTS)
    return best


def as_spectra(table, **attrs):
    """Return spectra (phase, energy) as phase_spectra gives them."""
    table = np.atleast_2d(np.asarray(table))
    return xr.Dataset(
        {schema.SPECTRUM: ((schema.PHASE, schema.ENERGY), table.astype(np.uint64))},
        coords={
            schema.PHASE: np.arange(1, len(table) + 1),
            schema.ENERGY: (schema.ENERGY, ENERGY, {"units": schema.KEV}),
        },
        attrs={schema.BEAM_ENERGY: BEAM} | attrs,
    )
