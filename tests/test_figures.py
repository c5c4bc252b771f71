import importlib
import subprocess
import sys
import tracemalloc
import warnings
from itertools import combinations, pairwise
from pkgutil import iter_modules

import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb
from scipy.ndimage import binary_dilation, binary_erosion

from eds_chunked import association, figures, grain_size_statistics, modal_table, saltykov, schema, separate_grains
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.figures import maps, reading, style, xray_lines
from tests.decomposition_maps import ragged_chunks
from tests.made_results import ELEMENTS, PEAKS, TITLE, make, sizes

A, B = "\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER BETA}"


@pytest.fixture(scope="module")
def rock():
    return make((61, 83), seeds=50)


def reduced_phases(made):
    """Phases with what every figure of them needs, a left-out corner and a name that has no room on one line."""
    margin = np.random.default_rng(3).random(made.phases[schema.LABEL].shape).astype(np.float32)
    phases = made.phases.assign({schema.MARGIN: ((schema.Y, schema.X), margin)})
    phases[schema.LABEL][-1, -1] = 0
    analysed = np.ones(margin.shape, bool)
    analysed[-1, -1] = False
    names = {"1": "alkali feldspar and plagioclase", "2": "cost $5"}
    return phases.assign_coords({schema.ANALYSED_PIXEL: ((schema.Y, schema.X), analysed)}).assign_attrs(
        {schema.PHASE_NAMES: names, schema.PARAMETERS: {"mixed_margin": 0.2}}
    )


def measured_grains(made):
    """Grains with the columns that their figures read."""
    label = made.grains[schema.GRAIN_LABEL].values
    numbers = np.unique(label[label > 0])
    border = np.unique(np.concatenate([label[0], label[-1], label[:, 0], label[:, -1]]))
    return made.grains.assign(
        {
            schema.GRAIN_ID: (schema.GRAIN, numbers),
            schema.TOUCHES_EDGE: (schema.GRAIN, np.isin(numbers, border)),
        }
    )


def counted(made):
    """The map with total counts: a gradient, so that a flipped picture would show."""
    height, width = made.phases[schema.LABEL].shape
    counts = np.add.outer(1000 * np.arange(height), 10 * np.arange(width)).astype(np.uint32)
    return made.map.assign({schema.TOTAL_COUNTS: ((schema.Y, schema.X), counts)}).assign_coords(made.phases.coords)


