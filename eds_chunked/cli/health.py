"""What ``doctor`` looks at: each check says what it found and, where that will not do, what to do about it."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, requires, version
from pathlib import Path

from eds_chunked import memory
from eds_chunked.memory import MB, format_size

PACKAGE = "eds-chunked"
_SHOWN = ("numpy", "numba", "dask", "distributed", "xarray", "zarr", "scikit-learn", "scikit-image", "hyperspy")

SMALLEST_BUDGET = 650 * MB
"""What the steps take for 2048 channels, one by one."""
_SMALLEST_DISK = 1000 * MB
"""Less than this holds no full-size map with its results."""


@dataclass(frozen=True)
class Check:
    """What was looked at, what was found, and what to do: nothing where all is well."""

    name: str
    found: str
    fix: str = ""


def examine(store: str | None = None) -> list[Check]:
    """Look at the environment, the machine and, where one is named, the place of a store."""
    checks = [*_versions(), _memory(), _processors(), _codec(), _linear_algebra(), _compiled_code()]
    return checks if store is None else [*checks, _place(store)]


def _versions() -> Iterator[Check]:
    from packaging.requirements import Requirement

    shown = ", ".join(f"{name} {found}" for name in _SHOWN if (found := _version(name)))
    yield Check("versions", f"eds-chunked {version(PACKAGE)}, Python {platform.python_version()}, {shown}")
    asked = [Requirement(line) for line in requires(PACKAGE) or ()]
    needs = [need for need in asked if need.marker is None or need.marker.evaluate({"extra": ""})]
    wrong = [
        f"{need.name} {_version(need.name) or 'missing'} (needs {need.specifier or 'any'})"
        for need in needs
        if not need.specifier.contains(_version(need.name), prereleases=True)
    ]
    if wrong:
        yield Check("requirements", ", ".join(wrong), f"pip install --upgrade {PACKAGE}")
    else:
        yield Check("requirements", f"all {len(needs)} packages as the package asks for them")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _memory() -> Check:
    free, limit = memory.available(), memory.resolve_limit(None)
    left = memory.container_free()
    found = f"{format_size(free)} free of {format_size(memory.installed())}"
    # Old kernels say that there is no limit by a huge one.
    found += (
        "" if left is None or left > memory.installed() else f", {format_size(left)} left by the limit of the container"
    )
    found += f"; --memory is {format_size(limit)} unless stated"
    fits = free + memory.resident() >= SMALLEST_BUDGET
    return Check("memory", found, "" if fits else f"close other programs: steps take {format_size(SMALLEST_BUDGET)}")


def _processors() -> Check:
    usable, present = memory.n_cpus(), os.cpu_count() or 1
    return Check("processors", str(usable) if usable == present else f"{usable} of {present} are for this process")


def _codec() -> Check:
    """Store counts as a program would that knows nothing but Zarr, and read them again."""
    name = "counts codec"
    install = f"pip install --force-reinstall --no-deps {PACKAGE}"
    try:
        import numpy as np
        import zarr

        from eds_chunked.store.codec import NAME, CountsCodec

        if not any(point.name == NAME for point in entry_points(group="zarr.codecs")):
            return Check(name, f"no entry point {NAME!r} in the group zarr.codecs", install)
        codec = CountsCodec().to_dict()
        counts = np.arange(2 * 3 * 7, dtype=np.uint16).reshape(2, 3, 7) % 5
        array = zarr.create_array({}, data=counts, chunks=counts.shape, serializer=codec, compressors=None)
        if not np.array_equal(array[:], counts):
            return Check(name, f"{NAME} gives other counts than were stored", install)
    except Exception as error:  # whatever a broken environment raises is what was to be found
        return Check(name, f"{type(error).__name__}: {error}", install)
    return Check(name, f"{NAME}, found by its entry point; counts come back as they were")


def _linear_algebra() -> Check:
    import numpy as np  # noqa: F401 - loads the library that is looked for
    from threadpoolctl import threadpool_info

    found = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    if not found:
        return Check("BLAS", "none that can be seen; its threads are not limited by the steps")
    said = [f"{pool['internal_api']} {pool['version'] or ''}, {pool['num_threads']} threads" for pool in found]
    return Check("BLAS", "; ".join(dict.fromkeys(said)))


def _compiled_code() -> Check:
    name, fix = "compiled code", "set NUMBA_CACHE_DIR to a folder that can be written"
    try:
        from eds_chunked.kernels.connected import piece_boxes

        folder = Path(piece_boxes.stats.cache_path)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        return Check(name, f"no cache: {error}", fix)
    return Check(name, f"is kept in {folder}")


def _place(store: str) -> Check:
    name = "disk"
    path = store.removeprefix("file://")
    if "://" in path:
        return Check(name, f"{store} is no local folder: its room is not known")
    folder = Path(path).absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    found = f"{format_size(free)} free at {folder}"
    if not os.access(folder, os.W_OK):
        return Check(name, f"{folder} cannot be written", "name a folder of your own, or ask for the right to write")
    return Check(name, found, "" if free >= _SMALLEST_DISK else "make room, or name a store on another disk")
