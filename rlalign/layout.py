"""Where the fields of a transition lie in one packed row, and a batch of such rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor


class Layout:
    """Columns of the packed float32 transition table.

    One row holds observation | action | reward | terminated | next observation | extras. Packing
    makes a batch one gather, and observation beside action makes a critic's input a view.

    Args:
        observation_size: length of a flat observation, at least 1.
        action_size: length of a flat action, at least 1.
        extras: further columns by name and size, such as ``{"mc_returns": 1}``.

    Raises:
        ValueError: if a size is below 1 or an extra carries the name of a standard column.
    """

    STANDARD = ("observations", "actions", "rewards", "terminations", "next_observations")

    def __init__(
        self, observation_size: int, action_size: int, extras: Mapping[str, int] | None = None
    ) -> None:
        extras = dict(extras or {})
        sizes = {
            "observations": observation_size,
            "actions": action_size,
            "rewards": 1,
            "terminations": 1,
            "next_observations": observation_size,
        }
        for name, size in extras.items():
            if name in sizes:
                raise ValueError(f"extra column {name!r} is a standard column of a transition")
            sizes[name] = size
        self.columns: dict[str, slice] = {}
        start = 0
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"column {name!r} must have a size of at least 1, got {size}")
            self.columns[name] = slice(start, start + size)
            start += size
        self.observation_size = observation_size
        self.action_size = action_size
        self.extras = extras
        self.width = start

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.observation_size, self.action_size, tuple(self.extras.items())))

    def __repr__(self) -> str:
        return f"Layout({self.observation_size}, {self.action_size}, {self.extras})"

    def to_dict(self) -> dict[str, Any]:
        """Return the layout as JSON-able values; ``Layout(**d)`` is its inverse."""
        return {
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "extras": self.extras,
        }

    def pack(self, **fields: Any) -> Tensor:
        """Pack arrays or tensors [n, size] (or [n] for columns of size 1) into rows [n, width].

        Raises:
            ValueError: if a column is missing, unknown, or has another shape.
        """
        if set(fields) != set(self.columns):
            raise ValueError(f"expected columns {sorted(self.columns)}, got {sorted(fields)}")
        tensors = {
            name: torch.as_tensor(value, dtype=torch.float32) for name, value in fields.items()
        }
        count = len(next(iter(tensors.values())))
        rows = torch.empty(count, self.width)
        for name, where in self.columns.items():
            size = where.stop - where.start
            value = tensors[name]
            value = value.unsqueeze(-1) if value.dim() == 1 and size == 1 else value
            if tuple(value.shape) != (count, size):
                raise ValueError(f"{name} must be [{count}, {size}], got {list(value.shape)}")
            rows[:, where] = value
        return rows


class Batch:
    """A batch of transitions: views into packed rows, and the noise drawn for its update.

    Args:
        rows: packed transitions [batch, width].
        layout: the columns of `rows`.
        noise: random tensors that the losses consume, by name, [batch, ...] or, where a batch
            shares them, [...]; drawn by the learner, so that losses are functions of tensors alone.
    """

    __slots__ = ("_layout", "_once", "noise", "rows")

    def __init__(
        self, rows: Tensor, layout: Layout, noise: Mapping[str, Tensor] | None = None
    ) -> None:
        self.rows = rows
        self._layout = layout
        self.noise: Mapping[str, Tensor] = noise or {}
        self._once: dict[str, Tensor] = {}

    def once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Return what `compute` gives, computed at most once for this batch.

        For values that several losses of one step share and that no update in between changes,
        such as the target critic at the data's actions.
        """
        if name not in self._once:
            self._once[name] = compute()
        return self._once[name]

    def __len__(self) -> int:
        return self.rows.shape[0]

    def __getitem__(self, name: str) -> Tensor:
        """Return a column [batch, size]; [batch] for rewards, terminations, extras of size 1."""
        where = self._layout.columns[name]
        scalar = where.stop - where.start == 1 and (
            name in ("rewards", "terminations") or name in self._layout.extras
        )
        return self.rows[:, where.start] if scalar else self.rows[:, where]

    @property
    def observations(self) -> Tensor:
        """Observations [batch, obs]."""
        return self.rows[:, self._layout.columns["observations"]]

    @property
    def actions(self) -> Tensor:
        """Actions [batch, act] in [-1, 1]."""
        return self.rows[:, self._layout.columns["actions"]]

    @property
    def observation_actions(self) -> Tensor:
        """Observations and actions side by side [batch, obs + act], without a copy."""
        return self.rows[:, : self._layout.observation_size + self._layout.action_size]

    @property
    def rewards(self) -> Tensor:
        """Rewards [batch]."""
        return self.rows[:, self._layout.columns["rewards"].start]

    @property
    def terminations(self) -> Tensor:
        """1.0 where the episode truly ended, 0.0 elsewhere and at time limits [batch]."""
        return self.rows[:, self._layout.columns["terminations"].start]

    @property
    def next_observations(self) -> Tensor:
        """Next observations [batch, obs]."""
        return self.rows[:, self._layout.columns["next_observations"]]
