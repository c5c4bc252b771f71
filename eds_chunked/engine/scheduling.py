"""Where tasks run: on threads of this process, or on the workers of an active cluster."""

from __future__ import annotations

import sys


def scheduler(workers: int) -> dict[str, object]:
    """Return what makes :func:`dask.compute` run on a cluster if there is one, else on so many threads."""
    distributed = sys.modules.get("distributed")
    if distributed is not None:
        try:
            distributed.default_client()
        except ValueError:
            pass  # distributed is imported, but nobody has made a client
        else:
            return {}
    return {"scheduler": "threads", "num_workers": workers}


def zarr_limits(workers: int) -> dict[str, int]:
    """Return settings by which Zarr has one tile in work for each thread; its own would inflate several more."""
    return {"threading.max_workers": workers, "async.concurrency": workers}
