from __future__ import annotations

import importlib.util
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from rlalign.data.d4rl import tasks
from rlalign.envs import Environments, make_environment
from rlalign.envs.d4rl import environment_for
from rlalign.errors import EnvError, MissingPackageError

needs_robotics = pytest.mark.skipif(
    importlib.util.find_spec("gymnasium_robotics") is None,
    reason="gymnasium-robotics is not installed",
)

# One task of each family, its observations in D4RL's files and the length of its episodes.
SIZES = {
    "hopper-medium-v2": (11, 1000),
    "walker2d-random-v2": (17, 1000),
    "halfcheetah-expert-v2": (17, 1000),
    "ant-medium-v2": (111, 1000),
    "antmaze-umaze-v2": (29, 700),
    "antmaze-large-diverse-v2": (29, 1000),
    "maze2d-medium-v1": (4, 600),
    "maze2d-open-dense-v0": (4, 150),
    "pen-human-v1": (45, 100),
    "door-cloned-v1": (39, 200),
    "hammer-expert-v1": (46, 200),
    "relocate-human-v1": (39, 200),
}


@needs_robotics
@pytest.mark.parametrize("name", SIZES)
def test_tasks_observe_what_d4rls_files_hold_for_as_long(name: str):
    env = make_environment(name)
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == SIZES[name][:1]
    limits = []
    inner = env
    while isinstance(inner, gymnasium.Wrapper):
        limits.append(getattr(inner, "_max_episode_steps", None))
        inner = inner.env
    assert SIZES[name][1] in limits
    env.close()


def test_every_task_of_the_table_is_made_or_named_as_unplayable():
    playable = {task.name for task in tasks() if environment_for(task.name) is not None}
    assert len(playable) > 100
    assert environment_for("hopper-medium-v2") == "Hopper-v5"
    assert environment_for("antmaze-umaze-v2") == "antmaze-umaze-v2"
    with pytest.raises(EnvError, match="no environment plays D4RL's carla-lane-v0 today"):
        make_environment("carla-lane-v0")


@needs_robotics
@pytest.mark.parametrize("size", ["umaze", "medium", "large"])
def test_ant_mazes_walls_stand_where_d4rl_has_them(size: str):
    from rlalign.envs.mazes import maze_of

    name = f"antmaze-{size}-v2" if size == "umaze" else f"antmaze-{size}-play-v2"
    env = make_environment(name)
    offset = env._offset  # type: ignore[attr-defined]
    found = _walls(env.unwrapped.ant_env.model, offset)  # type: ignore[attr-defined]
    rows = maze_of(name).rows
    # D4RL: x is the column and y the row, in steps of 4 from cell (1, 1).
    expected = {
        (4.0 * (column - 1), 4.0 * (row - 1))
        for row, cells in enumerate(rows)
        for column, cell in enumerate(cells)
        if cell == "#"
    }
    assert found == expected


@needs_robotics
@pytest.mark.parametrize("size", ["umaze", "medium", "large"])
def test_point_mazes_walls_stand_where_d4rl_has_them(size: str):
    from rlalign.envs.mazes import maze_of

    name = f"maze2d-{size}-v1"
    env = make_environment(name)
    offset = env._offset  # type: ignore[attr-defined]
    found = _walls(env.unwrapped.point_env.model, offset)  # type: ignore[attr-defined]
    # D4RL: x is the row and y the column; walls stand at cell + 1, positions count from 1.2.
    expected = {
        (round(row - 0.2, 3), round(column - 0.2, 3))
        for row, cells in enumerate(maze_of(name).rows)
        for column, cell in enumerate(cells)
        if cell == "#"
    }
    assert found == expected


def _walls(model, offset: np.ndarray) -> set[tuple[float, float]]:
    places = [
        model.geom_pos[index][:2] + offset
        for index in range(model.ngeom)
        if model.geom(index).name.startswith("block")
    ]
    return {(round(float(x), 3), round(float(y), 3)) for x, y in places}


@needs_robotics
def test_ant_maze_starts_at_the_origin_and_draws_a_goal_for_each_episode():
    env = make_environment("antmaze-umaze-v2")
    resets = [env.reset(seed=seed) for seed in range(20)]
    starts = np.array([observation[:2] for observation, _ in resets])
    goals = np.array([info["goal"] for _, info in resets])
    assert np.abs(starts).max() <= 0.1
    assert starts.std() > 0.01
    assert (goals >= [0, 8]).all()
    assert (goals <= [1.5, 9.5]).all()
    assert goals.std(axis=0).min() > 0.1


@needs_robotics
def test_ant_maze_rewards_and_ends_at_the_goal_only():
    env = make_environment("antmaze-umaze-v2")
    _, info = env.reset(seed=0)
    _, reward, terminated, _, _ = env.step(np.zeros(8))
    assert (reward, terminated) == (0.0, False)
    ant = env.unwrapped.ant_env  # type: ignore[attr-defined]
    qpos = ant.data.qpos.copy()
    qpos[:2] = info["goal"] - env._offset  # type: ignore[attr-defined]
    ant.set_state(qpos, ant.data.qvel)
    _, reward, terminated, _, info = env.step(np.zeros(8))
    assert (reward, terminated, info["is_success"]) == (1.0, True, True)


@needs_robotics
def test_ant_maze_has_d4rls_strength_and_step():
    env = make_environment("antmaze-medium-play-v2")
    assert env.unwrapped.ant_env.dt == pytest.approx(0.1)  # type: ignore[attr-defined]
    gears = env.unwrapped.ant_env.model.actuator_gear[:, 0]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(gears, np.full(8, 30.0))


