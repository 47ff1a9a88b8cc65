"""A corridor with a reward at its end alone, and walks of mixed skill through it."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from rlalign.data.dataset import Dataset
from rlalign.layout import Layout

LIMIT = 50


class Corridor(gymnasium.Env):
    """Walk from the left of [-1, 1] to beyond 0.8: reward 1 and the end; 50 steps at most."""

    observation_space = Box(-np.inf, np.inf, (2,), np.float32)
    action_space = Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict]:
        super().reset(seed=seed)
        self.position = float(self.np_random.uniform(-1, -0.6))
        self.steps = 0
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.position = float(np.clip(self.position + 0.1 * float(action[0]), -1, 1))
        self.steps += 1
        goal = self.position > 0.8
        return self._observation(), float(goal), goal, not goal and self.steps >= LIMIT, {}

    def _observation(self) -> np.ndarray:
        return np.array([self.position, 1.0], np.float32)


def corridor_data(episodes: int = 400, seed: int = 0) -> Dataset:
    """Noisy walks to the right, each of its own skill; 47.5 % reach the end."""
    generator, env = np.random.default_rng(seed), Corridor()
    steps: list[tuple[Any, ...]] = []
    ends: list[int] = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=episode)
        skill, over = generator.uniform(0, 0.7), False
        while not over:
            action = np.clip(skill + generator.normal(0, 0.6, 1), -1, 1).astype(np.float32)
            successor, reward, terminated, truncated, _ = env.step(action)
            steps.append((observation, action, reward, float(terminated), successor))
            observation, over = successor, terminated or truncated
        ends.append(len(steps))
    columns = [np.asarray(column, np.float32) for column in zip(*steps, strict=True)]
    layout = Layout(2, 1)
    names = ("observations", "actions", "rewards", "terminations", "next_observations")
    table = layout.pack(**dict(zip(names, columns, strict=True)))
    bounds = np.array([-1], np.float32), np.array([1], np.float32)
    return Dataset(table, layout, np.array(ends), "corridor", None, *bounds)
