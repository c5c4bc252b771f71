"""The memory promise: the peak of a whole process stays under the budget, as the kernel counted it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("budget_run.py")
MB = 10**6


def run(folder: Path, height: int, width: int, counts: float, budget: str) -> subprocess.CompletedProcess[str]:
    arguments = [str(folder), str(height), str(width), str(counts), budget]
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True)


def test_a_map_five_times_the_budget(tmp_path: Path) -> None:
    budget = 700 * MB
    done = run(tmp_path, 1320, 1330, 12, f"{budget // MB}MB")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["dense_bytes"] >= 5 * budget
    assert result["peak_bytes"] <= budget, result["laps"]


def test_too_small_a_budget_is_refused_and_the_named_one_works(tmp_path: Path) -> None:
    refused = run(tmp_path / "small", 70, 90, 20, "350MB")
    assert refused.returncode != 0
    named = re.search(r"expected at least (\d+) MB .* Fix: --memory \1MB", refused.stderr)
    assert named, refused.stderr
    # Other steps of the run may need more than the one that refused first; each names its own figure.
    smallest = int(named[1])
    for attempt in range(4):
        done = run(tmp_path / f"enough{attempt}", 70, 90, 20, f"{smallest}MB")
        if done.returncode == 0:
            break
        again = re.search(r"expected at least (\d+) MB", done.stderr)
        assert again, done.stderr
        assert int(again[1]) > smallest
        smallest = int(again[1])
    result = json.loads(done.stdout)
    assert result["peak_bytes"] <= smallest * MB, result["laps"]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_the_full_size_map_in_one_gigabyte(tmp_path: Path) -> None:
    done = run(tmp_path, 1820, 1295, 400, "1GB")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    print(result["laps"])  # noqa: T201 - the figures of a long run are what it is for
    assert result["peak_bytes"] <= 1000 * MB, result["laps"]


WHOLE_RUN = """
import json, sys
import eds_chunked as edc
from eds_chunked import memory
rock = edc.synthetic.rock((75, 100, 2048), counts_per_pixel=100, grain_size=15)
edc.run(rock, sys.argv[1], memory=sys.argv[2])
print(json.dumps(memory.peak_resident()))
"""


def test_a_whole_run_with_figures_keeps_the_budget_that_its_refusal_names(tmp_path: Path) -> None:
    def whole_run(budget: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WHOLE_RUN, str(tmp_path / "map.zarr"), budget]
        return subprocess.run(command, capture_output=True, text=True)

    refused = whole_run("400MB")
    named = re.search(r"memory for run: .* Fix: --memory (\d+)MB", refused.stderr)
    assert named, refused.stderr
    assert not (tmp_path / "map.zarr").exists()
    done = whole_run(f"{named[1]}MB")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) <= int(named[1]) * MB
