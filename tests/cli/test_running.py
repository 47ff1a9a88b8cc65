"""Commands that train, evaluate and collect, from end to end on tiny runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from rlalign import cli
from rlalign.experiment import load_run
from rlalign.rundir import RunDirectory

LINES = (
    "dataset: data.hdf5",
    "environment: Hopper-v5",
    "settings: {hidden: [8, 8], batch_size: 4}",
    "offline: {steps: 4}",
    "online: {steps: 4}",
    "evaluation: {episodes: 2, every: 4}",
    "checkpoint: {every: 2}",
    "logging: {every: 2}",
)


@pytest.fixture
def trained(recipe: Any, make_dataset: Any, tmp_path: Path) -> Path:
    """The directory of a finished run."""
    make_dataset()
    assert cli.run(["train", str(recipe(*LINES)), "seed=3", "--out", "run"]) == 0
    return tmp_path / "run"


def test_training_leaves_a_whole_run_directory(trained: Path) -> None:
    run = RunDirectory.open(trained)
    assert run.status == "finished"
    assert run.recipe.seed == 3
    assert run.info["dataset"]["transitions"] == 40
    assert {row["phase"] for row in run.evaluations()} == {"offline", "online"}
    assert run.scores() is not None
    assert list((trained / "tensorboard").iterdir())


def test_directories_are_named_after_recipe_and_seed_and_not_reused(
    recipe: Any, make_dataset: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset()
    path = str(recipe(*LINES))
    for _ in range(2):
        assert cli.run(["train", path, "online.steps=0"]) == 0
    assert sorted(p.name for p in (tmp_path / "runs").iterdir()) == ["small-seed0", "small-seed0-2"]
    assert capsys.readouterr().out.splitlines()[1] == "finished: runs/small-seed0"


def test_run_is_evaluated(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["evaluate", "run", "--episodes", "3", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert len(first["returns"]) == 3
    assert first["environment"] == "Hopper-v5"
    assert first["normalized_score"] is not None
    assert cli.run(["evaluate", "run", "--episodes", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == first
    assert cli.run(["evaluate", "run", "--episodes", "3", "--json", "--seed", "1"]) == 0
    assert json.loads(capsys.readouterr().out) != first


@pytest.mark.parametrize("filmed", [False, True])
def test_evaluation_does_not_replay_the_training_episodes_of_its_seed(
    trained: Path, monkeypatch: pytest.MonkeyPatch, filmed: bool
) -> None:
    from rlalign.envs.vector import Environments
    from rlalign.evaluate import Episodes

    starts = []

    def look(_: Any, environments: Environments, *__: Any, **___: Any) -> Episodes:
        starts.append(environments.reset())
        return Episodes((0.0,), (1,), 0.0)

    monkeypatch.setattr("rlalign.evaluate.evaluate", look)
    monkeypatch.setattr(  # without drawing anything
        "rlalign.evaluate.recording_environments",
        lambda env_id, folder, *, episodes, seed, options: Environments(env_id, seed=seed),
    )
    for folder in ("one", "two"):
        video = ["--video", folder] if filmed else []
        assert cli.run(["evaluate", "run", "--seed", "3", *video]) == 0
    training = Environments("Hopper-v5", seed=3)
    assert (starts[0] == starts[1]).all()
    assert (starts[0] != training.reset()).any()
    training.close()


def test_run_without_environment_is_trained_and_later_evaluated_in_one(
    recipe: Any, make_dataset: Any, refused: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset()
    lines = [line for line in LINES[:4] if not line.startswith("environment")]
    command = ["train", str(recipe(*lines)), "--out", "run"]
    assert "evaluation.every=null" in refused(*command)
    assert cli.run([*command, "evaluation.every=null"]) == 0
    assert "not evaluated" in capsys.readouterr().out
    assert "holds no evaluation" in refused("report", "run")
    assert "add --environment ID" in refused("evaluate", "run")
    assert cli.run(["evaluate", "run", "-n", "1", "--environment", "Hopper-v5"]) == 0
    assert "Hopper-v5: return" in capsys.readouterr().out


def test_earlier_checkpoint_is_evaluated(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = sorted(path.name for path in (trained / "checkpoints").iterdir() if path.is_dir())[0]
    assert cli.run(["evaluate", "run", "-n", "1", "--checkpoint", name]) == 0
    assert "Hopper-v5: return" in capsys.readouterr().out


def test_saved_agent_is_evaluated_as_its_run_is(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlalign.experiment import load_run

    load_run(trained).save("agent")
    assert cli.run(["evaluate", "run", "-n", "2", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)
    command = ["evaluate", "agent.safetensors", "-n", "2", "--json", "-e", "Hopper-v5"]
    assert cli.run(command) == 0
    assert json.loads(capsys.readouterr().out) == expected


def test_run_trained_elsewhere_acts_on_this_machine(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was trained with `device: cuda` is loaded where there may be no such device."""
    from rlalign.experiment import load_run

    recipe = trained / "recipe.yaml"
    assert cli.run(["evaluate", "run", "-n", "1", "--json"]) == 0
    expected = capsys.readouterr().out
    recipe.write_text(recipe.read_text().replace("device: cpu", "device: cuda:7"))
    assert load_run(trained).device.type == "cpu"
    assert cli.run(["evaluate", "run", "-n", "1", "--json", "--device", "cpu"]) == 0
    assert capsys.readouterr().out == expected
    assert cli.run(["collect", "run", "--transitions", "5", "--out", "a.hdf5"]) == 0


