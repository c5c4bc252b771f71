"""Size statistics against published figures of real grains, SciPy, and simulated coverage."""

import json
import re
import warnings

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from scipy import stats as scipy_stats

from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import ParameterError
from eds_chunked.grains import intervals
from eds_chunked.grains.lognormality import normal_quantiles
from eds_chunked.grains.split import separate_grains
from eds_chunked.grains.statistics import FewGrainsWarning, GrainSizeStatistics, compare_phases, grain_size_statistics
from tests.real_data import real_data


@pytest.fixture(scope="module")
def real():
    """Diameters of 2661 grains in um."""
    area = pd.read_csv(real_data("grains_areas_2661.txt"), sep="\t")["Area"].to_numpy()
    return 2 * np.sqrt(area / np.pi)


@pytest.fixture(scope="module")
def toy():
    # The published figures are of the legacy generator with this seed.
    return np.random.RandomState(1).lognormal(np.log(20), np.log(1.5), 500)


def interval(statistics, measure, method):
    (found,) = [i for i in statistics.confidence_intervals if i.measure == measure and i.method.startswith(method)]
    return found.low, found.high


@pytest.mark.parametrize(
    ("name", "expected", "digits"),
    [
        ("n", 2661, 0),
        ("arithmetic_mean", 34.786, 3),
        ("geometric_mean", 30.103, 3),
        ("median", 31.529, 3),
        ("d50", 31.529, 3),
        ("rms_mean", 39.313, 3),
        ("sd_ddof0", 18.315, 3),
        ("sd_ddof1", 18.319, 3),
        ("iqr", 23.983, 3),
        ("multiplicative_sd", 1.752, 3),
        ("area_weighted_mean", 53.883, 3),
        ("minimum", 3.192, 3),
        ("maximum", 156.596, 3),
        ("n_bins", 45, 0),
        ("bin_width", 3.409, 3),
        ("bandwidth", 4.01, 2),
    ],
)
def test_golden_numbers_of_real_grains(real, name, expected, digits):
    assert round(getattr(grain_size_statistics(real), name), digits) == expected


@pytest.mark.parametrize(
    ("measure", "method", "expected"),
    [
        ("arithmetic mean", "CLT", (34.089, 35.482)),
        ("arithmetic mean", "modified Cox", (34.429, 36.045)),
        ("geometric mean", "CLT", (29.468, 30.752)),
        ("median", "binomial", (30.840, 32.708)),
        ("median", "rule of thumb", (30.840, 32.810)),
    ],
)
def test_golden_intervals_of_real_grains(real, measure, method, expected):
    found = interval(grain_size_statistics(real), measure, method)
    assert found == pytest.approx(expected, abs=6e-4)


def test_golden_modes_of_real_grains(real):
    by_rule, fine = grain_size_statistics(real), grain_size_statistics(real, bins=0.1)
    assert by_rule.modal_interval == pytest.approx((16.83, 20.24), abs=0.005)
    assert fine.n_bins == 1535
    assert fine.modal_interval == pytest.approx((30.09, 30.19), abs=0.005)
    assert by_rule.kde_mode == pytest.approx(24.306, abs=0.05)
    assert np.diff(by_rule.kde_grid).max() <= 0.1
    given = grain_size_statistics(real, precision=0.1)
    assert given.kde_mode == pytest.approx(24.306, abs=0.05)
    assert given.precision == pytest.approx(0.1, rel=1e-3)
    assert (by_rule.bin_rule, by_rule.bandwidth_rule, fine.bin_rule) == ("numpy auto", "silverman", "given width")


@pytest.mark.parametrize(
    ("name", "expected", "digits"),
    [
        ("arithmetic_mean", 22.130, 3),
        ("geometric_mean", 20.438, 3),
        ("median", 20.317, 3),
        ("sd_ddof0", 9.072, 3),
        ("iqr", 11.439, 3),
        ("multiplicative_sd", 1.494, 3),
    ],
)
def test_golden_numbers_of_the_toy(toy, name, expected, digits):
    assert getattr(grain_size_statistics(toy), name) == pytest.approx(expected, abs=0.6 * 10**-digits)


