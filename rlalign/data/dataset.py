"""A dataset of transitions in one packed table, and where datasets come from by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from rlalign.data.names import dataset_name
from rlalign.data.returns import returns_to_go
from rlalign.errors import DatasetError
from rlalign.layout import Layout
from rlalign.suggestions import one_of

if TYPE_CHECKING:
    from gymnasium import Space

Array = NDArray[Any]
BLOCK = 65_536  # rows handled at a time wherever a copy is needed


@dataclass(frozen=True)
class Trajectory:
    """Consecutive transitions of one episode, as views into the dataset.

    Args:
        start: first row in the dataset.
        end: row after the last one.
        terminated: whether the episode truly ended; False means that it was cut off.
    """

    start: int
    end: int
    terminated: bool
    observations: Array
    actions: Array
    rewards: Array
    next_observations: Array

    def __len__(self) -> int:
        return self.end - self.start


@dataclass(eq=False)
class Dataset:
    """Transitions in one packed float32 table, in raw units.

    Args:
        table: rows [transitions, layout.width], float32, contiguous.
        layout: where each column lies.
        ends: row after the last one of each trajectory, ascending; the last is `transitions`.
        name: name or path it was loaded by.
        environment: gymnasium id it was recorded in, None where unknown.
        action_low, action_high: bounds of actions [act], None where unknown.
        reference: D4RL's returns of the random and the expert policy, None where there are none.
        metadata: further facts, JSON-able.

    Raises:
        DatasetError: if table, layout and ends do not fit together, or there are no transitions.
    """

    table: torch.Tensor
    layout: Layout
    ends: Array
    name: str
    environment: str | None = None
    action_low: Array | None = None
    action_high: Array | None = None
    reference: tuple[float, float] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = self.table.shape[0]
        if count == 0:
            raise DatasetError(f"{self.name}: the dataset is empty")
        if self.table.shape[1] != self.layout.width:
            raise DatasetError(
                f"{self.name}: the table has {self.table.shape[1]} columns, its layout "
                f"{self.layout.width}"
            )
        self.ends = np.asarray(self.ends, dtype=np.int64)
        if (
            len(self.ends) == 0
            or self.ends[-1] != count
            or np.any(np.diff(self.ends, prepend=0) < 1)
        ):
            raise DatasetError(
                f"{self.name}: trajectory ends must ascend from above 0 to the {count} transitions"
            )

    @classmethod
    def from_arrays(
        cls,
        observations: Any,
        actions: Any,
        rewards: Any,
        terminations: Any,
        truncations: Any = None,
        next_observations: Any = None,
        *,
        name: str = "arrays",
        environment: str | None = None,
        action_low: Any = None,
        action_high: Any = None,
        reference: tuple[float, float] | None = None,
    ) -> Dataset:
        """Make a dataset from arrays of consecutive steps, one episode after another.

        A trajectory ends where `terminations` or `truncations` is true, in the last row, and, as
        in files, where the given next observation is not the one that follows. Without
        `next_observations` they are those of the next row, and the last row of a trajectory that
        does not terminate is left out because its successor is unknown.

        Args:
            observations: floating-point numbers [rows, obs].
            actions: floating-point numbers [rows, act], in the environment's units.
            rewards: numbers [rows].
            terminations: where an episode truly ended [rows], true or false.
            truncations: where one was cut off [rows], true or false; None: nowhere.
            next_observations: observations one step later [rows, obs]; None: rebuilt.
            name: what messages call the dataset.
            environment: gymnasium id, None where unknown.
            action_low, action_high: bounds of actions, one number or [act]; None where unknown.
            reference: returns of a random and an expert policy, None where there are none.

        Raises:
            DatasetError: if an array is of another shape or dtype or holds NaN or infinity, or
                if neither a termination nor `truncations` tells where episodes end.
        """
        from rlalign.data.arrays import from_arrays

        given = {
            "observations": observations,
            "actions": actions,
            "rewards": rewards,
            "terminals": terminations,
            "timeouts": truncations,
            "next_observations": next_observations,
        }
        return from_arrays(
            given,
            name=name,
            environment=environment,
            action_low=action_low,
            action_high=action_high,
            reference=reference,
        )

    def __len__(self) -> int:
        return self.table.shape[0]

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}, {len(self)} transitions, {len(self.ends)} trajectories, "
            f"observations {self.layout.observation_size}, actions {self.layout.action_size})"
        )

    def column(self, name: str) -> Array:
        """Return a column [transitions, size] as a view, extras included."""
        view: Array = self.table.numpy()[:, self.layout.columns[name]]
        return view

    @property
    def observations(self) -> Array:
        """Observations [transitions, obs], a view."""
        return self.column("observations")

    @property
    def actions(self) -> Array:
        """Actions [transitions, act] in the environment's units, a view."""
        return self.column("actions")

    @property
    def rewards(self) -> Array:
        """Rewards [transitions], a view."""
        return self.column("rewards")[:, 0]

    @property
    def terminations(self) -> Array:
        """1.0 where the episode truly ended, never at a time limit [transitions], a view."""
        return self.column("terminations")[:, 0]

    @property
    def next_observations(self) -> Array:
        """Observations one step later [transitions, obs], a view."""
        return self.column("next_observations")

    @property
    def starts(self) -> Array:
        """First row of each trajectory [trajectories]."""
        return np.concatenate([[0], self.ends[:-1]])

    @property
    def truncated(self) -> Array:
        """Whether each trajectory was cut off instead of terminated [trajectories]."""
        return self.terminations[self.ends - 1] == 0.0

    @property
    def fingerprint(self) -> str:
        """SHA-256 over layout, trajectory ends and the table's bytes, as they are now."""
        digest = hashlib.sha256(json.dumps(self.layout.to_dict()).encode())
        digest.update(np.ascontiguousarray(self.ends, dtype="<i8").tobytes())
        digest.update(self.table.numpy().data.cast("B"))
        return digest.hexdigest()

    def trajectories(self) -> Iterator[Trajectory]:
        """Iterate over the trajectories in the order of the rows."""
        cut = self.truncated
        for index, (start, end) in enumerate(zip(self.starts, self.ends, strict=True)):
            rows = slice(int(start), int(end))
            yield Trajectory(
                rows.start,
                rows.stop,
                not bool(cut[index]),
                self.observations[rows],
                self.actions[rows],
                self.rewards[rows],
                self.next_observations[rows],
            )

    def episode_returns(self) -> Array:
        """Return the undiscounted return of each trajectory, float64 [trajectories]."""
        totals: Array = np.add.reduceat(self.rewards, self.starts, dtype=np.float64)
        return totals

    def episode_lengths(self) -> Array:
        """Return the number of transitions of each trajectory [trajectories]."""
        return np.diff(self.ends, prepend=0)

    def return_range(self) -> float:
        """Return the largest minus the smallest undiscounted return of a trajectory."""
        totals = self.episode_returns()
        return float(totals.max() - totals.min())

    def normalized_score(self, returns: Any) -> Any:
        """Return D4RL's score of returns: 0 for the random and 100 for the expert policy.

        Raises:
            DatasetError: if D4RL gives no reference returns for this task.
        """
        from rlalign.data.d4rl import normalized_score

        if self.reference is None:
            raise DatasetError(f"{self.name}: D4RL gives no reference scores for this task")
        return normalized_score(returns, self.reference)

    def observation_statistics(self) -> tuple[Array, Array]:
        """Return mean and standard deviation of the observations, float64 [obs] each."""
        count = len(self)
        blocks = [slice(start, start + BLOCK) for start in range(0, count, BLOCK)]
        total = sum(self.observations[rows].sum(axis=0, dtype=np.float64) for rows in blocks)
        mean = np.asarray(total / count)
        # Two passes: the square of a large mean would swallow a small variance.
        squares = sum(np.square(self.observations[rows] - mean).sum(axis=0) for rows in blocks)
        return mean, np.sqrt(np.asarray(squares) / count)

    def returns_to_go(self, discount: float) -> Array:
        """Return the discounted sum of the rewards from each row to its trajectory's end.

        Nothing is added for what a truncated trajectory would still have earned.

        Args:
            discount: in [0, 1]; 0 gives the rewards themselves.

        Returns:
            float32 [transitions].
        """
        return returns_to_go(self.rewards, self.ends, discount)

    def with_extras(self, extras: Mapping[str, Array]) -> Dataset:
        """Return a copy of the dataset with further columns, such as ``{"mc_returns": [n]}``.

        Raises:
            DatasetError: if a column has another number of rows or a name already in use.
        """
        columns = {}
        for name, values in extras.items():
            values = np.asarray(values, dtype=np.float32)
            values = values[:, None] if values.ndim == 1 else values
            if values.ndim != 2 or len(values) != len(self) or name in self.layout.columns:
                raise DatasetError(
                    f"{self.name}: extra column {name!r} must be new and have {len(self)} rows, "
                    f"got shape {list(values.shape)}"
                )
            columns[name] = values
        sizes = {**self.layout.extras, **{name: v.shape[1] for name, v in columns.items()}}
        layout = Layout(self.layout.observation_size, self.layout.action_size, sizes)
        table = torch.empty(len(self), layout.width)
        table[:, : self.layout.width] = self.table
        for name, values in columns.items():
            table[:, layout.columns[name]] = torch.from_numpy(values)
        # The file's fingerprint is that of other columns.
        metadata = {k: v for k, v in self.metadata.items() if k != "stored_fingerprint"}
        return replace(self, table=table, layout=layout, metadata=metadata)

    def save(self, path: str | Path) -> Path:
        """Write the dataset as HDF5 in D4RL's layout, whole or not at all; returns the path.

        Raises:
            DatasetError: if the file cannot be written; nothing is left behind then.
        """
        from rlalign.data.saving import save

        return save(self, Path(path).expanduser())