def test_model_of_stable_baselines3_is_evaluated(capsys: pytest.CaptureFixture[str]) -> None:
    from stable_baselines3 import SAC

    SAC("MlpPolicy", "Hopper-v5", policy_kwargs={"net_arch": [8, 8]}, seed=0).save("model.zip")
    assert cli.run(["evaluate", "model.zip", "-n", "1", "--environment", "Hopper-v5"]) == 0
    assert "over 1 episodes" in capsys.readouterr().out


def test_dataset_is_collected_with_a_trained_agent(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlalign import load_dataset

    for name in ("one.hdf5", "two.hdf5"):
        command = ["collect", "run", "--transitions", "60", "--out", name, "--seed", "5"]
        assert cli.run(command) == 0
    one, two = load_dataset("one.hdf5"), load_dataset("two.hdf5")
    assert len(one) == 60
    assert one.environment == "Hopper-v5"
    assert one.fingerprint == two.fingerprint
    collected = one.metadata["collected"]
    assert (collected["from"], collected["policy"], collected["seed"]) == ("run", "iql", 5)
    assert collected["updates"] == load_run(Path("run")).learner.step_count
    assert collected["mujoco"] == version("mujoco")
    assert cli.run(["data", "verify", "one.hdf5"]) == 0


@pytest.mark.slow
def test_interrupted_training_is_resumed_to_the_same_scores(
    recipe: Any, make_dataset: Any, tmp_path: Path
) -> None:
    make_dataset()
    path = recipe(
        *LINES[:3],
        "offline: {steps: 3000}",
        "evaluation: {episodes: 1, every: 1500}",
        "checkpoint: {every: 500}",
        "logging: {every: 500, tensorboard: false}",
    )
    command = [sys.executable, "-m", "rlalign", "train", str(path), "--out"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([*command, "cut"], stderr=subprocess.PIPE, text=True, env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "cut" / "checkpoints" / "latest").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGTERM)
    _, told = child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM
    assert told.splitlines()[-1].endswith("go on with: rlalign resume cut")
    assert RunDirectory.open("cut").status == "interrupted"
    assert cli.run(["resume", "cut"]) == 0
    subprocess.run([*command, "whole"], check=True, env=environment, capture_output=True)
    assert RunDirectory.open("cut").scores() == RunDirectory.open("whole").scores()


def test_sweep_trains_what_it_can_and_nothing_twice(
    recipe: Any, make_dataset: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset()
    command = ["sweep", str(recipe(*LINES)), "environment=Hopper-v5,Walker2d-v5", "--out", "runs"]
    assert cli.run([*command, "--jobs", "2"]) == 1
    told = capsys.readouterr()
    assert "/2] environment=Hopper-v5: iql on data.hdf5, seed 0" in told.out
    first, second = told.err.splitlines()
    assert first == "1 of 2 runs failed:"
    assert second.startswith("  runs/environment=Walker2d-v5/seed-0: data.hdf5: observation size")
    assert RunDirectory.open("runs/environment=Hopper-v5/seed-0").status == "finished"

    # What failed can be left out; what is finished is not trained again.
    finished = Path("runs/environment=Hopper-v5/seed-0/run.json").read_bytes()
    command[2] = "environment=Hopper-v5"
    assert cli.run([*command[:-1], "runs/environment=Hopper-v5"]) == 0
    assert "finished before" in capsys.readouterr().out
    assert Path("runs/environment=Hopper-v5/seed-0/run.json").read_bytes() == finished
    assert cli.run(["report", "runs"]) == 0
    whole = capsys.readouterr().out
    assert "iql" in whole
    # As a shell writes out RUNS/*: the logs lie beside the runs.
    beside = sorted(map(str, Path("runs/environment=Hopper-v5").iterdir()))
    assert "runs/environment=Hopper-v5/seed-0.log" in beside
    assert cli.run(["report", *beside]) == 0
    assert capsys.readouterr().out == whole
