"""How do steps scale with workers, and what would 64 of them do with a map of a terabyte?

    python -m benchmarks scaling --data FOLDER [--shape 900x1200x2048] [--counts 400]

Makes a synthetic rock in the folder, runs every step on one and on two worker processes of one thread each, each
cluster anew and after a run of the same step, and prints seconds, tasks and bytes. Then a model of a pass
(:mod:`benchmarks.cluster_model`), fed with what lanes and joins took here, is first held against what was measured, and
then asked for larger clusters. Run it from the project's folder on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import cloudpickle
import dask
import numpy as np
import psutil
from distributed import Client, LocalCluster, get_task_stream

import eds_chunked as edc
from benchmarks import machine
from benchmarks.cluster_model import Machines, Pass, simulate
from benchmarks.machine import forget_peak
from eds_chunked import memory, workflow
from eds_chunked.dry_run import noted_plans
from eds_chunked.engine import lanes
from eds_chunked.engine.blocks import Blocks, blocks_of
from eds_chunked.store.layout import tile_shape
from eds_chunked.store.opening import open_map
from eds_chunked.store.source import CountsSource

Step = Callable[[str], str]

STEPS: dict[str, Step] = {
    "pca": lambda store: workflow.pca_step(store),
    "nmf": lambda store: workflow.nmf_step(store, n_components=4),
    "nmf, blockwise": lambda store: workflow.nmf_step(
        store, n_components=4, solver="blockwise", loss="frobenius", max_epochs=2, early_stop=False, name="blockwise"
    ),
    "phases": lambda store: workflow.phases_step(store, parent="nmf/k4"),
    "spectra": lambda store: workflow.spectra_step(store, parent="phases/k4"),
    "residual": lambda store: workflow.model_step(store, parent="nmf/k4"),
    "grains": lambda store: workflow.grains_step(store, parent="phases/k4"),
}
TERABYTE = (15625, 15625, 2048)
"""Pixels and channels whose counts take a terabyte at two bytes each."""
MOST_TASKS = 200_000


@dataclass(frozen=True)
class Measured:
    """A step on some workers: seconds, tasks, bytes of the graphs, and bytes over the loopback interface in all.

    Of the resident memory the largest of a worker, what was projected for it, and that of the client.
    """

    seconds: float
    n_tasks: int
    graph_bytes: int
    traffic: int
    worker_peak: int
    projected: int
    client_peak: int
    stream: list[dict[str, Any]]


@contextmanager
def cluster(n_workers: int, folder: Path) -> Iterator[Client]:
    """Give a cluster of worker processes of one thread each."""
    # Benchmarks are not a package of the workers.
    cloudpickle.register_pickle_by_value(machine)
    with (
        dask.config.set({"temporary-directory": str(folder), "distributed.worker.use-file-locking": False}),
        LocalCluster(n_workers=n_workers, threads_per_worker=1, memory_limit="4GB", dashboard_address=":0") as made,
        Client(made) as client,
    ):
        yield client


def measure(step: Step, store: str, client: Client) -> Measured:
    """Run a step once to warm the workers up, and once on the clock."""
    step(store)
    graphs: list[Any] = []
    original = lanes._graph

    def noted(*given: Any) -> Any:
        graphs.append(original(*given))
        return graphs[-1]

    lanes._graph = noted
    try:
        forget_peak()
        client.run(forget_peak)
        before = psutil.net_io_counters(pernic=True)["lo"].bytes_sent
        with get_task_stream(client) as stream, noted_plans() as plans:
            begin = perf_counter()
            step(store)
            seconds = perf_counter() - begin
        traffic = psutil.net_io_counters(pernic=True)["lo"].bytes_sent - before
    finally:
        lanes._graph = original
    graph_bytes = sum(len(cloudpickle.dumps(dict(graph.__dask_graph__()))) for graph in graphs)
    peak = max(client.run(memory.peak_resident).values())
    projected = max(plan.peak for plan in plans)
    client_peak = memory.peak_resident()
    return Measured(seconds, len(stream.data), graph_bytes, traffic, peak, projected, client_peak, stream.data)


def pass_of(measured: Measured, n_lanes: int) -> Pass:
    """Return what the passes of a step are made of, from what the scheduler saw of them."""

    def seconds(task: dict[str, Any]) -> float:
        return sum(float(one["stop"] - one["start"]) for one in task["startstops"] if one["action"] == "compute")

    def of(*names: str) -> list[dict[str, Any]]:
        # dask names the task of an object that is called by its text.
        return [task for task in measured.stream if any(name in str(task["key"]) for name in names)]

    its_lanes, joins = of("_LaneTask"), of("join")
    return Pass(
        n_lanes,
        lane=sum(map(seconds, its_lanes)) / len(its_lanes),
        join=median(map(seconds, joins)),
        finish=sum(map(seconds, of("_Eigen"))),
        result_bytes=max(int(task["nbytes"]) for task in its_lanes),
    )


def scheduler_seconds(client: Client, n: int = 3000) -> float:
    """Return what the scheduler takes for a task that does nothing, in a graph as a pass has."""
    nothing: Any = dask.delayed(lambda *parts: None, pure=False)
    graph = nothing(*[nothing() for _ in range(n)])
    begin = perf_counter()
    client.compute(graph).result()
    return (perf_counter() - begin) / n


def main() -> None:
    """Measure, model, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--shape", default="900x1200x2048")
    parser.add_argument("--counts", type=float, default=400)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    shape = tuple(int(part) for part in given.shape.split("x"))
    given.data.mkdir(parents=True, exist_ok=True)
    store = str(given.data / f"scaling-{given.shape}-{given.counts:g}.zarr")
    if not Path(store).exists():
        edc.convert(edc.synthetic.rock(shape, counts_per_pixel=given.counts), store)
    found: dict[tuple[str, int], Measured] = {}
    with tempfile.TemporaryDirectory(dir=given.data) as folder:
        for n_workers in (1, 2):
            copy = shutil.copytree(store, Path(folder) / f"{n_workers}.zarr")
            with cluster(n_workers, Path(folder)) as client:
                per_task = scheduler_seconds(client)
                for name, step in STEPS.items():
                    found[name, n_workers] = measure(step, str(copy), client)
                    print(f"{name}, {n_workers}: {found[name, n_workers].seconds:.1f} s", file=sys.stderr)
    n_lanes = len(blocks_of(open_map(store)).lanes())
    print(f"{given.shape}, {given.counts:g} counts a pixel, {n_lanes} lanes; {1e3 * per_task:.2f} ms a task\n")
    print(
        "| step | 1 worker s | 2 workers s | times as fast | tasks | graphs kB | loopback MB | "
        "worker MB of projected | client MB |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in STEPS:
        one, two = found[name, 1], found[name, 2]
        print(
            f"| {name} | {one.seconds:.1f} | {two.seconds:.1f} | {one.seconds / two.seconds:.2f} | {two.n_tasks} | "
            f"{two.graph_bytes / 1e3:.0f} | {two.traffic / 1e6:.0f} | {two.worker_peak / 1e6:.0f} of "
            f"{two.projected / 1e6:.0f} | {two.client_peak / 1e6:.0f} |"
        )
    _print_model(found, n_lanes, per_task)


def _print_model(found: dict[tuple[str, int], Measured], n_lanes: int, per_task: float) -> None:
    source = CountsSource("", "", "", "", TERABYTE, tile_shape(TERABYTE[2]), np.dtype(np.uint16))
    many = len(Blocks(source, (0, 0, 0), TERABYTE).lanes())
    n_tiles = math.prod(-(-length // side) for length, side in zip(TERABYTE, source.tile, strict=True))
    print("\n| pass | lane s | join s | result MB | workers | lanes | seconds | tasks | scheduler busy | sent GB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
    for name in ("pca", "nmf, blockwise", "spectra"):
        of_one = pass_of(found[name, 1], n_lanes)
        for workers, lanes_of_it in ((1, n_lanes), (2, n_lanes), (8, many), (64, many), (256, many)):
            work = Pass(lanes_of_it, of_one.lane, of_one.join, of_one.finish, of_one.result_bytes)
            outcome = simulate(work, Machines(workers, 1.25e9, per_task))
            print(
                f"| {name} | {work.lane:.2f} | {work.join:.4f} | {work.result_bytes / 1e6:.2f} | {workers} | "
                f"{lanes_of_it} | {outcome.seconds:.1f} | {outcome.n_tasks} | {100 * outcome.scheduler_share:.1f} % | "
                f"{outcome.bytes_sent / 1e9:.2f} |"
            )
            assert outcome.n_tasks <= MOST_TASKS
    print(f"\nA terabyte: {TERABYTE[0]} x {TERABYTE[1]} pixels, {n_tiles} tiles, {many} lanes.")


if __name__ == "__main__":
    main()
