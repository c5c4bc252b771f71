"""Grains: ours beside scikit-image on the whole map, memory against area, and a phase that is one connected piece.

    python -m benchmarks grains [--parts speed area giant shares] [--quick] [--json FILE]

Run it from the project's folder, on an otherwise idle Linux machine. Every number comes from a fresh process that has
separated the grains of a tiny map before; in ``speed`` the two sides take turns (A B A B), and the faster run of each
counts. The other side is the practical's chain on each phase's mask, whole: distance transform, peaks, watershed;
and the same with ``regionprops_table``, which has fewer columns than our table. Ours always has its table.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
import zarr
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.measure import regionprops_table
from skimage.segmentation import watershed

import eds_chunked as edc
from eds_chunked import memory, schema
from eds_chunked.errors import MemoryBudgetError
from eds_chunked.memory import MB, n_cpus
from eds_chunked.store.provenance import versions

Array = np.ndarray[Any, Any]

PROJECT = Path(__file__).parents[1]
N_PHASES = 4
OURS, OURS_H = "ours, practical", "ours, h-maxima"
CHAIN, CHAIN_TABLE = "scikit-image", "scikit-image + regionprops"
SIDES = (OURS, OURS_H, CHAIN, CHAIN_TABLE)
PARTS = ("speed", "area", "giant", "shares")
LARGEST_ABOVE_IDLE = 300 * MB
AREA_BUDGET = "600MB"
_TILE = 1000
PROPERTIES = (
    "label", "num_pixels", "area", "centroid", "bbox", "equivalent_diameter_area", "axis_major_length",
    "axis_minor_length", "perimeter_crofton", "feret_diameter_max", "solidity",
)  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """A label map on disk: a synthetic rock, or one phase with holes, which is a single piece."""

    name: str
    shape: tuple[int, int]
    grain_size: float = 10.0
    one_piece: bool = False


@dataclass(frozen=True)
class Task:
    """One side on one scene, in a process of its own."""

    side: str
    store: str
    memory: str | None = None


@dataclass(frozen=True)
class Measured:
    """What a process found: grains, seconds, resident memory before and at most, and how it ended."""

    n_grains: int
    seconds: float
    idle_bytes: int
    peak_bytes: int
    said: str = ""

    @property
    def above_idle(self) -> int:
        return self.peak_bytes - self.idle_bytes


SPEED = (
    Scene("10 000 grains", (740, 740)),
    Scene("200 000 grains", (3300, 3300)),
    Scene("full-size map", (1295, 1820), 25.0),
)
AREA = tuple(Scene(f"{side} x {side}", (side, side), 25.0) for side in (2500, 5000, 10_000))
GIANT = (Scene("one piece", (5000, 5000), one_piece=True),)
QUICK_SPEED = (Scene("400 grains", (200, 200)), Scene("full-size map / 16", (324, 455), 12.0))
QUICK_AREA = tuple(Scene(f"{side} x {side}", (side, side)) for side in (300, 600))
QUICK_GIANT = (Scene("one piece", (700, 900), one_piece=True),)


def make(scene: Scene, folder: Path) -> str:
    """Write the labels of a scene; what is larger than 1000 x 1000 repeats that much of a rock, mirrored."""
    store = str(folder / "labels.zarr")
    array = zarr.create_array(store, name=schema.LABEL, shape=scene.shape, chunks=(512, 512), dtype=np.uint8,
                              dimension_names=(schema.Y, schema.X))  # fmt: skip
    part = _one_piece() if scene.one_piece else _rock(scene)
    for y in range(0, scene.shape[0], _TILE):
        for x in range(0, scene.shape[1], _TILE):
            turned = part[:: -1 if y // _TILE % 2 else 1, :: -1 if x // _TILE % 2 else 1]
            height, width = (min(_TILE, n - at) for n, at in zip(scene.shape, (y, x), strict=True))
            array[y : y + height, x : x + width] = turned[:height, :width]
    return store


def _rock(scene: Scene) -> Array:
    side = (min(_TILE, scene.shape[0]), min(_TILE, scene.shape[1]))
    rock = edc.synthetic.rock((*side, 61), grain_size=scene.grain_size, n_phases=N_PHASES, energy_scale=0.3)
    return np.asarray(rock.labels(0, side[0]), np.uint8)


def _one_piece() -> Array:
    y, x = np.mgrid[:_TILE, :_TILE] % 50 - 25
    return np.asarray(np.hypot(y, x) > 9, np.uint8)


def phases_in(store: str) -> xr.Dataset:
    """Open the labels of a scene, lazily."""
    ds: xr.Dataset = xr.open_zarr(store, consolidated=False, chunks={})
    return ds


def chain(mask: Array) -> tuple[Array, Array]:
    """Return the markers and the grains (y, x) of the practical's chain on the mask of one phase."""
    distance = ndi.distance_transform_edt(mask)
    peaks = peak_local_max(
        distance,
        min_distance=1,
        threshold_abs=None,
        threshold_rel=None,
        exclude_border=False,
        footprint=np.ones((3, 3)),
        labels=mask.astype(int),
    )
    seeds = np.zeros(mask.shape, np.bool_)
    seeds[tuple(peaks.T)] = True
    markers = ndi.label(seeds)[0]
    return markers, watershed(-distance, markers, mask=mask)


