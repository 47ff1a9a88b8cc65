from __future__ import annotations

import json
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit, TransformReward

from rlalign.envs import Environments, as_environments
from rlalign.errors import EnvError
from tests.envs.toy import Counter, Forgetful, Goal, WholeNumbers


def play(environments: Environments, steps: int, seed: int = 0) -> list[np.ndarray]:
    """Random actions; returns everything each step gave, the observations to act on last."""
    rng = np.random.default_rng(seed)
    space = environments.action_space
    seen = []
    for _ in range(steps):
        actions = rng.uniform(space.low, space.high, (environments.count, *space.shape))
        result = environments.step(actions)
        seen.append(np.concatenate([*map(np.ravel, result[:4]), environments.current.ravel()]))
    return seen


def test_successor_at_an_episodes_end_is_the_last_observation_not_the_next_first():
    environments = Environments(partial(Counter, 3), 2, seed=0)
    environments.reset()
    for step in (1, 2, 3):
        result = environments.step(np.ones((2, 1)))
        assert (result.next_observations[:, 0] == step).all()
    assert result.terminated.all()
    assert not result.truncated.any()
    assert (environments.current[:, 0] == 0).all()
    assert [episode[1:] for episode in result.finished] == [(3.0, 3), (3.0, 3)]


def test_truncation_is_not_termination():
    environments = Environments(partial(Counter, 1, truncates=True), seed=0)
    environments.reset()
    result = environments.step(np.zeros((1, 1)))
    assert result.truncated.all()
    assert not result.terminated.any()


def test_every_episode_gets_its_own_seed():
    env = Counter(2)
    environments = Environments(env, seed=3)
    environments.reset()
    play(environments, 8)
    assert len(env.seeds) == 5
    assert None not in env.seeds
    assert len(set(env.seeds)) == 5


def test_same_seed_gives_the_same_run_and_another_seed_another():
    runs = []
    for seed in (0, 0, 1):
        environments = Environments("Pendulum-v1", 2, seed=seed)
        environments.reset()
        runs.append(np.array(play(environments, 210)))
    np.testing.assert_array_equal(runs[0], runs[1])
    assert np.abs(runs[0] - runs[2]).max() > 0.1


@pytest.mark.parametrize(
    "mode", [AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]
)
def test_processes_and_vector_environments_play_the_same_episodes(mode: AutoresetMode):
    lengths = [2, 5]
    makers = [partial(Counter, length) for length in lengths]
    serial = Environments(SyncVectorEnv(makers), seed=5)
    parallel = Environments(AsyncVectorEnv(makers, autoreset_mode=mode), seed=5)
    try:
        np.testing.assert_array_equal(serial.reset(), parallel.reset())
        np.testing.assert_array_equal(play(serial, 12), play(parallel, 12))
        assert serial.current[0, 0] != serial.current[1, 0]
    finally:
        parallel.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_restored_environments_go_on_as_if_never_interrupted(asynchronous: bool):
    make = partial(Environments, "Hopper-v5", 2, seed=1, asynchronous=asynchronous, record=True)
    whole, resumed = make(), make()
    try:
        whole.reset()
        play(whole, 57, seed=1)
        arrays, state = whole.state_dict()
        assert len(arrays["actions.0"]) != len(arrays["actions.1"])
        resumed.load_state_dict(arrays, json.loads(json.dumps(state)))
        np.testing.assert_array_equal(resumed.current, whole.current)
        expected = play(whole, 120, seed=2)
        np.testing.assert_array_equal(play(resumed, 120, seed=2), expected)
        again, other = whole.state_dict(), resumed.state_dict()
        assert again[1] == other[1]
        for name, array in again[0].items():
            np.testing.assert_array_equal(array, other[0][name])
    finally:
        whole.close()
        resumed.close()


def test_state_saved_before_the_first_step_restores():
    first, second = Environments("Pendulum-v1", seed=0), Environments("Pendulum-v1", seed=9)
    observation = first.reset()
    second.load_state_dict(*first.state_dict())
    np.testing.assert_array_equal(second.current, observation)


def test_long_episodes_outgrow_the_first_buffer_and_still_restore():
    make = partial(Environments, partial(Counter, 10_000), seed=0)
    environments, restored = make(), make()
    environments.reset()
    play(environments, 2500)
    restored.load_state_dict(*environments.state_dict())
    np.testing.assert_array_equal(restored.current, environments.current)
    assert environments.current[0, 0] == 2500
    np.testing.assert_array_equal(play(environments, 1100), play(restored, 1100))


