"""The task every contestant trains on: HalfCheetah's sizes, made-up transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

OBSERVATION_SIZE = 17
ACTION_SIZE = 6
HIDDEN = (256, 256)
BATCH = 256
EPISODE = 1000


@dataclass(frozen=True)
class Transitions:
    """Float32 arrays [n, ...]; episodes of 1000 steps that end by time limit, none by terminal."""

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    rewards: NDArray[np.float32]
    next_observations: NDArray[np.float32]


def transitions(count: int, seed: int) -> Transitions:
    """Return `count` random transitions; a speed test needs their sizes, not their physics."""
    generator = np.random.default_rng(seed)
    states = generator.standard_normal((count + 1, OBSERVATION_SIZE), dtype=np.float32)
    return Transitions(
        observations=states[:-1],
        actions=generator.uniform(-1, 1, (count, ACTION_SIZE)).astype(np.float32),
        rewards=generator.standard_normal(count, dtype=np.float32),
        next_observations=states[1:],
    )


def spaces() -> tuple[gymnasium.spaces.Box, gymnasium.spaces.Box]:
    """Return the observation and action space."""
    return (
        gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION_SIZE,), np.float32),
        gymnasium.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32),
    )


class Spaces(gymnasium.Env[Any, Any]):
    """An environment that only shows its spaces, for libraries that take them from one."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = spaces()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Return zeros."""
        super().reset(seed=seed)
        return np.zeros(OBSERVATION_SIZE, np.float32), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Refuse: updates are measured without an environment."""
        raise RuntimeError("this environment is not meant to be stepped")
