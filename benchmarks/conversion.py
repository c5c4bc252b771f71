"""Convert a .bcf beside what RosettaSciIO takes merely to load it.

    python -m benchmarks conversion map.bcf [--codecs counts zstd] [--memory 1GB] [--passes 3]

Every run is a process of its own, in turn (A B C A B C ...), so that a noisy machine is as noisy for all. The seconds
are those of the call, its imports and compiled kernels before it; the peak is that of the whole process. ``read`` drops
the bands that the reader makes: the part of the conversion that is not encoding and writing.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

from eds_chunked.memory import MB, n_cpus
from eds_chunked.store.provenance import versions
from eds_chunked.store.tile_codecs import TILE_CODECS

LOAD = "RosettaSciIO, eager load"
READ = "read"

_TIMED = """
import json, sys, time
from eds_chunked import memory
{prepare}
start = time.perf_counter()
{work}
seconds, peak = time.perf_counter() - start, memory.peak_resident()
print(json.dumps([seconds, peak, int({total})]))
"""


class Run(NamedTuple):
    """One call: its seconds, the peak of its process in bytes, and the counts that it found."""

    seconds: float
    peak: int
    total: int


def scripts(source: Path, folder: Path, *, codecs: Sequence[str], memory: str) -> dict[str, str]:
    """Return the Python text of each contestant. Compiled kernels are cached on disk from the first pass on."""
    path = repr(str(source))
    load = f"found = file_reader({path}, select_type='spectrum_image')"
    # The sum that shows that all was read costs a few hundredths of the reading.
    read = f"total = sum(int(band.counts.value.sum(dtype='u8')) for band in open_source({path}).bands(64))"
    made = {
        LOAD: ("from rsciio.bruker import file_reader", load, "sum(one['data'].sum(dtype='u8') for one in found)"),
        READ: ("from eds_chunked.readers import open_source", read, "total"),
    }
    for codec in codecs:
        store = repr(str(folder / "map.zarr"))
        made[f"convert, {codec}"] = (
            f"import shutil, eds_chunked as edc\nedc.convert\nshutil.rmtree({store}, ignore_errors=True)",
            f"ds = edc.convert({path}, {store}, codec={codec!r}, memory={memory!r})",
            "ds.sum_spectrum.sum()",
        )
    return {name: _TIMED.format(prepare=first, work=work, total=total) for name, (first, work, total) in made.items()}


def timed(script: str) -> Run:
    """Run a script in a process of its own."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"a contestant failed:\n{done.stderr}")
    return Run(*json.loads(done.stdout.splitlines()[-1]))


def table(found: dict[str, list[Run]]) -> str:
    """Return the Markdown table: medians, and how often faster than the load each is."""
    base = median(run.seconds for run in found[LOAD])
    lines = ["| | seconds (median, least, most) | times faster | peak MB |", "|---|---:|---:|---:|"]
    for name, runs in found.items():
        seconds = sorted(run.seconds for run in runs)
        times = f"{median(seconds):.1f} ({seconds[0]:.1f}, {seconds[-1]:.1f})"
        lines.append(f"| {name} | {times} | {base / median(seconds):.2f} | {max(run.peak for run in runs) / MB:.0f} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run all contestants, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks conversion", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("source", type=Path, metavar="map.bcf")
    parser.add_argument("--codecs", nargs="+", choices=sorted(TILE_CODECS), default=["counts", "zstd"])
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--passes", type=int, default=3)
    given = parser.parse_args(arguments)

    found: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = scripts(given.source.resolve(), Path(folder), codecs=given.codecs, memory=given.memory)
        for number in range(given.passes):
            for name, script in made.items():
                run = timed(script)
                print(f"pass {number + 1}  {name:<28} {run.seconds:7.2f} s {run.peak / MB:6.0f} MB", file=sys.stderr)
                found.setdefault(name, []).append(run)
    totals = {name: sorted({run.total for run in runs}) for name, runs in found.items()}
    if len({tuple(total) for total in totals.values()}) > 1:
        sys.exit(f"the contestants found other counts: {totals}")
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    print(f"{given.source.name}, {given.source.stat().st_size / MB:.0f} MB, memory {given.memory};")
    print(f"{n_cpus()} processors, Python {platform.python_version()}, {used}.\n")
    print(table(found))


if __name__ == "__main__":
    main()
