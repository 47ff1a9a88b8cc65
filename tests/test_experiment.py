"""Recipes carried out: when a run is evaluated, and what is loaded from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlalign.experiment import train
from rlalign.recipe import list_recipes, load_recipe, parse_recipe
from tests.toy_data import random_dataset


def document(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe of a few updates on random transitions of the pendulum's sizes."""
    data = folder / "data.hdf5"
    if not data.exists():
        random_dataset(3, 1, 200, low=-2.0, high=2.0).save(data)
    return {
        "agent": "iql",
        "environment": "Pendulum-v1",
        "dataset": str(data),
        "settings": {"hidden": [8], "batch_size": 16},
        "offline": {"steps": 8},
        "evaluation": {"every": 4, "episodes": 1},
        "logging": {"tensorboard": False},
        **changes,
    }


def evaluated(run: Path) -> list[tuple[str, int]]:
    """Phase and step of each evaluation."""
    path = run / "evaluations.jsonl"
    rows = map(json.loads, path.read_text().splitlines()) if path.exists() else ()
    return [(row["phase"], row["step"]) for row in rows]


@pytest.mark.parametrize(("online_every", "steps"), [(3, [0, 3, 6, 9]), (None, [0, 4, 8, 9])])
def test_online_phase_is_evaluated_at_an_interval_of_its_own(
    tmp_path: Path, online_every: int | None, steps: list[int]
) -> None:
    evaluation = {"every": 4, "online_every": online_every, "episodes": 1}
    recipe = document(tmp_path, online={"steps": 9, "warmup_steps": 20}, evaluation=evaluation)
    train(parse_recipe(recipe), tmp_path / "run", progress=False)
    offline = [("offline", step) for step in (0, 4, 8)]
    assert evaluated(tmp_path / "run") == [*offline, *(("online", step) for step in steps)]


@pytest.mark.parametrize("name", [name for name in list_recipes() if "/antmaze-" in name])
def test_shipped_antmaze_recipes_show_the_dip(name: str) -> None:
    evaluation = load_recipe(name).evaluation
    assert (evaluation.online_every or evaluation.every) <= 20_000
