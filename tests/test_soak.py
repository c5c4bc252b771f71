"""Long runs keep nothing, and readers of a store never meet a result that is torn or gone (docs/robustness.md)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import theilslopes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is given back by glibc")

WARM_UP = 2
"""Rounds in which libraries are imported, kernels compiled and caches filled."""

OBJECTS = 100
"""Objects that Python may keep track of more a round: dask and importlib_metadata have caches of some hundred entries
that fill for a while (20 to 50 a round were seen). A figure that is kept is thousands, an opened result hundreds."""


def lines(module: str, *words: object, timeout: float) -> list[dict[str, list[int]]]:
    command = [sys.executable, "-W", "ignore", "-m", module, *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("rounds", "pictures", "bytes_a_round"),
    [
        # The median of all slopes between two rounds: the heap grows in steps of some MB, which are no trend. A
        # report that is kept is 5 MB.
        pytest.param(5, [1], 1e6, id="short"),
        pytest.param(50, [], 5e5, id="long", marks=pytest.mark.long),
    ],
)
def test_the_workflow_again_and_again_keeps_nothing(
    tmp_path: Path, rounds: int, pictures: list[int], bytes_a_round: float
) -> None:
    found = lines("tests.soak", tmp_path, rounds, *pictures, timeout=3600)
    assert len(found) == rounds
    after = {name: np.array([one[name] for one in found[WARM_UP:]], float) for name in found[0]}
    slope = {name: theilslopes(values).slope for name, values in after.items()}
    assert slope["resident"] < bytes_a_round, after["resident"]
    assert slope["objects"] < OBJECTS, after["objects"]
    for name in ("files", "threads", "scratch"):
        assert after[name][-1] <= after[name][0], (name, after[name])


@pytest.mark.timeout(600)
def test_eight_readers_of_a_store_in_which_a_result_is_made_again(tmp_path: Path) -> None:
    runs = 3
    readers = lines("tests.shared_store", tmp_path, 8, runs, timeout=560)
    assert len(readers) == 8
    for reader in readers:
        assert reader["wrong"] == []
        # They looked while it was made again, and after.
        assert reader["met"][-1] == runs + 1
    assert {revision for reader in readers for revision in reader["met"]} == set(range(1, runs + 2))
