"""A copy of a store with its counts in another codec, for environments that read Zarr but do not have this package."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync

from eds_chunked import progress, schema
from eds_chunked.errors import ParameterError, StoreError, StoreExistsError
from eds_chunked.in_order import in_order
from eds_chunked.kernels.sparse import channel_dtype
from eds_chunked.memory import Need, Plan, plan
from eds_chunked.store.backend import Location, exists, is_remote, list_dir, location_text, zarr_store
from eds_chunked.store.consolidation import consolidate
from eds_chunked.store.drafts import revision_numbers
from eds_chunked.store.journal import ConversionPlan, plan_at
from eds_chunked.store.layout import group_document, revision_group
from eds_chunked.store.opening import State, check_store, open_map, state_of
from eds_chunked.store.origin import PATH
from eds_chunked.store.provenance import check_calibrated
from eds_chunked.store.replacement import copy_site
from eds_chunked.store.source import CountsSource, counts_source, reads_of_tiles
from eds_chunked.store.tile_codecs import TILE_CODECS
from eds_chunked.store.writer import MapWriter

DEFAULT_CODEC = "zstd"

_MAP_DOCUMENT = group_document(schema.MAP_GROUP)
_COUNTS_ARRAY = f"{schema.MAP_GROUP}/{schema.COUNTS}"


def recode(store: Location, target: Location, *, codec: str | None, memory: str | int | None, overwrite: bool) -> str:
    """Write a copy of a store with its counts in ``codec``, and return where it is.

    Raises
    ------
    ParameterError
        There is no such codec, or no folder for the target, or the target is the store itself.
    StoreError
        A tile is damaged, or the store was changed while it was read. Nothing stays of the copy.
    StoreExistsError, StoreFullError, MemoryBudgetError
    """
    codec = codec or DEFAULT_CODEC
    if codec not in TILE_CODECS:
        raise ParameterError("codec", found=repr(codec), expected=" or ".join(TILE_CODECS), fix="--codec zstd")
    check_store(store)
    attrs = open_map(store).attrs
    check_calibrated(attrs, location_text(store))
    source = counts_source(location_text(store), attrs[schema.FINGERPRINT])
    copied = _plan(store, source, codec)
    chosen = plan(
        _need(copied, source),
        memory=memory,
        reads=[reads_of_tiles(source)],
        writes=math.prod(source.shape) * source.dtype.itemsize,
    )
    with _building_place(location_text(store), location_text(target), overwrite=overwrite) as place:
        _copy(store, source, MapWriter(place, copied, dtype=source.dtype), chosen)
    return location_text(target)


def _plan(store: Location, source: CountsSource, codec: str) -> ConversionPlan:
    """Return the plan of the copy: as the store was made, but for the codec and for rows that it has not."""
    readable = zarr_store(store, read_only=True)
    begun = plan_at(store) or ConversionPlan(source.shape, source.tile, None, codec, {PATH: source.location})
    shards = zarr.open_array(readable, path=_COUNTS_ARRAY, mode="r").shards
    # A conversion writes rows of tiles: of a store made by others, with shards of another shape, the tiles are copied.
    shard = None if shards is None or shards[0] != source.tile[0] else (shards[0], shards[1], shards[2])
    return replace(begun, shape=source.shape, tile=source.tile, shard=shard, codec=codec)


def _need(copied: ConversionPlan, source: CountsSource) -> Need:
    """Return the memory for one unit: a tile read, and its dense or encoded forms; those that wait in a shard."""
    itemsize = source.dtype.itemsize
    dense = math.prod(source.tile) * itemsize
    csr = dense + math.prod(source.tile) * channel_dtype(source.tile[2]).itemsize
    unit = 1 if copied.shard is None else copied.shard[1] // copied.tile[1]
    # Encoded tiles that wait for their shard: counts that are worth a codec take less than half of their dense bytes.
    waiting = unit * dense // 2 if unit > 1 else 0
    return Need("export", 0, 2 * csr + 3 * dense + waiting)


def _copy(store: Location, source: CountsSource, writer: MapWriter, chosen: Plan) -> None:
    original = zarr_store(store, read_only=True)
    document = _get(original, _MAP_DOCUMENT)
    whole = slice(0, source.shape[2])

    def write(job: tuple[slice, slice]) -> int:
        ys, unit = job
        writer.write(ys, unit, (source.load(ys, xs, whole) for xs in writer.columns(unit)))
        pixels: int = (ys.stop - ys.start) * (unit.stop - unit.start)
        return pixels

    def copy(key: str) -> None:
        found = _get(original, key)
        if found is None:
            raise _changed(store, f"{key}, which it had, is gone")
        sync(writer.store.set(key, found))

    jobs = [(ys, unit) for ys in writer.rows for unit in writer.units]
    with progress.step("export", math.prod(source.shape[:2])) as done:
        for pixels in in_order(write, jobs, workers=chosen.workers):
            done(pixels)
    writer.seal(int(np.iinfo(source.dtype).max), source.shape[0])
    for _ in in_order(copy, _keys_beside(store, original), workers=chosen.workers):
        pass
    consolidate(writer.store)
    now = _get(original, _MAP_DOCUMENT)
    if document is None or now is None or now.to_bytes() != document.to_bytes():
        raise _changed(store, "another map than before it was read")
    writer.commit()


def _changed(store: Location, found: str) -> StoreError:
    expected = "one that nobody changes meanwhile"
    return StoreError(f"store {location_text(store)}", found=found, expected=expected, fix="export again")


def _keys_beside(store: Location, original: Store) -> list[str]:
    """Return the keys of all but the counts: the rest of the map, the images, and the committed results."""
    whole = [f"{schema.MAP_GROUP}/{name}" for name in list_dir(store, schema.MAP_GROUP) if name != schema.COUNTS]
    whole.append(schema.IMAGES_GROUP)
    parents = {group_document(schema.IMAGES_GROUP)}
    for step in schema.STEPS:
        for run, numbers in revision_numbers(store, step).items():
            groups = [revision_group(step, run, number) for number in numbers]
            whole += [group for group in groups if exists(store, group_document(group))]
            parents |= {group_document(f"{schema.RESULTS_GROUP}/{step}"), group_document(schema.RESULTS_GROUP)}

    async def keys() -> list[str]:
        return [key for prefix in whole for key in sorted([k async for k in original.list_prefix(f"{prefix}/")])]

    there = [parent for parent in sorted(parents) if exists(store, parent)]
    return [_MAP_DOCUMENT, *there, *(key for key in sync(keys()) if not key.endswith(".partial"))]


def _get(store: Store, key: str) -> Buffer | None:
    return sync(store.get(key, default_buffer_prototype()))


# --------------------------------------------------------------------------------------------------- the place
@contextmanager
def _building_place(store: str, target: str, *, overwrite: bool) -> Iterator[str]:
    """Give where to write the copy; at the end it is at ``target``, or after an error nowhere.

    On disks it is written beside and renamed, so an earlier copy stays until the new one is whole. Object stores cannot
    rename: there the document of the map, put last, makes it appear.
    """
    if not is_remote(target) and not Path(target).parent.is_dir():
        found, fix = f"no folder {Path(target).parent}", "make it first"
        raise ParameterError(f"export to {target}", found=found, expected="a folder that exists", fix=fix)
    one, other = (text if is_remote(text) else os.path.realpath(text) for text in (store, target))
    if f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/"):
        raise ParameterError(
            f"export to {target}", found="the store itself", expected="another place", fix="choose another name"
        )
    _check(target, overwrite=overwrite)
    with copy_site(target) as site:
        # Once more, now that nobody else can change it.
        _check(target, overwrite=overwrite)
        try:
            site.clear()
            yield site.place
        except BaseException:
            site.clear()
            raise
        site.finish()


def _check(target: str, *, overwrite: bool) -> None:
    state = state_of(target)
    if state is State.FOREIGN:
        raise StoreExistsError(
            f"export to {target}",
            found="something that is no eds_chunked store",
            expected="a new place",
            fix="choose another",
        )
    if state is not State.NOTHING and not overwrite:
        raise StoreExistsError(
            f"export to {target}", found="a store", expected="a new place", fix="add --overwrite to replace it"
        )
