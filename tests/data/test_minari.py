"""Minari datasets, recorded with the real package."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from rlalign.data.d4rl import GOAL_ORDER
from rlalign.data.dataset import load_dataset
from rlalign.errors import DatasetError, MissingPackageError

minari = pytest.importorskip("minari")
pytestmark = pytest.mark.filterwarnings("ignore:.*is set to None")  # author, description, ...


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    return tmp_path


def play(env: gymnasium.Env[Any, Any], seed: int) -> Any:
    """Play one episode of uniform actions into minari's buffer of an episode."""
    observation, _ = env.reset(seed=seed)
    observations: Any = [observation]
    actions: list[Any] = []
    results: list[Any] = []
    while not results or not (results[-1][1] or results[-1][2]):
        actions.append(env.action_space.sample())
        observation, *result, _ = env.step(actions[-1])
        observations.append(observation)
        results.append(result)
    if isinstance(observation, dict):
        observations = {key: [part[key] for part in observations] for key in observation}
    rewards, terminations, truncations = map(list, zip(*results, strict=True))
    return minari.data_collector.EpisodeBuffer(
        observations=observations,
        actions=actions,
        rewards=rewards,
        terminations=terminations,
        truncations=truncations,
    )


def record(env: gymnasium.Env[Any, Any], name: str, episodes: int = 2, **about: Any) -> Any:
    env.action_space.seed(0)
    buffers = [play(env, seed) for seed in range(episodes)]
    made = minari.create_dataset_from_buffers(name, buffers, env=env, **about)
    env.close()
    return made


def test_recorded_episodes_become_trajectories() -> None:
    env = gymnasium.make("Hopper-v5", max_episode_steps=15)
    recorded = record(env, "test/hopper-v0", 6)
    dataset = load_dataset("minari/test/hopper-v0")
    assert len(dataset) == recorded.total_steps
    assert dataset.environment == "Hopper-v5"
    assert dataset.reference == (-20.272305, 3234.3)
    assert dataset.action_high is not None
    assert dataset.action_high.tolist() == [1.0, 1.0, 1.0]
    episodes = list(recorded.iterate_episodes())
    parts = list(dataset.trajectories())
    assert len(parts) == len(episodes) == 6
    for part, episode in zip(parts, episodes, strict=True):
        assert np.array_equal(part.observations, episode.observations[:-1].astype(np.float32))
        assert np.array_equal(part.next_observations, episode.observations[1:].astype(np.float32))
        assert np.array_equal(part.actions, episode.actions)
        assert np.array_equal(part.rewards, episode.rewards.astype(np.float32))
        assert part.terminated == bool(episode.terminations[-1])


def test_own_reference_scores_come_first() -> None:
    env = gymnasium.make("Hopper-v5")
    record(env, "test/scored-v0", ref_min_score=1.0, ref_max_score=3.0)
    assert load_dataset("minari/test/scored-v0").reference == (1.0, 3.0)


def test_goal_observations_are_joined_as_the_environments_join_them() -> None:
    goals = pytest.importorskip("rlalign.envs.goals")
    gymnasium.register_envs(pytest.importorskip("gymnasium_robotics"))
    assert goals.GOAL_ORDER == GOAL_ORDER
    env = gymnasium.make("PointMaze_UMaze-v3", max_episode_steps=10)
    recorded = record(env, "test/maze-v0")
    dataset = load_dataset("minari/test/maze-v0")
    first = next(iter(recorded.iterate_episodes())).observations
    joined = goals.flatten_goal({key: values[0] for key, values in first.items()})
    assert dataset.layout.observation_size == 8
    assert np.array_equal(dataset.observations[0], joined.astype(np.float32))


def test_environment_is_made_as_the_dataset_says() -> None:
    made: dict[str, Any] = {"g": 3.0, "max_episode_steps": 9}
    record(gymnasium.make("Pendulum-v1", render_mode="rgb_array", **made), "test/light-v0")
    dataset = load_dataset("minari/test/light-v0")
    assert dataset.environment == "Pendulum-v1"
    assert dataset.metadata == {"environment_options": made}

    # The one for evaluation is what is played, where a dataset names one.
    evaluation = gymnasium.make("Pendulum-v1", g=4.0, max_episode_steps=7)
    record(gymnasium.make("Pendulum-v1", **made), "test/heavy-v0", eval_env=evaluation)
    dataset = load_dataset("minari/test/heavy-v0")
    assert dataset.metadata == {"environment_options": {"g": 4.0, "max_episode_steps": 7}}


def test_discrete_actions_are_refused() -> None:
    record(gymnasium.make("CartPole-v1"), "test/cartpole-v0")
    with pytest.raises(DatasetError, match="actions must be a flat Box, got Discrete"):
        load_dataset("minari/test/cartpole-v0")


def test_damaged_files_are_refused(folder: Path) -> None:
    record(gymnasium.make("Hopper-v5"), "test/hopper-v0")
    file = next(folder.rglob("main_data.hdf5"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DatasetError, match="minari/test/hopper-v0") as caught:
        load_dataset("minari/test/hopper-v0")
    assert "\n" not in str(caught.value)


def test_dataset_that_cannot_be_downloaded_names_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nand more")

    monkeypatch.setattr("minari.storage.hosting.download_dataset", offline)
    with pytest.raises(DatasetError) as caught:
        load_dataset("minari/mujoco/hopper/medium-v0")
    message = str(caught.value)
    assert "no route to host)" in message
    assert str(folder / "mujoco/hopper/medium-v0") in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["mujoco/hopper/medium", "hopper", "mujoco/hopper/medium-v"])
def test_name_without_a_version_is_told(name: str) -> None:
    with pytest.raises(DatasetError) as caught:
        load_dataset(f"minari/{name}")
    assert str(caught.value) == (
        f"minari/{name}: a Minari dataset's name needs its version, as in mujoco/hopper/medium-v0"
    )


def test_folder_does_not_hide_a_dataset_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("minari/test/light-v0").mkdir(parents=True)
    record(gymnasium.make("Pendulum-v1", max_episode_steps=5), "test/light-v0")
    assert len(load_dataset("minari/test/light-v0")) == 10


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if name == "minari":
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingPackageError, match=r"pip install 'rlalign\[minari\]'"):
        load_dataset("minari/mujoco/hopper/medium-v0")
