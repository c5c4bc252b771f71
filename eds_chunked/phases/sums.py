"""Phase spectra: one pass that sums the counts of each phase."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import numpy as np
import xarray as xr

from eds_chunked import schema
from eds_chunked.decomposition.result import check_same_axes
from eds_chunked.engine.blocks import Block, Blocks, Lane, blocks_of
from eds_chunked.engine.lanes import run_pass
from eds_chunked.engine.output import changed
from eds_chunked.errors import ParameterError, StaleResultError
from eds_chunked.kernels.reduce import mask_sums
from eds_chunked.memory import Need, plan
from eds_chunked.store.provenance import result_attributes

Array = np.ndarray[Any, Any]


def phase_spectra(
    ds: xr.Dataset,
    *,
    phases: xr.Dataset,
    source: Literal["label", "mask"] = "label",
    memory: str | int | None = None,
) -> xr.Dataset:
    """Sum the counts of each phase; computes, one pass for any number of phases.

    Blocks are added up as they are read: nothing of shape (phase, y, x, energy) ever exists. Sums are exact.

    Parameters
    ----------
    ds
        Map with ``counts`` (y, x, energy), on the pixels of ``phases``; its energy window may be another one. Pixels
        that :func:`eds_chunked.exclude` leaves out add nothing and are not counted; channels that it leaves out are
        summed all the same, so that a spectrum is whole.
    phases
        Result of :func:`eds_chunked.segment_phases`.
    source
        ``"label"`` sums exclusive phases (mixed and unassigned pixels belong to none), ``"mask"`` the masks by
        threshold, which may overlap.
    memory
        Budget for the resident memory of the whole process, such as ``"1GB"``.

    Returns
    -------
    Dataset with ``spectrum`` (phase, energy), uint64 for integer counts, and ``n_pixels`` (phase).

    Raises
    ------
    ChunkLayoutError
        ``phases`` is on another grid than ``ds``.
    StaleResultError
        ``phases`` was made from another map.

    Notes
    -----
    Memory: the masks, one byte a pixel and phase, and one block for each worker.
    """
    if source not in (schema.LABEL, schema.MASK):
        raise ParameterError("source", found=repr(source), expected="'label' or 'mask'", fix="source='label'")
    schema.require(ds, schema.COUNTS)
    schema.require(phases, schema.LABEL, schema.MASK)
    _check_same_grid(ds, phases)
    blocks = blocks_of(ds).of_all_channels()
    numbers = phases[schema.PHASE].values
    how = plan(_need(blocks, len(numbers)), memory=memory)
    if source == schema.LABEL:
        label = phases[schema.LABEL].values
        member = np.stack([label == number for number in numbers])
    else:
        member = phases[schema.MASK].values
    if blocks.pixels is not None:
        member = member & blocks.pixels.used
    sums = run_pass(blocks, _PhaseSums(member), np.add, plan=how)
    parameters = {"source": source} | changed(ds, blocks)
    return xr.Dataset(
        {
            schema.SPECTRUM: ((schema.PHASE, schema.ENERGY), sums, schema.attributes(schema.SPECTRUM)),
            schema.N_PIXELS: (schema.PHASE, member.sum(axis=(1, 2)), schema.attributes(schema.N_PIXELS)),
        },
        coords={schema.PHASE: numbers, schema.ENERGY: ds[schema.ENERGY]},
        attrs=result_attributes(phases, schema.SPECTRA, parameters, blocks.identity),
    )


@dataclass(frozen=True)
class _PhaseSums:
    """Sums the counts of a lane under each of the masks (phase, y, x)."""

    member: Array

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> Array:
        sums = (
            mask_sums(block.counts, self.member[:, block.ys, block.xs].reshape(len(self.member), -1))
            for block in blocks
        )
        return np.asarray(reduce(np.add, sums))


def _need(blocks: Blocks, n_phases: int) -> Need:
    table = 8 * n_phases * blocks.n_channels
    return Need("spectra", 3 * n_phases * blocks.n_pixels + 3 * table, blocks.bytes_of_a_block + 2 * table)


def _check_same_grid(ds: xr.Dataset, phases: xr.Dataset) -> None:
    check_same_axes(ds, phases, what="phases")
    if phases.attrs.get(schema.FINGERPRINT) != ds.attrs.get(schema.FINGERPRINT):
        raise StaleResultError(
            "phases",
            found="phases of another map, or of this one before it was calibrated",
            expected="phases of this map",
            fix="run nmf and segment_phases again",
        )