@pytest.mark.parametrize(
    ("measure", "method", "expected", "within"),
    [
        ("arithmetic mean", "modified Cox", (21.354, 22.977), 6e-4),
        ("geometric mean", "CLT", (19.73, 21.17), 6e-3),
        ("median", "rule of thumb", (19.33, 21.42), 6e-3),
    ],
)
def test_golden_intervals_of_the_toy(toy, measure, method, expected, within):
    assert interval(grain_size_statistics(toy), measure, method) == pytest.approx(expected, abs=within)


def test_against_numpy_and_scipy(toy):
    found = grain_size_statistics(toy)
    kde = scipy_stats.gaussian_kde(toy, "silverman")
    np.testing.assert_allclose(found.kde_density, kde(found.kde_grid), rtol=1e-12)
    assert found.bandwidth == pytest.approx(np.sqrt(kde.covariance[0, 0]))
    assert kde(found.kde_mode)[0] >= kde(np.linspace(toy.min(), toy.max(), 20011)).max() * (1 - 1e-9)
    density, edges = np.histogram(toy, "auto", density=True)
    np.testing.assert_allclose(found.bin_density, density)
    np.testing.assert_allclose(found.bin_edges, edges)
    assert found.bin_counts.sum() == found.n == 500
    assert found.geometric_mean == pytest.approx(scipy_stats.gmean(toy))
    assert found.multiplicative_sd == pytest.approx(scipy_stats.gstd(toy))
    assert (found.d10, found.d90) == pytest.approx(tuple(np.percentile(toy, [10, 90])))
    assert interval(found, "arithmetic mean", "CLT") == pytest.approx(
        scipy_stats.ttest_1samp(toy, 0).confidence_interval(0.95)
    )


@pytest.mark.parametrize("rule", ["silverman", "scott", 0.8])
def test_bandwidth_by_rule_or_number(toy, rule):
    found = grain_size_statistics(toy, bandwidth=rule, resamples=0)
    kde = scipy_stats.gaussian_kde(toy, rule if isinstance(rule, str) else rule / toy.std(ddof=1))
    assert found.bandwidth == pytest.approx(np.sqrt(kde.covariance[0, 0]), rel=1e-12)
    np.testing.assert_allclose(found.kde_density, kde(found.kde_grid), rtol=1e-9)
    row = found.table().set_index("measure").loc["bandwidth"]
    assert (row.value, row.method) == (found.bandwidth, rule if isinstance(rule, str) else "given")


