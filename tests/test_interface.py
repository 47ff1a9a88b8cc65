"""Agents from Python: seeds, observations, logs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import configure

from rlalign.agents import AGENTS
from rlalign.devices import usable_device
from rlalign.errors import CheckpointError, DatasetError, EnvError, SettingsError
from tests.agents.tiny import SMALL, make, replay_of, weights
from tests.envs.toy import Counter, Goal
from tests.toy_data import random_dataset


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    kind: Any = AGENTS["iql"]
    agent = kind(
        partial(Counter, 3),
        seed=np.int64(3),
        hidden=[np.int64(16)],
        batch_size=np.int32(8),
        expectile=np.float32(0.5),
    )
    agent.fit(random_dataset(2, 1), np.int64(4))
    agent.save(tmp_path / "agent")
    loaded = AGENTS["iql"].load(tmp_path / "agent")
    assert loaded.seed == 3
    assert loaded.settings == agent.settings
    assert torch.equal(weights(loaded)["actor"], weights(agent)["actor"])


@pytest.mark.parametrize("seed", [-1, 1.5, None, "0"])
def test_a_seed_is_a_whole_number_of_at_least_0(seed: Any) -> None:
    with pytest.raises(SettingsError, match="seed must be a whole number of at least 0"):
        make("iql", seed=seed)


@pytest.mark.parametrize("observation", [np.zeros(8), np.zeros((2, 3)), 1.0, {"a": np.zeros(4)}])
def test_observations_of_another_shape_are_refused(observation: Any) -> None:
    agent = make("iql")
    with pytest.raises(EnvError, match=r"must be of shape \(4,\) or \('n', 4\), got"):
        agent.predict(observation)


def test_goal_observations_are_flattened_as_the_environments_flatten_them() -> None:
    agent: Any = AGENTS["sac"](Goal, **SMALL)
    one = Goal().observe()
    flat = np.array([1, 1, 2, 2, 2, 3, 3])
    expected = agent.predict(flat, deterministic=True)[0]
    found = agent.predict(one, deterministic=True)[0]
    assert found.shape == (1,)
    np.testing.assert_array_equal(found, expected)
    random = np.random.default_rng(0)
    batch = {key: random.normal(size=(5, part.size)) for key, part in one.items()}
    order = ("achieved_goal", "observation", "desired_goal")
    rows = np.concatenate([batch[key] for key in order], axis=1)
    expected = agent.predict(rows, deterministic=True)[0]
    np.testing.assert_array_equal(agent.predict(batch, deterministic=True)[0], expected)
    assert np.ptp(expected) > 0


def test_goal_observations_that_cannot_be_flattened_are_refused() -> None:
    agent: Any = AGENTS["sac"](Goal, **SMALL)
    one = Goal().observe()
    with pytest.raises(
        EnvError, match=r"of one length, got achieved_goal \(2,\), observation \(\)"
    ):
        agent.predict({**one, "observation": 1.0})
    with pytest.raises(EnvError, match=r"must be of shape \(7,\) or \('n', 7\), got \(8,\)"):
        agent.predict({**one, "observation": np.zeros(4)})
    with pytest.raises(EnvError, match=r"got .* of dict"):
        agent.predict({**one, "further": np.zeros(4)})


def test_verbose_prints_and_tensorboard_writes_what_is_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    agent = AGENTS["sac"](partial(Counter, 3), verbose=1, tensorboard_log=tmp_path, **SMALL)
    agent.learn(20, log_interval=10, tb_log_name="mine", warmup_steps=0)
    printed = capsys.readouterr().out
    assert "critic_loss" in printed
    assert "train_return" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["mine_1"]
    assert any((tmp_path / "mine_1").iterdir())


def test_a_further_run_is_written_apart_where_it_has_another_name_or_begins_anew(
    tmp_path: Path,
) -> None:
    agent = AGENTS["sac"](partial(Counter, 3), tensorboard_log=tmp_path, **SMALL)

    def learn(**options: Any) -> list[str]:
        agent.learn(5, log_interval=5, **options)
        return sorted(path.name for path in tmp_path.iterdir())

    assert learn(tb_log_name="mine") == ["mine_1"]
    assert learn() == learn(tb_log_name="mine") == ["mine_1"]
    assert learn(tb_log_name="other") == ["mine_1", "other_1"]
    assert learn(tb_log_name="other", reset_num_timesteps=True) == ["mine_1", "other_1", "other_2"]
    agent.set_logger(configure(str(tmp_path / "own"), ["csv"]))
    assert learn(tb_log_name="unused", reset_num_timesteps=True)[-1] == "own"
    assert "unused_1" not in learn()


def test_a_loaded_agent_logs_as_before_and_takes_other_settings(tmp_path: Path) -> None:
    log = tmp_path / "log"
    agent = AGENTS["sac"](partial(Counter, 3), verbose=1, tensorboard_log=log, **SMALL)
    agent.save(tmp_path / "agent")
    again = AGENTS["sac"].load(tmp_path / "agent")
    assert (again.verbose, again.tensorboard_log) == (1, str(log))
    changed = AGENTS["sac"].load(tmp_path / "agent", verbose=0, discount=0.5)
    assert (changed.verbose, changed.settings.discount) == (0, 0.5)
    assert torch.equal(weights(changed)["actor"], weights(agent)["actor"])
    with pytest.raises(CheckpointError, match="has shape"):
        AGENTS["sac"].load(tmp_path / "agent", hidden=[9, 9])
    with pytest.raises(SettingsError, match="has no setting 'discout'; did you mean 'discount'"):
        AGENTS["sac"].load(tmp_path / "agent", discout=0.5)


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert usable_device("auto") == torch.device("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert usable_device("auto") == torch.device("cuda")


def test_agents_are_silent_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    agent = AGENTS["sac"](partial(Counter, 3), **SMALL)
    agent.learn(20, log_interval=10)
    found = capsys.readouterr()
    assert found.out + found.err == ""


def test_logs_count_all_steps() -> None:
    agent = AGENTS["sac"](partial(Counter, 3), **SMALL)
    counted: list[int] = []
    agent.logger.dump = counted.append
    for _ in range(2):
        agent.learn(20, log_interval=10)
    assert counted == [10, 20, 30, 40]
    for _ in range(2):  # calls shorter than the interval log what they did
        agent.learn(5, log_interval=10)
    assert counted[4:] == [45, 50]


def test_rewards_are_not_scaled_by_a_range_that_is_none() -> None:
    dataset = random_dataset()
    dataset.table[:, dataset.layout.columns["rewards"]] = 1.0  # ten trajectories of 40 steps
    with pytest.raises(DatasetError, match="all 10 trajectories have the same return"):
        make("iql", reward_scale="return_range").prepare(dataset)


def test_the_agent_s_own_rates_hold_after_loading_a_state() -> None:
    first, second = make("td3_bc"), make("td3_bc", critic_learning_rate=1e-5)
    second.load_state_dict(*first.state_dict())
    second.fit(random_dataset(), 1)
    rate = second.learner.optimizers["critic"].learning_rate
    assert float(rate) == pytest.approx(1e-5)


def test_cql_does_not_clone_online_even_with_fresh_optimisers() -> None:
    """The optimiser's count would begin again, and interaction would be imitated."""
    agent = make("cql", cloning_steps=5)
    agent.begin_online()
    other = make("cql", cloning_steps=0)
    other.begin_online()
    for one in (agent, other):
        one.update(replay_of(one), 3)
    assert torch.equal(weights(agent)["actor"], weights(other)["actor"])
