from __future__ import annotations

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from rlalign.agents import AGENTS
from rlalign.errors import SettingsError
from rlalign.setting_hints import OTHER_NAMES
from rlalign.settings import AgentSettings, OnlineSettings, build_settings


def build(**values: Any) -> AgentSettings:
    return build_settings(AgentSettings, values, "test")


@pytest.mark.parametrize("name", AGENTS)
def test_every_agent_s_settings_survive_json(name: str) -> None:
    kind = AGENTS[name].settings_type
    settings = kind()
    again = build_settings(kind, json.loads(json.dumps(settings.to_dict())), name)
    assert again == settings
    assert type(again) is kind
    assert isinstance(again.hidden, tuple)


@pytest.mark.parametrize("name", AGENTS)
def test_settings_cannot_be_changed_after_their_check(name: str) -> None:
    settings = AGENTS[name].settings_type()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.discount = 2.0  # type: ignore[misc]


def test_values_take_the_type_of_their_field() -> None:
    settings = build(discount=1, hidden=[32, 16], reward_scale=2)
    assert settings.discount == 1.0
    assert isinstance(settings.discount, float)
    assert settings.hidden == (32, 16)
    assert isinstance(settings.reward_scale, float)
    assert build(reward_scale="return_range").reward_scale == "return_range"
    assert build(hidden=[]).hidden == ()
    for value in (1e1, np.float32(10), 10):
        assert repr(build(batch_size=value).batch_size) == "10"
    assert repr(build(hidden=[32.0, 16]).hidden) == "(32, 16)"
    online = build_settings(OnlineSettings, {"buffer_size": 1e6, "update_after": 1e1}, "test")
    assert repr((online.buffer_size, online.update_after)) == "(1000000, 10)"


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"batchsize": 3}, "agent test has no setting 'batchsize'; did you mean 'batch_size'?"),
        ({"zzz": 3}, "has no setting 'zzz'; it has batch_size, discount"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"batch_size": float("inf")}, "batch_size must be a whole number, got inf"),
        ({"batch_size": float("nan")}, "batch_size must be a whole number, got nan"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
        ({"batch_size": "256"}, "batch_size must be a whole number, got '256'"),
        ({"discount": "0.99"}, "discount must be a finite number, got '0.99'"),
        ({"discount": float("nan")}, "discount must be a finite number, got nan"),
        ({"discount": True}, "discount must be a finite number, got True"),
        ({"discount": None}, "discount must be a finite number, got None"),
        ({"reward_shift": float("inf")}, "reward_shift must be a finite number"),
        ({"hidden": 256}, "hidden must be a list of whole numbers, got 256"),
        ({"hidden": [32, 1.5]}, "hidden must be a whole number, got 1.5"),
        ({"reward_scale": "returns"}, "reward_scale must be a finite number or one of"),
        ({"observation_normalization": "batch"}, "one of 'none', 'standard', got 'batch'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"discount": 1.01}, r"discount must be in \[0, 1\], got 1.01"),
        ({"discount": -0.1}, r"discount must be in \[0, 1\]"),
        ({"target_rate": 0}, r"target_rate must be in \(0, 1\], got 0.0"),
        ({"target_rate": 1.5}, "target_rate"),
        ({"hidden": [32, 0]}, "hidden must be widths of at least 1"),
        ({"reward_scale": 0}, "reward_scale must be above 0"),
    ],
)
def test_impossible_settings_are_refused_in_one_sentence(values: dict, told: str) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        build(**values)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "given", "meant"),
    [
        ("sac", "gamma", "'discount'"),
        ("sac", "tau", "'target_rate'"),
        ("td3", "policy_freq", "'policy_delay'"),
        ("iql", "iql_tau", "'expectile'"),
        ("cql", "conservative_weight", "'cql_weight'"),
        ("sac", "lr", "'actor_learning_rate' or 'critic_learning_rate'"),
        ("sac", "gradient_steps", "'updates_per_step', of the online phase"),
        ("sac", "buffer_size", "'buffer_size', of the online phase"),
    ],
)
def test_other_libraries_names_are_understood(name: str, given: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"no setting {given!r}; did you mean {meant}"):
        build_settings(AGENTS[name].settings_type, {given: 1}, name)


def test_every_hint_names_a_setting_that_exists() -> None:
    kinds: list[Any] = [OnlineSettings, *(agent.settings_type for agent in AGENTS.values())]
    known = {field.name for kind in kinds for field in dataclasses.fields(kind)}
    assert {name for names in OTHER_NAMES.values() for name in names} <= known
    # A name that some agent has means just that, and needs no hint but where it is another's.
    assert known.isdisjoint(OTHER_NAMES)


@pytest.mark.parametrize(
    ("replay", "unused"),
    [
        ("online", ["offline_fraction", "final_offline_fraction", "anneal_steps"]),
        ("union", ["offline_fraction", "final_offline_fraction", "anneal_steps"]),
        ("mixture", ["final_offline_fraction", "anneal_steps"]),
        ("annealed", []),
    ],
)
def test_shares_that_a_replay_does_not_read(replay: Any, unused: list[str]) -> None:
    names = [field.name for field in dataclasses.fields(OnlineSettings)]
    assert OnlineSettings(replay=replay).without_effect(names) == unused


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("iql", {"expectile": 1.0}),
        ("iql", {"expectile": 0.0}),
        ("iql", {"beta": -1}),
        ("iql", {"max_weight": 0}),
        ("iql", {"log_std_bounds": [1, -1]}),
        ("iql", {"log_std_bounds": [1]}),
        ("iql", {"actor_schedule": "linear"}),
        ("awac", {"temperature": 0}),
        ("awac", {"value_samples": 0}),
        ("awac", {"weight": "max"}),
        ("awac", {"actor_weight_decay": -1}),
        ("sac", {"critics": 0}),
        ("sac", {"initial_temperature": 0}),
        ("td3", {"policy_delay": 0}),
        ("td3", {"target_noise": -0.1}),
        ("td3_bc", {"alpha": -1}),
        ("bc", {"alpha": 1}),
        ("iql", {"actor_learning_rate": -1e-3}),
        ("iql", {"critic_learning_rate": -1}),
        ("iql", {"value_learning_rate": -1}),
        ("awac", {"actor_learning_rate": -1}),
        ("awac", {"critic_learning_rate": -1}),
        ("sac", {"actor_learning_rate": -1}),
        ("sac", {"critic_learning_rate": -1}),
        ("sac", {"temperature_learning_rate": -1}),
        ("td3", {"actor_learning_rate": -1}),
        ("td3_bc", {"critic_learning_rate": -1}),
        ("bc", {"actor_learning_rate": -1}),
    ],
)
def test_an_agent_refuses_what_its_method_cannot_mean(name: str, values: dict) -> None:
    with pytest.raises(SettingsError, match=next(iter(values))):
        build_settings(AGENTS[name].settings_type, values, name)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("environments", 0),
        ("updates_per_step", 0.0),
        ("warmup_steps", -1),
        ("random_steps", -1),
        ("buffer_size", 0),
        ("offline_fraction", 1.1),
        ("replay", "both"),
    ],
)
def test_online_settings_are_checked_too(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=name):
        build_settings(OnlineSettings, {name: value}, "test")
