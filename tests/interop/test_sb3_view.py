"""Environments behind stable-baselines3's interface, and its vector environments behind ours."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    SubprocVecEnv,
    VecCheckNan,
    VecEnv,
    VecMonitor,
    VecNormalize,
)

from rlalign.envs import Environments, as_environments
from rlalign.errors import EnvError, SettingsError
from rlalign.interop.callbacks import as_callback
from rlalign.interop.sb3 import SB3VecEnv, step_locals
from tests.envs.toy import Counter, Goal


class Constant:
    """Always the same action."""

    def __init__(self, action: float, count: int = 1) -> None:
        self.action = np.full((count, 1), action, np.float32)

    def predict(self, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return self.action, None


def view(length: int = 3, count: int = 1, **more: Any) -> SB3VecEnv:
    return SB3VecEnv(Environments(partial(Counter, length, **more), count, seed=0))


def test_a_step_is_what_stable_baselines3_expects():
    ours: Any = view(2, 2)
    theirs: Any = DummyVecEnv([partial(Counter, 2)] * 2)
    for env in (ours, theirs):
        env.reset()
    for _ in range(3):
        found, expected = ours.step(np.ones((2, 1))), theirs.step(np.ones((2, 1)))
        for mine, original in zip(found[1:3], expected[1:3], strict=True):
            np.testing.assert_array_equal(mine, original)
            assert mine.dtype == original.dtype
        np.testing.assert_array_equal(found[0][:, 0], expected[0][:, 0])
        for mine, original in zip(found[3], expected[3], strict=True):
            assert set(original) == set(mine) - {"episode"}
            assert mine["TimeLimit.truncated"] == original["TimeLimit.truncated"]
            if "terminal_observation" in original:
                assert mine["terminal_observation"][0] == original["terminal_observation"][0] == 2


def test_truncation_is_told_apart_from_termination():
    for truncates in (True, False):
        env = view(1, truncates=truncates)
        env.reset()
        _, _, dones, infos = env.step(np.zeros((1, 1)))
        assert dones.all()
        assert infos[0]["TimeLimit.truncated"] is truncates


def test_evaluation_returns_known_numbers_without_a_monitor_warning(recwarn: Any):
    policy: Any = Constant(1.5, 2)
    returns, lengths = evaluate_policy(policy, view(4, 2), 6, return_episode_rewards=True)
    assert returns == [6.0] * 6
    assert lengths == [4] * 6
    assert [str(warning.message) for warning in recwarn] == []


def test_seed_makes_the_next_reset_repeat():
    env = SB3VecEnv(Environments("Pendulum-v1", 2, seed=0))
    env.seed(7)
    first = env.reset()
    second = env.reset()
    env.seed(7)
    np.testing.assert_array_equal(env.reset(), first)
    assert np.abs(first - second).max() > 0.1


def test_stepping_does_not_change_what_was_returned_before():
    env = view()
    first = env.reset()
    before = first.copy()
    env.step(np.ones((1, 1)))
    np.testing.assert_array_equal(first, before)


def test_attributes_and_methods_reach_the_environments():
    env = view(3, 2)
    assert env.get_attr("length") == [3, 3]
    env.set_attr("length", 5, indices=1)
    assert env.get_attr("length") == [3, 5]
    env.reset()
    assert len(env.env_method("observe", indices=[0])) == 1
    assert env.env_is_wrapped(Monitor) == [True, True]
    assert env.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [False, False]
    pendulum = SB3VecEnv(Environments("Pendulum-v1", seed=0))
    assert pendulum.env_is_wrapped(gymnasium.wrappers.TimeLimit) == [True]


def test_environments_in_processes_have_a_view_too():
    env = SB3VecEnv(Environments(partial(Counter, 3), 2, seed=0, asynchronous=True))
    try:
        assert env.get_attr("length", indices=0) == [3]
        with pytest.raises(EnvError, match="in all environments"):
            env.set_attr("length", 4, indices=0)
        env.set_attr("length", 2)
        env.reset()
        env.step(np.ones((2, 1)))
        assert env.step(np.ones((2, 1)))[2].all()
    finally:
        env.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_list_is_set_whole_in_each_environment(asynchronous: bool):
    env = SB3VecEnv(Environments(partial(Counter, 3), 2, seed=0, asynchronous=asynchronous))
    try:
        for value in ([4, 5], (6, 7, 8)):
            env.set_attr("length", value)
            assert env.get_attr("length") == [value, value]
    finally:
        env.close()


def test_images_are_drawn_where_asked_for():
    pytest.importorskip("pygame", reason="pygame is not installed")
    options = {"render_mode": "rgb_array"}
    env = SB3VecEnv(Environments("Pendulum-v1", 2, seed=0, env_kwargs=options))
    env.reset()
    image = env.render("rgb_array")
    assert image is not None
    assert image.ndim == 3
    assert image.std() > 0


@pytest.mark.filterwarnings("ignore:The environment is already wrapped")
def test_stable_baselines3s_wrappers_go_around_the_view():
    env = VecMonitor(VecCheckNan(view(3, 2), raise_exception=True))
    env.reset()
    for _ in range(3):
        *_, infos = env.step(np.ones((2, 1)))
    assert infos[0]["episode"]["r"] == 3


def test_the_view_leads_back_to_its_environments():
    env = view()
    assert as_environments(env, seed=3) is env.environments


def test_a_wrapper_around_the_view_is_not_ignored():
    with pytest.raises(EnvError, match="VecNormalize cannot be used"):
        as_environments(VecNormalize(view()), seed=0)


@pytest.mark.parametrize("vector", [False, True])
def test_monitored_environments_can_be_made_again(vector: bool):
    make = lambda: Monitor(gymnasium.make("Pendulum-v1", g=3.0, max_episode_steps=7))  # noqa: E731
    first = Environments(DummyVecEnv([make]) if vector else make(), seed=0)
    second = Environments(first.maker, seed=0)
    np.testing.assert_array_equal(first.reset(), second.reset())
    for _ in range(7):
        expected = first.step(np.ones((1, 1)))
        found = second.step(np.ones((1, 1)))
    np.testing.assert_array_equal(found.next_observations, expected.next_observations)
    assert found.truncated.all()


def vectors() -> dict[str, Any]:
    return {
        "dummy": lambda makers: DummyVecEnv(makers),
        "subprocess": lambda makers: SubprocVecEnv(makers, start_method="fork"),
        "monitored": lambda makers: VecMonitor(DummyVecEnv(makers)),
    }


@pytest.mark.parametrize("kind", vectors())
@pytest.mark.parametrize("env", [partial(Counter, 3), partial(Counter, 2, truncates=True), Goal])
def test_vector_environments_of_stable_baselines3_play_the_same_episodes(kind: str, env: Any):
    theirs = Environments(vectors()[kind]([env, env]), seed=3)
    ours = Environments(env, 2, seed=3)
    try:
        np.testing.assert_array_equal(theirs.reset(), ours.reset())
        for step in range(7):
            actions = np.full((2, 1), 0.1 * step)
            found, expected = theirs.step(actions), ours.step(actions)
            for mine, original in zip(found[:4], expected[:4], strict=True):
                np.testing.assert_array_equal(mine, original)
            assert found.finished == expected.finished
            np.testing.assert_array_equal(theirs.current, ours.current)
        other = Environments(env, 2, seed=8)
        other.load_state_dict(*ours.state_dict())
        theirs.load_state_dict(*other.state_dict())
        np.testing.assert_array_equal(theirs.current, ours.current)
    finally:
        theirs.close()


def test_normalising_wrappers_are_refused():
    vector: VecEnv = VecNormalize(DummyVecEnv([Counter]))
    with pytest.raises(EnvError, match="VecNormalize cannot be used"):
        Environments(vector, seed=0)


class Agent:
    """What callbacks need of a model."""

    num_timesteps = 0
    logger: Any = None

    def __init__(self, env: SB3VecEnv) -> None:
        self.env = env

    def get_env(self) -> SB3VecEnv:
        return self.env


class Recorder(BaseCallback):
    def _on_step(self) -> bool:
        self.seen = dict(self.locals)
        return bool(self.locals["rewards"][0] < 2)


def run(callback: BaseCallback, env: SB3VecEnv, rewards: list[float]) -> list[bool]:
    env.reset()
    callback.on_training_start({"total_timesteps": len(rewards)}, {})
    going_on = []
    for reward in rewards:
        actions = np.full((env.num_envs, 1), reward, np.float32)
        result = env.environments.step(actions)
        callback.update_locals(step_locals(result, actions, env.environments, 0.0))
        going_on.append(callback.on_step())
    callback.on_training_end()
    return going_on


def test_callbacks_see_the_step_and_can_stop():
    env = view(2)
    recorder = Recorder()
    assert run(as_callback(recorder, Agent(env)), env, [1.0, 2.0]) == [True, False]
    assert recorder.seen["dones"].all()
    assert recorder.seen["infos"][0]["episode"] == {"r": 3.0, "l": 2, "t": 0.0}
    assert recorder.seen["infos"][0]["terminal_observation"][0] == 2
    assert recorder.seen["new_obs"][0, 0] == 0


def test_functions_lists_and_nothing_become_callbacks():
    env = view(2)
    calls = []

    def stop(locals_: dict[str, Any], globals_: dict[str, Any]) -> bool:
        calls.append(float(locals_["rewards"][0]))
        return len(calls) < 2

    nested = as_callback([Recorder(), (stop, Recorder())], Agent(env))
    assert isinstance(nested, CallbackList)
    assert run(nested, env, [0.5, 0.7]) == [True, False]
    assert calls == [0.5, pytest.approx(0.7)]
    assert run(as_callback(None, Agent(env)), env, [1.0]) == [True]


def test_what_is_no_callback_is_refused():
    with pytest.raises(SettingsError, match="got int"):
        as_callback(3, Agent(view()))


@pytest.mark.filterwarnings("ignore:rich is experimental")
def test_progress_bar_counts_environment_steps(capsys: Any):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    pytest.importorskip("rich", reason="rich is not installed")
    env = view(5, 2)
    callback = as_callback(None, Agent(env), progress_bar=True)
    bars = [part for part in callback.callbacks if hasattr(part, "_on_step")]  # type: ignore[attr-defined]
    run(callback, env, [0.0] * 4)
    assert bars[-1].pbar.n == 8
