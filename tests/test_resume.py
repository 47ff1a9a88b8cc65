"""A run that is killed and resumed ends with the very weights of one that was left alone."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from rlalign import run_events
from rlalign.checkpoint import Checkpoints
from rlalign.data.dataset import Dataset
from rlalign.experiment import resume, train
from rlalign.layout import Layout
from rlalign.recipe import load_recipe
from rlalign.rundir import RunDirectory
from rlalign.training import evaluate_agent

OBSERVATION, ACTION = 11, 3  # Hopper's

OFFLINE = {
    "agent": "iql",
    "environment": "Hopper-v5",
    "settings": {"hidden": [32, 32], "observation_normalization": "standard"},
    "offline": {"steps": 1500},
    "evaluation": {"every": 500, "episodes": 2},
    "checkpoint": {"every": 100},
    "logging": {"every": 100, "tensorboard": False},
}
ONLINE = {
    "agent": "sac",
    "environment": "Hopper-v5",
    "settings": {"hidden": [32, 32], "batch_size": 64},
    "online": {"steps": 1200, "random_steps": 150, "warmup_steps": 100, "environments": 2},
    "evaluation": {"every": 400, "episodes": 2},
    "checkpoint": {"every": 100},
    "logging": {"every": 100, "tensorboard": False},
}
BOTH = {
    **OFFLINE,
    "agent": "awac",
    "offline": {"steps": 600},
    "online": {"steps": 600, "updates_per_step": 0.5, "replay": "mixture"},
}
# Rows that are kept back until their episode ends, and updates that are owed until then.
EPISODES = {
    **OFFLINE,
    "agent": "cal_ql",
    "settings": {"hidden": [16, 16], "batch_size": 32, "action_samples": 2},
    "offline": {"steps": 400},
    "online": {"steps": 600, "environments": 2},
}


def _dataset(folder: Path) -> Path:
    generator = np.random.default_rng(0)
    layout = Layout(OBSERVATION, ACTION)
    table = generator.standard_normal((2_000, layout.width)).astype(np.float32)
    table[:, layout.columns["actions"]] = generator.uniform(-1, 1, (2_000, ACTION))
    table[:, layout.columns["terminations"]] = 0.0
    table[99::100, layout.columns["terminations"]] = 1.0
    ends = np.arange(100, 2_001, 100)
    path = folder / "data.hdf5"
    Dataset(torch.from_numpy(table), layout, ends, "data", "Hopper-v5").save(path)
    return path


def _recipe(folder: Path, content: dict[str, object]) -> Path:
    recipe = dict(content)
    if "offline" in recipe:
        recipe["dataset"] = str(_dataset(folder))
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def _command(*arguments: str) -> list[str]:
    return [
        sys.executable,
        "-c",
        "from rlalign.cli import main; main()",
        *arguments,
        "--no-progress",
    ]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def _wait_for_steps(process: subprocess.Popen[bytes], run: Path, already: int) -> None:
    """Wait until the run has written a checkpoint beyond those it had."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if len(_all_checkpoints(run)) and _latest_number(run) > already:
            return
        time.sleep(0.01)


def _all_checkpoints(run: Path) -> list[str]:
    return Checkpoints(run / "checkpoints").names() if (run / "checkpoints").is_dir() else []


def _latest_number(run: Path) -> int:
    latest = run / "checkpoints" / "latest"
    if not latest.is_file():
        return -1
    phase, step = latest.read_text().split("-")
    return int(step) + (1_000_000 if phase == "online" else 0)


def _weights(run: Path) -> dict[str, torch.Tensor]:
    tensors, _ = Checkpoints(run / "checkpoints").load()
    return {name: tensor for name, tensor in tensors.items() if name.startswith("agent/")}


def _logged(run: Path, name: str) -> list[str]:
    """Lines of a log without the parts that clocks decide."""
    import json

    rows = [json.loads(line) for line in (run / name).read_text().splitlines()]
    for row in rows:
        for key in ("time", "updates_per_second"):
            row.pop(key, None)
    return [json.dumps(row, sort_keys=True) for row in rows]


@pytest.mark.parametrize(
    "content",
    [OFFLINE, ONLINE, BOTH, pytest.param(EPISODES, marks=pytest.mark.slow)],
    ids=["offline", "online", "both", "episodes"],
)
def test_killed_and_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, content: dict[str, object]
) -> None:
    recipe = _recipe(tmp_path, content)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run(
        _command("train", str(recipe), "--out", str(whole)), check=True, env=_environment()
    )

    chance = random.Random(len(str(content)))
    command = _command("train", str(recipe), "--out", str(killed))
    kills = 0
    for _ in range(3):
        already = _latest_number(killed)
        process = subprocess.Popen(command, env=_environment(), stderr=subprocess.PIPE)
        _wait_for_steps(process, killed, already)
        time.sleep(chance.uniform(0.0, 0.4))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        command = _command("resume", str(killed))
        if process.returncode == 0:
            break
    if process.returncode != 0:
        subprocess.run(command, check=True, env=_environment())
    assert kills >= 1

    expected, found = _weights(whole), _weights(killed)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    for log in ("metrics.jsonl", "evaluations.jsonl"):
        assert _logged(whole, log) == _logged(killed, log)


