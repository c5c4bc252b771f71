"""The cluster that work runs on, where there is one: an active ``distributed.Client``, and what goes wrong with it.

Nothing here is set by the package: a client that the user made, or that :func:`connected` made for ``--scheduler``, is
the cluster. Steps ask for it where they start work. A task never does: what runs on a worker, runs there.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from eds_chunked import memory
from eds_chunked.errors import ClusterError

T = TypeVar("T")

_SHARE_OF_A_WORKER = 0.6
"""Of a worker's limit, what steps take unasked: from there on dask spills, and from 0.8 on it pauses the worker."""

_SECONDS_TO_CONNECT = 10
_SECONDS_TO_STOP = 10

_alone: ContextVar[bool] = ContextVar("eds_chunked_alone", default=False)


def active_client() -> Any | None:
    """Return the client of the active cluster; None where there is none, and on the workers of one."""
    # Who has a client has imported distributed; nobody else should wait for that.
    distributed = sys.modules.get("distributed")
    if distributed is None or _alone.get():
        return None
    try:
        return distributed.default_client()
    except ValueError:
        return None  # distributed is imported, but nobody has made a client


@contextmanager
def alone() -> Iterator[None]:
    """Work within in this process alone, whatever cluster is active."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Work within on the cluster of the scheduler at ``address`` (``tcp://10.0.0.1:8786``); None changes nothing.

    Raises
    ------
    ClusterError
        Nobody answers there, or there is no worker.
    """
    if address is None:
        yield
        return
    from distributed import Client

    try:
        client = Client(address, timeout=_SECONDS_TO_CONNECT, set_as_default=True)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(
            f"scheduler {address}",
            found=f"no answer ({str(error) or type(error).__name__})",
            expected="the address that `dask scheduler` prints",
            fix="--scheduler tcp://HOST:8786, or leave it out to work on this machine",
        ) from error
    with client:
        yield


def share_of(limit: int) -> int:
    """Return the bytes that a step takes unasked of a worker with this memory limit."""
    return int(_SHARE_OF_A_WORKER * limit)


def on_one_worker(function: Callable[..., T], *args: Any, **options: Any) -> T:
    """Call a function on a worker of the active cluster, or here where there is none.

    For work that is one piece. It may run twice, where a worker is lost. Its warnings are given here.
    """
    client = active_client()
    if client is None:
        return function(*args, **options)
    future = client.submit(_Alone(function), *args, pure=False, **options)
    answer, told = result_of(client, future, what=str(getattr(function, "__name__", function)).strip("_"))
    for message, category in told:
        warnings.warn(message, category, stacklevel=3)
    done: T = answer
    return done


class _Alone:
    """A function that runs on its worker alone, and gives what it warned of beside its answer."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **options: Any) -> tuple[Any, list[tuple[str, type[Warning]]]]:
        from distributed import get_worker

        memory.return_freed_memory_to_the_system()
        limit = share_of(int(get_worker().memory_manager.memory_limit or 0))
        with alone(), memory.limited_to(limit), warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            answer = self._function(*args, **options)
        return answer, [(str(one.message), one.category) for one in told]


def result_of(client: Any, future: Any, *, what: str) -> Any:
    """Wait for a future; whatever ends the waiting ends the work on the cluster too.

    Raises
    ------
    ClusterError
        Workers were lost again and again, or the scheduler was.
    """
    try:
        with losses_told(what):
            return future.result()
    finally:
        if not future.done():
            _stop(client, future)


@contextmanager
def losses_told(what: str) -> Iterator[None]:
    """Have what goes wrong with the active cluster within, if there is one, told as a ClusterError."""
    client = active_client()
    if client is None:
        yield
        return
    from distributed import KilledWorker
    from distributed.comm import CommClosedError

    try:
        yield
    except KilledWorker as error:
        raise ClusterError(
            f"{what} on {client.scheduler.address}",
            found=f"{error.allowed_failures + 1} workers lost in the middle of the same piece of work, the last "
            f"{error.last_worker.address}",
            expected="workers that stay; most are ended for going over their memory limit",
            fix="look into the log of that worker; give workers more memory (dask worker --memory-limit), or fewer "
            "threads (--nthreads), or less to steps (--memory)",
        ) from error
    except (Exception, asyncio.CancelledError) as error:
        lost = isinstance(error, CancelledError | asyncio.CancelledError | CommClosedError)
        if client.status == "running" and not lost:
            raise  # an error of the work itself
        raise ClusterError(
            f"{what} on {client.scheduler.address if client.scheduler else 'the cluster'}",
            found="no connection to the scheduler any more",
            expected="a scheduler that stays",
            fix="start it and its workers again, then run the step again: what was saved before is whole, and "
            "a conversion goes on with --resume",
        ) from error


def _stop(client: Any, future: Any) -> None:
    """Take work back, and wait until workers have let go of it, so that none writes to what is discarded next."""
    from time import monotonic, sleep

    try:
        client.cancel([future], force=True)
        end = monotonic() + _SECONDS_TO_STOP
        while monotonic() < end and any(client.processing().values()):
            sleep(0.1)
    except Exception as error:  # The scheduler may be what was lost.
        warnings.warn(f"work on the cluster could not be stopped: {error}", RuntimeWarning, stacklevel=2)


class Slots:
    """How many pieces of work may be in memory at once in this process: a worker may have more threads than that."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0

    @contextmanager
    def one_of(self, n: int) -> Iterator[None]:
        """Wait until fewer than ``n`` are taken, and take one."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken < n)
            self._taken += 1
        try:
            yield
        finally:
            with self._changed:
                self._taken -= 1
                self._changed.notify_all()
