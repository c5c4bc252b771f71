"""The benchmarks run, on tiny data, and say what they measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.decomposition import MiniBatchNMF

from benchmarks import (
    advice,
    codec,
    conversion,
    decomposition,
    growth,
    masks,
    measure,
    measure_decomposition,
    nmf_accuracy,
    nmf_order,
)
from benchmarks.__main__ import NAMES
from benchmarks.tasks import (
    CONVERT,
    DECOMPOSITIONS,
    DRAW,
    GEMM,
    HYPERSPY_NMF,
    HYPERSPY_PCA,
    OURS,
    PREPARE,
    STEPS,
    SYRK,
    Lap,
    Measurement,
    Task,
)
from eds_chunked import schema, synthetic
from eds_chunked.store.results import revisions
from tests import bcf_files
from tests.decomposition_maps import matrix, poisson_scaled, weights
from tests.real_data import real_data

PROJECT = Path(growth.__file__).parents[1]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


@LINUX
def test_every_step_is_measured_and_saved(tmp_path, monkeypatch):
    # Not in processes of their own, which would import everything seven times.
    monkeypatch.setattr(growth, "measure_apart", measure.measure)
    monkeypatch.setattr(growth.tempfile, "TemporaryDirectory", lambda: _Kept(tmp_path))
    found = list(growth.measurements([(67, 71)], steps=STEPS, channels=97, counts=20.0, memory="4GB", passes=2))
    assert [one.step for one in found] == list(STEPS)
    for one in found:
        assert one.pixels == 67 * 71
        assert 0 < one.seconds < 60
        assert 0 < one.idle_bytes <= one.peak_bytes < 4e9
    # Two passes of every step, each saved as a revision.
    steps = [revision.step for revision in revisions(tmp_path / "rock.zarr")]
    assert steps == [step for step in schema.RUN_STEPS for _ in range(2)]


class _Kept:
    """A temporary folder that is still there when the measurements are over."""

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        return str(self.folder)

    def __exit__(self, *error):
        pass


def test_failure_of_a_measurement_is_shown(tmp_path, monkeypatch):
    # Where there are no benchmarks: fails at once, and not after all imports.
    monkeypatch.setattr(growth, "PROJECT", tmp_path)
    with pytest.raises(SystemExit, match=r"pca on \(17, 23, 61\) failed:\n(.|\n)*No module named 'benchmarks'"):
        growth.measure_apart(Task(schema.PCA, "rock.zarr", (17, 23, 61), 20.0, "4GB", 1))


@LINUX
def test_peak_of_the_warm_up_does_not_count(tmp_path):
    _touch(400_000_000)
    one = measure.measure(Task(DRAW, str(tmp_path / "rock.zarr"), (7, 11, 61), 20.0, "4GB", 1))
    assert one.peak_bytes - one.idle_bytes < 200_000_000


@LINUX
def test_peak_of_the_step_counts(tmp_path, monkeypatch):
    monkeypatch.setitem(measure._RUN, DRAW, lambda task: _touch(400_000_000))
    one = measure.measure(Task(DRAW, str(tmp_path / "rock.zarr"), (7, 11, 61), 20.0, "4GB", 1))
    assert one.peak_bytes - one.idle_bytes > 390_000_000


def _touch(n_bytes):
    np.ones(n_bytes, np.uint8)


@LINUX
def test_main_prints_the_table(capsys, monkeypatch):
    # One measurement in a process of its own tells as much as four, which import everything.
    apart = growth.measure_apart
    monkeypatch.setattr(
        growth,
        "measure_apart",
        lambda task: (apart if (task.step, task.shape[0]) == (CONVERT, 29) else measure.measure)(task),
    )
    tiny = ["--sizes", "17x23", "29x31", "--channels", "61", "--memory", "4GB", "--passes", "1"]
    growth.main(["--steps", CONVERT, *tiny])
    told = capsys.readouterr()
    assert "20 counts a pixel, 61 channels, memory 4GB; best of 1;" in told.out
    assert told.out.count("| step | 0.391 kpx | 0.899 kpx | exponent |") == 2
    assert told.out.count("| convert |") == 2
    assert told.err.count("convert") == 2


def test_benchmark_runs_by_name():
    done = _run("growth", "--help")
    assert done.returncode == 0, done.stderr
    assert "usage: python -m benchmarks growth" in done.stdout


def _run(*arguments):
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("arguments", [[], ["speed"]])
def test_unknown_benchmark_is_told_the_known_ones(arguments):
    done = _run(*arguments)
    assert done.returncode == 1
    assert all(name in done.stderr for name in NAMES)


def test_every_benchmark_that_is_named_is_there():
    assert all((PROJECT / "benchmarks" / f"{name}.py").exists() for name in NAMES)


def test_one_size_shows_no_growth(capsys):
    with pytest.raises(SystemExit):
        growth.main(["--sizes", "3x5", "5x3"])
    assert "two sizes" in capsys.readouterr().err


def test_exponents_are_those_of_the_law():
    pixels = [120e3, 270e3, 480e3, 1080e3]
    assert growth.exponent(pixels, [3e-6 * n for n in pixels]) == pytest.approx(1)
    assert growth.exponent(pixels, [7 * n**2 for n in pixels]) == pytest.approx(2)
    assert growth.exponent(pixels, [5e8] * 4) == pytest.approx(0, abs=1e-12)


def test_table_has_a_row_a_step_and_a_column_a_size():
    found = [
        Measurement(step, pixels, seconds=2e-6 * pixels, idle_bytes=300 * 10**6, peak_bytes=350 * 10**6)
        for pixels in (480_000, 120_000)
        for step in (schema.PCA, CONVERT)
    ]
    lines = growth.table(found).splitlines()
    rows = [line for line in lines if line.startswith("| ")]
    assert rows == [
        "| step | 120 kpx | 480 kpx | exponent |",
        "| convert | 2 | 2 | 1.00 |",
        "| pca | 2 | 2 | 1.00 |",
        "| step | 120 kpx | 480 kpx | exponent |",
        "| convert | 350 (50) | 350 (50) | 0.00 |",
        "| pca | 350 (50) | 350 (50) | 0.00 |",
    ]


def test_needs_are_added_in_order():
    assert growth.with_needs([schema.GRAINS]) == [CONVERT, schema.NMF, schema.PHASES, schema.GRAINS]
    assert growth.with_needs(STEPS) == list(STEPS)


# ------------------------------------------------------------------------------------------------ codecs
def test_every_codec_is_measured_and_its_store_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(codec.tempfile, "tempdir", str(tmp_path))
    found = codec.measure((67, 131, 97), 20.0, codecs=codec.CODECS, passes=2, write_passes=3)
    assert [one.codec for one in found] == list(codec.CODECS)
    assert list(tmp_path.iterdir()) == []
    for one in found:
        assert {kind: len(laps) for kind, laps in one.seconds.items()} == {codec.WRITE: 3} | dict.fromkeys(
            codec.READS, 2
        )
        assert all(0 < lap < 60 for laps in one.seconds.values() for lap in laps)
        assert one.dtype == "uint8"
        assert one.nonzero_share == found[0].nonzero_share
        # Dense it is 64 x 64 x 97 bytes a tile, of which there are 2 x 3.
        assert 67 * 131 < one.bytes < 6 * 64 * 64 * 97
    assert found[0].bytes < found[1].bytes < found[2].bytes


@pytest.fixture(scope="module")
def store_of_a_rock(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("codec") / "rock.zarr")
    rock = synthetic.rock((17, 71, 97), counts_per_pixel=20.0, n_phases=codec.N_PHASES, energy_scale=0.2)
    _, truth = codec.write_stores(rock, {"counts": place}, passes=2)
    return place, truth, rock


def test_what_was_drawn_is_known_and_stored(store_of_a_rock):
    place, truth, rock = store_of_a_rock
    counts = np.asarray(codec.edc.open(place)[schema.COUNTS])
    drawn = next(rock.bands(17)).counts
    np.testing.assert_array_equal(counts.reshape(-1, 97).sum(axis=0), np.bincount(drawn.channel, drawn.value, 97))
    assert truth.nonzero == np.count_nonzero(counts) == len(drawn.value)
    assert truth.counts == counts.sum(dtype=np.uint64)
    np.testing.assert_array_equal(truth.label, rock.labels(0, 17))


@pytest.mark.parametrize("kind", codec.READS)
def test_passes_find_what_was_drawn(store_of_a_rock, kind):
    place, truth, _ = store_of_a_rock
    assert codec.Reading(place, truth).seconds(kind) > 0


@pytest.mark.parametrize(("kind", "what"), [(codec.CSR, "nonzero"), (codec.SUMS, "counts")])
def test_pass_that_finds_other_counts_is_no_measurement(store_of_a_rock, kind, what):
    place, truth, _ = store_of_a_rock
    drawn = getattr(truth, what)
    with pytest.raises(ValueError, match=f"{kind} found {drawn}, where {drawn + 1} were drawn"):
        codec.Reading(place, replace(truth, **{what: drawn + 1})).seconds(kind)


def test_dense_pass_reads_every_tile_once(store_of_a_rock, monkeypatch):
    place, truth, _ = store_of_a_rock
    reading = codec.Reading(place, truth)
    seen = np.zeros((17, 71), int)

    class Seen:
        chunks, shape, dtype = reading._array.chunks, reading._array.shape, reading._array.dtype

        def get_basic_selection(self, box, *, out):
            reading_of_zarr.get_basic_selection(box, out=out)
            np.testing.assert_array_equal(out.as_numpy_array(), reading_of_zarr[box])
            seen[box[:2]] += 1

    reading_of_zarr = reading._array
    monkeypatch.setattr(reading, "_array", Seen())
    reading.seconds(codec.DENSE)
    assert (seen == 1).all()


def _made(name, *, size, write, dense, csr, sums):
    laps = {codec.WRITE: [9.0, write], codec.DENSE: [dense, 9.0], codec.CSR: [csr], codec.SUMS: [9.0, sums, 9.0]}
    return codec.Figures(18.0, name, "uint8", 0.0125, size, laps)


def test_tables_tell_the_best_pass_and_the_goals_that_are_missed():
    ours = _made("counts", size=3_000_000, write=0.5, dense=2.0, csr=0.5, sums=0.75)
    ref = _made("zstd", size=4_000_000, write=1.0, dense=3.0, csr=4.0, sums=5.0)
    rows = [line for line in codec.tables([ours, ref]).splitlines() if line.startswith("| ")]
    assert rows == [
        "| codec | MB | write s | dense read s | CSR read s | masked sums s |",
        "| counts | 3.0 (0.75) | 0.50 (0.50) | 2.00 (1.50) | 0.50 (6.00) | 0.75 (1.50) |",
        "| zstd | 4.0 (1.00) | 1.00 (1.00) | 3.00 (1.00) | 4.00 (0.75) | 5.00 (1.25) |",
        "| counts is to reach | 18 counts |",
        "| size <= 1 of zstd | 0.75 |",
        "| write <= 1 of zstd | 0.50 |",
        "| dense read >= 2 x zstd | **1.50** |",
        "| CSR read >= 7 x dense zstd | **6.00** |",
        "| masked sums <= 1.3 of CSR read | **1.50** |",
    ]


def test_codec_benchmark_prints_tables_and_writes_every_pass(tmp_path, capsys):
    out = tmp_path / "codec.json"
    tiny = [
        "--shape",
        "17x71x97",
        "--doses",
        "18,100",
        "--codecs",
        "counts,zstd",
        "--passes",
        "2",
        "--write-passes",
        "1",
    ]
    codec.main([*tiny, "--json", str(out)])
    told = capsys.readouterr()
    assert "17 x 71 x 97" in told.out
    assert told.out.count("| counts |") == told.out.count("| zstd |") == 2
    assert "| counts is to reach | 18 counts | 100 counts |" in told.out
    document = json.loads(out.read_text())
    assert document["recipe"]["shape"] == [17, 71, 97]
    assert [(one["dose"], one["codec"]) for one in document["figures"]] == [
        (dose, name) for dose in (18.0, 100.0) for name in ("counts", "zstd")
    ]
    assert len(document["figures"][0]["seconds"][codec.DENSE]) == 2
    assert document["versions"]["zarr"] in told.out
    assert document["peak bytes"] > 0


@pytest.mark.parametrize("codecs", ["counts,lz4", "zstd,lz4", "counts,zstd,gzip"])
def test_codec_benchmark_compares_counts_and_zstd(codecs, capsys):
    with pytest.raises(SystemExit):
        codec.main(["--codecs", codecs])
    assert "counts and zstd are compared, of counts, zstd, lz4" in capsys.readouterr().err


def test_conversion_beside_the_load_finds_the_same_counts(capsys: pytest.CaptureFixture[str]) -> None:
    # RosettaSciIO wants a header as the vendor writes it.
    conversion.main([str(real_data("P45_the_default_job.bcf")), "--codecs", "counts", "lz4", "--passes", "1"])
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert rows[2:] == ["RosettaSciIO, eager load", "read", "convert, counts", "convert, lz4"]


def test_contestants_that_found_other_counts_end_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bcf_files.write(tmp_path / "map.bcf", [np.ones((3, 5, 61), np.uint16)])
    totals = iter([915, 914])
    monkeypatch.setattr(conversion, "timed", lambda script: conversion.Run(1.0, 10**6, next(totals, 915)))
    with pytest.raises(SystemExit, match="other counts"):
        conversion.main([str(tmp_path / "map.bcf"), "--passes", "1"])


# ------------------------------------------------------------------------------------------------ decompositions
def _in_process(task, *, limits=None, cold=False):
    """Measure here and not in a process of its own, which would import everything once a step."""
    if task.step.startswith(PREPARE):
        measure_decomposition.prepare(task)
        return Lap()
    return measure_decomposition.measure(task)


@LINUX
@pytest.mark.filterwarnings("ignore")  # HyperSpy has several.
def test_every_decomposition_is_measured_once_and_kept(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decomposition, "run_apart", _in_process)
    for module in (decomposition, measure_decomposition):
        monkeypatch.setattr(module, "TINY", (23, 37))
    tiny = ["--data", str(tmp_path), "--size", "29x31", "--channels", "61", "--memory", "4GB", "--passes", "1"]
    decomposition.main(tiny)
    told = capsys.readouterr()
    assert "29 x 31 x 61; ratios are those at 61 channels:" in told.out
    assert told.err.count("29x31x61") == len(DECOMPOSITIONS)
    assert told.err.count("23x37x61") == len(OURS)
    runs = decomposition.Record(tmp_path / "decomposition.json").runs
    laps = {cell.step: lap for cell, lap in runs.items() if not cell.cold}
    assert list(laps) == list(DECOMPOSITIONS)
    for lap in laps.values():
        assert lap.ended == ""
        assert 0 < lap.seconds < 60
        assert 0 < lap.first_seconds < 60
        assert 0 < lap.idle_bytes <= lap.peak_bytes
    # One pass to fit and one to project; products read nothing, and HyperSpy not through the engine.
    assert laps[schema.PCA].map_passes == 2
    assert {laps[step].map_passes for step in (GEMM, SYRK, HYPERSPY_PCA, HYPERSPY_NMF)} == {0}
    assert [cell.step for cell in runs if cell.cold] == list(OURS)
    decomposition.main(tiny)
    again = capsys.readouterr()
    # HyperSpy talks on stdout too.
    assert again.out == told.out[told.out.index("400 counts a pixel") :]
    assert again.err == ""


def test_products_stand_for_all_pixels():
    task, seen = Task(GEMM, "", (7, 11, 5), 1.0, "1GB", 1), []
    measure_decomposition.over_all_pixels(task, np.ones((30, 5)), lambda X: seen.append(len(X)))()
    assert seen == [30, 30, 17]


def test_products_add_up():
    X, Y = np.random.default_rng(3).normal(size=(2, 13, 7)).astype(np.float32)
    total = np.zeros((7, 7), np.float32, order="F")
    for block in (X, Y):
        measure_decomposition.add_product(block, total)
    np.testing.assert_allclose(total, X.T @ X + Y.T @ Y, rtol=1e-5, atol=1e-5)


@pytest.fixture
def contestant(tmp_path, monkeypatch):
    """Put a script in the place of the process that measures."""

    def put(script):
        (tmp_path / "benchmarks").mkdir()
        (tmp_path / "benchmarks" / "measure_decomposition.py").write_text(script)
        monkeypatch.setattr(decomposition, "PROJECT", tmp_path)
        return Task(HYPERSPY_NMF, "rock.zarr", (7, 11, 61), 20.0, "4GB", 1)

    return put


@pytest.mark.parametrize(
    ("limits", "ended"),
    [
        (decomposition.Limits(seconds=0.6), "stopped after 0.01 min"),
        (decomposition.Limits(n_bytes=2e8), "stopped at 0.2 GB"),
    ],
)
def test_contestant_over_its_limit_is_stopped(contestant, limits, ended):
    task = contestant("import time\nheld = b'1' * 300_000_000\ntime.sleep(60)")
    lap = decomposition.run_apart(task, limits=limits)
    assert lap.ended == ended
    assert lap.peak_bytes > 2e8 or limits.n_bytes == float("inf")
    assert lap.seconds < 30


def test_contestant_that_fails_says_why(contestant):
    task = contestant("raise ValueError('no such thing')")
    assert decomposition.run_apart(task) == Lap(ended="failed: ValueError: no such thing")


def test_cold_contestant_has_no_compiled_kernels(contestant):
    script = """
