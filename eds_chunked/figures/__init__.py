"""Matplotlib figures of what the results hold. Nothing is computed here that a result does not say already."""

from eds_chunked.figures.components import draw_components
from eds_chunked.figures.composite import draw_composite
from eds_chunked.figures.contacts import draw_association
from eds_chunked.figures.counts_map import draw_counts_map
from eds_chunked.figures.distribution import draw_size_distribution
from eds_chunked.figures.grain_map import draw_grain_boundaries, draw_grain_map
from eds_chunked.figures.margin_map import draw_margin_map
from eds_chunked.figures.modal_bars import draw_modal_bars
from eds_chunked.figures.model_fit import draw_model_fit
from eds_chunked.figures.phase_map import draw_phase_map
from eds_chunked.figures.scree import draw_scree
from eds_chunked.figures.size_shares import draw_area_weighted_sizes, draw_size_quantiles
from eds_chunked.figures.spectra import draw_phase_spectra, draw_sum_spectrum
from eds_chunked.figures.style import phase_colour, png, save
from eds_chunked.figures.threshold import draw_threshold
from eds_chunked.figures.unfolded import draw_unfolded_sizes

__all__ = [
    "draw_area_weighted_sizes",
    "draw_association",
    "draw_components",
    "draw_composite",
    "draw_counts_map",
    "draw_grain_boundaries",
    "draw_grain_map",
    "draw_margin_map",
    "draw_modal_bars",
    "draw_model_fit",
    "draw_phase_map",
    "draw_phase_spectra",
    "draw_scree",
    "draw_size_distribution",
    "draw_size_quantiles",
    "draw_sum_spectrum",
    "draw_threshold",
    "draw_unfolded_sizes",
    "phase_colour",
    "png",
    "save",
]
