"""What can be said without a GPU of agents on one: their files, and captured updates' metrics."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.agents.iql import IQL
from rlalign.checkpoint import load_state, save_state
from rlalign.errors import CheckpointError
from rlalign.graphs import CapturedSteps
from tests.agents.tiny import make, replay_of, weights

CUDA_STATE = torch.arange(16, dtype=torch.uint8)  # as long as that of a CUDA generator


def saved_on_a_gpu(path: Path, state: torch.Tensor = CUDA_STATE, device: str = "cuda") -> Any:
    """An agent's file as one on a GPU writes it; returns the agent."""
    agent = make("iql")
    agent.update(replay_of(agent), 5)
    agent.save(path)
    tensors, values = load_state(path)
    for name in tensors:
        if "generators/" in name:
            tensors[name] = state.clone()
    values["device"] = values["learner"]["device"] = device
    save_state(path, (tensors, values))
    return agent


def test_an_agent_of_a_gpu_acts_and_learns_on_a_cpu_the_same_way_each_time(tmp_path: Path) -> None:
    agent = saved_on_a_gpu(tmp_path / "agent.safetensors")
    loaded = [IQL.load(tmp_path / "agent.safetensors") for _ in range(2)]
    for one in loaded:
        for name, value in weights(agent).items():
            assert torch.equal(weights(one)[name], value)
        one.update(replay_of(one), 5)
    first, second = map(weights, loaded)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["actor"], weights(agent)["actor"])


def test_a_generator_that_is_none_of_its_device_is_refused(tmp_path: Path) -> None:
    saved_on_a_gpu(tmp_path / "agent.safetensors", device="cpu")
    with pytest.raises(CheckpointError, match="generator, 16 bytes, is not one of a cpu"):
        IQL.load(tmp_path / "agent.safetensors")


class Still:
    """A graph whose replay does nothing."""

    def replay(self) -> None:
        pass


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """torch.cuda without a GPU: a capture runs its work; returns the devices made current."""
    devices: list[Any] = []

    def device(wanted: Any) -> Any:
        devices.append(wanted)
        return nullcontext()

    class Stream:
        def wait_stream(self, _: Any) -> None:
            pass

    for name, stand_in in {
        "CUDAGraph": Still,
        "graph": nullcontext,
        "device": device,
        "Stream": Stream,
        "stream": nullcontext,
        "current_stream": Stream,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    return devices


@pytest.mark.parametrize("name", ["td3_bc", "rebrac", "famo2o_iql"])
def test_captured_updates_that_are_not_due_keep_what_they_reported(
    entered: list[Any], name: str
) -> None:
    eager, captured = make(name), make(name)
    captured.learner._graphs = CapturedSteps(captured.learner)
    for agent in (eager, captured):
        agent.update(replay_of(agent), 20)
    assert set(captured.learner.metrics()) == set(eager.learner.metrics())
    assert set(entered) == {torch.device("cpu")}  # every step ran with its learner's device current


def test_terms_that_have_ended_are_reported_no_longer() -> None:
    agent: Any = make("ro2o", online_regularizers="none")
    agent.update(replay_of(agent), 3)
    before = set(agent.learner.metrics())
    agent.begin_online()
    assert agent.learner.metrics() == {}
    agent.update(replay_of(agent), 3)
    ended = before - set(agent.learner.metrics())
    assert {"ood_penalty", "critic_roughness", "policy_roughness"} <= ended
    assert "critic_loss" in agent.learner.metrics()


def test_registered_agents_report_each_of_their_losses() -> None:
    for name in AGENTS:
        agent = make(name)
        agent.update(replay_of(agent), 2 * max(update.every for update in agent.updates))
        assert {update.loss for update in agent.updates} <= set(agent.learner.metrics()), name