@needs_robotics
@pytest.mark.parametrize("name", ["maze2d-umaze-v1", "maze2d-umaze-dense-v1"])
def test_point_maze_pays_near_the_goal_and_goes_on(name: str):
    env = make_environment(name)
    env.reset(seed=0)
    goal = np.array([1.0, 1.0])
    offset = env._offset  # type: ignore[attr-defined]
    env.unwrapped.point_env.set_state(goal - offset, np.zeros(2))  # type: ignore[attr-defined]
    observation, reward, terminated, _, info = env.step(np.zeros(2))
    np.testing.assert_allclose(observation, [1, 1, 0, 0], atol=1e-6)
    assert reward == pytest.approx(1.0)
    assert not terminated
    assert info["is_success"]


@needs_robotics
@pytest.mark.parametrize("name", ["antmaze-umaze-v2", "maze2d-umaze-v1", "pen-human-v1"])
def test_adapted_tasks_resume_exactly(name: str):
    first, second = Environments(name, seed=4), Environments(name, seed=9)
    first.reset()
    rng = np.random.default_rng(0)
    for _ in range(130):  # beyond the end of pen's first episode
        first.step(rng.uniform(-1, 1, (1, *first.action_space.shape)))
    second.load_state_dict(*first.state_dict())
    actions = rng.uniform(-1, 1, (20, 1, *first.action_space.shape))
    before = first.current
    for action in actions:
        expected = first.step(action).next_observations
        np.testing.assert_array_equal(second.step(action).next_observations, expected)
    assert np.abs(expected - before).max() > 1e-3


def test_ant_task_pads_silent_contacts():
    env = make_environment("ant-medium-v2")
    env.reset(seed=0)
    observation = env.step(np.ones(8, np.float32))[0]
    assert (observation[27:] == 0).all()
    assert (observation[:27] != 0).all()


@needs_robotics
def test_goal_environments_begin_with_d4rls_columns():
    env = make_environment("AntMaze_UMaze-v5", include_cfrc_ext_in_observation=False)
    observation, _ = env.reset(seed=0)
    data = env.unwrapped.ant_env.data  # type: ignore[attr-defined]
    np.testing.assert_array_equal(observation[:29], np.concatenate([data.qpos, data.qvel]))
    np.testing.assert_array_equal(observation[29:], env.unwrapped.goal)  # type: ignore[attr-defined]


def test_missing_robotics_package_names_the_extra(monkeypatch: pytest.MonkeyPatch):
    for name in [name for name in gymnasium.registry if name.startswith("AntMaze_")]:
        monkeypatch.delitem(gymnasium.registry, name)
    monkeypatch.setitem(sys.modules, "gymnasium_robotics", None)
    with pytest.raises(MissingPackageError, match=r"rlalign\[robotics\]"):
        make_environment("AntMaze_UMaze-v5")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("HalfCheeta-v5", {}, "did you mean 'HalfCheetah-v5'"),
        ("Hopper-v99", {}, "no environment is called 'Hopper-v99'"),
        ("no_such_module:Task-v0", {}, "cannot be made"),
        ("Pendulum-v1", {"gravitation": 3}, "cannot be made.*gravitation"),
        ("hopper-v5", {}, "no environment is called 'hopper-v5'"),
    ],
)
def test_unmakeable_environments_are_explained(name: str, options: dict, message: str):
    with pytest.raises(EnvError, match=message) as caught:
        make_environment(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (AssertionError(), r"AssertionError in line \d+ of .*test_d4rl.py"),
        (ValueError("no model file\nand so on"), "ValueError: no model file"),
        (gymnasium.error.DependencyNotInstalled("Install it."), "Install it."),
        (EnvError("a sentence of its own"), None),
    ],
)
def test_environment_whose_own_code_fails_is_told_with_its_cause(
    monkeypatch: pytest.MonkeyPatch, error: Exception, cause: str | None
):
    def broken(**options: Any) -> gymnasium.Env:
        raise options["error"]

    spec = gymnasium.envs.registration.EnvSpec("Broken-v0", entry_point=broken)
    monkeypatch.setitem(gymnasium.registry, "Broken-v0", spec)
    message = "^a sentence of its own" if cause is None else f"^Broken-v0 cannot be made: {cause}$"
    with pytest.raises(EnvError, match=message):
        make_environment("Broken-v0", error=error)


@needs_robotics
@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("ant-medium-v2", "contact_cost_weight", 0.3),
        ("ant-medium-v2", "include_cfrc_ext_in_observation", True),
        ("antmaze-umaze-v2", "include_cfrc_ext_in_observation", True),
        ("antmaze-umaze-v2", "reward_type", "dense"),
        ("maze2d-umaze-v1", "maze_map", [[1]]),
        ("maze2d-umaze-v1", "continuing_task", False),
    ],
)
def test_options_that_an_adapted_task_decides_itself_are_refused(
    name: str, option: str, value: Any
):
    with pytest.raises(EnvError, match=f"D4RL's {name} decides {option} itself"):
        make_environment(name, **{option: value})


@pytest.mark.parametrize("name", ["Pendulum-v1", "hopper-medium-v2", "ant-medium-v2"])
@pytest.mark.parametrize("option", ["env_id", "id", "name", "make"])
def test_options_with_names_of_our_own_arguments_are_refused(name: str, option: str):
    with pytest.raises(EnvError, match=f"cannot be made: .*'{option}'"):
        make_environment(name, **{option: "x"})


def test_adapted_tasks_take_other_options():
    env = make_environment("ant-medium-v2", ctrl_cost_weight=0.0)
    assert env.unwrapped._ctrl_cost_weight == 0.0  # type: ignore[attr-defined]


def test_options_reach_the_environment():
    assert make_environment("Pendulum-v1", g=3.0).unwrapped.g == 3.0  # type: ignore[attr-defined]
    assert make_environment("Pendulum-v1", render_mode="rgb_array").render_mode == "rgb_array"
