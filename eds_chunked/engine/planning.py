"""The door through which every step comes to its plan: whose memory it will use, and how many blocks are in work.

Steps and the engine ask here and not :mod:`eds_chunked.memory`, which knows this process only.
"""

from __future__ import annotations

from eds_chunked import memory as machine
from eds_chunked.memory import Budget, Need, Plan


def budget(memory: str | int | None = None) -> Budget:
    """Return the budget of the process that does the work of a pass."""
    return machine.budget(memory)


def plan(need: Need, *, memory: str | int | None = None, max_workers: int | None = None) -> Plan:
    """Decide how many workers a step has; raise MemoryBudgetError if not even one fits."""
    return budget(memory).plan(need, max_workers=max_workers)
