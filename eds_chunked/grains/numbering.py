"""The last pass over the grains of a map: final numbers, who touches whom, and sums of what is known of pixels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from eds_chunked.engine.lazy_maps import piece
from eds_chunked.grains.measure import GrainShapes

__all__ = ["BLOCK_BYTES", "Numbered", "number_grains", "put_window"]

Array = np.ndarray[Any, Any]

_SIDE = 1024
BLOCK_BYTES = 48 * _SIDE**2
"""Memory of a block of the pass."""


class Numbered(NamedTuple):
    """Of grains (n,) in the order of their final numbers: grains beside them, and counts where they are known."""

    order: Array
    n_neighbours: Array
    total_counts: Array | None


def put_window(target: Any, ys: slice, xs: slice, grain: Array, *, above: int) -> None:
    """Put the grains of a window on the map, with numbers from ``above`` + 1; pixels of others stay as they are."""
    part = np.asarray(target[ys, xs])
    np.copyto(part, grain + np.int32(above), where=grain > 0)
    target[ys, xs] = part


def number_grains(target: Any, shapes: GrainShapes, *, above: int, counts: Any | None) -> Numbered:
    """Give grains their final numbers on the map: by phase, then in raster order of their first pixels.

    Parameters
    ----------
    target
        (y, x) int32, with numbers ``above`` + 1 and on in the order of ``shapes``; changed in place, block by block.
    shapes
        The grains.
    above
        Number of grains that are there already, on other layers.
    counts
        (y, x) counts of the pixels, lazy or in memory, or None.
    """
    n = len(shapes)
    order = np.lexsort((*reversed(shapes.first), shapes.phase))
    final = np.zeros(n + 1, np.int32)
    final[order + 1] = np.arange(1, n + 1, dtype=np.int32)
    pairs = [np.empty(0, np.int64)]
    total = np.zeros(n + 1, np.uint64)
    for ys, xs in _blocks(*target.shape):
        # The pixels below and to the right have their old numbers still.
        part = np.asarray(target[ys.start : ys.stop + 1, xs.start : xs.stop + 1])
        part = final[np.where(part > 0, part - np.int32(above), np.int32(0))]
        block = part[: ys.stop - ys.start, : xs.stop - xs.start]
        sides = ((part[:-1], part[1:]), (part[:, :-1], part[:, 1:]))
        pairs += [_touching(one[:_SIDE, :_SIDE], other[:_SIDE, :_SIDE], n) for one, other in sides]
        if counts is not None:
            np.add.at(total, block.ravel(), piece(counts, ys, xs).ravel().astype(np.uint64))
        target[ys, xs] = np.where(block > 0, block + np.int32(above), np.int32(0))
    one, other = np.divmod(np.unique(np.concatenate(pairs)), n + 1)
    beside = np.bincount(one, minlength=n + 1) + np.bincount(other, minlength=n + 1)
    return Numbered(order, beside[1:], None if counts is None else total[1:])


def _blocks(n_rows: int, n_columns: int) -> Iterator[tuple[slice, slice]]:
    for y in range(0, n_rows, _SIDE):
        for x in range(0, n_columns, _SIDE):
            yield slice(y, min(y + _SIDE, n_rows)), slice(x, min(x + _SIDE, n_columns))


def _touching(one: Array, other: Array, n: int) -> Array:
    """Return a number for each different pair of grains."""
    differ = (one != other) & (one > 0) & (other > 0)
    low, high = np.minimum(one[differ], other[differ]), np.maximum(one[differ], other[differ])
    return np.unique(low.astype(np.int64) * (n + 1) + high)
