"""What `fit`, `learn` and `predict` make of arguments of other kinds than they are meant for."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box

from rlalign.agents import AGENTS
from rlalign.errors import DatasetError, EnvError, SettingsError
from tests.agents.tiny import SMALL, make, weights
from tests.envs.toy import Counter
from tests.test_phases import tagged_dataset
from tests.toy_data import box_spaces, random_dataset


def online_agent(name: str = "sac", **arguments: Any) -> Any:
    return AGENTS[name](partial(Counter, 5), **{**SMALL, **arguments})


def test_steps_may_be_written_as_powers_of_ten() -> None:
    agent = make("iql")
    agent.fit(random_dataset(), 1e1)
    assert agent.learner.step_count == 10
    agent = online_agent()
    agent.learn(np.float64(2e1))
    assert agent.num_timesteps == 20


@pytest.mark.parametrize("steps", [-1, 2.5, "10", None, True, float("nan"), float("inf")])
def test_steps_are_whole_numbers(steps: Any) -> None:
    with pytest.raises(SettingsError, match="steps must be a whole number of at least 0, got"):
        make("iql").fit(random_dataset(), steps)
    with pytest.raises(SettingsError, match="total_timesteps must be a whole number"):
        online_agent().learn(steps)


def test_a_share_without_effect_is_told() -> None:
    with pytest.warns(UserWarning, match="offline_fraction without effect, since replay is 'onl"):
        online_agent().learn(3, offline_fraction=0.3)


def test_an_interval_of_nothing_is_refused() -> None:
    with pytest.raises(SettingsError, match="evaluate_every must be a whole number of at least 1"):
        make("iql").fit(random_dataset(), 10, evaluate_every=0)
    for interval in (0, -1):
        with pytest.raises(SettingsError, match="log_interval must be a whole number of at least"):
            online_agent().learn(3, log_interval=interval)


def test_a_dataset_may_be_named(tmp_path: Path) -> None:
    file = tmp_path / "data.hdf5"
    random_dataset().save(file)
    named, given = make("iql"), make("iql")
    named.fit(str(file), 5)
    given.fit(random_dataset(), 5)
    assert all((weights(named)[key] == value).all() for key, value in weights(given).items())
    with pytest.raises(DatasetError, match="did you mean 'd4rl/hopper-medium-v2'"):
        named.fit("hopper-medium-v2", 5)
    with pytest.raises(DatasetError, match=r"fit needs a dataset.*got list"):
        named.fit([1, 2], 5)


def test_what_reset_returns_is_no_observation() -> None:
    agent = make("iql")
    observation = np.zeros(4, np.float32)
    with pytest.raises(EnvError, match=r"an array, got a tuple; env\.reset"):
        agent.predict((observation, {}))


@pytest.mark.parametrize(("factor", "share"), [(5.0, "%"), (1.0, None), (1.0005, None)])
def test_actions_beyond_the_bounds_are_told_of(
    factor: float, share: str | None, recwarn: pytest.WarningsRecorder
) -> None:
    """Rounding is not: D4RL's own actions reach a little beyond their bounds."""
    dataset = random_dataset()
    dataset.actions[:] *= factor
    agent = make("iql")
    if share is None:
        agent.fit(dataset, 1)
        assert not [one for one in recwarn if "bounds" in str(one.message)]
    else:
        for name, treated in (("iql", "clipped to them"), ("awac", "learned from as they are")):
            with pytest.warns(UserWarning, match=f"lie outside the environment's .* are {treated}"):
                make(name).fit(dataset, 1)


def test_images_and_unbounded_actions_get_advice_that_works() -> None:
    small = Box(-1.0, 1.0, (2,), np.float32)
    with pytest.raises(EnvError, match="agents do not learn from images"):
        make("sac", spaces=(Box(0, 255, (8, 8, 3), np.uint8), small))
    with pytest.raises(EnvError, match="TransformAction"):
        make("sac", spaces=(box_spaces()[0], Box(-np.inf, np.inf, (2,), np.float32)))
    unbounded = gymnasium.wrappers.ClipAction(gymnasium.make("Pendulum-v1"))
    bounded = gymnasium.wrappers.TransformAction(
        unbounded, lambda action: action, Box(-2.0, 2.0, (1,), np.float32)
    )
    agent = AGENTS["sac"](bounded, **SMALL)
    agent.learn(5)
    assert agent.num_timesteps == 5


def test_logs_tell_how_far_and_how_long(capsys: pytest.CaptureFixture[str]) -> None:
    agent = online_agent("awac", verbose=1)
    agent.fit(tagged_dataset(), 1000)
    told = capsys.readouterr().out
    assert "updates" in told
    assert "time_elapsed" in told
    agent.learn(8, log_interval=4)
    assert "total_timesteps" in capsys.readouterr().out
