"""Where agents and replay buffers are written, how they are found, and what they say."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch

from rlalign import cli
from rlalign.agent_files import load_any_agent, with_ending
from rlalign.agents import AGENTS
from rlalign.checkpoint import load_state
from rlalign.envs import Environments
from tests.agents.tiny import SMALL, make, weights
from tests.envs.toy import Counter


@pytest.fixture
def learned() -> Any:
    """An agent with a replay buffer."""
    agent = AGENTS["sac"](partial(Counter, 3), **SMALL)
    agent.learn(5)
    return agent


def test_home_is_where_agents_and_replay_buffers_are_saved_and_loaded(
    learned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    learned.save("~/agent")
    learned.save("~/agent.zip")
    learned.save_replay_buffer("~/replay")
    names = {path.name for path in (tmp_path / "home").iterdir()}
    assert names == {"agent.safetensors", "agent.zip", "replay"}
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    for name in ("~/agent", "~/agent.safetensors", "~/agent.zip"):
        for loaded in (type(learned).load(name), load_any_agent(name)):
            assert torch.equal(weights(loaded)["actor"], weights(learned)["actor"])
    loaded = type(learned).load("~/agent")
    loaded.load_replay_buffer("~/replay")
    assert loaded.replay_buffer is not None
    assert len(loaded.replay_buffer) == 5


@pytest.mark.parametrize("ending", ["", ".safetensors", ".zip"])
def test_an_agent_is_found_beside_a_replay_buffer_of_the_same_name(
    learned: Any, tmp_path: Path, ending: str
) -> None:
    learned.save(tmp_path / f"same{ending}")
    learned.save_replay_buffer(tmp_path / "same")
    loaded = type(learned).load(tmp_path / "same")
    assert torch.equal(weights(loaded)["actor"], weights(learned)["actor"])
    loaded.load_replay_buffer(tmp_path / "same")
    assert loaded.replay_buffer is not None
    assert len(loaded.replay_buffer) == 5


def test_a_file_without_an_ending_is_found_by_its_name(tmp_path: Path) -> None:
    make("iql").save(tmp_path / "agent")
    (tmp_path / "agent.safetensors").rename(tmp_path / "agent")
    assert with_ending(tmp_path / "agent") == tmp_path / "agent"
    assert AGENTS["iql"].load(tmp_path / "agent").seed == 0


@pytest.mark.parametrize(
    ("env", "known"),
    [
        (lambda: "Pendulum-v1", "Pendulum-v1"),
        (lambda: gymnasium.make("Pendulum-v1"), "Pendulum-v1"),
        (lambda: gymnasium.make("Pendulum-v1", max_episode_steps=3), None),
        (lambda: Environments("Pendulum-v1", seed=0, env_kwargs={"g": 3.0}), None),
    ],
)
def test_a_file_names_the_environment_where_an_id_says_all_about_it(
    tmp_path: Path, env: Any, known: str | None
) -> None:
    AGENTS["sac"](env(), **SMALL).save(tmp_path / "agent")
    assert load_state(tmp_path / "agent.safetensors")[1]["environment"] == known


def test_other_options_are_not_forgotten_without_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    AGENTS["sac"](gymnasium.make("Pendulum-v1", g=0.0), **SMALL).save(tmp_path / "agent")
    assert cli.run(["evaluate", str(tmp_path / "agent"), "-n", "1"]) == 2
    assert "does not say which environment; add --environment ID" in capsys.readouterr().err
    words = ["evaluate", str(tmp_path / "agent"), "-n", "1", "-e", "Pendulum-v1"]
    assert cli.run(words) == 0
