"""Unfolding against published figures of real grains, a plain twin, and spheres of known size cut at random."""

import json

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from eds_chunked.cli import main
from eds_chunked.errors import ParameterError
from eds_chunked.grains.statistics import FewGrainsWarning, grain_size_statistics
from eds_chunked.grains.stereology import saltykov, two_step_stereology
from tests.real_data import real_data
from tests.test_grains_statistics import squares

GOLDEN = [1.87, 30.94, 32.12, 20.72, 8.74, 3.20, 1.84, 0.51, 0, 0, 0.06]


@pytest.fixture(scope="module")
def real():
    """Diameters of 2661 grains in um."""
    area = pd.read_csv(real_data("grains_areas_2661.txt"), sep="\t")["Area"].to_numpy()
    return 2 * np.sqrt(area / np.pi)


def sections(n, *, seed, sd=1.5, mean=20.0):
    """Return diameters of sections through spheres whose diameters are log-normal by number."""
    rng = np.random.default_rng(seed)
    # A plane meets spheres in proportion to their diameter, which moves the mean of the logarithms by their variance.
    spheres = rng.lognormal(np.log(mean) + np.log(sd) ** 2, np.log(sd), n)
    return spheres * np.sqrt(1 - rng.random(n) ** 2)


def test_golden_numbers_of_real_grains(real):
    found = saltykov(real, classes=11)
    assert found.class_width == pytest.approx(14.236, abs=5e-4)
    np.testing.assert_allclose(found.frequencies, GOLDEN, atol=0.006)
    volume = found.volume_fraction(50)
    assert volume.percent == pytest.approx(41.65, abs=0.005)
    # What other readings of the method give on these grains.
    assert (round(volume.low), round(volume.high)) == (29, 50)
    assert volume.low < volume.percent < volume.high


def test_golden_numbers_from_a_file_by_the_shell(real, tmp_path):
    file = tmp_path / "d.txt"
    np.savetxt(file, real)
    picture = tmp_path / "spheres.png"
    command = ["sizes", str(file), "--stereology", "saltykov", "--bins", "11", "--up-to", "50"]
    shown = CliRunner().invoke(main, [*command, "--plot", str(picture)])
    assert shown.exit_code == 0, shown.output
    assert "41.65 % (29-50 % with other readings of the method)" in shown.output
    assert "grains are spheres" in shown.output
    assert picture.stat().st_size > 5000
    answer = json.loads(CliRunner().invoke(main, [*command, "--json"]).output)
    assert answer["volume_fraction"]["percent"] == pytest.approx(41.65, abs=0.005)
    np.testing.assert_allclose(answer["frequencies"], GOLDEN, atol=0.006)


def plain_twin(values, classes):
    """The method in scalars, as it is written down, to check the arrays."""

    def chance(sphere, low, high):
        r, low, high = sphere / 2, low / 2, high / 2
        return ((r * r - low * low) ** 0.5 - (r * r - high * high) ** 0.5) / r

    f, edges = np.histogram(values, classes, range=(0, max(values)), density=True)
    f = list(f)
    for i in reversed(range(1, classes)):
        if f[i] <= 0:
            continue
        middle = (edges[i] + edges[i + 1]) / 2
        for j in range(i):
            f[j] -= f[i] * chance(middle, edges[j], edges[j + 1]) / chance(edges[i + 1], edges[i], edges[i + 1])
    f = np.clip(f, 0, None)
    return 100 * f / f.sum()


@pytest.mark.parametrize("classes", [2, 7, 13, 20])
def test_against_a_plain_twin(classes):
    values = sections(700, seed=3)
    np.testing.assert_allclose(saltykov(values, classes=classes).frequencies, plain_twin(values, classes), atol=1e-10)


@pytest.mark.parametrize("classes", [11, 16])
def test_known_spheres(classes):
    """Spheres per volume give the volume within 2 % of it all; the toolbox's reading is known to give more."""
    spheres = np.random.default_rng(1).lognormal(np.log(20), np.log(1.5), 1_000_000)
    true = 100 * np.sum(spheres[spheres <= 30] ** 3) / np.sum(spheres**3)
    values = sections(20_000, seed=0)
    here = saltykov(values, classes=classes, method="per_volume").volume_fraction(30)
    assert here.percent == pytest.approx(true, abs=2)
    toolbox = saltykov(values, classes=classes).volume_fraction(30)
    assert toolbox.percent > true + 2
    assert toolbox.low < true < toolbox.high
    assert (toolbox.low, toolbox.high) == (here.low, here.high)


