"""Matplotlib figures of what the results hold. Nothing is computed here that a result does not say already."""

from eds_chunked.figures.components import draw_components
from eds_chunked.figures.distribution import draw_size_distribution
from eds_chunked.figures.grain_map import draw_grain_map
from eds_chunked.figures.phase_map import draw_phase_map
from eds_chunked.figures.scree import draw_scree
from eds_chunked.figures.spectra import draw_phase_spectra, draw_sum_spectrum
from eds_chunked.figures.style import phase_colour, png, save
from eds_chunked.figures.threshold import draw_threshold

__all__ = [
    "draw_components",
    "draw_grain_map",
    "draw_phase_map",
    "draw_phase_spectra",
    "draw_scree",
    "draw_size_distribution",
    "draw_sum_spectrum",
    "draw_threshold",
    "phase_colour",
    "png",
    "save",
]
