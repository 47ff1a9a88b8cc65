"""Reports of preference trainers' runs, from made-up figures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rlalign import cli
from rlalign.recipe import load_any_recipe
from rlalign.report.preference_runs import preference_groups, read_preference_run
from rlalign.rundir import RunDirectory

pytest.importorskip("matplotlib")


def make_run(path: Path, dataset: str, validation: dict[int, float]) -> Path:
    """A finished run of DPO with these accuracies while training."""
    recipe = load_any_recipe("dpo/tiny", [f"dataset={dataset}"])
    run = RunDirectory.create(path, recipe)
    for step, accuracy in validation.items():
        run.log_evaluation({"phase": "validation", "step": step, "loss": 0.5, "accuracy": accuracy})
    run.log_evaluation({"phase": "final", "dataset": "validation", "step": 9, "accuracy": 0.5})
    run.finish("finished")
    return path


def test_curves_stand_under_their_own_task(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "a", "first.jsonl", {})
    make_run(tmp_path / "runs" / "b", "second.jsonl", {1: 0.5, 2: 0.75})
    assert cli.run(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    first, second = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert "first.jsonl" in first
    assert "![" not in first
    (picture,) = re.findall(r"!\[Curves of .*second.jsonl\]\((.*)\)", second)
    assert (tmp_path / "report" / picture).is_file()
    page = (tmp_path / "report" / "report.html").read_text()
    assert re.findall(r'<img alt="Curves of [^"]*?(\w+).jsonl"', page) == ["second"]


def test_runs_on_other_data_of_the_same_name_are_a_group_of_their_own(tmp_path: Path) -> None:
    for seed, fingerprint in enumerate(["aaaa1111bbbb", "aaaa1111bbbb", "cccc2222dddd"]):
        recipe = load_any_recipe("dpo/tiny", [f"seed={seed}"])
        facts = {"name": "textworld", "fingerprint": fingerprint}
        run = RunDirectory.create(tmp_path / str(seed), recipe, dataset=facts)
        run.finish("finished")
    groups = preference_groups([read_preference_run(tmp_path / str(seed)) for seed in range(3)])
    assert {group.label: len(group.runs) for group in groups} == {
        "dpo (fingerprint=aaaa1111)": 2,
        "dpo (fingerprint=cccc2222)": 1,
    }


def test_accuracy_of_zero_is_a_point_of_the_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "pairs.jsonl", {1: 0.0, 2: 0.25})
    (group,) = preference_groups([read_preference_run(run)])
    steps, values = group.curve("accuracy")
    assert np.array_equal(steps, [1, 2])
    assert np.array_equal(values, [[0.0, 0.25]])