@pytest.mark.parametrize("cut", range(6))
def test_run_stopped_during_an_evaluation_makes_up_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    """First, middle and last evaluation of both phases; the second attempt is left alone."""
    content: dict[str, object] = {
        **BOTH,
        "offline": {"steps": 60},
        "online": {"steps": 60, "warmup_steps": 10},
        "evaluation": {"every": 30, "episodes": 2},
        "checkpoint": {"every": 25},
        "logging": {"every": 20, "tensorboard": False},
    }
    recipe = load_recipe(_recipe(tmp_path, content))
    train(recipe, tmp_path / "whole", progress=False)
    calls = itertools.count()

    def interrupted(*arguments: Any, on_step: Any) -> Any:
        def after_step() -> None:
            if number == cut:
                os.kill(os.getpid(), signal.SIGTERM)
            on_step()

        number = next(calls)
        return evaluate_agent(*arguments, on_step=after_step)

    monkeypatch.setattr("rlalign.run_events.evaluate_agent", interrupted)
    with pytest.raises(SystemExit) as stopped:
        train(recipe, tmp_path / "cut", progress=False)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert len(RunDirectory.open(tmp_path / "cut").evaluations()) == cut
    resume(tmp_path / "cut", progress=False)
    expected, found = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.items())
    for log in ("metrics.jsonl", "evaluations.jsonl"):
        assert _logged(tmp_path / "whole", log) == _logged(tmp_path / "cut", log)


def test_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    events = run_events.RunEvents.__new__(run_events.RunEvents)
    events._signal = None
    with events.signals():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)  # what a sweep adds to a terminal's Ctrl-C
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit) as stopped:
            os.kill(os.getpid(), signal.SIGINT)
    assert stopped.value.code == 128 + signal.SIGINT


def test_terminated_run_leaves_a_checkpoint_and_says_so(tmp_path: Path) -> None:
    recipe = _recipe(tmp_path, {**ONLINE, "checkpoint": {"every": 1_000_000}})
    run = tmp_path / "run"
    process = subprocess.Popen(
        _command("train", str(recipe), "--out", str(run), "online.steps=100000"),
        env=_environment(),
    )
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(timeout=60) == 143
    assert _latest_number(run) > 0
    import json

    assert json.loads((run / "run.json").read_text())["status"] == "interrupted"


def test_resume_refuses_a_changed_dataset(tmp_path: Path) -> None:
    from rlalign.errors import CheckpointError
    from rlalign.experiment import train

    recipe = _recipe(tmp_path, {**OFFLINE, "offline": {"steps": 20}})
    train(load_recipe(str(recipe)), tmp_path / "run", progress=False)
    info = (tmp_path / "run" / "run.json").read_text()
    (tmp_path / "run" / "run.json").write_text(info.replace('"finished"', '"interrupted"', 1))
    data = tmp_path / "data.hdf5"
    import h5py

    with h5py.File(data, "r+") as file:
        file["rewards"][0] += 1.0
    with pytest.raises(CheckpointError, match="fingerprint"):
        resume(tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("key", "began", "now"),
    [("settings.expectile", "0.7", 0.95), ("online.updates_per_step", "0.5", 2.0)],
)
def test_resume_refuses_other_settings_than_the_run_began_with(
    tmp_path: Path, key: str, began: str, now: float
) -> None:
    """By hand, or because a newer version has other defaults."""
    from rlalign.errors import CheckpointError
    from rlalign.experiment import train
    from rlalign.recipe import dump_recipe

    content: dict[str, object] = {
        **BOTH,
        "agent": "iql",
        "offline": {"steps": 20},
        "online": {"steps": 30, "updates_per_step": 0.5, "replay": "mixture"},
        "logging": {"every": 10, "tensorboard": False},
    }
    run = tmp_path / "run"
    train(load_recipe(_recipe(tmp_path, content)), run, progress=False)
    changed = load_recipe(run / "recipe.yaml", [f"{key}={now}"])
    (run / "recipe.yaml").write_text(dump_recipe(changed))
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(CheckpointError, match=f"{key} is {now}, but the run began with {began}"):
        resume(run, changes=["online.steps=40"], progress=False)
    assert (run / "metrics.jsonl").read_bytes() == before
    back = load_recipe(run / "recipe.yaml", [f"{key}={began}"])
    (run / "recipe.yaml").write_text(dump_recipe(back))
    resume(run, changes=["online.steps=40"], progress=False)
