"""Run a benchmark by name: ``python -m benchmarks compare --data FOLDER``."""

from __future__ import annotations

import runpy
import sys

NAMES = (
    "advice",
    "codec",
    "compare",
    "conversion",
    "elements",
    "fuzz_bcf",
    "grains",
    "masks",
    "memory",
    "nmf_accuracy",
    "nmf_order",
    "scaling",
    "shapes",
    "spectra",
)


def main() -> None:
    """Hand the rest of the command line to the benchmark that it names."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python -m benchmarks {{{','.join(NAMES)}}} [--help]")
    runpy.run_module(f"benchmarks.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
