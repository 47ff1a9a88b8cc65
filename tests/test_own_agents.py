"""Agents that live outside rlalign, named by recipes and the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rlalign.cli import app
from rlalign.errors import RecipeError
from rlalign.recipe import agent_class, load_recipe

OWN = """
from __future__ import annotations

from dataclasses import dataclass

from rlalign.agents import IQL
from rlalign.agents.iql import IQLSettings


@dataclass(frozen=True)
class MineSettings(IQLSettings):
    caution: float = 1.0


class Mine(IQL):
    name = "mine"
    settings_type = MineSettings


def function():
    pass
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "own_agents.py").write_text(OWN)
    document = {
        "agent": f"{tmp_path}/own_agents.py:Mine",
        "environment": "Pendulum-v1",
        "settings": {"hidden": [8], "batch_size": 8, "caution": 0.5},
        "online": {"steps": 30, "replay": "online"},
        "evaluation": {"episodes": 1, "every": 30},
        "logging": {"tensorboard": False},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(document))
    return tmp_path / "recipe.yaml"


def test_one_s_own_agent_trains_and_is_evaluated(recipe: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    runner = CliRunner()
    trained = runner.invoke(app, ["train", str(recipe), "--out", str(run), "--no-progress"])
    assert trained.exit_code == 0, trained.output
    assert json.loads((run / "run.json").read_text())["status"] == "finished"
    played = runner.invoke(app, ["evaluate", str(run), "--episodes", "1", "--json"])
    assert played.exit_code == 0, played.output
    assert len(json.loads(played.stdout.splitlines()[-1])["returns"]) == 1


def test_its_settings_are_checked(recipe: Path) -> None:
    from rlalign.recipe import agent_settings

    settings: Any = agent_settings(load_recipe(recipe))
    assert settings.caution == 0.5
    with pytest.raises(RecipeError, match="caution"):
        agent_settings(load_recipe(recipe, ["settings.cautoin=1"]))


def test_a_module_s_agent_is_found_by_its_name() -> None:
    recipe = load_recipe("demo", ["agent=rlalign.agents.sac:SAC", "settings={}"])
    assert agent_class(recipe).name == "sac"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_agents.py:function", "has no agent class 'function'"),
        ("own_agents.py:Nothing", "has no agent class 'Nothing'"),
        ("missing.py:Mine", "cannot be imported .no such file."),
        ("no.such.module:Mine", "cannot be imported .No module named 'no'."),
    ],
)
def test_what_is_no_agent_is_refused(
    recipe: Path, name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    with pytest.raises(RecipeError, match=message):
        agent_class(load_recipe(recipe, [f"agent={name}"]))