def test_sizes_come_as_any_array_or_as_a_text_file(toy, tmp_path):
    expected = grain_size_statistics(toy).to_dict()
    for given in (list(toy), tuple(toy), pd.Series(toy), xr.DataArray(toy), toy[::-1], da.from_array(toy, chunks=77)):
        assert grain_size_statistics(given).to_dict() == expected
    file = tmp_path / "diameters.txt"
    np.savetxt(file, toy, fmt="%.17g", header="diameters; unit: um")
    done = CliRunner().invoke(main, ["sizes", str(file), "--json"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert said["arithmetic_mean"] == pytest.approx(22.130, abs=6e-4)
    assert {name: value for name, value in said.items() if name in expected} == json.loads(json.dumps(expected))
    shown = CliRunner().invoke(main, ["sizes", str(file)]).stdout
    assert re.search(r"arithmetic mean +22\.13\d* +um +21\.35\d*-22\.9[78]\d* +modified Cox", shown)
    assert "rule of thumb (GrainSizeTools)" in " ".join(shown.split())


@pytest.mark.parametrize("n", [9, 40, 101])
def test_the_binomial_interval_of_the_median_is_scipys(n):
    values = np.random.default_rng(n).lognormal(2, 0.5, n)
    found = intervals.median_by_binomial(values, "median")
    exact = scipy_stats.quantile_test(values, q=0, p=0.5).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize(
    ("method", "truth"),
    [
        (intervals.mean_by_modified_cox, np.exp(0.5 * 0.5**2)),
        (intervals.geometric_mean_by_clt, 1.0),
        (intervals.median_by_binomial, 1.0),
    ],
)
def test_intervals_hold_the_truth_in_95_of_100_samples(method, truth):
    rng = np.random.default_rng(4)
    found = [method(rng.lognormal(0, 0.5, 60), "") for _ in range(1000)]
    held = np.mean([i.low <= truth <= i.high for i in found])
    # Two standard errors of a share of 1000 are 0.014; the binomial interval holds a little more than it says.
    assert 0.93 < held < 0.98


def test_few_grains_hold_what_the_method_says():
    found = intervals.median_by_binomial(np.array([3.0, 1.0, 2.0]), "median")
    assert (found.low, found.high, found.method) == (1.0, 3.0, "binomial (75.0%)")


@pytest.mark.parametrize(
    ("scale", "forward"), [("log", np.log), ("log10", np.log10), ("sqrt", np.sqrt), ("linear", np.asarray)]
)
def test_scales_make_equal_classes_and_keep_the_averages(toy, scale, forward):
    linear, found = grain_size_statistics(toy), grain_size_statistics(toy, scale=scale)
    steps = np.diff(forward(found.bin_edges))
    np.testing.assert_allclose(steps, found.bin_width)
    assert (found.bin_density * steps).sum() == pytest.approx(1)
    np.testing.assert_allclose(found.bin_density, np.histogram(forward(toy), "auto", density=True)[0])
    assert found.unit == "um"
    assert found.geometric_mean == linear.geometric_mean
    grid = forward(found.kde_grid)
    np.testing.assert_allclose(found.kde_density, scipy_stats.gaussian_kde(forward(toy), "silverman")(grid), rtol=1e-9)
    assert abs(found.kde_mode - found.kde_grid[found.kde_density.argmax()]) <= 0.1


def test_normalised_is_in_units_of_the_mean(toy):
    linear, found = grain_size_statistics(toy), grain_size_statistics(toy, scale="normalised")
    assert found.unit == "mean diameter"
    assert found.arithmetic_mean == pytest.approx(1)
    for name in ("median", "kde_mode", "sd_ddof1", "d90", "bandwidth", "bin_width"):
        assert getattr(found, name) * linear.arithmetic_mean == pytest.approx(getattr(linear, name), rel=1e-5)
    assert found.multiplicative_sd == pytest.approx(linear.multiplicative_sd)


def test_small_units_do_not_coarsen_the_density(toy):
    """A map in nanometres: the step of 0.1 um is larger than its grains."""
    um, nm = grain_size_statistics(toy, precision=1e-3), grain_size_statistics(toy / 1000)
    assert nm.kde_mode * 1000 == pytest.approx(um.kde_mode, rel=1e-4)


def test_table_and_dict(toy):
    found = grain_size_statistics(toy, unit="px")
    table = found.table()
    assert list(table.columns) == ["measure", "value", "unit", "ci_low", "ci_high", "method"]
    rows = table.set_index(["measure", "method"])
    mean = rows.loc[("arithmetic mean", "modified Cox (log-normal)")]
    assert (round(mean.ci_low, 3), round(mean.ci_high, 3), mean.unit) == (21.354, 22.977, "px")
    assert rows.loc[("SD", "ddof 1")].value > rows.loc[("SD", "ddof 0")].value == found.sd_ddof0
    assert np.isfinite(table["value"]).all()
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["median"] == found.median
    assert again["confidence_intervals"][1]["method"] == "modified Cox (log-normal)"
    assert sum(again["bin_counts"]) == 500
    assert "values" not in again


def test_a_step_above_the_range_is_an_error(toy):
    largest = np.ptp(toy)
    grain_size_statistics(toy, precision=largest)
    for scale in ("linear", "log", "normalised"):
        with pytest.raises(ParameterError, match="above the range of the sizes"):
            grain_size_statistics(toy, precision=largest * 1.001, scale=scale)
    with pytest.raises(ParameterError, match="at most 100000 points"):
        grain_size_statistics(toy, precision=1e-5)


@pytest.mark.parametrize("scale", ["linear", "log", "log10", "sqrt"])
@pytest.mark.parametrize("precision", [0.02, 0.3, None])
def test_no_step_of_the_density_is_over_the_precision(toy, scale, precision):
    found = grain_size_statistics(toy, scale=scale, precision=precision, resamples=0)
    assert np.diff(found.kde_grid).max() == pytest.approx(found.precision)
    assert found.precision <= (precision or 0.2) * (1 + 1e-9)
    assert len(found.kde_grid) >= 512


def test_the_boundary_is_added_to_every_diameter(toy):
    plain, found = grain_size_statistics(toy), grain_size_statistics(toy, boundary_width_um=0.7)
    np.testing.assert_allclose(found.values, np.sort(toy) + 0.7)
    assert found.arithmetic_mean == pytest.approx(plain.arithmetic_mean + 0.7)
    assert found.sd_ddof1 == pytest.approx(plain.sd_ddof1)
    assert found.geometric_mean > plain.geometric_mean + 0.7
    assert (plain.boundary_width_um, found.boundary_width_um) == (None, 0.7)
    row = found.table().set_index("measure").loc["boundary width"]
    assert (row.value, row.unit, row.method) == (0.7, "um", "added to every diameter")
    assert "boundary width" not in set(plain.table().measure)
    with pytest.raises(ParameterError, match="diameters in um"):
        grain_size_statistics(toy, boundary_width_um=0.7, unit="px")
    for wrong in (-0.1, np.nan, np.inf):
        with pytest.raises(ParameterError, match="boundary_width_um: found"):
            grain_size_statistics(toy, boundary_width_um=wrong)
    # Without its boundary a size of 0 is no size.
    with pytest.raises(ParameterError, match=r"first 0\.0 at 1"):
        grain_size_statistics([1.0, 0.0, 2.0], boundary_width_um=0.7)


def test_the_bootstrap_is_scipys(toy):
    """Other random samples, so that the ends agree to a small part of the interval's width."""
    found = grain_size_statistics(toy, resamples=4000)
    for measure, statistic in (("arithmetic mean", np.mean), ("geometric mean", scipy_stats.gmean)):
        expected = scipy_stats.bootstrap(
            (toy,), statistic, n_resamples=4000, method="percentile", rng=np.random.default_rng(5)
        ).confidence_interval
        ours = interval(found, measure, "bootstrap, percentiles of 4000 samples, seed 0")
        np.testing.assert_allclose(ours, expected, atol=0.08 * (expected.high - expected.low))
    low, high = interval(found, "median", "bootstrap")
    assert low < found.median < high
    other = grain_size_statistics(toy, seed=1)
    assert interval(other, "median", "bootstrap, percentiles of 1000 samples, seed 1") != (low, high)
    without = {i.method for i in grain_size_statistics(toy, resamples=0).confidence_intervals}
    assert not any(method.startswith("bootstrap") for method in without)
    with pytest.raises(ParameterError, match="resamples: found -1"):
        grain_size_statistics(toy, resamples=-1)


def test_bootstrap_in_parts_is_the_bootstrap_in_one(toy, monkeypatch):
    whole = intervals.by_bootstrap(toy, resamples=101, seed=3)
    monkeypatch.setattr(intervals, "_VALUES_AT_ONCE", 7 * len(toy))
    assert intervals.by_bootstrap(toy, resamples=101, seed=3) == whole


def test_log_normality_is_scipys(toy):
    found = grain_size_statistics(toy).log_normality
    expected = scipy_stats.shapiro(np.log(toy))
    assert found.test == "Shapiro-Wilk of logarithms"
    assert (found.statistic, found.p_value) == pytest.approx((expected.statistic, expected.pvalue), rel=1e-6)
    assert found.p_value > 0.05
    many = np.random.default_rng(3).lognormal(3, 0.4, 5001)
    found = grain_size_statistics(many, resamples=0).log_normality
    assert found.test == "D'Agostino-Pearson of logarithms"
    assert found.p_value == pytest.approx(scipy_stats.normaltest(np.log(many)).pvalue, rel=1e-6)
    assert grain_size_statistics(np.linspace(1, 50, 600)).log_normality.p_value < 1e-6


def test_normal_quantiles_are_near_the_expected_order_statistics():
    drawn = np.sort(np.random.default_rng(0).standard_normal((20_000, 11)), axis=1).mean(axis=0)
    np.testing.assert_allclose(normal_quantiles(11), drawn, atol=0.03)


def test_shares_of_area(toy):
    found = grain_size_statistics(toy, scale="log", bins=9)
    expected, _ = np.histogram(toy, found.bin_edges * np.r_[1 - 1e-12, np.ones(8), 1 + 1e-12], weights=toy**2)
    np.testing.assert_allclose(found.bin_area, expected / np.sum(toy**2))
    centre = np.average(toy, weights=toy**2)
    assert found.area_weighted_mean == pytest.approx(centre)


@pytest.mark.parametrize("scale", ["linear", "log", "log10", "sqrt", "normalised"])
@pytest.mark.parametrize("kind", ["distribution", "area", "quantiles"])
def test_figures_fit_one_column(toy, scale, kind):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = grain_size_statistics(toy, scale=scale, resamples=0).plot(kind)
    assert figure.get_figwidth() * 25.4 < 90
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    (axes,) = figure.axes
    box = axes.get_tightbbox(canvas.get_renderer())
    assert (box.x0, box.y0) >= (-1, -1)
    assert box.x1 <= figure.bbox.width + 1
    assert box.y1 <= figure.bbox.height + 1
    assert axes.bbox.height > 0.4 * figure.bbox.height


def test_figures_of_area_and_quantiles_draw_what_the_statistics_hold(toy):
    found = grain_size_statistics(toy)
    (axes,) = found.plot("area").axes
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], 100 * found.bin_area)
    (axes,) = found.plot("quantiles").axes
    grains, line = axes.lines
    np.testing.assert_array_equal(grains.get_ydata(), np.sort(toy))
    np.testing.assert_allclose(
        line.get_ydata(),
        np.exp(
            np.polyval(
                np.polyfit(
                    [-1, 1], np.log(found.geometric_mean) + np.log(found.multiplicative_sd) * np.array([-1, 1]), 1
                ),
                line.get_xdata(),
            )
        ),
    )
    with pytest.raises(ParameterError, match="kind: found 'other'"):
        found.plot("other")


