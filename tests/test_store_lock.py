"""One writer at a time: the second is refused, and a dead one is forgotten."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from eds_chunked import schema
from eds_chunked.errors import StoreBusyError
from eds_chunked.store import lock
from eds_chunked.store.conversion import convert
from eds_chunked.store.lock import LOCK, locked, only_a_lock
from eds_chunked.store.opening import open_map
from tests.made_maps import MadeReader, made_counts

COUNTS = made_counts((31, 23, 13))

HOLD = """
import sys
from eds_chunked.store.lock import locked
with locked(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of ``map.zarr``."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "map.zarr")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_is_refused_and_told_by_whom(tmp_path, holder):
    store = tmp_path / "map.zarr"
    for flags in ({}, {"resume": True}, {"overwrite": True}):
        with pytest.raises(
            StoreBusyError, match=rf"store {store}: found another process \(pid {holder.pid}\) writing into it"
        ):
            convert(MadeReader(COUNTS), store, **flags)
    assert [p for p in store.rglob("*") if p.is_file()] == [store / LOCK]
    holder.communicate()
    assert not store.exists()
    convert(MadeReader(COUNTS), store)


def test_the_system_takes_the_lock_from_a_process_that_is_killed(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    ds = convert(MadeReader(COUNTS), tmp_path / "map.zarr")
    assert np.array_equal(ds[schema.COUNTS].values, COUNTS)
    assert (tmp_path / "map.zarr" / LOCK).read_bytes() == b""


def test_of_threads_that_convert_into_one_store_one_does(tmp_path):
    at_it, go_on = threading.Event(), threading.Event()

    class Waiting(MadeReader):
        def bands(self, rows, box=None):
            at_it.set()
            assert go_on.wait(60)
            yield from super().bands(rows, box)

    first = threading.Thread(target=convert, args=(Waiting(COUNTS), tmp_path / "map.zarr"))
    first.start()
    assert at_it.wait(60)
    with pytest.raises(StoreBusyError, match=f"pid {os.getpid()}"):
        convert(MadeReader(COUNTS + np.uint8(1)), tmp_path / "map.zarr", resume=True)
    go_on.set()
    first.join()
    assert np.array_equal(open_map(tmp_path / "map.zarr")[schema.COUNTS].values, COUNTS)


def test_a_store_that_is_being_replaced_is_locked_too(tmp_path):
    store = tmp_path / "map.zarr"
    convert(MadeReader(COUNTS), store)

    class Impatient(MadeReader):
        def bands(self, rows, box=None):
            with pytest.raises(StoreBusyError), locked(store):
                pass
            with pytest.raises(StoreBusyError), locked(tmp_path / ".map.zarr.new"):
                pass
            with pytest.raises(StoreBusyError):
                convert(MadeReader(COUNTS), store, overwrite=True)
            yield from super().bands(rows, box)

    convert(Impatient(COUNTS), store, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["map.zarr"]
    with locked(store):
        pass
    assert open_map(store).sizes[schema.Y] == 31


def test_the_lock_leaves_nothing_where_nothing_came_and_everything_where_something_did(tmp_path):
    with locked(tmp_path / "a.zarr"):
        assert (tmp_path / "a.zarr" / LOCK).read_text() == str(os.getpid())
        assert only_a_lock(tmp_path / "a.zarr")
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "b.zarr"):
        (tmp_path / "b.zarr/notes.partial").write_text("somebody's")
        assert not only_a_lock(tmp_path / "b.zarr")
    assert (tmp_path / "b.zarr/notes.partial").read_text() == "somebody's"


def test_a_lock_whose_file_is_gone_keeps_nobody_out(tmp_path):
    with locked(tmp_path / "a.zarr"):
        (tmp_path / "a.zarr" / LOCK).unlink()
        with locked(tmp_path / "a.zarr"), pytest.raises(StoreBusyError), locked(tmp_path / "a.zarr"):
            pass


def test_where_there_are_no_locks_one_works_without(tmp_path, monkeypatch):
    def none(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(lock.fcntl, "flock", none)
    with locked(tmp_path / "a.zarr"), locked(tmp_path / "a.zarr"):
        pass
    with locked("memory://a/b.zarr"), locked("memory://a/b.zarr"):
        pass
    assert not Path("memory:").exists()
