"""How small and how fast are the counts in each codec? A synthetic rock at several doses, every codec in one run.

    python -m benchmarks codec [--shape 1820x1295x2048] [--doses 18,100,400,1500] [--codecs counts,zstd,lz4]

Run it from the project's folder, on an otherwise idle machine; it wants a few GB of disk in the temporary folder. Each
dose is drawn once, row of tiles by row of tiles, and written in every codec as ``convert`` does. The codecs take turns
in every pass, so that noise of the machine meets all of them, and the best pass counts; kernels are compiled before.
The tables go to stdout, progress to stderr, every single pass to the JSON file.

Everything runs on two processors with two threads that wait for one tile each. In the dense pass the inflating is done
by Zarr's own pool, of two threads as well, and its event loop copies the block to where it is wanted. Blosc uses no
threads of its own: zarr forbids it, and so does this benchmark.
"""

from __future__ import annotations

import argparse
import json
import operator
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import repeat
from pathlib import Path
from queue import SimpleQueue
from time import perf_counter
from typing import Any

import numpy as np
import xarray as xr
import zarr
from zarr.core.buffer import default_buffer_prototype

import eds_chunked as edc
from benchmarks.machine import THREADS, machine, two_processors
from eds_chunked import memory, schema
from eds_chunked.engine.blocks import Block, Lane, blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.kernels.sparse import Csr, take_pixels
from eds_chunked.store.backend import zarr_store
from eds_chunked.store.description import describe_map
from eds_chunked.store.journal import ConversionPlan
from eds_chunked.store.layout import tile_shape
from eds_chunked.store.survey import Survey, survey_tile
from eds_chunked.store.tile_codecs import TILE_CODECS
from eds_chunked.store.writer import MapWriter

SHAPE = (1820, 1295, 2048)
DOSES = (18.0, 100.0, 400.0, 1500.0)
CODECS = ("counts", "zstd", "lz4")
REFERENCE = "zstd"
"""What the others are compared with."""
N_PHASES = 4

Shape = tuple[int, int, int]
Seconds = dict[str, list[float]]

WRITE, DENSE, CSR, SUMS = "write", "dense read", "CSR read", "masked sums"
READS = (DENSE, CSR, SUMS)


@dataclass
class Figures:
    """One codec at one dose; of every kind of pass the seconds of each."""

    dose: float
    codec: str
    dtype: str
    nonzero_share: float
    bytes: int
    seconds: Seconds = field(default_factory=lambda: {kind: [] for kind in (WRITE, *READS)})

    def best(self, kind: str) -> float:
        """Seconds of the fastest pass."""
        return min(self.seconds[kind])


@dataclass(frozen=True)
class Truth:
    """What was drawn: the phase of every pixel, and how many values and counts there are."""

    label: np.ndarray[Any, Any]
    nonzero: int
    counts: int


# ---------------------------------------------------------------------------------------------------- writing
def _rock(shape: Shape, dose: float) -> edc.synthetic.Rock:
    # The same energy range for any number of channels, so that every phase keeps its lines.
    return edc.synthetic.rock(shape, counts_per_pixel=dose, n_phases=N_PHASES, energy_scale=0.01 * 2048 / shape[2])


