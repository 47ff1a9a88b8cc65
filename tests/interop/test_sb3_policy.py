"""Policies that the real stable-baselines3 trained and saved, read by ours."""

from __future__ import annotations

import base64
import json
import pickle
import warnings
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3
import torch
from gymnasium.envs.classic_control import PendulumEnv
from stable_baselines3.common.evaluation import evaluate_policy

from rlalign.cli.policies import check_spaces
from rlalign.envs import make_environment
from rlalign.errors import CheckpointError, EnvError
from rlalign.interop.sb3_policy import load_sb3_policy

SETTINGS: dict[str, dict[str, Any]] = {
    "SAC": {"learning_starts": 50, "batch_size": 32},
    "TD3": {"learning_starts": 50, "batch_size": 32},
    "DDPG": {"learning_starts": 50, "batch_size": 32},
    "PPO": {"n_steps": 64, "batch_size": 32, "n_epochs": 2},
    "A2C": {},
}
ONE = np.float32(1)
READ_AS = {"DDPG": "TD3", "A2C": "PPO"}


def train(algorithm: str, steps: int = 200, env: Any = "Pendulum-v1", **more: Any) -> Any:
    policy = {"net_arch": [16, 8]} | more.pop("policy_kwargs", {})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(stable_baselines3, algorithm)(
            "MlpPolicy", env, policy_kwargs=policy, seed=1, device="cpu",
            **{**SETTINGS[algorithm], **more},
        )  # fmt: skip
        return model.learn(steps)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    folder = tmp_path_factory.mktemp("models")
    models = {name: train(name) for name in SETTINGS}
    for name, model in models.items():
        model.save(folder / name)
    return {name: (model, folder / f"{name}.zip") for name, model in models.items()}


def observations(count: int = 50) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 2, (count, 3)).astype(np.float32)


