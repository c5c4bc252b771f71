"""Every step gives on a cluster what it gives on threads; workers read and write the store themselves."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cloudpickle
import dask
import numpy as np
import pytest
from click.testing import CliRunner

from eds_chunked import dask_cluster, schema
from eds_chunked.cli import main
from eds_chunked.dask_cluster import active_client, connected, on_one_worker
from eds_chunked.decomposition.principal import pca
from eds_chunked.engine import lanes as lanes_module
from eds_chunked.engine import planning
from eds_chunked.engine.blocks import blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.planning import budget, plan
from eds_chunked.engine.scratch import scratch_folder
from eds_chunked.errors import ClusterError, CountsError, MemoryBudgetError
from eds_chunked.memory import MB, Need
from eds_chunked.phases import clustering, segment
from eds_chunked.store import conversion
from eds_chunked.store.conversion import convert
from eds_chunked.store.opening import open_map
from eds_chunked.store.results import load
from eds_chunked.store.verification import verify
from tests.cluster_steps import STEPS, assert_same, assert_same_map, make_source, prepare
from tests.dask_processes import SETTINGS, DaskProcesses

distributed = pytest.importorskip("distributed")

ANYWHERE = {"dashboard_address": "127.0.0.1:0"}
COMMAND = str(Path(sys.executable).with_name("eds-chunked"))
ROOMY = "6GB"
"""A budget is of a whole process, and this one has run many tests."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return make_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def made(source, tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "map.zarr"
    return store, prepare(store, source)


@pytest.fixture
def store(made):
    return made[0]


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    cluster = DaskProcesses(tmp_path_factory.mktemp("dask"))
    try:
        cluster.start(2)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def client(processes):
    with distributed.Client(processes.address) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.mark.parametrize("step", STEPS)
def test_a_step_gives_on_workers_what_it_gives_on_threads(client, made, step):
    store, expected = made
    assert_same(load(store, STEPS[step](store)), expected[step])


@pytest.mark.parametrize("step", ["phases", "cluster"])
def test_phases_of_a_large_map_do_not_come_to_the_client(client, made, tmp_path, monkeypatch, step):
    store, expected = made
    for module in (segment, clustering):
        monkeypatch.setattr(module, "IN_MEMORY", 100)
    with dask.config.set({"temporary-directory": str(tmp_path)}):
        assert_same(load(store, STEPS[step](store)), expected[step])


def test_a_file_is_converted_by_a_worker(client, source, store, tmp_path, monkeypatch):
    monkeypatch.chdir(source.parent)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        convert(source.name, tmp_path / "new.zarr", rebin=(2, 2, 1))
    assert ["row" in str(one.message) for one in told] == [True], told
    convert(source, tmp_path / "whole.zarr")
    assert_same_map(tmp_path / "whole.zarr", store)
    assert verify(tmp_path / "whole.zarr").whole
    with pytest.raises(FileExistsError):
        convert(source, tmp_path / "whole.zarr")
    assert np.array_equal(
        open_map(tmp_path / "new.zarr")[schema.SUM_SPECTRUM], open_map(store).counts[:82, :106].sum(("y", "x"))
    )


def test_workers_that_work_in_one_process_with_the_client(made, tmp_path):
    """LocalCluster(processes=False): the client is active on the workers, too."""
    store, expected = made
    with (
        dask.config.set({"distributed.worker.use-file-locking": False, "temporary-directory": str(tmp_path)}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **ANYWHERE) as cluster,
        distributed.Client(cluster),
    ):
        for step in ("pca", "grains"):
            assert_same(load(store, STEPS[step](store)), expected[step])


# --------------------------------------------------------------------------------------------------- what travels
def test_what_travels_grows_with_lanes_and_is_little(client, store):
    """Tasks are lanes and joins; the work, the plans and maps that every lane needs travel once, not with each lane."""
    ds = open_map(store)
    blocks = blocks_of(ds)
    heavy = _Heavy(np.zeros(10**6))
    graphs = {}
    for lanes in (blocks.lanes()[:2], blocks.lanes()):
        total = run_graph(blocks, heavy, lanes)
        graph = dict(total.__dask_graph__())
        graphs[len(lanes)] = len(graph), len(cloudpickle.dumps(graph))
    (few, few_bytes), (many, many_bytes) = graphs[2], graphs[len(blocks.lanes())]
    n_more = len(blocks.lanes()) - 2
    assert many - few <= 2.1 * n_more
    assert few_bytes < 8.1e6
    assert many_bytes - few_bytes < 5000 * n_more


def run_graph(blocks, work, lanes):
    return lanes_module._graph(blocks, work, np.add, lanes, None, None, lanes_module._Run(-1, 1))


class _Heavy:
    def __init__(self, values):
        self.values = values

    def __call__(self, lane, blocks):
        return self.values.sum() + sum(block.counts.n_pixels for block in blocks)


def test_only_the_answer_of_finish_comes_to_the_client(client, store):
    blocks = blocks_of(open_map(store))
    how = plan(Need("test", 0, MB))
    seen = run_pass(blocks, _Where(), _later, plan=how, finish=_Where.finish)
    assert seen != os.getpid()
    assert seen in client.run(os.getpid).values()


class _Where:
    def __call__(self, lane, blocks):
        return sum(block.counts.n_pixels for block in blocks)

    @staticmethod
    def finish(total):
        import os

        assert total == 83 * 107
        return os.getpid()


def _later(total, lane):
    return total + lane


