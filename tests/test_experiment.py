"""Recipes carried out: when a run is evaluated, and what is loaded from it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box

from rlalign import cli
from rlalign.checkpoint import Checkpoints
from rlalign.data.d4rl import reference_of_environment
from rlalign.data.dataset import load_dataset
from rlalign.envs.vector import Environments
from rlalign.errors import DatasetError, RlalignError
from rlalign.experiment import Experiment, load_run, resume, train
from rlalign.phases import OnlinePhase
from rlalign.recipe import Recipe, list_recipes, load_recipe, parse_recipe
from rlalign.report import describe_run
from rlalign.rundir import RunDirectory
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


def test_how_often_a_run_is_evaluated_changes_nothing_of_what_it_learns(tmp_path: Path) -> None:
    """RO2O's specification, invariant 20: the same buffer too."""
    states = []
    for every in (1, None):
        recipe = document(
            tmp_path,
            online={"steps": 40, "warmup_steps": 8},
            evaluation={"every": every, "episodes": 1},
        )
        run = tmp_path / f"every-{every}"
        train(parse_recipe(recipe), run, progress=False)
        tensors, _ = Checkpoints(run / "checkpoints").load()
        states.append(tensors)
    often, never = states
    assert often.keys() == never.keys()
    assert "phase/replay/table" in often
    for name, tensor in often.items():
        assert torch.equal(tensor, never[name]), name


def offline_only(folder: Path, **changes: Any) -> Recipe:
    """A recipe for a dataset that no environment plays, without evaluation."""
    recipe = document(folder, environment=None, evaluation={"every": None}, **changes)
    return parse_recipe(recipe)


def test_dataset_that_nothing_plays_is_trained_without_evaluation(tmp_path: Path) -> None:
    recipe = offline_only(tmp_path)
    scores = train(recipe, tmp_path / "run", progress=False)
    assert list(scores) == ["behaviour"]
    run = RunDirectory.open(tmp_path / "run")
    assert run.status == "finished"
    assert run.scores() == scores
    assert evaluated(run.path) == []
    assert "not evaluated" in describe_run(run.path)

    agent = load_run(run.path)
    assert agent.environments is None
    assert agent.observation_space.shape == (3,)
    assert agent.action_space == Box(-2.0, 2.0, (1,), np.float32)
    action, _ = agent.predict(np.zeros(3, np.float32), deterministic=True)
    assert agent.action_space.contains(action)
    expected = Experiment.from_recipe(recipe).agent
    assert any(
        not torch.equal(tensor, expected.state_dict()[0][name])
        for name, tensor in agent.state_dict()[0].items()
    )


def test_interrupted_run_without_environment_ends_as_if_left_alone(tmp_path: Path) -> None:
    recipe = offline_only(tmp_path, checkpoint={"every": 4})
    for name in ("whole", "cut"):
        train(recipe, tmp_path / name, progress=False)
    folder = tmp_path / "cut" / "checkpoints"
    shutil.rmtree(folder / "offline-00000008")
    (folder / "latest").write_text("offline-00000004")
    info = json.loads((tmp_path / "cut" / "run.json").read_text())
    (tmp_path / "cut" / "run.json").write_text(json.dumps({**info, "status": "interrupted"}))
    resume(tmp_path / "cut", progress=False)
    cut, whole = (load_run(tmp_path / name).state_dict()[0] for name in ("cut", "whole"))
    assert all(torch.equal(cut[name], tensor) for name, tensor in whole.items())


def test_actions_whose_bounds_nobody_knows_lie_between_minus_one_and_one(tmp_path: Path) -> None:
    made = random_dataset(3, 1, 40)
    made.action_low = made.action_high = None
    made.save(tmp_path / "data.hdf5")
    train(offline_only(tmp_path), tmp_path / "run", progress=False)
    space = load_run(tmp_path / "run").action_space
    assert space == Box(-1.0, 1.0, (1,), np.float32)

    made.actions[7] = 1.5
    made.save(tmp_path / "data.hdf5")
    with pytest.raises(
        DatasetError, match=r"reach from -0\..* to 1\.5 and nothing says their bounds"
    ):
        Experiment.from_recipe(offline_only(tmp_path))


