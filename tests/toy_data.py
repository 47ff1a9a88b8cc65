"""Spaces, packed rows and datasets of random numbers, for tests that need no task."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium.spaces import Box
from torch import Tensor

from rlalign.data.dataset import Dataset
from rlalign.layout import Layout


def box_spaces(
    observation_size: int = 4, action_size: int = 2, low: float = -1.0, high: float = 1.0
) -> tuple[Box, Box]:
    """An observation and an action space, as an agent without an environment is made from."""
    return (
        Box(-np.inf, np.inf, (observation_size,), np.float32),
        Box(low, high, (action_size,), np.float32),
    )


def random_rows(
    layout: Layout, count: int, *, seed: int = 0, low: float = -1.0, high: float = 1.0
) -> Tensor:
    """Packed rows [count, width]: normal observations and rewards, a tenth terminated."""
    generator = np.random.default_rng(seed)
    fields = {
        "observations": generator.normal(size=(count, layout.observation_size)),
        "actions": generator.uniform(low, high, (count, layout.action_size)),
        "rewards": generator.normal(size=count),
        "terminations": (generator.random(count) < 0.1).astype(np.float32),
        "next_observations": generator.normal(size=(count, layout.observation_size)),
    }
    for name, size in layout.extras.items():
        fields[name] = generator.normal(size=(count, size))
    return layout.pack(**fields)


def random_dataset(
    observation_size: int = 4,
    action_size: int = 2,
    count: int = 400,
    *,
    seed: int = 0,
    low: float = -1.0,
    high: float = 1.0,
) -> Dataset:
    """A dataset of random rows in ten trajectories of equal length."""
    layout = Layout(observation_size, action_size)
    rows = random_rows(layout, count, seed=seed, low=low, high=high)
    ends = np.linspace(0, count, 11).astype(np.int64)[1:]
    bounds = np.full(action_size, low, np.float32), np.full(action_size, high, np.float32)
    return Dataset(rows, layout, ends, "random", None, *bounds)


def same(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors hold the same numbers bit for bit."""
    return bool(torch.equal(first, second))
