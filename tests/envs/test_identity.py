"""An id is told only where it alone makes the same environments in another process."""

from __future__ import annotations

import importlib.util
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode
from gymnasium.wrappers import RecordEpisodeStatistics, RescaleAction, TimeLimit, TransformReward
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor

from rlalign.envs import Environments, make_environment
from tests.envs.toy import Counter

ID = "Pendulum-v1"
plain = partial(gymnasium.make, ID)
heavy = partial(gymnasium.make, ID, g=3.0)


def told(make: Any, **options: Any) -> str | None:
    environments = Environments(make, seed=0, **options)
    try:
        return environments.plain_id
    finally:
        environments.close()


@pytest.mark.parametrize(
    "make",
    [
        ID,
        plain,
        partial(plain, max_episode_steps=200),
        partial(plain, render_mode="rgb_array"),
        lambda: Monitor(RecordEpisodeStatistics(plain())),
    ],
)
def test_an_environment_as_its_id_makes_it_is_told(make: Any) -> None:
    assert told(make) == told(make, count=2) == ID
    if callable(make):
        assert told(make()) == ID


@pytest.mark.parametrize(
    "make",
    [
        heavy,
        partial(plain, max_episode_steps=3),
        partial(plain, max_episode_steps=-1),
        lambda: TimeLimit(plain(), 7),
        lambda: TransformReward(plain(), float),
        lambda: RescaleAction(plain(), np.float32(-1), np.float32(1)),
        Counter,
    ],
)
def test_an_environment_with_options_or_wrappers_is_not_told(make: Any) -> None:
    assert told(make) is None
    assert told(make()) is None


def test_options_beside_an_id_are_seen() -> None:
    assert told(ID, env_kwargs={"render_mode": "rgb_array"}) == ID
    assert told(ID, env_kwargs={"g": 3.0}) is None
    assert told("hopper-medium-v2") == "hopper-medium-v2"


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_vector_environments_of_gymnasium_are_told_like_single_ones(mode: str) -> None:
    disabled = AutoresetMode.DISABLED
    options = {"autoreset_mode": disabled}
    make = partial(gymnasium.make_vec, ID, 2, vectorization_mode=mode, vector_kwargs=options)
    assert told(make()) == ID
    assert told(make(g=3.0)) is None
    assert told(make(max_episode_steps=3)) is None
    assert told(make(wrappers=[partial(TransformReward, func=float)])) is None
    wrapped = gymnasium.wrappers.vector.TransformReward(make(), lambda reward: 2 * reward)
    assert told(wrapped) is None
    if mode == "async":
        assert told(AsyncVectorEnv([plain, plain], autoreset_mode=disabled)) is None


@pytest.mark.parametrize("vector", [DummyVecEnv, partial(SubprocVecEnv, start_method="fork")])
def test_vector_environments_of_stable_baselines3_are_told_like_single_ones(vector: Any) -> None:
    assert told(VecMonitor(vector([plain, plain]))) == ID
    assert told(vector([heavy, heavy])) is None


def test_an_object_of_a_module_s_own_id_is_not_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = (
        "import gymnasium",
        "gymnasium.register('Own-v0', entry_point='tests.envs.toy:Counter')",
    )
    (tmp_path / "own_module.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert told("own_module:Own-v0") == "own_module:Own-v0"
        assert told(gymnasium.make("own_module:Own-v0")) is None
    finally:
        gymnasium.registry.pop("Own-v0")


def test_an_id_that_was_registered_anew_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = gymnasium.envs.registration.EnvSpec(ID, entry_point="tests.envs.toy:Counter")
    monkeypatch.setitem(gymnasium.registry, ID, spec)
    assert told(plain()) is None


@pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None,
    reason="gymnasium-robotics is not installed",
)
def test_goal_environments_are_told_and_adapted_ones_are_not() -> None:
    name = "AntMaze_UMaze-v5"
    assert told(make_environment(name)) == told(partial(gymnasium.make, name)) == name
    assert told(make_environment("antmaze-umaze-v2")) is None
    assert told(make_environment("ant-medium-v2")) is None