def test_it_does_the_same_twice_whatever_the_order(toy):
    first = grain_size_statistics(toy)
    json_of = [json.dumps(grain_size_statistics(list(toy)).to_dict()) for _ in range(2)]
    assert json_of[0] == json_of[1] == json.dumps(first.to_dict())
    shuffled = grain_size_statistics(np.random.default_rng(0).permutation(toy))
    assert json.dumps(shuffled.to_dict()) == json_of[0]


def test_bins_by_number_width_and_rule(toy):
    assert grain_size_statistics(toy, bins=17).n_bins == 17
    by_width = grain_size_statistics(toy, bins=2.5)
    np.testing.assert_allclose(np.diff(by_width.bin_edges), 2.5)
    assert by_width.bin_rule == "given width"
    assert by_width.bin_counts.sum() == 500
    assert grain_size_statistics(toy, bins="sturges").n_bins == len(np.histogram_bin_edges(toy, "sturges")) - 1


@pytest.mark.parametrize("scale", ["linear", "log", "log10", "sqrt", "normalised"])
def test_grains_that_are_all_alike(scale):
    with pytest.warns(FewGrainsWarning):
        found = grain_size_statistics(np.full(5, 0.3), scale=scale)
    assert found.n_bins == 1
    assert (np.diff(found.bin_edges) > 0).all()
    assert found.kde_mode == found.median
    assert len(found.kde_grid) == 0
    json.dumps(found.to_dict(), allow_nan=False)