def fit_of(made):
    height, width = made.phases[schema.LABEL].shape
    channels = made.map.sizes[schema.ENERGY]
    rng = np.random.default_rng(4)
    squares = rng.gamma(10, 0.1, channels)
    squares[channels // 2] = 900.0
    values = {
        schema.CHI_SQUARE: rng.gamma(10, 0.1, (height, width)),
        schema.RESIDUAL: rng.normal(0, 30, (height, width)),
        schema.CHI_SQUARE_SPECTRUM: squares,
        schema.RESIDUAL_SPECTRUM: rng.normal(0, 30, channels),
    }
    named = {name: (schema.VARIABLES[name].dims, array) for name, array in values.items()}
    return xr.Dataset(named, coords=made.map.coords | dict(made.phases.coords), attrs=made.map.attrs)


# Every figure that there is, by the function that draws it and what is special about the call.
OF_A_MAP = {
    "draw_sum_spectrum": lambda made, **o: figures.draw_sum_spectrum(made.map, **o),
    "draw_counts_map": lambda made, **o: figures.draw_counts_map(counted(made), **o),
    "draw_scree": lambda made, **o: figures.draw_scree(made.pca, advised=2, elbow=3, critical_variance=0.01, **o),
    "draw_components of a PCA": lambda made, **o: figures.draw_components(made.pca, **o),
    "draw_components of an NMF": lambda made, **o: figures.draw_components(made.nmf, **o),
    "draw_composite": lambda made, **o: figures.draw_composite(made.pca, components=(1, 2, 1), **o),
    "draw_threshold": lambda made, **o: figures.draw_threshold(made.nmf, made.phases, component=2, **o),
    "draw_phase_map": lambda made, **o: figures.draw_phase_map(made.phases, **o),
    "draw_phase_map with names": lambda made, **o: figures.draw_phase_map(reduced_phases(made), **o),
    "draw_margin_map": lambda made, **o: figures.draw_margin_map(reduced_phases(made), **o),
    "draw_modal_bars": lambda made, **o: figures.draw_modal_bars(modal_table(made.phases), title=TITLE, **o),
    "draw_phase_spectra": lambda made, **o: figures.draw_phase_spectra(made.spectra, **o),
    "draw_association": lambda made, **o: figures.draw_association(association(reduced_phases(made)), **o),
    "draw_grain_map": lambda made, **o: figures.draw_grain_map(made.grains, made.phases, **o),
    "draw_grain_map alone": lambda made, **o: figures.draw_grain_map(made.grains, **o),
    "draw_grain_boundaries": lambda made, **o: figures.draw_grain_boundaries(
        counted(made), grains=measured_grains(made), **o
    ),
    "draw_model_fit": lambda made, **o: figures.draw_model_fit(fit_of(made), **o),
}
OF_SIZES = {
    **{
        f"draw_size_distribution {scale}": lambda scale=scale, **o: figures.draw_size_distribution(real(scale), **o)
        for scale in ("linear", "log", "log10", "sqrt", "normalised")
    },
    "draw_area_weighted_sizes": lambda **o: figures.draw_area_weighted_sizes(real(), **o),
    "draw_size_quantiles": lambda **o: figures.draw_size_quantiles(real(), **o),
    "draw_unfolded_sizes": lambda **o: figures.draw_unfolded_sizes(saltykov(sizes().values), **o),
}


def real(scale="linear"):
    return grain_size_statistics(sizes().values, scale=scale, resamples=0)


def draw_all(made):
    return {name: draw(made) for name, draw in OF_A_MAP.items()} | {name: draw() for name, draw in OF_SIZES.items()}


def drawn_on(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def legend_of(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def fill_of(axes):
    [filled] = axes.collections
    return to_hex(filled.get_facecolor()[0])


def line_labels(axes):
    return [text for text in axes.texts if text.get_gid() == xray_lines.LINE_LABEL]


def scale_bars(figure):
    return [
        artist
        for axes in figure.axes
        for artist in axes.get_children()
        if artist.get_gid() == maps.SCALE_BAR and hasattr(artist, "get_xdata")
    ]


# ------------------------------------------------------------------------------------------------ every figure


def test_no_figure_escapes_these_tests():
    drawn = {name.split()[0] for name in (*OF_A_MAP, *OF_SIZES)}
    public = {name for name in figures.__all__ if name.startswith("draw_")}
    assert drawn == public
    modules = [
        importlib.import_module(f"{figures.__name__}.{module.name}") for module in iter_modules(figures.__path__)
    ]
    assert {name for module in modules for name in vars(module) if name.startswith("draw_")} == public


def all_axes(figure):
    return [axes for outer in figure.axes for axes in (outer, *outer.child_axes)]


def texts_on(figure):
    """Every text that is drawn: ticks beyond the axes' ends exist, but are not."""
    of_ticks, kept = set(), set()
    for axes in all_axes(figure):
        for axis in (axes.xaxis, axes.yaxis):
            every = {label for minor in (False, True) for label in axis.get_ticklabels(minor=minor)}
            of_ticks |= every
            kept |= {label for tick in axis._update_ticks() for label in (tick.label1, tick.label2)} & every
    shown = {text for text in figure.findobj(mpl.text.Text) if text not in of_ticks or text in kept}
    return [text for text in shown if text.get_visible() and text.get_text().strip()]


def points_of(text):
    """The smallest size in a text: matplotlib sets exponents at 0.7 of it."""
    return text.get_fontsize() * (0.7 if "^" in text.get_text() and text.get_parse_math() else 1.0)


def overlap(one, other, slack=1.5):
    across = min(one.x1, other.x1) - max(one.x0, other.x0)
    down = min(one.y1, other.y1) - max(one.y0, other.y0)
    return across > slack and down > slack


def data_under(axes, box):
    """Say what of the data of ``axes`` lies under ``box``; lines across the whole axes may."""
    if axes.images:
        return ["the map"] if overlap(axes.bbox, box) else []
    found = []
    for line in axes.lines:
        where = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        inside = (where > box.min).all(axis=1) & (where < box.max).all(axis=1)
        found += [line.get_label()] * bool(inside.any() and len(where) > 2)
    return found + ["a bar" for bar in axes.patches if overlap(bar.get_window_extent(), box)]


def check_readable(figure, name):
    """Nothing off the page, over something else, or too small to read."""
    figure.set_dpi(100)
    figure.draw_without_rendering()
    renderer = FigureCanvasAgg(figure).get_renderer()
    texts = texts_on(figure)
    boxes = [mpl.text.Text.get_window_extent(text, renderer) for text in texts]
    for text, box in zip(texts, boxes, strict=True):
        what = (name, text.get_text())
        assert box.x0 >= -1, what
        assert box.y0 >= -1, what
        assert box.x1 <= figure.bbox.width + 1, what
        assert box.y1 <= figure.bbox.height + 1, what
        assert points_of(text) >= (5.5 if "^" in text.get_text() else 6.5), what
    for (one, first), (other, second) in combinations(zip(texts, boxes, strict=True), 2):
        assert not overlap(first, second), (name, one.get_text(), other.get_text())
    heading = figure._suptitle.get_window_extent(renderer)
    for axes in all_axes(figure):
        assert axes.get_tightbbox(renderer).y1 <= heading.y0 + 1, name
        assert axes.bbox.width > 0.02 * figure.dpi, name
        assert axes.bbox.height > 0.02 * figure.dpi, name
        for axis in (axes.xaxis, axes.yaxis):
            assert axis.get_offset_text().get_text() == "", name
        if axes.get_legend() is not None:
            box = axes.get_legend().get_window_extent(renderer)
            assert data_under(axes, box) == [], name
            assert box.y0 >= -1, name
    return renderer


SHAPES = {
    "plain": {"shape": (61, 83)},
    "tall": {"shape": (97, 31), "n": 2},
    "wide, eight, uncalibrated": {"shape": (31, 97), "n": 8, "pixel": None},
    "one column": {"shape": (3, 1), "n": 2, "seeds": 3},
    "one row": {"shape": (1, 3), "n": 2, "seeds": 3},
}


@pytest.mark.parametrize(
    ("shape", "width_mm"),
    [
        *((shape, 85) for shape in SHAPES),
        ("plain", 183),
        *(pytest.param(shape, 183, marks=pytest.mark.long) for shape in ("tall", "wide, eight, uncalibrated")),
    ],
)
def test_every_figure_of_a_map_is_readable_in_one_and_in_two_columns(shape, width_mm):
    made = make(**({"seeds": 50, "channels": 400} | SHAPES[shape]))
    for name, draw in OF_A_MAP.items():
        figure = draw(made, width_mm=width_mm)
        assert figure.get_figwidth() <= width_mm / 25.4 + 1e-9, name
        check_readable(figure, f"{name}, {shape}")


@pytest.mark.parametrize("width_mm", [85, 183])
@pytest.mark.parametrize("name", OF_SIZES)
def test_every_figure_of_sizes_is_readable_in_one_and_in_two_columns(name, width_mm):
    figure = OF_SIZES[name](width_mm=width_mm)
    assert figure.get_figwidth() == pytest.approx(width_mm / 25.4)
    check_readable(figure, name)


@pytest.mark.parametrize("name", ["draw_sum_spectrum", "draw_phase_map", "draw_association", "draw_modal_bars"])
@pytest.mark.parametrize("width_mm", [0, 79, float("nan"), 1000])
def test_a_width_that_no_text_fits_in_is_refused(rock, name, width_mm):
    with pytest.raises(ParameterError, match=r"width_mm: found .*, expected 80 to 500. Fix: width_mm=89"):
        OF_A_MAP[name](rock, width_mm=width_mm)


def test_small_and_large_numbers_are_written_out(rock):
    """Of a map of millions of pixels loadings are of 1e-5: no power of ten may stand somewhere beside an axis."""
    for scale in (1e-5, 1e6):
        nmf = rock.nmf.assign({name: rock.nmf[name] * scale for name in (schema.LOADINGS, schema.FACTORS)})
        check_readable(figures.draw_components(nmf), "draw_components")
        phases = rock.phases.assign({schema.THRESHOLD: rock.phases[schema.THRESHOLD] * scale})
        check_readable(figures.draw_threshold(nmf, phases, component=1), "draw_threshold")
    for factor in (1e-3, 1e3):
        for kind in ("distribution", "area", "quantiles"):
            values = sizes().values * factor
            check_readable(grain_size_statistics(values, resamples=0, precision=factor).plot(kind), kind)


@pytest.mark.parametrize("title", ["cost $5", r"$\frac{ a_b^c \\ {$", "long " * 60, "two\nlines", "地図"])
def test_hostile_titles_are_drawn_as_they_are(title):
    made = make((17, 23), n=2, seeds=9, title=title)
    for figure in (
        figures.draw_sum_spectrum(made.map),
        figures.draw_phase_map(made.phases),
        figures.draw_size_distribution(sizes(title=title, unit="$x")),
    ):
        figures.png(figure)
        heading = figure.get_suptitle()
        assert heading.count("\n") <= 2
        assert schema.text(title)[:5] in heading.replace("\n", " ")


def test_a_title_too_long_for_its_line_gets_lines_of_its_own():
    long = "a granite from the northern quarry, polished section 7"
    narrow = figures.draw_size_distribution(sizes(title=long)).get_suptitle()
    assert narrow.split("\n")[0] == "Size distribution"
    assert " ".join(narrow.split("\n")[1:]) == long
    endless = figures.draw_size_distribution(sizes(title=20 * long)).get_suptitle().split("\n")
    assert len(endless) == 3
    assert endless[-1].endswith("…")
    assert (
        figures.draw_size_distribution(sizes(title=long), width_mm=183).get_suptitle() == f"Size distribution: {long}"
    )


def test_global_style_neither_matters_nor_changes(rock):
    plain = figures.png(figures.draw_phase_spectra(rock.spectra))
    before = dict(mpl.rcParams)
    with mpl.rc_context({"font.size": 30, "xtick.labelsize": 40, "axes.facecolor": "red", "lines.linewidth": 9}):
        assert figures.png(figures.draw_phase_spectra(rock.spectra)) == plain
    assert dict(mpl.rcParams) == before


def test_pyplot_is_not_touched():
    # In an interpreter of its own: here some other test may have imported pyplot.
    code = (
        "import sys; from tests.made_results import make, sizes; from eds_chunked import figures\n"
        "made = make((17, 23), n=2, seeds=9)\n"
        "figures.png(figures.draw_phase_map(made.phases)); figures.png(figures.draw_size_distribution(sizes()))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
        "assert 'exspy' not in sys.modules and 'hyperspy' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_a_figure_shows_itself_in_a_notebook(rock):
    assert figures.draw_scree(rock.pca)._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_save_writes_the_format_of_the_suffix(rock, tmp_path, suffix):
    path = figures.save(figures.draw_scree(rock.pca), tmp_path / f"scree{suffix}")
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"%PDF-", b"<?xml")


def test_save_refuses_a_suffix_that_is_no_format(rock, tmp_path):
    with pytest.raises(ParameterError, match=r"'scree\.doc'.*scree\.png"):
        figures.save(figures.draw_scree(rock.pca), tmp_path / "scree.doc")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_of_another_step_is_refused(rock):
    for draw in (figures.draw_phase_map, figures.draw_scree, figures.draw_components, figures.draw_phase_spectra):
        with pytest.raises(ChunkLayoutError, match="pass the Dataset"):
            draw(rock.grains)


# ---------------------------------------------------------------------------------------------- phase colours


def test_phase_colours_are_the_same_in_all_figures(rock):
    numbers = rock.phases[schema.PHASE].values
    colours = [figures.phase_colour(n) for n in numbers]
    drawn = {name.removeprefix("draw_"): draw(rock) for name, draw in OF_A_MAP.items()}

    handles = drawn["phase_map"].axes[0].get_legend().legend_handles
    assert [to_hex(handle.get_facecolor()) for handle in handles[: len(numbers)]] == colours
    image = drawn["phase_map"].axes[0].images[0].get_array()
    for number, colour in zip(numbers, colours, strict=True):
        inside = image[rock.phases[schema.LABEL].values == number]
        assert np.array_equal(np.unique(inside, axis=0), [np.rint(255 * np.array(to_rgb(colour)))])
    assert [fill_of(axes) for axes in drawn["phase_spectra"].axes] == colours
    beside = [axes.spines["left"] for axes in drawn["components of an NMF"].axes if axes.lines and not axes.images]
    assert [to_hex(spine.get_edgecolor()) for spine in beside] == colours
    assert to_hex(drawn["threshold"].axes[0].patches[0].get_facecolor()) == colours[1]
    assert to_hex(drawn["threshold"].axes[1].images[0].cmap(1.0)) == colours[1]
    assert [to_hex(h.get_facecolor()) for h in drawn["grain_map"].axes[0].get_legend().legend_handles] == colours
    assert [to_hex(bar.get_facecolor()) for bar in drawn["modal_bars"].axes[0].patches[: len(numbers)]] == colours
    marks = [line.get_color() for line in drawn["association"].axes[0].lines]
    assert marks[: 2 * len(numbers) : 2] == colours


def test_phase_colours_differ_for_colour_blind_readers():
    from skimage.color import deltaE_ciede2000, rgb2lab

    # Machado, Oliveira and Fernandes (2009), severity 1: protanopia, deuteranopia; linear RGB.
    blind = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "normal": np.eye(3),
    }
    labels = [*range(1, 13), schema.UNASSIGNED, schema.MIXED]
    rgb = np.array([to_rgb(figures.phase_colour(n)) for n in labels])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for name, matrix in blind.items():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = rgb2lab(seen[None])[0]
        distance = deltaE_ciede2000(lab[:, None], lab[None])
        np.fill_diagonal(distance, np.inf)
        assert distance.min() > 11, (name, np.unravel_index(distance.argmin(), distance.shape))
        # White, what was left out, touches all of them.
        white = deltaE_ciede2000(lab, rgb2lab(np.ones((1, 1, 3)))[0])
        assert white.min() > 9


def test_every_label_has_a_colour_of_its_own_up_to_24_phases():
    labels = (*range(1, 25), schema.UNASSIGNED, schema.MIXED, schema.LEFT_OUT_LABEL)
    assert len({figures.phase_colour(n) for n in labels}) == 27


# ------------------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize(
    ("shape", "pixel", "length", "words"),
    [
        ((61, 83), (8.7, 8.7), 200, "200 µm"),
        ((61, 83), (8.7, 4.1), 100, "100 µm"),
        ((61, 83), None, 20, "20 pixels"),
        ((80, 80), (0.009859, 0.009859), 0.2, "200 nm"),
        ((61, 83), (100.0, 100.0), 2000, "2 mm"),
        ((1601, 31), (2.0, 2.0), 20, "20 µm"),
    ],
)
def test_scale_bar_has_its_length_in_data_units(shape, pixel, length, words):
    made = make(shape, n=2, pixel=pixel, seeds=30)
    figure = figures.draw_phase_map(made.phases)
    [bar] = scale_bars(figure)
    axes = figure.axes[0]
    assert np.ptp(bar.get_xdata()) == pytest.approx(length)
    assert [text.get_text() for text in axes.texts] == [words]
    # The axis it is measured on is as long as the map, and equally long in both directions.
    width, height = (pixel or (1.0, 1.0))[1] * shape[1], (pixel or (1.0, 1.0))[0] * shape[0]
    assert axes.get_xlim() == pytest.approx((0, width))
    assert axes.get_ylim() == pytest.approx((height, 0))
    figures.png(figure)
    ends = bar.get_window_extent()
    assert (ends.x1 - ends.x0) / axes.bbox.width == pytest.approx(length / width, abs=0.02)
    assert axes.bbox.height / axes.bbox.width == pytest.approx(height / width, rel=1e-3)


@given(st.floats(1e-4, 1e7))
def test_bar_lengths_are_round_and_fit(extent):
    length = maps.bar_length(extent)
    digit = length / 10 ** np.floor(np.log10(length * (1 + 1e-9)))
    assert min(abs(digit - step) for step in (1, 2, 5)) < 1e-6
    assert extent / 7.6 < length <= extent / 3 * 1.001


@pytest.mark.parametrize("together", [(1, 1), (2,)])
def test_each_chunk_of_big_maps_is_read_once(together):
    loaded = []

    def block(block_info=None):
        where = block_info[None]["array-location"]
        loaded.append((where[0][0], where[1][0]))
        values = np.arange(1.0 + where[0][0], 1.0 + where[0][1], dtype=np.float32)
        return np.broadcast_to(values[:, None, None], block_info[None]["chunk-shape"]).copy()

    loadings = da.map_blocks(
        block, chunks=(together, (1000, 1000, 1001), (1709,)), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
    )
    nmf = xr.Dataset(
        {
            schema.LOADINGS: ((schema.COMPONENT, schema.Y, schema.X), loadings),
            schema.FACTORS: ((schema.COMPONENT, schema.ENERGY), np.ones((2, 11))),
        },
        coords={schema.ENERGY: np.arange(11.0)},
    )
    figure = figures.draw_components(nmf)
    assert sorted(loaded) == [(first, top) for first in range(len(together)) for top in (0, 1000, 2000)]
    images = [axes.images[0] for axes in figure.axes if axes.images]
    # What is printed 1.45 inches high at 200 dots an inch has 580 pixels or fewer of twice as many dots.
    assert [image.get_array().shape for image in images] == [(501, 285)] * 2
    assert [float(image.get_array().mean()) for image in images] == [1.0, 2.0]
    # Blocks of 6 pixels: the last ones pass the edges of the map.
    assert [image.get_extent() for image in images] == [[0, 1710, 3006, 0]] * 2


def test_block_means_lose_no_row_and_skip_what_is_missing(monkeypatch):
    monkeypatch.setattr(reading, "MOST_PIXELS", 4)
    values = np.arange(77, dtype=np.float64).reshape(7, 11)
    values[0, :4] = np.nan
    values[6, 9] = np.nan
    means = reading.block_means(xr.DataArray(values, dims=(schema.Y, schema.X)))
    assert means.shape == (3, 4)
    for row in range(3):
        for column in range(4):
            block = values[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert means[row, column] == pytest.approx(np.nanmean(block))


def as_labels(array, chunks=None):
    return xr.DataArray(array if chunks is None else da.from_array(array, chunks=chunks), dims=(schema.Y, schema.X))


@settings(deadline=None, max_examples=20)
@given(ragged_chunks((31, 47)), st.sampled_from([5, 9, 16, 47, 100]), st.sampled_from([1, 100, 900]))
def test_reading_in_strips_is_reading_the_whole(chunks, most, strip):
    rng = np.random.default_rng(5)
    label = rng.choice(np.array([0, 1, 2, 3, 255], np.uint8), (31, 47))
    values = rng.normal(size=label.shape).astype(np.float32)
    values[rng.random(label.shape) < 0.4] = np.nan
    analysed = rng.random(label.shape) < 0.7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "MOST_PIXELS", most)
        patch.setattr(reading, "_STRIP_PIXELS", strip)
        n = -(-47 // most)
        for lazy in (None, chunks):
            assert np.array_equal(reading.every_nth(as_labels(label, lazy)), label[::n, ::n])
            phases = xr.Dataset({schema.LABEL: as_labels(label, lazy)})
            phases = phases.assign_coords({schema.ANALYSED_PIXEL: as_labels(analysed, lazy)})
            whole = np.where((label == 0) & ~analysed, schema.LEFT_OUT_LABEL, label.astype(np.int64))
            assert np.array_equal(reading.shown_labels(phases), whole[::n, ::n])
            assert np.array_equal(reading.label_counts(phases), np.bincount(whole.ravel(), minlength=257))
            means = reading.block_means(as_labels(values, lazy))
            both = xr.concat([as_labels(values, lazy), -as_labels(values, lazy)], "component")
            assert np.ma.allequal(reading.block_means(both), np.ma.stack([means, -means]))
            assert reading.block_means(both, most=3).shape == (2, -(-31 // -(-47 // 3)), 3)
            padded = np.full((-(-31 // n) * n, -(-47 // n) * n), np.nan)
            padded[:31, :47] = values
            blocks = padded.reshape(padded.shape[0] // n, n, padded.shape[1] // n, n)
            empty = np.isnan(blocks).all(axis=(1, 3))
            assert np.array_equal(np.ma.getmaskarray(means), empty)
            expected = np.nansum(blocks, axis=(1, 3)) / np.maximum(np.isfinite(blocks).sum(axis=(1, 3)), 1)
            assert np.allclose(means.filled(0), np.where(empty, 0, expected), rtol=1e-12)


SIDE = 10_000


def on_demand(dtype, make_block):
    """A lazy map of 10 000 x 10 000 pixels in the chunks of a store; nothing of it is ever whole."""

    def block(block_info):
        (top, bottom), (left, right) = block_info[None]["array-location"]
        return make_block(np.arange(top, bottom)[:, None], np.arange(left, right)[None]).astype(dtype)

    step = da.core.normalize_chunks((1024, 1024), (SIDE, SIDE))
    return as_labels(da.map_blocks(block, chunks=step, dtype=dtype, meta=np.empty((0, 0), dtype)))


def of_a_grain(y, x):
    return (y // 100) * 100 + x // 100


HUGE = {
    "draw_counts_map": lambda huge: figures.draw_counts_map(huge),
    "draw_phase_map": lambda huge: figures.draw_phase_map(huge),
    "draw_margin_map": lambda huge: figures.draw_margin_map(huge),
    "draw_grain_map": lambda huge: figures.draw_grain_map(huge, huge),
    "draw_grain_boundaries": lambda huge: figures.draw_grain_boundaries(huge, grains=huge),
    "draw_components": lambda huge: figures.draw_components(huge),
    "draw_composite": lambda huge: figures.draw_composite(huge, components=(1, 2, 1)),
    "draw_threshold": lambda huge: figures.draw_threshold(huge, huge, component=2),
    "draw_model_fit": lambda huge: figures.draw_model_fit(huge),
}
# Figures that read no map (y, x), but what has one value a channel, a phase or a grain.
NO_MAPS = {"draw_sum_spectrum", "draw_scree", "draw_phase_spectra", "draw_association", "draw_modal_bars"}


def test_every_figure_of_a_map_is_drawn_of_a_huge_one():
    assert set(HUGE) | NO_MAPS == {name.split()[0] for name in OF_A_MAP}


@pytest.fixture(scope="module")
def huge():
    def labels(y, x):
        return of_a_grain(y, x) % 4

    def mask_of(phase):
        return on_demand(bool, lambda y, x: labels(y, x) == phase)

    def values(y, x):
        return y % 1009 + x % 700

    stacked = {dim: [1, 2] for dim in (schema.PHASE,)}
    loadings = xr.concat([on_demand(np.float32, values), on_demand(np.float32, lambda y, x: values(x, y))], "component")
    spectrum = np.linspace(3, 1, 11)
    return xr.Dataset(
        {
            schema.LABEL: on_demand(np.uint8, labels),
            schema.MARGIN: on_demand(np.float32, lambda y, x: (y % 100) / 100 + 0 * x),
            schema.MASK: xr.concat([mask_of(1), mask_of(2)], schema.PHASE),
            schema.THRESHOLD: ((schema.PHASE,), [900.0, 1000.0]),
            schema.GRAIN_LABEL: on_demand(np.int32, lambda y, x: 1 + of_a_grain(y, x)),
            schema.TOTAL_COUNTS: on_demand(np.uint32, lambda y, x: y + x),
            schema.LOADINGS: loadings.rename(component=schema.COMPONENT),
            schema.FACTORS: ((schema.COMPONENT, schema.ENERGY), np.stack([spectrum, spectrum[::-1]])),
            schema.CHI_SQUARE: on_demand(np.float32, values),
            schema.RESIDUAL: on_demand(np.float32, values),
            schema.CHI_SQUARE_SPECTRUM: ((schema.ENERGY,), spectrum),
            schema.RESIDUAL_SPECTRUM: ((schema.ENERGY,), spectrum),
        },
        coords={schema.ENERGY: np.arange(11.0), **stacked},
    )


SLOW = ("draw_threshold", "draw_components", "draw_grain_boundaries")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.long] if name in SLOW else []) for name in HUGE]
)
def test_a_huge_map_is_drawn_in_little_memory(huge, name):
    """The map has 100 to 800 MB, a row of its chunks at most 41, which is read of all components at once.

    The rest are pictures of 1429 x 1429 pixels.
    """
    figures.png(figures.draw_scree(make((7, 11), n=2, seeds=3).pca))  # what Matplotlib loads once
    tracemalloc.start()
    try:
        figures.png(HUGE[name](huge))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 250e6 + (41e6 if name == "draw_components" else 0)


def test_map_is_upright(monkeypatch):
    monkeypatch.setattr(reading, "MOST_PIXELS", 30)
    label = np.zeros((61, 83), np.uint8)
    label[0, :] = 1
    label[:, 0] = 2
    phases = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), label)})
    image = figures.draw_phase_map(phases).axes[0].images[0]
    colours = style.phase_colours()
    assert image.get_array().shape == (21, 28, 3)
    assert np.array_equal(image.get_array()[0, 1], colours[1])
    assert np.array_equal(image.get_array()[1, 0], colours[2])
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == (0, 84, 63, 0)


def test_phase_map_lists_all_phases_and_what_has_none():
    label = np.array([[1, 1, 1, 0, 255], [1, 1, 3, 0, 255]], np.uint8).repeat(50, axis=0).repeat(100, axis=1)
    label[0, 0] = 2
    phases = xr.Dataset(
        {schema.LABEL: ((schema.Y, schema.X), label), schema.THRESHOLD: ((schema.PHASE,), np.zeros(4))},
        coords={schema.PHASE: [1, 2, 3, 4]},
    )
    assert legend_of(figures.draw_phase_map(phases).axes[0]) == [
        "phase 1  50.0 %",
        "phase 2  < 0.1 %",
        "phase 3  10.0 %",
        "phase 4  0.0 %",
        "mixed  20.0 %",
        "unassigned  20.0 %",
    ]


def test_grains_differ_from_their_neighbours_and_keep_the_hue_of_their_phase():
    import colorsys

    label = np.tile(np.arange(1, 21), (2, 1)).repeat(30, axis=0).repeat(30, axis=1)
    grains = xr.Dataset({schema.GRAIN_LABEL: ((schema.Y, schema.X), label)})
    phase = np.where(label % 2, 1, 3).astype(np.uint8)
    phases = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), phase)})
    image = figures.draw_grain_map(grains, phases).axes[0].images[0].get_array()
    n = image.shape[1] // 600
    middle = image[15 * n, 15 * n :: 30 * n].astype(int)
    assert len(np.unique(middle, axis=0)) == 20
    for index, colour in enumerate(middle):
        hue = colorsys.rgb_to_hsv(*(colour / 255))[0]
        assert hue == pytest.approx(
            colorsys.rgb_to_hsv(*to_rgb(figures.phase_colour(1 if index % 2 == 0 else 3)))[0], abs=0.02
        )
    assert np.all(image[15 * n, 30 * n - 1] == image[15 * n, 60 * n - 1])
    assert np.all(image[15 * n, 30 * n - 1] < 60)
    dark = (image.max(axis=-1) < 60).mean()
    assert 0 < dark < 0.05


