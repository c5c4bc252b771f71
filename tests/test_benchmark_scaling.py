"""The model of a pass on a cluster, where its answer can be told without it."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.cluster_model import GROUP, Machines, Pass, simulate
from eds_chunked.engine import lanes

SLOW_NETWORK = 1e6


def test_the_groups_are_those_of_the_engine():
    assert GROUP == lanes._GROUP


def test_one_worker_does_one_task_after_the_other_and_sends_nothing():
    found = simulate(Pass(100, lane=0.5, join=0.01, finish=2.0, result_bytes=1e6), Machines(1, SLOW_NETWORK, 0.0))
    # Joins of groups that are complete go on beside the lanes in the model; those of the end come after them.
    assert 52.0 < found.seconds < 53.0
    assert found.bytes_sent == 0
    assert found.n_tasks == 100 + 99 + 1


def test_lanes_without_results_are_shared_evenly():
    found = simulate(Pass(128, lane=1.0, join=0.0, finish=0.0, result_bytes=0), Machines(64, SLOW_NETWORK, 0.0))
    assert found.seconds == pytest.approx(2.0)
    assert found.worker_share == pytest.approx(1.0)


def test_a_slow_scheduler_is_the_limit():
    found = simulate(Pass(1000, lane=0.1, join=0.0, finish=0.0, result_bytes=0), Machines(1000, SLOW_NETWORK, 0.01))
    assert found.seconds == pytest.approx(20.0)
    assert found.scheduler_share == pytest.approx(1.0)


def test_large_results_take_their_way_to_whoever_joins_them():
    work, machines = Pass(16, lane=1.0, join=0.0, finish=0.0, result_bytes=2e6), Machines(16, SLOW_NETWORK, 0.0)
    found = simulate(work, machines)
    assert found.bytes_sent == 15 * 2e6
    assert found.seconds == pytest.approx(1.0 + 15 * 2.0)


@pytest.mark.long
def test_the_benchmark_measures_and_models(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "scaling", "--data", str(tmp_path), "--shape", "260x300x128"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "| grains |" in done.stdout
    assert "A terabyte: 15625 x 15625 pixels" in done.stdout
