"""Plots to zoom into and to point at, which a page shows in the place of their pictures: what Bokeh draws, as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib.colors
import numpy as np

from eds_chunked import schema
from eds_chunked.figures.distribution import unit_text
from eds_chunked.figures.grain_map import grain_colours
from eds_chunked.figures.maps import proportions
from eds_chunked.figures.phase_map import share
from eds_chunked.figures.reading import every_nth, label_counts, shown_labels
from eds_chunked.figures.spectra import elements_of, energy_label, energy_window, phase_numbers
from eds_chunked.figures.style import BLUE, GREEN, PURPLE, VERMILION, phase_colour
from eds_chunked.figures.xray_lines import Line, lines_between
from eds_chunked.grains.described import GrainSizeStatistics
from eds_chunked.report.findings import word

if TYPE_CHECKING:
    import xarray as xr
    from bokeh.plotting import figure

Array = np.ndarray[Any, Any]

# Grey that is seen on white and on black.
_GREY = "#808080"
_DECADES = 1e6
_SHOWN_RANKS = 60
# A label of a line is so many pixels wide on a page of the usual width.
_LABEL_PIXELS, _USUAL_PIXELS = 14, 880
_LOWEST, _HIGHEST = 240, 620
# What contrasts with white and with a dark page alike: 3 to 1 or better (WCAG 1.4.11).
_DARKEST, _LIGHTEST = 0.135, 0.29
# The colours of the page, which the page has as variables.
_LEGEND = (
    ":host { background: var(--paper) !important; } .bk-item .bk-label { color: var(--ink) !important;"
    " max-width: 16rem; white-space: normal; overflow-wrap: anywhere; }"
)
_TOOLS = "pan,box_zoom,wheel_zoom,zoom_in,zoom_out,reset,save"
_NO_PHASE = {schema.UNASSIGNED: "unassigned", schema.MIXED: "mixed", schema.LEFT_OUT_LABEL: "left out"}


class Choice(NamedTuple):
    """A button beside a map: its words and colour, the kind of pixels and the line (its id, or none) that it shows."""

    words: str
    colour: str
    kind: int
    line: str


class Plot(NamedTuple):
    """What ``Bokeh.embed.embed_item`` draws; of a map the id of its pixels, and choices of what to see of it."""

    item: Mapping[str, Any]
    pixels: str = ""
    choices: Sequence[Choice] = ()


def sum_spectrum(ds: xr.Dataset) -> Plot:
    """Return the sum and the maximum-pixel spectrum of a map, with the pixel that each maximum is of."""
    energy, total, largest = (ds[name].values for name in (schema.ENERGY, schema.SUM_SPECTRUM, schema.MAX_SPECTRUM))
    lines = lines_between(elements_of(ds), float(energy[0]), float(energy[-1]))
    top = float(max(total.max(initial=0), largest.max(initial=0)))
    plot = _spectrum_plot(ds, counts=total, bottom=0.7, top=max(2 * top, 20.0), y="counts", lines=lines, height=total)
    of_pixel = {}
    if schema.MAX_SPECTRUM_PIXEL in ds:
        owners = ds[schema.MAX_SPECTRUM_PIXEL].values.tolist()
        of_pixel = {"pixel": [f"y {row}, x {column}" if row >= 0 else "no pixel" for row, column in owners]}
    said = f"{_where(ds)}: @counts{{0,0}} counts"
    owner = " in pixel @pixel" if of_pixel else ""
    for words, counts, colour, extra, template in (
        ("sum of all pixels", total, BLUE, {}, f"sum, {said}"),
        ("largest count of a pixel", largest, VERMILION, of_pixel, f"largest, {said}{owner}"),
    ):
        data = {"energy": energy, "counts": counts.astype(np.float64), "shown": np.maximum(counts, 0.7), **extra}
        _line(plot, data, x="energy", y="shown", colour=seen(colour), words=words, template=template)
    return _finished(plot)


def phase_spectra(spectra: xr.Dataset) -> tuple[Plot, dict[int, str]]:
    """Return the spectra of the phases, counts a pixel, and the id of the line of each phase."""
    energy = spectra[schema.ENERGY].values
    counts = spectra[schema.SPECTRUM].values.astype(np.float64)
    mean = counts / np.maximum(spectra[schema.N_PIXELS].values, 1)[:, None]
    largest = float(mean.max(initial=0))
    bottom = 0.7 * max(float(mean[mean > 0].min(initial=largest)), largest / _DECADES) or 0.7
    lines = lines_between(elements_of(spectra), float(energy[0]), float(energy[-1]))
    plot = _spectrum_plot(
        spectra, counts=counts.sum(axis=0), bottom=bottom, top=max(2 * largest, 20 * bottom), y="counts a pixel",
        lines=lines, height=mean.max(axis=0, initial=0),
    )  # fmt: skip
    line_of: dict[int, str] = {}
    for number, spectrum in zip(phase_numbers(spectra), mean, strict=True):
        words = word(spectra, number)
        # A phase of few pixels has many channels without a count: as gaps, or they would fill the plot with lines.
        data = {"energy": energy, "counts": spectrum, "shown": np.where(spectrum > 0, spectrum, np.nan)}
        drawn = _line(
            plot, data, x="energy", y="shown", colour=seen(phase_colour(number)), words=words,
            template=f"$name, {_where(spectra)}: @counts{{0,0.[0000]}} counts a pixel", near=True,
        )  # fmt: skip
        # As its name, which Bokeh escapes; in a template it would be read as HTML and as names of columns.
        drawn.name = words
        line_of[number] = drawn.id
    # The first phase, which has the most pixels and the least noise, lies over the others.
    plot.renderers = plot.renderers[::-1]
    return _finished(plot), line_of


def scree(pca: xr.Dataset, *, advised: int | None) -> Plot:
    """Return the explained variance of the principal components, with what is known of those that were not kept."""
    from bokeh.models import Range1d, Span

    ratio = pca[schema.EXPLAINED_VARIANCE_RATIO].values
    rank = np.arange(1, len(ratio) + 1)
    plot = _new_plot(x="component", y="explained variance ratio", y_type="log", height=340)
    ends = [*ratio[ratio > 0]]
    if schema.EIGENVALUES in pca:
        eigenvalues = pca[schema.EIGENVALUES].values
        # Numerical zeros (empty channels) say nothing, and would stretch the axis.
        known = np.flatnonzero(eigenvalues > 1e-9 * eigenvalues[:1].max(initial=0))
        others = known[known >= len(ratio)]
        if len(others):
            scaled = eigenvalues[others] * (ratio[0] / eigenvalues[0])
            ends += [*scaled[:_SHOWN_RANKS]]
            _points(plot, others + 1, scaled, colour=_GREY, words="all other eigenvalues", size=3)
    _points(plot, rank, ratio, colour=seen(BLUE), words="components", size=7)
    if advised is not None and 1 <= advised <= len(ratio):
        _points(plot, rank[[advised - 1]], ratio[[advised - 1]], colour=seen(VERMILION), words=f"advised: {advised}",
                size=13, hollow=True)  # fmt: skip
    if schema.NOISE_RATIO in pca:
        edge = int(np.count_nonzero(pca[schema.NOISE_RATIO].values > 1))
        plot.add_layout(Span(location=edge + 0.5, dimension="height", line_color=seen(VERMILION), line_dash="dashed"))
        plot.line([edge + 0.5] * 2, [ratio[0]] * 2, line_color=seen(VERMILION), line_dash="dashed",
                  legend_label=f"noise edge: {edge} above")  # fmt: skip
    plot.x_range = Range1d(0, max(20, min(len(ratio), _SHOWN_RANKS)) + 1)
    if ends:
        plot.y_range = Range1d(0.7 * float(min(ends)), 1.5 * float(max(ends)))
    return _finished(plot)


def phase_map(phases: xr.Dataset, *, line_of: Mapping[int, str]) -> Plot:
    """Return the map of the phases, whose pixels say their phase, with a choice for each phase that has some.

    ``line_of`` has the ids of the lines that are of a phase in :func:`phase_spectra`.
    """
    kinds, index = np.unique(shown_labels(phases), return_inverse=True)
    pixels = label_counts(phases)
    total = int(pixels.sum())
    names = [_NO_PHASE.get(int(kind)) or word(phases, int(kind)) for kind in kinds]
    colours = [phase_colour(int(kind)) for kind in kinds]
    words = [f"{name}, {share(int(pixels[kind]), total)}" for kind, name in zip(kinds, names, strict=True)]
    choices = [
        Choice(name, colour, place, line_of.get(int(kind), ""))
        for place, (kind, name, colour) in enumerate(zip(kinds, names, colours, strict=True))
        if int(kind) not in _NO_PHASE
    ]
    return _map_plot(phases, index, colours=colours, words=words)._replace(choices=choices)


def grain_map(grains: xr.Dataset) -> Plot:
    """Return the map of the grains, whose pixels say the number, phase and diameter of their grain."""
    numbers, index = np.unique(every_nth(grains[schema.GRAIN_LABEL]), return_inverse=True)
    place = {int(number): row for row, number in enumerate(grains[schema.GRAIN_ID].values)}
    rows = [place.get(int(number)) for number in numbers]
    phases, at_edge = grains[schema.PHASE].values, grains[schema.TOUCHES_EDGE].values
    of_phase = [0 if row is None else int(phases[row]) for row in rows]
    shades = grain_colours(numbers, np.array(of_phase)).astype(np.float64) / 255
    colours = [matplotlib.colors.to_hex(shade) for shade in shades]
    unit = schema.pixel_size(grains)[2]
    diameter = grains[schema.measured(schema.ECD, unit)].values
    words = [
        "no grain"
        if row is None
        else f"grain {number}, {word(grains, phase)}, {diameter[row]:.4g} {unit_text(unit)}"
        + (", cut by the map's edge" if at_edge[row] else "")
        for number, row, phase in zip(numbers, rows, of_phase, strict=True)
    ]
    return _map_plot(grains, index, colours=colours, words=words)


def size_distribution(stats: GrainSizeStatistics) -> Plot:
    """Return the histogram and density of sizes with their averages, on a linear scale."""
    from bokeh.models import HoverTool, Range1d, Span

    unit = unit_text(stats.unit)
    plot = _new_plot(x=f"apparent diameter / {unit}", y=f"density / (1/{unit})", height=340)
    edges, density = stats.bin_edges, stats.bin_density
    bars = plot.quad(
        left="left", right="right", top="top", bottom=0, fill_color=_GREY, fill_alpha=0.35, line_color=_GREY,
        legend_label=f"histogram, {len(density)} classes",
        source=_source({"left": edges[:-1], "right": edges[1:], "top": density, "n": stats.bin_counts}),
    )  # fmt: skip
    plot.add_tools(
        HoverTool(
            renderers=[bars], visible=False, tooltips=_tooltip("@left{0,0.[00]} to @right{0,0.[00]}: @n{0,0} grains")
        )
    )
    if len(stats.kde_grid):
        plot.line(stats.kde_grid, stats.kde_density, line_color=seen(BLUE), line_width=2, legend_label="density (KDE)")
    top = float(max(density.max(initial=0), *stats.kde_density, 0.0))
    for value, words, colour, dash in (
        (stats.arithmetic_mean, "mean", _GREY, "solid"),
        (stats.median, "median", seen(VERMILION), "dashed"),
        (stats.geometric_mean, "geometric mean", seen(GREEN), "dashdot"),
        (stats.kde_mode, "KDE peak", seen(PURPLE), "dotted"),
    ):
        plot.line([value] * 2, [0, 1.05 * top], line_color=colour, line_dash=dash, line_width=2,
                  legend_label=f"{words} {value:.4g}")  # fmt: skip
    plot.y_range = Range1d(0, 1.05 * top or 1.0)
    plot.add_layout(Span(location=0, dimension="width", line_color=_GREY))
    return _finished(plot)


def seen(colour: str) -> str:
    """Return ``colour``, darker or lighter until a line of it is seen on a white and on a dark page.

    References
    ----------
    Web Content Accessibility Guidelines 2.2, 1.4.11 (contrast of graphics) and its relative luminance.
    """
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    if luminance > _LIGHTEST:
        linear = linear * (_LIGHTEST / luminance)
    elif luminance < _DARKEST:
        linear = linear + (1 - linear) * ((_DARKEST - luminance) / (1 - luminance))
    back = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return matplotlib.colors.to_hex(tuple(np.clip(back, 0, 1)))


def _spectrum_plot(
    ds: xr.Dataset, *, counts: Array, bottom: float, top: float, y: str, lines: Sequence[Line], height: Array
) -> figure:
    """Return an empty plot for spectra of ``ds`` between ``bottom`` and ``top``, with the labels of ``lines``."""
    from bokeh.models import Range1d

    plot = _new_plot(x=energy_label(ds), y=y, y_type="log", height=430 if lines else 360)
    low, high = energy_window(ds, counts)
    energy = ds[schema.ENERGY].values
    plot.x_range = Range1d(low, high, bounds=(min(low, float(energy[0])), max(high, float(energy[-1]))))
    plot.y_range = Range1d(bottom, top)
    for row in _rows(lines, np.interp([line.energy for line in lines], energy, height), (high - low) / _USUAL_PIXELS):
        _label(plot, row)
    return plot


def _where(ds: xr.Dataset) -> str:
    """Return how a template says an energy. A unit of the file is not put into it: it would be read as HTML."""
    return f"{schema.CHANNEL} @energy{{0}}" if energy_label(ds) == schema.CHANNEL else f"@energy{{0.000}} {schema.KEV}"


def _rows(lines: Sequence[Line], heights: Array, per_pixel: float) -> list[list[Line]]:
    """Return lines in two rows of labels: the highest peaks that have room beside each other, then all others."""
    first: list[Line] = []
    for place in np.argsort(-heights, kind="stable"):
        line = lines[place]
        if all(abs(line.energy - other.energy) > _LABEL_PIXELS * per_pixel for other in first):
            first.append(line)
    rows = ([line for line in lines if line in first], [line for line in lines if line not in first])
    return [row for row in rows if row]


def _label(plot: figure, lines: Sequence[Line]) -> None:
    # An axis of its own, since its labels stay where they are seen, and those that have no room show up on zooming in.
    from bokeh.models import FixedTicker, Grid, LinearAxis, NoOverlap

    ticker = FixedTicker(ticks=[line.energy for line in lines])
    axis = LinearAxis(
        ticker=ticker,
        major_label_overrides={line.energy: line.label for line in lines},
        major_label_orientation=math.pi / 2,
        major_label_policy=NoOverlap(min_distance=0),
        major_label_text_font_size="11px",
        major_label_standoff=2,
        axis_line_color=None,
        major_tick_line_color=_GREY,
        major_tick_in=0,
        major_tick_out=4,
    )
    plot.add_layout(axis, "above")
    plot.add_layout(Grid(dimension=0, ticker=ticker, grid_line_color=_GREY, grid_line_alpha=0.35))


def _map_plot(ds: xr.Dataset, index: Array, *, colours: Sequence[str], words: Sequence[str]) -> Plot:
    """Return a map (y, x) of kinds of pixels, each of its colour; a pixel that is pointed at says its words."""
    from bokeh.models import DataRange1d, HoverTool, LinearColorMapper, Metric, ScaleBar

    height, width, unit = schema.pixel_size(ds)
    down, across = height * ds.sizes[schema.Y], width * ds.sizes[schema.X]
    size = int(np.clip(_USUAL_PIXELS * 0.55 * proportions(ds), _LOWEST, _HIGHEST)) + 30
    plot = _new_plot(height=size, ranges=(DataRange1d(range_padding=0), DataRange1d(range_padding=0)))
    plot.match_aspect = True
    plot.grid.visible = False
    plot.axis.visible = False
    mapper = LinearColorMapper(palette=list(colours), low=-0.5, high=len(colours) - 0.5)
    smallest = np.min_scalar_type(len(colours) - 1)
    # Bokeh counts rows from below.
    image = np.ascontiguousarray(index[::-1].astype(smallest))
    pixels = plot.image(
        image="kind", x=0, y=0, dw=across, dh=down, color_mapper=mapper, source=_source({"kind": [image]})
    )
    pixels.name, pixels.tags = "pixels", [list(words)]
    # The page puts the words of each pixel there: in the file they would take ten times the room of the map.
    plot.add_tools(HoverTool(renderers=[pixels], visible=False, tooltips=_tooltip("@words")))
    bar = ScaleBar(
        range=plot.x_range, unit=unit_text(unit), location="bottom_left", bar_length=0.15, bar_line_color=_GREY
    )
    if unit != schema.MICROMETRE:
        bar.dimensional = Metric(base_unit=unit, include=[unit])
    plot.add_layout(bar)
    return Plot(_item(plot), pixels.id)


def _new_plot(
    *, x: str = "", y: str = "", y_type: str = "linear", height: int, ranges: tuple[Any, Any] | None = None
) -> figure:
    from bokeh.plotting import figure

    plot = figure(
        sizing_mode="stretch_width", height=height, x_axis_label=x, y_axis_label=y, y_axis_type=y_type, tools=_TOOLS,
        # The wheel stays with the page until somebody asks for it.
        active_drag="box_zoom", active_scroll=None, toolbar_location="above", border_fill_color=None,
        outline_line_color=None, **({} if ranges is None else {"x_range": ranges[0], "y_range": ranges[1]}),
    )  # fmt: skip
    plot.toolbar.logo = None
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = _GREY
    plot.axis.minor_tick_line_color = None
    plot.axis.axis_label_text_font_style = "normal"
    plot.grid.grid_line_color, plot.grid.grid_line_alpha = _GREY, 0.15
    return plot


def _line(
    plot: figure, data: Mapping[str, Any], *, x: str, y: str, colour: str, words: str, template: str, near: bool = False
) -> Any:
    from bokeh.models import HoverTool

    drawn = plot.line(x, y, source=_source(data), line_color=colour, line_width=1.5, legend_label=words)
    mode = "mouse" if near else "vline"
    plot.add_tools(HoverTool(renderers=[drawn], mode=mode, visible=False, tooltips=_tooltip(template)))
    return drawn


def _points(
    plot: figure, rank: Array, ratio: Array, *, colour: str, words: str, size: int, hollow: bool = False
) -> None:
    from bokeh.models import HoverTool

    source = _source({"rank": rank, "ratio": ratio})
    drawn = plot.scatter("rank", "ratio", source=source, size=size, line_color=colour, line_width=2 if hollow else 1,
                         fill_color=None if hollow else colour, legend_label=words)  # fmt: skip
    if not hollow:
        plot.add_tools(
            HoverTool(renderers=[drawn], visible=False, tooltips=_tooltip("component @rank: @ratio{0.[000000]}"))
        )


def _source(data: Mapping[str, Any]) -> Any:
    from bokeh.models import ColumnDataSource

    return ColumnDataSource(data=dict(data))


def _tooltip(template: str) -> str:
    """Return what is shown where somebody points; Bokeh escapes what it puts into a template."""
    return f"<div>{template}</div>"


def _finished(plot: figure) -> Plot:
    from bokeh.models import InlineStyleSheet

    if plot.legend:
        plot.legend.click_policy = "hide"
        plot.legend.location = "top_right"
        plot.legend.border_line_color = None
        plot.legend.stylesheets = [InlineStyleSheet(css=_LEGEND)]
    return Plot(_item(plot))


def _item(plot: figure) -> Mapping[str, Any]:
    from bokeh.embed import json_item

    return dict(json_item(plot))
