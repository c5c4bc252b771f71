"""One pass for the counts of each channel, which Poisson scaling needs before anything else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eds_chunked.engine.blocks import Block, Blocks, Lane
from eds_chunked.engine.lanes import run_pass
from eds_chunked.kernels.reduce import channel_sums
from eds_chunked.memory import Plan

Array = np.ndarray[Any, Any]


def sum_channels(blocks: Blocks, *, how: Plan) -> Array:
    """Return the counts of each channel over the analysed pixels, float64 (channels,)."""
    total: Array = run_pass(blocks, _ChannelSumsWork(blocks.n_channels), np.add, plan=how)
    return total


@dataclass(frozen=True)
class _ChannelSumsWork:
    n_channels: int

    def __call__(self, lane: Lane, blocks: Iterator[Block]) -> Array:
        total = np.zeros(self.n_channels)
        for block in blocks:
            total += channel_sums(block.counts)
        return total
