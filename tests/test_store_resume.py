"""Stopping a conversion, whatever stops it, and going on: in the end nothing tells that it was stopped."""

import errno
import json
import random
import shlex
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from zarr.storage import LocalStore

from eds_chunked import schema
from eds_chunked.cli import main
from eds_chunked.errors import (
    MemoryBudgetError,
    ParameterError,
    SourceError,
    StoreError,
    StoreExistsError,
    StoreFullError,
    StoreNotFoundError,
)
from eds_chunked.readers.base import Box
from eds_chunked.store import conversion, replacement
from eds_chunked.store.chunks import StoredTiles
from eds_chunked.store.cleaning import clean
from eds_chunked.store.conversion import convert
from eds_chunked.store.journal import Journal, digest, parse
from eds_chunked.store.layout import LOG
from eds_chunked.store.lock import MARK
from eds_chunked.store.opening import open_map
from eds_chunked.store.origin import source_facts
from eds_chunked.store.results import load_fresh, newest, revisions, save, why_stale
from tests.killed_conversions import SIDE, kill_map, kill_reader
from tests.made_maps import MadeReader, made_counts, made_draft, made_result
from tests.ripple_files import write_ripple

KINDS = [("counts", False), ("counts", True), ("zstd", False), ("zstd", True), ("lz4", False)]
COUNTS = kill_map()


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(conversion, "tile_shape", lambda n_channels: (SIDE, SIDE, n_channels))
    monkeypatch.setattr(
        conversion, "shard_shape", lambda shape, tile, wanted: (SIDE, 2 * SIDE, tile[2]) if wanted else None
    )


def content(store):
    """All files of a store but its run log, with the times of the history taken out."""
    files = {p.relative_to(store).as_posix(): p.read_bytes() for p in Path(store).rglob("*") if p.is_file()}
    files = {name: data for name, data in files.items() if not name.startswith(LOG)}
    document = json.loads(files["map/zarr.json"])
    for event in document["attributes"][schema.HISTORY]:
        del event["when"]
    return files | {"map/zarr.json": document}


class Reads(MadeReader):
    """Notes which rows are read, and raises what it is told when it comes to row ``stop``."""

    stop, error = 10**9, KeyboardInterrupt()

    def bands(self, rows, box=None):
        self.read = [*getattr(self, "read", []), (box.ys.start, box.ys.stop)]
        for band in super().bands(rows, box):
            if band.y0 >= self.stop:
                raise self.error
            yield band


def stopped(store, *, at=16, error=None, counts=COUNTS, **options):
    """A conversion that an interrupt stopped while it read row ``at``."""
    reader = Reads(counts, rows=4)
    reader.stop, reader.error = at, error or KeyboardInterrupt()
    with pytest.raises(type(reader.error)):
        convert(reader, store, **options)
    return store


# ------------------------------------------------------------------------------------------------------ kill -9
def killed(folder, codec, shards, cases, *, overwrite=False):
    words = [codec, "shards" if shards else "plain", "overwrite" if overwrite else "new"]
    command = [sys.executable, "-m", "tests.killed_conversions", str(folder), *words, *cases]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True)
    return [int(line) for line in done.stdout.split()]


def drawn_cases(codec, n_puts, most):
    cases = [f"{n}:{mode}" for n in range(n_puts) for mode in ("before", "within")]
    return random.Random(codec).sample(cases, most)


@pytest.mark.parametrize(("codec", "shards"), KINDS)
def test_a_kill_at_any_put_leaves_what_is_refused_by_name_and_resumes_to_the_same_bytes(tmp_path, codec, shards):
    whole = tmp_path / "whole.zarr"
    convert(kill_reader(), whole, codec=codec, shards=shards)
    expected = content(whole)
    cases = ["0:before", "1:within", "2:before", "3:within", *drawn_cases(codec, 50, 10)]
    assert killed(tmp_path, codec, shards, cases) == []
    at = set()
    for case in set(cases):
        store = tmp_path / f"{case.replace(':', '-')}.zarr"
        with pytest.raises((StoreError, StoreNotFoundError)) as refused:
            open_map(store)
        assert str(store) in str(refused.value)
        at.add(str(refused.value.found))
        if isinstance(refused.value, StoreNotFoundError):
            assert str(refused.value.found) == "nothing"
            assert content_of_nothing(store)
            check = convert(kill_reader(), store, resume=True, codec=codec, shards=shards)
        else:
            with pytest.raises(StoreExistsError, match=r"--resume to finish it, or --overwrite to begin again"):
                convert(kill_reader(), store)
            # Codec and shards are those that it began with.
            check = convert(kill_reader(), store, resume=True)
        assert np.array_equal(check[schema.COUNTS].values, COUNTS), case
        assert content(store) == expected, case
    assert len(at) > 3


def content_of_nothing(store):
    return all(p.name == "lock" or p.suffix == ".partial" for p in store.rglob("*") if p.is_file())