def _by_scikit_image(store: str, *, with_table: bool) -> int:
    label = phases_in(store)[schema.LABEL].values
    n = 0
    for phase in range(1, N_PHASES + 1):
        mask = label == phase
        if mask.any():
            grains = chain(mask)[1]
            n += int(grains.max())
            if with_table:
                regionprops_table(grains, properties=PROPERTIES)
    return n


def _by_us(store: str, budget: str | None, method: str) -> int:
    found = edc.separate_grains(phases_in(store), method=method, memory=budget)
    return int(found.sizes[schema.GRAIN])


_RUN: dict[str, Callable[[Task], int]] = {
    OURS: lambda task: _by_us(task.store, task.memory, "practical"),
    OURS_H: lambda task: _by_us(task.store, task.memory, "h-maxima"),
    CHAIN: lambda task: _by_scikit_image(task.store, with_table=False),
    CHAIN_TABLE: lambda task: _by_scikit_image(task.store, with_table=True),
}


def measure(task: Task) -> Measured:
    """Run a side in this process, after a tiny map."""
    with tempfile.TemporaryDirectory() as folder:
        tiny = make(Scene("tiny", (60, 80)), Path(folder))
        _RUN[task.side](Task(task.side, tiny))
    memory.return_freed_memory_to_the_system()
    memory.release()
    Path("/proc/self/clear_refs").write_text("5")
    idle = memory.resident()
    start = perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            n, said = _RUN[task.side](task), ""
        except MemoryBudgetError as error:
            n, said = 0, str(error)
    seconds = perf_counter() - start
    said = " ".join([said, *(str(one.message) for one in caught)]).strip()
    return Measured(n, seconds, idle, memory.peak_resident(), said)


def measure_apart(task: Task) -> Measured:
    """Measure in a fresh process; end with what it said where it fails."""
    command = [sys.executable, "-m", "benchmarks.grains", "--task", json.dumps(asdict(task))]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{task.side} failed:\n{done.stderr}")
    found = Measured(**json.loads(done.stdout.splitlines()[-1]))
    print(f"{task.side:<28} {found.n_grains:>8} grains {found.seconds:8.2f} s {found.peak_bytes / MB:6.0f} MB "
          f"({found.above_idle / MB:.0f} above idle)", file=sys.stderr)  # fmt: skip
    return found


