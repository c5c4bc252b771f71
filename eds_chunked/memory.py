"""Memory as arithmetic: sizes, what this machine has, and how much of a budget a step may use.

A budget bounds the resident memory (RSS) of the whole process, interpreter and libraries included. A step states what
it needs before it reads a count (:class:`Need`), :func:`plan` turns that into a number of workers or refuses, naming
the smallest budget that works.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import psutil

from eds_chunked.errors import MemoryBudgetError, ParameterError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([a-zA-Z]*)\s*")

_log = logging.getLogger(__name__)

MB = 10**6

DEFAULT_LIMIT = 4 * 10**9
"""Largest budget that is taken unasked; the default is half of what is free, but no more than this."""

RESERVE = 80 * MB
"""Left free by every plan: thread stacks, allocator slack, code that numba or BLAS loads at its first use."""


def parse_size(size: str | int) -> int:
    """Return bytes for ``"2GB"``, ``"1.5 GiB"`` or a number of bytes; raise ParameterError for anything else."""
    match = _SIZE.fullmatch(str(size))
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or float(match[1]) == 0:
        raise ParameterError("memory", found=repr(size), expected="a size such as 800MB or 2GB", fix="--memory 2GB")
    return round(float(match[1]) * unit)


def format_size(n_bytes: float) -> str:
    """Return a size for people: ``"1.25 GB"``, ``"640 MB"``."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(n_bytes) >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def resident() -> int:
    """Bytes of this process that are resident now."""
    return int(psutil.Process().memory_info().rss)


