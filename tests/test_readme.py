"""What the README shows works: its Python runs, its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest

from rlalign.cli import run

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
THOUSANDS = re.compile(r"\b\d+_000\b")
DATASET = "local/hopper-medium-v0"


def blocks(language: str) -> list[tuple[int, str]]:
    """Fenced blocks in `language`, each with the number of its first line."""
    text = README.read_text(encoding="utf-8")
    found = (match for match in FENCE.finditer(text) if match[1] == language)
    return [(text.count("\n", 0, match.start(2)), match[2]) for match in found]


@pytest.fixture
def hopper(tmp_path: Path) -> Path:
    """A small dataset of random actions in Hopper, in D4RL's layout."""
    environment = gymnasium.make("Hopper-v5", max_episode_steps=60)
    environment.action_space.seed(0)
    rows: dict[str, list[Any]] = {}
    observation, _ = environment.reset(seed=0)
    for _ in range(400):
        action = environment.action_space.sample()
        following, reward, terminated, truncated, _ = environment.step(action)
        row = {"observations": observation, "actions": action, "rewards": reward}
        row |= {"terminals": terminated, "timeouts": truncated, "next_observations": following}
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
        observation = environment.reset()[0] if terminated or truncated else following
    path = (
        tmp_path / "hopper_medium-v2.hdf5"
    )  # the name tells the task, and so its reference scores
    with h5py.File(path, "w") as file:
        for name, values in rows.items():
            kind = np.bool_ if name in ("terminals", "timeouts") else np.float32
            file[name] = np.asarray(values, kind)
    return path


def test_python_examples_run_in_order(
    hopper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    examples = blocks("python")
    assert len(examples) >= 6
    names: dict[str, Any] = {"__name__": "readme"}
    for line, source in examples:
        # Numbers written in thousands become small, and the dataset is one that is at hand.
        small = THOUSANDS.sub("30", source).replace(DATASET, str(hopper))
        exec(compile("\n" * line + small, str(README), "exec"), names)
    assert Path("hopper-iql.safetensors").exists()
    assert names["action"].shape == (3,)
    assert names["agent"].name == "iql"


@pytest.mark.parametrize(
    "line", [line for _, text in blocks("console") for line in text.splitlines()]
)
def test_commands_and_their_options_exist(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    assert words[0] == "rlalign"
    groups = {"data": 2, "recipes": min(2, len(words) - 1)}
    command = words[1 : 1 + groups.get(words[1], 1)]
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert all(option in text for option in words if option.startswith("--"))


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []
