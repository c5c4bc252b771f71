"""What takes part: who does which step, on what, and how its result is judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.rocks import STORE, Case

Run = Callable[[], Any]
Quality = dict[str, float]

OURS = "eds_chunked"
LIMIT = "limit"


def unjudged(case: Case, found: Any) -> Quality:
    """Judge nothing."""
    return {}


@dataclass(frozen=True)
class Contestant:
    """One side doing one step.

    ``prepare`` opens what the step reads and returns the step itself, which is what the clock sees; ``judge`` compares
    what came out with the truth, afterwards. ``needs`` are forms of the map, ``packages`` what must be installed.
    """

    step: str
    side: str
    prepare: Callable[[Case], Run]
    settings: str
    judge: Callable[[Case, Any], Quality] = unjudged
    needs: tuple[str, ...] = (STORE,)
    packages: tuple[str, ...] = ()

    @property
    def is_peer(self) -> bool:
        return self.side not in (OURS, LIMIT)
