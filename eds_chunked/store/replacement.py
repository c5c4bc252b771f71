"""Where a store is built, and how it takes the place of another one without a moment in which there is none.

On disks a replacement is built beside, as ``.NAME.new``. When it is whole, the store that it replaces becomes
``.NAME.old``, its results move to the new one, that one gets the name, and the old one is removed. What a crash leaves
between any two of these steps is finished by the next ``convert`` with ``--resume`` or ``--overwrite``. Object stores
cannot rename: there the old map goes first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zarr.core.sync import sync

from eds_chunked.errors import StoreExistsError
from eds_chunked.schema import COUNTS, IMAGES_GROUP, MAP_GROUP, RESULTS_GROUP
from eds_chunked.store.backend import Location, delete_dir, list_dir, location_text, zarr_store
from eds_chunked.store.layout import CLAIMS, ROOT_DOCUMENT, beside, group_document
from eds_chunked.store.lock import LOCK, is_partial, local_folder, locked
from eds_chunked.store.opening import State, check_no_half_replacement, state_of, unfinished

_KEPT = (RESULTS_GROUP, CLAIMS)
"""What a store hands on to the one that replaces it."""


@dataclass(frozen=True)
class Site:
    """A place to build a store at, locked.

    Attributes
    ----------
    place
        Where it is built.
    target
        Where it will be.
    found
        What is at ``place`` to go on with: ``State.NOTHING`` where all has to be made, whatever is there.
    """

    place: str
    target: str
    found: State

    @property
    def replaces(self) -> bool:
        """Whether the store is built beside the one that it will replace."""
        return self.place != self.target

    def clear(self) -> None:
        """Delete what is at the place, but for the lock and, on object stores, the results."""
        folder = local_folder(self.place)
        if folder is not None:
            _empty(folder, folder / LOCK)
            return
        # The document of the map first: half a map must not be taken for one.
        sync(zarr_store(self.place).delete(group_document(MAP_GROUP)))
        for group in (MAP_GROUP, IMAGES_GROUP):
            delete_dir(self.place, group)
        if not list_dir(self.place, RESULTS_GROUP):
            delete_dir(self.place, "")

    def remove_leftovers(self) -> None:
        """Delete what a kill left half written, and all that is written after the counts."""
        folder = local_folder(self.place)
        if folder is not None:
            for file in [path for path in folder.rglob("*.partial") if is_partial(path)]:
                file.unlink()
        for name in list_dir(self.place, MAP_GROUP):
            if name != COUNTS:
                delete_dir(self.place, f"{MAP_GROUP}/{name}")
        delete_dir(self.place, IMAGES_GROUP)

    def finish(self) -> None:
        """Make the store that was built the one at the target."""
        if self.replaces:
            _, old = beside(self.target)
            os.rename(self.target, old)
            _take_over(self.target)


@contextmanager
def building_site(store: Location, *, resume: bool, overwrite: bool) -> Iterator[Site]:
    """Find out where to build a store, and keep others out of it.

    Raises
    ------
    StoreExistsError
        There is something, and it may not be replaced or gone on with.
    StoreError
        A replacement stopped halfway, and nothing was said of going on.
    StoreBusyError
        Another process is building there.
    """
    folder = local_folder(store)
    path = location_text(store) if folder is None else str(folder)
    if folder is not None:
        if resume or overwrite:
            _finish_replacement(path)
        else:
            check_no_half_replacement(path)
    _check(path, resume=resume, overwrite=overwrite)
    with ExitStack() as locks:
        locks.enter_context(locked(path))
        # Once more, now that nobody else can change it.
        state = _check(path, resume=resume, overwrite=overwrite)
        place = path
        if state is State.WHOLE and overwrite and folder is not None:
            place, old = beside(path)
            for hidden in (place, old):
                if state_of(hidden) is State.FOREIGN:
                    raise _not_ours(hidden)
            locks.enter_context(locked(place))
            state = state_of(place)
        elif state is State.WHOLE and overwrite:
            state = State.NOTHING
        yield Site(place, path, state if resume else State.NOTHING)


def _check(path: str, *, resume: bool, overwrite: bool) -> State:
    state = state_of(path)
    if state is State.FOREIGN:
        raise _not_ours(path)
    if state is State.WHOLE and not (resume or overwrite):
        raise StoreExistsError(
            f"store {path}",
            found="a store",
            expected="a new place",
            fix="add --overwrite to replace its map; its results stay, and are stale where the map is another",
        )
    if state is State.UNFINISHED and not (resume or overwrite):
        found, command = unfinished(path)
        raise StoreExistsError(
            f"store {path}",
            found=found,
            expected="a new place",
            fix=f"{command} to finish it, or --overwrite to begin again",
        )
    return state


def _not_ours(path: str) -> StoreExistsError:
    return StoreExistsError(
        f"store {path}", found="something that is no eds_chunked store", expected="a new place", fix="choose another"
    )


def _finish_replacement(path: str) -> None:
    """Finish what a crash left of an earlier replacement; before the first rename there is nothing to finish."""
    new, old = beside(path)
    if state_of(old) not in (State.WHOLE, State.UNFINISHED):
        return
    # Whoever replaces the store holds the lock of the old one until the end.
    with locked(old):
        state = state_of(path)
        if state is State.NOTHING and state_of(new) is State.WHOLE:
            _take_over(path)
        elif state is State.NOTHING:
            os.rename(old, path)
        elif state is State.WHOLE:
            _remove(Path(old))


def _take_over(path: str) -> None:
    """Put the new store in its place, with the results of the old one."""
    new, old = beside(path)
    for part in _KEPT:
        if os.path.isdir(os.path.join(old, part)):
            os.rename(os.path.join(old, part), os.path.join(new, part))
    os.rename(new, path)
    _remove(Path(old))


def _remove(folder: Path) -> None:
    """Delete a store that nobody needs any more; as long as it is not gone it can be told for what it is."""
    # Readers may hold it open, or a file may be protected: a rest is removed by the next replacement.
    with suppress(OSError):
        _empty(folder, None)
        folder.rmdir()


def _empty(folder: Path, spared: Path | None) -> None:
    """Delete what a store holds: the document of the map first, that of the store last."""
    (folder / group_document(MAP_GROUP)).unlink(missing_ok=True)
    for child in sorted(folder.iterdir(), key=lambda child: child.name == ROOT_DOCUMENT):
        _delete(child, spared)


def _delete(path: Path, spared: Path | None) -> None:
    if path == spared:
        return
    if spared is not None and spared.is_relative_to(path):
        for child in path.iterdir():
            _delete(child, spared)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