def test_a_whole_conversion_of_the_helper_has_as_many_puts_as_are_drawn_from(tmp_path):
    for codec, most in (("counts", 70), ("zstd", 90)):
        (n_puts,) = killed(tmp_path / codec, codec, False, ["1000:before"])
        assert 50 <= n_puts <= most


def test_what_a_second_kill_leaves_is_resumed_too(tmp_path, monkeypatch):
    whole = tmp_path / "whole.zarr"
    convert(kill_reader(), whole, codec="zstd")
    store = stopped(tmp_path / "map.zarr", at=8, codec="zstd")
    for at in (16, 24):
        reader = Reads(COUNTS, rows=4)
        reader.stop = at
        with pytest.raises(KeyboardInterrupt):
            convert(reader, store, resume=True)
        assert Journal(LocalStore(store)).stopped_at >= at - 8
    assert np.array_equal(convert(MadeReader(COUNTS), store, resume=True)[schema.COUNTS].values, COUNTS)
    tiles = {name: data for name, data in content(whole).items() if name.startswith("map/counts/c/")}
    assert tiles.items() <= content(store).items()
    assert len(tiles) == 12


# ------------------------------------------------------------------------------------------------------ resuming
def test_open_and_convert_say_how_far_it_came_and_what_to_type(tmp_path):
    store = stopped(tmp_path / "map.zarr", at=16)
    assert not (store / "map/zarr.json").exists()
    says = r"found a map whose conversion stopped at row 16 of 29.* eds-chunked convert made.map .*map.zarr --resume"
    with pytest.raises(StoreError, match=says):
        open_map(store)
    with pytest.raises(StoreExistsError, match=says + " to finish it, or --overwrite to begin again"):
        convert(MadeReader(COUNTS), store)


def test_only_rows_without_a_marker_are_read_again(tmp_path):
    store = stopped(tmp_path / "map.zarr", at=16)
    reader = Reads(COUNTS)
    convert(reader, store, resume=True)
    assert reader.read == [(16, 29)]


@pytest.mark.parametrize("codec", ["counts", "zstd"])
def test_rows_whose_tiles_do_not_fit_their_marker_are_written_again(tmp_path, codec):
    whole = tmp_path / "whole.zarr"
    convert(kill_reader(), whole, codec=codec)
    store = stopped(tmp_path / "map.zarr", at=28, codec=codec)
    shutil.copytree(store, tmp_path / "second.zarr")
    (store / "map/counts/c/0/1/0").unlink()
    # A valid tile, but of another place.
    shutil.copy(store / "map/counts/c/1/0/0", store / "map/counts/c/2/0/0")
    reader = Reads(COUNTS)
    ds = convert(reader, store, resume=True)
    assert reader.read == [(0, 8), (16, 29)]
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)
    (tmp_path / "second.zarr/map/counts/c/1/2/0").write_bytes(b"x")
    reader = Reads(COUNTS)
    convert(reader, tmp_path / "second.zarr", resume=True)
    assert reader.read == [(8, 16), (24, 29)]
    tiles = {name: data for name, data in content(whole).items() if name.startswith("map/counts/c/")}
    for resumed in (store, tmp_path / "second.zarr"):
        assert tiles.items() <= content(resumed).items()


def test_the_journal_says_what_is_in_every_tile(tmp_path):
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store, shards=False)
    journal = Journal(LocalStore(store, read_only=True))
    assert journal.plan.shape == COUNTS.shape
    assert journal.stopped_at == 29
    markers = journal.markers()
    assert [marker.rows for marker in markers] == [(0, 8), (8, 16), (16, 24), (24, 29)]
    for i, marker in enumerate(markers):
        rows = COUNTS[slice(*marker.rows)]
        assert marker.total == rows.sum()
        for j, tile in enumerate(marker.tiles):
            assert tile.total == rows[:, SIDE * j : SIDE * (j + 1)].sum()
            assert tile.digest == digest((store / f"map/counts/c/{i}/{j}/0").read_bytes())


def test_resume_begins_where_nothing_was_begun_and_leaves_alone_what_is_whole(tmp_path):
    store = tmp_path / "map.zarr"
    reader = Reads(COUNTS)
    convert(reader, store, resume=True)
    assert reader.read == [(0, 29)]
    before = content(store)
    with pytest.warns(UserWarning, match="map.zarr is whole already"):
        ds = convert(reader, store, resume=True)
    assert reader.read == [(0, 29)]
    assert content(store) == before
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)
    with pytest.raises(ParameterError, match="shape 28 x 23 x 13 in place of 29 x 23 x 13 of the source"):
        convert(MadeReader(COUNTS[:28]), store, resume=True)


