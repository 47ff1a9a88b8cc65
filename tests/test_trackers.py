"""What the optional trackers are told; the real packages are used where they are installed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rlalign.recipe import parse_recipe
from rlalign.rundir import RunDirectory


class Service:
    """Stands for wandb and trackio alike, and remembers what it was told."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.rows: list[dict[str, Any]] = []
        self.finished = 0

    def init(self, **given: Any) -> Service:
        self.started.append(given)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        assert name.split("/")[0] == step_metric.split("/")[0]

    def log(self, row: dict[str, Any]) -> None:
        self.rows.append(row)

    def finish(self) -> None:
        self.finished += 1


def train(path: Path, tracker: str) -> RunDirectory:
    recipe = {"agent": "iql", "dataset": "x.hdf5", "seed": 3, "offline": {"steps": 10}}
    run = RunDirectory.create(path, parse_recipe({**recipe, "logging": {tracker: True}}), [])
    run.log_metrics({"phase": "offline", "step": 5, "updates": 5, "loss": 0.5})
    row = {"phase": "online", "step": 7, "returns": [1.0], "mean_return": 1.0}
    run.log_evaluation({**row, "normalized_score": None})
    run.close()
    return run


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_tracker_gets_scalars_with_the_step_of_their_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    service = Service()
    module = SimpleNamespace(init=service.init, log=service.log, finish=service.finish)
    monkeypatch.setitem(sys.modules, tracker, module)
    monkeypatch.setattr("rlalign.rundir._installed", lambda name: True)
    train(tmp_path / "run", tracker)
    assert service.rows == [
        {"offline/loss": 0.5, "offline/step": 5},
        {"online/evaluation/mean_return": 1.0, "online/step": 7},
    ]
    assert service.started[0]["config"]["seed"] == 3
    assert service.finished == 1


@pytest.mark.parametrize("tracker", ["wandb", "trackio"])
def test_resumed_run_goes_on_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracker: str
) -> None:
    service = Service()
    module = SimpleNamespace(init=service.init, log=service.log, finish=service.finish)
    monkeypatch.setitem(sys.modules, tracker, module)
    monkeypatch.setattr("rlalign.rundir._installed", lambda name: True)
    train(tmp_path / "run", tracker)
    resumed = RunDirectory.open(tmp_path / "run")
    resumed.rewind({})
    resumed.log_metrics({"phase": "offline", "step": 5, "loss": 0.5})
    resumed.close()
    first, second = service.started
    assert first == second
    assert second["resume"] == "allow"

    shutil.copytree(tmp_path / "run", tmp_path / "copies" / "run")
    copied = RunDirectory.open(tmp_path / "copies" / "run")
    copied.log_metrics({"phase": "offline", "step": 6, "loss": 0.5})
    copied.close()
    key = "id" if tracker == "wandb" else "name"
    assert service.started[2][key] != first[key]


def test_real_wandb_keeps_an_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train(tmp_path / "run", "wandb")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*"))


def test_real_trackio_keeps_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    train(tmp_path / "run", "trackio")
    assert list((tmp_path / "trackio").glob("*.db"))