def speed(scene: Scene, sides: Sequence[str] = SIDES) -> dict[str, Measured]:
    """Return the faster of two runs of each side, with its higher peak; sides take turns."""
    found: dict[str, list[Measured]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        store = make(scene, Path(folder))
        for side in (*sides, *sides):
            found[side].append(measure_apart(Task(side, store)))
    best = {}
    for side, runs in found.items():
        fastest = min(runs, key=lambda run: run.seconds)
        highest = max(runs, key=lambda run: run.above_idle)
        best[side] = Measured(fastest.n_grains, fastest.seconds, highest.idle_bytes, highest.peak_bytes)
    return best


def speed_table(found: dict[str, dict[str, Measured]]) -> Iterator[str]:
    """Yield a Markdown table: a row a scene and side, and whether ours met its goals."""
    yield "| map | side | grains | s | MB above idle | s / scikit-image | |"
    yield "|---|---|---:|---:|---:|---:|---|"
    for scene, sides in found.items():
        base = sides[CHAIN].seconds
        for side, one in sides.items():
            ratio = one.seconds / base
            told = ""
            if side in (OURS, OURS_H):
                told = "pass" if ratio <= 1 and one.above_idle <= LARGEST_ABOVE_IDLE else "**fail**"
            yield (
                f"| {scene} | {side} | {one.n_grains} | {one.seconds:.2f} | {one.above_idle / MB:.0f} | {ratio:.2f} | "
                f"{told} |"
            )


def area(scenes: Sequence[Scene], budget: str = AREA_BUDGET) -> dict[str, Measured]:
    """Separate maps of growing area within one budget."""
    found = {}
    for scene in scenes:
        with tempfile.TemporaryDirectory() as folder:
            found[scene.name] = measure_apart(Task(OURS_H, make(scene, Path(folder)), budget))
    return found


def area_table(scenes: Sequence[Scene], found: dict[str, Measured]) -> Iterator[str]:
    """Yield a Markdown table: memory against area, and the exponent of its growth."""
    yield "| map | grains | s | peak MB | MB above idle | |"
    yield "|---|---:|---:|---:|---:|---|"
    for name, one in found.items():
        told = "pass" if one.peak_bytes <= memory.parse_size(AREA_BUDGET) else "**fail**"
        yield (
            f"| {name} | {one.n_grains} | {one.seconds:.1f} | {one.peak_bytes / MB:.0f} | {one.above_idle / MB:.0f} | "
            f"{told} |"
        )
    pixels = [scene.shape[0] * scene.shape[1] for scene in scenes]
    power = np.polyfit(np.log(pixels), np.log([found[scene.name].peak_bytes for scene in scenes]), 1)[0]
    yield f"| peak ~ area^p | | | p = {power:.2f} | | |"


def giant(scenes: Sequence[Scene]) -> Iterator[str]:
    """Yield what happens to a phase that is one connected piece: with memory enough, and with too little."""
    for scene in scenes:
        with tempfile.TemporaryDirectory() as folder:
            store = make(scene, Path(folder))
            for budget in ("4GB", "450MB"):
                one = measure_apart(Task(OURS_H, store, budget))
                size = f"{scene.shape[0]} x {scene.shape[1]}"
                yield (
                    f"| {scene.name}, {size} | {budget} | {one.n_grains} | {one.seconds:.1f} | "
                    f"{one.peak_bytes / MB:.0f} | {one.said or '-'} |"
                )


def share(label: Array) -> tuple[int, int, float, float]:
    """Compare with the plain chain: markers there, markers that differ, and pixels that differ (%).

    Two shares: pixels in another grain than that of the same marker, and pixels that the chain leaves out since their
    piece has no peak.
    """
    ours = edc.separate_grains(xr.Dataset({schema.LABEL: ((schema.Y, schema.X), label)}), method="practical")
    mine = ours[schema.GRAIN_LABEL].values
    n_markers = n_other = n_differ = n_lost = n_all = 0
    for phase in range(1, int(label[label < schema.MIXED].max()) + 1):
        mask = label == phase
        if not mask.any() or mask.all():
            continue
        markers, theirs = chain(mask)
        n_markers += int(markers.max())
        # A marker's pixels are in one grain of ours, and no two markers share one.
        at = markers > 0
        pairs = np.unique(np.stack([markers[at], mine[at]]), axis=1)
        n_other += abs(pairs.shape[1] - len(np.unique(pairs[1]))) + abs(pairs.shape[1] - int(markers.max()))
        grain_of = np.zeros(int(markers.max()) + 1, np.int64)
        grain_of[pairs[0]] = pairs[1]
        seeded = theirs > 0
        n_differ += int((grain_of[theirs[seeded]] != mine[seeded]).sum())
        n_lost += int((mask & ~seeded).sum())
        n_all += int(mask.sum())
    return n_markers, n_other, 100 * n_differ / n_all, 100 * n_lost / n_all


def shares(sizes: Sequence[tuple[int, int]]) -> Iterator[str]:
    """Yield how much the plain chain, whose equal seeds are flooded in its heap's order, differs from ours."""
    for size in sizes:
        label = _rock(Scene("rock", size, 12.0))
        rng = np.random.default_rng(0)
        fields = [ndi.gaussian_filter(rng.standard_normal(size), 3 + k) * (3 + k) for k in range(N_PHASES)]
        for name, made in (("Voronoi rock", label), ("smooth noise", np.argmax(fields, axis=0).astype(np.uint8) + 1)):
            n, other, differ, lost = share(made)
            yield f"| {name}, {size[0]} x {size[1]} | {n} | {other} | {differ:.3f} | {lost:.3f} |"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks grains", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="small maps, to see that it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the measurements there")
    parser.add_argument("--task", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.task is not None:
        print(json.dumps(asdict(measure(Task(**json.loads(given.task))))))
        return

    used = ", ".join(f"{name} {number}" for name, number in versions().items())
    print(f"{n_cpus()} processors, Python {platform.python_version()}, {used}.")
    kept: dict[str, Any] = {}
    if "speed" in given.parts:
        by_scene = {scene.name: speed(scene) for scene in (QUICK_SPEED if given.quick else SPEED)}
        print("\nGrains of 4 phases; ours with its table.\n", *speed_table(by_scene), sep="\n")
        kept["speed"] = {name: {side: asdict(one) for side, one in sides.items()} for name, sides in by_scene.items()}
    if "area" in given.parts:
        scenes = QUICK_AREA if given.quick else AREA
        by_area = area(scenes)
        print(f"\nMemory against area, budget {AREA_BUDGET}.\n", *area_table(scenes, by_area), sep="\n")
        kept["area"] = {name: asdict(one) for name, one in by_area.items()}
    if "giant" in given.parts:
        print("\nA phase that is one connected piece.\n")
        print("| map | budget | grains | s | peak MB | what it said |\n|---|---|---:|---:|---:|---|")
        print(*giant(QUICK_GIANT if given.quick else GIANT), sep="\n")
    if "shares" in given.parts:
        print(
            "\nAgainst the practical's plain chain: markers, those that differ, and pixels in another grain or none.\n"
        )
        print("| map | markers | differ | pixels in another grain, % | pixels it loses, % |\n|---|---:|---:|---:|---:|")
        print(*shares([(300, 400)] if given.quick else [(1000, 1000), (1000, 700)]), sep="\n")
    if given.json is not None:
        given.json.write_text(json.dumps(kept, indent=1))


if __name__ == "__main__":
    main()