def test_phases_go_by_their_names_and_left_out_pixels_are_listed(rock):
    named = reduced_phases(rock)
    legend = legend_of(figures.draw_phase_map(named).axes[0])
    assert [text.rsplit("  ", 1)[0] for text in legend] == [
        "alkali feldspar and\nplagioclase",
        "cost $5",
        "phase 3",
        "phase 4",
        "mixed",
        "unassigned",
        "left out",
    ]
    shares = [float(text.rsplit("  ", 1)[1].removeprefix("< ").removesuffix(" %")) for text in legend]
    assert shares[:-1] == [
        pytest.approx(part, abs=0.051) for part in modal_table(named)["area_percent"].iloc[[0, 1, 2, 3, 5, 4]]
    ]
    assert legend[-1] == "left out  < 0.1 %"
    image = figures.draw_phase_map(named).axes[0].images[0].get_array()
    assert np.array_equal(image[-1, -1], [255, 255, 255])
    grains = figures.draw_grain_map(rock.grains, named)
    assert legend_of(grains.axes[0])[:2] == ["alkali feldspar and\nplagioclase", "cost $5"]
    spectra = rock.spectra.assign_attrs({schema.PHASE_NAMES: {"2": "cost $5"}})
    texts = [text.get_text() for axes in figures.draw_phase_spectra(spectra).axes for text in axes.texts]
    assert [text.split("  ")[0] for text in texts if "pixels" in text] == ["phase 1", "cost $5", "phase 3", "phase 4"]
    title = figures.draw_threshold(rock.nmf, named, component=2).get_suptitle()
    assert title.startswith("Cost $5 from its loading map")
    assert [tick.get_text() for tick in figures.draw_modal_bars(modal_table(named)).axes[0].get_yticklabels()] == [
        "alkali feldspar and\nplagioclase",
        "cost $5",
        "phase 3",
        "phase 4",
        "unassigned",
        "mixed",
        "left out",
    ]


