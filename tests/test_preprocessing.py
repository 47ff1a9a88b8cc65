from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rlalign.layout import Batch
from rlalign.phases import OfflinePhase
from rlalign.preprocessing import Preprocessing
from rlalign.settings import AgentSettings
from tests.agents.tiny import make
from tests.toy_data import random_dataset


def shifted_dataset() -> Any:
    dataset = random_dataset()
    scale, shift = torch.tensor([1.0, 10.0, 0.1, 3.0]), torch.tensor([0.0, 50.0, -2.0, 1.0])
    for name in ("observations", "next_observations"):
        columns = dataset.table[:, dataset.layout.columns[name]]
        columns.mul_(scale).add_(shift)
    return dataset


def test_observations_are_normalised_by_the_dataset_s_mean_and_deviation() -> None:
    """(s - mean) / (std + 1e-3), as TD3+BC and CORL have it."""
    dataset = shifted_dataset()
    settings = AgentSettings(observation_normalization="standard")
    found = Preprocessing.from_dataset(dataset, settings)
    raw = dataset.observations.astype(np.float64)
    torch.testing.assert_close(found.mean, torch.from_numpy(raw.mean(0)).float())
    torch.testing.assert_close(found.std, torch.from_numpy(raw.std(0)).float() + 1e-3)
    normal = found.observations(torch.from_numpy(dataset.observations))
    assert normal.mean(0).abs().max() < 1e-4
    assert (normal.std(0) - 1).abs().max() < 0.02
    assert found.normalizes


def test_without_normalisation_observations_stay_bit_for_bit() -> None:
    dataset = shifted_dataset()
    found = Preprocessing.from_dataset(dataset, AgentSettings())
    raw = torch.from_numpy(dataset.observations)
    assert found.observations(raw) is raw
    assert not found.normalizes


@pytest.mark.parametrize(
    ("scale", "shift", "expected"),
    [(1.0, 0.0, 1.0), (10.0, -5.0, 10.0), ("return_range", 0.0, None)],
)
def test_rewards_are_scaled_then_shifted(scale: Any, shift: float, expected: float | None) -> None:
    dataset = shifted_dataset()
    settings = AgentSettings(reward_scale=scale, reward_shift=shift)
    found = Preprocessing.from_dataset(dataset, settings)
    if expected is None:
        returns = dataset.rewards.reshape(10, -1).sum(1)
        expected = 1000.0 / float(returns.max() - returns.min())
    assert found.reward_scale == pytest.approx(expected, rel=1e-5)
    assert found.reward_shift == shift


def test_losses_and_policy_see_the_same_normalised_observations() -> None:
    agent = make("td3_bc", reward_scale=10.0, reward_shift=-5.0, batch_size=64)
    dataset = shifted_dataset()
    raw = dataset.table.clone()
    seen: list[Batch] = []
    step = agent.learner.step

    def watch(rows: torch.Tensor) -> None:
        seen.append(Batch(rows.clone(), agent.layout))
        step(rows)

    agent.learner.step = watch
    OfflinePhase(agent, dataset, 1).advance(1)
    batch = seen[0]
    assert batch.observations.abs().max() < 6
    assert torch.equal(dataset.table, raw)
    # Each row of the batch is one of the table's, transformed once.
    normal = agent.preprocessing.observations(torch.from_numpy(dataset.observations))
    distance = torch.cdist(batch.observations, normal)
    nearest = distance.argmin(1)
    assert distance.min(1).values.max() < 1e-2
    rewards = 10.0 * torch.from_numpy(dataset.rewards).flatten()[nearest] - 5.0
    torch.testing.assert_close(batch.rewards, rewards, rtol=1e-4, atol=1e-4)
    # Acting normalises raw observations by itself.
    one = torch.from_numpy(dataset.observations[:5])
    wanted = agent.learner.nets.actor(agent.preprocessing.observations(one))
    np.testing.assert_allclose(
        agent.act(one, deterministic=True), wanted.detach().numpy(), rtol=1e-5, atol=1e-6
    )


def test_statistics_are_frozen_once_learning_has_begun() -> None:
    agent = make("td3_bc")
    first = shifted_dataset()
    OfflinePhase(agent, first, 2).advance(2)
    mean = agent.preprocessing.mean.clone()
    agent.prepare(random_dataset(seed=5))
    assert torch.equal(agent.preprocessing.mean, mean)
    fresh = make("td3_bc")
    fresh.prepare(random_dataset(seed=5))
    assert not torch.equal(fresh.preprocessing.mean, mean)