@pytest.mark.parametrize(
    ("changes", "way_out"),
    [
        ({}, "or evaluation.every=null to learn offline"),
        ({"online": {"steps": 5}}, "or evaluation.every=null and online.steps=0 to learn offline"),
        (
            {"online": {"steps": 5}, "evaluation": {"every": None}},
            "or evaluation.every=null and online.steps=0 to learn offline",
        ),
    ],
)
def test_what_needs_an_environment_is_refused_without_one(
    tmp_path: Path, changes: dict[str, Any], way_out: str
) -> None:
    recipe = parse_recipe(document(tmp_path, environment=None, **changes))
    with pytest.raises(RlalignError, match="no environment is known for dataset") as caught:
        Experiment.from_recipe(recipe)
    assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)


def test_evaluation_can_be_left_out_where_there_is_an_environment(tmp_path: Path) -> None:
    recipe = document(tmp_path, evaluation={"every": None}, online={"steps": 3})
    train(parse_recipe(recipe), tmp_path / "run", progress=False)
    assert evaluated(tmp_path / "run") == []
    evaluation = {"every": None, "online_every": 2, "episodes": 1}
    recipe = document(tmp_path, evaluation=evaluation, online={"steps": 4})
    train(parse_recipe(recipe), tmp_path / "other", progress=False)
    assert evaluated(tmp_path / "other") == [("online", step) for step in (0, 2, 4)]


OPTIONS = {"g": 3.0, "max_episode_steps": 6}