LONG = "alkali feldspar, perthitic, with inclusions of hematite"


@pytest.mark.parametrize("width_mm", [85, 183])
def test_long_names_are_read_whole(width_mm):
    made = make((61, 83), seeds=50, channels=400)
    names = {str(number): f"{LONG} {number}" for number in range(1, 5)}
    phases, spectra = (ds.assign_attrs({schema.PHASE_NAMES: names}) for ds in (reduced_phases(made), made.spectra))
    drawn = {
        "phase map": figures.draw_phase_map(phases, width_mm=width_mm),
        "grain map": figures.draw_grain_map(made.grains, phases, width_mm=width_mm),
        "bars": figures.draw_modal_bars(modal_table(phases), title=TITLE, width_mm=width_mm),
        "spectra": figures.draw_phase_spectra(spectra, width_mm=width_mm),
        "threshold": figures.draw_threshold(made.nmf, phases, component=2, width_mm=width_mm),
        "association": figures.draw_association(association(phases), width_mm=width_mm),
    }
    for name, figure in drawn.items():
        check_readable(figure, name)
        words = " ".join(text.get_text() for text in texts_on(figure)).replace("\n", " ")
        # The cells of a heat map have room for three short lines, or in one column for one.
        begins = {85: "alkali feldspar…", 183: "alkali feldspar, perthitic, with inclusions of…"}[width_mm]
        assert (begins if name == "association" else f"{LONG[1:]} 2") in words, name