def test_few_grains_warn():
    with pytest.warns(FewGrainsWarning, match="432 grains; 433 are needed"):
        grain_size_statistics(np.linspace(1, 2, 432))
    grain_size_statistics(np.linspace(1, 2, 433))


@pytest.mark.parametrize(
    ("diameters", "options", "match"),
    [
        ([1.0, 2.0], {}, "2 usable"),
        ([], {}, "0 usable"),
        ([1.0, 0.0, 3.0, -1.0], {}, "2 of 4 not positive and finite, first 0.0 at 1"),
        ([1.0, 2.0, np.nan], {}, "first nan at 2"),
        ([1.0, 2.0, np.inf], {}, "first inf at 2"),
        (["a", "b", "c"], {}, "list that does not hold numbers"),
        (np.ones((3, 3)), {}, r"shape \(3, 3\)"),
        ([1.0, 2.0, 3.0], {"scale": "cubic"}, "scale: found 'cubic'"),
        ([1.0, 2.0, 3.0], {"bins": "many"}, "bins: found 'many'"),
        ([1.0, 2.0, 3.0], {"bins": 0}, "bins: found 0"),
        ([1.0, 2.0, 3.0], {"bins": True}, "bins: found True"),
        ([1.0, 2.0, 3.0], {"bins": 1e-9}, "at most 100000 classes"),
        ([1.0, 2.0, 3.0], {"bandwidth": "wide"}, "bandwidth: found 'wide'"),
        ([1.0, 2.0, 3.0], {"bandwidth": 0.0}, "bandwidth: found 0.0"),
        ([1.0, 2.0, 3.0], {"precision": 0.0}, "precision: found 0.0"),
        ([1.0, 2.0, 3.0], {"phase": 1}, "a grains Dataset"),
        ([1.0, 2.0, 3.0], {"min_pixels": 4}, "a grains Dataset"),
    ],
)
def test_input_that_cannot_work(diameters, options, match):
    with pytest.raises(ParameterError, match=match):
        grain_size_statistics(diameters, **options)