def test_tile_codec_and_shards_are_those_that_it_began_with(tmp_path, monkeypatch):
    store = stopped(tmp_path / "map.zarr", codec="lz4", shards=True)
    monkeypatch.setattr(conversion, "tile_shape", lambda n_channels: (16, 16, n_channels))
    convert(MadeReader(COUNTS), store, resume=True)
    array = zarr.open_array(store, path="map/counts", mode="r")
    assert (array.chunks, array.shards) == ((8, 8, 13), (8, 16, 13))
    assert np.array_equal(array[:], COUNTS)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"codec": "zstd"}, "codec zstd in place of counts"),
        ({"shards": True}, "shards, where it began without"),
        ({"energy": (0.0, 0.02)}, r"energy \[0.0, 0.02\] in place of \[-0.05, inf\]|energy \[0.0, 0.02\] in place of"),
        ({"region": (slice(0, 29), slice(1, 23))}, r"region \[\[0, 29\], \[1, 23\]\] in place of"),
        ({"rebin": (2, 1, 1)}, r"rebin \[2, 1, 1\] in place of None"),
    ],
)
def test_other_parameters_than_it_began_with_are_refused(tmp_path, change, says):
    chosen = {"energy": (-0.05, np.inf), "region": (slice(0, 29), slice(2, 23))}
    store = stopped(tmp_path / "map.zarr", **chosen)
    before = content_of(store)
    with pytest.raises(ParameterError, match=rf"resume of {store}: found ({says}).*--resume, or --overwrite alone"):
        convert(MadeReader(COUNTS), store, resume=True, **change)
    assert content_of(store) == before
    # What is not given again is as it was, and the same given again is the same.
    ds = convert(MadeReader(COUNTS), store, resume=True, energy=(-0.05, np.inf))
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS[:, 2:, 5:])


def test_another_source_is_refused_and_says_what_differs(tmp_path):
    counts = np.tile(COUNTS, (1, 1, 40))
    file = write_ripple(tmp_path / "a.rpl", counts)
    store = tmp_path / "map.zarr"
    shutil.copytree(stopped_file(file, tmp_path / "first.zarr"), store)
    changed = counts.copy()
    changed[28, 22, 500] += 1
    write_ripple(file, changed)
    with pytest.raises(ParameterError, match="found another content of the source"):
        convert(file, store, resume=True)
    write_ripple(file, counts[:, :, :500])
    with pytest.raises(ParameterError, match="shape 29 x 23 x 500 in place of 29 x 23 x 520 of the source, size"):
        convert(file, store, resume=True)
    with pytest.raises(ParameterError, match="title 'other' in place of"):
        convert(MadeReader(counts, title="other"), store, resume=True)
    # The same file elsewhere is the same source.
    (tmp_path / "moved").mkdir()
    moved = write_ripple(tmp_path / "moved/b.rpl", counts)
    assert np.array_equal(convert(moved, store, resume=True)[schema.COUNTS].values, counts)


def stopped_file(file, store, quote=""):
    with pytest.MonkeyPatch.context() as patch:
        mark = Journal.mark
        patch.setattr(Journal, "mark", lambda self, m: mark(self, m) if m.rows[0] < 16 else interrupt())
        with pytest.raises(KeyboardInterrupt):
            convert(file, store)
    with pytest.raises(StoreError, match=rf"stopped at row 16 of 29.*convert {quote}{file}{quote} {store} --resume"):
        open_map(store)
    return store


def interrupt():
    raise KeyboardInterrupt


def test_a_source_of_many_files_is_told_by_what_is_in_them_too(tmp_path):
    folder = tmp_path / "source.zarr"
    for number in range(997):
        (folder / str(number % 10)).mkdir(parents=True, exist_ok=True)
        (folder / str(number % 10) / str(number)).write_bytes(bytes([number % 251]) * 7)
    (folder / "3" / ".zattrs").write_text('{"a": 1}')
    header = replace(MadeReader(COUNTS).header, source=str(folder))
    before = source_facts(header)
    assert source_facts(header) == before
    assert before["size"] == 997 * 7 + 8
    shutil.copytree(folder, tmp_path / "moved.zarr")
    assert source_facts(replace(header, source=str(tmp_path / "moved.zarr")))["content"] == before["content"]
    (folder / "3" / ".zattrs").write_text('{"a": 2}')
    assert source_facts(header)["content"] != before["content"]
    (folder / "3" / ".zattrs").write_text('{"a": 1}')
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for file in files:
        file.write_bytes(file.read_bytes()[::-1] if file.name == ".zattrs" else b"another")
    (folder / "3" / ".zattrs").write_text('{"a": 1}')
    assert source_facts(header)["content"] != before["content"]


@pytest.mark.parametrize("change", [lambda text: b"", lambda text: b"{", lambda text: text[:-9], lambda text: b"3"])
def test_rows_whose_marker_cannot_be_read_are_written_again(tmp_path, change):
    store = stopped(tmp_path / "map.zarr", at=28)
    marker = store / "map/counts/__eds/rows/00000008.json"
    as_it_was = marker.read_bytes()
    marker.write_bytes(change(as_it_was))
    with pytest.raises(ValueError, match=r"."):
        parse(marker.read_bytes())
    with pytest.raises(StoreError, match="stopped at row 8 of 29"):
        open_map(store)
    reader = Reads(COUNTS)
    ds = convert(reader, store, resume=True)
    assert reader.read == [(8, 16), (24, 29)]
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)
    assert marker.read_bytes() == as_it_was


