"""The Zarr store behind a location, and the trick that makes a write appear all at once."""

from __future__ import annotations

import os
from typing import Any, Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore

Location = str | os.PathLike[str]


def location_text(location: Location) -> str:
    """Return a location as text: a URL as it is, a path absolute, so that it means the same in every process."""
    text = os.fspath(location)
    return text if "://" in text else os.path.abspath(text)


def zarr_store(location: Location, *, read_only: bool = False) -> Store:
    """Return the Zarr store at a path or URL."""
    text = location_text(location)
    if "://" in text:
        return FsspecStore.from_url(text, read_only=read_only)
    return LocalStore(text, read_only=read_only)


class HeldBackStore(WrapperStore[Store]):
    """A store that keeps one document back until :meth:`commit`.

    A Zarr group exists when its ``zarr.json`` does. Zarr writes that document first; held back and put last, in one
    atomic put, a group is there whole or not at all, on disks and on object stores alike.
    """

    def __init__(self, store: Store, key: str, held: dict[str, bytes] | None = None) -> None:
        super().__init__(store)
        self._key = key
        self._held: dict[str, bytes] = {} if held is None else held

    def _with_store(self, store: Store) -> Self:
        return type(self)(store, self._key, self._held)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        if key == self._key and key in self._held:
            return prototype.buffer.from_bytes(self._held[key])
        return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        return (key == self._key and key in self._held) or await super().exists(key)

    async def set(self, key: str, value: Buffer, *args: Any) -> None:
        if key == self._key:
            self._held[key] = value.to_bytes()
        else:
            await super().set(key, value, *args)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if key == self._key:
            self._held.setdefault(key, value.to_bytes())
        else:
            await super().set_if_not_exists(key, value)

    def commit(self) -> None:
        """Put the document that was held back."""
        document = default_buffer_prototype().buffer.from_bytes(self._held[self._key])
        sync(self._store.set(self._key, document))


class WholeStore(WrapperStore[Store]):
    """A store whose chunks are all there: one that is absent is an error, where Zarr would read zeros in silence."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is None and "/c/" in key:
            raise FileNotFoundError(f"{key} is absent")
        return found


def exists(location: Location, key: str) -> bool:
    """Tell whether the store at ``location`` has ``key``."""
    return bool(sync(zarr_store(location, read_only=True).exists(key)))


def list_dir(location: Location, prefix: str) -> list[str]:
    """Names below ``prefix``, sorted."""

    async def names() -> list[str]:
        return sorted([name async for name in zarr_store(location, read_only=True).list_dir(prefix)])

    return list(sync(names()))


def delete_dir(location: Location, prefix: str) -> None:
    """Delete everything below ``prefix``."""
    sync(zarr_store(location).delete_dir(prefix))
