"""What breaks on a cluster in the middle of a step: the step finishes with the same result, or says what happened.

Each fault runs on one step here, and on every step in the long tests.
"""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from eds_chunked.dask_cluster import connected
from eds_chunked.errors import ClusterError, StoreError
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load, revisions
from eds_chunked.store.verification import verify
from tests import faults
from tests.cluster_steps import STEPS, assert_same, assert_same_map, make_source, prepare
from tests.dask_processes import SETTINGS, DaskProcesses
from tests.faults import Victim

distributed = pytest.importorskip("distributed")

COMMAND = str(Path(sys.executable).with_name("eds-chunked"))
LIMIT = 750 * 10**6


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "map.zarr"
    return store, prepare(store, source)


@pytest.fixture
def store(made, tmp_path):
    """A store of its own for each test, with all results."""
    return shutil.copytree(made[0], tmp_path / "map.zarr")


@pytest.fixture
def processes(tmp_path):
    cluster = DaskProcesses(tmp_path)
    try:
        cluster.start(2, memory_limit=f"{LIMIT}B")
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def client(processes):
    with distributed.Client(processes.address) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


def every(step):
    """One step in every run of the tests, the others in the long one."""
    return [step, *(pytest.param(name, marks=pytest.mark.long) for name in (*STEPS, "convert") if name != step)]


def run(step, store, made, source):
    """Run a step and compare its answer with that of threads."""
    if step == "convert":
        again = store.with_name("again.zarr")
        convert(source, again, resume=again.exists())
        assert_same_map(again, store)
        assert verify(again).whole
    else:
        assert_same(load(store, STEPS[step](store)), made[1][step])


def when_noted(note, strike):
    """Start a thread that strikes once a worker is in the middle of the step, at the process that it noted."""

    def wait():
        end = time.monotonic() + 120
        while not (note.exists() and note.read_text()):
            if time.monotonic() > end:
                return
            time.sleep(0.02)
        strike(int(note.read_text()))

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def calls(step):
    # Of grains and blocks of phases there may be but one.
    return 1 if step in ("grains", "phases", "cluster", "convert") else 2


@pytest.mark.parametrize("step", every("pca"))
def test_a_worker_is_killed(step, client, store, made, source, tmp_path):
    note = tmp_path / "victim"
    client.register_plugin(Victim(step, note, calls=calls(step)))
    thread = when_noted(note, lambda pid: os.kill(pid, signal.SIGKILL))
    run(step, store, made, source)
    thread.join()
    assert note.exists()
    assert not psutil.pid_exists(int(note.read_text()))


@pytest.mark.parametrize("step", every("nmf"))
def test_a_worker_takes_more_than_its_limit(step, client, store, made, source, tmp_path):
    """Its nanny ends it and starts another."""
    note = tmp_path / "victim"
    client.register_plugin(Victim(step, note, calls=calls(step), hog=LIMIT))
    run(step, store, made, source)
    assert note.exists()
    assert not psutil.pid_exists(int(note.read_text()))


@pytest.mark.parametrize("step", every("residual"))
def test_the_scheduler_is_lost(step, processes, store, made, source, tmp_path):
    before = [revision.address for revision in revisions(store)]
    note = tmp_path / "victim"
    with distributed.Client(processes.address) as other:
        other.wait_for_workers(2, timeout=60)
        other.register_plugin(Victim(step, note, calls=calls(step)))
    with connected(processes.address):
        thread = when_noted(note, lambda pid: processes.scheduler.kill())
        with pytest.raises(ClusterError, match=r"found no connection to the scheduler any more.*run the step"):
            run(step, store, made, source)
        thread.join()
    processes.stop()
    assert [revision.address for revision in revisions(store)] == before
    assert verify(store).whole
    processes.start(1)
    with connected(processes.address):
        run(step, store, made, source)


READ_COUNTS = [step for step in STEPS if faults.CALLS[step][1] == "Blocks.load"]


@pytest.mark.parametrize(
    "step", [READ_COUNTS[0], *(pytest.param(step, marks=pytest.mark.long) for step in READ_COUNTS[1:])]
)
def test_a_damaged_tile_is_named(step, client, store):
    tile = store / "map" / "counts" / "c" / "2" / "3" / "0"
    tile.write_bytes(tile.read_bytes()[:-7] + bytes(7))
    before = [revision.address for revision in revisions(store)]
    with pytest.raises(StoreError, match=r"tile at y 32:48, x 48:64, .*found unreadable bytes"):
        STEPS[step](store)
    assert [revision.address for revision in revisions(store)] == before


CTRL_C = {
    "pca": ["pca", "-k", "5"],
    "pca incremental": ["pca", "-k", "3", "--solver", "incremental"],
    "nmf": ["nmf", "-k", "3"],
    "nmf blockwise": ["nmf", "-k", "3", "--solver", "blockwise"],
    "cluster": ["cluster", "-k", "3"],
    "phases": ["phases", "--from", "nmf/k3"],
    "spectra": ["spectra"],
    "residual": ["model"],
    "grains": ["grains", "--from", "phases/k3"],
    "grain spectra": ["spectra", "--grains"],
}


@pytest.mark.parametrize("step", every("spectra"))
def test_ctrl_c(step, processes, store, made, source, tmp_path):
    before = [revision.address for revision in revisions(store)]
    note = tmp_path / "victim"
    with distributed.Client(processes.address) as client:
        client.wait_for_workers(2, timeout=60)
        client.register_plugin(Victim(step, note, calls=calls(step)))
        if step == "convert":
            words = ["convert", str(source), str(tmp_path / "again.zarr")]
        else:
            verb, *options = CTRL_C[step]
            words = [verb, str(store), *options]
        program = subprocess.Popen(
            [COMMAND, *words, "--scheduler", processes.address],
            env=os.environ | SETTINGS, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
            # Where tests run in the background of a shell, what they start is deaf to the signal.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        thread = when_noted(note, lambda pid: program.send_signal(signal.SIGINT))
        _, told = program.communicate(timeout=120)
        thread.join()
        assert note.exists(), told
        assert program.returncode == 130, told
        assert told.splitlines()[-1] == "interrupted"
        # What was in a call goes on to its end there; nothing new is begun.
        os.kill(int(note.read_text()), signal.SIGKILL)
        end = time.monotonic() + 30
        while any(client.processing().values()) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(client.processing().values())
    assert [revision.address for revision in revisions(store)] == before
    assert verify(store).whole
    if step == "convert":
        with pytest.raises(StoreError, match="conversion stopped"):
            open_map(tmp_path / "again.zarr")
        run(step, store, made, source)