def test_a_marker_of_another_number_of_tiles_is_none(tmp_path):
    store = stopped(tmp_path / "map.zarr", at=28)
    marker = store / "map/counts/__eds/rows/00000008.json"
    document = json.loads(marker.read_bytes())
    document["total"] -= document["tiles"].pop()["total"]
    marker.write_text(json.dumps(document))
    shutil.copy(store / "map/counts/__eds/rows/00000016.json", store / "map/counts/__eds/rows/00000000.json")
    reader = Reads(COUNTS)
    assert np.array_equal(convert(reader, store, resume=True)[schema.COUNTS].values, COUNTS)
    assert reader.read == [(0, 16), (24, 29)]


@pytest.mark.parametrize("plan", ["", "{", "[]", "3", '{"shape": 3}'])
def test_an_unreadable_plan_is_one_clear_error_that_names_the_way_out(tmp_path, plan):
    store = stopped(tmp_path / "map.zarr", at=16)
    (store / "map/counts/__eds/plan.json").write_text(plan)
    says = rf"store {store}: found an unreadable map/counts/__eds/plan.json.*convert SOURCE {store} --overwrite"
    for attempt in (
        lambda: open_map(store),
        lambda: convert(MadeReader(COUNTS), store),
        lambda: convert(MadeReader(COUNTS), store, resume=True),
    ):
        with pytest.raises(StoreError, match=says):
            attempt()
    assert np.array_equal(convert(MadeReader(COUNTS), store, overwrite=True)[schema.COUNTS].values, COUNTS)


def test_a_store_that_does_not_answer_has_lost_nothing(tmp_path, monkeypatch):
    store = stopped(tmp_path / "map.zarr", at=16)
    before = content_of(store)

    def no_answer(self, row, column):
        raise StoreError("store", found="no way to it", expected="an answer", fix="try again")

    monkeypatch.setattr(StoredTiles, "read", no_answer)
    with pytest.raises(StoreError, match="no way to it"):
        convert(MadeReader(COUNTS), store, resume=True)
    assert content_of(store) == before


def content_of(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "lock" and path.parent.name != "log")
    return {path: path.read_bytes() for path in files}


@pytest.mark.parametrize("codec", ["counts", "zstd"])
def test_the_bytes_that_are_written_count_once(tmp_path, monkeypatch, codec):
    writers, begin = [], conversion.MapWriter
    monkeypatch.setattr(conversion, "MapWriter", lambda *a, **k: writers.append(begin(*a, **k)) or writers[0])
    convert(kill_reader(), tmp_path / "map.zarr", codec=codec, shards=False)
    tiles = (tmp_path / "map.zarr/map/counts/c").glob("*/*/0")
    assert writers[0].bytes_written == sum(path.stat().st_size for path in tiles)


# ------------------------------------------------------------------------------------------------------ disk full
@pytest.mark.parametrize("codec", ["counts", "zstd"])
def test_a_full_disk_is_one_clear_error_and_what_is_written_is_kept(tmp_path, monkeypatch, codec):
    whole = tmp_path / "whole.zarr"
    convert(kill_reader(), whole, codec=codec)
    # By then two rows of tiles are written; with zstd the first ones a second time, in a wider dtype.
    store, put, room = tmp_path / "map.zarr", LocalStore.set, [14 if codec == "counts" else 22]

    async def set_while_there_is_room(self, key, value):
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device", key)
        await put(self, key, value)

    monkeypatch.setattr(LocalStore, "set", set_while_there_is_room)
    with pytest.raises(
        StoreFullError, match=r"found no space left on the device, expected about .* of 29 rows"
    ) as full:
        convert(kill_reader(), store, codec=codec)
    assert full.value.fix == f"free space, then eds-chunked convert made.map {store} --resume"
    assert full.value.errno == errno.ENOSPC
    with pytest.raises(StoreError, match="conversion stopped at row"):
        open_map(store)
    monkeypatch.undo()
    monkeypatch.setattr(conversion, "tile_shape", lambda n_channels: (SIDE, SIDE, n_channels))
    convert(kill_reader(), store, resume=True)
    assert content(store) == content(whole)


def test_a_disk_that_is_full_before_the_first_rows_keeps_nothing(tmp_path, monkeypatch):
    async def full(self, key, value):
        raise OSError(errno.ENOSPC, "No space left on device", key)

    monkeypatch.setattr(LocalStore, "set", full)
    with pytest.raises(StoreFullError, match="free space, then convert again"):
        convert(MadeReader(COUNTS), tmp_path / "map.zarr")
    assert list(tmp_path.iterdir()) == []


