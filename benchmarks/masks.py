"""What do masks and labels take beside scikit-image, are they the same, and how many labels are true?

    python -m benchmarks masks [--shape 1295x1820] [--passes 5] [--quick] [--json masks.json]

Loadings of a synthetic rock with blurred borders lie in a Zarr store, in chunks as nmf writes them. For every rule of a
threshold, the masks are made in blocks and by scikit-image on the whole map, and compared pixel by pixel. Then maps of
counts are drawn with borders of several widths, and labels compared with truth: unassigned and mixed pixels are wrong.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from scipy.optimize import linear_sum_assignment
from skimage.filters import threshold_multiotsu, threshold_otsu, threshold_triangle
from skimage.morphology import remove_small_holes, remove_small_objects

import eds_chunked as edc
from benchmarks.machine import forget_peak
from eds_chunked import memory, schema
from eds_chunked.phases.threshold import MULTI_OTSU, OTSU, TRIANGLE

Array = np.ndarray[Any, Any]

N_PHASES = 4
CHUNK = 256
MIN_SIZE = 100
BLURS = (0.5, 1.0, 1.5)
GRAINS = (25.0, 40.0)
DOSES = (30.0, 100.0, 400.0)
_BAND = 128

BY_RULE: dict[str, Callable[[Array], float]] = {
    OTSU: threshold_otsu,
    MULTI_OTSU: lambda image: threshold_multiotsu(image, classes=3)[-1],
    TRIANGLE: threshold_triangle,
}


@dataclass(frozen=True)
class Cost:
    """Masks and labels of one map; ``whole_map_seconds`` are those of scikit-image, which makes no labels."""

    rule: str
    shape: str
    seconds: float
    whole_map_seconds: float
    peak_over_idle_mb: float
    masks_that_differ: int


@dataclass(frozen=True)
class Truth:
    """Labels of one rock beside truth, per cent of the pixels."""

    blur: float
    grain: float
    counts: float
    right: float
    wrong: float
    unassigned: float
    mixed: float
    impure: float


def made_loadings(folder: Path, shape: tuple[int, int]) -> xr.Dataset:
    """Write loadings of a rock with blurred borders and noise, band by band; return them lazily."""
    rock = edc.synthetic.rock((*shape, 8), energy_scale=1.5, n_phases=N_PHASES, blur=1.0, grain_size=25)

    def band(block_info: Any = None) -> Array:
        (_, _), (y0, y1), (_, width) = block_info[None]["array-location"]
        noise = np.random.default_rng(y0).gamma(2, 0.05, (N_PHASES, y1 - y0, width))
        return np.asarray((np.moveaxis(rock.mixture(y0, y1), 2, 0) + noise).astype(np.float32))

    rows = da.core.normalize_chunks((_BAND,), shape[:1])[0]
    bands = da.map_blocks(
        band, chunks=((N_PHASES,), rows, shape[1:]), dtype=np.float32, meta=np.empty((0, 0, 0), np.float32)
    )
    bands.rechunk((N_PHASES, CHUNK, CHUNK)).to_zarr(str(folder / "loadings.zarr"))
    loadings = da.from_zarr(str(folder / "loadings.zarr"))
    factors = np.random.default_rng(1).random((N_PHASES, 61))
    made = {schema.LOADINGS: loadings, schema.FACTORS: factors}
    return xr.Dataset({name: (schema.VARIABLES[name].dims, values) for name, values in made.items()})


def cost(nmf: xr.Dataset, rule: str, *, passes: int) -> Cost:
    """Segment the phases ``passes`` times, and make their masks with scikit-image; the best time of either counts."""
    edc.segment_phases(nmf.isel(y=slice(0, 40), x=slice(0, 40)), threshold=rule, min_size=5)
    memory.return_freed_memory_to_the_system()
    memory.release()
    forget_peak()
    idle = memory.resident()
    ours, theirs = [], []
    for _ in range(passes):
        start = perf_counter()
        phases = edc.segment_phases(nmf, threshold=rule, min_size=MIN_SIZE)
        ours.append(perf_counter() - start)
    peak = memory.peak_resident()
    for _ in range(passes):
        start = perf_counter()
        masks = [_whole_map_mask(image, rule) for image in nmf[schema.LOADINGS].values]
        theirs.append(perf_counter() - start)
    differing = int(np.count_nonzero(np.stack(masks) != phases[schema.MASK].values))
    shape = "x".join(map(str, nmf[schema.LOADINGS].shape[1:]))
    return Cost(rule, shape, min(ours), min(theirs), (peak - idle) / memory.MB, differing)


def _whole_map_mask(image: Array, rule: str) -> Array:
    mask = image >= BY_RULE[rule](image)
    mask = remove_small_objects(mask, max_size=MIN_SIZE - 1)
    return np.asarray(remove_small_holes(mask, max_size=MIN_SIZE - 1))


def truth(blur: float, grain: float, counts: float, *, shape: tuple[int, int, int]) -> Truth:
    """Draw a rock, take it through nmf and phases, and compare the labels with the largest share of each pixel."""
    rock = edc.synthetic.rock(
        shape,
        energy_scale=12.3 / shape[2],
        counts_per_pixel=counts,
        n_phases=N_PHASES,
        blur=blur,
        grain_size=grain,
        seed=3,
    )
    with tempfile.TemporaryDirectory() as folder:
        ds = edc.convert(rock, Path(folder) / "rock.zarr")
        nmf = edc.nmf(ds.sel(energy=slice(0.2, None)), n_components=N_PHASES)
        label = edc.segment_phases(nmf)[schema.LABEL].values
    true, purest = rock.labels(0, shape[0]), rock.mixture(0, shape[0]).max(axis=2)
    table = np.array(
        [[np.sum((label == k) & (true == j)) for j in range(1, N_PHASES + 1)] for k in range(1, N_PHASES + 1)]
    )
    right = float(table[linear_sum_assignment(-table)].sum() / true.size)
    unassigned, mixed = (float(np.mean(label == number)) for number in (schema.UNASSIGNED, schema.MIXED))
    shares = (right, 1 - right - unassigned - mixed, unassigned, mixed, float(np.mean(purest < 0.9)))
    return Truth(blur, grain, counts, *(100 * share for share in shares))


def _printed(rows: Sequence[Any]) -> None:
    names = list(asdict(rows[0]))
    print(" | ".join(names))
    for row in rows:
        print(" | ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in asdict(row).values()))
    print(flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; 1 if a mask differs from scikit-image's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="1295x1820", help="rows and columns of the map")
    parser.add_argument("--passes", type=int, default=5, help="of which the best counts")
    parser.add_argument("--quick", action="store_true", help="a small map, and one width of borders")
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args(arguments)
    rows, columns = (131, 157) if given.quick else map(int, given.shape.split("x"))
    with tempfile.TemporaryDirectory() as folder:
        nmf = made_loadings(Path(folder), (rows, columns))
        costs = [cost(nmf, rule, passes=1 if given.quick else given.passes) for rule in BY_RULE]
    _printed(costs)
    if given.quick:
        truths = [truth(1.0, 40.0, 100.0, shape=(201, 227, 512))]
    else:
        every = [(blur, grain, counts) for blur in BLURS for grain in GRAINS for counts in DOSES]
        truths = [truth(*each, shape=(301, 401, 1024)) for each in every]
    _printed(truths)
    if given.json:
        given.json.write_text(json.dumps({"costs": list(map(asdict, costs)), "truths": list(map(asdict, truths))}))
    return int(any(each.masks_that_differ for each in costs))


if __name__ == "__main__":
    sys.exit(main())
