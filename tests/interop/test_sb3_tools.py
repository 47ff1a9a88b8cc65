"""stable-baselines3's own tools, unchanged, with our agents."""

from __future__ import annotations

import csv
import json
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecEnv

from rlalign.agents import AGENTS, SAC
from tests.envs.toy import Counter, Goal
from tests.toy_data import random_dataset

ONLINE = {"warmup_steps": 20, "random_steps": 20, "replay": "online", "buffer_size": 2000}


def small(kind: type[Any] = SAC, env: Any = "Pendulum-v1", **settings: Any) -> Any:
    return kind(env, seed=0, hidden=(8,), batch_size=8, **settings)


def short_pendulum() -> Monitor:
    return Monitor(gymnasium.make("Pendulum-v1", max_episode_steps=25))


class Count(BaseCallback):
    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self.steps = 0

    def _on_training_start(self) -> None:
        self.order.append("training start")

    def _on_rollout_start(self) -> None:
        self.order.append("rollout start")

    def _on_step(self) -> bool:
        self.steps += 1
        assert isinstance(self.training_env, VecEnv)
        assert self.training_env is self.model.get_env()
        assert self.num_timesteps == self.model.num_timesteps
        return True

    def _on_rollout_end(self) -> None:
        self.order.append("rollout end")

    def _on_training_end(self) -> None:
        self.order.append("training end")


@pytest.mark.parametrize("name", AGENTS)
def test_evaluate_policy_plays_every_agent(name: str):
    agent = small(AGENTS[name], Counter)
    space = agent.action_space
    for env in (Monitor(Counter(4)), agent.get_env(), DummyVecEnv([lambda: Monitor(Counter(4))])):
        result: Any = evaluate_policy(agent, env, 3, return_episode_rewards=True)
        returns, lengths = result
        assert set(lengths) <= {3, 4}
        assert all(
            length * space.low[0] <= value <= length * space.high[0]
            for value, length in zip(returns, lengths, strict=True)
        )


@pytest.mark.parametrize("count", [1, 3])
def test_evaluate_policy_plays_goal_environments(count: int):
    agent = small(env=Goal)
    agent.learn(30, **ONLINE)
    action, _ = agent.predict(np.array([1, 1, 2, 2, 2, 3, 3]), deterministic=True)
    env = DummyVecEnv([lambda: Monitor(Goal())] * count)
    result: Any = evaluate_policy(agent, env, 3, return_episode_rewards=True)
    assert result[1] == [3, 3, 3]
    assert result[0] == pytest.approx([3 * float(action[0])] * 3, abs=1e-4)


def test_evaluate_policy_repeats_a_deterministic_agent():
    agent = small()
    results = []
    for _ in range(2):
        env = short_pendulum()
        env.reset(seed=5)
        result: Any = evaluate_policy(agent, env, 2, return_episode_rewards=True)
        results.append(result[0])
    assert results[0] == results[1]
    assert results[0][0] != results[0][1]


def test_callbacks_run_in_stable_baselines3s_order():
    agent = small()
    count = Count()
    agent.learn(60, callback=[count], **ONLINE)
    assert count.steps == 60
    assert count.order == ["training start", "rollout start", "rollout end", "training end"]
    assert agent.num_timesteps == 60