def test_a_real_full_file_system_says_so(tmp_path):
    # A file that may not grow any more fails in the same place as a disk without room, only by another number.
    program = (
        "import resource, sys, signal\n"
        "from tests.killed_conversions import run\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        f"try:\n    run({str(tmp_path / 'map.zarr')!r}, 'counts', False, False)\n"
        "except OSError as error:\n    sys.exit(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == errno.EFBIG


# ------------------------------------------------------------------------------------------------------ failures
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(5, "Input/output error"), RuntimeError("a bug")])
def test_what_interrupts_leaves_a_store_to_resume(tmp_path, error):
    store = stopped(tmp_path / "map.zarr", at=20, error=error)
    assert np.array_equal(convert(MadeReader(COUNTS), store, resume=True)[schema.COUNTS].values, COUNTS)


@pytest.mark.parametrize("at", [0, 20])
def test_a_source_to_blame_leaves_nothing(tmp_path, at):
    stopped(tmp_path / "map.zarr", at=at, error=SourceError("a", found=1, expected=2, fix="b"))
    assert list(tmp_path.iterdir()) == []


def test_a_source_to_blame_does_not_take_what_an_earlier_call_wrote(tmp_path):
    store = stopped(tmp_path / "map.zarr", at=16)
    reader = Reads(COUNTS, rows=4)
    reader.stop, reader.error = 24, SourceError("a", found=1, expected=2, fix="b")
    with pytest.raises(SourceError):
        convert(reader, store, resume=True)
    with pytest.raises(StoreError, match="stopped at row 24 of 29"):
        open_map(store)


def test_an_interrupt_before_the_first_rows_leaves_nothing(tmp_path):
    stopped(tmp_path / "map.zarr", at=4)
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_gets_too_dense_halfway_goes_on_with_more_memory(tmp_path, monkeypatch):
    from eds_chunked import memory

    monkeypatch.setattr(memory, "resident", lambda: 200 * memory.MB)
    counts = np.zeros((24, 2003, 61), np.uint8)
    counts[:, ::7, 5] = 3
    counts[16:] = 7
    with pytest.raises(MemoryBudgetError, match="of counts in the") as refused:
        convert(MadeReader(counts, rows=4), tmp_path / "map.zarr", memory="302MB")
    named = refused.value.fix.removeprefix("--memory ").removesuffix(" --resume")
    reader = Reads(counts)
    ds = convert(reader, tmp_path / "map.zarr", memory=named, resume=True)
    assert reader.read == [(16, 24)]
    assert np.array_equal(ds[schema.COUNTS].values, counts)


# ------------------------------------------------------------------------------------------------------ overwriting
OLD = made_counts((17, 11, 7), seed=1)
FINAL = {"map.zarr"}


def names(folder):
    return {path.name for path in folder.iterdir()}


def with_old(folder):
    store = folder / "map.zarr"
    ds = convert(MadeReader(OLD), store)
    save(made_result(ds), store)
    return store


def test_overwriting_keeps_results_and_shows_them_stale_unless_the_map_is_the_same(tmp_path):
    store = with_old(tmp_path)
    convert(MadeReader(OLD, rows=3), store, overwrite=True, codec="lz4")
    assert why_stale(store, newest(store, "nmf")) is None
    assert np.array_equal(open_map(store)[schema.COUNTS].values, OLD)
    assert load_fresh(store, "nmf").sizes[schema.COMPONENT] == 2
    ds = convert(MadeReader(COUNTS), store, overwrite=True)
    assert [r.address for r in revisions(store)] == ["nmf/k2.r1"]
    assert "converted or calibrated again" in why_stale(store, newest(store, "nmf"))
    assert save(made_result(ds), store) == "nmf/k2.r2"
    assert names(tmp_path) == FINAL


def test_the_old_store_stays_until_the_new_one_is_whole_and_a_draft_goes_on(tmp_path):
    store = with_old(tmp_path)
    before = content(store)
    stopped(store, at=16, overwrite=True)
    assert content(store) == before
    assert names(tmp_path) == {"map.zarr", ".map.zarr.new"}
    with pytest.raises(StoreExistsError, match="add --overwrite to replace its map"):
        convert(MadeReader(COUNTS), store)
    reader = Reads(COUNTS)
    ds = convert(reader, store, overwrite=True, resume=True)
    assert reader.read == [(16, 29)]
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)
    assert names(tmp_path) == FINAL


def test_overwriting_without_resume_begins_a_draft_again(tmp_path):
    store = with_old(tmp_path)
    stopped(store, at=16, overwrite=True)
    reader = Reads(COUNTS + np.uint32(1))
    ds = convert(reader, store, overwrite=True)
    assert reader.read == [(0, 29)]
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS + 1)


def test_a_draft_of_another_source_is_refused(tmp_path):
    store = with_old(tmp_path)
    stopped(store, at=16, overwrite=True)
    with pytest.raises(ParameterError, match=r"shape 28 x .*--resume --overwrite, or --overwrite alone to begin again"):
        convert(MadeReader(COUNTS[:28]), store, overwrite=True, resume=True)
    assert np.array_equal(open_map(store)[schema.COUNTS].values, OLD)


