"""The Zarr store behind a location, and the trick that makes a write appear all at once."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Self

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from eds_chunked.errors import EdsError, ParameterError, StoreError, StoreFullError, StoreNotFoundError

Location = str | os.PathLike[str]

_LOCAL = "file://"
_DRIVERS = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs"}
"""The package that reads and writes the URLs of a protocol."""


def location_text(location: Location) -> str:
    """Return a location as text: a URL as it is, a path absolute, so that it means the same in every process.

    ``file://`` is one more way to write a path.
    """
    text = os.fspath(location)
    if text.startswith(_LOCAL):
        text = text.removeprefix(_LOCAL) or "/"
    return text.rstrip("/") if "://" in text else os.path.abspath(text)


def is_remote(location: Location) -> bool:
    """Tell whether a location is a URL of somewhere else than the local disks."""
    return "://" in location_text(location)


def zarr_store(location: Location, *, read_only: bool = False) -> Store:
    """Return the Zarr store at a path or URL.

    Raises
    ------
    ParameterError
        The protocol of the URL is not known.
    StoreError
        The package for the protocol is not installed, or cannot use the URL.
    """
    text = location_text(location)
    if is_remote(text):
        return _object_store(text, read_only=read_only)
    return DiskStore(text, read_only=read_only)


class DiskStore(LocalStore):
    """A store on a disk, which says so when the disk is full."""

    async def set(self, key: str, value: Buffer) -> None:
        with room_at(self.root):
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        with room_at(self.root):
            await super().set_if_not_exists(key, value)


@contextmanager
def room_at(place: os.PathLike[str]) -> Iterator[None]:
    """Say clearly that the disk is full, if it is."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StoreFullError(
            str(place),
            found="no space left on the device",
            expected="room for what is written; all that was finished before is whole",
            fix="free space, then the same again",
        ) from error


def _object_store(url: str, *, read_only: bool) -> Store:
    protocol = url.partition("://")[0]
    # A listing that is remembered would hide what other processes save.
    options = {"use_listings_cache": False}
    try:
        with _told_clearly(url):
            return ObjectStore.from_url(url, options, read_only=read_only)
    except ImportError as error:
        package = _DRIVERS.get(protocol)
        raise StoreError(
            f"store {url}",
            found=f"no driver for {protocol}:// ({error})",
            expected=f"the package {package}" if package else "the package that the message names",
            fix=f"pip install {package}" if package else "install it with pip",
        ) from error
    except ValueError as error:
        if isinstance(error, EdsError):
            raise
        raise ParameterError(
            f"store {url}",
            found=f"protocol {protocol}:// ({error})",
            expected="a path, or a URL such as s3://bucket/map.zarr",
            fix="write s3://, gs:// or file://",
        ) from error


@contextmanager
def _told_clearly(url: str) -> Iterator[None]:
    """Say what an object store refuses as one of our errors.

    Drivers raise what they like: s3fs the builtins of the system for answers of the server, but classes of its own
    libraries where no server or no credentials are found. What a builtin other than OSError says is about a program.
    """
    try:
        yield
    except EdsError:
        raise
    except FileNotFoundError as error:
        raise StoreNotFoundError(
            f"store {url}",
            found=_words(error),
            expected="a bucket that exists",
            fix="make the bucket, or check the URL",
        ) from error
    except PermissionError as error:
        raise StoreError(
            f"store {url}",
            found=f"access refused ({_words(error)})",
            expected="rights to read and write there",
            fix="check the credentials in the environment or in the files of the driver",
        ) from error
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__ == "builtins":
            raise
        raise StoreError(
            f"store {url}",
            found=f"no way to it ({_words(error)})",
            expected="a place that answers",
            fix="check the URL, the network, and the credentials and endpoint in the environment",
        ) from error


def _words(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


class ObjectStore(FsspecStore):
    """A store behind a URL, with errors that users understand."""

    def _clearly(self) -> Any:
        protocol = self.fs.protocol if isinstance(self.fs.protocol, str) else self.fs.protocol[0]
        return _told_clearly(f"{protocol}://{self.path.lstrip('/')}")

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        with self._clearly():
            return await super().get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer, byte_range: tuple[int, int] | None = None) -> None:
        with self._clearly():
            await super().set(key, value, byte_range)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Put a value unless there is one: the server decides, where it knows how (S3, Google), else a look before."""
        self._check_writable()
        with self._clearly():
            # A server that does not know conditions may put over what is there.
            if await super().exists(key):
                return
            try:
                await self.fs._pipe_file(f"{self.path}/{key}", value.to_bytes(), mode="create")
            except FileExistsError:
                return
            except (TypeError, NotImplementedError, OSError) as error:
                if isinstance(error, OSError) and error.errno != errno.ENOSYS:
                    raise
                await super().set(key, value)

    async def exists(self, key: str) -> bool:
        with self._clearly():
            return await super().exists(key)

    async def delete(self, key: str) -> None:
        with self._clearly():
            await super().delete(key)

    async def delete_dir(self, prefix: str) -> None:
        with self._clearly():
            await super().delete_dir(prefix)

    async def list(self) -> AsyncIterator[str]:
        with self._clearly():
            async for name in super().list():
                yield name

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        with self._clearly():
            async for name in super().list_dir(prefix):
                yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        with self._clearly():
            async for name in super().list_prefix(prefix):
                yield name

    async def getsize(self, key: str) -> int:
        with self._clearly():
            return await super().getsize(key)

    async def getsize_prefix(self, prefix: str) -> int:
        """Return the bytes below a prefix, from the listing: Zarr would ask for one object after the other."""
        with self._clearly():
            found = await self.fs._find(f"{self.path}/{prefix}".rstrip("/"), detail=True)
        return sum(int(about.get("size") or 0) for about in found.values())


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
    """A store whose chunks are all there: one that is absent is an error, where Zarr would read zeros in silence.

    That is so for chunks and for shards. A tile that is absent within a shard is for those who read tiles to tell
    (:mod:`eds_chunked.store.chunks`).
    """

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


def stored_bytes(location: Location, prefix: str = "") -> int:
    """Return how many bytes a store takes, or the part of it below ``prefix``."""
    store = zarr_store(location, read_only=True)
    if isinstance(store, LocalStore):
        return sum(file.stat().st_size for file in (store.root / prefix).rglob("*") if file.is_file())
    return int(sync(store.getsize_prefix(prefix)))


def delete_dir(location: Location, prefix: str) -> None:
    """Delete everything below ``prefix``."""
    sync(zarr_store(location).delete_dir(prefix))
