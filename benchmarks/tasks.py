"""What is measured: steps of the workflow on rocks of many sizes. Light, as both sides of a measurement import it."""

from __future__ import annotations

from dataclasses import dataclass

from eds_chunked import schema

DRAW = "draw"
CONVERT = "convert"
STEPS = (DRAW, CONVERT, *schema.STEPS)

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


@dataclass(frozen=True)
class Task:
    """One step on a synthetic rock of ``shape``, whose earlier results are in ``store``."""

    step: str
    store: str
    shape: tuple[int, int, int]
    counts: float
    memory: str
    passes: int


@dataclass(frozen=True)
class Measurement:
    """The best time of the passes, and resident memory before the first and at most."""

    step: str
    pixels: int
    seconds: float
    idle_bytes: int
    peak_bytes: int