def test_a_failing_replacement_leaves_the_old_store_and_nothing_else(tmp_path):
    store = with_old(tmp_path)
    before = content(store)
    stopped(store, at=16, overwrite=True, error=SourceError("a", found=1, expected=2, fix="b"))
    assert content(store) == before
    assert names(tmp_path) == FINAL


@pytest.mark.parametrize("hidden", [".map.zarr.new", ".map.zarr.old"])
def test_what_is_not_ours_beside_a_store_is_never_touched(tmp_path, hidden):
    store = with_old(tmp_path)
    (tmp_path / hidden).mkdir()
    (tmp_path / hidden / "chapter.txt").write_text("years of work")
    with pytest.raises(StoreExistsError, match=rf"{hidden}: found something that is no eds_chunked store"):
        convert(MadeReader(COUNTS), store, overwrite=True)
    assert (tmp_path / hidden / "chapter.txt").read_text() == "years of work"
    assert np.array_equal(open_map(store)[schema.COUNTS].values, OLD)


@pytest.mark.parametrize("flags", [{"resume": True}, {"overwrite": True}, {"overwrite": True, "resume": True}], ids=str)
@pytest.mark.parametrize("hidden", [".map.zarr.new", ".map.zarr.old"])
@pytest.mark.parametrize("there", [True, False])
def test_a_store_of_somebody_with_such_a_name_is_never_touched(tmp_path, hidden, there, flags):
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), tmp_path / hidden)
    if there:
        convert(MadeReader(COUNTS), store)
    before = content_of(tmp_path / hidden)
    if there and "overwrite" in flags:
        with pytest.raises(StoreExistsError, match=rf"{hidden}: found a store that no replacement made"):
            convert(MadeReader(COUNTS), store, **flags)
    else:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".* is whole already: there was nothing to resume$")
            convert(MadeReader(COUNTS), store, **flags)
    assert content_of(tmp_path / hidden) == before
    assert np.array_equal(open_map(store)[schema.COUNTS].values, COUNTS)


def test_a_replaced_store_carries_no_mark(tmp_path):
    store = with_old(tmp_path)
    convert(MadeReader(COUNTS), store, overwrite=True)
    assert not (store / MARK).exists()


def test_overwriting_through_a_link_replaces_what_it_leads_to(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").mkdir()
    store, link = with_old(tmp_path / "disk"), tmp_path / "home" / "link.zarr"
    link.symlink_to(store)
    stopped(link, at=16, overwrite=True)
    assert names(tmp_path / "disk") == {"map.zarr", ".map.zarr.new"}
    convert(MadeReader(COUNTS), link, overwrite=True, resume=True)
    assert link.is_symlink()
    assert (names(tmp_path / "disk"), names(tmp_path / "home")) == (FINAL, {"link.zarr"})
    for place in (store, link):
        assert np.array_equal(open_map(place)[schema.COUNTS].values, COUNTS)
    assert [r.address for r in revisions(store)] == ["nmf/k2.r1"]


def test_results_stay_where_the_map_of_a_store_is_gone(tmp_path):
    store = with_old(tmp_path)
    claims = sorted((store / "map/counts/__eds/claims").rglob("*"))
    (store / "map/zarr.json").unlink()
    stopped(store, overwrite=True, error=SourceError("a", found=1, expected=2, fix="b"))
    convert(MadeReader(OLD, rows=3), store, overwrite=True)
    assert [r.address for r in revisions(store)] == ["nmf/k2.r1"]
    assert why_stale(store, newest(store, "nmf")) is None
    assert sorted((store / "map/counts/__eds/claims").rglob("*")) == claims


def test_resume_alone_names_the_replacement_that_waits(tmp_path):
    store = with_old(tmp_path)
    stopped(store, at=16, overwrite=True)
    waits = rf"{tmp_path}/.map.zarr.new: eds-chunked convert made.map {store} --resume --overwrite"
    with pytest.warns(UserWarning, match=rf"map.zarr is whole already: there was nothing to resume\. .* {waits}"):
        convert(MadeReader(OLD), store, resume=True)
    with pytest.raises(ParameterError, match=waits):
        convert(MadeReader(COUNTS), store, resume=True)
    convert(MadeReader(COUNTS), store, resume=True, overwrite=True)
    assert names(tmp_path) == FINAL


class CrashError(BaseException):
    """The process is gone."""


@pytest.mark.parametrize("flags", [{"resume": True}, {"overwrite": True}, {"overwrite": True, "resume": True}], ids=str)
@pytest.mark.parametrize("step", range(5))
def test_a_crash_at_any_step_of_the_replacement_is_finished_by_the_next_convert(tmp_path, monkeypatch, step, flags):
    store = with_old(tmp_path)
    old = content(store)
    steps = [0]

    def crashing(function):
        def do(*arguments, **options):
            if steps[0] == step:
                raise CrashError
            steps[0] += 1
            return function(*arguments, **options)

        return do

    monkeypatch.setattr(replacement.os, "rename", crashing(replacement.os.rename))
    monkeypatch.setattr(replacement.shutil, "rmtree", crashing(replacement.shutil.rmtree))
    with pytest.raises(CrashError):
        convert(MadeReader(COUNTS), store, overwrite=True)
    assert steps[0] == step
    monkeypatch.undo()
    if step == 0:
        # What is about to be renamed is marked before.
        assert content(store) == old | {"map/counts/__eds/replacement": (store / MARK).read_bytes()}
    elif store.exists():
        assert np.array_equal(open_map(store)[schema.COUNTS].values, COUNTS)
    else:
        says = (
            rf"store {store}: found a replacement that stopped halfway.*eds-chunked convert made.map {store} --resume"
        )
        for attempt in (lambda: open_map(store), lambda: convert(MadeReader(COUNTS), store)):
            with pytest.raises(StoreError, match=says):
                attempt()
    if step == 0 and flags == {"resume": True}:
        with pytest.raises(ParameterError, match="--overwrite alone"):
            convert(MadeReader(COUNTS), store, **flags)
        return
    reader = Reads(COUNTS)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".* is whole already")
        ds = convert(reader, store, **flags)
    if "resume" in flags and "overwrite" not in flags:
        assert not hasattr(reader, "read")
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)
    assert [r.address for r in revisions(store)] == ["nmf/k2.r1"]
    assert names(tmp_path) == FINAL


