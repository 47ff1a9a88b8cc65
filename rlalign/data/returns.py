"""Discounted returns of trajectories that lie one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def returns_to_go(
    rewards: Array, ends: Array, discount: float, beyond: Array | float = 0.0
) -> Array:
    """Return the discounted sum of the rewards from each row to its trajectory's end.

    Args:
        rewards: [rows].
        ends: row after the last one of each trajectory, ascending; the last is the number of rows.
        discount: in [0, 1]; 0 gives the rewards themselves.
        beyond: return that follows each trajectory's last reward, [trajectories] or one for all.

    Returns:
        float32 [rows].
    """
    lengths = np.diff(ends, prepend=0)
    order = np.argsort(-lengths, kind="stable")
    lengths, ends = lengths[order], ends[order]
    result = np.empty(len(rewards), dtype=np.float32)
    tail = np.broadcast_to(np.asarray(beyond, np.float64), order.shape)[order].copy()
    # All trajectories at once, from their last rows backward; the short ones drop out.
    active = len(ends)
    for back in range(1, int(lengths[0]) + 1):
        while lengths[active - 1] < back:
            active -= 1
        rows = ends[:active] - back
        tail[:active] = rewards[rows] + discount * tail[:active]
        result[rows] = tail[:active]
    return result
