"""All who take part, in the order of the tables."""

from __future__ import annotations

from benchmarks import limits, ours, peers
from benchmarks.contest import Contestant

_BY_STEP = {step: i for i, step in enumerate(dict.fromkeys(one.step for one in (*limits.LIMITS, *ours.STEPS)))}

CONTESTANTS: dict[tuple[str, str], Contestant] = {
    (one.step, one.side): one
    for one in sorted((*limits.LIMITS, *ours.STEPS, *peers.PEERS), key=lambda one: _BY_STEP[one.step])
}
STEPS = tuple(_BY_STEP)
PEER_NAMES = tuple(dict.fromkeys(one.side for one in peers.PEERS))
