"""The comparison with peers runs, on tiny data, says what it measured, and judges rightly."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

import eds_chunked as edc
from benchmarks import apart, compare, limits, measure, ours, quality, rocks, tables
from benchmarks.apart import Cell, Lap, Limits, Record, Row, timed
from benchmarks.contest import LIMIT, OURS, Contestant
from benchmarks.contestants import CONTESTANTS, STEPS
from benchmarks.peers import EAGER, FLOX, LAZY, whole_map_masks
from benchmarks.rocks import RAW, STORE, Case
from eds_chunked import progress, schema
from eds_chunked.memory import MB

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")

_SHORT = (limits.COPY, ours.CONVERT, ours.SURVEY, schema.PCA, schema.PHASES, schema.SPECTRA, ours.SIZES_OF_GRAINS)
"""Together they have all peers."""


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return Case(str(tmp_path_factory.mktemp("rocks")), (67, 71, 97), 400.0, memory="4GB")


@pytest.fixture(scope="module")
def made(case):
    rocks.make(case, [STORE, RAW])
    return case


# ------------------------------------------------------------------------------------------------ the rocks
def test_all_forms_hold_the_same_counts(made):
    counts = edc.open(made.path(STORE))[schema.COUNTS].values
    np.testing.assert_array_equal(rocks.raw_counts(made), counts)
    assert rocks.n_counts(made) == counts.sum(dtype=np.uint64)
    from_file = edc.convert(made.path(RAW), f"{made.folder}/again.zarr", memory="4GB")
    np.testing.assert_array_equal(from_file[schema.COUNTS].values, counts)
    np.testing.assert_allclose(from_file[schema.ENERGY], edc.open(made.path(STORE))[schema.ENERGY])


def test_what_is_there_is_not_made_again_and_what_is_half_made_is(made, tmp_path):
    before = made.path(RAW).stat().st_mtime_ns
    rocks.make(made, [RAW])
    assert made.path(RAW).stat().st_mtime_ns == before
    # Killed while it was made: a part is no map.
    broken = replace(made, folder=str(tmp_path))
    (tmp_path / f"part-{broken.path(RAW).name}").write_text("key\tvalue\n")
    rocks.make(broken, [RAW])
    np.testing.assert_array_equal(rocks.raw_counts(broken), rocks.raw_counts(made))


def test_truth_is_that_of_the_rock(case):
    rock = case.rock()
    np.testing.assert_array_equal(case.label(), rock.labels(0, 67))
    assert case.drawn_grains() == len(np.unique(rock.grains(0, 67)))
    assert case.at(3, 5).path(STORE) != case.path(STORE) != replace(case, texture="banded").path(STORE)


# ------------------------------------------------------------------------------------------------ quality
def test_truth_is_judged_perfect_in_any_order(made):
    spectra = made.rock().spectra[[2, 0, 3, 1]]
    assert quality.worst_angle(7 * spectra, made)["worst angle"] < 1e-7
    assert quality.subspace_angle(spectra, made)["subspace angle"] < 1e-7
    centred = np.linalg.svd(spectra - spectra.mean(axis=0))[2][:4]
    assert quality.centred_subspace_angle(centred, made)["subspace angle"] < 1e-7
    assert quality.centred_subspace_angle(centred[::-1], made)["subspace angle"] > 0.1
    label = made.label()
    found = np.array([0, 2, 4, 1, 3, 9], np.uint8)[label]
    truth = quality.true_spectra(made)
    assert quality.pixels_right(found, spectra, truth, made) == pytest.approx(100 * np.mean(label <= 4))


def test_what_is_wrong_is_judged_so(made):
    spectra = made.rock().spectra[:4].copy()
    spectra[3] = spectra[0][::-1]
    assert quality.worst_angle(spectra, made)["worst angle"] > 0.1
    assert quality.subspace_angle(spectra, made)["subspace angle"] > 0.1
    unassigned = np.zeros(made.shape[:2], np.uint8)
    assert quality.pixels_right(unassigned, spectra, quality.true_spectra(made), made) == 0


def test_lost_counts_are_told(made):
    label = ours.label_of(made)
    counts = rocks.raw_counts(made).astype(np.uint64)
    sums = np.array([counts[label == phase].sum(axis=0) for phase in range(1, 5)])
    assert quality.counts_kept(sums, made, label > 0) == {"counts off": 0}
    sums[0, 0] += 3
    assert quality.counts_kept(sums, made, label > 0) == {"counts off": 3}


def test_true_spectra_of_a_window_are_those_of_its_channels(made):
    energy = edc.open(made.path(STORE))[schema.ENERGY].values[11:53]
    np.testing.assert_array_equal(quality.true_spectra(made, energy), made.rock().spectra[:4, 11:53])


def test_masks_of_the_whole_map_are_ours(made):
    nmf = edc.load(made.path(STORE), schema.NMF)
    masks = whole_map_masks(nmf[schema.LOADINGS].values)
    np.testing.assert_array_equal(edc.segment_phases(nmf)[schema.MASK], masks)
    masks[0, 3, 5] ^= True
    label = np.zeros(made.shape[:2], np.uint8)
    assert quality.phases_right((masks, label), made)["mask pixels unlike scikit-image's"] == 1


# ------------------------------------------------------------------------------------------------ contestants
def test_short_tests_meet_all_peers():
    assert {one.side for one in CONTESTANTS.values() if one.step in _SHORT} == {
        one.side for one in CONTESTANTS.values()
    }


def test_every_step_of_ours_takes_part():
    assert {key for key in CONTESTANTS if key[1] == OURS} == {
        (step, OURS) for step in STEPS if step not in {one.step for one in limits.LIMITS}
    }
    assert set(schema.RUN_STEPS) <= set(STEPS)
    assert all(one.settings for one in CONTESTANTS.values())


@LINUX
@pytest.mark.filterwarnings("ignore")  # The peers have several.
@pytest.mark.parametrize("steps", [_SHORT, pytest.param(STEPS, marks=pytest.mark.long)], ids=["short", "all"])
def test_all_are_measured_kept_and_told(steps, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rocks, "TINY", (43, 37))
    monkeypatch.setattr(compare, "run_apart", _in_process)
    tiny = ["--data", str(tmp_path), "--size", "67x71", "--channels", "97", "--memory", "4GB", "--passes", "1"]
    tiny += ["--steps", *steps]
    compare.main(tiny)
    told = capsys.readouterr()
    runs = {(cell.step, cell.side): lap for cell, lap in Record(tmp_path / "compare.json", {}).runs.items()}
    taking_part = {key: one for key, one in CONTESTANTS.items() if key[0] in steps}
    assert set(runs) == {key for key, one in taking_part.items() if not compare._absent(one)}
    for key, lap in runs.items():
        assert lap.ended == "", key
        assert 0 <= lap.seconds < 60, key
        assert 0 < lap.idle_bytes <= lap.peak_bytes, key
        # Sums are exact, whoever makes them.
        assert lap.quality.get("counts off", 0) == 0, key
        assert lap.map_passes == 0 or key[1] == OURS, key
    # One pass to fit and one to project.
    assert runs[schema.PCA, OURS].map_passes == 2
    assert runs[ours.SURVEY, OURS].quality["one-pixel mineral found"] == 1
    assert runs[schema.PHASES, OURS].quality["mask pixels unlike scikit-image's"] == 0
    assert runs[ours.SIZES_OF_GRAINS, OURS].quality["off the published, most"] < 1e-3
    if ours.RESIDUAL in steps:
        assert runs[ours.RESIDUAL, OURS].quality["mean chi-square"] == pytest.approx(1, abs=0.1)
        assert runs[ours.RUN, OURS].quality["pixels right %"] > 30
    for step, side in taking_part:
        assert told.out.count(f"| {step} | {side} |") >= 2
    document = json.loads((tmp_path / "compare.json").read_text())
    assert document["machine"]["versions"]["zarr"] in told.out
    assert document["data"]["seed"] == 0
    # A second time nothing runs.
    monkeypatch.setattr(compare, "run_apart", None)
    compare.main(tiny)
    again = capsys.readouterr()
    assert again.err == ""
    assert again.out == told.out[-len(again.out) :]  # HyperSpy talks on stdout too.


def test_a_whole_run_is_judged_in_its_window(made):
    store = made.path(STORE)
    results = {step: edc.load(store, step) for step in (schema.NMF, schema.PHASES)}
    found = quality.whole_run(results, made)
    assert found == {"phases": 4, "pixels right %": pytest.approx(100, abs=5)}


def _in_process(module, task, **_):
    """Measure here and not in a process of its own, which would import everything once a step."""
    assert module == compare.MODULE
    return measure.do(task)


def test_products_stand_for_all_pixels():
    seen = []
    limits.over_all_pixels(77, np.ones((30, 5)), lambda X: seen.append(len(X)))()
    assert seen == [30, 30, 17]


def test_products_add_up():
    X, Y = np.random.default_rng(3).normal(size=(2, 13, 7)).astype(np.float32)
    total = np.zeros((7, 7), np.float32, order="F")
    for block in (X, Y):
        limits.add_product(block, total)
    np.testing.assert_allclose(total, X.T @ X + Y.T @ Y, rtol=1e-5, atol=1e-5)


def test_bare_read_reads_all_bytes_of_the_counts(made):
    read = CONTESTANTS[limits.READ, LIMIT].prepare(made)()
    stored = sum(file.stat().st_size for file in (made.path(STORE) / "map").rglob("*") if file.is_file())
    assert read == stored > 0


# ------------------------------------------------------------------------------------------------ processes
@pytest.fixture
def process(tmp_path, monkeypatch):
    """Put a script in the place of the process that measures."""

    def put(script):
        (tmp_path / "made_up.py").write_text(script)
        monkeypatch.setattr(apart, "PROJECT", tmp_path)
        return "made_up"

    return put


@pytest.mark.parametrize(
    ("limit", "ended"),
    [(Limits(seconds=0.6), "stopped after 0.01 min"), (Limits(n_bytes=2e8), "stopped at 0.2 GB")],
)
def test_process_over_its_limit_is_stopped(process, limit, ended):
    module = process("import time\nheld = b'1' * 300_000_000\ntime.sleep(60)")
    lap = apart.run_apart(module, {}, limits=limit)
    assert lap.ended == ended
    assert lap.peak_bytes > 2e8 or limit.n_bytes == float("inf")
    assert lap.seconds < 30


def test_memory_of_children_counts(process):
    child = "held = b'1' * 300_000_000; import time; time.sleep(60)"
    module = process(f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}])")
    assert apart.run_apart(module, {}, limits=Limits(n_bytes=2e8)).ended == "stopped at 0.2 GB"


def test_process_that_fails_says_why(process):
    module = process("raise ValueError('no such thing')")
    assert apart.run_apart(module, {}) == Lap(ended="failed: ValueError: no such thing")


def test_process_that_is_killed_says_so(process):
    module = process("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert apart.run_apart(module, {}).ended == "killed: SIGKILL"


def test_cold_process_has_no_compiled_kernels(process):
    module = process(
        """