def squares(sizes_by_phase, *, per_row=20):
    """Return grains of a map of separate squares, and one row of grains that the map's upper edge cuts."""
    step = 1 + max(size for sizes in sizes_by_phase.values() for size in sizes)
    places = [(phase, size) for phase, sizes in sizes_by_phase.items() for size in sizes]
    rows = -(-len(places) // per_row)
    label = np.zeros((2 + rows * step, 1 + per_row * step), dtype=np.uint8)
    for i, (phase, size) in enumerate(places):
        y, x = 2 + (i // per_row) * step, 1 + (i % per_row) * step
        label[y : y + size, x : x + size] = phase
    label[0, 1:8:2] = 1
    phases = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), label)})
    for axis in (schema.Y, schema.X):
        phases = phases.assign_coords({axis: (axis, 0.5 * np.arange(phases.sizes[axis]), {"units": schema.MICROMETRE})})
    phases[schema.N_PIXELS] = (schema.PHASE, [1, 1, 0, 1])
    phases.attrs[schema.TITLE] = "squares"
    return phases


def test_statistics_of_a_phase_leave_out_cut_and_small_grains():
    sizes = np.random.default_rng(1).integers(2, 9, 450)
    phases = squares({1: sizes, 2: [3, 4, 5]})
    grains = separate_grains(phases)
    found = grain_size_statistics(grains, phase=1)
    assert (found.n, found.n_edge_excluded, found.n_small_excluded) == (450, 4, 0)
    assert found.arithmetic_mean == pytest.approx(np.mean(2 * sizes * 0.5 / np.sqrt(np.pi)))
    assert found.edge_rule == "grains that touch the map's edge are left out (4)"
    assert (found.title, found.unit) == ("phase 1, squares", "um")
    assert grain_size_statistics(grains, phase=1, include_edge=True).n == 454
    with pytest.warns(FewGrainsWarning, match="phase 1, squares"):
        larger = grain_size_statistics(grains, phase=1, min_pixels=10)
    assert larger.n == np.count_nonzero(sizes**2 >= 10)
    assert larger.n_small_excluded == np.count_nonzero(sizes**2 < 10)
    # The size that the grains were made with is the default.
    with pytest.warns(FewGrainsWarning):
        made_so = grain_size_statistics(separate_grains(phases, min_size=10), phase=1)
    assert made_so.to_dict() == larger.to_dict()
    assert grain_size_statistics(separate_grains(phases, min_size=10), phase=1, min_pixels=0).n == 450
    assert grain_size_statistics(grains).n == 453
    with pytest.raises(ParameterError, match="phase: found 5"):
        grain_size_statistics(grains, phase=5)
    with pytest.raises(ParameterError, match="grains of phase 3, squares: found 0 usable"):
        grain_size_statistics(grains, phase=3)
    with pytest.raises(ParameterError, match="unit"):
        grain_size_statistics(grains, unit="um")


