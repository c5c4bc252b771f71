"""Elements of spectra whose elements are known: found, told apart, abstained from, and nothing else."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, nnls
from scipy.stats import norm, poisson

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import CountsError, ParameterError
from eds_chunked.phases.element_search import Evidence, Reduced, line_significance, needed
from eds_chunked.phases.elements import identify_elements
from eds_chunked.phases.spectrum_model import Channels, Detector, fit_counts
from eds_chunked.phases.xray_families import ABUNDANCE, DISPERSED, Line, families_of
from eds_chunked.synthetic.minerals import MINERALS, peak
from tests.element_spectra import BEAM, EDGES, ENERGY, EVERY, as_spectra, clarity, expected_spectrum
from tests.real_data import real_data

DACITE = {"Al", "Ca", "Cl", "Fe", "K", "Mg", "Na", "O", "P", "Si", "Ti"}


def found(table, phase=None):
    rows = table if phase is None else table[table["phase"] == phase]
    return set(rows.loc[rows["decision"] == "found", "element"])


def decisions(table):
    return dict(zip(table["element"], table["decision"], strict=True))


def peaks(lines, *, background=20.0):
    """Return expected counts of lines {energy: counts} on a background that falls."""
    continuum = np.where((ENERGY > 0.2) & (ENERGY < BEAM), background * (BEAM - ENERGY) / BEAM, 0.0)
    return continuum + sum(counts * peak(energy, EDGES) for energy, counts in lines.items())


# ---------------------------------------------------------------------------------------------------- phantoms
@pytest.fixture(scope="module")
def phantoms():
    rng = np.random.default_rng(11)
    totals = (1e3, 1e4, 2e5)
    return {
        total: identify_elements(as_spectra([rng.poisson(expected_spectrum(mineral, total)) for mineral in EVERY]))
        for total in totals
    }


def test_what_can_be_seen_is_found(phantoms):
    clear = hit = 0
    for total, table in phantoms.items():
        for phase, mineral in enumerate(EVERY, 1):
            seen = {element for element, sigma in clarity(mineral, total).items() if sigma >= 5}
            clear += len(seen)
            hit += len(seen & found(table, phase))
    assert clear > 90
    assert hit / clear >= 0.95


def test_what_is_not_there_is_not_found(phantoms):
    false = [
        len(found(table, phase) - set(mineral.formula))
        for table in phantoms.values()
        for phase, mineral in enumerate(EVERY, 1)
    ]
    assert max(false) <= 1
    assert sum(false) <= 1


def test_the_evidence_is_that_of_the_line(phantoms):
    table = phantoms[2e5]
    row = table[(table["phase"] == 2) & (table["element"] == "Na")].iloc[0]
    expected = expected_spectrum(MINERALS[1], 2e5)
    at = np.abs(ENERGY - 1.041) < 0.6 * 0.0688
    aside = np.abs(np.abs(ENERGY - 1.041) - 0.14) < 0.02
    background = expected[aside].mean() * at.sum()
    assert row["line"] == "Ka"
    assert row["energy_kev"] == pytest.approx(1.041, abs=0.001)
    assert row["background"] == pytest.approx(background, rel=0.3)
    assert row["net_counts"] == pytest.approx(expected[at].sum() - background, rel=0.1)
    assert abs(row["offset_kev"]) < 0.005


# --------------------------------------------------------------------------------------------------- artefacts
def test_escape_and_sum_peaks_are_no_elements():
    drawn = np.random.default_rng(3).poisson
    quartz = drawn(expected_spectrum(MINERALS[0], 4e5, pile_up=0.012))
    calcite = drawn(expected_spectrum(MINERALS[6], 4e5, escape=0.02, pile_up=0.008))
    table = identify_elements(as_spectra([quartz, calcite]))
    assert found(table, 1) <= {"Si", "O"}
    assert found(table, 2) <= {"Ca", "C", "O"}
    artefacts = table[table["decision"] == "artefact"]
    assert artefacts["reason"].str.contains("sum peak of Si Ka and Si Ka|sum peak of O Ka and Si Ka").any()
    assert artefacts["reason"].str.contains("silicon escape peak of Ca Ka").any()


def test_a_strobe_peak_is_no_element():
    strobe = np.random.default_rng(4).poisson(1e6 * peak(0.0, EDGES) + peaks({1.74: 3000}))
    assert found(identify_elements(as_spectra(strobe))) == {"Si"}


# ---------------------------------------------------------------------------------------------------- overlaps
GALENA = {2.3455: 6000, 2.4427: 3700, 2.6535: 1000, 1.84: 60, 10.5512: 1500, 12.6144: 500, 12.6223: 300}
BARITE = {2.307: 4000, 2.464: 260, 4.4663: 3000, 4.8275: 1250, 5.1571: 560, 5.531: 220, 3.954: 120, 4.93: 400}


@pytest.mark.parametrize(
    ("lines", "expected", "not_found"),
    [
        (GALENA, {"Pb"}, {"S", "Mo"}),
        (GALENA | {2.307: 5500, 2.464: 340}, {"Pb", "S"}, {"Mo"}),
        (BARITE, {"Ba", "S"}, {"Ti", "Pb", "Mo"}),
        ({4.509: 4000, 4.932: 480}, {"Ti"}, {"Ba"}),
        ({8.637: 2000, 9.572: 260, 1.0116: 1500, 1.0347: 260}, {"Zn"}, {"Na"}),
        ({1.041: 2000}, {"Na"}, {"Zn"}),
        ({14.14: 300, 15.8: 45, 1.8065: 3000, 1.8717: 1300}, {"Sr"}, {"Si"}),
    ],
    ids=["Pb", "Pb+S", "Ba+S", "Ti", "Zn", "Na", "Sr"],
)
def test_overlaps_are_resolved_by_the_other_lines(lines, expected, not_found):
    counts = np.random.default_rng(5).poisson(peaks(lines))
    result = found(identify_elements(as_spectra(counts)))
    assert expected <= result
    assert not result & not_found


def test_overlaps_are_named():
    counts = np.random.default_rng(6).poisson(peaks({2.307: 9000, 2.464: 580}))
    row = identify_elements(as_spectra(counts)).set_index("element").loc["S"]
    assert row["decision"] == "found"
    assert "Mo La" in row["overlaps"]
    assert "Pb Ma" in row["overlaps"]


@pytest.mark.parametrize("symbol", ["Al", "Zn", "Mg"])
def test_lines_that_no_mineral_would_show_are_not_named_as_overlaps(symbol):
    lines = {"Al": {1.4866: 9000}, "Zn": {8.637: 9000, 9.572: 1200, 1.0116: 4000}, "Mg": {1.2536: 9000}}[symbol]
    counts = np.random.default_rng(6).poisson(peaks(lines))
    row = identify_elements(as_spectra(counts)).set_index("element").loc[symbol]
    assert row["decision"] == "found"
    assert not {name.split()[0] for name in row["overlaps"].split(", ") if name} & DISPERSED


def test_lines_of_what_is_found_are_named_as_overlaps():
    # Yb has no mineral without Y; where it is found, it lies under Al.
    lines = {7.4156: 4000, 8.4018: 2000, 8.7588: 800, 9.7801: 400, 1.5214: 9000, 1.5675: 5000, 1.4866: 8000}
    counts = np.random.default_rng(6).poisson(peaks(lines))
    table = identify_elements(as_spectra(counts)).set_index("element")
    assert table.loc["Yb", "decision"] == "found"
    assert "Yb Ma" in table.loc["Al", "overlaps"]


def test_more_is_needed_of_what_is_rare_and_where_the_model_may_be_wrong():
    def least(element, dispersion):
        line = Line("Ka", 1.0, 1.0)
        return needed(Evidence(element, line, 0.0, 1.0, 9.0, 9.0, 0.0, 0.0, dispersion), 5.0)

    assert least("Si", 1.0) == pytest.approx((3.355, 3.355))
    # Deviance of 2 log 10 for each of five powers of ten, from 0.1 % to 0.01 ppm.
    assert least("Ru", 1.0)[1] ** 2 - least("Ru", 1.0)[0] ** 2 == pytest.approx(10 * np.log(10))
    assert least("Si", 2.0)[0] ** 2 == pytest.approx((3.355**2 + 7.5**2) / 2)
    assert least("Si", 1e9)[0] == pytest.approx(7.5)


def test_what_cannot_be_told_apart_is_ambiguous():
    # An axis that ends before the L lines of lead, and few counts.
    counts = np.random.default_rng(7).poisson(peaks({2.34: 60, 2.4427: 25}, background=2.0))
    table = identify_elements(as_spectra(counts).sel(energy=slice(None, 9)), elements=["S", "Pb", "Si", "O"])
    assert found(table) == set()
    row = table.iloc[0]
    assert row["decision"] == "ambiguous"
    assert {row["element"], *re.findall(r"[A-Z][a-z]?", row["reason"])} == {"S", "Pb"}


def test_a_peak_beside_the_line_is_not_called_by_it():
    counts = np.random.default_rng(8).poisson(peaks({1.74: 20000, 6.40: 9000, 7.06: 1100, 3.78: 3000}))
    table = identify_elements(as_spectra(counts), elements=["Si", "Fe", "Ca"])
    assert found(table) == {"Si", "Fe"}
    assert decisions(table).get("Ca") in (None, "ambiguous", "possible")


# ---------------------------------------------------------------------------------------------- the parameters
def test_only_the_elements_and_phases_asked_for(phantoms):
    spectra = as_spectra([expected_spectrum(mineral, 1e4).astype(int) for mineral in EVERY[:3]])
    table = identify_elements(spectra, phase=2, elements=["Na", "Si", "Fe"])
    assert set(table["phase"]) == {2}
    assert found(table) == {"Na", "Si"}
    assert identify_elements(spectra, phase=[3, 1], elements="Si")["phase"].unique().tolist() == [3, 1]


def test_the_same_table_twice():
    spectra = as_spectra(np.random.default_rng(9).poisson(expected_spectrum(MINERALS[3], 2e4)))
    pd.testing.assert_frame_equal(identify_elements(spectra), identify_elements(spectra))


def test_lines_that_the_beam_cannot_excite_are_not_thought_of():
    counts = np.random.default_rng(10).poisson(peaks({1.74: 4000, 6.40: 3000, 7.058: 380}))
    assert "Fe" in found(identify_elements(as_spectra(counts)))
    assert "Fe" not in set(identify_elements(as_spectra(counts), beam_energy=7.0)["element"])


def test_axis_and_resolution_are_adjusted():
    # 15 eV off and 1 % wide of the mark, 150 eV at Mn Ka: phosphorus would be sought where its peak is not.
    lines = {0.5249: 6e4, 1.041: 2e4, 1.4866: 3e4, 1.7398: 9e4, 3.3129: 2e4, 3.6908: 2e4, 6.3997: 2e4}
    lines |= {3.5896: 2000, 4.0127: 2400, 7.058: 2600}
    width = {energy: np.sqrt(0.0225 + 2.5e-3 * (energy - 5.9)) / 2.3548 for energy in lines}
    axis = EDGES * 1.003 + 0.015
    wide = sum(n * np.diff(norm.cdf((axis - energy) / width[energy])) for energy, n in lines.items())
    counts = np.random.default_rng(12).poisson(wide + peaks({}, background=60))
    table = identify_elements(as_spectra(counts))
    assert {"O", "Na", "Al", "Si", "K", "Ca", "Fe"} <= found(table)
    assert len(found(table)) <= 8
    assert table.loc[table["decision"] == "found", "offset_kev"].abs().max() < 0.008


# ----------------------------------------------------------------------------------------------- nothing found
def test_a_phase_without_elements_says_why():
    rng = np.random.default_rng(13)
    continuum = rng.poisson(peaks({}, background=30))
    few = np.zeros(len(ENERGY), int)
    few[300:320] = 1
    table = identify_elements(as_spectra([np.zeros(len(ENERGY), int), few, continuum, rng.poisson(peaks({1.74: 900}))]))
    rows = table.groupby("phase").first()
    assert rows["decision"].tolist() == ["none", "none", "none", "found"]
    assert rows.loc[1, "reason"].startswith("no counts from 0.2")
    assert rows.loc[2, "reason"].startswith("20 counts, fewer than 50")
    assert "no line stands out by 5 sigma" in rows.loc[3, "reason"]
    assert np.isnan(rows.loc[1, "net_counts"])


def test_bad_input():
    spectra = as_spectra(expected_spectrum(MINERALS[0], 1e4).astype(int))
    channels = spectra.assign_coords(energy=("energy", np.arange(2048.0), {"units": "channel"}))
    with pytest.raises(ParameterError, match="calibrate STORE --energy-scale"):
        identify_elements(channels)
    with pytest.raises(ParameterError, match="beam energy"):
        identify_elements(spectra.assign_attrs({schema.BEAM_ENERGY: None}))
    with pytest.raises(ParameterError, match="Xx"):
        identify_elements(spectra, elements=["Si", "Xx"])
    with pytest.raises(ParameterError, match="that the spectra can show"):
        identify_elements(spectra, elements=["H"])
    with pytest.raises(ParameterError, match="phase: found 2"):
        identify_elements(spectra, phase=2)
    with pytest.raises(ParameterError, match="significance"):
        identify_elements(spectra, significance=float("nan"))
    with pytest.raises(ParameterError, match="at least 32"):
        identify_elements(spectra.sel(energy=slice(1.0, 1.2)))
    with pytest.raises(CountsError, match="not means"):
        identify_elements(spectra / 7)
    with pytest.raises(CountsError, match="negative"):
        identify_elements(-1.0 * spectra.assign_coords(spectra.coords))


# ------------------------------------------------------------------------------------------------------ pieces
@given(n=st.integers(1, 400), background=st.floats(0.5, 300))
def test_line_significance_is_that_of_poisson_counts(n, background):
    exact = norm.isf(poisson.sf(n - 1, background)) if n > background else norm.ppf(poisson.cdf(n, background))
    if abs(exact) < 12:
        # The tail includes n itself: half a count more or less is what a continuous formula can miss.
        assert line_significance(n, background, 0.0) == pytest.approx(exact, abs=0.2 + 1 / np.sqrt(background))


def test_an_uncertain_background_costs_significance():
    known, uncertain = (line_significance(10500.0, 10000.0, error) for error in (0.0, 100.0))
    assert known == pytest.approx(4.96, abs=0.02)
    # Gaussian limit: 500 over the root of 10000 + 100^2.
    assert uncertain == pytest.approx(500 / np.sqrt(20000), abs=0.1)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 999), scale=st.sampled_from([3.0, 100.0, 1e4]))
def test_fit_is_the_maximum_of_the_likelihood(seed, scale):
    rng = np.random.default_rng(seed)
    columns = rng.random((61, 5)) ** 3 + 0.01
    counts = rng.poisson(scale * columns @ np.array([1.0, 0.0, 2.0, 0.3, 0.0]))
    fit = fit_counts(
        columns, counts.astype(float), dispersion=np.ones(61), start=counts + 1.0, prior=np.full(5, np.inf)
    )

    def deviance(weights):
        expected = np.maximum(columns @ weights, 1e-3)
        return 2 * float((expected - counts - counts * np.log(expected / np.maximum(counts, 1))).sum())

    start = np.full(5, scale)
    best = minimize(
        deviance, start, bounds=[(0, None)] * 5, method="L-BFGS-B", options={"ftol": 1e-14, "maxiter": 5000}
    )
    assert fit.deviance == pytest.approx(deviance(fit.weights), rel=1e-9, abs=1e-6)
    assert fit.deviance <= best.fun + 0.05
    assert fit.weights.min() >= 0


def test_least_squares_of_any_choice_are_those_of_all_rows():
    rng = np.random.default_rng(14)
    channels, columns = 97, 23
    table = rng.random((channels, columns)) ** 4
    # Alike, almost alike, and nothing at all.
    table[:, 7], table[:, 11], table[:, 13] = table[:, 3], table[:, 5] + 1e-3 * table[:, 6], 0.0
    counts = rng.poisson(table[:, ::2] @ rng.uniform(0, 300, 12)).astype(float)
    variance, prior = counts + 1.0, np.full(columns, np.inf)
    prior[[2, 4, 13]] = 1.0
    reduced = Reduced(table, counts, variance, prior)
    rows = np.concatenate([table / np.sqrt(variance)[:, None], np.diag(1 / prior)[np.isfinite(prior)]])
    target = np.concatenate([counts / np.sqrt(variance), np.zeros(3)])
    for n in (5, 6, 17, 4, 23):
        chosen = np.sort(rng.permutation(columns)[:n])
        weights, norm = nnls(rows[:, chosen], target, maxiter=1000)
        assert reduced.solve(chosen)[0] == pytest.approx(norm**2, rel=1e-6)
        free = rows[:, chosen[weights > 0]]
        gains = reduced.gains(chosen)
        for column in set(range(columns)) - set(chosen.tolist()) - {3, 7, 5, 11, 13}:
            less = [np.linalg.lstsq(part, target)[1][0] for part in (free, np.column_stack([free, rows[:, column]]))]
            uphill = rows[:, column] @ (target - rows[:, chosen] @ weights) > 0
            assert gains[column] == pytest.approx(less[0] - less[1] if uphill else 0.0, rel=1e-4, abs=1e-6)


def test_families_of_known_elements():
    iron = families_of("Fe", low=0.2, high=20.0, beam=20.0)
    assert iron.lines[0].name == "Ka"
    # Bearden (1967): the mean of Ka1 and Ka2, weights 2 to 1.
    assert iron.lines[0].energy == pytest.approx((2 * 6.40384 + 6.39084) / 3, abs=0.001)
    assert all(group[0].name == "Ka" for group in iron.leading + iron.following)
    assert {group[0].name for group in iron.soft} >= {"La", "Ll"}
    at_5_kv = families_of("Fe", low=0.2, high=5.0, beam=5.0)
    assert {line.name[0] for line in at_5_kv.lines} == {"L"}
    lead = families_of("Pb", low=0.2, high=20.0, beam=20.0)
    assert lead.leading[0][0].name == "La"
    assert {group[0].name for group in lead.following} == {"La"}
    assert any(line.name == "Ma" for group in lead.following for line in group)
    assert families_of("Pb", low=0.2, high=9.0, beam=20.0).leading[0][0].name == "Ma"
    assert families_of("H", low=0.2, high=20.0, beam=20.0) is None


def test_every_element_has_a_symbol_and_columns_are_counts():
    assert set(ABUNDANCE) <= set(schema.PERIODIC_TABLE)
    channels = Channels(ENERGY[60:], 0.01)
    detector = Detector.with_resolution(130)
    assert detector.resolution == pytest.approx(130)
    for element in ("Si", "Pb", "Ba", "Zr"):
        families = families_of(element, low=0.25, high=19.9, beam=20.0)
        areas = channels.columns(families.generators, detector).sum(axis=0)
        weights = [sum(line.weight for line in group) for group in families.generators]
        np.testing.assert_allclose(areas, weights, rtol=0.02)


# ----------------------------------------------------------------------------------------- real data, and verb
@pytest.fixture(scope="module")
def dacite(tmp_path_factory):
    store = str(tmp_path_factory.mktemp("dacite") / "map.zarr")
    ds = edc.convert(real_data("P45_12bit_packed_8bit_compressed.bcf"), store)
    nmf = edc.nmf(ds.eds.window(0.2, 20), n_components=4)
    edc.save(nmf, store)
    phases = edc.segment_phases(nmf)
    edc.save(phases, store)
    edc.save(edc.phase_spectra(ds, phases=phases), store)
    return store


def test_elements_of_the_dacite(dacite):
    ds = edc.open(dacite)
    whole = xr.Dataset({schema.SPECTRUM: ds[schema.SUM_SPECTRUM].expand_dims({schema.PHASE: [0]})}, attrs=ds.attrs)
    table = identify_elements(whole)
    assert {"O", "Na", "Al", "Si", "K", "Ca", "Fe"} <= found(table)
    assert found(table) <= DACITE | {"C"}
    table = identify_elements(edc.load(dacite, "spectra/k4"))
    assert {"Na", "Al", "Si", "K", "Ca", "Fe"} <= found(table)
    assert found(table) <= DACITE | {"C"}
    # The smallest phase, ten pixels, is apatite.
    apatite = int(np.argmin(edc.load(dacite, "spectra/k4")[schema.N_PIXELS].values)) + 1
    assert {"Ca", "P"} <= found(table, apatite)


def test_elements_verb(dacite):
    done = CliRunner().invoke(main, ["elements", dacite, "--from", "spectra/k4", "--phase", "1", "--json"])
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["elements"]
    assert {"Si", "Al", "O"} <= {row["element"] for row in rows if row["decision"] == "found"}
    said = CliRunner().invoke(main, ["elements", dacite, "--phase", "1", "--elements", "Si,Al,Fe"]).stdout
    assert "Si Ka" in said
    assert "Al Si Fe" in said
    quiet = CliRunner().invoke(main, ["elements", dacite, "--phase", "1", "--elements", "Si,Al,Fe", "-q"]).stdout
    assert quiet == "1: Al Si Fe\n"
    bad = CliRunner().invoke(main, ["elements", dacite, "--elements", "Qq"])
    assert bad.exit_code == 2
    assert "chemical symbols" in bad.stderr
    assert CliRunner().invoke(main, ["elements", str(Path(dacite).parent / "none.zarr")]).exit_code == 2
