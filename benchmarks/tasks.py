"""What is measured: steps on synthetic rocks of many sizes. Light, as both sides of a measurement import it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from eds_chunked import schema

DRAW = "draw"
CONVERT = "convert"
STEPS = (DRAW, CONVERT, *schema.RUN_STEPS)

NEEDS: dict[str, tuple[str, ...]] = {
    DRAW: (),
    CONVERT: (),
    schema.PCA: (CONVERT,),
    schema.NMF: (CONVERT,),
    schema.PHASES: (CONVERT, schema.NMF),
    schema.SPECTRA: (CONVERT, schema.NMF, schema.PHASES),
    schema.GRAINS: (CONVERT, schema.NMF, schema.PHASES),
}
"""Steps whose results must be in the store before a step."""

GEMM, SYRK = "gemm", "syrk"
NMF_FROBENIUS, NMF_POISSON = "nmf-frobenius", "nmf-poisson"
RESIDUAL = "residual"
OURS = (schema.PCA, schema.NMF, NMF_FROBENIUS, NMF_POISSON, RESIDUAL)
HYPERSPY_PCA, HYPERSPY_NMF = "hyperspy-pca", "hyperspy-nmf"
HYPERSPY = (HYPERSPY_PCA, HYPERSPY_NMF)
DECOMPOSITIONS = (GEMM, SYRK, *OURS, *HYPERSPY)
"""Those of the benchmark of decompositions, in the order of its tables."""

PREPARE, PREPARE_HYPERSPY = "prepare", "prepare-hyperspy"
"""Make what the steps of a size read, and are not measured."""

TINY = (72, 80)
"""Rows and columns of the map that a process takes through a step first: two tiles a side, so that joining blocks is
warm as well."""


@dataclass(frozen=True)
class Task:
    """One step on a synthetic rock of ``shape``, whose earlier results are in ``store``."""

    step: str
    store: str
    shape: tuple[int, int, int]
    counts: float
    memory: str
    passes: int

    def at(self, rows: int, columns: int) -> Task:
        """Return the same task on a rock of another size, whose store lies beside this one."""
        store = Path(self.store).with_name(f"rock-{rows}x{columns}x{self.shape[2]}-{self.counts:g}.zarr")
        return replace(self, store=str(store), shape=(rows, columns, self.shape[2]))


@dataclass(frozen=True)
class Measurement:
    """The best time of the passes, and resident memory before the first and at most."""

    step: str
    pixels: int
    seconds: float
    idle_bytes: int
    peak_bytes: int


@dataclass(frozen=True)
class Lap:
    """One run of a step in a process of its own; ``ended`` says why where it did not come to its end.

    ``first_seconds`` are those of the process's first call, on a tiny map; ``map_passes`` tells how often the pixels of
    the map were read.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    idle_bytes: int = 0
    peak_bytes: int = 0
    first_seconds: float = 0.0
    map_passes: float = 0.0
    ended: str = ""
