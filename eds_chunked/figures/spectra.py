"""Figures of spectra: the map's sum and maximum-pixel spectrum, and the spectrum of each phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.colors
import numpy as np

from eds_chunked.figures.style import (
    INK,
    PAGE_MM,
    map_title,
    new_figure,
    page_inches,
    phase_colour,
    phase_word,
    scale_by_tens,
    styled,
)
from eds_chunked.figures.xray_lines import label_lines
from eds_chunked.schema import (
    BEAM_ENERGY,
    CHANNEL,
    ELEMENTS,
    ENERGY,
    KEV,
    MAX_SPECTRUM,
    N_PIXELS,
    PHASE,
    SPECTRUM,
    SUM_SPECTRUM,
    require,
)

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BESIDE_INCHES = 0.9
_DECADES = 1e6
_NOTE_LETTERS = 8


@styled
def draw_sum_spectrum(ds: xr.Dataset, *, width_mm: float = PAGE_MM) -> Figure:
    """Draw the sum spectrum and, under it, the maximum-pixel spectrum of a map, both on a logarithmic axis.

    A peak that stands out below but not above belongs to few pixels: the maximum-pixel spectrum shows a mineral that
    is one pixel large.

    Parameters
    ----------
    ds
        The map: ``sum_spectrum`` and ``max_spectrum`` (energy), energies in keV. The lines of
        ``ds.attrs["elements"]`` are labelled.
    width_mm
        Width of the figure on paper.

    Raises
    ------
    ChunkLayoutError
        ``ds`` lacks a variable or has other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500.

    References
    ----------
    Bright and Newbury (2004), J. Microsc. 216, 186 (the maximum-pixel spectrum).
    """
    require(ds, SUM_SPECTRUM, MAX_SPECTRUM)
    energy = ds[ENERGY].values
    total, largest = ds[SUM_SPECTRUM].values, ds[MAX_SPECTRUM].values
    width = page_inches(width_mm)
    figure = new_figure(width, 4.0, what="Sum spectrum", title=map_title(ds))
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for axes, counts, name in ((upper, total, "counts"), (lower, largest, "largest count\nof a pixel")):
        _draw_log(axes, energy, counts, least=1.0)
        axes.set_ylabel(name)
    upper.set_xlim(energy_window(ds, total))
    lower.set_xlabel(energy_label(ds))
    figure.align_ylabels()
    label_lines(upper, lower, elements=elements_of(ds), energy=energy, height=total, inches=width - _BESIDE_INCHES)
    return figure


@styled
def draw_phase_spectra(spectra: xr.Dataset, *, width_mm: float = PAGE_MM) -> Figure:
    """Draw the spectrum of each phase in counts per pixel on a logarithmic axis, one under the other on equal axes.

    Parameters
    ----------
    spectra
        ``spectrum`` (phase, energy) in counts and ``n_pixels`` (phase). The lines of ``spectra.attrs["elements"]``
        are labelled. A phase without pixels keeps its (empty) place. Phases have their names where they have some.
    width_mm
        Width of the figure on paper.

    Raises
    ------
    ChunkLayoutError
        ``spectra`` lacks a variable or has other dimensions.
    ParameterError
        ``width_mm`` is less than 80 or more than 500.
    """
    require(spectra, SPECTRUM, N_PIXELS)
    energy = spectra[ENERGY].values
    counts = spectra[SPECTRUM].values.astype(np.float64)
    pixels = spectra[N_PIXELS].values
    mean = counts / np.maximum(pixels, 1)[:, None]
    number = phase_numbers(spectra)
    width = page_inches(width_mm)
    figure = new_figure(
        width, 1.0 + max(0.8, 2.8 / len(number)) * len(number), what="Phase spectra", title=map_title(spectra)
    )
    panels = np.atleast_1d(figure.subplots(len(number), 1, sharex=True, sharey=True))
    largest = float(mean.max(initial=0))
    # One count in the whole phase is the least that can be seen in it; six decades are the most that a panel shows.
    least = max(float(mean[mean > 0].min(initial=largest)), largest / _DECADES)
    for axes, phase, spectrum, n in zip(panels, number, mean, pixels, strict=True):
        _draw_log(axes, energy, spectrum, fill=phase_colour(phase), least=least, largest=largest)
        # Beside the peaks, which are on the left, there is room for more than a column of a legend.
        words = phase_word(spectra, phase, most=int(_NOTE_LETTERS * width))
        note = f"{words}  ({n:,} pixels)" if n else f"{words}  (no pixels)"
        axes.text(
            0.995,
            0.94,
            note,
            transform=axes.transAxes,
            ha="right",
            va="top",
            fontweight="bold",
            fontsize=7,
            parse_math=False,
        )
    panels[0].set_xlim(energy_window(spectra, counts.sum(axis=0)))
    panels[-1].set_xlabel(energy_label(spectra))
    figure.supylabel("counts per pixel", fontsize=8)
    label_lines(
        *panels,
        elements=elements_of(spectra),
        energy=energy,
        height=mean.max(axis=0),
        inches=width - _BESIDE_INCHES,
    )
    return figure


def phase_numbers(ds: xr.Dataset) -> list[int]:
    """Return the numbers of the phases of ``ds``: its coordinate, or 1..n without one."""
    if PHASE in ds.coords:
        return [int(number) for number in ds[PHASE].values]
    return list(range(1, ds.sizes[PHASE] + 1))


def elements_of(ds: xr.Dataset) -> tuple[str, ...]:
    """Return the elements whose lines can be labelled: none where the energy axis is not calibrated."""
    return tuple(map(str, ds.attrs.get(ELEMENTS, ()))) if _energy_unit(ds) == KEV else ()


def energy_label(ds: xr.Dataset) -> str:
    """Return the title of the energy axis of ``ds``: keV, or channels where it is not calibrated."""
    return CHANNEL if _energy_unit(ds) == CHANNEL else f"energy / {KEV}"


def _energy_unit(ds: xr.Dataset) -> str:
    return str(ds[ENERGY].attrs.get("units", KEV))


def energy_window(ds: xr.Dataset, counts: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Return the energies in keV between which a spectrum (energy,) of ``ds`` has something to show.

    Up to the beam energy where it is known, else to where all but a ten thousandth of the counts lie.
    """
    energy = ds[ENERGY].values
    low, high = float(energy[0]), float(energy[-1])
    filled = np.cumsum(counts, dtype=np.float64)
    if filled[-1] > 0:
        beam = float(ds.attrs.get(BEAM_ENERGY) or np.inf) if _energy_unit(ds) == KEV else np.inf
        reach = 1.05 * float(energy[np.searchsorted(filled, 0.9999 * filled[-1])])
        high = min(high, beam, reach) if min(beam, reach) > max(low, 0) else high
        low = max(low, min(-0.1, float(energy[np.flatnonzero(counts)[0]]) - 0.05)) if low < -0.1 else low
    return low, high


def _draw_log(
    axes: Axes,
    energy: np.ndarray[Any, Any],
    counts: np.ndarray[Any, Any],
    *,
    fill: str | None = None,
    least: float,
    largest: float | None = None,
) -> None:
    top = float(counts.max(initial=0)) if largest is None else largest
    bottom = 0.7 * least if least > 0 else 0.7
    scale_by_tens(axes)
    # Empty channels are drawn on the floor: a gap there would look like a missing measurement.
    shown = np.maximum(counts, bottom)
    if fill is not None:
        axes.fill_between(energy, bottom, shown, step="mid", color=fill, linewidth=0)
    # Where counts are few the line goes up and down at every channel: in black it would hide the colour.
    line = INK if fill is None else _darker(fill)
    axes.plot(energy, shown, color=line, drawstyle="steps-mid", linewidth=0.4 if fill else 0.7)
    axes.set_ylim(bottom, max(2 * top, 20 * bottom))


def _darker(colour: str) -> str:
    red, green, blue = matplotlib.colors.to_rgb(colour)
    return matplotlib.colors.to_hex((0.6 * red, 0.6 * green, 0.6 * blue))
