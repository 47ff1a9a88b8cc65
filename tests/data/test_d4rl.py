"""The table of D4RL's tasks."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from rlalign import cli
from rlalign.data import d4rl
from rlalign.errors import DatasetError

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_d4rl_table.py"


def check_script() -> Any:
    spec = importlib.util.spec_from_file_location("check_d4rl_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_of_d4rls_tasks_are_there() -> None:
    tasks = list(d4rl.tasks())
    assert len(tasks) == 155
    assert sum(task.reference is not None for task in tasks) == 147
    assert all(task.url.startswith("https://") and task.difference for task in tasks)


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("halfcheetah-medium-v2", (-280.178953, 12135.0)),
        ("hopper-medium-replay-v0", (-20.272305, 3234.3)),
        ("walker2d-expert-v1", (1.629008, 4592.3)),
        ("antmaze-large-play-v2", (0.0, 1.0)),
        ("kitchen-mixed-v0", (0.0, 4.0)),
        ("ant-random-expert-v0", None),
    ],
)
def test_reference_scores_are_those_of_d4rl(
    name: str, reference: tuple[float, float] | None
) -> None:
    assert d4rl.task(name).reference == reference


def test_normalized_score_spans_0_to_100() -> None:
    reference = d4rl.task("hopper-medium-v2").reference
    assert reference is not None
    assert d4rl.normalized_score(reference[0], reference) == 0.0
    assert d4rl.normalized_score(reference[1], reference) == 100.0


def test_reference_is_found_by_environment_of_any_version() -> None:
    assert d4rl.reference_of_environment("Hopper-v4") == (-20.272305, 3234.3)
    assert d4rl.reference_of_environment("Pendulum-v1") is None


@pytest.mark.parametrize(
    ("environment", "reference"),
    [
        ("PointMaze_UMaze-v3", (23.85, 161.86)),
        ("PointMaze_UMazeDense-v3", (68.537689, 193.66285642381482)),
        ("PointMaze_Large-v3", (6.7, 273.99)),
        ("PointMaze_LargeDense-v3", (30.569041, 303.4857382709002)),
        ("AntMaze_UMaze-v5", (0.0, 1.0)),
        ("AntMaze_UMazeDense-v5", None),
    ],
)
def test_dense_and_sparse_rewards_have_references_of_their_own(
    environment: str, reference: tuple[float, float] | None
) -> None:
    assert d4rl.reference_of_environment(environment) == reference


def test_unknown_task_names_the_nearest() -> None:
    with pytest.raises(DatasetError, match=r"did you mean .*walker2d-medium-v2"):
        d4rl.task("walker2d-meduim-v2")


def test_tasks_that_need_adapting_are_played_under_their_own_name() -> None:
    assert d4rl.task("antmaze-umaze-v2").played_as == "antmaze-umaze-v2"
    assert d4rl.task("hopper-medium-v2").played_as == "Hopper-v5"
    assert d4rl.task("kitchen-mixed-v0").played_as is None
    assert d4rl.reference_of_environment("antmaze-umaze-v2") == (0.0, 1.0)


def test_tasks_are_listed_with_what_plays_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "list", "--json"]) == 0
    rows = {row["name"]: row["environment"] for row in json.loads(capsys.readouterr().out)}
    assert rows["d4rl/ant-medium-v2"] == "ant-medium-v2"
    assert rows["d4rl/pen-human-v1"] == "pen-human-v1"
    assert rows["d4rl/hopper-medium-v2"] == "Hopper-v5"
    assert rows["d4rl/kitchen-mixed-v0"] is None


def test_check_script_tells_agreement_from_difference() -> None:
    script = check_script()
    raw = json.loads(d4rl.TABLE_PATH.read_text())
    base = script.PLAIN_BASE
    infos = {
        "DATASET_URLS": {name: base + path for name, path in raw["paths"].items()},
        "REF_MIN_SCORE": {n: group["random"] for group in raw["scores"] for n in group["tasks"]},
        "REF_MAX_SCORE": {n: group["expert"] for group in raw["scores"] for n in group["tasks"]},
    }
    assert script.differences(infos) == []
    assert script.table(infos) == raw
    infos["REF_MAX_SCORE"]["hopper-medium-v2"] = 1.0
    infos["DATASET_URLS"]["door-human-v1"] = base + "elsewhere.hdf5"
    assert [line.split(":")[0] for line in script.differences(infos)] == [
        "door-human-v1",
        "hopper-medium-v2",
    ]
