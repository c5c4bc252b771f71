"""The maps that are measured: made once in a folder, streamed, in every form that a step or a peer reads."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import eds_chunked as edc
from eds_chunked import schema
from eds_chunked.kernels.sparse import Csr, to_dense

Array = np.ndarray[Any, Any]

SIZES = {
    "4": (3640, 2590),
    "full": (1820, 1295),
    "1/4": (910, 648),
    "1/16": (455, 324),
    "1/64": (228, 162),
    "1/256": (114, 81),
}
"""Rows and columns."""
TEXTURES = ("grains", "banded")
N_PHASES = 4
GRAIN_SIZE = 25.0
BLUR = 1.0
TINY = (72, 80)
"""The map that a process takes through a step first: two tiles a side, so that joining blocks is warm as well."""

STORE, RAW, HSPY, PLAIN, LEARNT = "store", "raw", "hspy", "plain", "learnt"
_SUFFIXES = {STORE: ".zarr", RAW: ".rpl", HSPY: ".hspy", PLAIN: ".plain.zarr", LEARNT: ".npz"}
_BAND_ROWS = 16


def size_of(text: str) -> tuple[int, int]:
    """Return rows and columns of a named size, or of ``ROWSxCOLUMNS``."""
    if text in SIZES:
        return SIZES[text]
    rows, columns = text.split("x")
    return int(rows), int(columns)


@dataclass(frozen=True)
class Case:
    """A synthetic rock in a folder, and the memory that a step may take on it."""

    folder: str
    shape: tuple[int, int, int]
    counts: float
    texture: str = "grains"
    memory: str = "1GB"

    @property
    def pixels(self) -> int:
        return self.shape[0] * self.shape[1]

    def at(self, rows: int, columns: int) -> Case:
        """Return the same rock in another size."""
        return replace(self, shape=(rows, columns, self.shape[2]))

    def path(self, kind: str) -> Path:
        """Return where the map is in one of its forms."""
        size = "x".join(map(str, self.shape))
        return Path(self.folder) / f"rock-{size}-{self.counts:g}-{self.texture}{_SUFFIXES[kind]}"

    def rock(self) -> edc.synthetic.Rock:
        """Describe it: grains that mix at their borders, or bands, and one pixel of a fifth mineral."""
        return edc.synthetic.rock(
            self.shape,
            counts_per_pixel=self.counts,
            n_phases=N_PHASES,
            grain_size=GRAIN_SIZE,
            texture="banded" if self.texture == "banded" else "grains",
            blur=BLUR,
            one_pixel_mineral=True,
            # The same energy range for any number of channels, so that every phase keeps its lines.
            energy_scale=0.01 * 2048 / self.shape[2],
        )

    def label(self) -> Array:
        """Return the true phase of every pixel, uint8 (rows, columns), drawn in bands."""
        rock, height = self.rock(), self.shape[0]
        return np.concatenate([rock.labels(y0, min(y0 + 64, height)) for y0 in range(0, height, 64)])

    def drawn_grains(self) -> int:
        """Return how many grains the map shows."""
        rock, height = self.rock(), self.shape[0]
        return len(set().union(*(np.unique(rock.grains(y0, min(y0 + 64, height))) for y0 in range(0, height, 64))))


RECIPE = {
    "maker": "eds_chunked.synthetic.rock",
    "phases": N_PHASES,
    "grain size in pixels": GRAIN_SIZE,
    "blur in pixels": BLUR,
    "one pixel of a fifth mineral": True,
    "seed": 0,
}


# ------------------------------------------------------------------------------------------------ making
def raw_counts(case: Case) -> Any:
    """Map the .raw of a case, (rows, columns, channels)."""
    about = json.loads(case.path(RAW).with_suffix(".json").read_text())
    return np.memmap(case.path(RAW).with_suffix(".raw"), about["dtype"], "r", shape=case.shape)


def n_counts(case: Case) -> int:
    """Return how many counts were drawn."""
    return int(json.loads(case.path(RAW).with_suffix(".json").read_text())["counts"])


def _make_raw(case: Case, part: Path) -> None:
    """Write .rpl and .raw, some rows at a time; the .rpl comes last."""
    rock, path = case.rock(), case.path(RAW)
    total = 0
    with open(path.with_suffix(".raw"), "wb") as file:
        for band in rock.bands(_BAND_ROWS):
            assert isinstance(band.counts, Csr)
            total += int(band.counts.value.sum(dtype=np.uint64))
            file.write(to_dense(band.counts).astype(rock.header.dtype).tobytes())
    about = {"dtype": rock.header.dtype.str, "counts": total}
    path.with_suffix(".json").write_text(json.dumps(about))
    keys = {
        "width": case.shape[1],
        "height": case.shape[0],
        "depth": case.shape[2],
        "offset": 0,
        "data-length": rock.header.dtype.itemsize,
        "data-type": "unsigned",
        "byte-order": "dont-care" if rock.header.dtype.itemsize == 1 else "little-endian",
        "record-by": "vector",
        "ev-per-chan": 1000 * rock.header.energy_scale,
        "depth-scale": rock.header.energy_scale,
        "depth-origin": rock.header.energy_offset,
        "depth-units": "keV",
    }
    part.write_text("\n".join(["key\tvalue", *(f"{key}\t{value}" for key, value in keys.items())]) + "\n")


def _make_store(case: Case, part: Path) -> None:
    """Convert the rock, and save what later steps read."""
    ds = edc.convert(case.rock(), part, memory=case.memory, overwrite=True)
    nmf = edc.nmf(ds, n_components=N_PHASES, memory=case.memory)
    edc.save(nmf, part)
    phases = edc.segment_phases(nmf, memory=case.memory)
    edc.save(phases, part)
    edc.save(edc.separate_grains(phases, ds=ds, memory=case.memory), part)


def _make_hspy(case: Case, part: Path) -> None:
    import hyperspy.api as hs

    hs.load(case.path(RAW), lazy=True).save(part, overwrite=True, show_progressbar=False)


def _make_plain(case: Case, part: Path) -> None:
    import dask.array as da

    counts = da.from_array(raw_counts(case), chunks=(64, case.shape[1], -1))
    counts.rechunk((64, 64, -1)).to_zarr(str(part), overwrite=True)


def _make_learnt(case: Case, part: Path) -> None:
    nmf = edc.load(case.path(STORE), f"{schema.NMF}/k{N_PHASES}")
    edc.write_learning_results(nmf, part, overwrite=True, memory=case.memory)


_MAKE: dict[str, tuple[Callable[[Case, Path], None], tuple[str, ...]]] = {
    STORE: (_make_store, ()),
    RAW: (_make_raw, ()),
    HSPY: (_make_hspy, (RAW,)),
    PLAIN: (_make_plain, (RAW,)),
    LEARNT: (_make_learnt, (STORE,)),
}


def make(case: Case, kinds: Iterable[str]) -> None:
    """Make the forms of a map that are not there; each gets its name when it is whole."""
    for kind in kinds:
        maker, needs = _MAKE[kind]
        make(case, needs)
        path = case.path(kind)
        if not path.exists():
            part = path.with_name(f"part-{path.name}")
            if part.is_dir():
                shutil.rmtree(part)
            maker(case, part)
            os.replace(part, path)