def with_options(folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe for a dataset that says what its environment is made with."""
    made = random_dataset(3, 1, 40, low=-2.0, high=2.0)
    made.environment, made.metadata["environment_options"] = "Pendulum-v1", OPTIONS
    made.save(folder / "data.hdf5")
    return document(folder, environment=None, online={"steps": 7}, **changes)


def lengths(run: Path) -> set[int]:
    """Of all evaluation episodes."""
    rows = map(json.loads, (run / "evaluations.jsonl").read_text().splitlines())
    return {length for row in rows for length in row["lengths"]}


def gravity(environments: Environments | None) -> Any:
    """That of a pendulum."""
    assert environments is not None
    return environments.get("g")[0]


def test_environment_is_made_with_the_dataset_s_options(tmp_path: Path) -> None:
    recipe = parse_recipe(with_options(tmp_path))
    experiment = Experiment.from_recipe(recipe)
    phase = experiment.phase("online")
    assert isinstance(phase, OnlinePhase)
    assert gravity(phase.environments) == gravity(experiment.agent.environments) == 3.0
    train(recipe, tmp_path / "run", progress=False)
    assert lengths(tmp_path / "run") == {6}
    assert RunDirectory.open(tmp_path / "run").info["dataset"]["environment_options"] == OPTIONS
    assert gravity(load_run(tmp_path / "run").environments) == 3.0


def test_recipe_s_own_options_come_first(tmp_path: Path) -> None:
    options = {"g": 5.0, "max_episode_steps": 4}
    recipe = with_options(tmp_path, environment_options=options)
    train(parse_recipe(recipe), tmp_path / "run", progress=False)
    assert lengths(tmp_path / "run") == {4}
    assert gravity(load_run(tmp_path / "run").environments) == 5.0
    others: list[dict[str, Any]] = [
        {"environment_options": {}},
        {"environment": "Pendulum-v1", "dataset": None},
    ]
    for changes in others:
        plain = {**recipe, "environment_options": None, "offline": {"steps": 0}, **changes}
        experiment = Experiment.from_recipe(parse_recipe(plain))
        assert gravity(experiment.agent.environments) == 10.0


def test_options_of_a_run_are_kept_where_it_is_evaluated_and_collected_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(parse_recipe(with_options(tmp_path)), tmp_path / "run", progress=False)
    run, out = str(tmp_path / "run"), str(tmp_path / "out.hdf5")
    for arguments in ([], ["-e", "Pendulum-v1"]):
        assert cli.run(["evaluate", run, "-n", "2", "--json", *arguments]) == 0
        assert json.loads(capsys.readouterr().out)["lengths"] == [6, 6]
    assert cli.run(["collect", run, "--transitions", "18", "--out", out]) == 0
    collected = load_dataset(out)
    assert collected.ends.tolist() == [6, 12, 18]
    assert collected.metadata["environment_options"] == OPTIONS


def test_run_is_scored_by_its_dataset_s_reference_wherever_it_is_played(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = document(tmp_path, environment="Hopper-v5", settings={"hidden": [8], "batch_size": 4})
    d4rl = reference_of_environment("Hopper-v5")
    assert d4rl is not None
    for name, reference in (("own", (-10.0, 90.0)), ("none", d4rl)):
        dataset = random_dataset(11, 3, 50)
        dataset.reference = reference if name == "own" else None
        dataset.save(tmp_path / f"{name}.hdf5")
        run, out = tmp_path / name, tmp_path / f"{name}-out.hdf5"
        recipe["dataset"] = str(tmp_path / f"{name}.hdf5")
        train(parse_recipe(recipe), run, progress=False)
        rows = RunDirectory.open(run).evaluations()
        behaviour = RunDirectory.open(run).scores()["behaviour"]  # type: ignore[index]
        rows.append(behaviour)
        assert cli.run(["evaluate", str(run), "-n", "1", "--json"]) == 0
        rows.append(json.loads(capsys.readouterr().out))
        for row in rows:
            score = 100 * (row["mean_return"] - reference[0]) / (reference[1] - reference[0])
            assert row["normalized_score"] == pytest.approx(score)
        assert cli.run(["collect", str(run), "--transitions", "5", "--out", str(out)]) == 0
        assert load_dataset(str(out)).reference == reference
        capsys.readouterr()
        assert cli.run(["evaluate", str(run), "-n", "1", "--json", "-e", "Hopper-v4"]) == 0
        row = json.loads(capsys.readouterr().out)
        score = 100 * (row["mean_return"] - d4rl[0]) / (d4rl[1] - d4rl[0])
        assert row["normalized_score"] == pytest.approx(score)


def test_run_in_another_task_than_its_dataset_s_is_warned_of_and_scored_by_the_task_played(
    tmp_path: Path,
) -> None:
    dataset = random_dataset(17, 6, 50)
    dataset.environment = "HalfCheetah-v5"
    dataset.reference = reference_of_environment("HalfCheetah-v5")
    dataset.save(tmp_path / "cheetah.hdf5")
    recipe = document(
        tmp_path,
        dataset=str(tmp_path / "cheetah.hdf5"),
        environment="Walker2d-v5",
        settings={"hidden": [8], "batch_size": 4},
    )
    with pytest.warns(UserWarning, match="was recorded in HalfCheetah-v5, but .* Walker2d-v5"):
        train(parse_recipe(recipe), tmp_path / "run", progress=False)
    played = reference_of_environment("Walker2d-v5")
    assert played is not None
    assert played != dataset.reference
    for row in RunDirectory.open(tmp_path / "run").evaluations():
        score = 100 * (row["mean_return"] - played[0]) / (played[1] - played[0])
        assert row["normalized_score"] == pytest.approx(score)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"environment_options": {"gravitation": 3}}, "Pendulum-v1 cannot be made: .*gravitation"),
        ({"environment": None}, "environment_options are given, but no environment is known"),
    ],
)
def test_options_that_nothing_takes_are_refused(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    recipe = document(tmp_path, **{"environment_options": {"g": 3.0}, **changes})
    with pytest.raises(RlalignError, match=expected):
        Experiment.from_recipe(parse_recipe(recipe))


@pytest.mark.parametrize("name", [name for name in list_recipes() if "/antmaze-" in name])
def test_shipped_antmaze_recipes_show_the_dip(name: str) -> None:
    evaluation = load_recipe(name).evaluation
    every = evaluation.online_every or evaluation.every
    assert every is not None
    assert every <= 20_000