# --------------------------------------------------------------------------------------------------- memory
def test_the_budget_is_that_of_a_worker(client):
    found = budget()
    assert found.limit == int(0.6 * 1.5e9)
    assert found.threads == 1
    assert budget("700MB").limit == 700 * MB
    resident = max(client.run(lambda: __import__("psutil").Process().memory_info().rss).values())
    assert 0.8 * resident < found.idle - 80 * MB < 1.2 * resident
    with pytest.raises(MemoryBudgetError, match="a budget of 900 MB a worker, expected at least"):
        plan(Need("test", 10**9, 0))


def test_no_more_lanes_are_in_work_in_a_worker_than_planned(store, tmp_path):
    with (
        dask.config.set({"distributed.worker.use-file-locking": False, "temporary-directory": str(tmp_path)}),
        distributed.LocalCluster(n_workers=1, threads_per_worker=3, **ANYWHERE) as cluster,
        distributed.Client(cluster),
    ):
        blocks = blocks_of(open_map(store))
        for most in (1, 2):
            seen = run_pass(blocks, _AtOnce(), max, plan=plan(Need("test", 0, MB), max_workers=most))
            assert seen == most


class _AtOnce:
    def __call__(self, lane, blocks):
        import sys
        import time

        count = sys.modules.setdefault("running_lanes", type("Count", (), {"now": 0}))
        count.now += 1
        time.sleep(0.05)
        seen = count.now
        list(blocks)
        count.now -= 1
        return seen


# --------------------------------------------------------------------------------------------------- errors
def test_an_error_comes_from_a_worker_as_itself(client, store):
    ds = open_map(store)
    with pytest.raises(CountsError, match=r"counts at y 0, x 0, channel 0: found nan"):
        pca(ds * np.nan, n_components=2)


def test_nobody_answers(monkeypatch):
    monkeypatch.setattr(dask_cluster, "_SECONDS_TO_CONNECT", 1)
    with (
        pytest.raises(ClusterError, match=r"scheduler tcp://127.0.0.1:9: found no answer .*Fix: --scheduler tcp"),
        connected("tcp://127.0.0.1:9"),
    ):
        pass
    assert active_client() is None


def test_a_cluster_without_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "_SECONDS_TO_COME", 0.5)
    cluster = DaskProcesses(tmp_path)
    try:
        cluster.start(0)
        with connected(cluster.address), pytest.raises(ClusterError, match=r"found no worker.*Fix: dask worker tcp://"):
            plan(Need("test", 0, 1))
    finally:
        cluster.stop()


def test_workers_that_do_not_see_the_scratch_folder(client, monkeypatch):
    monkeypatch.setattr(os.path, "isdir", _blind)
    with pytest.raises(ClusterError, match=r"found 2 workers that do not see it.*DASK_TEMPORARY_DIRECTORY"):
        scratch_folder()


def _blind(path):
    return False


def test_workers_with_another_version(client, monkeypatch):
    monkeypatch.setattr(planning, "version", lambda name: "9.9")
    with pytest.raises(ClusterError, match=r"found version .*expected eds-chunked 9.9, as here"):
        budget()


def test_a_worker_goes_while_it_is_asked(client, monkeypatch):
    run = client.run

    def one_is_gone(*args, **options):
        return {"tcp://127.0.0.1:9": OSError("Timed out trying to connect"), **run(*args, **options)}

    monkeypatch.setattr(client, "run", one_is_gone)
    assert budget().processes == 2
    monkeypatch.setattr(client, "run", lambda *args, **options: {"tcp://127.0.0.1:9": OSError("Timed out")})
    with pytest.raises(ClusterError, match="found no worker"):
        budget()


def test_warnings_come_from_a_worker(client):
    with pytest.warns(UserWarning, match="as a worker says"):
        assert on_one_worker(_warns, 3) == 4


def _warns(value):
    warnings.warn("as a worker says", stacklevel=2)
    return value + 1


# --------------------------------------------------------------------------------------------------- command line
def test_the_verbs_take_a_scheduler(processes, source, made, tmp_path):
    store = tmp_path / "map.zarr"
    for line in (["convert", str(source), str(store)], ["pca", str(store), "-k", "5"]):
        done = subprocess.run(
            [COMMAND, *line, "--scheduler", processes.address, "--quiet"],
            env=os.environ | SETTINGS, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
    assert_same_map(store, made[0])
    done = subprocess.run(
        [COMMAND, "pca", str(store), "--scheduler", processes.address, "--memory", "200MB"],
        env=os.environ | SETTINGS, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "200 MB a worker" in done.stderr


def test_the_verbs_convert_on_a_worker(processes, source, made, tmp_path, monkeypatch):
    monkeypatch.setattr(conversion, "MapWriter", None)  # here, not on workers
    for line in (["convert", str(source), str(tmp_path / "1.zarr")], ["run", str(source), str(tmp_path / "2.zarr")]):
        done = CliRunner().invoke(main, [*line, "--scheduler", processes.address], catch_exceptions=False)
        assert done.exit_code == 0, done.stderr
    assert_same_map(tmp_path / "1.zarr", made[0])
    assert_same_map(tmp_path / "2.zarr", made[0])


@pytest.mark.parametrize("verb", ["convert", "run"])
def test_a_dry_conversion_plans_for_a_worker(processes, source, tmp_path, verb):
    line = [verb, str(source), str(tmp_path / "map.zarr"), "--memory", ROOMY, "--dry-run", "--json"]
    here, there = (
        json.loads(CliRunner().invoke(main, line + more, catch_exceptions=False).stdout)["steps"]
        for more in ([], ["--scheduler", processes.address])
    )
    assert [step["what"] for step in there] == [step["what"] for step in here]
    # This process is larger than a worker, which has loaded nothing yet.
    assert there[0]["idle_bytes"] < here[0]["idle_bytes"]
    assert there[0]["fixed_bytes"] == here[0]["fixed_bytes"]
    assert not (tmp_path / "map.zarr").exists()