def test_merged_components_have_the_colour_of_their_phase(rock):
    phase_of = {1: 1, 2: 2, 3: 1, 4: 3}
    colours = [figures.phase_colour(phase) for phase in (1, 2, 1, 3)]
    drawn = figures.draw_components(rock.nmf, phase_of=phase_of)
    spectra = [axes for axes in drawn.axes if axes.lines and not axes.images]
    assert [to_hex(axes.spines["left"].get_edgecolor()) for axes in spectra] == colours
    cut = figures.draw_threshold(rock.nmf, rock.phases, component=3, phase_of=phase_of)
    assert to_hex(cut.axes[0].patches[0].get_facecolor()) == colours[2]
    assert cut.get_suptitle().startswith("Component 3 from its loading map")


def test_margin_map_shows_the_margin_and_where_mixed_begins(rock):
    phases = reduced_phases(rock)
    figure = figures.draw_margin_map(phases)
    axes, bar = figure.axes
    assert np.array_equal(axes.images[0].get_array(), phases[schema.MARGIN])
    assert axes.images[0].get_clim() == (0, 1)
    assert [list(line.get_ydata()) for line in bar.lines] == [[0.2, 0.2]] * 2
    assert legend_of(axes) == ["mixed under 0.2"]
    plain = figures.draw_margin_map(phases.drop_attrs())
    assert plain.axes[0].get_legend() is None
    with pytest.raises(ChunkLayoutError, match="margin"):
        figures.draw_margin_map(rock.phases)


