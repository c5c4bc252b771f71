"""Maps of labels or masks while they are read: of each lane its pixels, as numbers of the rows of a table."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from eds_chunked.engine.lazy_maps import piece
from eds_chunked.errors import ParameterError

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LabelRows:
    """Which labels are rows of a table: ``ids``, in the order of the table."""

    ids: Array

    def of(self, labels: Array) -> Array:
        """Return the row of each of some labels, int64, -1 where it has none."""
        known, order = self._known
        if known[-1] - known[0] == len(known) - 1:
            at = np.asarray(labels, np.int64) - known[0]
            found = (at >= 0) & (at < len(known))
        else:
            at = np.minimum(np.searchsorted(known, labels), len(known) - 1)
            found = known[at] == labels
        return np.where(found, order[np.where(found, at, 0)], -1)

    @cached_property
    def _known(self) -> tuple[Array, Array]:
        """The ids, rising, and the row of each."""
        order = np.argsort(self.ids, kind="stable")
        return np.asarray(self.ids, np.int64)[order], order


@dataclass(frozen=True)
class LabelMap:
    """Labels (y, x), lazy or in memory, of which some are rows of a table."""

    values: Any
    rows: LabelRows
    y0: int = 0
    x0: int = 0

    def of(self, ys: slice, xs: slice) -> LabelMap:
        """Return the part of the map that a task needs."""
        part = self.values[ys.start - self.y0 : ys.stop - self.y0, xs.start - self.x0 : xs.stop - self.x0]
        return replace(self, values=part, y0=ys.start, x0=xs.start)

    def labels(self, ys: slice, xs: slice) -> Array:
        """Return the labels of a box (y, x)."""
        return piece(self.of(ys, xs).values)

    def of_pixels(self, ys: slice, xs: slice) -> Array:
        """Return the row of each pixel of a box (y, x) int64, -1 where it has none."""
        return self.rows.of(self.labels(ys, xs))


def check_labels(name: str, dtype: np.dtype[Any], meaning: str) -> None:
    """Raise ParameterError for labels that are not whole numbers."""
    if dtype.kind not in "ui":
        raise ParameterError(
            f"variable {name!r}",
            found=f"dtype {dtype}",
            expected=f"whole numbers: {meaning}",
            fix="pass what the step returned, or .astype('int32')",
        )
