"""From a user's dask array back to a window on a store.

``ds.isel``, ``ds.sel`` and ``ds.chunk`` build dask graphs of their own. The engine does not run them: it runs the
graph once on :class:`Window` objects, which can only be sliced and joined with a neighbour. If one window comes out,
the graph was no more than a selection, and the engine reads the store itself, tile by tile.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any

import dask
import dask.array as da
import numpy as np

from eds_chunked.store.source import CountsSource


class NotAWindowError(Exception):
    """What was done to the counts is more than a selection."""


@dataclass(frozen=True)
class Window:
    """The box ``start : stop`` (y, x, energy) of a source."""

    source: CountsSource
    start: tuple[int, int, int]
    stop: tuple[int, int, int]

    # Above NumPy's and dask's own, so that joining arrays comes to __array_function__.
    __array_priority__ = 1e6

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(b - a for a, b in zip(self.start, self.stop, strict=True))

    @property
    def ndim(self) -> int:
        return 3

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    def __getitem__(self, key: Any) -> Window:
        key = key if isinstance(key, tuple) else (key,)
        if len(key) > 3 or not all(isinstance(k, slice) and k.step in (None, 1) for k in key):
            raise NotAWindowError
        start, stop = list(self.start), list(self.stop)
        for axis, k in enumerate(key):
            first, last, _ = k.indices(self.shape[axis])
            start[axis], stop[axis] = self.start[axis] + first, self.start[axis] + max(first, last)
        return Window(self.source, (start[0], start[1], start[2]), (stop[0], stop[1], stop[2]))

    def __array__(self, *args: Any, **kwargs: Any) -> np.ndarray[Any, Any]:
        raise NotAWindowError

    def __array_ufunc__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotAWindowError

    def __array_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Window:
        if function is not np.concatenate:
            raise NotAWindowError
        axis = kwargs.get("axis", args[1] if len(args) > 1 else 0)
        if axis is None:
            raise NotAWindowError
        return join(args[0], axis % 3)


def join(parts: Sequence[Any], axis: int) -> Window:
    """Join windows that lie one after the other along ``axis``."""
    for left, right in pairwise(parts):
        continues = isinstance(left, Window) and isinstance(right, Window) and left.source == right.source
        if not continues or any(
            right.start[i] != (left.stop[i] if i == axis else left.start[i])
            or (i != axis and right.stop[i] != left.stop[i])
            for i in range(3)
        ):
            raise NotAWindowError
    if not isinstance(parts[0], Window):
        raise NotAWindowError
    return replace(parts[0], stop=parts[-1].stop)


def find_window(array: da.Array) -> Window | None:
    """Return the window of a store that ``array`` is, or None if it is anything else."""
    graph = dict(array.__dask_graph__())
    sources = {key: node for key, node in graph.items() if isinstance(node, CountsSource)}
    if not sources:
        return None
    for key, source in sources.items():
        graph[key] = Window(source, (0, 0, 0), source.shape)
    numbers = [range(n) for n in array.numblocks]
    try:
        keys = [(array.name, *index) for index in product(*numbers)]
        blocks = dask.get(graph, keys, callbacks=[_ONLY_WINDOWS])
        window = _join_all(_nested(blocks, array.numblocks), 0)
    except Exception:
        # Whatever a user's function raises when it meets a window: it is no selection.
        return None
    # A function that lies about its chunks is no selection either.
    return window if window.shape == array.shape else None


def _check_result(key: Any, result: Any, *state: Any) -> None:
    if not isinstance(result, Window):
        raise NotAWindowError


# dask's (start, start_state, pretask, posttask, finish): the first result that is no window ends the run.
_ONLY_WINDOWS = (None, None, None, _check_result, None)


def _nested(blocks: Sequence[Any], numblocks: tuple[int, ...]) -> Any:
    if len(numblocks) == 0:
        return blocks[0]
    step = len(blocks) // numblocks[0]
    return [_nested(blocks[i * step : (i + 1) * step], numblocks[1:]) for i in range(numblocks[0])]


def _join_all(blocks: Any, axis: int) -> Window:
    return join(blocks, axis) if axis == 2 else join([_join_all(part, axis + 1) for part in blocks], axis)
