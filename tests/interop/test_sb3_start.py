"""stable-baselines3's policies as the beginning of agents and of datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlalign.agents import AWAC, BC, IQL, SAC, TD3, TD3BC
from rlalign.errors import CheckpointError
from rlalign.interop.sb3_policy import SB3Policy, load_sb3_policy
from tests.interop.test_sb3_policy import observations, train

# stable-baselines3's algorithm, its settings, our agent that can start from it, its settings
PAIRS: dict[str, tuple[str, dict[str, Any], type[Any], dict[str, Any]]] = {
    "sac to sac": ("SAC", {}, SAC, {}),
    "sac to iql": ("SAC", {}, IQL, {}),
    "sac to td3": ("SAC", {}, TD3, {}),
    "td3 to td3": ("TD3", {}, TD3, {}),
    "td3 to td3_bc": ("TD3", {}, TD3BC, {"observation_normalization": "none"}),
    "td3 to iql": ("TD3", {}, IQL, {}),
    "td3 to bc": ("TD3", {}, BC, {"observation_normalization": "none"}),
    "ppo to awac": (
        "PPO",
        {"policy_kwargs": {"activation_fn": torch.nn.ReLU}},
        AWAC,
        {"observation_normalization": "none"},
    ),
}


def saved(folder: Path, algorithm: str, **settings: Any) -> SB3Policy:
    train(algorithm, 128, **settings).save(folder / "model")
    return load_sb3_policy(folder / "model")


@pytest.mark.parametrize("pair", PAIRS)
def test_an_agent_that_starts_from_a_policy_acts_like_it(tmp_path: Path, pair: str):
    algorithm, settings, agent_type, ours = PAIRS[pair]
    policy = saved(tmp_path, algorithm, **settings)
    agent = agent_type("Pendulum-v1", seed=0, hidden=(16, 8), **ours)
    expected = policy.predict(observations(), deterministic=True)[0]
    before = agent.predict(observations(), deterministic=True)[0]
    policy.copy_into(agent)
    found = agent.predict(observations(), deterministic=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(before - found).max() > 1e-2


def test_targets_start_where_the_actor_does(tmp_path: Path):
    agent = TD3("Pendulum-v1", seed=0, hidden=(16, 8))
    saved(tmp_path, "TD3").copy_into(agent)
    nets = agent.learner.nets
    inputs = torch.from_numpy(observations())
    torch.testing.assert_close(nets.actor_target(inputs), nets.actor(inputs))


@pytest.mark.parametrize("pair", ["sac to sac", "ppo to awac"])
def test_samples_keep_their_spread(tmp_path: Path, pair: str):
    algorithm, settings, agent_type, ours = PAIRS[pair]
    policy = saved(tmp_path, algorithm, **settings)
    agent = agent_type("Pendulum-v1", seed=0, hidden=(16, 8), **ours)
    policy.copy_into(agent)
    same = np.repeat(observations(1), 20_000, axis=0)
    ours_sampled = agent.predict(same)[0]
    theirs = policy.predict(same)[0]
    assert abs(ours_sampled.std() - theirs.std()) < 0.05
    assert theirs.std() > 0.2


def test_normalisation_is_taken_into_the_first_layer(tmp_path: Path):
    policy = saved(tmp_path, "TD3")
    agent = TD3("Pendulum-v1", seed=0, hidden=(16, 8), observation_normalization="standard")
    with pytest.raises(CheckpointError, match=r"agent\.prepare"):
        policy.copy_into(agent)
    agent.preprocessing.mean = torch.tensor([0.1, -0.2, 1.0])
    agent.preprocessing.std = torch.tensor([0.7, 0.6, 4.0])
    policy.copy_into(agent)
    expected = policy.predict(observations(), deterministic=True)[0]
    found = agent.predict(observations(), deterministic=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("algorithm", "agent_type", "settings", "message"),
    [
        ("TD3", SAC, {"hidden": (16, 8)}, "another kind of output"),
        ("PPO", TD3, {"hidden": (16, 8)}, "another kind of output"),
        ("PPO", AWAC, {"hidden": (16, 8)}, "Tanh layers do not fit"),
        ("TD3", TD3, {"hidden": (16, 16)}, r"3-16-8-1.*3-16-16-1.*hidden=\[16, 8\]"),
    ],
)
def test_policies_that_do_not_fit_are_refused_and_change_nothing(
    tmp_path: Path, algorithm: str, agent_type: type[Any], settings: dict[str, Any], message: str
):
    agent = agent_type("Pendulum-v1", seed=0, **settings)
    before = agent.predict(observations(), deterministic=True)[0]
    with pytest.raises(CheckpointError, match=message):
        saved(tmp_path, algorithm).copy_into(agent)
    np.testing.assert_array_equal(agent.predict(observations(), deterministic=True)[0], before)


def test_a_policy_collects_a_dataset(tmp_path: Path):
    from rlalign.data.collecting import collect

    policy = saved(tmp_path, "SAC")
    dataset = collect(policy, "Pendulum-v1", transitions=300, seed=0)
    again = collect(policy, "Pendulum-v1", transitions=300, seed=0)
    assert len(dataset) == 300
    assert dataset.fingerprint == again.fingerprint
    assert np.abs(dataset.actions).max() <= 2
    assert dataset.actions.std() > 0.1
