"""`learn` called again goes on where it stopped."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.envs import Environments
from rlalign.errors import CheckpointError, SettingsError
from rlalign.layout import Batch
from tests.agents.tiny import SMALL, weights
from tests.envs.toy import Counter
from tests.test_phases import tagged_dataset

LENGTH = 5  # steps of an episode, which no call below is a multiple of
CALLS = (7, 1, 13, 2, 9)


def make(name: str = "sac", *, length: int = LENGTH, **settings: Any) -> Any:
    return AGENTS[name](partial(Counter, length), **{**SMALL, **settings})


def contents(agent: Any) -> torch.Tensor:
    """The replay buffer's rows."""
    return agent.replay_buffer.table[: len(agent.replay_buffer)]


@pytest.mark.parametrize(
    ("name", "online"),
    [
        ("sac", {"random_steps": 10, "warmup_steps": 12, "updates_per_step": 0.3}),
        ("td3", {"random_steps": 4, "warmup_steps": 9, "update_after": 4}),
        ("iql", {"replay": "annealed", "anneal_steps": 20, "reset_optimizers": True}),
        ("cal_ql", {"replay": "mixture", "update_after": "episode"}),
        ("rebrac", {"replay": "mixture", "reset_optimizers": True}),
    ],
)
def test_many_short_calls_are_as_one_long_one(name: str, online: dict[str, Any]) -> None:
    agents = []
    offline = 0 if "random_steps" in online else 5  # none are taken after a fit
    for calls in (CALLS, (sum(CALLS),)):
        agent = make(name)
        agent.fit(tagged_dataset(), offline)
        start = weights(agent)
        for steps in calls:
            agent.learn(steps, **online)
        assert agent.num_timesteps == sum(CALLS)
        assert agent.learner.step_count > offline
        assert any(not torch.equal(start[key], now) for key, now in weights(agent).items())
        agents.append(agent)
    short, long = agents
    assert short.learner.step_count == long.learner.step_count
    assert torch.equal(contents(short), contents(long))
    for key, value in weights(long).items():
        assert torch.equal(weights(short)[key], value), key


