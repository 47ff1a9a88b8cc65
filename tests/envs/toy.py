"""Small environments whose every number is known."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box


class Counter(gymnasium.Env[np.ndarray, np.ndarray]):
    """Observes (steps in the episode, seed's first draw); ends after `length` steps."""

    def __init__(
        self, length: int = 3, truncates: bool = False, low: float = -2.0, high: float = 4.0
    ) -> None:
        self.length = length
        self.truncates = truncates
        self.observation_space = Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = Box(low, high, (1,), np.float32)
        self.seeds: list[int | None] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.steps = 0
        self.draw = float(self.np_random.random())
        return self.observe(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.draw += float(action[0])
        over = self.steps >= self.length
        result = over and not self.truncates, over and self.truncates
        return self.observe(), float(action[0]), *result, {"steps": self.steps}

    def observe(self) -> np.ndarray:
        return np.array([self.steps, self.draw])


class Forgetful(Counter):
    """Keeps state beyond its seed, so that no episode can be played again."""

    episodes = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        type(self).episodes += 1
        _, info = super().reset(seed=seed)
        self.draw += type(self).episodes
        return self.observe(), info


class WholeNumbers(Counter):
    """Its actions are whole numbers from 0 to 5."""

    def __init__(self, length: int = 3) -> None:
        super().__init__(length)
        self.action_space = Box(0, 5, (1,), np.int32)


class Goal(Counter):
    """A goal environment with parts of sizes 2 (achieved), 3 (observation), 2 (desired)."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"observation": 3, "achieved_goal": 2, "desired_goal": 2}
        self.observation_space = gymnasium.spaces.Dict(  # type: ignore[assignment]
            {name: Box(-np.inf, np.inf, (size,), np.float64) for name, size in sizes.items()}
        )

    def observe(self) -> Any:
        return {
            "observation": np.full(3, 2.0),
            "achieved_goal": np.full(2, 1.0),
            "desired_goal": np.full(2, 3.0),
        }