def test_composite_scales_three_components_into_red_green_and_blue(rock):
    pca = rock.pca.copy(deep=True)
    pca[schema.LOADINGS][3, 5, 7] = np.nan
    figure = figures.draw_composite(pca, components=(4, 1, 2))
    picture = figure.axes[0].images[0].get_array()
    assert picture.shape == (61, 83, 3)
    for channel, number in enumerate((4, 1, 2)):
        loading = pca[schema.LOADINGS].values[number - 1]
        low, high = np.nanquantile(loading, (0.005, 0.995))
        expected = np.round(255 * np.clip((loading - low) / (high - low), 0, 1))
        known = np.isfinite(pca[schema.LOADINGS].values[3])
        assert np.abs(picture[..., channel][known] - expected[known]).max() <= 1
    assert to_hex(picture[5, 7] / 255) == figures.phase_colour(schema.UNASSIGNED)
    ratio = 100 * float(pca[schema.EXPLAINED_VARIANCE_RATIO][3])
    assert legend_of(figure.axes[0])[0] == f"red: component 4 ({ratio:.2g} % of variance)"
    assert legend_of(figures.draw_composite(rock.nmf).axes[0])[0] == "red: component 1"
    for wrong in ((1, 2), (0, 1, 2), (1, 2, 5)):
        with pytest.raises(ParameterError, match="three numbers of 1 to 4"):
            figures.draw_composite(pca, components=wrong)


def within(mask, far):
    """Pixels at most ``far`` from the border of a mask along a row or a column."""
    bars = [np.ones((1, 2 * far + 1)), np.ones((2 * far + 1, 1))]
    outside = np.any([binary_dilation(mask, bar) for bar in bars], axis=0)
    return outside & ~np.all([binary_erosion(mask, bar) for bar in bars], axis=0)


def test_grain_boundaries_are_bright_lines_over_the_counts():
    label = np.ones((60, 90), np.int32)
    label[20:40, 30:60] = 2
    label[25:30, 70:75] = 0
    counts = np.add.outer(np.arange(60), np.arange(90)).astype(np.uint32)
    axes = (schema.Y, schema.X)
    ds = xr.Dataset({schema.TOTAL_COUNTS: (axes, counts)})
    grains = xr.Dataset(
        {
            schema.GRAIN_LABEL: (axes, label),
            schema.GRAIN_ID: (schema.GRAIN, [1, 2]),
            schema.TOUCHES_EDGE: (schema.GRAIN, [True, False]),
        }
    )
    figure = figures.draw_grain_boundaries(ds, grains=grains)
    picture = figure.axes[0].images[0].get_array().astype(int)
    n = picture.shape[0] // 60
    yellow, blue = ((picture == colour).all(axis=-1) for colour in ((240, 228, 66), (86, 180, 233)))
    line = 1 + n // 6
    # Around the whole grain yellow on both sides, around the hole in the cut grain blue.
    frame = np.zeros(label.shape, bool)
    frame[20:40, 30:60] = True
    frame = frame.repeat(n, 0).repeat(n, 1)
    assert yellow.any()
    assert np.array_equal(yellow, within(frame, line))
    assert np.array_equal(blue, within((label == 0).repeat(n, 0).repeat(n, 1), line))
    # Under the lines the counts: darker at the upper left, no brighter than half.
    grey = picture[~yellow & ~blue]
    assert np.ptp(grey, axis=1).max() == 0
    assert picture[3, 3, 0] < picture[-3, -3, 0] <= 128
    assert legend_of(figure.axes[0]) == ["whole grains", "cut by the map's edge"]
    bare = figures.draw_grain_boundaries(ds, grains=grains[[schema.GRAIN_LABEL]])
    assert legend_of(bare.axes[0]) == ["whole grains"]
    with pytest.raises(ChunkLayoutError, match="59 x 90 pixels, expected the 60 x 90 pixels of the grains"):
        figures.draw_grain_boundaries(ds.isel({schema.Y: slice(1, None)}), grains=grains)


