"""Exclusive phases: at most one a pixel, by share of counts."""

from __future__ import annotations

from typing import Any

import dask.array as da
import numpy as np

from eds_chunked import schema
from eds_chunked.errors import ChunkLayoutError, ParameterError
from eds_chunked.kernels.shares import decide_by_share

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
    ChunkLayoutError
        ``masks`` and ``loadings`` are on different grids.
    ParameterError
        More than 254 components, a negative or non-finite factor sum, or a margin outside 0 to 1.

    Notes
    -----
    Memory: 18 bytes a pixel of a block, for each thread, beside the block itself.
    """
    check_decision(factor_sums=factor_sums, mixed_margin=mixed_margin)
    loadings = da.asarray(loadings)
    masks = da.asarray(masks)
    if masks.shape != loadings.shape:
        raise ChunkLayoutError(
            "masks",
            found=f"{masks.shape} (component, y, x)",
            expected=f"{loadings.shape}, as the loadings have",
            fix="make the masks from these loadings, and select rows and columns of both alike",
        )
    loadings = loadings.rechunk({0: -1})
    masks = masks.rechunk(loadings.chunks)
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
    # A copy, since a view of one map would keep the block with both alive.
    return both[0].astype(np.uint8), both[1].map_blocks(np.copy, dtype=np.float32, meta=np.empty((0, 0), np.float32))


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
    n, *shape = loadings.shape
    label, margin = decide_by_share(
        loadings.reshape(n, -1),
        masks.reshape(n, -1),
        factor_sums,
        mixed_margin=mixed_margin,
        mixed=schema.MIXED,
    )
    # Label and margin leave as one float32 block (labels up to 255 are exact), so that the work is done once.
    return np.stack([label, margin], dtype=np.float32).reshape(2, *shape)