import json, os
folder = os.environ.get("NUMBA_CACHE_DIR", "none")
print("decomposing")
print(json.dumps({"ended": folder if folder == "none" else str(os.listdir(folder))}))
"""
    task = contestant(script)
    assert decomposition.run_apart(task, cold=True) == Lap(ended="[]")


def test_hyperspy_takes_part_on_small_maps_only():
    how = {"steps": None, "channels": 61, "counts": 20.0, "memory": "4GB", "passes": 2}
    large, small = ([cell.step for cell in decomposition.cells([size], **how)] for size in ((1820, 1295), (455, 324)))
    assert not {HYPERSPY_PCA, HYPERSPY_NMF} & set(large)
    # In turn, and then compiling.
    assert small == [*DECOMPOSITIONS, *DECOMPOSITIONS, *OURS]


def test_failed_run_is_tried_again_and_a_stopped_one_is_not(tmp_path, monkeypatch):
    cells = decomposition.cells([(7, 11)], steps=[GEMM, HYPERSPY_NMF], channels=61, counts=20.0, memory="4GB", passes=1)
    answers = iter([Lap(ended="failed: not there"), Lap(ended="stopped after 10 min"), Lap(seconds=3.0)])
    monkeypatch.setattr(
        decomposition, "run_apart", lambda task, **_: Lap() if task.step.startswith(PREPARE) else next(answers)
    )
    for ended in ("failed: not there", ""):
        runs = decomposition.measure_all(cells, tmp_path, decomposition.Record(tmp_path / "runs.json"))
        assert [lap.ended for lap in runs.values()] == [ended, "stopped after 10 min"]
    assert next(answers, None) is None


def _cell(step, side=3, number=0, cold=False):
    return decomposition.Cell(step, (side, 5, 61), 20.0, "1GB", number, cold)


def _lap(seconds, mega_bytes=400, **more):
    return Lap(seconds, 1.5 * seconds, 10**8, mega_bytes * 10**6, first_seconds=0.25, **more)


def test_tables_tell_medians_ratios_and_missed_goals():
    runs = {_cell(schema.PCA, number=i): _lap(s, map_passes=2.0) for i, s in enumerate((3.0, 6.0, 4.0))}
    runs |= {
        _cell(GEMM): _lap(10.0),
        _cell(SYRK): _lap(5.0),
        _cell(schema.NMF): _lap(7.0, 1001, map_passes=1.5),
        _cell("nmf-poisson"): Lap(ended="failed: not there"),
        _cell(HYPERSPY_PCA): _lap(30.0, 2000),
        _cell(HYPERSPY_NMF): Lap(150.0, peak_bytes=3 * 10**9, ended="stopped after 10 min"),
        _cell(schema.PCA, cold=True): _lap(0.1),
    }
    runs[_cell(schema.PCA, cold=True)] = Lap(0.1, first_seconds=4.0)
    rows = [line for line in decomposition.tables(runs).splitlines() if line.startswith("| ")]
    assert rows == [
        "| step | wall s | CPU s | peak MB | of gemm | of syrk | passes |",
        "| gemm | 10.0 | 15.0 | 400 | 1.00 | 2.00 |  |",
        "| syrk | 5.00 | 7.50 | 400 | 0.50 | 1.00 |  |",
        "| pca | 4.00 (3.00-6.00) | 6.00 | 400 | 0.40 | 0.80 | 2 |",
        "| nmf | 7.00 | 10.5 | 1001 | 0.70 | 1.40 | 1.5 |",
        "| nmf-poisson | failed: not there | |  | | | |",
        "| hyperspy-pca | 30.0 | 45.0 | 2000 | 3.00 | 6.00 |  |",
        "| hyperspy-nmf | stopped after 10 min | | 3000 | | | |",
        "| goal (products: on the full map, HyperSpy: on 1/16) | found |",
        "| pca / gemm <= 0.5 | 0.4 |",
        "| nmf / gemm <= 0.6 | **0.7** |",
        "| hyperspy-pca / pca >= 5 | 7.5 |",
        "| hyperspy-nmf / nmf >= 20 | 21.4 |",
        "| pca peak MB <= 1000 | 400 |",
        "| nmf peak MB <= 1000 | **1e+03** |",
        "| step | compiles | compiled by an earlier process | second call |",
        "| pca | 4.00 | 0.25 | 0.10 |",
    ]


def test_growth_is_told_by_exponents():
    runs = {_cell(schema.PCA, side): _lap(2e-6 * 5 * side**2, 300) for side in (4, 8, 16)}
    runs[_cell(schema.NMF, 4)] = _lap(1.0)
    rows = [line for line in decomposition.growth_table(runs) if line.startswith("| ")]
    assert rows == [
        "| step | 4 x 5 | 8 x 5 | 16 x 5 | exponent |",
        "| pca | 8 | 16 | 32 | 2.00 |",
        "| step | 4 x 5 | 8 x 5 | 16 x 5 | exponent |",
        "| pca | 300 | 300 | 300 | 0.00 |",
    ]


# ------------------------------------------------------------------------------------------------ accuracy of NMF
@pytest.fixture(scope="module", params=nmf_accuracy.TEXTURES)
def phantom(request):
    return nmf_accuracy.Phantom(nmf_accuracy.Problem(100.0, request.param, 3, (43, 37, 97)))


def test_truth_scores_full_marks_in_any_order(phantom):
    order = [2, 0, 3, 1]
    found = nmf_accuracy.score(3 * phantom.spectra[order], 7 * phantom.shares.T[order] + 2, phantom)
    # Arc cosines near 1 keep half of the digits.
    assert (found.worst, found.mean, found.r2) == pytest.approx((0, 0, 1), abs=1e-7)
    swapped = nmf_accuracy.score(phantom.spectra, phantom.shares.T[order], phantom)
    assert swapped.worst < 1e-7
    assert swapped.r2 < 0.5


def test_phantom_is_what_its_truth_says(phantom):
    counts = phantom.counts.reshape(-1, 97)
    expected = phantom.shares @ phantom.spectra
    chi_square = np.sum((counts - expected) ** 2 / np.maximum(expected, 1e-9)) / counts.size
    assert chi_square == pytest.approx(1, abs=0.05)
    np.testing.assert_array_equal(phantom.rows().toarray(), counts)
    order = np.random.default_rng(0).permutation(len(counts))
    mixed = phantom.dataset(order)[schema.COUNTS].values.reshape(-1, 97)
    np.testing.assert_array_equal(mixed, counts[order])


def test_fitted_loadings_are_as_likely_as_any(phantom):
    X, H = matrix(phantom.counts)[::7], phantom.spectra

    def divergence(W):
        model = W @ H
        return np.sum(model) - np.sum(X[X > 0] * np.log(model[X > 0]))

    fitted = nmf_accuracy.fitted_loadings(csr_matrix(X.astype(np.float32)), H)
    # Expectation maximisation (Richardson 1972, Lucy 1974) from even loadings, in NumPy.
    W = np.ones((len(X), len(H)))
    start = divergence(W)
    for _ in range(1000):
        W *= (X / (W @ H)) @ H.T / H.sum(axis=1)
    assert divergence(fitted) - divergence(W) < 1e-3 * (start - divergence(W))
    assert fitted.sum() == pytest.approx(W.sum(), rel=1e-3)


def test_best_number_of_passes_is_that_of_the_least_angle(monkeypatch):
    worst = {1: 0.3, 2: 0.2, 3: 0.25, 5: 0.1, 10: 0.15, 20: 0.12, 40: 0.01}
    seen = []

    def made_score(factors, loadings, phantom, *, passes):
        seen.append(passes)
        return nmf_accuracy.Score(worst[passes], 0.0, 0.5, passes)

    phantom = nmf_accuracy.Phantom(nmf_accuracy.Problem(100.0, "banded", 0, (43, 37, 97)))
    monkeypatch.setattr(nmf_accuracy, "score", made_score)
    assert nmf_accuracy._sklearn(phantom, tuple(worst)).passes == 5
    assert seen == [1, 2, 3, 5, 10, 20]


def test_accuracy_is_told_for_every_solver(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(nmf_accuracy, "QUICK", nmf_accuracy.Size((43, 37, 97), 1, (1, 2)))
    out = tmp_path / "accuracy.json"
    nmf_accuracy.main(["--quick", "--doses", "100", "--jobs", "1", "--json", str(out)])
    told = capsys.readouterr().out
    entries = json.loads(out.read_text())["scores"]
    assert [entry["problem"]["texture"] for entry in entries] == ["banded", "mixed"]
    for entry in entries:
        assert list(entry["scores"]) == [*nmf_accuracy.SOLVERS, nmf_accuracy.SKLEARN]
        for name, one in entry["scores"].items():
            assert one["failed"] == "", name
            assert 0 < one["mean"] <= one["worst"] < np.pi / 2, name
            assert 0 < one["r2"] < 1, name
    for name in entries[0]["scores"]:
        assert told.count(f"| {name} ") == 2


def test_accuracy_passes_and_fails_by_medians():
    score, theirs = nmf_accuracy.Score, nmf_accuracy.Score(0.10, 0.05, 0.9, 4)
    three = {
        "default": [score(0.104, 0.05, 0.899), score(0.104, 0.05, 0.8), score(0.9, 0.05, 0.896)],
        "sample, poisson": [theirs] * 3,
        "blockwise, frobenius": [score(0.106, 0.05, 0.9)] * 3,
        "blockwise, poisson": [score(0.1, 0.05, 0.9), score(failed="not there: loss"), score(0.1, 0.05, 0.9)],
        nmf_accuracy.SKLEARN: [theirs] * 3,
    }
    found = {
        nmf_accuracy.Problem(18.0, "banded", seed, (7, 11, 61)): {name: its[seed] for name, its in three.items()}
        for seed in range(3)
    }
    assert list(nmf_accuracy.table(found))[2:] == [
        "| 18 | banded | default | 0.1040 | 0.0500 | 0.8960 | +0.0040 | +0.0000 | -0.0040 | pass |",
        "| 18 | banded | sample, poisson | 0.1000 | 0.0500 | 0.9000 | +0.0000 | +0.0000 | +0.0000 | pass |",
        "| 18 | banded | blockwise, frobenius | 0.1060 | 0.0500 | 0.9000 | +0.0060 | +0.0000 | +0.0000 | **fail** |",
        "| 18 | banded | blockwise, poisson | not there: loss | | | | | | |",
        "| 18 | banded | scikit-learn KL (passes: 4) | 0.1000 | 0.0500 | 0.9000 | | | | |",
    ]


def test_oracles_see_the_scaled_counts(phantom):
    X = matrix(phantom.counts)
    scaled, root = nmf_order._scaled(phantom.rows())
    np.testing.assert_allclose(scaled.toarray(), poisson_scaled(X), rtol=1e-6)
    np.testing.assert_allclose(root, weights(X)[1])


def test_oracle_of_least_squares_stays_at_the_truth_without_noise(phantom):
    # There the true spectra explain all, and no pass can improve them.
    rows = csr_matrix((phantom.shares @ phantom.spectra).astype(np.float32))
    found = nmf_order._frobenius_oracle(rows, phantom.spectra)
    assert nmf_accuracy.cosines(found, phantom.spectra)[0].min() > 0.9999


def test_oracle_of_the_poisson_loss_is_the_multiplicative_update(phantom):
    X, start = matrix(phantom.counts), phantom.start()
    W, H = nmf_accuracy.fitted_loadings(phantom.rows(), start).astype(float), start

    def ratio():
        return X / np.maximum(W @ H, 1e-30)  # Pixels without counts have no model.

    # Lee & Seung (2001), in NumPy.
    for _ in range(10):
        W = W * (ratio() @ H.T / H.sum(axis=1))
        H = H * (W.T @ ratio() / W.sum(axis=0)[:, None])
    found = nmf_order._poisson_oracle(phantom.rows(), start)
    assert nmf_accuracy.cosines(found, H)[0].min() > 1 - 1e-6


def test_oracle_of_fitted_loadings_does_what_the_blockwise_solver_does():
    phantom = nmf_accuracy.Phantom(nmf_accuracy.Problem(100.0, "banded", 0, (43, 37, 97)))
    found = nmf_order.figures(phantom, "blockwise, poisson")
    assert found["fitted"] > 0.99


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")  # It is stopped on purpose.
def test_oracle_of_mini_batches_is_theirs_on_the_dense_matrix(phantom):
    X, start = matrix(phantom.counts), phantom.start()
    scaled, root = poisson_scaled(X), weights(X)[1]
    estimator = MiniBatchNMF(4, init="custom", batch_size=4096, forget_factor=0.7 ** (4096 / len(X)), max_iter=3, tol=0,
                             max_no_improvement=None, random_state=0)  # fmt: skip
    H = start / root
    estimator.fit_transform(
        scaled / np.linalg.svd(scaled, compute_uv=False)[0],
        W=np.ones((len(X), 4)),
        H=H / np.linalg.norm(H, axis=1)[:, None],
    )
    found = nmf_order._minibatch_oracle(phantom.rows(), start)
    assert nmf_accuracy.cosines(found, estimator.components_ * root)[0].min() > 0.9999


def test_order_is_told_for_every_solver(capsys):
    nmf_order.main(["--shape", "43x37x97", "--doses", "100"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| 100")]
    assert [row[1] for row in rows] == list(nmf_order.CONTESTANTS)
    for row in rows:
        told = {what: figure.strip("*") for what, figure in zip(nmf_order.GOALS, row[2:], strict=True)}
        # Only the solver of the Poisson loss has a second oracle.
        assert (told.pop("fitted") == "") == ("poisson" not in row[1])
        # scikit-learn has no mixture.
        assert (told["oracle"] == "") == (row[1] == "default")
        assert all(0 < float(figure) <= 1 for figure in told.values() if figure), row


def test_order_tells_what_misses_its_goal():
    assert nmf_order._told(0.9912, 0.99) == "0.99120"
    assert nmf_order._told(0.98, 0.99) == "**0.98000**"
    assert nmf_order._told("not there: start", 0.99) == "not there: start"


def test_rules_for_the_number_of_components_are_judged():
    verdicts = [
        advice.judge(kind, 3, 100.0, 0, shape=(61, 67, 151), with_stability=kind == "even") for kind in advice.KINDS
    ]
    assert [one.right for one in verdicts] == [3, 3, 4, 3, 3]
    even, *others = verdicts
    assert even.named[advice.EDGE] == even.named[advice.ELBOW] == 3
    assert even.first_noise < 1
    assert advice.STABILITY in even.named
    assert advice.STABILITY not in others[0].named
    head, _, *rows = advice.table(verdicts).splitlines()
    assert head.startswith("| rock | counts/pixel | noise edge | elbow | over 0.2 % |")
    assert [row.split(" | ")[0].strip("| ") for row in rows] == list(advice.KINDS)
    assert rows[0].startswith("| even | 100 | 1/1 | 1/1 |")
    assert " | - | " in rows[1]


def test_masks_are_those_of_the_whole_map_and_labels_are_compared_with_truth(capsys, tmp_path):
    out = tmp_path / "masks.json"
    assert masks.main(["--quick", "--json", str(out)]) == 0
    said = json.loads(out.read_text())
    assert [each["rule"] for each in said["costs"]] == ["otsu", "multiotsu", "triangle"]
    assert all(each["masks_that_differ"] == 0 and each["seconds"] > 0 for each in said["costs"])
    (labels,) = said["truths"]
    assert labels["right"] > 97
    assert sum(labels[name] for name in ("right", "wrong", "unassigned", "mixed")) == pytest.approx(100)
    assert "masks_that_differ" in capsys.readouterr().out
