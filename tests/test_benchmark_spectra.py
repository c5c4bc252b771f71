"""The benchmark of spectra runs, on tiny data, and judges its goals."""

import sys

import numpy as np
import pytest

import eds_chunked as edc
from benchmarks import measure, spectra
from benchmarks.apart import Lap
from eds_chunked import schema

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")


def in_process(module, task):
    """Make the rock here and not in a process of its own, which would import everything."""
    assert module == "benchmarks.measure"
    return measure.do(task)


def test_every_step_is_measured_and_nothing_is_written_into_the_rock(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(spectra, "run_apart", in_process)
    monkeypatch.setattr(spectra, "measure_apart", spectra.measure)
    tiny = ["--data", str(tmp_path), "--size", "67x71", "--channels", "61", "--memory", "4GB", "--passes", "1"]
    spectra.main(tiny)
    told = capsys.readouterr()
    assert [line.split("  ")[0] for line in told.err.splitlines()] == list(spectra.STEPS)
    assert "67 x 71 x 61, 400 counts a pixel" in told.out
    assert told.out.count("\n| ") == len(spectra.STEPS) + 2 + len(spectra.GOALS) + 3
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    spectra.main([*tiny, "--steps", spectra.OF_GRAINS])
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_grains_are_numbered_by_phase_and_then_row_by_row(tmp_path):
    ds = edc.convert(edc.synthetic.rock((83, 91, 16), energy_scale=1.0), tmp_path / "rock.zarr")
    grains = spectra.grains_of(ds)
    label = grains[schema.GRAIN_LABEL].values
    assert label.min() == 1
    assert label.max() == grains.sizes[schema.GRAIN] == pytest.approx(83 * 91 / 23.6, rel=0.1)
    first = np.unique(label, return_index=True)[1]
    # Of four phases: in each the first pixels are in raster order.
    assert np.count_nonzero(np.diff(first) < 0) == spectra.N_PHASES - 1


def test_a_table_with_other_counts_is_no_measurement(tmp_path):
    ds = edc.convert(edc.synthetic.rock((17, 23, 16), energy_scale=1.0), tmp_path / "rock.zarr")
    found = edc.grain_spectra(ds, grains=spectra.grains_of(ds))
    n_counts = int(ds[schema.SUM_SPECTRUM].sum())
    spectra._check_table(found, n_counts)
    with pytest.raises(ValueError, match="no measurement"):
        spectra._check_table(found, n_counts + 1)


def test_goals_that_are_missed_are_bold():
    def laps(seconds, peak):
        return [Lap(seconds, 2 * seconds, 300 * 10**6, peak)]

    found = {
        spectra.CSR_PASS: laps(1.0, 4e8),
        spectra.STORE_PASS: laps(2.0, 4e8),
        spectra.OF_LABELS: laps(1.25, 4e8),
        spectra.OF_GRAINS: laps(3.5, 2e9),
    }
    lines = spectra.tables(found, budget=10**9, n_grains=1234).splitlines()
    assert lines[5] == "| 1234 grains | 3.50 (3.50-3.50) | 7.00 | 2000 | 300 | 3.50 | 1.75 |"
    assert lines[-4:] == [
        "| 4 phases <= 1.3 of a CSR pass | 1.25 |",
        "| grains <= 1.5 of a store pass | **1.75** |",
        "| 4 phases peak MB <= 1000 | 400 |",
        "| grains peak MB <= 1000 | **2e+03** |",
    ]
