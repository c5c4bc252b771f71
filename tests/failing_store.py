"""A process that is killed at its n-th write to a store, on a disk or in fsspec's memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from zarr.storage import LocalStore

from eds_chunked.store.backend import ObjectStore
from eds_chunked.store.layout import LOG

_CHANGES = ("set", "set_if_not_exists", "delete", "delete_dir")


class KilledError(RuntimeError):
    """Stands for the end of the process: after it nothing more is written or removed."""


@contextmanager
def failing_after(monkeypatch: pytest.MonkeyPatch, kind: str, n_puts: int) -> Iterator[None]:
    """Let ``n_puts`` changes of stores through, and none after them; ``kind`` is disk or memory."""
    store: Any = {"disk": LocalStore, "memory": ObjectStore}[kind]
    left = n_puts

    def counted(change: Any) -> Any:
        async def run(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal left
            if f"{LOG}/" in str(args[0]):
                return await change(self, *args, **kwargs)  # The run log is no part of what is tested.
            if change.__name__ == "set_if_not_exists" and await self.exists(args[0]):
                return None
            if left <= 0:
                raise KilledError(f"write {n_puts + 1}")
            left -= 1
            return await change(self, *args, **kwargs)

        return run

    with monkeypatch.context() as patch:
        for name in _CHANGES:
            patch.setattr(store, name, counted(getattr(store, name)))
        yield
