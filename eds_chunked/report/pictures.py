"""The pictures of a report, drawn one at a time in the order of the work, with the plots that a page has for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import xarray as xr

from eds_chunked import figures, schema
from eds_chunked.decomposition.advice import advise_components
from eds_chunked.grains.statistics import grain_size_statistics
from eds_chunked.report import plots
from eds_chunked.report.findings import Findings, word
from eds_chunked.report.plots import Plot
from eds_chunked.report.sections import ASSOCIATION, DECISIONS, DECOMPOSITION, GRAINS, MAP, PHASES, SIZES, SPECTRA

_COMPOSITE = 3


class Picture(NamedTuple):
    """A figure as PNG with the words that go with it; ``name`` is the stem of its file."""

    name: str
    caption: str
    alt: str
    png: bytes
    section: str = MAP
    plots: Sequence[Plot] = ()


def pictures(found: Findings) -> Iterator[Picture]:
    """Draw what the store has results for, one figure at a time."""
    yield Picture(
        "counts",
        "Counts of the pixels",
        f"Map of the total counts of the pixels of {found.title}, with a scale bar",
        figures.png(figures.draw_counts_map(found.map)),
        MAP,
    )
    yield Picture(
        "sum_spectrum",
        "Sum spectrum and maximum-pixel spectrum",
        f"Counts against energy for the map {found.title}, logarithmic",
        figures.png(figures.draw_sum_spectrum(found.map)),
        MAP,
        [plots.sum_spectrum(found.map)],
    )
    yield from _decompositions(found)
    yield from _phases(found)
    if found.spectra is not None:
        yield Picture(
            "phase_spectra",
            "Phase spectra, counts a pixel",
            "Spectrum of each phase on a logarithmic scale, with the X-ray lines of the elements",
            figures.png(figures.draw_phase_spectra(found.spectra)),
            SPECTRA,
        )
    if found.association is not None:
        yield Picture(
            "association",
            "Association: per cent of the boundary of each phase (rows) with each neighbour (columns)",
            "Heat map of the boundaries that phases share; its numbers are in the table",
            figures.png(found.association.plot()),
            ASSOCIATION,
        )
    yield from _grains(found)
    yield from _sizes(found)


def _decompositions(found: Findings) -> Iterator[Picture]:
    pca, nmf, model = found.pca, found.nmf, found.model
    if pca is not None:
        advice = advise_components(pca)
        scree = figures.draw_scree(
            pca, advised=advice.n_components, elbow=advice.elbow, critical_variance=advice.critical_variance
        )
        yield Picture(
            "scree",
            "Scree plot: explained variance of the principal components",
            f"Explained variance ratio by component, linear and logarithmic. {advice}",
            figures.png(scree),
            DECOMPOSITION,
            [plots.scree(pca, advised=advice.n_components)],
        )
        yield _components("pca", "Principal components: loadings and factors", pca)
        if pca.sizes[schema.COMPONENT] >= _COMPOSITE:
            yield Picture(
                "composite",
                "The first three principal components in one picture: what differs in colour differs in composition",
                "Map with loadings of components 1, 2 and 3 as red, green and blue",
                figures.png(figures.draw_composite(pca)),
                DECOMPOSITION,
            )
    if nmf is not None:
        phase_of = found.cut[2] if found.cut is not None else {}
        yield _components("nmf", "NMF components: loadings and factors", nmf, phase_of)
    if model is not None:
        yield Picture(
            "model",
            "Fit of the low-rank model: chi-square and residual",
            "Maps of chi-square and residual, and chi-square by energy; 1 is counting noise alone",
            figures.png(figures.draw_model_fit(model)),
            DECOMPOSITION,
        )


def _components(name: str, caption: str, result: xr.Dataset, phase_of: dict[int, int] | None = None) -> Picture:
    drawn = figures.png(figures.draw_components(result, phase_of=phase_of))
    alt = f"{result.sizes[schema.COMPONENT]} component maps beside their spectra"
    return Picture(name, caption, alt, drawn, DECOMPOSITION)


def _phases(found: Findings) -> Iterator[Picture]:
    phases = found.phases
    if phases is None:
        return
    yield Picture(
        "phase_map",
        "Phases (exclusive)",
        "Map of the phases with their area shares",
        figures.png(figures.draw_phase_map(phases)),
        PHASES,
        _of_phases(found, phases),
    )
    if found.modal is not None:
        yield Picture(
            "modal_bars",
            "Areas of the phases",
            "Bars of the areas of the phases with their intervals; the numbers are in the modal table",
            figures.png(figures.draw_modal_bars(found.modal, title=found.title)),
            PHASES,
        )
    if schema.MARGIN in phases:
        yield Picture(
            "margin",
            "Margin: how far the best phase of a pixel was ahead of the second best, 0 to 1",
            "Map of the margin; dark pixels were hard to decide",
            figures.png(figures.draw_margin_map(phases)),
            DECISIONS,
        )
    if found.cut is None:
        return
    source, masked, phase_of = found.cut
    for number in (int(number) for number in masked[schema.PHASE].values):
        now = f", now {word(phases, phase_of[number])}" if phase_of else ""
        yield Picture(
            f"threshold_{number}",
            f"Component {number}{now}: histogram with threshold, mask before and after cleaning",
            f"Histogram of loading {number} and its mask before and after small objects and holes were removed",
            figures.png(figures.draw_threshold(source, masked, component=number, phase_of=phase_of or None)),
            DECISIONS,
        )


def _of_phases(found: Findings, phases: xr.Dataset) -> list[Plot]:
    """Return the map of the phases and, if they were summed over these and no others, their spectra."""
    if found.spectra is None or found.spectra.attrs.get(schema.PARENT_ID) != phases.attrs.get(schema.RESULT_ID):
        return [plots.phase_map(phases, line_of={})]
    spectra, line_of = plots.phase_spectra(found.spectra)
    return [plots.phase_map(phases, line_of=line_of), spectra]


def _grains(found: Findings) -> Iterator[Picture]:
    grains = found.grains
    if grains is None:
        return
    # Not the last phases, which may have been made again since.
    origin = found.parent_of(grains, found.phases)
    # Grains of masks, which overlap, have a map a phase.
    of_masks = schema.PHASE in grains[schema.GRAIN_LABEL].dims
    for phase in range(1, grains.sizes[schema.PHASE] + 1) if of_masks else (None,):
        stem = "" if phase is None else f"_{phase}"
        whose = "" if phase is None else f" of {word(grains, phase)}"
        yield Picture(
            f"grain_map{stem}",
            f"Grains{whose}",
            f"Map of the separated grains{whose} in shades of their phase's colour",
            figures.png(figures.draw_grain_map(grains, origin, phase=phase)),
            GRAINS,
            [] if of_masks else [plots.grain_map(grains)],
        )
        if found.counted is not None:
            yield Picture(
                f"grain_boundaries{stem}",
                f"Boundaries of the grains{whose} over the counts",
                "Total counts of the pixels with the outlines of the grains; those that the edge cuts stand out",
                figures.png(figures.draw_grain_boundaries(found.counted, grains=grains, phase=phase)),
                GRAINS,
            )


def _sizes(found: Findings) -> Iterator[Picture]:
    for phase in found.phases_with_sizes:
        assert found.grains is not None
        name = word(found.grains, phase)
        linear = grain_size_statistics(found.grains, phase=phase, scale="linear", resamples=0)
        log = grain_size_statistics(found.grains, phase=phase, scale="log", resamples=0)
        live = [plots.size_distribution(linear)]
        for suffix, caption, alt, drawn, in_its_place in (
            (
                "linear",
                "linear scale",
                "Histogram and density of the diameters with their averages",
                linear.plot(),
                live,
            ),
            ("log", "log scale", "Histogram and density of the diameters, logarithmic", log.plot(), []),
            ("area", "weighted by area", "Share of the grains' area by diameter", linear.plot("area"), []),
            (
                "quantiles",
                "log-normal quantiles",
                "Diameters against log-normal quantiles",
                linear.plot("quantiles"),
                [],
            ),
        ):
            yield Picture(
                f"grain_size_{phase}_{suffix}",
                f"Apparent grain diameters of {name}, {caption}",
                f"{alt}, {name}",
                figures.png(drawn),
                SIZES,
                in_its_place,
            )
