"""Faults in the middle of work: the first worker that comes to a certain call notes its process and waits to be hit."""

from __future__ import annotations

import functools
import importlib
import os
import time
from pathlib import Path

from distributed import WorkerPlugin

# What each step calls again and again on a worker.
CALLS = {
    "convert": ("eds_chunked.store.conversion", "_write_unit"),
    "pca": ("eds_chunked.engine.blocks", "Blocks.load"),
    "pca incremental": ("eds_chunked.engine.blocks", "Blocks.load"),
    "nmf": ("eds_chunked.engine.blocks", "Blocks.load"),
    "nmf blockwise": ("eds_chunked.engine.blocks", "Blocks.load"),
    "cluster": ("eds_chunked.phases.clustering", "_label_block"),
    "phases": ("eds_chunked.phases.cleaning", "_label_block"),
    "spectra": ("eds_chunked.engine.blocks", "Blocks.load"),
    "residual": ("eds_chunked.engine.blocks", "Blocks.load"),
    "grains": ("eds_chunked.grains.split", "separate_window"),
    "grain spectra": ("eds_chunked.engine.blocks", "Blocks.load"),
}


class Victim(WorkerPlugin):
    """Has one worker stop in the ``calls``-th call of a step: to be killed, or to take memory until it is."""

    name = "victim"

    def __init__(self, step: str, note: Path, *, calls: int = 2, hog: int = 0) -> None:
        self.module, self.path = CALLS[step]
        self.note, self.calls, self.hog = str(note), calls, hog

    def setup(self, worker) -> None:
        owner = importlib.import_module(self.module)
        *parents, name = self.path.split(".")
        for parent in parents:
            owner = getattr(owner, parent)
        self._owner, self._name, self._original = owner, name, getattr(owner, name)
        setattr(owner, name, self._stopping(self._original))

    def teardown(self, worker) -> None:
        setattr(self._owner, self._name, self._original)

    def _stopping(self, original):
        seen = [0]

        @functools.wraps(original)
        def call(*args, **options):
            seen[0] += 1
            if seen[0] == self.calls and self._is_first():
                held = [bytearray(2**20) for _ in range(self.hog // 2**20)]
                time.sleep(60)
                del held
            return original(*args, **options)

        return call

    def _is_first(self) -> bool:
        try:
            descriptor = os.open(self.note, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        os.write(descriptor, str(os.getpid()).encode())
        os.close(descriptor)
        return True
