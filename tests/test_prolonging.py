"""Runs that are given more than they were made for: as if it had been so from the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlalign import cli
from rlalign.checkpoint import Checkpoints
from rlalign.errors import CheckpointError, RecipeError
from rlalign.experiment import resume, train
from rlalign.recipe import parse_recipe
from rlalign.rundir import RunDirectory
from tests.test_experiment import document, evaluated
from tests.toy_data import random_dataset

ONLINE = {"warmup_steps": 3, "random_steps": 0, "environments": 2}


def trained(folder: Path, agent: str, offline: int, online: int) -> Path:
    """The directory of a run whose recipe says so from the start."""
    schedule = {"actor_schedule": "constant"} if agent == "iql" else {}
    recipe = document(
        folder,
        agent=agent,
        settings={"hidden": [8], "batch_size": 16, **schedule},
        offline={"steps": offline},
        online={"steps": online, **ONLINE},
        checkpoint={"every": 3, "keep": 9},
    )
    run = folder / f"{agent}-{offline}-{online}"
    train(parse_recipe(recipe), run, progress=False)
    return run


def state(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    tensors, values = Checkpoints(run / "checkpoints").load()
    return tensors, {key: value for key, value in values.items() if key not in ("mark", "seconds")}


def assert_same(one: Path, other: Path) -> None:
    (tensors, values), (expected, expected_values) = state(one), state(other)
    assert tensors.keys() == expected.keys()
    assert "phase/replay/table" in expected
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name
    assert values["phase"] == expected_values["phase"]
    assert RunDirectory.open(one).recipe == RunDirectory.open(other).recipe


@pytest.mark.parametrize("agent", ["iql", "td3_bc", "cal_ql"])
def test_longer_run_equals_the_one_that_was_as_long_from_the_start(
    tmp_path: Path, agent: str
) -> None:
    run = trained(tmp_path, agent, 4, 0)
    resume(run, changes=["offline.steps=8"], progress=False)
    assert evaluated(run) == [("offline", step) for step in (0, 4, 8)]
    resume(run, changes=["online.steps=10"], progress=False)
    resume(run, changes=["online.steps=22"], progress=False)
    assert RunDirectory.open(run).status == "finished"
    whole = trained(tmp_path, agent, 8, 22)
    assert_same(run, whole)
    steps = [("offline", step) for step in (0, 4, 8)]
    assert evaluated(whole) == [*steps, *(("online", step) for step in (0, 4, 8, 12, 16, 20, 22))]
    assert ("online", 22) in evaluated(run)
    scores = RunDirectory.open(run).scores()
    assert scores is not None
    assert scores["online"]["step"] == 22
    assert scores == RunDirectory.open(whole).scores()


def test_run_that_is_cut_short_is_prolonged_too(tmp_path: Path) -> None:
    """From a checkpoint in the midst, and the recipe is kept for a resume without changes."""
    run = trained(tmp_path, "td3_bc", 8, 10)
    resume(run, "offline-00000006", changes=["online.steps=22"], progress=False)
    assert_same(run, trained(tmp_path, "td3_bc", 8, 22))


def test_how_a_run_is_watched_may_change_at_any_time(tmp_path: Path) -> None:
    run = trained(tmp_path, "td3_bc", 8, 4)
    changes = ["online.steps=12", "evaluation.every=6", "logging.every=2", "checkpoint.keep=5"]
    resume(run, changes=changes, progress=False)
    assert evaluated(run)[-2:] == [("online", 6), ("online", 12)]
    assert RunDirectory.open(run).recipe.checkpoint.keep == 5


@pytest.mark.parametrize(
    ("checkpoint", "changes", "end"),
    [
        ("offline-00000006", "offline.steps=6", ("offline", 6)),
        ("online-00000006", "online.steps=6", ("online", 6)),
    ],
)
def test_run_that_ends_where_it_is_is_evaluated_there(
    tmp_path: Path, checkpoint: str, changes: str, end: tuple[str, int]
) -> None:
    run = trained(tmp_path, "td3_bc", 8, 10)
    whole = trained(tmp_path, "td3_bc", *((8, 6) if end[0] == "online" else (6, 10)))
    resume(run, checkpoint, changes=[changes], progress=False)
    assert evaluated(run) == evaluated(whole)
    assert end in evaluated(run)
    assert RunDirectory.open(run).scores() == RunDirectory.open(whole).scores()


def test_run_that_dies_after_going_back_is_resumed_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path, "td3_bc", 8, 10)
    whole, _ = state(run)

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("rlalign.experiment.run_phase", dies)
        with pytest.raises(KeyboardInterrupt):
            resume(run, "offline-00000003", changes=["evaluation.every=2"], progress=False)
    assert Checkpoints(run / "checkpoints").names() == ["offline-00000003"]
    resume(run, progress=False)
    assert RunDirectory.open(run).status == "finished"
    again = state(run)[0]
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], "finished; there is nothing to resume, unless .* such as online.steps=10010"),
        (["online.steps=10"], "the run is finished; there is nothing to resume"),
        (["logging.every=3"], "the run is finished; there is nothing to resume"),
        (["online.steps=6"], "online.steps must be at least 10, which are done, got 6"),
        (["offline.steps=20"], "offline.steps cannot change in a run that has begun; what can"),
        (["online.replay=online"], "online.replay cannot change .* are online.steps, evaluation"),
        (["settings.discount=0.9"], "settings.discount cannot change"),
        (["seed=1", "online.steps=20"], "seed cannot change"),
        (["agent=iql", "online.steps=20"], "agent cannot change"),
        (["online.step=20"], "the command line: unknown key 'online.step'; did you mean 'steps'"),
    ],
)
def test_what_is_done_cannot_be_changed(tmp_path: Path, changes: list[str], expected: str) -> None:
    run = trained(tmp_path, "td3_bc", 4, 10)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises((RecipeError, CheckpointError), match=expected) as caught:
        resume(run, changes=changes, progress=False)
    assert "\n" not in str(caught.value)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_falling_rates_are_not_stretched(tmp_path: Path) -> None:
    recipe = document(tmp_path)  # IQL's actor, by default
    train(parse_recipe(recipe), tmp_path / "run", progress=False)
    with pytest.raises(RecipeError, match="the learning rate of iql's actor_loss falls to 0"):
        resume(tmp_path / "run", changes=["offline.steps=20"], progress=False)
    # Online every rate is constant.
    resume(tmp_path / "run", changes=["online.steps=5"], progress=False)
    assert evaluated(tmp_path / "run")[-1] == ("online", 5)


def test_prolonging_from_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(tmp_path, "td3_bc", 4, 0)
    assert cli.run(["resume", str(run)]) == 2
    assert "such as online.steps=10000" in capsys.readouterr().err
    assert cli.run(["resume", str(run), "online.steps=4", "--no-progress"]) == 0
    assert f"finished: {run}" in capsys.readouterr().out
    lines = (run / "evaluations.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["env_steps"] == 4


@pytest.mark.parametrize(
    ("changes", "asked"),
    [
        (["online.steps=5"], "online.steps"),
        (["online.steps=5", "environment=Pendulum-v1"], "online.steps"),
        (["offline.steps=8", "evaluation.every=4"], "evaluation.every"),
    ],
)
def test_run_without_an_environment_cannot_act_later(
    tmp_path: Path, changes: list[str], asked: str
) -> None:
    """The sentence suggests nothing that is refused in its turn."""
    random_dataset(3, 1, 200).save(tmp_path / "data.hdf5")
    bare = {"environment": None, "evaluation": {"every": None}, "offline": {"steps": 4}}
    recipe = document(tmp_path, agent="td3_bc", **bare)
    train(parse_recipe(recipe), tmp_path / "run", progress=False)
    with pytest.raises(RecipeError) as caught:
        resume(tmp_path / "run", changes=changes, progress=False)
    assert str(caught.value) == (
        f"{tmp_path / 'run'}: {asked} needs an environment, and the run began without one; train "
        "anew with `environment:` in the recipe"
    )
    resume(tmp_path / "run", changes=["offline.steps=8"], progress=False)
    assert RunDirectory.open(tmp_path / "run").recipe.offline.steps == 8
