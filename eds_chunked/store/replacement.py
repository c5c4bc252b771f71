"""Where a store is built, and how it takes the place of another one.

On disks a replacement is built beside, as ``.NAME.new``. When it is whole, the store that it replaces becomes
``.NAME.old``, its results move to the new one, that one gets the name, and the old one is removed. Between the first
rename and the last there is nothing under the name, for a moment. What a crash leaves between any two of these steps is
finished by the next ``convert`` with ``--resume`` or ``--overwrite``. Both folders carry a mark: without it, what has
such a name is somebody's, and is not touched. Object stores cannot rename: there the old map goes first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from zarr.core.sync import sync

from eds_chunked.dry_run import is_dry
from eds_chunked.errors import StoreExistsError
from eds_chunked.schema import COUNTS, IMAGES_GROUP, MAP_GROUP, RESULTS_GROUP
from eds_chunked.store.backend import Location, delete_dir, list_dir, location_text, zarr_store
from eds_chunked.store.layout import CLAIMS, LOG, ROOT_DOCUMENT, beside, group_document
from eds_chunked.store.lock import LOCK, MARK, is_partial, local_folder, locked
from eds_chunked.store.opening import State, check_no_half_replacement, state_of, unfinished

_RESULTS = (RESULTS_GROUP, CLAIMS, LOG)
"""What a store hands on to the one that replaces it, unless that is a copy of another store."""


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
    kept
        The parts of the store at the target that stay.
    """

    place: str
    target: str
    found: State
    kept: tuple[str, ...] = _RESULTS

    @property
    def replaces(self) -> bool:
        """Whether the store is built beside the one that it will replace."""
        return self.place != self.target

    @property
    def waiting(self) -> str | None:
        """Where a replacement of the target waits that was stopped, if this is not it."""
        if self.replaces or local_folder(self.target) is None:
            return None
        new, _ = beside(self.target)
        return new if _is_marked(new) and state_of(new) in (State.WHOLE, State.UNFINISHED) else None

    def clear(self) -> None:
        """Delete the map and the images, and all else where no results are to be kept; the lock stays."""
        # The document of the map first: half a map must not be taken for one.
        sync(zarr_store(self.place).delete(group_document(MAP_GROUP)))
        if self.kept and list_dir(self.place, RESULTS_GROUP):
            for group in (MAP_GROUP, IMAGES_GROUP):
                _delete_below(self.place, group, spared=(LOCK, MARK, *self.kept))
        else:
            _delete_below(self.place, "", spared=(LOCK, MARK))

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
        if self.replaces and not is_dry():
            _, old = beside(self.target)
            _mark(self.target, kept=self.kept)
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
    # Where a link leads to: what is beside the link may be on another disk, and a link is nothing to put a store at.
    path = location_text(store) if folder is None else os.path.realpath(folder)
    if folder is not None:
        if (resume or overwrite) and not is_dry():
            _finish_replacement(path)
        else:
            check_no_half_replacement(path)
    state = _check(path, resume=resume, overwrite=overwrite)
    if is_dry():
        # Nothing is locked, since a lock is a file.
        place = beside(path)[0] if state is State.WHOLE and overwrite and folder is not None else path
        yield Site(place, path, state_of(place) if resume else State.NOTHING)
        return
    with ExitStack() as locks:
        locks.enter_context(locked(path))
        # Once more, now that nobody else can change it.
        state = _check(path, resume=resume, overwrite=overwrite)
        place = path
        if folder is not None:
            _unmark(path)
        if state is State.WHOLE and overwrite and folder is not None:
            place = locks.enter_context(_place_beside(path))
            state = state_of(place)
        elif state is State.WHOLE and overwrite:
            state = State.NOTHING
        yield Site(place, path, state if resume else State.NOTHING)


@contextmanager
def copy_site(target: str) -> Iterator[Site]:
    """Keep others out of a place that a copy of another store will take, with nothing kept of what is there.

    On disks the copy is built beside, also where there is nothing yet.
    """
    if local_folder(target) is None:
        yield Site(target, target, State.NOTHING, kept=())
        return
    path = os.path.realpath(target)
    _finish_replacement(path)
    with locked(path), _place_beside(path) as place:
        yield Site(place, path, State.NOTHING, kept=())


@contextmanager
def _place_beside(path: str) -> Iterator[str]:
    """Give the place where the replacement of a store is built, marked and locked."""
    place, old = beside(path)
    if state_of(place) is not State.NOTHING and not _is_marked(place):
        raise _not_ours(place)
    if state_of(old) is not State.NOTHING:
        raise _not_ours(old)
    if os.path.isdir(old):  # nothing but a lock: the removal of an old store was broken off at its last file
        shutil.rmtree(old)
    with locked(place):
        _mark(place)
        yield place


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
    found = "something that is no eds_chunked store"
    if state_of(path) is not State.FOREIGN:
        found = "what cannot be deleted" if _is_marked(path) else "a store that no replacement made"
    return StoreExistsError(f"store {path}", found=found, expected="a new place", fix="choose another, or move it away")


# --------------------------------------------------------------------------------------------------- the mark
def _mark(folder: str, *, kept: tuple[str, ...] = ()) -> None:
    """Note that a folder is part of a replacement, and what the old store hands on."""
    file = Path(folder, MARK)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(kept))


def _is_marked(folder: str) -> bool:
    return Path(folder, MARK).is_file()


def _unmark(folder: str) -> None:
    Path(folder, MARK).unlink(missing_ok=True)


# --------------------------------------------------------------------------------------------------- the renames
def _finish_replacement(path: str) -> None:
    """Finish what a crash left of an earlier replacement; before the first rename there is nothing to finish."""
    new, old = beside(path)
    if not _is_marked(old):
        return
    # Whoever replaces the store holds the lock of the old one until the end.
    with locked(old):
        state = state_of(path)
        if state is State.NOTHING and state_of(new) is State.WHOLE and _is_marked(new):
            _take_over(path)
        elif state is State.NOTHING and state_of(old) is not State.NOTHING:
            os.rename(old, path)
            _unmark(path)
        elif state in (State.NOTHING, State.WHOLE):
            _remove(Path(old))


def _take_over(path: str) -> None:
    """Put the new store in its place, with what the old one hands on."""
    new, old = beside(path)
    for part in Path(old, MARK).read_text().split():
        if part in _RESULTS and os.path.isdir(os.path.join(old, part)):
            os.rename(os.path.join(old, part), os.path.join(new, part))
    os.rename(new, path)
    _unmark(path)
    _remove(Path(old))


def _remove(folder: Path) -> None:
    """Delete a store that nobody needs any more; as long as it is not gone it carries its mark."""
    # Readers may hold it open, or a file may be protected: a rest is removed by the next replacement.
    with suppress(OSError):
        (folder / group_document(MAP_GROUP)).unlink(missing_ok=True)
        _delete_below(str(folder), "", spared=(MARK,))
        shutil.rmtree(folder)


def _delete_below(place: str, folder: str, *, spared: tuple[str, ...]) -> None:
    """Delete what is in a folder of a store but for what is spared, the document of the folder last."""
    for name in sorted(list_dir(place, folder), key=lambda name: name == ROOT_DOCUMENT):
        key = f"{folder}/{name}" if folder else name
        if any(part.startswith(f"{key}/") for part in spared):
            _delete_below(place, key, spared=spared)
        elif key not in spared:
            _delete(place, key)


def _delete(place: str, key: str) -> None:
    folder = local_folder(place)
    path = None if folder is None else folder / key
    if path is None:
        delete_dir(place, key)
        sync(zarr_store(place).delete(key))
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