def write_stores(
    rock: edc.synthetic.Rock, places: dict[str, str], *, passes: int
) -> tuple[dict[str, list[float]], Truth]:
    """Draw the rock once and write it in every codec; return the seconds, drawing excluded, and what was drawn.

    A row of tiles is in memory as CSR when the clock starts, and is written so many times; a pass is the sum over rows.
    Rewriting a map whose counts outgrow the dtype of a stock codec is not counted.
    """
    header = rock.header
    tile = tile_shape(header.shape[2])
    writers = {
        codec: MapWriter(place, ConversionPlan(header.shape, tile, None, codec, {"path": header.source}))
        for codec, place in places.items()
    }
    seconds: dict[str, list[list[float]]] = {codec: [] for codec in places}
    survey = Survey(header.shape)
    label = np.empty(header.shape[:2], np.uint8)
    nonzero = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for band in rock.bands(tile[0]):
            ys = slice(band.y0, band.y0 + band.rows)
            columns = next(iter(writers.values())).units
            tiles = list(_tiles(band.counts, band.rows, columns))
            if not band.y0:
                _compile_encoders(tiles[0], (band.rows, columns[0].stop), tile)
            for writer in writers.values():
                writer.make_room_for(max(int(csr.value.max(initial=0)) for csr in tiles))
            laps: dict[str, list[float]] = {codec: [] for codec in places}
            for _ in range(passes):
                for codec, writer in writers.items():
                    start = perf_counter()
                    for _ in pool.map(writer.write, repeat(ys), columns, map(_alone, tiles)):
                        pass
                    laps[codec].append(perf_counter() - start)
            for codec, times in laps.items():
                seconds[codec].append(times)
            for xs, csr in zip(columns, tiles, strict=True):
                survey.add(survey_tile(csr, ys, xs, header.shape[1]))
                nonzero += len(csr.value)
            label[ys] = rock.labels(ys.start, ys.stop)
    described = describe_map(header, survey)
    for writer in writers.values():
        writer.seal(int(survey.max_spectrum.max()), header.shape[0])
        described.to_zarr(writer.store, group=schema.MAP_GROUP, mode="a", consolidated=False)
        writer.commit()
    whole = {codec: [sum(row[i] for row in rows) for i in range(passes)] for codec, rows in seconds.items()}
    return whole, Truth(label, nonzero, int(survey.sum_spectrum.sum()))


def _tiles(counts: Any, rows: int, columns: Sequence[slice]) -> Iterator[Csr]:
    width = counts.n_pixels // rows
    for xs in columns:
        yield take_pixels(counts, (np.arange(rows)[:, None] * width + np.arange(xs.start, xs.stop)).ravel())


def _alone(tile: Csr) -> Iterator[Csr]:
    yield tile


def _compile_encoders(tile: Csr, shape: tuple[int, int], chunk: Shape) -> None:
    for codec in TILE_CODECS.values():
        for dtype in (np.uint8, np.uint16, np.uint32):
            codec.encode(tile, shape, chunk, np.dtype(dtype))


# ---------------------------------------------------------------------------------------------------- reading
class Reading:
    """The passes over one store.

    Parameters
    ----------
    place
        Path of the store.
    truth
        What was drawn; a pass that finds something else is an error.

    Attributes
    ----------
    dtype
        That of the stored counts.
    bytes
        Those of all tiles.
    """

    def __init__(self, place: str, truth: Truth) -> None:
        self._truth = truth
        self._ds = edc.open(place)
        self._array: Any = zarr.open_array(
            zarr_store(place, read_only=True), path=f"{schema.MAP_GROUP}/{schema.COUNTS}", mode="r"
        )
        self.dtype = str(self._array.dtype)
        self.bytes = _stored_bytes(Path(place) / schema.MAP_GROUP / schema.COUNTS / "c")

    def warm_up(self) -> None:
        """Take a tile through every pass: what is compiled or imported at first use."""
        height, width = np.minimum(self._array.chunks, self._array.shape)[:2].tolist()
        corner = self._ds.isel(y=slice(0, height), x=slice(0, width))
        self._dense(height, width)
        self._csr(corner)
        self._sums(corner, self._phases(corner))

    def seconds(self, kind: str) -> float:
        """Time one pass; raise ValueError if it did not find the counts that were drawn."""
        height, width, _ = self._array.shape
        phases = self._phases(self._ds)
        run: dict[str, Callable[[], int | None]] = {
            DENSE: lambda: self._dense(height, width),
            CSR: lambda: self._csr(self._ds),
            SUMS: lambda: self._sums(self._ds, phases),
        }
        expected = {DENSE: None, CSR: self._truth.nonzero, SUMS: self._truth.counts}[kind]
        start = perf_counter()
        found = run[kind]()
        lap = perf_counter() - start
        if found != expected:
            raise ValueError(f"{kind} found {found}, where {expected} were drawn")
        return lap

    def _dense(self, height: int, width: int) -> None:
        """Read all tiles through Zarr, into memory that was touched before."""
        side_y, side_x, depth = self._array.chunks
        room: SimpleQueue[np.ndarray[Any, Any]] = SimpleQueue()
        for _ in range(THREADS):
            room.put(np.ones(side_y * side_x * depth, self._array.dtype))
        as_buffer = default_buffer_prototype().nd_buffer.from_numpy_array

        def read(corner: tuple[int, int]) -> None:
            y, x = corner
            ys, xs = slice(y, min(height, y + side_y)), slice(x, min(width, x + side_x))
            shape = (ys.stop - ys.start, xs.stop - xs.start, depth)
            memory_of_thread = room.get()
            block = memory_of_thread[: shape[0] * shape[1] * depth].reshape(shape)
            self._array.get_basic_selection((ys, xs, slice(None)), out=as_buffer(block))
            room.put(memory_of_thread)

        corners = [(y, x) for y in range(0, height, side_y) for x in range(0, width, side_x)]
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(read, corners):
                pass

    def _csr(self, ds: xr.Dataset) -> int:
        """Read all tiles by the engine, with next to no work."""
        blocks = blocks_of(ds)
        need = memory.Need("read", 0, blocks.bytes_of_a_block)
        n_values: int = run_pass(blocks, _n_values, operator.add, plan=memory.plan(need, max_workers=THREADS))
        return n_values

    def _phases(self, ds: xr.Dataset) -> xr.Dataset:
        label = self._truth.label[: ds.sizes[schema.Y], : ds.sizes[schema.X]]
        numbers = np.arange(1, N_PHASES + 1)
        return xr.Dataset(
            {
                schema.LABEL: ((schema.Y, schema.X), label),
                schema.MASK: ((schema.PHASE, schema.Y, schema.X), label == numbers[:, None, None]),
            },
            coords={schema.PHASE: numbers, schema.Y: ds[schema.Y], schema.X: ds[schema.X]},
            attrs={schema.FINGERPRINT: ds.attrs[schema.FINGERPRINT]},
        )

    def _sums(self, ds: xr.Dataset, phases: xr.Dataset) -> int:
        """Sum the counts of the phases, the whole step as a user calls it."""
        return int(edc.phase_spectra(ds, phases=phases)[schema.SPECTRUM].sum())


