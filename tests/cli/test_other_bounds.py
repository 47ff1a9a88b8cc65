"""Agents are not taken to an environment whose actions have other bounds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from rlalign.agents import AGENTS
from rlalign.cli.policies import check_spaces
from rlalign.errors import EnvError
from tests.agents.tiny import SMALL
from tests.envs.toy import Counter, WholeNumbers


@pytest.fixture
def agent_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An agent of actions from -2 to 4, and an environment of actions from -1 to 1 beside it."""
    spec = gymnasium.envs.registration.EnvSpec("Narrow-v0", entry_point="tests.envs.toy:Counter")
    spec.kwargs = {"low": -1.0}
    monkeypatch.setitem(gymnasium.registry, "Narrow-v0", spec)
    AGENTS["sac"](partial(Counter, 3), **SMALL).save(tmp_path / "agent")
    return tmp_path / "agent.safetensors"


@pytest.mark.parametrize(
    "words", [("evaluate", "-n", "1"), ("collect", "--out", "new.hdf5", "-n", "5")]
)
def test_action_bounds_are_compared(refused: Any, agent_file: Path, words: tuple[str, ...]) -> None:
    command, *more = words
    sentence = refused(command, agent_file, *more, "--environment", "Narrow-v0")
    assert sentence == (
        "Narrow-v0: actions from [-1] to [4], but the agent was trained with [-2] to [4]"
    )


def test_bounds_that_differ_by_rounding_are_the_same() -> None:
    agent = AGENTS["sac"](partial(Counter, 3, low=-0.1), **SMALL)
    check_spaces(agent, Counter(low=-0.1 + 1e-9), "Counter")
    with pytest.raises(EnvError, match="of whole numbers"):
        check_spaces(agent, WholeNumbers(), "WholeNumbers")
