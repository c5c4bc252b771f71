"""Exclusive phases: at most one a pixel, by share of counts."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from eds_chunked import schema
from eds_chunked.errors import ParameterError

__all__ = ["MAX_PHASES", "check_decision", "exclusive_labels"]

Array = np.ndarray[Any, Any]

# Labels are uint8 with 0 and 255 taken.
MAX_PHASES = schema.MIXED - 1


def exclusive_labels(
    loadings: da.Array | Array, *, masks: da.Array | Array, factor_sums: Array, mixed_margin: float
) -> tuple[da.Array, da.Array]:
    """Give every pixel the phase that has most of its counts among the masks that hold it.

    The scale of a factor is arbitrary and its loading has the inverse of it, so loadings of two components do not
    compare. What does is the share of the model's counts: ``loading_k * sum(factor_k)`` over the sum of all components.
    The margin is the best share minus the second best, over all components. A pixel in no mask is unassigned, one in
    several masks with a margin under ``mixed_margin`` is mixed, and one without any counts in the model is unassigned,
    whatever hole of a mask it was filled with.

    Parameters
    ----------
    loadings
        (component, y, x). Negative values, NaN and infinities count as no signal.
    masks
        (component, y, x), bool.
    factor_sums
        (component,), the sum of every factor over energy, not negative.
    mixed_margin
        Margin under which overlapping masks do not decide, 0 to 1.

    Returns
    -------
    label : dask.array.Array
        (y, x), uint8, lazy: 0 unassigned, 1..n the phase, 255 mixed.
    margin : dask.array.Array
        (y, x), float32, lazy, 0 to 1, 0 where there are no counts.

    Raises
    ------
    ParameterError
        More than 254 components, a negative or non-finite factor sum, or a margin outside 0 to 1.

    Notes
    -----
    Memory: about 40 bytes a pixel of a block, for each thread, beside the block itself.
    """
    check_decision(factor_sums=factor_sums, mixed_margin=mixed_margin)
    loadings = da.asarray(loadings).rechunk({0: -1})
    masks = da.asarray(masks).rechunk(loadings.chunks)
    # Label and margin leave the kernel as one float32 block (labels up to 255 are exact), so that it runs once.
    both = da.map_blocks(
        _label_block,
        loadings,
        masks,
        factor_sums=factor_sums,
        mixed_margin=float(mixed_margin),
        chunks=((2,), *loadings.chunks[1:]),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    return both[0].astype(np.uint8), both[1]


def check_decision(*, factor_sums: Array, mixed_margin: float) -> None:
    """Raise ParameterError if labels cannot be decided with these numbers."""
    if len(factor_sums) > MAX_PHASES:
        raise ParameterError(
            "number of phases",
            found=len(factor_sums),
            expected=f"at most {MAX_PHASES}, as labels are one byte",
            fix="ask for fewer components, or select some: nmf.isel(component=slice(0, 20))",
        )
    wrong = ~(np.isfinite(factor_sums) & (factor_sums >= 0))
    if wrong.any():
        raise ParameterError(
            f"sum over energy of factor number {int(np.argmax(wrong)) + 1}",
            found=factor_sums[wrong][0],
            expected="a finite number of counts, not negative",
            fix="use the factors of eds_chunked.nmf, since shares of counts have no meaning for signed factors",
        )
    if not 0 <= mixed_margin <= 1:
        raise ParameterError(
            "mixed_margin",
            found=mixed_margin,
            expected="a share from 0 to 1",
            fix="mixed_margin=0.2, or 0 for no mixed",
        )


def _label_block(loadings: Array, masks: Array, *, factor_sums: Array, mixed_margin: float) -> Array:
    shape = loadings.shape[1:]
    total = np.zeros(shape)
    best, second, best_in_mask = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    winner = np.zeros(shape, np.uint8)
    n_masks = np.zeros(shape, np.uint8)
    for number, (loading, mask, factor_sum) in enumerate(zip(loadings, masks, factor_sums, strict=True), start=1):
        counts = np.where(np.isfinite(loading) & (loading > 0), loading, 0).astype(np.float64)
        counts *= factor_sum
        total += counts
        np.maximum(second, np.minimum(best, counts), out=second)
        np.maximum(best, counts, out=best)
        n_masks += mask
        # The first mask wins with any count, zero included; a later one must have more than the ones before it.
        wins = mask & ((winner == 0) | (counts > best_in_mask))
        winner[wins] = number
        best_in_mask[wins] = counts[wins]
    alive = total > 0
    margin = np.divide(best - second, total, out=np.zeros(shape), where=alive)
    winner[(n_masks > 1) & (margin < mixed_margin)] = schema.MIXED
    winner[~alive] = schema.UNASSIGNED
    return np.stack([winner, margin]).astype(np.float32)