def container_free(membership: Path = Path("/proc/self/cgroup"), mount: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that the tightest container limit above this process leaves, or None where there is none."""
    free = []
    try:
        entries = membership.read_text().splitlines()
    except OSError:
        return None
    for entry in entries:
        _, controllers, path = entry.split(":", 2)
        if controllers == "":
            root, names = mount, _CGROUP_2
        elif "memory" in controllers.split(","):
            root, names = mount / "memory", _CGROUP_1
        else:
            continue
        # In a container the path may be that outside of it, which is not there: then its root is the container's own.
        folder = root / path.lstrip("/")
        for level in (folder, *folder.parents):
            left = _left_at(level, *names)
            if left is not None:
                free.append(left)
            if level == root:
                break
    return max(0, min(free)) if free else None


_Names = tuple[tuple[str, ...], str, str]
_CGROUP_2: _Names = (("memory.max", "memory.high"), "memory.current", "inactive_file")
_CGROUP_1: _Names = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")


def _left_at(level: Path, limit_names: Sequence[str], used_name: str, cache_name: str) -> int | None:
    """Return what one level of a hierarchy leaves; None if it has no limit."""
    limits = [_number_in(level / name) for name in limit_names]
    used = _number_in(level / used_name)
    known = [limit for limit in limits if limit is not None]
    if not known or used is None:
        return None
    try:
        statistics = dict(line.split(maxsplit=1) for line in (level / "memory.stat").read_text().splitlines())
        # Files that were read count as used, but give way to whoever needs the memory.
        used -= int(statistics.get(cache_name, 0))
    except (OSError, ValueError):
        pass
    return min(known) - used


def _number_in(file: Path) -> int | None:
    """Return the number in a file; None where there is no file, or it says ``max``."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def installed() -> int:
    """Bytes that this machine has."""
    return int(psutil.virtual_memory().total)


def available() -> int:
    """Bytes that this machine, or the container around this process, can still give."""
    free = int(psutil.virtual_memory().available)
    in_container = container_free()
    return free if in_container is None else min(free, in_container)


_unasked: ContextVar[int] = ContextVar("eds_chunked_unasked", default=0)


@contextmanager
def limited_to(n_bytes: int) -> Iterator[None]:
    """Take this for the default budget within, where something else than the machine sets the limit (0: nothing)."""
    token = _unasked.set(n_bytes)
    try:
        yield
    finally:
        _unasked.reset(token)


def resolve_limit(memory: str | int | None) -> int:
    """Return the budget in bytes for the argument ``memory`` of a public function; None takes the default."""
    if memory is not None:
        return parse_size(memory)
    return _unasked.get() or min(DEFAULT_LIMIT, resident() + available() // 2)


def n_cpus() -> int:
    """Processors that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Need:
    """What a step holds: ``fixed`` bytes once and ``per_worker`` bytes for each block in work."""

    what: str
    fixed: int
    per_worker: int


class Stored(NamedTuple):
    """How much there is of something where it is stored: in pieces (tiles, chunks, files), and bytes of all of them."""

    pieces: int
    n_bytes: int


@dataclass(frozen=True)
class Reads:
    """Something that a step reads, so many times over; ``most`` where only the counts tell how often.

    ``stored`` finds out how much that is, which takes a moment: nobody asks but a dry run.
    """

    what: str
    stored: Callable[[], Stored]
    passes: int = 1
    most: int | None = None


@dataclass(frozen=True)
class Plan:
    """How a step will run within its budget, what it will read, and the most bytes that it writes.

    ``goes_on`` tells that the step makes another plan after this one.
    """

    need: Need
    limit: int
    idle: int
    workers: int
    reads: tuple[Reads, ...] = ()
    writes: int = 0
    goes_on: bool = False

    @property
    def peak(self) -> int:
        """Projected peak RSS in bytes."""
        return self.idle + self.need.fixed + self.workers * self.need.per_worker

    @property
    def spare(self) -> int:
        """Bytes of the budget that stay unused at the projected peak."""
        return self.limit - self.peak


listener: ContextVar[Callable[[Plan], None] | None] = ContextVar("listener", default=None)
"""Is told of every plan when it is made, before anything is read or written; a dry run goes no further."""


@dataclass(frozen=True)
class Budget:
    """What one process may hold (``limit``), what it holds already (``idle``), and the threads it may use.

    ``holder`` says which process that is, where it is not the one that asks, and ``processes`` how many there are.
    """

    limit: int
    idle: int
    threads: int
    holder: str = ""
    processes: int = 1

    @property
    def room(self) -> int:
        """Bytes that a step may take."""
        return self.limit - self.idle

    def workers(self, need: Need, *, most: int | None = None) -> int:
        """Return how many workers fit, at most ``most`` (default: the threads); 0 if not even one does."""
        room = self.room - need.fixed
        return min(most or self.threads, room // max(1, need.per_worker)) if room >= need.per_worker else 0

    def plan(
        self,
        need: Need,
        *,
        max_workers: int | None = None,
        reads: Sequence[Reads] = (),
        writes: int = 0,
        goes_on: bool = False,
    ) -> Plan:
        """Decide how many workers fit; raise MemoryBudgetError if not even one does."""
        workers = self.workers(need, most=max_workers)
        if workers < 1:
            # Rounded up to 10 MB, so that the figure can be typed.
            smallest = -(-(self.idle + need.fixed + need.per_worker) // (10 * MB)) * 10 * MB
            raise MemoryBudgetError(
                f"memory for {need.what}",
                found=f"a budget of {format_size(self.limit)}{f' a {self.holder}' if self.holder else ''}",
                expected=f"at least {smallest // MB} MB ({self.idle // MB} MB for the program, "
                f"{need.fixed // MB} MB once, {need.per_worker // MB} MB for a block)",
                fix=f"--memory {smallest // MB}MB",
            )
        chosen = Plan(need, self.limit, self.idle, workers, tuple(reads), writes, goes_on)
        heard = listener.get()
        if heard is not None:
            heard(chosen)
        _log.info(
            "%s: %d at once, projected peak %s of %s",
            *(need.what, workers, format_size(chosen.peak), format_size(self.limit)),
        )
        _log.debug(
            "%s: %s for the program, %s once, %s for each",
            *(need.what, *(format_size(size) for size in (self.idle, need.fixed, need.per_worker))),
        )
        return chosen


def budget(memory: str | int | None = None) -> Budget:
    """Return the budget of this process."""
    release()
    return Budget(resolve_limit(memory), resident() + RESERVE, n_cpus())


def plan(
    need: Need,
    *,
    memory: str | int | None = None,
    max_workers: int | None = None,
    reads: Sequence[Reads] = (),
    writes: int = 0,
) -> Plan:
    """Decide how many workers fit the budget of this process; raise MemoryBudgetError if not even one does."""
    return budget(memory).plan(need, max_workers=max_workers, reads=reads, writes=writes)


_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1


def _libc() -> ctypes.CDLL | None:
    if sys.platform != "linux":
        return None
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:  # not glibc
        return None
    return libc if hasattr(libc, "mallopt") else None


def return_freed_memory_to_the_system() -> None:
    """Make glibc hand large freed blocks back, instead of keeping what one pass needed for the life of the process."""
    libc = _libc()
    if libc is not None:
        libc.mallopt(_M_MMAP_THRESHOLD, 16 * 2**20)
        libc.mallopt(_M_TRIM_THRESHOLD, 16 * 2**20)


def release() -> None:
    """Hand free memory of the heap back to the system now."""
    libc = _libc()
    if libc is not None:
        libc.malloc_trim(0)


def peak_resident() -> int:
    """Largest resident size that this process has had, in bytes; 0 where the system does not tell."""
    if sys.platform == "linux":
        # Not getrusage: what it says of a process includes the process that started it.
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))  # Windows
