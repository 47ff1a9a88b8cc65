"""Reading D4RL's HDF5 layout, block by block, straight into the packed table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rlalign.data.checks import check_shapes, read_finite, read_flags
from rlalign.data.d4rl import Task, task_of_file
from rlalign.data.dataset import Array, Dataset
from rlalign.data.facts import ATTRIBUTE, decode, of_task
from rlalign.errors import DatasetError
from rlalign.layout import Layout

if TYPE_CHECKING:
    import h5py

BLOCK_BYTES = 8 << 20
# An ant covers at most about half a metre in one step of a maze; a reset moves it further.
MAZE_JUMP = 1.0
CONTINUOUS = 1e-5  # next observation and following observation may differ by this, relatively


@dataclass(frozen=True)
class Episodes:
    """Where trajectories end in a file and which of its rows become transitions.

    Args:
        keep: rows with a known next observation [rows], bool.
        last: rows that end a trajectory [rows], bool.
    """

    keep: Array
    last: Array


def read_hdf5(
    path: str | Path,
    *,
    name: str | None = None,
    task: Task | None = None,
    horizon: int | None = None,
) -> Dataset:
    """Read an HDF5 file in D4RL's layout.

    Files with ``next_observations`` give all their rows. In others the next row's observation is
    the next observation, and the last row of an episode cut off by time is left out because its
    successor is unknown, as D4RL's ``qlearning_dataset`` does; the unknown successor of a
    terminated row (never used in a Bellman target) is the row's own observation.

    Args:
        path: the file.
        name: name of the dataset, default the path.
        task: D4RL task it belongs to; known from the file's name where it is one of D4RL's.
        horizon: steps after which episodes were cut, for files without ``timeouts``; default the
            task's.

    Raises:
        DatasetError: if the file is missing, damaged, or not a dataset; one sentence says what is
            wrong and where.
    """
    path = Path(path).expanduser()
    name = name or str(path)
    task = task or task_of_file(path.name)
    horizon = horizon or (task.horizon if task else None)
    with _open(path) as file:
        try:
            return _read(file, path, name, task, horizon)
        except (OSError, RuntimeError, LookupError, ValueError, TypeError) as error:
            # h5py answers damage with any of these.
            raise DatasetError(
                f"{path}: the file is damaged or truncated and cannot be read to its end"
            ) from error


def _open(path: Path) -> h5py.File:
    import h5py

    if not path.is_file():
        raise DatasetError(f"{path}: there is no such file")
    try:
        return h5py.File(path, "r")
    except PermissionError as error:
        raise DatasetError(f"{path}: no permission to read the file") from error
    except OSError as error:
        with path.open("rb") as raw:
            hdf5 = raw.read(8) == b"\x89HDF\r\n\x1a\n"
        what = "the HDF5 file is truncated or damaged" if hdf5 else "this is not an HDF5 file"
        raise DatasetError(f"{path}: {what}") from error


def _read(
    file: h5py.File, path: Path, name: str, task: Task | None, horizon: int | None
) -> Dataset:
    count, sizes = check_shapes(file, path)
    rebuilt = "next_observations" not in file
    episodes = _episodes(file, path, task, horizon, rebuilt)
    layout = Layout(sizes.pop("observations"), sizes.pop("actions"), sizes)
    kept = int(episodes.keep.sum())
    if kept == 0:
        raise DatasetError(f"{path}: no row has a successor, so there are no transitions")
    table = _allocate(path, kept, layout.width)
    _fill(file, path, table.numpy(), layout, episodes)
    _require_ends(episodes.last, file, path, horizon)
    ends = np.flatnonzero(episodes.last[episodes.keep]) + 1
    if len(ends) == 0 or ends[-1] != kept:
        ends = np.append(ends, kept)
    if ATTRIBUTE in file.attrs:
        known = decode(file.attrs[ATTRIBUTE], path, layout.action_size)
    else:
        known = of_task(task, layout.action_size)
    metadata = {**known.metadata, "source": str(path)}
    if rebuilt:
        metadata["rows_without_successor"] = count - kept
    if known.fingerprint is not None:
        metadata["stored_fingerprint"] = known.fingerprint
    return Dataset(
        table=table,
        layout=layout,
        ends=ends,
        name=name,
        environment=known.environment,
        action_low=known.action_low,
        action_high=known.action_high,
        reference=known.reference,
        metadata=metadata,
    )


def _allocate(path: Path, rows: int, width: int) -> torch.Tensor:
    try:
        return torch.empty(rows, width)
    except (RuntimeError, MemoryError) as error:
        raise DatasetError(
            f"{path}: its {rows:,} transitions need {rows * width * 4 / 1e9:.1f} GB of memory, "
            "which this machine does not have"
        ) from error


def _require_ends(last: Array, file: h5py.File, path: Path, horizon: int | None) -> None:
    if not last.any() and "timeouts" not in file and horizon is None:
        raise DatasetError(
            f"{path}: no row is marked in 'terminals' and there is no 'timeouts', so nothing "
            "tells where episodes end; say after how many steps they were cut, as in: "
            "rlalign data convert FILE NEW --horizon 1000"
        )


def _episodes(
    file: h5py.File, path: Path, task: Task | None, horizon: int | None, rebuilt: bool
) -> Episodes:
    """Find the rows that end a trajectory by the file's flags, and those that can be kept."""
    terminals = read_flags(file, path, "terminals")
    if "timeouts" in file:
        cut = read_flags(file, path, "timeouts")
    elif horizon is not None and rebuilt:
        cut = _cut_by_horizon(terminals, horizon)
    else:
        cut = np.zeros(len(terminals), dtype=bool)
    if rebuilt and task is not None and task.name.startswith("antmaze-"):
        # AntMaze -v0 lacks some timeouts: the ant then stands elsewhere in the next row.
        place = file["observations"][:, :2]
        cut[:-1] |= np.abs(np.diff(place, axis=0)).max(axis=1) > MAZE_JUMP
    last = terminals | cut
    keep = np.ones(len(terminals), dtype=bool)
    if rebuilt:
        _require_ends(last, file, path, horizon)
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


def _fill(file: h5py.File, path: Path, table: Array, layout: Layout, episodes: Episodes) -> None:
    """Copy the kept rows into the table and mark discontinuities as ends of trajectories."""
    rebuilt = "next_observations" not in file
    count = len(episodes.keep)
    filled = 0
    for rows in _blocks(count, layout.width):
        block = np.empty((rows.stop - rows.start, layout.width), dtype=np.float32)
        for column, where in layout.columns.items():
            key = {"terminations": "terminals"}.get(column, column)
            if column == "next_observations" and rebuilt:
                continue
            key = f"extras/{column}" if column in layout.extras else key
            block[:, where] = read_finite(file, path, key, rows).reshape(len(block), -1)
        now, later = layout.columns["observations"], layout.columns["next_observations"]
        following = file["observations"][rows.stop : rows.stop + 1].astype(np.float32)
        successor = np.concatenate([block[1:, now], following])
        terminal = block[:, layout.columns["terminations"].start] == 1.0
        if rebuilt:
            block[: len(successor), later] = successor
            block[terminal, later] = block[terminal, now]
        else:
            gap = np.abs(successor - block[: len(successor), later])
            apart = (gap > CONTINUOUS * (1.0 + np.abs(successor))).any(axis=1)
            episodes.last[rows.start : rows.start + len(successor)] |= apart
        block = block[episodes.keep[rows]]
        table[filled : filled + len(block)] = block
        filled += len(block)


def _blocks(count: int, width: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (4 * width))
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
