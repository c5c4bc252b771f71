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
print(json.dumps([time.perf_counter() - start, memory.peak_resident()]))
"""


class Run(NamedTuple):
    """One call: its seconds, and the peak of its process in bytes."""

    seconds: float
    peak: int


def scripts(source: Path, folder: Path, *, codecs: Sequence[str], memory: str) -> dict[str, str]:
    """Return the Python text of each contestant. Compiled kernels are cached on disk from the first pass on."""
    made = {
        LOAD: ("from rsciio.bruker import file_reader", f"file_reader({str(source)!r}, select_type='spectrum_image')"),
        READ: (
            "from eds_chunked.readers import open_source",
            f"for band in open_source({str(source)!r}).bands(64): pass",
        ),
    }
    for codec in codecs:
        store = str(folder / "map.zarr")
        made[f"convert, {codec}"] = (
            f"import shutil, eds_chunked as edc\nedc.convert\nshutil.rmtree({store!r}, ignore_errors=True)",
            f"edc.convert({str(source)!r}, {store!r}, codec={codec!r}, memory={memory!r})",
        )
    return {name: _TIMED.format(prepare=prepare, work=work) for name, (prepare, work) in made.items()}


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
    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    print(f"{given.source.name}, {given.source.stat().st_size / MB:.0f} MB, memory {given.memory};")
    print(f"{n_cpus()} processors, Python {platform.python_version()}, {used}.\n")
    print(table(found))


if __name__ == "__main__":
    main()
