"""Shipped recipes: all of them load, name what exists, and hold the papers' numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from rlalign.data.d4rl import task
from rlalign.data.local import local_names
from rlalign.recipe import (
    Recipe,
    agent_class,
    agent_settings,
    check_recipe,
    filled,
    list_recipes,
    load_any_recipe,
    load_recipe,
    online_settings,
    parse_recipe,
)
from rlalign.recipe.loading import shipped_recipes

LOCOMOTION = [
    f"{name}-{kind}-v2"
    for name in ("halfcheetah", "hopper", "walker2d")
    for kind in ("medium", "medium-replay", "medium-expert")
]
ANTMAZE = [
    f"antmaze-{kind}-v2"
    for kind in (
        "umaze",
        "umaze-diverse",
        "medium-play",
        "medium-diverse",
        "large-play",
        "large-diverse",
    )
]


# Trainers' recipes have a test file of their own.
AGENTS_RECIPES = [name for name in list_recipes() if isinstance(load_any_recipe(name), Recipe)]


@pytest.mark.parametrize("name", AGENTS_RECIPES)
def test_recipe_loads_and_its_settings_exist(name: str) -> None:
    recipe = load_recipe(name)
    settings, online = agent_settings(recipe, name), online_settings(recipe, name)
    whole = parse_recipe(filled(recipe).to_dict())  # as it is shown
    check_recipe(whole)  # without a warning
    assert (agent_settings(whole), online_settings(whole)) == (settings, online)
    assert set(whole.settings) == set(settings.to_dict())


def test_every_promised_recipe_is_there() -> None:
    names = set(list_recipes())
    for agent in ("iql", "awac", "td3_bc", "cql", "cal_ql"):
        assert {f"{agent}/{name}" for name in (*LOCOMOTION, *ANTMAZE)} <= names
    for agent in ("iql", "awac", "td3_bc", "bc", "cql", "cal_ql"):
        assert {f"{agent}/local/{name}" for name in local_names()} <= names
    for agent in ("sac", "td3"):
        for name in ("halfcheetah", "hopper", "walker2d", "ant"):
            assert f"{agent}/{name}-v5" in names
    assert "demo" in names


def test_famo2o_has_recipes_over_each_base() -> None:
    names = set(list_recipes())
    for base in ("iql", "awac", "cql"):
        tasks = LOCOMOTION if base == "cql" else [*LOCOMOTION, *ANTMAZE]
        assert {f"famo2o_{base}/{name}" for name in tasks} <= names
        assert {f"famo2o_{base}/local/{name}" for name in local_names()} <= names


def test_ensembles_and_rebrac_have_recipes_for_their_tasks() -> None:
    names = set(list_recipes())
    for agent in ("sac_n", "edac", "rorl", "ro2o", "rlpd", "rebrac"):
        tasks = LOCOMOTION if agent == "rorl" else [*LOCOMOTION, *ANTMAZE]
        assert {f"{agent}/{name}" for name in tasks} <= names
        assert {f"{agent}/local/{name}" for name in local_names()} <= names


@pytest.mark.parametrize("name", [name for name in AGENTS_RECIPES if "/" in name])
def test_file_name_says_agent_and_data(name: str) -> None:
    recipe = load_recipe(name)
    agent, _, rest = name.partition("/")
    assert recipe.agent == agent
    if rest.endswith("-v5"):
        assert recipe.environment is not None
        assert recipe.environment.lower() == rest
    elif rest.startswith("local/"):
        assert recipe.dataset == rest
        assert rest.removeprefix("local/") in local_names()
    else:
        name = rest.removeprefix("online/")
        assert recipe.dataset == f"d4rl/{name}"
        assert task(name).name == name


@pytest.mark.parametrize("agent", ["iql", "awac", "cql", "rebrac"])
@pytest.mark.parametrize("name", ANTMAZE)
def test_fine_tuning_is_the_offline_recipe_and_a_million_steps(agent: str, name: str) -> None:
    offline = load_recipe(f"{agent}/{name}").to_dict()
    online = load_recipe(f"{agent}/online/{name}").to_dict()
    assert (offline["online"].pop("steps"), online["online"].pop("steps")) == (0, 1_000_000)
    if agent == "iql":
        assert (offline["settings"]["actor_schedule"], online["settings"]["actor_schedule"]) == (
            "cosine",
            "constant",
        )
        online["settings"]["actor_schedule"] = "cosine"
    assert online == offline


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("iql/hopper-medium-v2", {"expectile": 0.7, "beta": 3.0, "reward_scale": "return_range"}),
        ("iql/antmaze-large-play-v2", {"expectile": 0.9, "beta": 10.0, "reward_shift": -1.0}),
        ("iql/local/ant-expert-v0", {"expectile": 0.7, "actor_schedule": "cosine"}),
        ("awac/walker2d-medium-v2", {"temperature": 1 / 3, "hidden": (256, 256, 256)}),
        ("awac/antmaze-umaze-v2", {"temperature": 0.1, "reward_shift": -1.0}),
        (
            "td3_bc/hopper-medium-v2",
            {"alpha": 2.5, "policy_delay": 2, "observation_normalization": "standard"},
        ),
        (
            "cql/walker2d-medium-v2",
            {
                "cql_weight": 10.0,
                "lagrange": False,
                "actor_learning_rate": 3e-5,
                "backup": "sample",
            },
        ),
        ("cql/hopper-medium-v2", {"reward_scale": "return_range", "hidden": (256, 256, 256)}),
        (
            "cql/antmaze-umaze-v2",
            {"cql_weight": 5.0, "lagrange": True, "gap": 0.8, "backup": "max_min"},
        ),
        (
            "cal_ql/antmaze-large-diverse-v2",
            {"critic_hidden": (256,) * 4, "reward_scale": 10.0, "failure_reward": 0.0},
        ),
        ("cal_ql/local/hopper-medium-v0", {"cql_weight": 10.0, "calibrate_online": True}),
        (
            "famo2o_iql/hopper-medium-v2",
            {"coefficient_range": (1.0, 5.0), "expectile": 0.7, "balance_every": 5},
        ),
        (
            "famo2o_iql/antmaze-large-play-v2",
            {
                "coefficient_range": (8.0, 14.0),
                "expectile": 0.9,
                "balance_every": 1,
                "reward_shift": -1.0,
                "balance_target_entropy": -0.5,
                "actor_schedule": "constant",
            },
        ),
        ("famo2o_awac/walker2d-medium-v2", {"coefficient_range": (1.0, 5.0), "weight": "exp"}),
        (
            "famo2o_cql/hopper-medium-v2",
            {"coefficient_range": (0.5, 1.5), "cql_weight": 1.0, "layer_norm": True},
        ),
        ("sac_n/hopper-medium-v2", {"critics": 500, "log_std_bounds": (-5.0, 2.0)}),
        ("sac_n/walker2d-medium-replay-v2", {"critics": 20, "hidden": (256, 256, 256)}),
        ("edac/halfcheetah-medium-expert-v2", {"critics": 10, "diversity": 5.0}),
        ("edac/hopper-medium-expert-v2", {"critics": 50, "diversity": 1.0}),
        (
            "rorl/hopper-medium-v2",
            {
                "perturbations": 20,
                "policy_radius": 0.005,
                "policy_smoothing": 0.1,
                "critic_radius": 0.005,
                "critic_smoothing": 1e-4,
                "ood_radius": 0.01,
                "ood_weight": 0.5,
                "uncertainty": 2.0,
                "uncertainty_floor": 0.1,
                "uncertainty_decay": 1e-6,
            },
        ),
        ("rorl/halfcheetah-medium-v2", {"perturbations": 10, "ood_weight": 0.0}),
        (
            "ro2o/walker2d-medium-v2",
            {
                "ood_weight": 0.1,
                "policy_smoothing": 1.0,
                "critic_radius": 0.01,
                "policy_radius": 0.01,
                "ood_radius": 0.01,
                "uncertainty": 1.0,
                "uncertainty_floor": 0.1,
                "uncertainty_decay": 5e-7,
                "online_regularizers": "none",
            },
        ),
        (
            "ro2o/antmaze-umaze-v2",
            {
                "targets": "independent",
                "policy_bound": "lcb",
                "lcb_coefficient": -4.0,
                "cloning": 5.0,
                "ood_weight": 0.3,
                "critic_radius": 0.0,
                "uncertainty_decay": 0.0,
                "reward_scale": 4.0,
                "reward_shift": -2.0,
            },
        ),
        (
            "ro2o/antmaze-large-play-v2",
            {"policy_bound": "min", "cloning": 1.0, "uncertainty": 2.0, "uncertainty_floor": 1.0},
        ),
        # A run of 100,000 updates: the weight falls 25 times as fast as in 2.5 million.
        ("ro2o/local/hopper-medium-v0", {"uncertainty": 2.0, "uncertainty_decay": 2.5e-5}),
        ("rlpd/hopper-medium-v2", {"critics": 10, "target_critics": 2, "entropy_backup": True}),
        (
            "rlpd/antmaze-large-play-v2",
            {"target_critics": 1, "entropy_backup": False, "reward_shift": -1.0},
        ),
        (
            "rebrac/hopper-medium-replay-v2",
            {"actor_penalty": 0.05, "critic_penalty": 0.5, "batch_size": 1024},
        ),
        (
            "rebrac/antmaze-medium-play-v2",
            {
                "actor_penalty": 0.001,
                "critic_penalty": 0.0005,
                "critic_learning_rate": 5e-5,
                "discount": 0.999,
                "reward_scale": 100.0,
            },
        ),
        ("sac/ant-v5", {"critics": 2, "actor_learning_rate": 3e-4, "target_entropy": None}),
    ],
)
def test_settings_are_the_papers(name: str, expected: dict[str, Any]) -> None:
    settings = agent_settings(load_recipe(name))
    for key, value in expected.items():
        found = getattr(settings, key)
        assert found == value or math.isclose(found, value, rel_tol=1e-12), key


def test_antmaze_is_evaluated_with_a_hundred_episodes() -> None:
    assert load_recipe("iql/antmaze-umaze-v2").evaluation.episodes == 100
    assert load_recipe("iql/hopper-medium-v2").evaluation.episodes == 10


def test_online_recipes_fill_what_they_leave_out_with_the_agents_defaults() -> None:
    recipe = load_recipe("iql/hopper-medium-v2", ["online.steps=100"])
    assert recipe.online.replay is None
    assert online_settings(recipe).replay == agent_class(recipe).online_defaults.replay == "union"


def test_cal_ql_goes_online_by_whole_episodes_and_half_and_half() -> None:
    recipe = load_recipe("cal_ql/antmaze-large-play-v2")
    assert recipe.online.steps == recipe.offline.steps == 1_000_000
    online = online_settings(recipe)
    assert (online.replay, online.offline_fraction) == ("mixture", 0.5)
    assert (online.update_after, online.updates_per_step) == ("episode", 1.0)


def test_agent_without_dataset_draws_from_interaction_alone() -> None:
    recipe = load_recipe(
        "iql/hopper-medium-v2",
        ["dataset=", "environment=Hopper-v5", "offline.steps=0", "online.steps=9"],
    )
    assert online_settings(recipe).replay == "online"


def test_each_base_is_used() -> None:
    folder = shipped_recipes()
    bases = {path.resolve() for path in folder.rglob("_*.yaml")}
    used = set()
    for path in folder.rglob("*.yaml"):
        for line in path.read_text().splitlines():
            if line.startswith("base:"):
                used.add((path.parent / line.split(":", 1)[1].strip()).resolve())
    assert bases
    assert bases == used & bases
    assert all(Path(path).is_file() for path in used)
