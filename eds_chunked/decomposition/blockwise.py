"""Full batches: passes over a map, or over a sample in memory, that improve the factors of all restarts at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from eds_chunked.decomposition.losses import FactorSums, Loss
from eds_chunked.decomposition.sample import Draw
from eds_chunked.engine.blocks import Block, Blocks, Lane
from eds_chunked.engine.lanes import run_pass
from eds_chunked.in_order import in_order
from eds_chunked.kernels.sparse import Csr, take_pixels
from eds_chunked.memory import Plan

Array = np.ndarray[Any, Any]
Sums = tuple[FactorSums, ...]

_PIECE = 8192
"""Pixels of a sample that are summed at once."""


@dataclass(frozen=True)
class FactorWork:
    """Sums over a lane what improves each of several sets of factors; pixels that are held out are left aside."""

    loss: Loss
    factors: tuple[Array, ...]
    draw: Draw

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> Sums:
        total: Sums = ()
        for block in blocks:
            kept = np.flatnonzero(~self.draw.held_out(self.draw.keys(block)))
            counts = take_pixels(block.counts, kept) if len(kept) < block.counts.n_pixels else block.counts
            sums = tuple(self.loss.sums(counts, factors) for factors in self.factors)
            total = join_sums(total, sums) if total else sums
        return total


def join_sums(total: Sums, lane: Sums) -> Sums:
    """Add the sums of two lanes."""
    return tuple(mine.plus(its) for mine, its in zip(total, lane, strict=True))


Improved = list[tuple[Array, float]]
"""Better factors, and what those before them leave unexplained, of each restart."""


def improve_on_map(blocks: Blocks, loss: Loss, factors: Sequence[Array], draw: Draw, *, how: Plan) -> Improved:
    """Improve sets of factors by one pass over the map."""
    return _improved(loss, factors, run_pass(blocks, FactorWork(loss, tuple(factors), draw), join_sums, plan=how))


def improve_on_sample(counts: Csr, loss: Loss, factors: Sequence[Array], *, workers: int) -> Improved:
    """Improve sets of factors by one pass over pixels in memory."""

    def sums(first: int) -> Sums:
        part = take_pixels(counts, np.arange(first, min(first + _PIECE, counts.n_pixels)))
        return tuple(loss.sums(part, one) for one in factors)

    return _improved(
        loss, factors, reduce(join_sums, in_order(sums, range(0, counts.n_pixels, _PIECE), workers=workers))
    )


def _improved(loss: Loss, factors: Sequence[Array], sums: Sums) -> Improved:
    return [
        (loss.improve(old, its), float(its.objective[0] / its.objective[1]))
        for old, its in zip(factors, sums, strict=True)
    ]
