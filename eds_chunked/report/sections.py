"""The sections of a report, in the order of the work."""

from __future__ import annotations

MAP = "The map"
DECOMPOSITION = "Decomposition"
PHASES = "Phases"
DECISIONS = "How the phases were decided"
SPECTRA = "Phase spectra and elements"
ASSOCIATION = "Association"
GRAINS = "Grains"
SIZES = "Grain sizes"
MADE = "Parameters and versions"

SECTIONS = (MAP, DECOMPOSITION, PHASES, DECISIONS, SPECTRA, ASSOCIATION, GRAINS, SIZES, MADE)
