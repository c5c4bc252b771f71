"""Where dask's own graphs run: on threads of this process, or on the workers of an active cluster."""

from __future__ import annotations

from eds_chunked.dask_cluster import active_client


def threads(workers: int) -> dict[str, object]:
    """Return what makes :func:`dask.compute` run on so many threads of this process."""
    return {"scheduler": "threads", "num_workers": workers}


def scheduler(workers: int) -> dict[str, object]:
    """Return what makes :func:`dask.compute` run on a cluster if there is one, else on so many threads."""
    return threads(workers) if active_client() is None else {}


def zarr_limits(workers: int) -> dict[str, int]:
    """Return settings by which Zarr has one tile in work for each thread; its own would inflate several more."""
    return {"threading.max_workers": workers, "async.concurrency": workers}
