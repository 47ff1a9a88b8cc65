"""Two small tasks with data: a point mass in the plane, and Pendulum with a swing-up controller."""

from __future__ import annotations

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from rlalign.agent import Agent
from rlalign.data.dataset import Dataset
from rlalign.envs import Environments
from rlalign.evaluate import evaluate
from rlalign.layout import Layout

POINT_MASS_STEPS = 50
POINT_MASS_SPACES = Box(-1, 1, (2,), np.float32), Box(-1, 1, (2,), np.float32)
Array = np.ndarray


def move(position: Array, action: Array) -> tuple[Array, Array]:
    """The next positions and the rewards, minus their distances from the origin."""
    successor = np.clip(position + 0.1 * action, -1, 1)
    return successor, -np.linalg.norm(successor, axis=1)


def point_mass_data(episodes: int = 2000, seed: int = 0) -> Dataset:
    """Walks toward the origin, each of its own skill, under strong noise; mean return -21.6."""
    generator = np.random.default_rng(seed)
    position = generator.uniform(-1, 1, (episodes, 2))
    skill = generator.uniform(0, 1, (episodes, 1))
    steps = []
    for _ in range(POINT_MASS_STEPS):
        direction = -position / np.maximum(np.linalg.norm(position, axis=1, keepdims=True), 1e-9)
        noise = generator.normal(size=position.shape)
        action = np.clip(0.5 * skill * direction + 0.6 * noise, -1, 1)
        successor, reward = move(position, action)
        steps.append((position, action, reward[:, None], successor))
        position = successor
    columns = [
        np.stack(parts, 1).reshape(episodes * POINT_MASS_STEPS, -1)
        for parts in zip(*steps, strict=True)
    ]
    return _dataset("point mass", columns, POINT_MASS_STEPS, 1.0)


def point_mass_return(agent: Agent, starts: int = 500) -> float:
    """Mean return of the deterministic policy from fixed starts."""
    position = np.random.default_rng(12345).uniform(-1, 1, (starts, 2))
    total = np.zeros(starts)
    for _ in range(POINT_MASS_STEPS):
        action, _ = agent.predict(position.astype(np.float32), deterministic=True)
        position, reward = move(position, action)
        total += reward
    return float(total.mean())


def swing_up(observation: Array) -> float:
    """Torque of a hand-made controller: pump energy below, balance on top."""
    cosine, sine, speed = observation
    angle = np.arctan2(sine, cosine)
    if abs(angle) < 0.6:
        return float(-(10 * angle + 2 * speed))
    if speed**2 / 6 + 5 * (cosine - 1) < 0:
        return float(2 * np.sign(speed))
    return float(-0.5 * speed)


def pendulum_data(kind: str, transitions: int = 20_000, seed: int = 0) -> Dataset:
    """``"narrow"``: the controller with noise 0.5; ``"mix"``: with 0.7, but two episodes of three
    act uniformly at random.
    """
    generator = np.random.default_rng(seed)
    env = gymnasium.make("Pendulum-v1")
    steps = []
    for episode in range(transitions // 200):
        observation, _ = env.reset(seed=seed * 100_000 + episode)
        random = kind == "mix" and episode % 3 != 0
        for _ in range(200):
            noise = generator.normal(0, 0.5 if kind == "narrow" else 0.7)
            unit = generator.uniform(-1, 1) if random else swing_up(observation) / 2 + noise
            action = 2 * np.clip(np.array([unit], np.float32), -1, 1)
            successor, reward, *_ = env.step(action)
            steps.append((observation, action, [reward], successor))
            observation = successor
    columns = [np.asarray(parts, np.float32) for parts in zip(*steps, strict=True)]
    return _dataset("pendulum", columns, 200, 2.0, "Pendulum-v1")


def pendulum_return(agent: Agent, episodes: int = 20) -> float:
    """Mean return of the deterministic policy."""
    environments = Environments("Pendulum-v1", episodes, seed=777, record=False)
    try:
        return evaluate(agent, environments, episodes).mean_return
    finally:
        environments.close()


def _dataset(
    name: str, columns: list[Array], length: int, bound: float, environment: str | None = None
) -> Dataset:
    """Columns s, a, r, s' as a dataset of episodes that end by time alone."""
    observations, actions, rewards, successors = columns
    count = len(observations)
    layout = Layout(observations.shape[1], actions.shape[1])
    table = layout.pack(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminations=np.zeros(count),
        next_observations=successors,
    )
    high = np.full(layout.action_size, bound, np.float32)
    ends = np.arange(length, count + 1, length)
    return Dataset(table, layout, ends, name, environment, -high, high)