def _n_values(lane: Lane, blocks: Iterator[Block]) -> int:
    return sum(len(block.counts.value) for block in blocks)


def _stored_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


# ------------------------------------------------------------------------------------------------ one dose
def measure(shape: Shape, dose: float, *, codecs: Sequence[str], passes: int, write_passes: int) -> list[Figures]:
    """Measure all codecs at one dose; the stores live no longer than this."""
    with tempfile.TemporaryDirectory(prefix="eds_chunked-benchmark-") as folder:
        places = {codec: str(Path(folder) / f"{codec}.zarr") for codec in codecs}
        written, truth = write_stores(_rock(shape, dose), places, passes=write_passes)
        reading = {codec: Reading(place, truth) for codec, place in places.items()}
        share = truth.nonzero / np.prod(shape, dtype=float)
        found = {codec: Figures(dose, codec, one.dtype, share, one.bytes) for codec, one in reading.items()}
        for codec, one in reading.items():
            found[codec].seconds[WRITE] = written[codec]
            one.warm_up()
        for _ in range(passes):
            for kind in READS:
                for codec, one in reading.items():
                    found[codec].seconds[kind].append(one.seconds(kind))
    return list(found.values())


# ------------------------------------------------------------------------------------------------ telling
GOALS: dict[str, tuple[str, Callable[[Figures, Figures], float], Callable[[float], bool]]] = {
    "size": ("<= 1 of zstd", lambda our, ref: our.bytes / ref.bytes, lambda ratio: ratio <= 1),
    "write": ("<= 1 of zstd", lambda our, ref: our.best(WRITE) / ref.best(WRITE), lambda ratio: ratio <= 1),
    "dense read": (">= 2 x zstd", lambda our, ref: ref.best(DENSE) / our.best(DENSE), lambda ratio: ratio >= 2),
    "CSR read": (">= 7 x dense zstd", lambda our, ref: ref.best(DENSE) / our.best(CSR), lambda ratio: ratio >= 7),
    "masked sums": ("<= 1.3 of CSR read", lambda our, ref: our.best(SUMS) / our.best(CSR), lambda ratio: ratio <= 1.3),
}
"""What the count codec is to reach: in words, as a ratio of it and the reference, and whether a ratio will do."""


def tables(found: Sequence[Figures]) -> str:
    """Return what was measured, a table a dose, and how it compares with the goals, as Markdown."""
    doses = sorted({one.dose for one in found})
    lines = [line for dose in doses for line in _dose_rows([one for one in found if one.dose == dose])]
    return "\n".join([*lines, *_goal_rows(found)])


