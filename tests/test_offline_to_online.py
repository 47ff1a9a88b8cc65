"""Going online: what batches are made of, what is carried over, and when updates fall."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.data.returns import returns_to_go
from rlalign.envs import Environments
from rlalign.errors import RecipeError, SettingsError
from rlalign.experiment import train
from rlalign.extras import offline_replay
from rlalign.layout import Batch, Layout
from rlalign.phases import OfflinePhase, OnlinePhase
from rlalign.recipe import parse_recipe
from rlalign.replay import AnnealedReplay, FixedReplay
from rlalign.settings import OnlineSettings
from tests.agents.tiny import SMALL, weights
from tests.envs.toy import Counter
from tests.test_phases import TAG, tagged_dataset, watched
from tests.toy_data import random_dataset

LENGTH = 3  # steps of an episode of Counter


def make(name: str, *, seed: int = 0, **settings: Any) -> Any:
    return AGENTS[name](partial(Counter, LENGTH), seed=seed, **{**SMALL, **settings})


def online(agent: Any, count: int = 1, *, dataset: Any = None, env: Any = None, **settings: Any):
    environments = Environments(env or partial(Counter, LENGTH), count, seed=0)
    options = OnlineSettings(**{"environments": count, **settings})
    return OnlinePhase(agent, environments, 1000, options, dataset=dataset)


def small_cal_ql(**settings: Any) -> Any:
    return make("cal_ql", **{"action_samples": 2, **settings})


# What batches are made of.


def test_the_share_of_the_dataset_moves_linearly_and_stays_where_it_ends() -> None:
    layout = Layout(2, 1)
    parts = [FixedReplay(torch.full((50, layout.width), float(part)), layout) for part in range(2)]
    replay = AnnealedReplay(*parts, start=0.75, end=0.25, steps=100)
    source = torch.Generator().manual_seed(0)
    found = []
    for step in (0, 25, 50, 100, 1000):
        replay.set_step(step)
        rows = replay.sample(256, source)[:, 0]
        found.append(int((rows == 0.0).sum()))
    assert found == [192, 160, 128, 64, 64]


def test_an_annealed_share_follows_the_environment_steps() -> None:
    agent = make("iql", batch_size=100)
    settings: dict[str, Any] = {"offline_fraction": 1.0, "final_offline_fraction": 0.2}
    phase = online(agent, dataset=tagged_dataset(), replay="annealed", anneal_steps=10, **settings)
    seen = watched(agent)
    phase.advance(12)
    offline = [int((batch.observations[:, 0] == TAG).sum()) for batch in seen]
    assert offline == [92, 84, 76, 68, 60, 52, 44, 36, 28, 20, 20, 20]


def test_cal_ql_s_batches_are_half_offline_and_half_of_ended_episodes() -> None:
    """Spec, 24: by its own defaults, and never an online half of nothing."""
    agent = small_cal_ql(batch_size=256)
    defaults = vars(agent.online_defaults)
    phase = online(agent, dataset=tagged_dataset(), **defaults)
    seen = watched(agent)
    phase.advance(2 * LENGTH)
    assert [int((batch.observations[:, 0] == TAG).sum()) for batch in seen] == [128] * 2 * LENGTH


# When updates fall.


def test_updates_may_come_in_blocks_of_steps() -> None:
    """As rlkit's AWAC and FamO2O's CQL: so many steps, then as many updates."""
    agent = make("sac")
    phase = online(agent, 2, update_after=5)
    counts = []
    for _ in range(6):
        phase.advance(2)
        counts.append(agent.learner.step_count)
    assert counts == [0, 0, 6, 6, 10, 10]


@pytest.mark.parametrize("rate", [1.0, 2.0, 0.5])
def test_updates_after_episodes_are_as_many_as_after_steps(rate: float) -> None:
    agent = make("sac")
    phase = online(agent, update_after="episode", updates_per_step=rate)
    counts = []
    for _ in range(9):
        phase.advance(1)
        counts.append(agent.learner.step_count)
    each = [int(rate * 3), int(rate * 6), int(rate * 9)]
    assert counts == [0, 0, each[0], each[0], each[0], each[1], each[1], each[1], each[2]]


def test_updates_wait_for_something_to_learn_from() -> None:
    """Online alone and step by step, with rows that are kept back until their episode ends."""
    agent = small_cal_ql()
    phase = online(agent, replay="online")
    counts = []
    for _ in range(4):
        phase.advance(1)
        counts.append(agent.learner.step_count)
    assert counts == [0, 0, 3, 4]


# Extra columns.


@pytest.mark.parametrize("truncates", [False, True])
def test_returns_of_interaction_are_those_of_the_whole_episode(truncates: bool) -> None:
    agent = small_cal_ql(reward_scale=2.0, reward_shift=-1.0, discount=0.9)
    phase = online(agent, 2, env=partial(Counter, LENGTH, truncates), replay="online")
    for done, rows in ((2, 0), (4, 0), (6, 6), (10, 6), (12, 12)):
        phase.advance(done - phase.done)
        assert len(phase.buffer) == rows
    batch = Batch(phase.buffer.table[:12], agent.layout)
    assert batch.observations[:, 0].tolist() == [0, 1, 2] * 4  # episode after episode
    rewards = 2.0 * batch.rewards.numpy() - 1.0
    wanted = returns_to_go(rewards, np.array([3, 6, 9, 12]), 0.9)
    torch.testing.assert_close(batch["mc_returns"], torch.from_numpy(wanted))
    assert batch["mc_returns"].abs().min() > 0


def test_offline_and_online_rows_have_returns_in_one_unit() -> None:
    agent = small_cal_ql(reward_scale=2.0, reward_shift=-1.0, discount=0.0)
    dataset = tagged_dataset()
    OfflinePhase(agent, dataset, 2).advance(2)
    phase = online(agent, dataset=dataset, **vars(agent.online_defaults))
    seen = watched(agent)
    phase.advance(2 * LENGTH)
    for batch in seen:  # without discount a return is the reward as the losses see it
        torch.testing.assert_close(batch["mc_returns"], batch.rewards)


def test_an_episode_longer_than_the_buffer_leaves_its_end() -> None:
    agent = small_cal_ql()
    phase = online(agent, replay="online", buffer_size=2, warmup_steps=100)
    phase.advance(LENGTH)
    assert Batch(phase.buffer.table[:2], agent.layout).observations[:, 0].tolist() == [1.0, 2.0]


def test_a_dataset_s_own_columns_give_way_to_the_agent_s() -> None:
    dataset = random_dataset(2, 1, 40, low=-2.0, high=4.0)
    foreign = dataset.with_extras({"mc_returns": np.full(40, 7.0), "other": np.zeros(40)})
    plain, cal_ql = make("iql"), small_cal_ql()
    assert torch.equal(offline_replay(plain, foreign).table, dataset.table)
    assert offline_replay(plain, dataset).table.data_ptr() == dataset.table.data_ptr()
    both = [offline_replay(cal_ql, data).table for data in (dataset, foreign)]
    assert torch.equal(*both)
    assert not (Batch(both[0], cal_ql.layout)["mc_returns"] == 7.0).any()


def test_a_phase_cut_within_an_episode_goes_on_bit_for_bit() -> None:
    """Rows that are kept back, updates that are owed and the annealed share are part of it."""
    dataset = tagged_dataset()
    settings: dict[str, Any] = {
        "replay": "annealed",
        "anneal_steps": 30,
        "update_after": "episode",
        "updates_per_step": 0.7,
        "reset_optimizers": True,
    }
    whole = small_cal_ql()
    OfflinePhase(whole, dataset, 5).advance(5)
    phase = online(whole, 2, dataset=dataset, **settings)
    phase.advance(2 * LENGTH + 2)
    assert phase.interaction.episodes.state_dict()
    tensors, state = phase.state_dict()
    saved = {name: value.clone() for name, value in tensors.items()}, json.loads(json.dumps(state))
    agent_tensors, agent_state = whole.state_dict()
    agent_tensors = {name: value.clone() for name, value in agent_tensors.items()}
    middle = weights(whole)
    rest = small_cal_ql(seed=5)
    rest.load_state_dict(agent_tensors, json.loads(json.dumps(agent_state)))
    resumed = online(rest, 2, dataset=dataset, **settings)
    rest.load_state_dict(agent_tensors, json.loads(json.dumps(agent_state)))
    resumed.load_state_dict(*saved)
    for part in (phase, resumed):
        part.advance(4 * LENGTH)
    assert torch.equal(
        resumed.buffer.table[: len(phase.buffer)], phase.buffer.table[: len(phase.buffer)]
    )
    for name, value in weights(whole).items():
        assert torch.equal(weights(rest)[name], value)
        assert not torch.equal(middle[name], value)


# What is carried over.


@pytest.mark.parametrize("reset", [False, True])
def test_everything_is_carried_over_and_optimisers_on_request_are_not(reset: bool) -> None:
    dataset = tagged_dataset()
    agent = small_cal_ql(observation_normalization="standard")
    OfflinePhase(agent, dataset, 5).advance(5)
    before, mean = weights(agent), agent.preprocessing.mean.clone()
    online(agent, dataset=dataset, replay="union", reset_optimizers=reset)
    assert all(torch.equal(value, before[name]) for name, value in weights(agent).items())
    assert torch.equal(agent.preprocessing.mean, mean)
    assert mean.abs().max() > 1
    for optimizer in agent.learner.optimizers.values():
        assert optimizer.steps.item() == (0 if reset else 5)
        assert bool(optimizer.first_moment.any()) != reset
        assert bool(optimizer.second_moment.any()) != reset


def test_the_phase_is_part_of_the_agent_s_state() -> None:
    agent = make("iql")
    assert not agent.online
    online(agent, replay="online")
    assert agent.online
    other = make("iql")
    other.load_state_dict(*agent.state_dict())
    assert other.online
    OfflinePhase(other, tagged_dataset(), 3)
    assert not other.online


# Exploration and evaluation.


def test_deterministic_exploration_acts_as_in_evaluation() -> None:
    agent = make("sac")
    phase = online(agent, exploration="deterministic", warmup_steps=100)
    phase.advance(2 * LENGTH)
    batch = Batch(phase.buffer.table[: 2 * LENGTH], agent.layout)
    wanted, _ = agent.predict(batch.observations.numpy(), deterministic=True)
    np.testing.assert_allclose(batch.actions.numpy(), wanted, rtol=1e-5, atol=1e-5)
    sampling = online(make("sac"), warmup_steps=100)
    sampling.advance(LENGTH)
    actions = Batch(sampling.buffer.table[:LENGTH], agent.layout).actions
    assert (actions - batch.actions[:LENGTH]).abs().max() > 1e-3


def test_the_agent_is_evaluated_before_its_first_online_step(tmp_path: Path) -> None:
    """So that the dip after the switch can be told from the offline score."""
    data = tmp_path / "data.hdf5"
    random_dataset(3, 1, 200, low=-2.0, high=2.0).save(data)
    recipe = parse_recipe(
        {
            "agent": "cql",
            "environment": "Pendulum-v1",
            "dataset": str(data),
            "settings": {"hidden": [8], "batch_size": 16, "action_samples": 2},
            "offline": {"steps": 20},
            "online": {"steps": 30, "warmup_steps": 10},
            "evaluation": {"every": 15, "episodes": 1},
            "logging": {"tensorboard": False},
        }
    )
    train(recipe, tmp_path / "run", progress=False)
    lines = (tmp_path / "run" / "evaluations.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    places = [(row["phase"], row["step"]) for row in rows]
    assert places == [
        ("offline", 0),
        ("offline", 15),
        ("offline", 20),
        ("online", 0),
        ("online", 15),
        ("online", 30),
    ]
    at_switch = next(row for row in rows if (row["phase"], row["step"]) == ("online", 0))
    assert at_switch["updates"] == 20
    assert at_switch["env_steps"] == 0


# Mistakes.


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"final_offline_fraction": 1.5}, "final_offline_fraction"),
        ({"anneal_steps": 0}, "anneal_steps"),
        ({"update_after": 0}, "update_after"),
        ({"update_after": "step"}, "update_after"),
    ],
)
def test_an_online_setting_out_of_range_is_named(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=f"setting {named}"):
        OnlineSettings(**settings)


@pytest.mark.parametrize("replay", ["mixture", "annealed"])
def test_a_recipe_that_mixes_needs_a_dataset(replay: str) -> None:
    document = {"agent": "iql", "environment": "X", "online": {"steps": 5, "replay": replay}}
    with pytest.raises(RecipeError, match=f"has online.replay '{replay}' but no dataset"):
        parse_recipe(document)
