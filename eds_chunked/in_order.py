"""Work on many items in threads, with the answers in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from threadpoolctl import threadpool_limits

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Keep BLAS, in the whole process, and OpenMP, in this thread alone, from starting threads of their own.

    With as many in each thread that works on a block they would be processors squared, and digits would depend on the
    machine. What a thread says of OpenMP holds for no other, so each says it: :func:`one_openmp_thread`.
    """
    with threadpool_limits(1):
        yield


def one_openmp_thread() -> Any:
    """Keep OpenMP from starting threads in the calling thread; as a context, until its end."""
    return threadpool_limits(1, user_api="openmp")


def in_order(work: Callable[[Item], Answer], items: Iterable[Item], *, workers: int) -> Iterator[Answer]:
    """Yield what ``work`` says of each item; no more are begun than there are workers and one, however many follow."""
    pending: deque[Future[Answer]] = deque()
    with one_thread_each(), ThreadPoolExecutor(workers, initializer=one_openmp_thread) as pool:
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            # After an error, or when nobody wants the rest.
            for future in pending:
                future.cancel()
