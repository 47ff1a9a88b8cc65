"""Goal environments (gymnasium-robotics) seen as one flat observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

from rlalign.data.d4rl import GOAL_ORDER

__all__ = ["GOAL_ORDER", "FlattenGoal", "flat_goal_space", "flatten_goal", "is_goal_space"]


def is_goal_space(space: gymnasium.Space[Any]) -> bool:
    """Whether `space` is a `Dict` of vectors under the three names of a goal environment."""
    return (
        isinstance(space, Dict)
        and set(space.spaces) == set(GOAL_ORDER)
        and all(isinstance(part, Box) and len(part.shape) == 1 for part in space.spaces.values())
    )


def flatten_goal(
    observation: Mapping[str, np.ndarray], keys: Sequence[str] = GOAL_ORDER
) -> np.ndarray:
    """The parts named by `keys` behind one another; each part is [..., size]."""
    return np.concatenate([observation[key] for key in keys], axis=-1)


def flat_goal_space(space: gymnasium.Space[Any], keys: Sequence[str] = GOAL_ORDER) -> Box:
    """The space of `flatten_goal`'s results for observations in `space`."""
    assert isinstance(space, Dict)
    boxes = [box for box in (space[key] for key in keys) if isinstance(box, Box)]
    low = np.concatenate([box.low for box in boxes])
    high = np.concatenate([box.high for box in boxes])
    return Box(low.astype(np.float64), high.astype(np.float64), dtype=np.float64)


class FlattenGoal(
    gymnasium.ObservationWrapper[np.ndarray, Any, Any], gymnasium.utils.RecordConstructorArgs
):
    """Achieved goal, observation and desired goal as one vector, in the order of `keys`."""

    def __init__(self, env: gymnasium.Env[Any, Any], keys: Sequence[str] = GOAL_ORDER) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self, keys=tuple(keys))
        gymnasium.ObservationWrapper.__init__(self, env)
        self.keys = tuple(keys)
        self.observation_space = flat_goal_space(env.observation_space, keys)

    def observation(self, observation: Mapping[str, np.ndarray]) -> np.ndarray:
        """The parts of `observation` behind one another."""
        return flatten_goal(observation, self.keys)
