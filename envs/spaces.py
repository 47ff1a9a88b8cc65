"""Which spaces agents work with, and the scale between an agent's actions and an environment's."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import Space
from gymnasium.spaces import Box

from rlalign.errors import EnvError


def check_spaces(observation_space: Space[Any], action_space: Space[Any], name: str) -> None:
    """Refuse spaces that agents cannot work with.

    Observations must be a `Box` of one dimension, actions a bounded `Box` of one dimension and of
    floating-point numbers. `name` is how the environment is called in the message. Raises EnvError.
    """
    if not isinstance(observation_space, Box) or len(observation_space.shape) != 1:
        pixels = isinstance(observation_space, Box) and observation_space.dtype == np.uint8
        raise EnvError(
            f"{name} has observations {observation_space}, expected a Box of one dimension; "
            + (
                "agents do not learn from images"
                if pixels
                else "wrap it in gymnasium.wrappers.FlattenObservation"
            )
        )
    if not isinstance(action_space, Box) or len(action_space.shape) != 1:
        raise EnvError(f"{name} has actions {action_space}, expected a Box of one dimension")
    if not np.issubdtype(action_space.dtype, np.floating):
        raise EnvError(
            f"{name} has actions {action_space} of whole numbers, expected a Box of floating-point "
            "numbers"
        )
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all()):
        raise EnvError(
            f"{name} has unbounded actions {action_space}; agents need finite bounds, "
            "give it some with gymnasium.wrappers.TransformAction(env, lambda a: a, Box(low, high))"
        )
    if not (action_space.low < action_space.high).all():
        raise EnvError(f"{name} has an action whose lower bound is not below its upper bound")


class ActionScale:
    """The affine map between an agent's actions in [-1, 1] and the bounds `low`..`high` [act]."""

    def __init__(self, low: np.ndarray, high: np.ndarray) -> None:
        self.low = np.asarray(low, np.float32)
        self.high = np.asarray(high, np.float32)
        self._half_range = (self.high - self.low) / 2
        self._identity = bool((self.low == -1).all() and (self.high == 1).all())

    @classmethod
    def of(cls, action_space: Box) -> ActionScale:
        """The scale of a bounded action space."""
        return cls(action_space.low, action_space.high)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """`low + (a + 1) / 2 * (high - low)`, clipped to the bounds; `actions` are [..., act]."""
        if not self._identity:
            actions = self.low + (actions + 1) * self._half_range
        return np.minimum(np.maximum(actions, self.low), self.high).astype(np.float32, copy=False)

    def to_agent(self, actions: np.ndarray) -> np.ndarray:
        """The inverse of `to_environment` for actions [..., act] within the bounds."""
        if not self._identity:
            actions = (actions - self.low) / self._half_range - 1
        return np.clip(actions, -1, 1).astype(np.float32, copy=False)
