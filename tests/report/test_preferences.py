"""Reports of preference trainers' runs, from made-up figures."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from rlalign import cli
from rlalign.recipe import load_any_recipe
from rlalign.report.preference_runs import preference_groups, read_preference_run
from rlalign.report.preferences import make_preference_report
from rlalign.rundir import RunDirectory, Status

pytest.importorskip("matplotlib")


def make_run(
    path: Path, dataset: str, validation: dict[int, float], status: Status = "finished"
) -> Path:
    """A run of DPO with these accuracies while training."""
    recipe = load_any_recipe("dpo/tiny", [f"dataset={dataset}"])
    run = RunDirectory.create(path, recipe)
    for step, accuracy in validation.items():
        run.log_evaluation({"phase": "validation", "step": step, "loss": 0.5, "accuracy": accuracy})
    run.log_evaluation({"phase": "final", "dataset": "validation", "step": 9, "accuracy": 0.5})
    run.finish(status)
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


def test_names_with_several_settings_are_numbers_told_in_a_table(tmp_path: Path) -> None:
    for beta, steps in ((0.1, 20), (0.5, 30)):
        changes = [
            f"training.beta={beta}",
            f"training.max_steps={steps}",
            "training.warmup_steps=3",
            f"training.max_length={10 * steps}",
        ]
        run = RunDirectory.create(tmp_path / str(beta), load_any_recipe("dpo/tiny", changes))
        run.log_evaluation({"phase": "final", "dataset": "validation", "step": 9, "accuracy": beta})
        run.finish("finished")
    paths = [tmp_path / "0.1", tmp_path / "0.5"]
    report = make_preference_report(paths, title="x", unfinished=False)
    assert [group["label"] for group in report.results["groups"]] == ["dpo #1", "dpo #2"]
    assert "| dpo | beta | max_length | max_steps |" in report.markdown
    assert "| dpo #2 | 0.5 | 300 | 30 |" in report.markdown
    assert "<td>dpo #2</td><td>0.5</td><td>300</td>" in report.html
    assert "dpo #2  0.5   300         30" in report.summary


def test_accuracy_of_zero_is_a_point_of_the_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", "pairs.jsonl", {1: 0.0, 2: 0.25})
    (group,) = preference_groups([read_preference_run(run)])
    steps, values = group.curve("accuracy")
    assert np.array_equal(steps, [1, 2])
    assert np.array_equal(values, [[0.0, 0.25]])


@pytest.mark.parametrize(
    ("short", "far"),
    [
        (({4: 0.5}, "interrupted"), ({2: 0.5}, "finished")),
        (({2: 0.5}, "interrupted"), ({4: 0.5}, "failed")),
        (({}, "interrupted"), ({2: 0.5}, "interrupted")),
    ],
)
def test_of_two_runs_of_a_seed_the_one_that_came_furthest_is_reported(
    tmp_path: Path, short: tuple[dict[int, float], Status], far: tuple[dict[int, float], Status]
) -> None:
    left_out, kept = tmp_path / "a", tmp_path / "b"
    make_run(left_out, "pairs.jsonl", *short)
    make_run(kept, "pairs.jsonl", *far)
    for paths in ([left_out, kept], [kept, left_out]):
        report = make_preference_report(paths, title="x", unfinished=True)
        (group,) = report.results["groups"]
        assert [run["path"] for run in group["runs"]] == [str(kept)]
        (note,) = (told for told in report.results["notes"] if told.endswith(f": {left_out}"))
        assert note == f"left out, the same recipe and seed as {kept}: {left_out}"
