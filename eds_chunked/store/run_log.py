"""The run log of a store: what ran on it, when, with what, how long, with how much memory, and how it ended.

An entry is a small document of its own, put when the work begins and put again, whole, when it ends: there is nothing
to append to, so two processes lose nothing of each other, and what was killed has an entry, too. Work goes on where the
log cannot be written.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import inspect
import json
import logging
import math
import os
import platform
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, ParamSpec, TypeVar

import psutil
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from eds_chunked import schema
from eds_chunked.dry_run import is_dry
from eds_chunked.errors import EdsError, ParameterError
from eds_chunked.memory import format_size, peak_resident
from eds_chunked.store.backend import Location, list_dir, location_text, zarr_store
from eds_chunked.store.layout import LOG
from eds_chunked.store.opening import State, check_store, state_of
from eds_chunked.store.provenance import now, versions

P = ParamSpec("P")
T = TypeVar("T")

DONE = "done"
REFUSED = "refused"
FAILED = "failed"
INTERRUPTED = "interrupted"
RUNNING = "running"
KILLED = "killed"
UNKNOWN = "unknown"

KEPT = 1000
"""Entries that ``clean`` leaves: the newest."""

_NAME = re.compile(r"\d{8}T\d{12}Z-[0-9a-f]{8}\.json")
_LONGEST_TEXT = 500
_MOST_ITEMS = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LogEntry:
    """One piece of work on a store.

    Attributes
    ----------
    what
        The step or verb: ``"convert"``, ``"pca"``, ``"save"``.
    when
        When it began: ISO 8601, UTC.
    outcome
        ``"done"``; ``"refused"``, with one of this package's errors; ``"failed"``, with any other; ``"interrupted"``.
        Of what has not ended: ``"running"``, or ``"killed"`` if its process is gone; ``"unknown"`` if that was on
        another machine.
    seconds
        How long it took; None while it has not ended.
    peak_bytes
        Largest resident memory that its process had had by then; with one verb a process, that of the verb.
    result
        Address of the revision that it saved, or an empty text.
    parameters
        What it was called with, and the parameters of what it saved, seeds among them.
    error
        What it said when it was refused or failed.
    versions
        Of this package, of those that decide numbers, and of Python.
    host, pid
        Machine and process.
    """

    what: str
    when: str
    outcome: str
    seconds: float | None
    peak_bytes: int | None
    result: str
    parameters: dict[str, Any]
    error: str
    versions: dict[str, str]
    host: str
    pid: int


def read_log(store: Location, *, last: int | None = None) -> tuple[LogEntry, ...]:
    """Return what ran on a store, in the order of beginning; ``pandas.DataFrame(read_log(store))`` is a table of it.

    Parameters
    ----------
    store
        Path or URL of the store; one whose conversion did not finish has a log, too.
    last
        How many entries, the newest; by default all.

    Raises
    ------
    StoreNotFoundError, StoreError
        There is no store.
    ParameterError
        ``last`` is less than 1.
    """
    if last is not None and last < 1:
        raise ParameterError("entries of the log", found=last, expected="at least 1", fix="--last 20")
    if state_of(store) is not State.UNFINISHED:
        check_store(store)
    wanted = _names(store)[-last if last else 0 :]
    readable = zarr_store(store, read_only=True)

    async def read() -> list[bytes | None]:
        found = await asyncio.gather(*(readable.get(f"{LOG}/{name}", default_buffer_prototype()) for name in wanted))
        return [None if one is None else one.to_bytes() for one in found]

    entries = []
    for name, document in zip(wanted, sync(read()), strict=True):
        try:
            entries.append(_parse(b"" if document is None else document))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            _log.warning("%s: entry %s of the run log cannot be read (%s)", location_text(store), name, error)
    return tuple(entries)


def trim_log(store: Location, *, dry_run: bool) -> int:
    """Delete all but the newest entries of a log; returns how many those are."""
    old = _names(store)[:-KEPT]
    if not dry_run:
        target = zarr_store(store)
        for name in old:
            sync(target.delete(f"{LOG}/{name}"))
    return len(old)


def _names(store: Location) -> list[str]:
    return [name for name in list_dir(store, LOG) if _NAME.fullmatch(name)]


# --------------------------------------------------------------------------------------------------- writing
def recorded(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Enter every call of a function that has an argument ``store`` into the log of that store.

    What it calls of its like on the same store is part of it, and has no entry of its own.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                given = dict(signature.bind(*args, **kwargs).arguments)
            except TypeError:
                return function(*args, **kwargs)  # which says better what is missing
            store = location_text(given.pop("store"))
            around = _current.get()
            # A rehearsal leaves no trace.
            if (around is not None and around.store == store) or given.get("dry_run") or is_dry():
                return function(*args, **kwargs)
            with _entry(store, what, given | given.pop("options", {})):
                return function(*args, **kwargs)

        return call

    return decorate


def note_result(address: str, parameters: dict[str, Any]) -> None:
    """Note in the entry of the work that goes on what it has saved."""
    around = _current.get()
    if around is not None:
        around.document["result"] = address
        around.document["parameters"] |= _plain(parameters)


class _Entry:
    """An entry that is being written."""

    def __init__(self, store: str, what: str, given: dict[str, Any]) -> None:
        begun = datetime.now(UTC)
        self.store = store
        self._key = f"{LOG}/{begun:%Y%m%dT%H%M%S%f}Z-{uuid.uuid4().hex[:8]}.json"
        self._refused = False
        entry = LogEntry(
            what,
            now(),
            RUNNING,
            None,
            None,
            "",
            _plain({name: value for name, value in given.items() if value is not None}),
            "",
            versions() | {"python": platform.python_version()},
            platform.node(),
            os.getpid(),
        )
        self.document: dict[str, Any] = asdict(entry) | {"process_began": psutil.Process().create_time()}

    def put(self) -> None:
        """Write it as it is now, where there is a store."""
        if self._refused:
            return
        try:
            # Never before there is a store: the log must not be what makes one of a mistyped path.
            if state_of(self.store) in (State.WHOLE, State.UNFINISHED):
                document = json.dumps(self.document, allow_nan=False).encode()
                sync(zarr_store(self.store).set(self._key, default_buffer_prototype().buffer.from_bytes(document)))
        except Exception as error:  # a store that is read only, or does not answer: the work itself will tell
            self._refused = True
            _log.debug("%s: no entry in the run log (%s)", self.store, error)


_current: ContextVar[_Entry | None] = ContextVar("entry of the run log", default=None)


@contextmanager
def _entry(store: str, what: str, given: dict[str, Any]) -> Iterator[None]:
    entry = _Entry(store, what, given)
    document = entry.document
    _log.info("%s: begins, on %s", what, store)
    _log.debug("%s: %s", what, document["parameters"])
    entry.put()
    token = _current.set(entry)
    start = perf_counter()
    document["outcome"] = DONE
    try:
        yield
    except BaseException as error:
        document["outcome"] = _outcome(error)
        document["error"] = schema.text(error)[:_LONGEST_TEXT]
        raise
    finally:
        _current.reset(token)
        document |= {"seconds": perf_counter() - start, "peak_bytes": peak_resident()}
        told = f"{document['seconds']:.1f} s", format_size(document["peak_bytes"]), document["result"] or store
        _log.info("%s: %s after %s, peak memory %s, %s", what, document["outcome"], *told)
        entry.put()


def _outcome(error: BaseException) -> str:
    if isinstance(error, EdsError):
        return REFUSED
    return FAILED if isinstance(error, Exception) else INTERRUPTED


def _plain(value: Any) -> Any:
    """Return a parameter as JSON types. Data and files become what they are called: a log is no copy of them."""
    if isinstance(value, dict):  # not any Mapping: a Dataset is one
        return {str(name): _plain(item) for name, item in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist() if getattr(value, "size", 1) <= _MOST_ITEMS else f"{type(value).__name__} {value.shape}"
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value[:_MOST_ITEMS]]
    if isinstance(value, slice):
        return [value.start, value.stop]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, str):
        return value[:_LONGEST_TEXT]
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, float):
        return str(value)
    if dataclasses.is_dataclass(value):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: _plain(item) for name, item in fields if item not in (None, ())}
    header = getattr(value, "header", None)  # of a reader
    return str(getattr(header, "source", type(value).__name__))


# --------------------------------------------------------------------------------------------------- reading
def _parse(document: bytes) -> LogEntry:
    found = json.loads(document)
    outcome = str(found["outcome"])
    seconds, peak = found["seconds"], found["peak_bytes"]
    entry = LogEntry(
        str(found["what"]),
        datetime.fromisoformat(found["when"]).isoformat(timespec="microseconds"),
        outcome,
        None if seconds is None else float(seconds),
        None if peak is None else int(peak),
        str(found["result"]),
        dict(found["parameters"]),
        str(found["error"]),
        dict(found["versions"]),
        str(found["host"]),
        int(found["pid"]),
    )
    if outcome != RUNNING:
        return entry
    return dataclasses.replace(entry, outcome=_fate(entry, float(found["process_began"])))


def _fate(entry: LogEntry, process_began: float) -> str:
    """Tell what became of work that has not said how it ended."""
    if entry.host != platform.node():
        return UNKNOWN
    try:
        # Another process may have got its number.
        lives = abs(psutil.Process(entry.pid).create_time() - process_began) < 1
    except psutil.NoSuchProcess:
        lives = False
    return RUNNING if lives else KILLED