import json, os
folder = os.environ.get("NUMBA_CACHE_DIR", "none")
print("measuring")
print(json.dumps({"ended": folder if folder == "none" else str(os.listdir(folder))}))
"""
    )
    assert apart.run_apart(module, {}, cold=True) == Lap(ended="[]")


@LINUX
def test_peak_is_that_of_the_step():
    np.ones(400_000_000, np.uint8)  # The warm-up's peak does not count.
    quiet, _ = apart.timed(lambda: None, n_pixels=1)
    assert quiet.peak_bytes - quiet.idle_bytes < 200_000_000
    loud, _ = apart.timed(lambda: np.ones(400_000_000, np.uint8), n_pixels=1)
    assert loud.peak_bytes - loud.idle_bytes > 390_000_000


# ------------------------------------------------------------------------------------------------ the plan
def _named(*keys):
    return [CONTESTANTS[key] for key in keys]


def test_sides_take_turns_and_peers_run_once_on_large_maps():
    contestants = _named((schema.PCA, OURS), (schema.PCA, LAZY))
    cases = [Case("", (*rocks.SIZES[size], 61), 20.0) for size in ("1/16", "full")]
    found = [
        (case.pixels, one.side, cell.number, cell.cold)
        for one, case, cell in compare.plan(contestants, cases, passes=2, cold=True)
    ]
    small, large, tiny = 455 * 324, 1820 * 1295, 72 * 80
    assert found == [
        *[(small, side, number, False) for number in (0, 1) for side in (OURS, LAZY)],
        (large, OURS, 0, False),
        (large, LAZY, 0, False),
        (large, OURS, 1, False),
        (tiny, OURS, 0, True),
    ]


def test_steps_and_peers_are_chosen():
    assert [one.side for one in compare.chosen([schema.PCA], ["none"])] == [OURS]
    assert [one.side for one in compare.chosen([schema.SPECTRA], [FLOX, EAGER])] == [OURS, EAGER, FLOX]
    assert compare.chosen(None, None) == list(CONTESTANTS.values())


def test_failed_run_is_tried_again_and_a_stopped_one_is_not(tmp_path, monkeypatch):
    case = Case(str(tmp_path), (7, 11, 61), 20.0)
    wanted = list(compare.plan(_named((schema.PCA, OURS), (schema.PCA, LAZY)), [case], passes=1, cold=False))
    answers = iter([Lap(ended="failed: not there"), Lap(ended="stopped after 10 min"), Lap(seconds=3.0)])
    monkeypatch.setattr(compare, "run_apart", lambda module, task, **_: Lap() if "make" in task else next(answers))
    for ended in ("failed: not there", ""):
        runs = compare.measure_all(wanted, Record(tmp_path / "runs.json", {}))
        assert [lap.ended for lap in runs.values()] == [ended, "stopped after 10 min"]
    assert next(answers, None) is None


def test_peer_that_was_stopped_is_not_run_again(tmp_path, monkeypatch):
    case = Case(str(tmp_path), (7, 11, 61), 20.0)
    wanted = list(compare.plan(_named((schema.PCA, OURS), (schema.PCA, LAZY)), [case], passes=3, cold=False))
    ends = {OURS: "", LAZY: "stopped after 10 min"}
    monkeypatch.setattr(
        compare, "run_apart", lambda module, task, **_: Lap(ended=ends[task["side"]] if "side" in task else "")
    )
    runs = compare.measure_all(wanted, Record(tmp_path / "runs.json", {}))
    assert [(cell.side, cell.number) for cell in runs] == [(OURS, 0), (LAZY, 0), (OURS, 1), (OURS, 2)]


def test_peer_that_is_not_installed_has_a_row_that_is_not_kept(tmp_path, monkeypatch):
    missing = Contestant(schema.PCA, "other", lambda case: None, "settings", packages=("no_such_package",))
    case = Case(str(tmp_path), (7, 11, 61), 20.0)
    monkeypatch.setattr(compare, "run_apart", None)
    record = Record(tmp_path / "runs.json", {})
    runs = compare.measure_all(list(compare.plan([missing], [case], passes=1, cold=False)), record)
    assert [lap.ended for lap in runs.values()] == ["not installed: no_such_package"]
    assert record.runs == {}


# ------------------------------------------------------------------------------------------------ tables
def _cell(step, side=OURS, rows=3, number=0, counts=20.0, cold=False):
    return Cell(step, side, (rows, 5, 61), counts, "grains", "1GB", number, cold)


def _lap(seconds, mega_bytes=400, **more):
    return Lap(seconds, 1.5 * seconds, 10**8, mega_bytes * MB, first_seconds=0.25, **more)


def _rows(lines):
    return [line for line in lines if line.startswith("| ")]


def test_tables_tell_medians_multiples_quality_and_missed_goals():
    runs = {
        _cell(limits.GEMM, LIMIT): _lap(10.0),
        **{_cell(schema.PCA, number=i): _lap(s, map_passes=2.0) for i, s in enumerate((3.0, 6.0, 4.0))},
        _cell(schema.PCA, LAZY): _lap(30.0, 2000, quality={"subspace angle": 0.125}),
        _cell(schema.NMF): _lap(7.0, 1001, map_passes=1.5),
        _cell(schema.NMF, LAZY): Lap(150.0, peak_bytes=3000 * MB, ended="stopped after 10 min"),
        _cell(ours.NMF_POISSON): Lap(ended="failed: not there"),
        _cell(schema.PCA, cold=True): Lap(0.1, first_seconds=4.0),
    }
    settings = {(cell.step, cell.side): "as documented" for cell in runs}
    bases = f"{OURS} | {limits.READ} | {limits.COPY} | gemm | syrk"
    assert _rows(tables.tables(runs, settings).splitlines()) == [
        f"| step | side | wall s | CPU s | peak MB | passes | quality | {bases} |",
        "| gemm | limit | 10.0 | 15.0 | 400 |  |  |  |  |  | 1 |  |",
        "| pca | eds_chunked | 4.00 (3.00-6.00) | 6.00 | 400 | 2 |  | 1 |  |  | 0.4 |  |",
        "| pca | HyperSpy lazy | 30.0 | 45.0 | 2000 |  | subspace angle 0.125 | 7.5 |  |  | 3 |  |",
        "| nmf | eds_chunked | 7.00 | 10.5 | 1001 | 1.5 |  | 1 |  |  | 0.7 |  |",
        "| nmf | HyperSpy lazy | stopped after 10 min | | 3000 | | | | | | | |",
        "| nmf, blockwise poisson | eds_chunked | failed: not there | |  | | | | | | | |",
        "| goal (products: on the full map, HyperSpy: on 1/16) | found |",
        "| pca eds_chunked / gemm limit <= 0.5 | 0.4 |",
        "| nmf eds_chunked / gemm limit <= 0.6 | **0.7** |",
        "| pca HyperSpy lazy / pca eds_chunked >= 5 | 7.5 |",
        "| nmf HyperSpy lazy / nmf eds_chunked >= 20 | 21.4 |",
        "| pca peak MB <= 1000 | 400 |",
        "| nmf peak MB <= 1000 | **1e+03** |",
        "| step | compiles | compiled by an earlier process | second call |",
        "| pca | 4.00 | 0.25 | 0.10 |",
        "| step | side | settings |",
        *[f"| {step} | {side} | as documented |" for step, side in settings],
    ]


def test_peers_that_are_faster_are_told():
    runs = {
        (schema.PHASES, OURS): Row((_lap(1.5, 450), _lap(1.7, 450))),
        (schema.PHASES, LAZY): Row((_lap(0.5, 300),)),
        (schema.PHASES, EAGER): Row((_lap(1.65, 300),)),
        (schema.PCA, OURS): Row((_lap(1.5),)),
        (schema.PCA, LAZY): Row((_lap(0.1, ended="stopped at 20 GB"),)),
        (limits.GEMM, LIMIT): Row((_lap(0.1),)),
    }
    assert _rows(tables.faster_table(runs)) == [
        "| step | who is faster | wall s | peak MB | ours: wall s | peak MB |",
        "| phases | HyperSpy lazy | 0.50 | 300 | 1.60 | 450 |",
    ]
    del runs[schema.PHASES, LAZY]
    assert list(tables.faster_table(runs)) == []


def test_growth_is_told_by_exponents():
    runs = {_cell(schema.PCA, rows=rows): _lap(2e-6 * 5 * rows**2, 300) for rows in (16, 4, 8)}
    runs[_cell(schema.NMF, rows=4)] = _lap(1.0)
    assert _rows(tables.growth_tables(runs)) == [
        "| step | side | 4 x 5 | 8 x 5 | 16 x 5 | exponent |",
        "| pca | eds_chunked | 8 | 16 | 32 | 2.00 |",
        "| step | side | 4 x 5 | 8 x 5 | 16 x 5 | exponent |",
        "| pca | eds_chunked | 300 | 300 | 300 | 0.00 |",
    ]


def test_cost_by_dose_is_told():
    runs = {_cell(schema.PCA, counts=counts): _lap(counts / 10) for counts in (100.0, 18.0)}
    assert _rows(tables.dose_tables(runs)) == [
        "| step | side | 18 | 100 |",
        "| pca | eds_chunked | 1.8 | 10 |",
    ]
    assert list(tables.dose_tables({_cell(schema.PCA): _lap(1.0)})) == []


def test_exponents_are_those_of_the_law():
    pixels = [120e3, 270e3, 480e3, 1080e3]
    assert tables.exponent(pixels, [3e-6 * n for n in pixels]) == pytest.approx(1)
    assert tables.exponent(pixels, [7 * n**2 for n in pixels]) == pytest.approx(2)
    assert tables.exponent(pixels, [5e8] * 4) == pytest.approx(0, abs=1e-12)


def test_a_row_is_ended_if_any_run_is():
    assert Row((_lap(1.0), Lap(ended="killed: SIGKILL"))).ended == "killed: SIGKILL"
    assert Row((_lap(3.0), _lap(1.0))).told_seconds() == "2.00 (1.00-3.00)"


def test_passes_are_counted_of_pixels_alone():
    def run():
        for total, how in ((10, {}), (3, {"unit": ""})):
            with progress.step("test", total, **how) as done:
                done(total)

    assert timed(run, n_pixels=10)[0].map_passes == 1
