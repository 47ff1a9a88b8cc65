"""Arrays in D4RL's layout packed block by block into one table, and where trajectories end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rlalign.data.checks import Array, Source, check_shapes, read_finite, read_flags
from rlalign.data.d4rl import Task
from rlalign.errors import DatasetError
from rlalign.layout import Layout

BLOCK_BYTES = 8 << 20
# An ant covers at most about half a metre in one step of a maze; a reset moves it further.
MAZE_JUMP = 1.0
CONTINUOUS = 1e-5  # next observation and following observation may differ by this, relatively


@dataclass(frozen=True)
class Packed:
    """What becomes a `Dataset`.

    Args:
        table: rows [transitions, layout.width], float32.
        layout: where each column lies.
        ends: row after the last one of each trajectory.
        left_out: rows without a successor, None where successors are given.
    """

    table: torch.Tensor
    layout: Layout
    ends: Array
    left_out: int | None


@dataclass(frozen=True)
class Episodes:
    """Where trajectories end in the arrays and which of their rows become transitions.

    Args:
        keep: rows with a known next observation [rows], bool.
        last: rows that end a trajectory [rows], bool.
    """

    keep: Array
    last: Array


def pack(source: Source, task: Task | None = None, horizon: int | None = None) -> Packed:
    """Check arrays and pack them; see `rlalign.data.hdf5.read_hdf5` for which rows are kept.

    Args:
        source: the arrays.
        task: D4RL task they belong to.
        horizon: steps after which episodes were cut, where there are no ``timeouts``.

    Raises:
        DatasetError: if an array is missing, of another shape or dtype, or holds NaN, or if nothing
            tells where episodes end.
    """
    count, sizes = check_shapes(source)
    rebuilt = "next_observations" not in source
    episodes = _episodes(source, task, horizon, rebuilt)
    layout = Layout(sizes.pop("observations"), sizes.pop("actions"), sizes)
    kept = int(episodes.keep.sum())
    if kept == 0:
        raise DatasetError(f"{source.where}: no row has a successor, so there are no transitions")
    table = allocate(source.where, kept, layout.width)
    _fill(source, table.numpy(), layout, episodes)
    _require_ends(episodes.last, source, horizon)
    ends = np.flatnonzero(episodes.last[episodes.keep]) + 1
    if len(ends) == 0 or ends[-1] != kept:
        ends = np.append(ends, kept)
    return Packed(table, layout, ends, count - kept if rebuilt else None)


def allocate(where: str, rows: int, width: int) -> torch.Tensor:
    """An empty table [rows, width]; raises DatasetError, naming `where`, for more than fits."""
    try:
        return torch.empty(rows, width)
    except (RuntimeError, MemoryError, TypeError) as error:  # TypeError: beyond 64 bits
        raise DatasetError(
            f"{where}: its {rows:,} transitions need {rows * width * 4 / 1e9:.1f} GB of memory, "
            "which this machine does not have"
        ) from error


def _require_ends(last: Array, source: Source, horizon: int | None) -> None:
    if not last.any() and "timeouts" not in source and horizon is None:
        raise DatasetError(
            f"{source.where}: no row is marked in {source.called('terminals')} and there is no "
            f"{source.called('timeouts')}, so nothing tells where episodes end; {source.marking}"
        )


def _episodes(source: Source, task: Task | None, horizon: int | None, rebuilt: bool) -> Episodes:
    """Find the rows that end a trajectory by the flags, and those that can be kept."""
    terminals = read_flags(source, "terminals")
    if "timeouts" in source:
        cut = read_flags(source, "timeouts")
    elif horizon is not None:
        cut = _cut_by_horizon(terminals, horizon)
    else:
        cut = np.zeros(len(terminals), dtype=bool)
    if rebuilt and task is not None and task.name.startswith("antmaze-"):
        # AntMaze -v0 lacks some timeouts: the ant then stands elsewhere in the next row.
        place = source["observations"][:, :2]
        cut[:-1] |= np.abs(np.diff(place, axis=0)).max(axis=1) > MAZE_JUMP
    last = terminals | cut
    keep = np.ones(len(terminals), dtype=bool)
    if rebuilt:
        _require_ends(last, source, horizon)
        # A row at the time limit stays only if it also terminated: then no successor is needed.
        keep[cut & ~terminals] = False
        keep[-1] &= bool(terminals[-1])
        # The end of a trajectory moves to the row before the one left out.
        last[:-1] |= ~keep[1:]
    return Episodes(keep, last)


def _cut_by_horizon(terminals: Array, horizon: int) -> Array:
    """Mark every `horizon`-th row of an episode, counted from the last terminal row."""
    rows = np.arange(len(terminals))
    starts = np.concatenate([[0], np.flatnonzero(terminals) + 1])
    start = starts[np.searchsorted(starts, rows, side="right") - 1]
    cut: Array = (rows - start) % horizon == horizon - 1
    return cut


def _fill(source: Source, table: Array, layout: Layout, episodes: Episodes) -> None:
    """Copy the kept rows into the table and mark discontinuities as ends of trajectories."""
    rebuilt = "next_observations" not in source
    count = len(episodes.keep)
    filled = 0
    for rows in _blocks(count, layout.width):
        block = np.empty((rows.stop - rows.start, layout.width), dtype=np.float32)
        for column, where in layout.columns.items():
            key = {"terminations": "terminals"}.get(column, column)
            if column == "next_observations" and rebuilt:
                continue
            key = f"extras/{column}" if column in layout.extras else key
            block[:, where] = read_finite(source, key, rows).reshape(len(block), -1)
        now, later = layout.columns["observations"], layout.columns["next_observations"]
        following = source["observations"][rows.stop : rows.stop + 1].astype(np.float32)
        successor = np.concatenate([block[1:, now], following])
        terminal = block[:, layout.columns["terminations"].start] == 1.0
        if rebuilt:
            block[: len(successor), later] = successor
            block[terminal, later] = block[terminal, now]
        else:
            apart = is_jump(block[: len(successor), later], successor)
            episodes.last[rows.start : rows.start + len(successor)] |= apart
        block = block[episodes.keep[rows]]
        table[filled : filled + len(block)] = block
        filled += len(block)


def is_jump(next_observations: Array, following: Array) -> Array:
    """Whether the row that follows begins elsewhere than where this one ended [rows], bool.

    Args:
        next_observations, following: [rows, obs]; rounding of either is allowed for.
    """
    gap = np.abs(following - next_observations)
    apart: Array = (gap > CONTINUOUS * (1.0 + np.abs(following))).any(axis=1)
    return apart


def _blocks(count: int, width: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (4 * width))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
