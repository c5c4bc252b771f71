"""One writer at a time: a lock on a store, for as long as a process changes its map.

On disks it is a lock of the system, which a process that dies gives back whatever killed it. Object stores have no such
thing: there nobody is refused, and that only one process converts into a store is up to its users.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from zarr.storage import LocalStore

from eds_chunked.errors import StoreBusyError
from eds_chunked.store.backend import Location, location_text, zarr_store
from eds_chunked.store.layout import PRIVATE_FOLDER

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = f"{PRIVATE_FOLDER}/lock"
MARK = f"{PRIVATE_FOLDER}/replacement"
"""A file that says that a folder is part of a replacement, and not somebody's store that has such a name."""

_PARTIAL = re.compile(r".+\.[0-9a-f]{32}\.partial")


def local_folder(location: Location) -> Path | None:
    """Return the folder of a store on a disk, None for one elsewhere."""
    store = zarr_store(location, read_only=True)
    return store.root if isinstance(store, LocalStore) else None


@contextmanager
def locked(location: Location) -> Iterator[None]:
    """Hold the lock of a store; the folders that it needs are made, and removed again where nothing else came there.

    Of the folders that the store lies in those that were made stay.

    Raises
    ------
    StoreBusyError
        Another process (or another thread) holds it.
    """
    folder = local_folder(location)
    if folder is None or fcntl is None:
        yield
        return
    path = folder / LOCK
    descriptor = _take(path, location)
    try:
        yield
    finally:
        # The store may have been moved meanwhile, and is found by its lock no more.
        os.ftruncate(descriptor, 0)
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)) and only_a_lock(folder):
            _remove(folder)
        os.close(descriptor)


def only_a_lock(folder: Path) -> bool:
    """Tell whether a folder holds a lock and a mark at most, and what a kill left of files that were being written."""
    ours = (folder / LOCK, folder / MARK)
    # Whatever else there is shows within a few names: a store of many tiles is not walked through.
    return all(file in ours or is_partial(file) for file in folder.rglob("*") if not file.is_dir())


def is_partial(file: Path) -> bool:
    """Tell whether a file is what a kill leaves of one that Zarr was writing."""
    return _PARTIAL.fullmatch(file.name) is not None


def _take(path: Path, location: Location) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # the holder gave up this moment, and removed the folders
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 32).decode(errors="replace").strip()
            os.close(descriptor)
            raise StoreBusyError(
                f"store {location_text(location)}",
                found=f"another process{f' (pid {holder})' if holder else ''} writing into it",
                expected="one at a time",
                fix="wait until it is done, or choose another store",
            ) from None
        except OSError:
            pass  # A file system without locks is like an object store.
        # The file may have been removed between opening and locking; a lock on it would keep nobody out.
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(descriptor)):
                os.ftruncate(descriptor, 0)
                # For those who are refused; on a full disk they do without.
                with suppress(OSError):
                    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
                return descriptor
        os.close(descriptor)


def _remove(folder: Path) -> None:
    """Remove a folder in which there is no more than a lock; the lock goes last."""
    lock = folder / LOCK
    for file in [*folder.rglob("*.partial"), folder / MARK]:
        file.unlink(missing_ok=True)
    folders = sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True)
    lock.unlink(missing_ok=True)
    for path in [*folders, folder]:
        # Not empty: somebody else began here just now.
        with suppress(OSError):
            path.rmdir()
