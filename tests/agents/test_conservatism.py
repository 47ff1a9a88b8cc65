"""What CQL's penalty and Cal-QL's bound do to values. Thresholds leave room below the measured.

Measured on one CPU thread.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlalign.agents import AGENTS
from rlalign.data.dataset import Dataset
from rlalign.extras import offline_replay
from rlalign.layout import Batch
from rlalign.phases import OfflinePhase
from tests.agents.corridor import Corridor, corridor_data
from tests.agents.tasks import POINT_MASS_SPACES, point_mass_data, point_mass_return

SMALL: dict[str, Any] = {
    "hidden": [64, 64],
    "batch_size": 128,
    "action_samples": 4,
    "cql_weight": 5.0,
    "lagrange": False,
    "backup": "sample",
    "observation_normalization": "none",
    "actor_learning_rate": 3e-4,
    "temperature_learning_rate": 3e-4,
}


@cache
def walks() -> Dataset:
    return corridor_data()


def learned(name: str, dataset: Dataset, spaces: Any, updates: int, **settings: Any) -> Any:
    agent = AGENTS[name](spaces, **{**SMALL, **settings})
    OfflinePhase(agent, dataset, updates).advance(updates)
    return agent


def values(agent: Any, observations: Tensor, actions: Tensor) -> Tensor:
    """The least critic's values [rows]."""
    with torch.no_grad():
        least: Tensor = agent.learner.nets.critic(observations, actions).amin(0)
    return least


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_cql_puts_random_actions_below_the_data_s(seed: int) -> None:
    """Measured, seeds 0 and 1: -0.18, -0.18 with weight 5, -0.11, -0.11 without; returns -7.8, -7.5
    (the data's mean return is -21.6).
    """
    dataset = point_mass_data()
    rows = np.random.default_rng(0).choice(len(dataset), 5000, replace=False)
    observations, actions = (
        torch.from_numpy(column[rows]) for column in (dataset.observations, dataset.actions)
    )
    uniform = 2 * torch.rand(actions.shape, generator=torch.Generator().manual_seed(0)) - 1
    margins = []
    for weight in (0.0, 5.0):
        agent = learned("cql", dataset, POINT_MASS_SPACES, 2000, seed=seed, cql_weight=weight)
        data, random = (values(agent, observations, a) for a in (actions, uniform))
        margins.append(float((random - data).mean()))
    assert point_mass_return(agent) > -12
    assert margins[1] < 1.3 * margins[0] < 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_cal_ql_leaves_fewer_values_below_their_returns(seed: int) -> None:
    """Measured, seeds 0 and 1: 0.069, 0.070 of the data's values lie below their returns, CQL's
    0.116, 0.120; mean values -54.5, -54.8 and -58.2, -58.5.
    """
    spaces = Corridor.observation_space, Corridor.action_space
    scale: dict[str, Any] = {"reward_scale": 10.0, "reward_shift": -5.0, "discount": 0.95}
    quick: dict[str, Any] = {"target_rate": 0.02, "critic_learning_rate": 1e-3, "seed": seed}
    calibrated = learned("cal_ql", walks(), spaces, 2000, **scale, **quick, failure_reward=0.0)
    plain = learned("cql", walks(), spaces, 2000, **scale, **quick)
    batch = Batch(offline_replay(calibrated, walks()).table, calibrated.layout)
    below, mean = [], []
    for agent in (calibrated, plain):
        found = values(agent, batch.observations, batch.actions)
        below.append(float((found < batch["mc_returns"]).float().mean()))
        mean.append(float(found.mean()))
    assert below[0] < 0.8 * below[1]
    assert mean[0] > mean[1]
