"""Run directories: what is written, that nothing is logged twice, and that damage is told."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlalign import rundir
from rlalign.atomic import write_atomic, write_json
from rlalign.errors import CheckpointError, MissingPackageError
from rlalign.recipe import parse_recipe
from rlalign.rundir import RunDirectory

RECIPE: dict[str, Any] = {"agent": "iql", "dataset": "x.hdf5", "offline": {"steps": 10}}


def make(path: Path, **logging: bool) -> RunDirectory:
    return RunDirectory.create(path, parse_recipe({**RECIPE, "logging": logging}), ["rlalign"])


def metric(step: int, loss: float = 0.5) -> dict[str, Any]:
    return {"phase": "offline", "step": step, "updates": step, "env_steps": 0, "loss": loss}


def evaluation(step: int) -> dict[str, Any]:
    return {"phase": "offline", "step": step, "returns": [1.0, 3.0], "mean_return": 2.0}


def tensorboard_steps(path: Path, tag: str) -> list[int]:
    events = EventAccumulator(str(path / "tensorboard")).Reload()
    return [event.step for event in events.Scalars(tag)]


def test_new_run_records_recipe_versions_and_status(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    assert info["status"] == "running"
    assert info["command"] == ["rlalign"]
    assert "torch" in info["packages"]
    again = RunDirectory.open(tmp_path / "run")
    assert again.recipe == parse_recipe({**RECIPE, "logging": {}})


def test_finish_records_status_and_error(tmp_path: Path) -> None:
    make(tmp_path / "run").finish("failed", "loss is not finite")
    info = RunDirectory.open(tmp_path / "run").info
    assert (info["status"], info["error"]) == ("failed", "loss is not finite")
    assert info["finished"] is not None


def test_existing_run_is_not_overwritten(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match="exists already"):
        make(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_bytes() == before


def test_rows_come_back_in_order_with_nan_as_null(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.log_metrics(metric(1, float("nan")))
    run.log_metrics(metric(2))
    run.log_evaluation(evaluation(2))
    assert [row["loss"] for row in run.metrics()] == [None, 0.5]
    assert run.evaluations()[0]["returns"] == [1.0, 3.0]
    run.close()


def test_tensorboard_gets_metrics_and_evaluations_by_phase(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.log_metrics(metric(5))
    run.log_evaluation(evaluation(7))
    run.close()
    assert tensorboard_steps(run.path, "offline/loss") == [5]
    assert tensorboard_steps(run.path, "offline/evaluation/mean_return") == [7]


def test_rewound_run_logs_nothing_twice(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.log_metrics(metric(1))
    run.log_evaluation(evaluation(1))
    mark = run.mark()
    run.log_metrics(metric(2))
    run.log_evaluation(evaluation(2))
    run.close()

    resumed = RunDirectory.open(tmp_path / "run")
    resumed.rewind(json.loads(json.dumps(mark)))
    assert [row["step"] for row in resumed.metrics()] == [1]
    resumed.log_metrics(metric(2))
    resumed.log_metrics(metric(3))
    resumed.close()
    assert [row["step"] for row in resumed.metrics()] == [1, 2, 3]
    assert [row["step"] for row in resumed.evaluations()] == [1]
    assert tensorboard_steps(run.path, "offline/loss") == [1, 2, 3]


def test_empty_mark_empties_the_logs(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.log_metrics(metric(1))
    run.rewind({})
    assert run.metrics() == []
    assert not list((run.path / "tensorboard").glob("*"))
    run.close()


def test_log_shorter_than_the_mark_is_an_error(tmp_path: Path) -> None:
    run = make(tmp_path / "run", tensorboard=False)
    run.log_metrics(metric(1))
    mark = run.mark()
    run.close()
    os.truncate(run.path / "metrics.jsonl", 3)
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: 3 bytes long"):
        run.rewind(mark)
    run.close()


def test_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    run = make(tmp_path / "run", tensorboard=False)
    run.log_metrics(metric(1))
    run.log_metrics(metric(2))
    run.close()
    path = run.path / "metrics.jsonl"
    os.truncate(path, path.stat().st_size - 4)
    assert [row["step"] for row in run.metrics()] == [1]


def test_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{oops\n{"step": 3}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2"):
        rundir.read_rows(path)


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    run = make(tmp_path / "run", tensorboard=False)
    second = RunDirectory.open(tmp_path / "run")
    with pytest.raises(CheckpointError, match="another process"):
        second.rewind({})
    run.close()
    second.rewind({})
    second.close()


@pytest.mark.parametrize("missing", ["run.json", "recipe.yaml"])
def test_directory_without_its_files_is_no_run(tmp_path: Path, missing: str) -> None:
    run = make(tmp_path / "run")
    run.close()
    (run.path / missing).unlink()
    with pytest.raises(CheckpointError, match=missing):
        RunDirectory.open(run.path)


def test_damaged_run_file_is_named(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    run.close()
    (run.path / "run.json").write_text('{"status": ')
    with pytest.raises(CheckpointError, match=r"run\.json: damaged"):
        RunDirectory.open(run.path)


def test_failed_creation_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, document: Any) -> None:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(rundir, "write_json", full)
    with pytest.raises(OSError, match="No space left"):
        make(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_tracker_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingPackageError, match=r"rlalign\[wandb\]"):
        make(tmp_path / "run", wandb=True)
    assert not (tmp_path / "run").exists()


def test_failed_atomic_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "scores.json"
    write_json(path, {"score": 1.0})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=f"No space left.*{path}"):
        write_atomic(path, b"new")
    assert json.loads(path.read_text()) == {"score": 1.0}
    assert [child.name for child in tmp_path.iterdir()] == ["scores.json"]


@pytest.mark.parametrize("key", ["id", "status", "dataset", "packages"])
def test_run_json_that_lacks_something_is_damaged(tmp_path: Path, key: str) -> None:
    make(tmp_path / "run").close()
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in info.items() if name != key}))
    with pytest.raises(CheckpointError, match=rf"run.json: damaged, it has no {key}$"):
        RunDirectory.open(tmp_path / "run")
    path.write_text(json.dumps({**info, key: 3}))
    with pytest.raises(CheckpointError, match=rf"run.json: damaged, its {key} cannot be 3$"):
        RunDirectory.open(tmp_path / "run")


def test_status_that_no_run_has_is_damaged(tmp_path: Path) -> None:
    make(tmp_path / "run").close()
    path = tmp_path / "run" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "status": "finishd"}))
    with pytest.raises(CheckpointError, match=r"status must be one of running, .*, got 'finishd'"):
        RunDirectory.open(tmp_path / "run")
