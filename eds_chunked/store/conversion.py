"""From a microscope's file to a store, in one pass over the counts that can be stopped and gone on with."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from eds_chunked import progress, schema
from eds_chunked.dask_cluster import active_client, on_one_worker
from eds_chunked.dry_run import is_dry, noted_plans, tell
from eds_chunked.errors import (
    CountsError,
    EdsError,
    MemoryBudgetError,
    ParameterError,
    SourceError,
    StoreFullError,
)
from eds_chunked.kernels.sparse import Csr
from eds_chunked.memory import Plan, format_size
from eds_chunked.readers import open_source
from eds_chunked.readers.base import MapHeader, Reader
from eds_chunked.readers.selection import Energy, Rebin, Region, selected
from eds_chunked.store.backend import Location, location_text
from eds_chunked.store.description import describe_image, describe_map
from eds_chunked.store.journal import ConversionPlan, plan_at
from eds_chunked.store.layout import CHECKED, shard_shape, tile_shape
from eds_chunked.store.opening import State, open_map, state_of, unfinished
from eds_chunked.store.origin import differences, source_facts
from eds_chunked.store.replacement import Site, building_site
from eds_chunked.store.run_log import recorded
from eds_chunked.store.staging import Budget, Staging, TileRow, plan_staging
from eds_chunked.store.survey import Survey, TileSurvey, survey_tile
from eds_chunked.store.tile_codecs import TILE_CODECS
from eds_chunked.store.writer import MapWriter

DEFAULT_CODEC = "counts"

STATED_TOTAL = "header_total_counts"
"""Metadata of a header: the counts of the whole map as its file states them."""
_TOLERATED = 0.002
"""Share by which they may be off: whole Bruker files state up to 0.07 % more than their pixels hold."""


@recorded("convert")
def convert(
    source: Location | Reader,
    store: Location,
    *,
    pick: str | int | None = None,
    region: Region | None = None,
    energy: Energy | None = None,
    rebin: Rebin | None = None,
    energy_scale: float | None = None,
    salvage: bool = False,
    codec: str | None = None,
    shards: bool | None = None,
    memory: str | int | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> xr.Dataset:
    """Convert a microscope's file to a store; computes, in one streamed pass.

    Counts are written as tiles x all channels, in the smallest unsigned dtype that holds the map's true maximum. The
    survey (sum spectrum, maximum-pixel spectrum, total counts) is gathered in the same pass. The map appears in the
    store only when it is whole: what an interruption leaves does not open, and ``resume=True`` goes on with it.

    Parameters
    ----------
    source
        A file that :func:`eds_chunked.readers.open_source` knows, or an object that fulfils
        :class:`eds_chunked.readers.base.Reader`.
    store
        Path or URL of the Zarr store to make.
    pick
        Name or number (from 1) of the spectrum image, for files with several; of a reader, what it was opened with.
    region
        Rows and columns to store, as two slices in pixels; default: all.
    energy
        Lowest and highest keV of the channels to store; default: all.
    rebin
        Rows, columns and channels that are added up to one. What does not fill a last bin is left out, with a warning,
        and the history of the map says so.
    energy_scale
        keV per channel of the file, for files that state it wrongly or not at all.
    salvage
        Of a damaged file keep all whole rows before the damage. The map then has those rows only, and says so.
    codec
        How counts are packed: ``"counts"`` (default; small and fast, read by whoever has this package), ``"zstd"`` or
        ``"lz4"`` (read by every Zarr).
    shards
        Put 16 tiles in one file or object; default: where there are more than 10 000 tiles.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.
    resume
        Go on with a conversion that stopped, with its own tiles, codec, shards and selection, whatever the budget is
        now. Where nothing was begun it begins, and what is whole stays as it is.
    overwrite
        Replace the map of an existing store. Its results stay, and are stale unless the map is the same. The old store
        is in place until the new one is whole (not on object stores); ``resume`` goes on with a replacement that
        stopped.

    Returns
    -------
    The map, opened lazily: ``counts`` (y, x, energy), the survey and the coordinates in um and keV.

    Raises
    ------
    SourceError, SourceNotFoundError, CountsError
        The file is not there, not readable, damaged, or holds no counts. Nothing stays of what this call wrote.
    ParameterError
        A selection that cannot be, or ``resume`` with another source or other parameters than it began with.
    StoreExistsError
        ``store`` exists and ``overwrite`` is false, or it is something else than a store.
    StoreBusyError
        Another process is converting into it (told on disks, not on object stores).
    StoreFullError
        The disk is full. What is written stays, for ``resume``.
    MemoryBudgetError
        The smallest way to do it needs more memory than the budget.

    Notes
    -----
    Memory: rows are staged as CSR until a row of tiles is complete, so a dense band never exists.

    On a cluster one worker converts the file, which has to be where the workers see it; a reader reads here.
    """
    if codec is not None and codec not in TILE_CODECS:
        raise ParameterError("codec", found=repr(codec), expected=" or ".join(TILE_CODECS), fix="--codec counts")
    given: dict[str, Any] = {
        "asked": {"region": region, "energy": energy, "rebin": rebin, "energy_scale": energy_scale},
        "pick": pick,
        "salvage": salvage,
        "codec": codec,
        "shards": shards,
        "memory": memory,
        "overwrite": overwrite,
    }
    if active_client() is None or not isinstance(source, str | os.PathLike):
        told = _convert(source, store, resume=resume, **given)
    else:
        # The file is read once, from its beginning to its end: that is work for one worker.
        places = os.path.abspath(source), location_text(store)
        if is_dry():
            for made in on_one_worker(_planned, *places, resume=resume, **given):
                tell(made, goes_on=False)
        # Should the worker be lost, another one goes on where it was.
        resume = resume or state_of(store) is State.NOTHING
        told = on_one_worker(_convert, *places, resume=resume, **given)
    for text in told:
        warnings.warn(text, stacklevel=3)  # the caller, past the run log
    return open_map(store)


def _planned(*places: Location, **given: Any) -> list[Plan]:
    """Return the plans that a conversion makes here."""
    with noted_plans(stop=True) as made:
        _convert(*places, **given)
    return made


def _convert(
    source: Location | Reader,
    store: Location,
    *,
    asked: dict[str, Any],
    pick: str | int | None,
    salvage: bool,
    codec: str | None,
    shards: bool | None,
    memory: str | int | None,
    resume: bool,
    overwrite: bool,
) -> list[str]:
    """Convert, and return what the user should be warned of."""
    with building_site(store, resume=resume, overwrite=overwrite) as site:
        begun = None if site.found is State.NOTHING else plan_at(site.place, at=site.target)
        if site.found is State.WHOLE and begun is None:
            # Of an early version of the package, which kept no journal.
            return [_whole_already(site)]
        pick = pick if begun is None or pick is not None else begun.pick
        reader = source
        if isinstance(reader, str | os.PathLike):
            reader = open_source(Path(reader), pick=pick, salvage=salvage, memory=memory)
        facts = source_facts(reader.header)
        if begun is not None and not reader.header.parameters:
            asked = _arguments(begun.selection) | {name: value for name, value in asked.items() if value is not None}
        reader = selected(reader, **asked)
        check_shape(reader.header)
        if begun is None:
            plan = _plan(reader.header, facts, codec=codec, shards=shards, pick=pick)
        else:
            plan = begun
            _check_same(site, begun, facts, reader.header, codec=codec, shards=shards)
        told: list[str] = []
        if site.found is State.WHOLE and not site.replaces:
            told.append(_whole_already(site))
        elif site.found is not State.WHOLE:
            budget = plan_staging(reader, plan, memory=memory)
            told = _left_out(reader.header) + _build(
                site, _Work(reader, plan, budget, salvage), resume=begun is not None
            )
        site.finish()
    return told


def _whole_already(site: Site) -> str:
    text = f"{site.target} is whole already: there was nothing to resume"
    return text if site.waiting is None else f"{text}. {_how_to_replace(site.target, site.waiting)}"


def _how_to_replace(target: str, waiting: str) -> str:
    return f"A replacement that was stopped waits in {waiting}: {unfinished(waiting, at=target)[1]} --overwrite"


def check_shape(header: MapHeader) -> None:
    """Refuse a map without a pixel or a channel."""
    if min(header.shape) < 1:
        raise SourceError(
            f"map in {header.source}",
            found=f"shape {header.shape}",
            expected="at least one pixel and channel",
            fix="check the file",
        )


# --------------------------------------------------------------------------------------------------- the plan
def _plan(
    header: MapHeader, facts: dict[str, Any], *, codec: str | None, shards: bool | None, pick: str | int | None
) -> ConversionPlan:
    tile = tile_shape(header.shape[2])
    shard = shard_shape(header.shape, tile, wanted=shards)
    return ConversionPlan(header.shape, tile, shard, codec or DEFAULT_CODEC, facts, _json(header.parameters), pick)


def _json(value: Any) -> Any:
    """Return a value as it comes back from the journal."""
    return json.loads(json.dumps(value))


def _arguments(selection: dict[str, Any]) -> dict[str, Any]:
    """Return a selection as the arguments that made it."""
    found = dict(selection)
    if "region" in found:
        found["region"] = tuple(slice(*ends) for ends in found["region"])
    if "energy" in found:
        low, high = found["energy"]
        found["energy"] = (-math.inf if low is None else low, math.inf if high is None else high)
    if "rebin" in found:
        found["rebin"] = tuple(found["rebin"])
    return found


def _check_same(
    site: Site,
    begun: ConversionPlan,
    facts: dict[str, Any],
    header: MapHeader,
    *,
    codec: str | None,
    shards: bool | None,
) -> None:
    """Refuse to go on with another source than it began with, or with other parameters."""
    other = [f"{difference} of the source" for difference in differences(begun.source, _json(facts))]
    now = _json(header.parameters)
    other += [
        f"{name} {now.get(name)} in place of {begun.selection.get(name)}"
        for name in {**begun.selection, **now}
        if now.get(name) != begun.selection.get(name)
    ]
    if codec not in (None, begun.codec):
        other.append(f"codec {codec} in place of {begun.codec}")
    if shards not in (None, begun.shard is not None):
        other.append("shards, where it began without" if shards else "no shards, where it began with them")
    if not other and begun.shape != header.shape:
        other.append(f"shape {header.shape} in place of {begun.shape}")
    if other:
        _, command = unfinished(site.place, at=site.target)
        fix = f"{command}{' --overwrite' if site.replaces else ''}, or --overwrite alone to begin again"
        if site.waiting is not None:
            fix += f". {_how_to_replace(site.target, site.waiting)}"
        raise ParameterError(
            f"resume of {site.target}", found=", ".join(other), expected="what the conversion began with", fix=fix
        )


# --------------------------------------------------------------------------------------------------- the work
@dataclass(frozen=True)
class _Work:
    reader: Reader
    plan: ConversionPlan
    budget: Budget
    salvage: bool


def _build(site: Site, work: _Work, *, resume: bool) -> list[str]:
    """Write the store, or what is missing of it, and return what the user should be warned of.

    What fails leaves the store to be resumed, unless the source is to blame.
    """
    writer: MapWriter | None = None
    try:
        if resume:
            site.remove_leftovers()
        else:
            site.clear()
        writer = MapWriter(site.place, work.plan, resume=resume)
        return _write(writer, work)
    except BaseException as error:
        worthless = writer is None or not writer.marked or isinstance(error, SourceError | CountsError | ParameterError)
        kept = resume or not worthless
        better = _explained(error, site, writer, kept=kept)
        if not kept:
            site.clear()
        if better is error:
            raise
        raise better from error


def _explained(error: BaseException, site: Site, writer: MapWriter | None, *, kept: bool) -> BaseException:
    """Return the error that says how to go on, where there is one."""
    again = "--overwrite --resume" if site.replaces else "--resume"
    if isinstance(error, MemoryBudgetError) and kept:
        return MemoryBudgetError(error.what, found=error.found, expected=error.expected, fix=f"{error.fix} {again}")
    if isinstance(error, StoreFullError):
        command = unfinished(site.place, at=site.target)[1] if kept else "convert again"
        more = "room for the map"
        if writer is not None and writer.marked:
            done, height = sum(ys.stop - ys.start for ys in writer.marked), writer.plan.shape[0]
            rest = writer.bytes_written * (height - done) / done
            more = f"about {format_size(rest)} for the other {height - done} of {height} rows"
        return StoreFullError(
            f"store {site.place}",
            found="no space left on the device",
            expected=more,
            fix=f"free space, then {command}{' --overwrite' if kept and site.replaces else ''}",
        )
    return error


def _write(writer: MapWriter, work: _Work) -> list[str]:
    survey = Survey(work.plan.shape)
    staging = Staging(work.reader, work.plan, work.budget, salvage=work.salvage)
    full = height = work.plan.shape[0]
    with ThreadPoolExecutor(work.budget.workers) as pool, progress.step("convert", full) as done:
        for ys in writer.marked:
            if _survey_written(pool, writer, ys, survey):
                done(ys.stop - ys.start)
            else:
                writer.forget(ys)
        pending: deque[Future[list[TileSurvey]]] = deque()
        for gap in writer.gaps:
            height = gap.start
            for row in staging.rows(gap):
                # The row of tiles before this one was written while this one was read.
                _collect(pending, survey)
                writer.make_room_for(row.largest)
                pending.extend(pool.submit(_write_unit, writer, row, unit) for unit in writer.units)
                height = row.ys.stop
                done(row.ys.stop - row.ys.start)
                del row
            if staging.damage is not None:
                break
        else:
            height = full
        _collect(pending, survey)
    if staging.damage is not None and (height == 0 or any(ys.start >= height for ys in writer.marked)):
        raise staging.damage
    if not survey.sum_spectrum.any():
        raise CountsError(
            f"map in {work.reader.header.source}",
            found="no counts in any pixel",
            expected="a map with counts",
            fix="check the file",
        )
    survey.crop(height)
    return _seal(writer, work.reader, survey, staging.damage)


def _survey_written(pool: ThreadPoolExecutor, writer: MapWriter, ys: slice, survey: Survey) -> bool:
    """Add a row of tiles that was written before to the survey, and tell whether it is there as it was written."""

    def survey_one(xs: slice) -> TileSurvey:
        return survey_tile(writer.read_back(ys, xs), ys, xs, writer.plan.shape[1])

    columns = [xs for unit in writer.units for xs in writer.columns(unit)]
    try:
        tiles = list(pool.map(survey_one, columns))
    except EdsError:
        raise  # a store that does not answer has lost nothing
    except (OSError, ValueError, RuntimeError):  # absent, or other bytes
        return False
    for tile in tiles:
        survey.add(tile)
    return True


def _collect(pending: deque[Future[list[TileSurvey]]], survey: Survey) -> None:
    while pending:
        for tile in pending.popleft().result():
            survey.add(tile)


def _write_unit(writer: MapWriter, row: TileRow, unit: slice) -> list[TileSurvey]:
    surveys = []

    def tiles() -> Iterator[Csr]:
        for xs in writer.columns(unit):
            tile = row.tile(xs)
            surveys.append(survey_tile(tile, row.ys, xs, row.width))
            yield tile

    writer.write(row.ys, unit, tiles())
    return surveys


# --------------------------------------------------------------------------------------------------- the end
def _seal(writer: MapWriter, reader: Reader, survey: Survey, damage: SourceError | None) -> list[str]:
    """Write coordinates, survey, metadata and images, then commit the map; return what the user should know of it."""
    header, height = reader.header, len(survey.total_counts)
    told = []
    if damage is None:
        told += _another_total(header, survey)
        described = describe_map(header, survey)
    else:
        missing, why = [height, header.shape[0]], f"{damage.what}: found {damage.found}, expected {damage.expected}"
        told.append(f"{header.source} is damaged: the map has rows 0 to {height} of {missing[1]} ({why})")
        parameters = {**header.parameters, schema.MISSING_ROWS: missing, "why": why}
        described = describe_map(replace(header, shape=(height, *header.shape[1:]), parameters=parameters), survey)
        described.attrs[schema.MISSING_ROWS] = missing
    writer.seal(int(survey.max_spectrum.max()), height)
    encoding = _checked(described)
    described.to_zarr(writer.store, group=schema.MAP_GROUP, mode="a", consolidated=False, encoding=encoding)
    try:
        for number, image in enumerate(reader.images()):
            group = f"{schema.IMAGES_GROUP}/{number}"
            shown = describe_image(image)
            shown.to_zarr(writer.store, group=group, mode="a", consolidated=False, encoding=_checked(shown))
    except SourceError as error:
        if damage is None:
            raise
        told.append(f"{header.source}: not all electron images could be read ({error.found})")
    writer.commit()
    return told


def _left_out(header: MapHeader) -> list[str]:
    """Return a warning where what is kept of a map does not fill all bins."""
    if not header.left_out:
        return []
    left = ", ".join(f"{n} of the {name}" for name, n in header.left_out.items())
    return [f"{header.source}: the bins leave out, at the end, {left}"]


def _checked(ds: xr.Dataset) -> dict[Any, Any]:
    return dict.fromkeys(ds.variables, CHECKED)


def _another_total(header: MapHeader, survey: Survey) -> list[str]:
    """Return a warning where a file states clearly another number of counts than it holds."""
    stated, counted = header.metadata.get(STATED_TOTAL), int(survey.sum_spectrum.sum())
    if stated is None or set(header.parameters) - {"energy_scale"} or abs(stated - counted) <= _TOLERATED * counted:
        return []
    return [f"{header.source} states {stated} counts for the whole map, and holds {counted}"]