def test_grains_of_overlapping_masks_are_drawn_a_phase_at_a_time():
    y, x = np.mgrid[:40, :70]
    discs = [(y - 20) ** 2 + (x - at) ** 2 <= 15**2 for at in (20, 35)]
    phases = xr.Dataset(
        {
            schema.MASK: ((schema.PHASE, schema.Y, schema.X), np.stack(discs)),
            schema.LABEL: ((schema.Y, schema.X), np.where(discs[0], 1, 2 * discs[1]).astype(np.uint8)),
        },
        coords={schema.PHASE: [1, 2]},
    )
    of_masks = separate_grains(phases, source="mask", min_size=0)
    assert of_masks[schema.GRAIN_LABEL].ndim == 3
    for phase, disc in enumerate(discs, start=1):
        axes = figures.draw_grain_map(of_masks, phases, phase=phase).axes[0]
        picture = axes.images[0].get_array()
        n = picture.shape[0] // 40
        grey = (picture == np.rint(255 * np.array(to_rgb(figures.phase_colour(0))))).all(axis=-1)
        assert np.array_equal(~grey[n // 2 :: n, n // 2 :: n], disc)
        assert legend_of(axes) == [f"phase {phase}"]
        figures.draw_grain_boundaries(counted_like(disc), grains=of_masks, phase=phase)
    for wrong in (None, 0, 3):
        with pytest.raises(ParameterError, match=r"phase: found .*, expected one of 1 to 2, since grains of masks"):
            figures.draw_grain_map(of_masks, phases, phase=wrong)
    exclusive = separate_grains(phases, min_size=0)
    picture = figures.draw_grain_map(exclusive, phases, phase=2).axes[0].images[0].get_array()
    grey = (picture == np.rint(255 * np.array(to_rgb(figures.phase_colour(0))))).all(axis=-1)
    assert np.array_equal(~grey[n // 2 :: n, n // 2 :: n], phases[schema.LABEL].values == 2)
    with pytest.raises(ParameterError, match="expected one of 1 to 2"):
        figures.draw_grain_map(exclusive, phases, phase=3)


def counted_like(mask):
    return xr.Dataset({schema.TOTAL_COUNTS: ((schema.Y, schema.X), mask.astype(np.uint32))})


def test_modal_bars_have_the_areas_and_their_intervals(rock):
    table = modal_table(rock.phases)
    axes = figures.draw_modal_bars(table, title="rock").axes[0]
    assert [bar.get_width() for bar in axes.patches] == list(table["area_percent"])
    whiskers = axes.collections[0].get_segments()
    assert np.allclose([segment[:, 0] for segment in whiskers], table[["area_percent_low", "area_percent_high"]])
    assert [text.get_text() for text in axes.texts] == [f"{percent:.1f} %" for percent in table["area_percent"]]
    small = modal_table(rock.phases, blocks=1)
    assert small["area_percent_low"].isna().all()
    axes = figures.draw_modal_bars(small).axes[0]
    assert axes.get_xlabel() == "area / %"
    assert not axes.collections


@pytest.mark.parametrize("width_mm", [85, 183])
def test_numbers_of_an_association_stand_out_from_their_cells(rock, width_mm):
    figure = figures.draw_association(association(rock.phases), width_mm=width_mm)
    image = figure.axes[0].images[0]
    matrix = association(rock.phases).matrix().to_numpy()
    numbers = figure.axes[0].texts
    assert len(numbers) == 6 * 5
    for text in numbers:
        column, row = text.get_position()
        said = text.get_text()
        if said not in ("-", "<1", "<0.1"):
            assert float(said) == pytest.approx(matrix[int(row), int(column)], abs=0.051 if "." in said else 0.51)
        ground = image.cmap(image.norm(matrix[int(row), int(column)]))
        light, dark = sorted((luminance(to_rgb(text.get_color())), luminance(ground[:3])), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5, said


def luminance(rgb):
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in rgb]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_model_fit_is_not_flattened_by_channels_of_no_counts(rock):
    axes = next(axes for axes in figures.draw_model_fit(fit_of(rock)).axes if axes.get_ylabel() == "chi-square")
    assert axes.get_ylim()[1] < 4
    assert "(1 channel goes beyond the axis)" in axes.get_xlabel()
    even = fit_of(rock)
    even[schema.CHI_SQUARE_SPECTRUM][:] = 1.0
    axes = next(axes for axes in figures.draw_model_fit(even).axes if axes.get_ylabel() == "chi-square")
    assert "beyond" not in axes.get_xlabel()


def test_model_fit_says_that_a_map_of_residuals_is_empty(rock):
    fit = fit_of(rock)
    titles = [axes.get_title(loc="left") for axes in figures.draw_model_fit(fit).axes]
    assert "residual, counts" in titles
    fit[schema.RESIDUAL] = 0.001 * fit[schema.RESIDUAL]
    titles = [axes.get_title(loc="left") for axes in figures.draw_model_fit(fit).axes]
    assert "residual, counts: all under 0.5" in titles


# ---------------------------------------------------------------------------------------------------- spectra


def test_line_energies_and_names_are_right():
    found = {line.label: line for line in xray_lines.lines_between([*ELEMENTS, "Pb", "Ba", "Xx", "Li", "Am"], -0.2, 12)}
    for element, energy in PEAKS.items():
        assert found[f"{element} K{A}"].energy == pytest.approx(energy, abs=0.002)
    assert found[f"Pb M{A}"].energy == pytest.approx(2.346, abs=0.002)
    assert found[f"Ba L{A}"].main
    assert found[f"Pb L{A}"].main
    assert not found[f"Fe L{A}"].main
    # The detector cannot resolve these from their main line, and these are not there at 12 keV.
    assert not {f"Al K{B}", f"Na K{B}", f"Si K{B}", f"Pb K{A}"} & set(found)
    assert not any(label.startswith(("Xx", "Li", "Am")) for label in found)


@given(
    st.lists(st.floats(0, 10), max_size=30).map(sorted),
    st.floats(0.01, 0.3),
)
def test_labels_are_spread_in_order_within_the_axis(wanted, pitch):
    where = xray_lines.spread(wanted, pitch=pitch, low=0, high=10)
    assert len(where) == len(wanted)
    assert np.all(np.diff(where) >= pitch * (1 - 1e-6))
    assert np.all((where >= -1e-9) & (where <= 10 + 1e-9))
    if np.all(np.diff(wanted) >= pitch) and len(wanted):
        assert np.allclose(where, wanted)


def test_line_labels_do_not_overlap_each_other_nor_the_title():
    made = make((31, 43), n=2, seeds=20)
    many = made.map.assign_attrs(
        {schema.ELEMENTS: [*ELEMENTS, "Mn", "Cr", "Ni", "Cu", "Zn", "S", "Ba", "Zr", "Ce", "F", "C", "Sr"]}
    )
    figure = figures.draw_sum_spectrum(many)
    renderer = drawn_on(figure)
    labels = line_labels(figure.axes[0])
    assert {label.get_text().split()[0] for label in labels} == set(many.attrs[schema.ELEMENTS])
    boxes = sorted((mpl.text.Text.get_window_extent(label, renderer) for label in labels), key=lambda box: box.x0)
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(boxes))
    title = figure._suptitle.get_window_extent(renderer)
    assert max(box.y1 for box in boxes) < title.y0
    assert all(box.y0 > figure.axes[0].bbox.y1 for box in boxes)


def test_sum_spectrum_shows_both_spectra_up_to_the_beam_energy(rock):
    figure = figures.draw_sum_spectrum(rock.map)
    upper, lower = figure.axes
    assert upper.get_yscale() == lower.get_yscale() == "log"
    total = rock.map[schema.SUM_SPECTRUM].values
    assert np.array_equal(upper.lines[0].get_ydata()[total > 0], total[total > 0])
    largest = rock.map[schema.MAX_SPECTRUM].values
    assert np.array_equal(lower.lines[0].get_ydata()[largest > 0], largest[largest > 0])
    assert {label.get_text()[:-3] for label in line_labels(upper)} == set(ELEMENTS)
    near = figures.draw_sum_spectrum(rock.map.assign_attrs({schema.BEAM_ENERGY: 5.0}))
    assert near.axes[0].get_xlim()[1] == 5.0
    assert not any("Fe K" in label.get_text() for label in line_labels(near.axes[0]))


def test_uncalibrated_energies_get_no_lines(rock):
    energy = xr.Variable(schema.ENERGY, np.arange(600.0), {"units": schema.CHANNEL})
    figure = figures.draw_sum_spectrum(rock.map.assign_coords({schema.ENERGY: energy}))
    assert line_labels(figure.axes[0]) == []
    assert figure.axes[1].get_xlabel() == schema.CHANNEL


def test_phase_spectra_are_counts_per_pixel_and_an_empty_phase_keeps_its_place(rock):
    spectra = rock.spectra.copy(deep=True)
    spectra[schema.SPECTRUM][2] = 0
    spectra[schema.N_PIXELS][2] = 0
    figure = figures.draw_phase_spectra(spectra)
    figures.png(figure)
    assert len(figure.axes) == 4
    pixels = spectra[schema.N_PIXELS].values
    expected = spectra[schema.SPECTRUM].values[1] / pixels[1]
    shown = figure.axes[1].lines[0].get_ydata()
    assert np.allclose(shown[expected > 0], expected[expected > 0])
    assert figure.axes[2].texts[-1].get_text() == "phase 3  (no pixels)"
    assert figure.axes[1].texts[-1].get_text() == f"phase 2  ({pixels[1]:,} pixels)"


def test_all_zero_spectra_are_drawn(rock):
    zero = rock.map.copy(deep=True)
    zero[schema.SUM_SPECTRUM][:] = 0
    zero[schema.MAX_SPECTRUM][:] = 0
    figures.png(figures.draw_sum_spectrum(zero))
    empty = rock.spectra.copy(deep=True)
    empty[schema.SPECTRUM][:] = 0
    empty[schema.N_PIXELS][:] = 0
    figures.png(figures.draw_phase_spectra(empty))


# ------------------------------------------------------------------------------------- scree, components, mask


def test_scree_has_both_scales_and_marks_the_noise_edge(rock):
    linear, logarithmic = figures.draw_scree(rock.pca, advised=3).axes
    assert (linear.get_yscale(), logarithmic.get_yscale()) == ("linear", "log")
    ratio = rock.pca[schema.EXPLAINED_VARIANCE_RATIO].values
    eigenvalues = rock.pca[schema.EIGENVALUES].values
    for axes in (linear, logarithmic):
        drawn = {line.get_label(): line for line in axes.lines}
        assert np.array_equal(drawn["components"].get_ydata(), ratio)
        others = drawn["all other eigenvalues"]
        assert np.allclose(others.get_ydata(), eigenvalues[4:] / eigenvalues.sum())
        assert others.get_xdata()[0] == 5
        edge = int((rock.pca[schema.NOISE_RATIO].values > 1).sum())
        assert list(drawn[f"noise edge: {edge} above"].get_xdata()) == [edge + 0.5] * 2
        assert list(drawn["advised: 3"].get_xdata()) == [3]
    assert len(legend_of(linear)) == 4


def test_scree_without_eigenvalues_and_advice(rock):
    bare = rock.pca.drop_vars([schema.EIGENVALUES, schema.NOISE_RATIO])
    figure = figures.draw_scree(bare)
    figures.png(figure)
    assert legend_of(figure.axes[0]) == ["components"]


@pytest.mark.parametrize("n", [1, 2, 7, 8])
def test_components_have_a_map_and_a_spectrum_each(n):
    made = make((31, 43), n=n, seeds=40)
    figure = figures.draw_components(made.nmf)
    with_image = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in with_image] == [f"component {i}" for i in range(1, n + 1)]
    assert len([axes for axes in figure.axes if axes.lines and not axes.images]) == n
    assert 1 <= len(scale_bars(figure)) <= 2


def test_signed_loadings_are_drawn_around_zero(rock):
    images = [axes.images[0] for axes in figures.draw_components(rock.pca).axes if axes.images]
    assert images[0].get_clim()[0] == 0
    low, high = images[1].get_clim()
    assert low == -high


def test_missing_and_constant_loadings_are_drawn(rock):
    nmf = rock.nmf.copy(deep=True)
    nmf[schema.LOADINGS][0] = np.nan
    nmf[schema.LOADINGS][1] = 0
    nmf[schema.LOADINGS][2, :5] = np.nan
    figures.png(figures.draw_components(nmf))


def test_threshold_shows_the_cut_and_both_masks(rock):
    figure = figures.draw_threshold(rock.nmf, rock.phases, component=3)
    histogram, before, after = figure.axes
    loading = rock.nmf[schema.LOADINGS].values[2]
    threshold = rock.phases[schema.THRESHOLD].values[2]
    assert list(histogram.lines[0].get_xdata()) == [threshold, threshold]
    assert histogram.get_title(loc="left") == f"threshold {threshold:.4g} (dashed)"
    assert sum(patch.get_height() for patch in histogram.patches) == loading.size
    assert np.array_equal(before.images[0].get_array(), loading >= threshold)
    assert np.array_equal(after.images[0].get_array(), rock.phases[schema.MASK].values[2])
    share = 100 * (loading >= threshold).mean()
    assert before.get_title(loc="left") == f"before cleaning: {share:.1f} %"
    assert histogram.get_ylabel() == "pixels"


def test_threshold_of_a_large_map_says_what_its_histogram_is_of(rock, monkeypatch):
    monkeypatch.setattr(reading, "MOST_PIXELS", 30)
    histogram, before, _ = figures.draw_threshold(rock.nmf, rock.phases, component=3).axes
    loading = rock.nmf[schema.LOADINGS].values[2]
    assert sum(patch.get_height() for patch in histogram.patches) == loading[::3, ::3].size
    assert histogram.get_ylabel() == "pixels, one of 9"
    # The share is of all pixels.
    share = 100 * (loading >= rock.phases[schema.THRESHOLD].values[2]).mean()
    assert before.get_title(loc="left") == f"before cleaning: {share:.1f} %"


def test_threshold_compares_in_double_precision(rock):
    nmf, phases = rock.nmf.copy(deep=True), rock.phases.copy(deep=True)
    nmf[schema.LOADINGS][0] = np.float32(0.1)
    phases[schema.THRESHOLD][0] = float(np.float32(0.1)) + 1e-9
    before = figures.draw_threshold(nmf, phases, component=1).axes[1]
    assert not before.images[0].get_array().any()


@pytest.mark.parametrize("component", [0, 5, -1])
def test_threshold_of_no_component_is_refused(rock, component):
    with pytest.raises(ParameterError, match=rf"component: found {component}, expected one of \[1, 2, 3, 4\]"):
        figures.draw_threshold(rock.nmf, rock.phases, component=component)


# ------------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize(("scale", "axis"), [("linear", "linear"), ("log", "log")])
def test_size_distribution_shows_all_averages(scale, axis):
    stats = sizes(scale)
    figure = figures.draw_size_distribution(stats)
    [axes] = figure.axes
    assert axes.get_xscale() == axis
    lines = {line.get_label().split("  ")[0]: line for line in axes.lines}
    assert lines["mean"].get_xdata()[0] == stats.arithmetic_mean
    assert lines["median"].get_xdata()[0] == stats.median
    assert lines["geometric mean"].get_xdata()[0] == stats.geometric_mean
    assert lines["KDE peak"].get_xdata()[0] == stats.kde_mode
    assert np.array_equal(lines["density estimate (KDE)"].get_ydata(), stats.kde_density)
    assert [bar.get_height() for bar in axes.patches] == list(stats.bin_density)
    assert [bar.get_x() for bar in axes.patches] == list(stats.bin_edges[:-1])
    assert axes.get_legend().get_title().get_text() == "n = 500"
    assert len(legend_of(axes)) == 6
    low, high = axes.get_xlim()
    assert low <= stats.values.min()
    assert stats.values.max() <= high


def test_sizes_without_a_density_are_drawn():
    from dataclasses import replace

    none = np.empty(0)
    figure = figures.draw_size_distribution(replace(sizes(), kde_grid=none, kde_density=none))
    figures.png(figure)
    assert len(legend_of(figure.axes[0])) == 5


def test_no_warning_is_silenced_for_the_caller(rock):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figures.png(figures.draw_sum_spectrum(rock.map))
        warnings.warn("mine", UserWarning, stacklevel=1)
    assert [str(w.message) for w in caught] == ["mine"]