def test_spheres_of_one_size_are_found():
    values = 10 * np.sqrt(1 - np.random.default_rng(2).random(20_000) ** 2)
    found = saltykov(values, classes=10, method="per_volume")
    # Sections of spheres of one size reach down to 0; unfolded they are in the last class.
    assert np.mean(values < 9) > 0.4
    assert found.frequencies[-1] > 85
    np.testing.assert_allclose(found.frequencies.sum(), 100)


@pytest.mark.parametrize("seed", [1, 5, 7])
def test_two_steps_enclose_known_spheres(seed):
    """The bias of the method, as documented: of the mean below 10 %, up or down by the reading, of the SD below 6 %."""
    values = sections(4000, seed=seed)
    toolbox, per_volume = (
        two_step_stereology(values, method=name, resamples=20) for name in ("grainsizetools", "per_volume")
    )
    assert 18 < per_volume.geometric_mean < 20 < toolbox.geometric_mean < 22
    for found in (toolbox, per_volume):
        assert 1.5 < found.multiplicative_sd < 1.5 * 1.06
    # Sections are not spheres: their own spread is larger.
    assert grain_size_statistics(values, resamples=0).multiplicative_sd > 1.6


def test_two_steps_say_what_they_did():
    values = sections(700, seed=5)
    found = two_step_stereology(values, method="per_volume")
    assert found.geometric_mean_ci[0] < found.geometric_mean < found.geometric_mean_ci[1]
    assert 10 <= found.unfolded.n_classes <= 20
    again = two_step_stereology(np.random.default_rng(0).permutation(values), method="per_volume")
    assert json.dumps(again.to_dict()) == json.dumps(found.to_dict())
    assert two_step_stereology(values, classes=12, resamples=20).unfolded.n_classes == 12
    table = found.table().set_index("measure")
    assert table.value["geometric mean"] == found.geometric_mean
    assert table.method["geometric mean"].endswith("bootstrap, percentiles of 200 samples, seed 0")


def test_the_fitted_density_is_scipys_log_normal():
    from scipy import stats

    found = two_step_stereology(sections(800, seed=8), resamples=20)
    at = np.linspace(1, 60, 7)
    expected = stats.lognorm.pdf(at, np.log(found.multiplicative_sd), scale=found.geometric_mean)
    np.testing.assert_allclose(found.density(at), expected)


def test_grains_of_a_phase_and_the_boundary():
    from eds_chunked.grains.split import separate_grains

    sizes = np.random.default_rng(1).integers(2, 9, 90)
    grains = separate_grains(squares({1: sizes, 2: [3, 4, 5]}))
    found = saltykov(grains, phase=1, boundary_width_um=0.5)
    with pytest.warns(FewGrainsWarning):
        statistics = grain_size_statistics(grains, phase=1, boundary_width_um=0.5)
    assert found.edges[-1] == statistics.maximum
    assert (found.n, found.title, found.boundary_width_um) == (90, "phase 1, squares", 0.5)
    assert "grains that touch the map's edge are left out (4)" in found.assumptions
    assert saltykov(grains, phase=1, min_pixels=9).n == np.count_nonzero(sizes**2 >= 9)


def test_table_dict_and_figures():
    fit = two_step_stereology(sections(500, seed=4), resamples=20, unit="px")
    table = fit.unfolded.table()
    assert list(table.columns[:3]) == ["from_px", "to_px", "midpoint_px"]
    assert list(saltykov(sections(500, seed=4)).table().columns[:3]) == ["from_um", "to_um", "midpoint_um"]
    assert table.frequency_percent.sum() == pytest.approx(100)
    assert table.volume_percent.is_monotonic_increasing
    assert (table.volume_low_percent <= table.volume_percent).all()
    assert (table.volume_percent <= table.volume_high_percent).all()
    json.dumps(fit.to_dict(), allow_nan=False)
    above, below = fit.plot().axes
    assert [bar.get_height() for bar in above.patches] == list(fit.unfolded.frequencies)
    assert below.get_xlabel() == "diameter of spheres / px"
    assert len(above.lines) == 1
    assert len(fit.unfolded.plot().axes[0].lines) == 0