def test_kills_while_overwriting_leave_the_old_store_whole(tmp_path):
    cases = ["0:before", "1:within", "7:before", "19:within", "40:before"]
    for case in cases:
        convert(MadeReader(OLD), tmp_path / f"{case.replace(':', '-')}.zarr")
    assert killed(tmp_path, "counts", False, cases, overwrite=True) == []
    for case in cases:
        store = tmp_path / f"{case.replace(':', '-')}.zarr"
        assert np.array_equal(open_map(store)[schema.COUNTS].values, OLD)
        ds = convert(kill_reader(), store, overwrite=True, resume=True)
        assert np.array_equal(ds[schema.COUNTS].values, COUNTS)
    assert names(tmp_path) == {f"{case.replace(':', '-')}.zarr" for case in cases}


# ------------------------------------------------------------------------------------------------------ object stores
def test_an_unfinished_store_elsewhere_is_resumed_and_overwritten_in_place(request):
    store = f"memory://resume-{request.node.name}/map.zarr"
    stopped(store, at=16)
    with pytest.raises(StoreError, match="stopped at row 16 of 29"):
        open_map(store)
    reader = Reads(COUNTS)
    convert(reader, store, resume=True)
    assert reader.read == [(16, 29)]
    save(made_result(open_map(store)), store)
    draft = made_draft(open_map(store))
    stopped(store, at=16, counts=OLD, overwrite=True, error=SourceError("a", found=1, expected=2, fix="b"))
    with pytest.raises(StoreError, match="stopped before its first row"):
        open_map(store)
    ds = convert(MadeReader(OLD), store, overwrite=True)
    assert np.array_equal(ds[schema.COUNTS].values, OLD)
    assert [r.address for r in revisions(store)] == ["nmf/k2.r1"]
    assert "converted or calibrated again" in why_stale(store, newest(store, "nmf"))
    # The claims stayed, so a draft that somebody holds is known for what it is.
    assert "less than 7 days ago" in clean(store).kept["nmf/k2.r2"]
    assert draft.sizes[schema.COMPONENT] == 2


# ------------------------------------------------------------------------------------------------------ salvage
class Damaged(MadeReader):
    """Cut off at row ``at``, as a reader says it."""

    at = 19

    def bands(self, rows, box=None):
        box = box or Box.whole(self.header.shape)
        self.given = box
        if box.ys.start < self.at:
            yield from super().bands(rows, box._replace(ys=slice(box.ys.start, min(self.at, box.ys.stop))))
        if box.ys.stop > self.at:
            raise SourceError("made.map", found="a cut at row 19", expected="29 rows", fix="get the whole file")


@pytest.mark.parametrize(("codec", "shards"), KINDS)
@pytest.mark.parametrize("at", [1, 16, 19, 28])
def test_salvage_keeps_the_whole_rows_before_the_damage(tmp_path, codec, shards, at):
    reader = Damaged(COUNTS, rows=5)
    reader.at = at
    with pytest.raises(SourceError, match="a cut at row 19"):
        convert(reader, tmp_path / "map.zarr", codec=codec, shards=shards)
    assert list(tmp_path.iterdir()) == []
    with pytest.warns(UserWarning, match=rf"made.map is damaged: the map has rows 0 to {at} of 29 .*a cut at row 19"):
        ds = convert(reader, tmp_path / "map.zarr", codec=codec, shards=shards, salvage=True)
    kept = COUNTS[:at]
    assert np.array_equal(ds[schema.COUNTS].values, kept)
    assert np.array_equal(zarr.open_array(tmp_path / "map.zarr", path="map/counts", mode="r")[:], kept)
    assert ds.sizes[schema.Y] == at == len(ds[schema.Y])
    assert np.array_equal(ds[schema.TOTAL_COUNTS].values, kept.sum(axis=2))
    assert np.array_equal(ds[schema.SUM_SPECTRUM].values, kept.sum(axis=(0, 1)))
    assert ds.attrs[schema.MISSING_ROWS] == [at, 29]
    done = ds.attrs[schema.HISTORY][0]["parameters"]
    assert done[schema.MISSING_ROWS] == [at, 29]
    assert "a cut at row 19" in done["why"]