@pytest.mark.parametrize("env_id", [None, "Pendulum-v1"])
@pytest.mark.parametrize("algorithm", SETTINGS)
def test_deterministic_actions_are_those_of_the_original(
    trained: dict[str, tuple[Any, Path]], algorithm: str, env_id: str | None
):
    model, path = trained[algorithm]
    policy = load_sb3_policy(path, env_id)
    assert policy.algorithm == READ_AS.get(algorithm, algorithm)
    expected = model.predict(observations(), deterministic=True)[0]
    found = policy.predict(observations(), deterministic=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.std() > 1e-3
    single = policy.predict(observations()[0], deterministic=True)[0]
    np.testing.assert_allclose(single, expected[0], atol=1e-5)
    inside = policy.act(observations(), deterministic=True)
    np.testing.assert_allclose(2 * inside, expected, atol=1e-5)  # Pendulum's bounds are -2 and 2


@pytest.mark.parametrize("algorithm", ["SAC", "PPO"])
def test_samples_are_distributed_as_the_originals(
    trained: dict[str, tuple[Any, Path]], algorithm: str
):
    model, path = trained[algorithm]
    policy = load_sb3_policy(path)
    same = np.repeat(observations(1), 20_000, axis=0)
    torch.manual_seed(0)
    expected = model.predict(same)[0][:, 0]
    found = 2 * policy.act(same, np.random.default_rng(0))[:, 0]
    # Each mean has a standard error of 2 / sqrt(20000) = 0.014 at most; 5 of them, both sides.
    assert abs(found.mean() - expected.mean()) < 0.1
    assert abs(found.std() - expected.std()) < 0.1
    assert found.std() > 0.2
    quantiles = np.linspace(0.1, 0.9, 9)
    difference = np.quantile(found, quantiles) - np.quantile(expected, quantiles)
    assert np.abs(difference).max() < 0.15


def test_samples_repeat_with_the_generator(trained: dict[str, tuple[Any, Path]]):
    policy = load_sb3_policy(trained["SAC"][1])
    first, second, other = (
        policy.act(observations(), np.random.default_rng(seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - other).max() > 0.1
    assert np.abs(first).max() <= 1


def test_several_actions_with_uneven_bounds_are_read_from_the_file(tmp_path: Path):
    env = make_environment("BipedalWalker-v3") if _has_box2d() else make_environment("Hopper-v5")
    for algorithm in ("SAC", "PPO"):
        model = train(algorithm, 64, env)
        model.save(tmp_path / algorithm)
        policy = load_sb3_policy(tmp_path / algorithm)  # the ending may be left out
        inputs = np.random.default_rng(0).normal(size=(20, *policy.observation_space.shape))
        expected = model.predict(inputs.astype(np.float32), deterministic=True)[0]
        found = policy.predict(inputs, deterministic=True)[0]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def _has_box2d() -> bool:
    import importlib.util

    return importlib.util.find_spec("Box2D") is not None


@pytest.mark.parametrize("activation", ["Tanh", "ELU", "SiLU", "LeakyReLU", "ReLU"])
@pytest.mark.parametrize("algorithm", ["TD3", "PPO"])
def test_other_activations_are_recognised(tmp_path: Path, algorithm: str, activation: str):
    settings = {"activation_fn": getattr(torch.nn, activation)}
    model = train(algorithm, 0 if algorithm == "TD3" else 64, policy_kwargs=settings)
    model.save(tmp_path / "model.zip")
    policy = load_sb3_policy(tmp_path / "model.zip")
    expected = model.predict(observations(), deterministic=True)[0]
    found = policy.predict(observations(), deterministic=True)[0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert expected.std() > 1e-3


def test_stable_baselines3s_evaluation_accepts_the_policy(trained: dict[str, tuple[Any, Path]]):
    model, path = trained["TD3"]
    environments = []
    for _ in range(2):
        from stable_baselines3.common.monitor import Monitor

        env = Monitor(make_environment("Pendulum-v1"))
        env.reset(seed=0)
        environments.append(env)
    ours: Any = load_sb3_policy(path)
    expected = evaluate_policy(model, environments[0], 2, return_episode_rewards=True)
    found = evaluate_policy(ours, environments[1], 2, return_episode_rewards=True)
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-3)


class Bomb:
    exploded = False

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return setattr, (Bomb, "exploded", True)


def rewritten(path: Path, target: Path, **members: bytes | None) -> Path:
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(target, "w") as archive:
        for name in source.namelist():
            content = members.get(name.replace(".", "_"), source.read(name))
            if content is not None:
                archive.writestr(name, content)
    return target


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_pickled_content_is_never_run(trained: dict[str, tuple[Any, Path]], tmp_path: Path):
    path = trained["TD3"][1]
    bomb = pickle.dumps(Bomb())
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    for value in data.values():
        if isinstance(value, dict) and ":serialized:" in value:
            value[":serialized:"] = base64.b64encode(bomb).decode()
    armed = rewritten(path, tmp_path / "data.zip", data=json.dumps(data).encode())
    load_sb3_policy(armed)
    armed = rewritten(path, tmp_path / "policy.zip", policy_pth=bomb)
    with pytest.raises(CheckpointError, match="more than tensors"):
        load_sb3_policy(armed)
    assert not Bomb.exploded
    pickle.loads(bomb)
    assert Bomb.exploded  # the bomb was live


def test_files_that_are_no_policy_are_refused_in_one_sentence(
    trained: dict[str, tuple[Any, Path]], tmp_path: Path
):
    path = trained["PPO"][1]
    text = tmp_path / "text.zip"
    text.write_text("hello")
    cases = {
        tmp_path / "missing.zip": "there is no such file",
        text: "not a model saved by stable-baselines3",
        rewritten(path, tmp_path / "a.zip", policy_pth=None): "not a model saved",
        rewritten(path, tmp_path / "b.zip", data=b"{"): "not a model saved",
        rewritten(path, tmp_path / "c.zip", policy_pth=b"xyz"): "policy.pth is damaged",
        rewritten(path, tmp_path / "d.zip", data=b"{}"): "name its environment",
        rewritten(path, tmp_path / "e.zip", data=b'{"use_sde": true}'): "state-dependent",
        tmp_path: "not a model saved",
    }
    for file, message in cases.items():
        with pytest.raises(CheckpointError, match=message) as caught:
            load_sb3_policy(file)
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action_net.weight": torch.zeros(1, 5)}, "do not fit together"),
        ({"mlp_extractor.policy_net.0.bias": torch.zeros(3)}, "do not fit together"),
        ({"log_std": torch.zeros(7)}, "spread does not fit"),
        ({"log_std": None}, "discrete"),
        ({"log_std": torch.full((1,), torch.nan)}, "finite"),
        ({"features_extractor.cnn.0.weight": torch.zeros(1)}, "flat vector"),
        ({"action_net.weight": None}, "holds no policy"),
        ({"mlp_extractor.policy_net.2.bias": None}, "lacks a weight or a bias"),
    ],
)
def test_tensors_that_are_no_actor_are_refused(
    trained: dict[str, tuple[Any, Path]], tmp_path: Path, change: dict[str, Any], message: str
):
    model, path = trained["PPO"]
    tensors = {**model.policy.state_dict(), **change}
    file = tmp_path / "policy.pth"
    torch.save({name: value for name, value in tensors.items() if value is not None}, file)
    changed = rewritten(path, tmp_path / "changed.zip", policy_pth=file.read_bytes())
    with pytest.raises(CheckpointError, match=message):
        load_sb3_policy(changed)


def test_a_policy_of_another_environment_is_refused(trained: dict[str, tuple[Any, Path]]):
    with pytest.raises(CheckpointError, match="3 observations and 1 actions, Hopper-v5 has 11"):
        load_sb3_policy(trained["SAC"][1], "Hopper-v5")
    with pytest.raises(EnvError):
        load_sb3_policy(trained["SAC"][1], "Hoper-v5")


def test_bounds_of_the_actions_are_the_files_where_they_can_be_read(
    trained: dict[str, tuple[Any, Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = trained["SAC"][1]
    spec = gymnasium.spec("Pendulum-v1")
    monkeypatch.setitem(
        gymnasium.registry, "Weak-v0", replace(spec, id="Weak-v0", entry_point=weak)
    )
    policy = load_sb3_policy(path, "Weak-v0")
    assert policy.action_space.high == 2
    with pytest.raises(EnvError, match=r"from \[-1\] to \[1\], but .* with \[-2\] to \[2\]"):
        check_spaces(policy, make_environment("Weak-v0"), "Weak-v0")
    with zipfile.ZipFile(path) as archive:
        data = json.loads(archive.read("data"))
    del data["action_space"]["low"]
    silent = rewritten(path, tmp_path / "silent.zip", data=json.dumps(data).encode())
    assert load_sb3_policy(silent, "Weak-v0").action_space.high == 1


def weak(**options: Any) -> gymnasium.Env[Any, Any]:
    """Pendulum with half the torque."""
    return gymnasium.wrappers.RescaleAction(PendulumEnv(**options), -ONE, ONE)


def test_policies_of_discrete_actions_are_refused(tmp_path: Path):
    train("PPO", 64, "CartPole-v1").save(tmp_path / "model")
    with pytest.raises(CheckpointError, match="discrete"):
        load_sb3_policy(tmp_path / "model")