def test_an_environment_with_hidden_state_cannot_be_resumed():
    environments = Environments(partial(Forgetful, 50), seed=0)
    environments.reset()
    play(environments, 3)
    with pytest.raises(EnvError, match="cannot be resumed exactly"):
        environments.load_state_dict(*environments.state_dict())


def test_a_shortened_episode_cannot_be_resumed():
    environments = Environments(partial(Counter, 9), seed=0)
    environments.reset()
    play(environments, 6)
    shorter = Environments(partial(Counter, 4), seed=0)
    with pytest.raises(EnvError, match="ended after 4"):
        shorter.load_state_dict(*environments.state_dict())


def test_state_of_another_environment_is_refused():
    environments = Environments("Pendulum-v1", seed=0)
    environments.reset()
    with pytest.raises(EnvError, match="2 x Pendulum-v1"):
        Environments("Pendulum-v1", 2, seed=0).load_state_dict(*environments.state_dict())


def test_unrecorded_environments_refuse_to_be_saved():
    environments = Environments("Pendulum-v1", seed=0, record=False)
    environments.reset()
    with pytest.raises(EnvError, match="record=False"):
        environments.state_dict()


def test_goal_observations_are_flattened_in_documented_order():
    for asynchronous in (False, True):
        environments = Environments(Goal, seed=0, asynchronous=asynchronous)
        try:
            assert environments.observation_space.shape == (7,)
            np.testing.assert_array_equal(environments.reset()[0], [1, 1, 2, 2, 2, 3, 3])
            result = environments.step(np.zeros((1, 1)))
            np.testing.assert_array_equal(result.next_observations[0], [1, 1, 2, 2, 2, 3, 3])
        finally:
            environments.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        ("CartPole-v1", "has actions Discrete"),
        (partial(Counter, low=-np.inf), "unbounded actions"),
        (partial(Counter, low=4.0), "not below"),
        ("Blackjack-v1", "expected a Box of one dimension"),
        ("HalfChetah-v5", "did you mean 'HalfCheetah-v5'"),
        (partial(WholeNumbers, 3), r"actions Box\(0, 5, \(1,\), int32\) of whole numbers"),
        (lambda: 3, "returned int"),
        (3.5, "cannot make environments from float"),
    ],
)
def test_unusable_environments_are_refused_in_one_sentence(make: object, message: str):
    with pytest.raises(EnvError, match=message) as caught:
        Environments(make, seed=0)
    assert "\n" not in str(caught.value)


def test_one_object_cannot_be_several_environments():
    with pytest.raises(EnvError, match="pass its id"):
        Environments(Counter(), 2, seed=0)


def test_a_custom_vector_environment_that_resets_itself_is_refused():
    vector = gymnasium.make_vec("CartPole-v1", 2, vectorization_mode="vector_entry_point")
    with pytest.raises(EnvError, match=r"AutoresetMode\.DISABLED"):
        Environments(vector, seed=0)


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_numbers_that_are_not_finite_are_reported_with_the_step(what: str):
    class Breaks(Counter):
        def step(self, action: np.ndarray):
            observation, reward, *rest = super().step(action)
            if self.steps == 2:
                observation, reward = (
                    (observation * np.nan, reward)
                    if what == "observation"
                    else (observation, np.inf)
                )
            return observation, reward, *rest

    environments = Environments(Breaks, seed=0)
    environments.reset()
    environments.step(np.zeros((1, 1)))
    with pytest.raises(EnvError, match=rf"{what} that is not finite .*step 2"):
        environments.step(np.zeros((1, 1)))


def test_an_observation_unlike_its_space_is_reported():
    env = Counter()
    env.observation_space = Box(-1, 1, (5,), np.float64)
    environments = Environments(env, seed=0)
    with pytest.raises(EnvError, match=r"shape \(2,\).*says \(5,\)"):
        environments.reset()


def test_large_finite_observations_are_accepted():
    class Large(Counter):
        def observe(self) -> np.ndarray:
            return np.array([3e38, -1e30])

    environments = Environments(Large, seed=0)
    environments.reset()
    assert environments.step(np.zeros((1, 1))).next_observations[0, 0] == np.float32(3e38)


