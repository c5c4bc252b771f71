"""The benchmarks run, on tiny data, and say what they measured."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth, measure
from benchmarks.__main__ import NAMES
from benchmarks.tasks import CONVERT, DRAW, STEPS, Measurement, Task
from eds_chunked import schema
from eds_chunked.store.results import revisions

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