def test_eval_callback_evaluates_saves_the_best_and_logs(tmp_path: Path):
    agent = small()
    agent.set_logger(configure(str(tmp_path / "log"), ["csv", "json", "tensorboard", "log"]))
    callback = EvalCallback(
        short_pendulum(),
        n_eval_episodes=2,
        eval_freq=30,
        log_path=str(tmp_path / "evaluations"),
        best_model_save_path=str(tmp_path / "best"),
        verbose=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        agent.learn(90, callback=callback, log_interval=40, **ONLINE)
    agent.logger.close()
    with np.load(tmp_path / "evaluations" / "evaluations.npz") as stored:
        assert stored["timesteps"].tolist() == [30, 60, 90]
        assert stored["results"].shape == (3, 2)
        assert (stored["ep_lengths"] == 25).all()
        best = stored["results"].mean(axis=1).max()
    assert callback.best_mean_reward == pytest.approx(best)
    saved = next((tmp_path / "best").iterdir())
    again = SAC.load(saved)
    assert again.predict(np.ones(3, np.float32), deterministic=True)[0].shape == (1,)
    lines = (tmp_path / "log" / "progress.json").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    means = [row["eval/mean_reward"] for row in rows if "eval/mean_reward" in row]
    assert len(means) == 3
    assert any(key.startswith("online/") for row in rows for key in row)
    with (tmp_path / "log" / "progress.csv").open() as file:
        assert "eval/mean_reward" in next(csv.reader(file))
    assert list((tmp_path / "log").glob("events.out.tfevents.*"))


def test_best_model_is_the_one_that_was_evaluated(tmp_path: Path):
    agent = small()
    callback = EvalCallback(
        short_pendulum(),
        n_eval_episodes=1,
        eval_freq=50,
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    agent.learn(50, callback=callback, **ONLINE)
    best = SAC.load(tmp_path / "best_model")
    inputs = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    expected = agent.predict(inputs, deterministic=True)[0]
    np.testing.assert_array_equal(best.predict(inputs, deterministic=True)[0], expected)
    fresh = small().predict(inputs, deterministic=True)[0]
    assert np.abs(fresh - expected).max() > 1e-4


@pytest.mark.parametrize("name", AGENTS)
def test_checkpoint_callback_writes_agents_that_load(tmp_path: Path, name: str):
    kind: Any = AGENTS[name]
    # Cal-QL learns from whole episodes, so they end with a checkpoint.
    agent = small(kind, partial(gymnasium.make, "Pendulum-v1", max_episode_steps=15))
    agent.prepare(random_dataset(3, 1, 50, low=-1.9, high=1.9))
    callback = CheckpointCallback(
        30, str(tmp_path), name_prefix="model", save_replay_buffer=True, save_vecnormalize=True
    )
    agent.learn(60, callback=callback, **ONLINE)
    assert {path.name for path in tmp_path.iterdir()} == {
        "model_30_steps.zip",
        "model_60_steps.zip",
        "model_replay_buffer_30_steps.pkl",
        "model_replay_buffer_60_steps.pkl",
    }
    inputs = np.random.default_rng(0).normal(size=(10, 3)).astype(np.float32)
    early = kind.load(tmp_path / "model_30_steps.zip")
    late = kind.load(tmp_path / "model_60_steps.zip", env="Pendulum-v1")
    expected = agent.predict(inputs, deterministic=True)[0]
    np.testing.assert_array_equal(late.predict(inputs, deterministic=True)[0], expected)
    assert np.abs(early.predict(inputs, deterministic=True)[0] - expected).max() > 1e-6
    assert (early.num_timesteps, late.num_timesteps) == (30, 60)
    late.load_replay_buffer(tmp_path / "model_replay_buffer_60_steps.pkl")
    assert len(late.replay_buffer) == 60
    late.learn(20, **ONLINE)
    assert late.num_timesteps == 80


def test_reward_threshold_stops_training():
    agent = small()
    stop = StopTrainingOnRewardThreshold(reward_threshold=-1e9, verbose=0)
    callback = EvalCallback(
        short_pendulum(), callback_on_new_best=stop, n_eval_episodes=1, eval_freq=25, verbose=0
    )
    agent.learn(200, callback=callback, **ONLINE)
    assert agent.num_timesteps == 25


def test_episode_and_improvement_limits_stop_training():
    agent = small(env=short_pendulum())
    agent.learn(400, callback=StopTrainingOnMaxEpisodes(3), **ONLINE)
    assert agent.num_timesteps == 75
    agent = small()
    stop = StopTrainingOnNoModelImprovement(max_no_improvement_evals=1, min_evals=1)
    evaluation = EvalCallback(
        Monitor(Counter(2, low=-2.0, high=2.0)), callback_after_eval=stop, eval_freq=10, verbose=0
    )
    evaluation.best_mean_reward = np.inf
    counting = small(env=lambda: Counter(2, low=-2.0, high=2.0))
    counting.learn(300, callback=evaluation, **ONLINE)
    assert counting.num_timesteps == 30


def test_a_function_stops_training_and_sees_episodes():
    agent = small(env=short_pendulum())
    returns: list[float] = []

    def callback(locals_: dict[str, Any], globals_: dict[str, Any]) -> bool:
        returns.extend(info["episode"]["r"] for info in locals_["infos"] if "episode" in info)
        return len(returns) < 2

    agent.learn(500, callback=callback, **ONLINE)
    assert agent.num_timesteps == 50
    assert all(value < 0 for value in returns)


def test_lists_nest_and_every_n_timesteps_fires():
    agent = small()
    inner, outer = Count(), Count()
    agent.learn(60, callback=[CallbackList([outer]), EveryNTimesteps(20, inner)], **ONLINE)
    assert (outer.steps, inner.steps) == (60, 3)


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_progress_bar_runs(capsys: pytest.CaptureFixture[str]):
    agent = small()
    agent.learn(40, progress_bar=True, **ONLINE)
    assert agent.num_timesteps == 40


def test_monitor_files_record_training_episodes(tmp_path: Path):
    env = Monitor(gymnasium.make("Pendulum-v1", max_episode_steps=20), str(tmp_path / "run"))
    agent = small(env=env)
    agent.learn(65, **ONLINE)
    header, *rows = (tmp_path / "run.monitor.csv").read_text().splitlines()
    assert header.startswith("#")
    episodes = list(csv.DictReader(rows))
    assert [episode["l"] for episode in episodes] == ["20", "20", "20"]
    assert all(float(episode["r"]) < 0 for episode in episodes)


@pytest.mark.parametrize(
    "vector", [DummyVecEnv, partial(SubprocVecEnv, start_method="fork")], ids=["dummy", "subproc"]
)
def test_agents_learn_in_stable_baselines3s_vector_environments(vector: Any):
    agent = small(env=vector([short_pendulum, short_pendulum]))
    count = Count()
    try:
        agent.learn(80, callback=count, **ONLINE)
    finally:
        agent.get_env().close()
    assert agent.num_timesteps == 80
    assert count.steps == 40


def test_environments_can_be_exchanged():
    agent = small()
    agent.set_env(short_pendulum())
    agent.learn(30, **ONLINE)
    view = agent.get_env()
    agent.set_env(view)
    assert agent.get_env() is view
