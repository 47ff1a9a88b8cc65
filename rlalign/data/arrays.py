"""A dataset from arrays in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlalign.data.checks import Array, Source
from rlalign.data.dataset import Dataset
from rlalign.data.packing import pack
from rlalign.errors import DatasetError

# D4RL's layout has its own names for the two kinds of end.
NAMES = {"terminals": "terminations", "timeouts": "truncations"}
MARKING = "pass `truncations`, true in the last row of each episode that was cut off"


def from_arrays(
    given: Mapping[str, Any],
    *,
    name: str,
    environment: str | None,
    action_low: Any,
    action_high: Any,
    reference: tuple[float, float] | None,
) -> Dataset:
    """Make a dataset from arrays by D4RL's keys; see `Dataset.from_arrays`."""
    arrays = {key: _array(name, key, value) for key, value in given.items() if value is not None}
    packed = pack(Source(name, arrays, MARKING, NAMES))
    low, high = _bounds(name, action_low, action_high, packed.layout.action_size)
    left_out = packed.left_out
    return Dataset(
        table=packed.table,
        layout=packed.layout,
        ends=packed.ends,
        name=name,
        environment=environment,
        action_low=low,
        action_high=high,
        reference=_reference(name, reference),
        metadata={} if left_out is None else {"rows_without_successor": left_out},
    )


def _array(name: str, key: str, values: Any) -> Array:
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise DatasetError(f"{name}: {NAMES.get(key, key)!r} is not an array ({error})") from error


def _bounds(name: str, low: Any, high: Any, size: int) -> tuple[Array | None, Array | None]:
    """Return the bounds of actions, one number for all of them or [size] each."""
    if low is None and high is None:
        return None, None
    try:
        both = [np.broadcast_to(np.asarray(one, np.float32), (size,)).copy() for one in (low, high)]
    except (ValueError, TypeError):
        both = []
    if not both or not np.isfinite(both).all() or not (both[0] < both[1]).all():
        raise DatasetError(
            f"{name}: action_low and action_high must be finite numbers, one or {size} each, the "
            f"lower ones below the higher ones, got {low} and {high}"
        )
    return both[0], both[1]


def _reference(name: str, reference: Any) -> tuple[float, float] | None:
    if reference is None:
        return None
    try:
        random, expert = map(float, reference)
    except (ValueError, TypeError):
        random = expert = 0.0
    if not (np.isfinite([random, expert]).all() and random != expert):
        raise DatasetError(
            f"{name}: reference must be the different returns of a random and an expert policy, "
            f"got {reference}"
        )
    return random, expert