def test_phases_side_by_side_lose_none():
    sizes = np.random.default_rng(2).integers(2, 9, 80)
    grains = separate_grains(squares({1: sizes, 2: [3, 4, 5], 4: [6, 7]}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = compare_phases(grains).set_index("phase")
    assert list(table.index) == [1, 2, 3, 4]
    assert list(table.n_grains) == [84, 3, 0, 2]
    assert list(table.n_used) == [80, 3, 0, 2]
    assert table.n_grains.sum() == grains.sizes[schema.GRAIN]
    assert list(table.reason) == ["", "", "0 usable grains, 3 are needed", "2 usable grains, 3 are needed"]
    assert list(table.name) == ["1", "2", "3", "4"]
    assert not table.enough_grains.any()
    counted = table[["n_used", "n_edge_excluded", "n_small_excluded", "n_unmeasured"]]
    assert (counted.sum(axis=1) == table.n_grains).all()
    assert table.edge_rule[1] == "grains that touch the map's edge are left out (4)"
    assert set(table.size_rule) == {"no minimum size"}
    numbers = table.drop(columns=["reason", "name", "edge_rule", "size_rule"]).astype(float)
    assert np.isfinite(numbers.loc[[1, 2]]).all(axis=None)
    assert numbers.loc[[3, 4]].filter(like="_um").drop(columns="boundary_width_um").isna().all(axis=None)
    with pytest.warns(FewGrainsWarning):
        alone = grain_size_statistics(grains, phase=1)
    assert table.median_um[1] == alone.median
    assert (table.median_ci_low_um[1], table.median_ci_high_um[1]) == interval(alone, "median", "binomial")
    again = compare_phases(grains).set_index("phase")
    pd.testing.assert_frame_equal(again, table, check_exact=True)


def test_enough_grains_are_said_of_each_phase():
    table = compare_phases(separate_grains(squares({1: [3] * 432, 2: [3] * 433}))).set_index("phase")
    # Four more of phase 1 are cut by the map's edge.
    assert table.n_used.tolist() == [432, 433, 0, 0]
    assert table.enough_grains.tolist() == [False, True, False, False]


# ------------------------------------------------------------------------------- maps with little to count
def test_grains_of_one_pixel():
    grains = separate_grains(squares({1: [1] * 5, 2: [1, 1, 2, 5]}))
    with pytest.warns(FewGrainsWarning):
        found = grain_size_statistics(grains, phase=1)
    assert found.n == 5
    assert found.median == found.maximum == pytest.approx(2 * 0.5 / np.sqrt(np.pi))
    assert (found.sd_ddof1, found.multiplicative_sd, len(found.kde_grid)) == (0, 1, 0)
    json.dumps(found.to_dict(), allow_nan=False)
    table = compare_phases(grains).set_index("phase")
    assert table.n_used.tolist() == [5, 4, 0, 0]
    assert table.median_um[1] == found.median
    assert np.isnan(table.log_normality_p[1])
    assert table.reason[1] == ""
    # The minimum size leaves them out, and says how many.
    larger = compare_phases(grains, min_pixels=2).set_index("phase")
    assert larger.n_small_excluded.tolist() == [5, 2, 0, 0]
    assert larger.size_rule[1] == "grains under 2 pixels are left out (5)"
    assert larger.reason.tolist()[:2] == ["0 usable grains, 3 are needed", "2 usable grains, 3 are needed"]


def test_a_phase_with_no_grain_inside_the_edges():
    label = np.zeros((9, 23), np.uint8)
    label[[0, -1], 1::3] = 2
    label[4, 2:20:3] = 1
    phases = xr.Dataset({schema.LABEL: ((schema.Y, schema.X), label)})
    phases[schema.N_PIXELS] = (schema.PHASE, [1, 1])
    grains = separate_grains(phases)
    with pytest.raises(ParameterError, match=r"grains of phase 2: found 0 usable \(grains that touch .* left out \(16"):
        grain_size_statistics(grains, phase=2)
    table = compare_phases(grains).set_index("phase")
    assert table.loc[2, ["n_grains", "n_used", "n_edge_excluded", "reason"]].tolist() == [
        16,
        0,
        16,
        "0 usable grains, 3 are needed",
    ]
    assert np.isnan(table.median_px[2])
    assert table.n_used[1] == 6
    assert compare_phases(grains, include_edge=True).set_index("phase").n_used[2] == 16


def test_a_map_without_grains():
    empty = squares({1: []} | {2: [2]}).map(np.zeros_like)
    empty.attrs[schema.N_PHASES] = 2
    grains = separate_grains(empty)
    assert grains.sizes[schema.GRAIN] == 0
    table = compare_phases(grains)
    assert table["n_grains"].tolist() == [0] * 4
    assert table.filter(like="_um").drop(columns="boundary_width_um").isna().all(axis=None)
    assert set(table["reason"]) == {"0 usable grains, 3 are needed"}
    for phase in (None, 1):
        with pytest.raises(ParameterError, match="found 0 usable"):
            grain_size_statistics(grains, phase=phase)


def test_names_of_phases_are_those_of_the_table():
    grains = separate_grains(squares({1: [3, 4, 5, 6], 2: [3, 4, 5]}))
    grains.attrs[schema.PHASE_NAMES] = {"2": "quartz"}
    assert compare_phases(grains)["name"].tolist() == ["1", "quartz", "3", "4"]
    with pytest.warns(FewGrainsWarning, match="^phase quartz, squares: 3 grains"):
        found = grain_size_statistics(grains, phase=2)
    assert found.title == "phase quartz, squares"


def test_the_figure_draws_what_the_statistics_hold(toy):
    pytest.importorskip("eds_chunked.figures.distribution")
    found = grain_size_statistics(toy, scale="log")
    assert isinstance(found, GrainSizeStatistics)
    (axes,) = found.plot().axes
    np.testing.assert_allclose(axes.lines[0].get_xdata(), found.kde_grid)
