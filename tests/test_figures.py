import subprocess
import sys
import warnings
from itertools import pairwise

import dask.array as da
import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex, to_rgb

from eds_chunked import figures, schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.figures import maps, style, xray_lines
from tests.made_results import ELEMENTS, PEAKS, make, sizes

A, B = "\N{GREEK SMALL LETTER ALPHA}", "\N{GREEK SMALL LETTER BETA}"


@pytest.fixture(scope="module")
def rock():
    return make((61, 83), seeds=50)


def draw_all(made):
    return {
        "sum": figures.draw_sum_spectrum(made.map),
        "scree": figures.draw_scree(made.pca, advised=2),
        "pca": figures.draw_components(made.pca),
        "nmf": figures.draw_components(made.nmf),
        "threshold": figures.draw_threshold(made.nmf, made.phases, component=2),
        "phases": figures.draw_phase_map(made.phases),
        "spectra": figures.draw_phase_spectra(made.spectra),
        "grains": figures.draw_grain_map(made.grains, made.phases),
        "grains alone": figures.draw_grain_map(made.grains),
        "sizes": figures.draw_size_distribution(sizes()),
    }


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


@pytest.mark.parametrize(
    "options",
    [
        {"shape": (61, 83)},
        {"shape": (97, 31), "n": 2},
        {"shape": (31, 97), "n": 8, "pixel": None},
        {"shape": (3, 1), "n": 2, "seeds": 3},
        {"shape": (1, 3), "n": 2, "seeds": 3},
    ],
    ids=["plain", "tall", "wide, eight, uncalibrated", "one column", "one row"],
)
def test_every_figure_draws_without_warning_and_with_all_words_on_the_page(options):
    made = make(**({"seeds": 50} | options))
    for name, figure in draw_all(made).items():
        renderer = drawn_on(figure)
        heading = figure._suptitle.get_window_extent(renderer)
        for box in (heading, *(axes.get_tightbbox(renderer) for axes in figure.axes)):
            assert box.x0 >= -1, name
            assert box.y0 >= -1, name
            assert box.x1 <= figure.bbox.width + 1, name
            assert box.y1 <= figure.bbox.height + 1, name
        for axes in figure.axes:
            assert axes.get_tightbbox(renderer).y1 <= heading.y0 + 1, name
            assert axes.bbox.width > 0.02 * figure.dpi, name


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
        assert "\n" not in heading
        assert schema.text(title)[:5] in heading


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
    drawn = draw_all(rock)

    handles = drawn["phases"].axes[0].get_legend().legend_handles
    assert [to_hex(handle.get_facecolor()) for handle in handles[: len(numbers)]] == colours
    image = drawn["phases"].axes[0].images[0].get_array()
    for number, colour in zip(numbers, colours, strict=True):
        inside = image[rock.phases[schema.LABEL].values == number]
        assert np.array_equal(np.unique(inside, axis=0), [np.rint(255 * np.array(to_rgb(colour)))])
    assert [fill_of(axes) for axes in drawn["spectra"].axes] == colours
    beside = [axes.spines["left"] for axes in drawn["nmf"].axes if axes.lines and not axes.images]
    assert [to_hex(spine.get_edgecolor()) for spine in beside] == colours
    assert to_hex(drawn["threshold"].axes[0].patches[0].get_facecolor()) == colours[1]
    assert to_hex(drawn["threshold"].axes[1].images[0].cmap(1.0)) == colours[1]
    assert [to_hex(h.get_facecolor()) for h in drawn["grains"].axes[0].get_legend().legend_handles] == colours


def test_phase_colours_differ_for_colour_blind_readers():
    from skimage.color import deltaE_ciede2000, rgb2lab

    # Machado, Oliveira and Fernandes (2009), severity 1: protanopia, deuteranopia; linear RGB.
    blind = {
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
        "normal": np.eye(3),
    }
    labels = [*range(1, 8), schema.UNASSIGNED, schema.MIXED]
    rgb = np.array([to_rgb(figures.phase_colour(n)) for n in labels])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    for name, matrix in blind.items():
        seen = np.clip(linear @ np.array(matrix).T, 0, 1)
        seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
        lab = rgb2lab(seen[None])[0]
        distance = deltaE_ciede2000(lab[:, None], lab[None])
        np.fill_diagonal(distance, np.inf)
        assert distance.min() > 11, (name, np.unravel_index(distance.argmin(), distance.shape))


def test_every_label_has_a_colour_of_its_own_up_to_24_phases():
    assert len({figures.phase_colour(n) for n in (*range(1, 25), schema.UNASSIGNED, schema.MIXED)}) == 26


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


def test_big_maps_are_reduced_one_component_at_a_time():
    loaded = []

    def block(block_info=None):
        where = block_info[None]["array-location"]
        loaded.append(where[0][0])
        return np.full(block_info[None]["chunk-shape"], 1.0 + where[0][0], dtype=np.float32)

    loadings = da.map_blocks(
        block, chunks=((1, 1), (1000, 1000, 1001), (1709,)), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
    )
    nmf = xr.Dataset(
        {
            schema.LOADINGS: ((schema.COMPONENT, schema.Y, schema.X), loadings),
            schema.FACTORS: ((schema.COMPONENT, schema.ENERGY), np.ones((2, 11))),
        },
        coords={schema.ENERGY: np.arange(11.0)},
    )
    figure = figures.draw_components(nmf)
    assert sorted(loaded) == [0, 0, 0, 1, 1, 1]
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert [image.get_array().shape for image in images] == [(1001, 570)] * 2
    assert [float(image.get_array().mean()) for image in images] == [1.0, 2.0]


def test_block_means_lose_no_row_and_skip_what_is_missing(monkeypatch):
    monkeypatch.setattr(maps, "MOST_PIXELS", 4)
    values = np.arange(77, dtype=np.float64).reshape(7, 11)
    values[0, :4] = np.nan
    values[6, 9] = np.nan
    means = maps.block_means(xr.DataArray(values, dims=(schema.Y, schema.X)))
    assert means.shape == (3, 4)
    for row in range(3):
        for column in range(4):
            block = values[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
            assert means[row, column] == pytest.approx(np.nanmean(block))


def test_map_is_upright(monkeypatch):
    monkeypatch.setattr(maps, "MOST_PIXELS", 30)
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
    assert sum(patch.get_height() for patch in histogram.patches) == loading.size
    assert np.array_equal(before.images[0].get_array(), loading >= threshold)
    assert np.array_equal(after.images[0].get_array(), rock.phases[schema.MASK].values[2])
    share = 100 * (loading >= threshold).mean()
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