def test_sizes_that_are_all_alike():
    found = saltykov(np.full(5, 0.3))
    assert found.frequencies[-1] == 100
    assert found.volume_fraction(0.3).percent == 100
    with pytest.raises(ParameterError, match="no log-normal population"):
        two_step_stereology(np.full(5, 0.3))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"classes": 1}, "classes: found 1"),
        ({"classes": 11.5}, "classes: found 11.5"),
        ({"classes": True}, "classes: found True"),
        ({"method": "other"}, "method: found 'other', expected one of grainsizetools, per_volume"),
        ({"phase": 1}, "a grains Dataset"),
        ({"boundary_width_um": -1}, "boundary_width_um: found -1"),
    ],
)
def test_input_that_cannot_work(options, match):
    with pytest.raises(ParameterError, match=match):
        saltykov([1.0, 2.0, 3.0], **options)
    with pytest.raises(ParameterError, match=match):
        two_step_stereology([1.0, 2.0, 3.0], **options)


def test_other_input_that_cannot_work():
    with pytest.raises(ParameterError, match="2 usable"):
        saltykov([1.0, 2.0])
    with pytest.raises(ParameterError, match="first nan at 1"):
        saltykov([1.0, np.nan, 2.0])
    with pytest.raises(ParameterError, match="diameter: found -3"):
        saltykov([1.0, 2.0, 3.0]).volume_fraction(-3)
    with pytest.raises(ParameterError, match="resamples: found 3"):
        two_step_stereology([1.0, 2.0, 3.0], resamples=3)


def test_sizes_by_the_shell(tmp_path):
    file, picture = tmp_path / "d.txt", tmp_path / "quantiles.png"
    np.savetxt(file, sections(600, seed=6))

    def call(*options):
        return CliRunner().invoke(main, ["sizes", str(file), *options])

    given = ["--precision", "0.3", "--boundary-width", "0.5", "--scale", "sqrt", "--kind", "quantiles"]
    answer = json.loads(call(*given, "--plot", str(picture), "--json").output)
    assert answer["boundary_width_um"] == 0.5
    assert answer["precision"] <= 0.3
    assert answer["log_normality"]["test"] == "Shapiro-Wilk of logarithms"
    assert picture.stat().st_size > 5000
    text = call("--boundary-width", "0.5").output
    assert "added to every diameter" in text
    assert "bootstrap" in text
    fit = json.loads(call("--stereology", "two-step", "--unfolding", "per_volume", "--json").output)
    assert fit["geometric_mean_ci"][0] < fit["geometric_mean"] < fit["geometric_mean_ci"][1]
    assert fit["unfolded"]["method"] == "per_volume"
    written = tmp_path / "sizes.csv"
    assert json.loads(call("--csv", str(written), "--json").output)["csv"] == str(written)
    columns = list(pd.read_csv(written).columns)
    assert columns == ["measure", "value", "unit", "ci_low", "ci_high", "method"]
    assert str(written) in call("--csv", str(written), "--stereology", "saltykov", "--bins", "12").output
    classes = pd.read_csv(written)
    assert list(classes.columns[:3]) == ["from_um", "to_um", "midpoint_um"]
    assert len(classes) == 12
    for options, words in (
        (("--precision", "1000"), "above the range"),
        (("--up-to", "3"), "--up-to needs --stereology"),
        (("--stereology", "saltykov", "--scale", "log"), "--scale needs a call without --stereology"),
        (("--stereology", "saltykov", "--bins", "2.5"), "classes: found 2.5"),
        (("--min-pixels", "4"), "--min-pixels needs a store"),
        (("--boundary-width", "-1"), "boundary_width_um: found -1.0"),
    ):
        refused = call(*options)
        assert refused.exit_code == 2, options
        assert words in refused.stderr
