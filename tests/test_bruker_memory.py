"""Converting a .bcf: resident memory of a process of its own, which does not grow with the height of the map."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MAKER = Path(__file__).parents[2] / "shared" / "tools" / "make_bcf.py"
MB = 10**6

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc"),
    pytest.mark.skipif(not MAKER.exists(), reason="the writer of made .bcf files is not there"),
]

CONVERT = """
import json, sys
import eds_chunked as edc
from eds_chunked import memory
ds = edc.convert(sys.argv[1], sys.argv[2], memory=sys.argv[3])
print(json.dumps([memory.peak_resident(), int(ds.sum_spectrum.sum()), ds.total_counts.values.sum().item()]))
"""


def made(folder: Path, height: int, width: int, counts: float) -> tuple[Path, int]:
    """Make a file with a truth, and return it with its counts."""
    path = folder / f"{height}.bcf"
    size = ["--height", str(height), "--width", str(width), "--channels", "2048", "--mean-counts", str(counts)]
    subprocess.run([sys.executable, "-B", str(MAKER), *size, "--flavour", "packed", str(path)], check=True)
    with np.load(path.with_suffix(".truth.npz"), allow_pickle=False) as truth:
        return path, int(truth["sum_spectrum"].sum())


def peak_of_conversion(path: Path, total: int, budget: str) -> int:
    command = [sys.executable, "-W", "ignore", "-c", CONVERT, str(path), str(path.with_suffix(".zarr")), budget]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    peak, in_channels, in_pixels = json.loads(done.stdout)
    assert in_channels == in_pixels == total
    return int(peak)


def test_the_peak_is_flat_in_height(tmp_path: Path) -> None:
    low, high = (peak_of_conversion(*made(tmp_path, height, 311, 100), "600MB") for height in (131, 1031))
    assert max(low, high) <= 600 * MB
    # Two-dimensional terms grow: positions of chunks, total counts, the electron image in the header.
    assert high - low < 40 * MB


@pytest.mark.long
def test_the_full_size_map_within_one_gigabyte(tmp_path: Path) -> None:
    assert peak_of_conversion(*made(tmp_path, 1295, 1820, 400), "1GB") < 1000 * MB