def load_dataset(
    name: str | Path, *, cache: str | Path | None = None, horizon: int | None = None
) -> Dataset:
    """Load a dataset by name or path.

    Args:
        name: ``local/hopper-medium-v0`` (collected on this machine at first use),
            ``d4rl/hopper-medium-v2`` (downloaded), ``minari/mujoco/hopper/medium-v0``, or the path
            of an HDF5 file in D4RL's layout.
        cache: folder of collected and downloaded files; default ``RLALIGN_CACHE`` or the user's
            cache folder.
        horizon: steps after which episodes were cut, for a file without ``timeouts``; at least 1.

    Raises:
        DatasetError: if the dataset is unknown, missing, damaged or cannot be made, or says itself
            where its episodes end and is given a horizon.
        MissingPackageError: if a Minari dataset is asked for without the extra.
        SettingsError: if `horizon` is not a whole number of at least 1.
    """
    path = Path(name).expanduser()
    folder = None if cache is None else Path(cache).expanduser()
    named = dataset_name(name)
    if named is not None:
        if horizon is not None:
            raise DatasetError(f"{name}: a horizon is for a file without timeouts; leave it out")
        if named.kind == "local":
            from rlalign.data.local import load_local

            return load_local(named.rest, cache=folder)
        if named.kind == "d4rl":
            from rlalign.data.download import load_d4rl

            return load_d4rl(named.rest, cache=folder)
        from rlalign.data.minari import load_minari

        return load_minari(named.rest)
    from rlalign.data.hdf5 import read_hdf5

    if not path.exists() and not path.suffix:
        raise DatasetError(
            f"there is no file {path}, and a dataset's name begins with local/, d4rl/ or minari/"
            + _meant(str(name))
        )
    return read_hdf5(path, horizon=horizon)


def _meant(name: str) -> str:
    """Return a hint where a name is known with its kind before it."""
    from rlalign.data.d4rl import tasks
    from rlalign.data.local import local_names

    known = [f"local/{one}" for one in local_names()] + [f"d4rl/{task.name}" for task in tasks()]
    found = [one for one in known if one.partition("/")[2] == name]
    return one_of(found)


def check_spaces(dataset: Dataset, observation_space: Space[Any], action_space: Space[Any]) -> None:
    """Check that a dataset's sizes are those of an environment.

    Raises:
        DatasetError: if observations or actions have another size.
    """
    layout = dataset.layout
    for kind, found, space in (
        ("observation", layout.observation_size, observation_space),
        ("action", layout.action_size, action_space),
    ):
        wanted = int(np.prod(space.shape)) if space.shape is not None else None
        if found != wanted:
            raise DatasetError(
                f"{dataset.name}: {kind} size {found}, but the environment's is {wanted}; was it "
                "recorded in another task or version?"
            )
