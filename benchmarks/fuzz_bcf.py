"""Read tens of thousands of mutated .bcf files: no crash, no hang, no wrong count, little memory.

    python -m benchmarks.fuzz_bcf [--inputs 20000] [--start 0] [--real]

Each input is a function of its number, so that a failure can be repeated with ``--start NUMBER --inputs 1``. Run it
from the project's folder; the mutations are those of tests/test_bruker_fuzz.py. ``--real`` adds the maps in
../shared/data, which are slower. It fails on an input that takes more than SECONDS or if memory grows by more than
MEGABYTES, which is measured on Linux only.
"""

from __future__ import annotations

import argparse
import faulthandler
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.test_bruker_fuzz import SECONDS, made_seeds, mutants, outcome, real_seeds
from tests.test_bruker_reading import compile_kernels

MEGABYTES = 150

_STATUS = Path("/proc/self/status")


def _megabytes(field: str) -> float:
    if not _STATUS.exists():
        return float("nan")
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--start", type=int, default=0)
    parser.add_argument("--real", action="store_true")
    arguments = parser.parse_args()

    seeds = made_seeds() + (real_seeds() if arguments.real else [])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mutant.bcf"
        compile_kernels(Path(folder))
        for mutant in mutants(seeds, 20, start=10**9):
            outcome(mutant, path)
        idle = _megabytes("VmRSS")
        if _STATUS.exists():
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        seen: Counter[tuple[str, str]] = Counter()
        slowest = (0.0, -1)
        begin = time.perf_counter()
        for number, mutant in enumerate(mutants(seeds, arguments.inputs, start=arguments.start), arguments.start):
            faulthandler.dump_traceback_later(5 * SECONDS, exit=True)
            lap = time.perf_counter()
            try:
                seen[mutant.depth, outcome(mutant, path)] += 1
            except BaseException:
                print(f"input {number} ({mutant.depth} of {mutant.seed.name}) failed")
                raise
            slowest = max(slowest, (time.perf_counter() - lap, number))
        faulthandler.cancel_dump_traceback_later()
        seconds = time.perf_counter() - begin
    print(f"{arguments.inputs} inputs of {len(seeds)} files in {seconds:.0f} s, none wrong")
    print(f"slowest {slowest[0]:.2f} s (input {slowest[1]}: whole, box, salvage and the oracle)")
    growth = _megabytes("VmHWM") - idle
    print(f"idle {idle:.0f} MB, +{growth:.0f} MB at most")
    for (depth, result), n in sorted(seen.items()):
        print(f"  {depth:8} {result:8} {n}")
    if slowest[0] > SECONDS or growth > MEGABYTES:
        sys.exit(f"too much: {slowest[0]:.2f} of {SECONDS:g} s, {growth:.0f} of {MEGABYTES} MB")


if __name__ == "__main__":
    main()
