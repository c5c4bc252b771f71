"""Removing the results that a store no longer needs."""

from __future__ import annotations

from dataclasses import dataclass

from zarr.core.sync import sync

from eds_chunked import schema
from eds_chunked.store.backend import Location, delete_dir, exists, stored_bytes, zarr_store
from eds_chunked.store.consolidation import forget_consolidated
from eds_chunked.store.drafts import revision_numbers, why_open
from eds_chunked.store.layout import group_document, revision_group
from eds_chunked.store.results import Revision, revisions
from eds_chunked.store.run_log import recorded, trim_log


@dataclass(frozen=True)
class Cleaned:
    """What :func:`clean` removed, or would remove.

    Attributes
    ----------
    superseded
        Addresses of revisions that a later one of the same run replaced.
    uncommitted
        Addresses of revisions that were never finished.
    kept
        Older and unfinished revisions that stay, by address, and why.
    n_bytes
        What the removed revisions took.
    log_entries
        How many entries of the run log were removed: all but the newest 1000.
    """

    superseded: tuple[str, ...]
    uncommitted: tuple[str, ...]
    kept: dict[str, str]
    n_bytes: int
    log_entries: int = 0


@recorded("clean")
def clean(store: Location, *, dry_run: bool = False) -> Cleaned:
    """Remove results that a later revision replaced, and what steps left that never came to their end.

    Of every run the newest finished revision stays, stale or not, and so do the revisions that one of these was made
    from. A revision that somebody is writing, or holds unsaved, stays too: on disks a lock tells, which ends with the
    process that has it. On object stores, and for a process of another machine, unfinished revisions stay for seven
    days. Do not clean while another process still reads older revisions: what it has not read yet is gone.

    Parameters
    ----------
    store
        Path or URL of the store.
    dry_run
        Only say what would be removed.

    Returns
    -------
    Cleaned

    Raises
    ------
    StoreNotFoundError, StoreError
        There is no store, or its conversion did not finish.
    """
    committed = revisions(store)
    parents = _parents_of_newest(committed)
    superseded: list[Revision] = []
    uncommitted: list[Revision] = []
    kept: dict[str, str] = {}
    for revision in committed:
        if _newest_of_run(committed, revision) is revision:
            continue
        if revision.address in parents:
            kept[revision.address] = f"{parents[revision.address]} was made from it"
        else:
            superseded.append(revision)
    for revision in _uncommitted(store, committed):
        reason = why_open(store, revision.step, revision.run, revision.number)
        if reason is not None:
            kept[revision.address] = reason
        # A writer commits first and gives the lock back after: asked in this order, what is finished is never taken.
        elif not exists(store, group_document(_group(revision))):
            uncommitted.append(revision)
    n_bytes = sum(stored_bytes(store, _group(revision)) for revision in (*superseded, *uncommitted))
    if not dry_run:
        forget_consolidated(store)
        for revision in (*superseded, *uncommitted):
            _remove(store, revision)
    return Cleaned(
        tuple(revision.address for revision in superseded),
        tuple(revision.address for revision in uncommitted),
        kept,
        n_bytes,
        trim_log(store, dry_run=dry_run),
    )


def _newest_of_run(committed: list[Revision], revision: Revision) -> Revision:
    run = [r for r in committed if (r.step, r.run) == (revision.step, revision.run)]
    return max(run, key=lambda r: r.number)


def _parents_of_newest(committed: list[Revision]) -> dict[str, str]:
    """Return the addresses that the newest revisions descend from, each with a descendant."""
    known = {revision.address: revision for revision in committed}
    parents: dict[str, str] = {}
    for revision in committed:
        if _newest_of_run(committed, revision) is not revision:
            continue
        child = revision
        while (parent := known.get(child.attrs.get(schema.PARENT, ""))) is not None:
            parents.setdefault(parent.address, child.address)
            child = parent
    return parents


def _uncommitted(store: Location, committed: list[Revision]) -> list[Revision]:
    known = {revision.address for revision in committed}
    found = [
        Revision(step, run, number, {})
        for step in schema.STEPS
        for run, numbers in revision_numbers(store, step).items()
        for number in numbers
    ]
    return [revision for revision in found if revision.address not in known]


def _remove(store: Location, revision: Revision) -> None:
    """Delete a revision, its document first: a crash in between leaves one that is not finished.

    Its claim stays, since its number must not be given again: a result that was made from it says so by its address.
    """
    sync(zarr_store(store).delete(group_document(_group(revision))))
    delete_dir(store, _group(revision))


def _group(revision: Revision) -> str:
    return revision_group(revision.step, revision.run, revision.number)