def _dose_rows(found: Sequence[Figures]) -> Iterator[str]:
    (ref,) = (one for one in found if one.codec == REFERENCE)
    yield f"{ref.dose:g} counts a pixel, {100 * ref.nonzero_share:.2g} % of the values are not zero:"
    yield ""
    yield "| codec | MB | write s | dense read s | CSR read s | masked sums s |"
    yield "|---" + "|---:" * 5 + "|"
    for one in found:
        times = (
            f"{one.best(kind):.2f} ({told:.2f})"
            for kind, told in (
                (WRITE, one.best(WRITE) / ref.best(WRITE)),
                (DENSE, ref.best(DENSE) / one.best(DENSE)),
                (CSR, ref.best(DENSE) / one.best(CSR)),
                (SUMS, one.best(SUMS) / one.best(CSR)),
            )
        )
        yield f"| {one.codec} | {one.bytes / memory.MB:.1f} ({one.bytes / ref.bytes:.2f}) | {' | '.join(times)} |"
    yield ""


def _goal_rows(found: Sequence[Figures]) -> Iterator[str]:
    yield "In brackets: size and write of those of zstd, reads times as fast as zstd's dense one, sums of the CSR read."
    yield ""
    ours = {one.dose: one for one in found if one.codec == CODECS[0]}
    refs = {one.dose: one for one in found if one.codec == REFERENCE}
    yield f"| {CODECS[0]} is to reach | {' | '.join(f'{dose:g} counts' for dose in ours)} |"
    yield "|---" + "|---:" * len(ours) + "|"
    for name, (goal, ratio, reached) in GOALS.items():
        ratios = [ratio(our, refs[dose]) for dose, our in ours.items()]
        told = " | ".join(f"{one:.2f}" if reached(one) else f"**{one:.2f}**" for one in ratios)
        yield f"| {name} {goal} | {told} |"


# ------------------------------------------------------------------------------------------------ command
def _shape(text: str) -> Shape:
    rows, columns, channels = (int(size) for size in text.split("x"))
    return rows, columns, channels


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the tables, and write the JSON file."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks codec", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", type=_shape, default=SHAPE, metavar="ROWSxCOLUMNSxCHANNELS")
    parser.add_argument("--doses", type=lambda text: [float(dose) for dose in text.split(",")], default=DOSES)
    parser.add_argument("--codecs", type=lambda text: text.split(","), default=CODECS)
    parser.add_argument("--passes", type=int, default=3, help="reads of every kind and codec; the best one is told")
    parser.add_argument("--write-passes", type=int, default=3, help="times that each row of tiles is written")
    parser.add_argument("--json", type=Path, default=Path("codec.json"), help="file for every single pass")
    given = parser.parse_args(arguments)
    if not {CODECS[0], REFERENCE} <= set(given.codecs) <= set(TILE_CODECS):
        parser.error(f"--codecs: {CODECS[0]} and {REFERENCE} are compared, of {', '.join(TILE_CODECS)}")

    # As the command line does; it decides what fresh memory costs.
    memory.return_freed_memory_to_the_system()
    recipe = {name: value for name, value in vars(given).items() if name != "json"} | {
        "counts": "synthetic rock, 4 phases, grains of 40 pixels, seed 0",
        "threads": THREADS,
    }
    found: list[Figures] = []
    with two_processors():
        for dose in given.doses:
            start = perf_counter()
            found += measure(
                given.shape, dose, codecs=given.codecs, passes=given.passes, write_passes=given.write_passes
            )
            print(f"{dose:g} counts a pixel: {perf_counter() - start:.0f} s", file=sys.stderr)
        about = machine()
    peak = memory.peak_resident()
    document = about | {"recipe": recipe, "peak bytes": peak, "figures": [asdict(one) for one in found]}
    given.json.write_text(json.dumps(document, indent=1))

    used = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    print(f"{' x '.join(map(str, given.shape))}; {about['processor']}, {about['processors used']} processors used,")
    print(f"Python {about['python']}, {used}; best of {given.passes}, peak memory {peak / memory.MB:.0f} MB.\n")
    print(tables(found))


if __name__ == "__main__":
    main()
