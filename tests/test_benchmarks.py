"""The benchmarks run, on tiny data, and say what they measured."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import codec, conversion, growth, measure
from benchmarks.__main__ import NAMES
from benchmarks.tasks import CONVERT, DRAW, STEPS, Measurement, Task
from eds_chunked import schema, synthetic
from eds_chunked.store.results import revisions
from tests import bcf_files
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
    assert steps == [step for step in schema.STEPS for _ in range(2)]


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
def test_main_prints_the_table(capsys):
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
