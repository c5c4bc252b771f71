"""What runs a benchmark: the machine, its two processors, and memory before the clock starts."""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numcodecs.blosc
import zarr

from eds_chunked import memory
from eds_chunked.store.provenance import versions

PROJECT = Path(__file__).parents[1]
THREADS = 2


def machine() -> dict[str, Any]:
    """Return what ran it."""
    return {
        "processor": _processor(),
        "processors used": memory.n_cpus(),
        "free memory bytes": memory.available(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions() | {"numcodecs": numcodecs.__version__},
    }


def _processor() -> str:
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        for line in cpus.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


@contextmanager
def two_processors() -> Iterator[None]:
    """Hold this thread and those that it starts to two processors, and Zarr's pool to two threads."""
    numcodecs.blosc.use_threads = False
    before = os.sched_getaffinity(0) if sys.platform == "linux" else set()
    if before:
        os.sched_setaffinity(0, sorted(before)[:THREADS])
    try:
        with zarr.config.set({"threading.max_workers": THREADS, "async.concurrency": THREADS}):
            yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def forget_peak() -> None:
    """Start the peak of this process anew, from what it needs: memory that is free already is handed back first."""
    gc.collect()
    memory.release()
    # The warm-up's peak would hide that of a small map, and with it any growth. On Linux a process can reset its own.
    Path("/proc/self/clear_refs").write_text("5")
