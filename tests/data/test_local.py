"""Datasets collected on this machine."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

from rlalign.data import behaviour, local
from rlalign.data.behaviour import GaussianPolicy, UniformPolicy, load_policy, save_policy
from rlalign.data.collecting import Share, collect
from rlalign.data.dataset import load_dataset
from rlalign.errors import DatasetError, EnvError
from tests.envs.toy import Counter, Goal


def make_policy(obs: int = 11, act: int = 3, seed: int = 0) -> GaussianPolicy:
    random = np.random.default_rng(seed)
    sizes = [obs, 16, 16, 2 * act]
    return GaussianPolicy(
        [
            random.normal(size=pair, scale=0.3).astype(np.float16).astype(np.float32)
            for pair in itertools.pairwise(sizes)
        ],
        [np.zeros(size, dtype=np.float32) for size in sizes[1:]],
        {"environment": "Hopper-v5", "log_std_bounds": [-20, 2]},
    )


@pytest.fixture
def policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "policies"
    for seed in range(4):
        save_policy(folder / "hopper" / f"step-{seed}.safetensors", make_policy(seed=seed))
    entry = {
        "environment": "Hopper-v5",
        "expert": "step-3",
        "medium": "step-2",
        "replay": ["step-0", "step-1", "step-2"],
    }
    (folder / "manifest.json").write_text(json.dumps({"hopper": entry}))
    monkeypatch.setattr(behaviour, "POLICIES", folder)
    monkeypatch.setattr(local, "TRANSITIONS", 300)
    yield folder
    behaviour._manifest.cache_clear()


def test_policy_acts_as_the_torch_module_of_its_weights() -> None:
    policy = make_policy()
    observations = np.random.default_rng(1).normal(size=(7, 11)).astype(np.float32)
    hidden = torch.from_numpy(observations)
    for weight, bias in zip(policy.weights[:-1], policy.biases[:-1], strict=True):
        hidden = torch.relu(hidden @ torch.from_numpy(weight) + torch.from_numpy(bias))
    last = hidden @ torch.from_numpy(policy.weights[-1]) + torch.from_numpy(policy.biases[-1])
    mean, log_std = last.chunk(2, dim=1)
    noise = np.random.default_rng(5).standard_normal((7, 3), dtype=np.float32)
    sampled = torch.tanh(mean + log_std.clamp(-20, 2).exp() * torch.from_numpy(noise)).numpy()
    assert policy.act(observations, np.random.default_rng(5)) == pytest.approx(sampled, abs=1e-6)
    still = GaussianPolicy(policy.weights, policy.biases, deterministic=True)
    acted = still.act(observations, np.random.default_rng(5))
    assert acted == pytest.approx(torch.tanh(mean).numpy(), abs=1e-6)
    assert np.abs(acted - sampled).max() > 0.1


def test_policy_survives_its_file(tmp_path: Path) -> None:
    policy = make_policy()
    again = load_policy(save_policy(tmp_path / "a.safetensors", policy))
    assert again.metadata == policy.metadata
    assert all(np.array_equal(a, b) for a, b in zip(again.weights, policy.weights, strict=True))


def test_damaged_policies_are_refused(tmp_path: Path) -> None:
    path = save_policy(tmp_path / "a.safetensors", make_policy())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DatasetError, match="not a readable behaviour policy"):
        load_policy(path)
    with pytest.raises(DatasetError, match="no such behaviour policy"):
        load_policy(tmp_path / "b.safetensors")
    policy = make_policy()
    broken = GaussianPolicy([policy.weights[0], policy.weights[2].T], list(policy.biases[:2]))
    with pytest.raises(DatasetError, match="layer 1 does not fit"):
        load_policy(save_policy(tmp_path / "c.safetensors", broken))


def test_collected_transitions_are_what_the_environment_did() -> None:
    dataset = collect(UniformPolicy(3), "Hopper-v5", 150, seed=3, environments=4, progress=False)
    assert len(dataset) == 150
    assert dataset.environment == "Hopper-v5"
    for index, part in enumerate(dataset.trajectories()):
        seed = np.random.SeedSequence([3, 0, index + 1]).generate_state(1)[0]
        env = gymnasium.make("Hopper-v5")
        observation, _ = env.reset(seed=int(seed))
        for step in range(len(part)):
            assert np.array_equal(part.observations[step], observation.astype(np.float32))
            observation, reward, terminated, _, _ = env.step(part.actions[step])
            assert np.array_equal(part.next_observations[step], observation.astype(np.float32))
            assert part.rewards[step] == np.float32(reward)
            assert terminated == (part.terminated and step == len(part) - 1)
        env.close()
    cut = dataset.truncated
    assert not cut[:-1].any()


def test_time_limits_are_truncations() -> None:
    def short() -> gymnasium.Env:
        return gymnasium.make("HalfCheetah-v5", max_episode_steps=20)

    dataset = collect(UniformPolicy(6), short, 70, seed=0, environments=2, progress=False)
    assert dataset.ends.tolist() == [20, 40, 60, 70]
    assert dataset.terminations.sum() == 0.0


def test_episodes_without_an_end_are_cut_where_there_are_enough() -> None:
    def endless() -> gymnasium.Env:
        return gymnasium.make("Pendulum-v1", max_episode_steps=-1)

    dataset = collect(UniformPolicy(1), endless, 70, seed=0, environments=3, progress=False)
    assert dataset.ends.tolist() == [70]


def test_same_seed_same_bits_and_another_seed_other_ones() -> None:
    policy = make_policy()
    one, two, other = (
        collect(policy, "Hopper-v5", 200, seed=seed, environments=3, progress=False)
        for seed in (1, 1, 2)
    )
    assert one.fingerprint == two.fingerprint
    assert torch.equal(one.table, two.table)
    assert one.fingerprint != other.fingerprint


def test_actions_fill_the_environments_own_range() -> None:
    dataset = collect(UniformPolicy(1), "Pendulum-v1", 100, seed=0, environments=2, progress=False)
    assert dataset.action_high is not None
    assert dataset.action_high.tolist() == [2.0]
    assert 1.5 < np.abs(dataset.actions).max() <= 2.0


def test_shares_follow_one_another() -> None:
    shares = [Share(UniformPolicy(3), 40), Share(make_policy(), 60)]
    both = collect(shares, "Hopper-v5", seed=0, environments=2, progress=False)
    first = collect(UniformPolicy(3), "Hopper-v5", 40, seed=0, environments=2, progress=False)
    assert torch.equal(both.table[:40], first.table)
    assert 40 in both.ends
    assert len(both) == 100


def test_what_cannot_be_collected_is_refused() -> None:
    with pytest.raises(EnvError, match="CartPole-v1 has actions Discrete"):
        collect(UniformPolicy(1), "CartPole-v1", 10, seed=0)
    with pytest.raises(EnvError, match="did you mean 'Hopper-v5'"):
        collect(UniformPolicy(1), "Hoper-v5", 10, seed=0)
    with pytest.raises(DatasetError, match=r"gives actions of shape \[10, 2\]"):
        collect(UniformPolicy(2), "Hopper-v5", 10, seed=0, progress=False)
    with pytest.raises(DatasetError, match="at least 1 transition"):
        collect(UniformPolicy(3), "Hopper-v5", 0, seed=0)


def test_environments_are_made_as_everywhere() -> None:
    ant = collect(UniformPolicy(8), "ant-medium-v2", 5, seed=0, environments=1, progress=False)
    assert ant.layout.observation_size == 111
    assert ant.environment == "ant-medium-v2"
    pytest.importorskip("gymnasium_robotics")
    for name, size in (("AntMaze_UMaze-v5", 109), ("antmaze-umaze-v2", 29)):
        maze = collect(UniformPolicy(8), name, 5, seed=0, environments=1, progress=False)
        assert maze.layout.observation_size == size
        assert maze.environment == name
    goal = collect(UniformPolicy(1), Goal, 5, seed=0, environments=1, progress=False)
    assert goal.observations[0].tolist() == [1.0, 1.0, 2.0, 2.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize("what", ["observation", "reward"])
def test_what_is_not_finite_is_refused(what: str) -> None:
    class Broken(Counter):
        def step(self, action: np.ndarray) -> Any:
            observation, reward, *rest = super().step(action)
            if self.steps == 2 and what == "reward":
                reward = np.inf
            if self.steps == 2 and what == "observation":
                observation = observation * np.nan
            return observation, reward, *rest

    with pytest.raises(EnvError) as caught:
        collect(UniformPolicy(1), Broken, 5, seed=0, environments=1, progress=False)
    assert str(caught.value) == f"the environment returned a {what} that is not finite"


@pytest.mark.usefixtures("policies")
def test_local_dataset_is_collected_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "local/hopper-medium-expert-v0"
    dataset = load_dataset(name, cache=tmp_path)
    assert len(dataset) == local.TRANSITIONS
    assert dataset.reference == (-20.272305, 3234.3)
    assert dataset.metadata["generator"]["policies"] == {"step-2": 150, "step-3": 150}
    assert 150 in dataset.ends
    monkeypatch.setattr(local, "collect", None)  # a second collection would fail
    assert load_dataset(name, cache=tmp_path).fingerprint == dataset.fingerprint


@pytest.mark.usefixtures("policies")
def test_kept_dataset_is_read_where_nothing_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = load_dataset("local/hopper-medium-v0", cache=tmp_path)

    def refuse(_: Path) -> None:
        raise DatasetError("nothing can be written here")

    monkeypatch.setattr(local, "locked", refuse)
    assert load_dataset("local/hopper-medium-v0", cache=tmp_path).fingerprint == before.fingerprint
    with pytest.raises(DatasetError, match="nothing can be written"):
        load_dataset("local/hopper-expert-v0", cache=tmp_path)


@pytest.mark.usefixtures("policies")
def test_replay_mixes_the_snapshots_in_order() -> None:
    dataset = local.collect_local("hopper-medium-replay-v0", transitions=100, progress=False)
    assert dataset.metadata["generator"]["policies"] == {"step-0": 34, "step-1": 33, "step-2": 33}
    assert {34, 67, 100} <= set(dataset.ends.tolist())


def test_changed_policy_means_new_data(
    tmp_path: Path, policies: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = load_dataset("local/hopper-medium-v0", cache=tmp_path)
    save_policy(policies / "hopper" / "step-2.safetensors", make_policy(seed=9))
    after = load_dataset("local/hopper-medium-v0", cache=tmp_path)
    assert before.fingerprint != after.fingerprint
    assert "another policies_sha256" in caplog.text


@pytest.mark.usefixtures("policies")
def test_damaged_cache_is_collected_again(tmp_path: Path) -> None:
    before = load_dataset("local/hopper-random-v0", cache=tmp_path)
    path = tmp_path / "local" / "hopper-random-v0.hdf5"
    path.write_bytes(path.read_bytes()[:1000])
    assert load_dataset("local/hopper-random-v0", cache=tmp_path).fingerprint == before.fingerprint


@pytest.mark.usefixtures("policies")
def test_unknown_local_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="did you mean 'hopper-medium-v0'"):
        load_dataset("local/hopper-medum-v0", cache=tmp_path)
    with pytest.raises(DatasetError, match="shipped for 'ant', only for hopper"):
        load_dataset("local/ant-medium-v0", cache=tmp_path)
    with pytest.raises(DatasetError, match="cannot be shared by 3 policies"):
        local.collect_local("hopper-medium-replay-v0", transitions=2)
