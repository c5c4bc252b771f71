"""A scheduler and workers as users start them: by the ``dask`` commands, each a process of its own."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]

# Nothing is written into the home of whoever runs the tests, and nobody waits for a worker to finish politely.
SETTINGS = {
    "DASK_DISTRIBUTED__WORKER__USE_FILE_LOCKING": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__MONITOR_INTERVAL": "50ms",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    # Workers find the package where it is installed; the functions that tests send them are nowhere but here.
    "PYTHONPATH": str(ROOT),
}


class DaskProcesses:
    """A cluster on the loopback interface; whatever becomes of it, ``stop`` leaves nothing behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.elsewhere = folder / "elsewhere"
        self.elsewhere.mkdir()
        self.address = ""
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, n_workers: int = 2, **options: object) -> None:
        file = self.folder / f"scheduler-{time.monotonic_ns()}.json"
        self.scheduler = self._run(
            "scheduler", "--port", "0", "--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file)
        )
        _wait_for(lambda: file.exists() and file.read_text().rstrip().endswith("}"))
        self.address = next(
            part.split('"')[3] for part in file.read_text().splitlines() if part.strip().startswith('"address"')
        )
        for _ in range(n_workers):
            self.add_worker(**options)

    def add_worker(self, *, memory_limit: str = "1.5GB", nanny: bool = True) -> None:
        self.workers.append(
            self._run(
                "worker",
                self.address,
                *("--nthreads", "1", "--memory-limit", memory_limit, "--death-timeout", "20"),
                *("--nanny" if nanny else "--no-nanny", "--local-directory", str(self.folder)),
            )
        )

    def _run(self, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *words, "--host", "127.0.0.1", "--no-dashboard"],
                cwd=self.elsewhere,
                env=os.environ | SETTINGS,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return (self.folder / "log.txt").read_text(errors="replace")

    def stop(self) -> None:
        started = [process for process in (self.scheduler, *self.workers) if process is not None]
        # Nannies start workers anew: they go first, then what they started.
        family = [one for process in started for one in _family(process.pid)]
        for process in (*started, *family):
            with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        for process in started:
            process.wait(20)
        self.scheduler, self.workers = None, []


def _family(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _wait_for(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
