"""The behaviour policies that the package ships do what their names say."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from rlalign.data.behaviour import load_policy, shipped
from rlalign.data.local import ENVIRONMENTS, collect_local

TASKS = sorted(ENVIRONMENTS)


@pytest.mark.parametrize("task", TASKS)
def test_medium_reaches_a_third_of_the_expert(task: str) -> None:
    policies = shipped(task)
    expert = load_policy(policies.path(policies.expert)).metadata["return_mean"]
    medium = load_policy(policies.path(policies.medium)).metadata["return_mean"]
    assert 0.2 * expert < medium < 0.6 * expert


@pytest.mark.parametrize("task", TASKS)
def test_replay_goes_from_the_beginning_to_the_medium_policy(task: str) -> None:
    policies = shipped(task)
    steps = [load_policy(policies.path(name)).metadata["steps"] for name in policies.replay]
    assert steps == sorted(set(steps))
    assert steps[0] == 0
    assert policies.replay[-1] == policies.medium


@pytest.mark.parametrize("task", TASKS)
def test_policies_fit_their_environment(task: str) -> None:
    policies = shipped(task)
    environment = gymnasium.make(ENVIRONMENTS[task])
    observation, _ = environment.reset(seed=0)
    generator = np.random.default_rng(0)
    for name in {policies.expert, policies.medium, *policies.replay}:
        actions = load_policy(policies.path(name)).act(observation[None], generator)
        assert environment.action_space.shape is not None
        assert actions.shape == (1, *environment.action_space.shape)
        assert np.abs(actions).max() <= 1.0
    environment.close()


def test_the_expert_s_data_is_better_than_the_medium_s() -> None:
    scores = {}
    for kind in ("random", "medium", "expert"):
        dataset = collect_local(f"hopper-{kind}-v0", transitions=3_000, progress=False)
        scores[kind] = float(dataset.normalized_score(dataset.episode_returns().mean()))
    # Measured at full size: about 1, 31 and 96; episodes cut off by the size lower the means.
    assert scores["random"] < 5 < scores["medium"]
    assert scores["medium"] + 5 < scores["expert"]
