"""The door through which every step comes to its plan: whose memory it will use, and how many blocks are in work.

Steps and the engine ask here and not :mod:`eds_chunked.memory`, which knows this process only. With an active cluster
it is a worker's memory that is planned: of all workers the least of what each has.

A step asks once it has checked all that it can without a pass, and before it writes anything: a dry run ends here.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.metadata import version
from typing import Any

from eds_chunked import memory as machine
from eds_chunked.dask_cluster import active_client, share_of
from eds_chunked.errors import ClusterError
from eds_chunked.memory import RESERVE, Budget, Need, Plan, Reads

_SECONDS_TO_COME = 20
"""Workers may have been started a moment ago."""

_PACKAGES = tuple(
    f"eds_chunked.{name}." for name in ("decomposition", "engine", "grains", "kernels", "phases", "store")
)
"""What the work of steps is in: workers load of it what is loaded where the step was called."""


def budget(memory: str | int | None = None) -> Budget:
    """Return the budget of the process that does the work of a pass: this one, or a worker of the active cluster.

    Raises
    ------
    ClusterError
        The cluster has no worker, or one without this package or with another version of it.
    """
    client = active_client()
    return machine.budget(memory) if client is None else _of_a_worker(client, memory)


def plan(
    need: Need,
    *,
    memory: str | int | None = None,
    max_workers: int | None = None,
    reads: Sequence[Reads] = (),
    writes: int = 0,
    goes_on: bool = False,
) -> Plan:
    """Decide how many workers a step has; raise MemoryBudgetError if not even one fits.

    Parameters
    ----------
    need
        What it holds.
    memory
        Budget for the whole process.
    max_workers
        Where more would have nothing to do.
    reads, writes
        What it will go through and how often, and the most bytes that it will write.
    goes_on
        Whether the step makes another plan before it begins.
    """
    return budget(memory).plan(need, max_workers=max_workers, reads=reads, writes=writes, goes_on=goes_on)


def _of_a_worker(client: Any, memory: str | int | None) -> Budget:
    try:
        client.wait_for_workers(1, timeout=_SECONDS_TO_COME)
    except TimeoutError as error:
        raise _no_worker(client) from error
    workers: Mapping[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    idle = _check_and_prepare(client)
    limit = min((int(worker["memory_limit"]) for worker in workers.values() if worker["memory_limit"]), default=0)
    unasked = share_of(limit) if limit else machine.DEFAULT_LIMIT
    threads = min(int(worker["nthreads"]) for worker in workers.values())
    limit = unasked if memory is None else machine.parse_size(memory)
    return Budget(limit, idle + RESERVE, threads, "worker", len(workers))


def _no_worker(client: Any) -> ClusterError:
    address = client.scheduler.address
    return ClusterError(f"cluster {address}", found="no worker", expected="at least one", fix=f"dask worker {address}")


def _check_and_prepare(client: Any) -> int:
    """Have every worker load what the step has loaded here; return the bytes that the largest of them holds then."""
    own, idle = version("eds-chunked"), 0
    loaded = [name for name in sys.modules if name.startswith(_PACKAGES)]
    answers = client.run(_about_this_worker, loaded, on_error="return")
    # A worker that went meanwhile answers with a lost connection; the others do the work.
    there = {address: told for address, told in answers.items() if not isinstance(told, OSError)}
    if not there:
        raise _no_worker(client)
    for address, told in there.items():
        if isinstance(told, BaseException) or told[0] != own:
            raise ClusterError(
                f"worker {address}",
                found=f"{type(told).__name__}: {told}" if isinstance(told, BaseException) else f"version {told[0]}",
                expected=f"eds-chunked {own}, as here",
                fix=f"pip install eds-chunked=={own} in the environment of the workers",
            )
        idle = max(idle, told[1])
    return idle


def _about_this_worker(modules: Sequence[str]) -> tuple[str, int]:
    for module in modules:
        import_module(module)
    machine.return_freed_memory_to_the_system()
    machine.release()
    return version("eds-chunked"), machine.resident()
