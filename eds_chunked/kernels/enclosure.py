"""Which regions of a partition lie wholly inside others: what a region touches on its outside."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

__all__ = ["outer_neighbours"]

Array = np.ndarray[Any, Any]


@njit(nogil=True, cache=True)
def outer_neighbours(start: Array, neighbour: Array, label: Array) -> tuple[Array, Array]:
    """Find the smallest and the largest label that each region touches, without what lies in its own holes.

    Regions are nodes of a graph, joined where they touch. Node 0 is what lies around the map. A neighbour of a region
    is in a hole of it where every way from the neighbour to node 0 leads through the region. In a depth-first search
    from node 0 that is a branch below the region from which no edge leads above it (the articulation points of Tarjan
    1972), so one walk over all edges answers it for every region.

    Parameters
    ----------
    start
        (nodes + 1,) int64: the neighbours of node i are ``neighbour[start[i]:start[i + 1]]``, each once.
    neighbour
        (edges in both directions,) int64.
    label
        (nodes,) int64.

    Returns
    -------
    smallest, largest
        (nodes,) int64. Of a region with one kind of neighbour around it both are the same. For node 0, and for a node
        that it does not reach, they say nothing.

    References
    ----------
    R. Tarjan, Depth-first search and linear graph algorithms, SIAM J. Comput. 1 (1972) 146.
    """
    n = len(label)
    none_low, none_high = np.int64(2**62), np.int64(-1)
    smallest, largest = np.full(n, none_low), np.full(n, none_high)
    # What was met below the branch that is being walked; it counts once the branch is known to lead above.
    smallest_below, largest_below = np.full(n, none_low), np.full(n, none_high)
    found, reach = np.full(n, -1, np.int64), np.zeros(n, np.int64)
    parent, at = np.full(n, -1, np.int64), start[:-1].copy()
    node, clock = np.int64(0), np.int64(1)
    found[0] = 0
    while node >= 0:
        if at[node] < start[node + 1]:
            other = neighbour[at[node]]
            at[node] += 1
            if found[other] < 0:
                parent[other] = node
                found[other] = reach[other] = clock
                clock += 1
                smallest_below[node], largest_below[node] = none_low, none_high
                node = other
            elif found[other] < found[node]:
                smallest[node] = min(smallest[node], label[other])
                largest[node] = max(largest[node], label[other])
                smallest_below[other] = min(smallest_below[other], label[node])
                largest_below[other] = max(largest_below[other], label[node])
                if other != parent[node]:
                    reach[node] = min(reach[node], found[other])
        else:
            above = parent[node]
            if above >= 0 and reach[node] < found[above]:
                smallest[above] = min(smallest[above], smallest_below[above])
                largest[above] = max(largest[above], largest_below[above])
                reach[above] = min(reach[above], reach[node])
            node = above
    return smallest, largest