def test_a_salvage_that_was_stopped_goes_on(tmp_path):
    store = stopped(tmp_path / "map.zarr", at=16)
    with pytest.raises(SourceError, match="a cut"):
        convert(Damaged(COUNTS), store, resume=True)
    with pytest.warns(UserWarning, match="rows 0 to 19 of 29"):
        ds = convert(Damaged(COUNTS), store, resume=True, salvage=True)
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS[:19])


def test_a_warning_made_an_error_keeps_nothing_from_being_finished(tmp_path):
    store = with_old(tmp_path)
    with pytest.raises(UserWarning, match="rows 0 to 19 of 29"):  # as pytest is set up here
        convert(Damaged(COUNTS), store, overwrite=True, salvage=True)
    assert np.array_equal(open_map(store)[schema.COUNTS].values, COUNTS[:19])
    assert names(tmp_path) == FINAL


def test_without_a_whole_row_there_is_nothing_to_salvage(tmp_path):
    reader = Damaged(COUNTS)
    reader.at = 0
    with pytest.raises(SourceError, match="a cut at row 19"):
        convert(reader, tmp_path / "map.zarr", salvage=True)
    assert list(tmp_path.iterdir()) == []


def test_salvage_of_a_whole_source_is_the_whole_map(tmp_path):
    ds = convert(MadeReader(COUNTS), tmp_path / "map.zarr", salvage=True)
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)
    assert schema.MISSING_ROWS not in ds.attrs


# ------------------------------------------------------------------------------------------------------ totals
def test_a_header_that_states_another_total_is_told_once(tmp_path):
    total = int(COUNTS.sum())
    for number, near in enumerate((total, round(1.0007 * total), round(0.9993 * total))):
        convert(MadeReader(COUNTS, metadata={"header_total_counts": near}), tmp_path / f"{number}.zarr")
    wrong = round(1.003 * total)
    reader = MadeReader(COUNTS, metadata={"header_total_counts": wrong})
    with pytest.warns(
        UserWarning, match=f"made.map states {wrong} counts for the whole map, and holds {total}"
    ) as told:
        convert(reader, tmp_path / "b.zarr")
    assert len(told) == 1
    with pytest.warns(UserWarning, match="states"):
        convert(reader, tmp_path / "c.zarr", energy_scale=0.02)
    # Of a part the header says nothing.
    convert(reader, tmp_path / "d.zarr", region=(slice(0, 20), slice(0, 23)))


# ------------------------------------------------------------------------------------------------------ command line
def test_the_command_that_the_error_names_goes_on(tmp_path):
    counts = np.tile(COUNTS, (1, 1, 40))
    source = write_ripple(tmp_path / "a map.rpl", counts)
    with pytest.raises(StoreExistsError) as refused:
        convert(source, stopped_file(source, tmp_path / "map.zarr", "'"))
    command = shlex.split(refused.value.fix.split(" to finish it")[0])
    assert command == ["eds-chunked", "convert", str(source), str(tmp_path / "map.zarr"), "--resume"]
    done = CliRunner().invoke(main, command[1:])
    assert done.exit_code == 0, done.stderr
    assert np.array_equal(open_map(tmp_path / "map.zarr")[schema.COUNTS].values, counts)
    other = CliRunner().invoke(main, [*command[1:], "--codec", "zstd"])
    assert other.exit_code == 2
    assert "found codec zstd in place of counts" in other.stderr


@pytest.mark.filterwarnings("default")
def test_salvage_on_the_command_line_succeeds_and_warns(tmp_path):
    counts = np.tile(COUNTS, (1, 1, 40))
    source = write_ripple(tmp_path / "a.rpl", counts)
    raw = source.with_suffix(".raw")
    raw.write_bytes(raw.read_bytes()[: 4 * 23 * 520 * 18 + 1001])
    refused = CliRunner().invoke(main, ["convert", str(source), str(tmp_path / "map.zarr")])
    assert refused.exit_code == 2
    assert "--salvage" in refused.stderr
    arguments = ["convert", str(source), str(tmp_path / "map.zarr"), "--salvage", "--codec", "lz4", "--shards"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.stderr
    assert "warning: " in done.stderr
    assert "the map has rows 0 to 18 of 29" in done.stderr
    ds = open_map(tmp_path / "map.zarr")
    assert np.array_equal(ds[schema.COUNTS].values, counts[:18])
    assert zarr.open_array(tmp_path / "map.zarr", path="map/counts", mode="r").shards == (8, 16, 520)
