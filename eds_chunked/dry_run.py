"""What a step would do: how often it reads what, the memory it plans for, and the bytes it writes.

A dry run is the run itself up to the plan that it makes before its first pass. So it tells the very plan that a run
goes by, and is refused where the run would be.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from eds_chunked.errors import ParameterError
from eds_chunked.memory import Plan, format_size, listener


class _Stopped(BaseException):
    """Ends a step at its plan; no Exception, which a step might handle."""


class _Notes:
    """Notes the plans that it hears of; where it ``stops``, steps end where they would begin."""

    def __init__(self, *, stops: bool) -> None:
        self.stops = stops
        self.plans: list[Plan] = []

    def __call__(self, plan: Plan) -> None:
        self.plans.append(plan)
        if self.stops and not plan.goes_on:
            raise _Stopped


@contextmanager
def noted_plans(*, stop: bool = False) -> Iterator[list[Plan]]:
    """Give a list that gets the plans which are made within; with ``stop`` the block ends where a step would begin."""
    notes = _Notes(stops=stop)
    before = listener.set(notes)
    try:
        yield notes.plans
    except _Stopped:
        pass
    finally:
        listener.reset(before)


def tell(plan: Plan, *, goes_on: bool) -> None:
    """Have a plan noted that was made elsewhere."""
    heard = listener.get()
    if heard is not None:
        heard(replace(plan, goes_on=goes_on))


def is_dry() -> bool:
    """Tell whether the step that asks will end at its plan, and must leave everything as it is."""
    heard = listener.get()
    return isinstance(heard, _Notes) and heard.stops


@dataclass(frozen=True)
class Reading:
    """What is read: its pieces (tiles, chunks, files), their bytes as stored, and how many times.

    ``most_passes`` is more than ``passes`` where only the counts tell how often.
    """

    what: str
    pieces: int
    stored_bytes: int
    passes: int
    most_passes: int

    def __str__(self) -> str:
        times = f"{self.passes} to {self.most_passes}" if self.most_passes > self.passes else str(self.passes)
        passes = "pass" if self.most_passes == 1 else "passes"
        return f"{self.pieces}, {format_size(self.stored_bytes)}, {times} {passes}"


@dataclass(frozen=True)
class PlannedStep:
    """What a step would do; bytes.

    ``idle_bytes`` is the process before the step and a reserve, ``fixed_bytes`` what the step holds once and
    ``worker_bytes`` what it holds for each block in work. Together they are ``peak_bytes``, the projected peak of the
    resident memory of the whole process. ``written_bytes`` are those that are written before they are compressed.
    """

    what: str
    reads: tuple[Reading, ...]
    workers: int
    idle_bytes: int
    fixed_bytes: int
    worker_bytes: int
    peak_bytes: int
    budget_bytes: int
    written_bytes: int

    @classmethod
    def of(cls, plan: Plan) -> PlannedStep:
        reads = []
        for read in plan.reads:
            stored = read.stored()
            reads.append(Reading(read.what, *stored, read.passes, read.most or read.passes))
        return cls(
            what=plan.need.what,
            reads=tuple(reads),
            workers=plan.workers,
            idle_bytes=plan.idle,
            fixed_bytes=plan.need.fixed,
            worker_bytes=plan.need.per_worker,
            peak_bytes=plan.peak,
            budget_bytes=plan.limit,
            written_bytes=plan.writes,
        )

    @property
    def read_bytes(self) -> int:
        """Bytes that are read at least, all passes together."""
        return sum(read.passes * read.stored_bytes for read in self.reads)

    @property
    def most_read_bytes(self) -> int:
        """Bytes that are read at most."""
        return sum(read.most_passes * read.stored_bytes for read in self.reads)

    def facts(self) -> list[tuple[str, str]]:
        """Return labels and values, for people."""
        return [
            *((read.what, str(read)) for read in self.reads),
            ("bytes read", _span(self.read_bytes, self.most_read_bytes)),
            (
                "peak memory",
                f"{format_size(self.peak_bytes)} of {format_size(self.budget_bytes)}: {format_size(self.idle_bytes)} "
                f"the program, {format_size(self.fixed_bytes)} once, {format_size(self.worker_bytes)} a worker",
            ),
            ("workers", str(self.workers)),
            *([("writes", f"at most {format_size(self.written_bytes)}")] if self.written_bytes else []),
        ]

    def __str__(self) -> str:
        facts = self.facts()
        width = max(len(label) for label, _ in facts)
        return "\n".join([self.what, *(f"  {label:<{width}}  {value}" for label, value in facts)])


def _span(least: int, most: int) -> str:
    return format_size(least) if most == least else f"{format_size(least)} to {format_size(most)}"


@dataclass(frozen=True)
class DryRun:
    """What a call would do, step by step; ``print`` it, or take ``to_dict``.

    There is no step where there is nothing to do, such as to resume a conversion that is whole.
    """

    steps: tuple[PlannedStep, ...]

    @property
    def peak_bytes(self) -> int:
        """Projected peak of the resident memory of the whole process."""
        return max((step.peak_bytes for step in self.steps), default=0)

    @property
    def read_bytes(self) -> int:
        """Bytes that are read at least."""
        return sum(step.read_bytes for step in self.steps)

    @property
    def written_bytes(self) -> int:
        """Bytes that are written at most."""
        return sum(step.written_bytes for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Return numbers and texts only, as JSON has them."""
        totals = {name: getattr(self, name) for name in ("peak_bytes", "read_bytes", "written_bytes")}
        return {"steps": [asdict(step) | {"read_bytes": step.read_bytes} for step in self.steps], **totals}

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps)) or "nothing to do"

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>\n{self}"


def plan(step: Callable[..., Any], /, *given: Any, **parameters: Any) -> DryRun:
    """Plan a call of a step without making it: passes, bytes read, projected peak memory, bytes written.

    All is checked that the call would check before its first pass, and refused alike. Nothing is written. Some counts
    may be looked at, as the step does to choose its way.

    Parameters
    ----------
    step
        A function of this package that takes ``memory``: :func:`eds_chunked.pca`, :func:`eds_chunked.convert` ...
    given, parameters
        Its arguments.

    Raises
    ------
    ParameterError
        The function does not plan its memory.
    EdsError
        What the call would raise.

    Examples
    --------
    >>> import eds_chunked as edc
    >>> ds = edc.open("map.zarr")  # doctest: +SKIP
    >>> edc.plan(edc.pca, ds, n_components=20, memory="1GB").peak_bytes  # doctest: +SKIP
    612000000
    """
    if "memory" not in inspect.signature(step).parameters:
        raise ParameterError(
            "step to plan",
            found=getattr(step, "__name__", repr(step)),
            expected="a step that takes a budget, memory=...",
            fix="plan(pca, ds, n_components=20)",
        )
    with noted_plans(stop=True) as made:
        step(*given, **parameters)
    return dry_run_of(made)


def dry_run_of(plans: list[Plan]) -> DryRun:
    """Return what plans say, and find out how much there is to read."""
    return DryRun(tuple(map(PlannedStep.of, plans)))