def test_actions_of_wrong_shape_are_refused():
    environments = Environments("Pendulum-v1", 2, seed=0)
    environments.reset()
    with pytest.raises(ValueError, match="expected"):
        environments.step(np.zeros((1, 1)))


def test_as_environments_keeps_what_already_is():
    environments = Environments("Pendulum-v1", seed=0)
    assert as_environments(environments, seed=1) is environments
    assert as_environments("Pendulum-v1", seed=1, count=3).count == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda: gymnasium.make("Pendulum-v1", g=3.0, max_episode_steps=7),
        lambda: RecordEpisodeStatistics(
            gymnasium.make("Pendulum-v1", g=3.0, max_episode_steps=7), buffer_length=3
        ),
        lambda: TimeLimit(gymnasium.make("Pendulum-v1", g=3.0), 7),
    ],
)
@pytest.mark.parametrize("how", ["object", "function", "vector"])
def test_further_environments_are_like_the_first(make: Any, how: str):
    given = {
        "object": lambda: make(),
        "function": lambda: make,
        "vector": lambda: SyncVectorEnv([make]),
    }
    first = Environments(given[how](), seed=2)
    second = Environments(first.maker, seed=2)
    np.testing.assert_array_equal(first.reset(), second.reset())
    np.testing.assert_array_equal(play(first, 9), play(second, 9))
    assert first.step(np.zeros((1, 1))).next_observations[0, 2] != 0


def test_options_of_an_id_reach_further_environments():
    first = Environments("Pendulum-v1", seed=2, env_kwargs={"g": 3.0})
    plain = Environments("Pendulum-v1", seed=2)
    second = Environments(first.maker, seed=2)
    for environments in (first, second, plain):
        environments.reset()
    found = np.array(play(second, 5))
    np.testing.assert_array_equal(found, play(first, 5))
    assert np.abs(found - play(plain, 5)).max() > 1e-3


@pytest.mark.parametrize("asynchronous", [False, True])
def test_options_reach_what_a_function_makes(asynchronous: bool):
    options = {"length": 2, "truncates": True}
    first = Environments(Counter, 2, seed=0, asynchronous=asynchronous, env_kwargs=options)
    try:
        for environments in (first, Environments(first.maker, seed=0)):
            environments.reset()
            environments.step(np.zeros((environments.count, 1)))
            assert environments.step(np.zeros((environments.count, 1))).truncated.all()
    finally:
        first.close()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Counter, "cannot be called with env_kwargs 'g': .*unexpected keyword argument 'g'"),
        (partial(gymnasium.make, "Hopper-v5"), "unexpected keyword argument 'g'"),
        (Counter(), "env_kwargs 'g' were given for Counter, an environment that is made already"),
        (lambda: Counter(), "cannot be called with env_kwargs 'g'"),
    ],
)
def test_options_that_are_not_taken_are_named(make: Any, message: str):
    with pytest.raises(EnvError, match=message) as caught:
        Environments(make, seed=0, env_kwargs={"g": 3.0})
    assert "\n" not in str(caught.value)


def test_an_error_in_a_function_without_options_is_its_own():
    def broken() -> gymnasium.Env:
        raise TypeError("of the user's own")

    with pytest.raises(TypeError, match="of the user's own"):
        Environments(broken, seed=0)


def test_an_object_of_ones_own_says_nothing_about_others():
    assert Environments(Counter(), seed=0).maker is None
    wrapped = TransformReward(gymnasium.make("Pendulum-v1"), float)
    assert Environments(Unnamed(wrapped), seed=0).maker is None


def test_wrappers_of_several_at_once_say_nothing_about_single_ones():
    """A policy trained on normalised observations would be shown raw ones."""
    vector = SyncVectorEnv([partial(gymnasium.make, "Pendulum-v1")] * 2)
    assert Environments(vector, seed=0).maker is not None
    mode = gymnasium.vector.AutoresetMode.DISABLED
    vector = SyncVectorEnv([partial(gymnasium.make, "Pendulum-v1")] * 2, autoreset_mode=mode)
    wrapped = gymnasium.wrappers.vector.TransformReward(vector, lambda reward: 2 * reward)
    assert Environments(wrapped, seed=0).maker is None


class Unnamed(gymnasium.Wrapper):
    """A wrapper that does not say how it was made."""