def asked_of(agent: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps at which the policy acts from now on; at others actions are random."""
    asked: list[int] = []
    act = agent.act

    def noted(*arguments: Any, **options: Any) -> Any:
        asked.append(agent.num_timesteps)
        return act(*arguments, **options)

    monkeypatch.setattr(agent, "act", noted)
    return asked


@pytest.mark.parametrize("offline", [0, 2])
def test_counting_anew_begins_with_an_episode_warm_up_and_random_steps(
    offline: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make()
    agent.fit(tagged_dataset(), offline)
    asked = asked_of(agent, monkeypatch)
    first = 0 if offline else 6  # no random steps after an offline phase
    agent.learn(8, random_steps=6, warmup_steps=6)
    assert agent.learner.step_count == offline + 2
    assert asked == list(range(first, 8))
    asked.clear()
    agent.learn(8, reset_num_timesteps=True, random_steps=6, warmup_steps=6)
    assert agent.learner.step_count == offline + 4
    assert agent.num_timesteps == 8
    assert asked == list(range(first, 8))
    assert contents(agent)[8, 0] == 0  # the first observation of an episode of Counter


def test_an_offline_phase_in_between_ends_the_random_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    agent = make()
    online = {"random_steps": 100, "warmup_steps": 1000}
    agent.learn(3, **online)
    agent.fit(tagged_dataset(), 2)
    asked = asked_of(agent, monkeypatch)
    agent.learn(4, **online)
    assert asked == [3, 4, 5, 6]


def test_a_moved_environment_begins_a_new_episode() -> None:
    """Cal-QL's returns would otherwise be those of two episodes joined."""
    agent = make("cal_ql")
    agent.fit(tagged_dataset(), 2)
    agent.learn(3)
    agent.get_env().reset()
    agent.learn(LENGTH)
    assert contents(agent)[:, 0].tolist() == list(range(LENGTH))


@pytest.mark.parametrize("played", [0, LENGTH, 2 * LENGTH, 3])
def test_an_environment_object_that_its_owner_moved_begins_a_new_episode(played: int) -> None:
    env = Counter(LENGTH)
    agent = AGENTS["sac"](env, **SMALL)
    agent.learn(LENGTH + 3)
    if played:  # what stable-baselines3's evaluate_policy does
        env.reset()
        for step in range(played):
            if env.step(agent.action_space.sample())[2] and step + 1 < played:
                env.reset()
    agent.learn(2)
    assert contents(agent)[:, 0].tolist()[-2:] == ([0, 1] if played else [3, 4])


def test_other_environments_begin_new_episodes_and_keep_what_was_seen() -> None:
    agent = make(length=50)
    agent.learn(7, random_steps=20, warmup_steps=10)
    agent.set_env(partial(Counter, 50))
    agent.learn(5, random_steps=20, warmup_steps=10)
    assert len(agent.replay_buffer) == 12
    assert agent.learner.step_count == 2  # of twelve steps the last two
    assert contents(agent)[7, 0] == 0


def test_a_loaded_agent_warms_up_its_new_buffer_with_its_own_actions(tmp_path: Path) -> None:
    agent = make()
    agent.learn(20, random_steps=10, warmup_steps=10)
    agent.save(tmp_path / "agent")
    loaded = AGENTS["sac"].load(tmp_path / "agent", env=partial(Counter, LENGTH))
    before = loaded.learner.step_count
    loaded.learn(14, random_steps=10, warmup_steps=10)
    assert loaded.learner.step_count == before + 4
    first = Batch(contents(loaded)[:1], loaded.layout)
    random = np.random.Generator(np.random.PCG64([loaded.seed, 1])).uniform(-1, 1, (1, 1))
    assert first.actions.item() != pytest.approx(1.0 + 3.0 * random.item(), abs=1e-4)


# The replay buffer.


def test_a_loaded_buffer_keeps_its_size_and_rows(tmp_path: Path) -> None:
    agent = make()
    agent.learn(30, buffer_size=40)
    agent.save_replay_buffer(tmp_path / "replay.safetensors")
    other = make(seed=1)
    other.load_replay_buffer(tmp_path / "replay.safetensors")
    other.learn(5)
    assert other.replay_buffer.capacity == 40
    assert len(other.replay_buffer) == 35
    assert torch.equal(contents(other)[:30], contents(agent))


@pytest.mark.parametrize(("before", "size"), [(12, 6), (30, 6), (12, 100)])
def test_a_buffer_of_another_size_keeps_the_newest_rows(before: int, size: int) -> None:
    agent = make()
    agent.learn(before, buffer_size=20)
    newest = agent.replay_buffer.newest(size)
    agent.learn(1, buffer_size=size)
    kept = agent.replay_buffer.newest(size)
    expected = torch.cat((newest, kept[-1:]))[-size:]
    assert agent.replay_buffer.capacity == size
    assert torch.equal(kept, expected)


def test_an_agent_s_file_is_no_replay_buffer(tmp_path: Path) -> None:
    agent = make()
    agent.save(tmp_path / "agent.safetensors")
    with pytest.raises(CheckpointError, match="holds agent 'sac', not a replay buffer"):
        agent.load_replay_buffer(tmp_path / "agent.safetensors")


# What cannot be.


def test_a_number_of_environments_comes_from_the_constructor() -> None:
    with pytest.raises(SettingsError, match="environments is 4, but the agent has 1"):
        make().learn(8, environments=4)
    environments = Environments(partial(Counter, LENGTH), 4, seed=0)
    agent = AGENTS["sac"](environments, hidden=[16, 16], batch_size=32)
    agent.learn(8, environments=4)
    assert agent.num_timesteps == 8


@pytest.mark.parametrize(
    ("name", "settings", "setting"),
    [
        ("td3_bc", {}, "observation_normalization"),
        ("iql", {"reward_scale": "return_range"}, "reward_scale"),
    ],
)
def test_what_a_dataset_decides_is_not_left_out(
    name: str, settings: dict[str, Any], setting: str
) -> None:
    with pytest.raises(SettingsError, match=f"setting {setting} is .* call prepare"):
        make(name, **settings).learn(3, replay="online")
    agent = make(name, **settings)
    agent.prepare(tagged_dataset())
    agent.learn(3, replay="online")
    assert agent.num_timesteps == 3


def test_what_callbacks_are_told_counts_all_calls() -> None:
    told: list[int] = []

    def note(values: dict[str, Any], _: Any) -> bool:
        told.append(values["total_timesteps"])
        return True

    agent = make()
    for _ in range(2):
        agent.learn(4, callback=note)
    assert told == [4] * 4 + [8] * 4
