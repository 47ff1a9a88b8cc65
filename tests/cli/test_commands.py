"""The command line: help, exit codes, and that it starts without the heavy packages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import pytest

from rlalign import cli
from rlalign.recipe import parse_recipe
from rlalign.rundir import RunDirectory

HEAVY = (
    *("torch", "gymnasium", "stable_baselines3", "matplotlib", "pydantic", "h5py", "minari"),
    *("transformers", "trl", "datasets", "peft"),
)
COMMANDS = [
    [],
    ["train"],
    ["resume"],
    ["evaluate"],
    ["collect"],
    ["data"],
    ["data", "list"],
    ["data", "info"],
    ["data", "convert"],
    ["data", "verify"],
    ["recipes"],
    ["recipes", "show"],
    ["report"],
    ["sweep"],
]


@pytest.fixture
def dataset(make_dataset: Any) -> Path:
    """A small dataset."""
    path: Path = make_dataset()
    return path


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_shows_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Usage: rlalign" in shown
    assert "Example: rlalign" in shown


@pytest.mark.parametrize(
    "code", ["import rlalign", "import rlalign.cli; rlalign.cli.run(['--help'])"]
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print('MODULES', *sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    modules = told.split("MODULES")[1].split()
    assert "rlalign" in modules
    assert [name for name in HEAVY if name in modules] == []


def test_python_m_rlalign_is_the_command_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rlalign", "trian"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "error: No such command 'trian'. Did you mean 'train'?\n"


def test_a_warning_is_one_line() -> None:
    words = ["recipes", "show", "iql/hopper-medium-v2", "online.steps=5", "online.anneal_steps=3"]
    done = subprocess.run(
        [sys.executable, "-m", "rlalign", *words], capture_output=True, text=True, check=True
    )
    told = "warning: the command line: online anneal_steps without effect, since replay is 'union'"
    assert done.stderr == f"{told}\n"
    assert done.stdout.startswith("agent: iql\n")


def test_closed_pipe_ends_quietly() -> None:
    listing = subprocess.Popen(
        [sys.executable, "-m", "rlalign", "data", "list"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert listing.stdout is not None
    assert listing.stderr is not None
    listing.stdout.read(1)
    listing.stdout.close()
    assert listing.stderr.read() == b""
    listing.wait()


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("rlalign 0.")


def test_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rlalign.recipe.list_recipes", interrupt)
    assert cli.run(["recipes"]) == 130


def test_bug_is_not_dressed_up_as_a_mistake_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("rlalign.recipe.list_recipes", broken)
    with pytest.raises(ZeroDivisionError):
        cli.run(["recipes"])


def test_system_errors_name_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "/somewhere/file")

    monkeypatch.setattr("rlalign.recipe.list_recipes", full)
    assert cli.run(["recipes"]) == 2
    assert capsys.readouterr().err == "error: /somewhere/file: No space left on device\n"


def test_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from rlalign.errors import RecipeError

    monkeypatch.setenv("RLALIGN_TRACEBACK", "1")
    with pytest.raises(RecipeError):
        cli.run(["recipes", "show", "dmeo"])


def test_recipes_are_listed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["recipes"]) == 0
    assert "demo" in capsys.readouterr().out.splitlines()
    assert cli.run(["recipes", "show", "demo", "seed=4"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "seed: 4" in shown
    assert "  max_weight: 100.0" in shown  # the agent's default
    assert "  replay: union" in shown


def test_datasets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "list", "--json"]) == 0
    rows = {row["name"]: row["environment"] for row in json.loads(capsys.readouterr().out)}
    assert rows["local/ant-medium-v0"] == "Ant-v5"
    assert rows["d4rl/hopper-medium-v2"] == "Hopper-v5"
    assert rows["textworld/validation"] is None


def test_dataset_is_described(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["data", "info", str(dataset), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["transitions"] == 40
    assert cli.run(["data", "info", str(dataset)]) == 0
    assert "trajectories      4" in capsys.readouterr().out


def test_dataset_is_converted_and_verified(
    dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "copy.hdf5"
    assert cli.run(["data", "convert", str(dataset), str(target)]) == 0
    assert target.exists()
    assert cli.run(["data", "verify", str(target)]) == 0
    with h5py.File(target, "r+") as file:
        file["rewards"][3] = 7.0
    assert cli.run(["data", "verify", str(target)]) == 2
    told = capsys.readouterr()
    assert "its data has changed" in told.err
    assert told.err.count("\n") == 1


def test_report_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = parse_recipe({"agent": "iql", "dataset": "x.hdf5", "offline": {"steps": 10}})
    run = RunDirectory.create(tmp_path / "runs" / "one", recipe, [])
    run.log_evaluation({"phase": "offline", "step": 10, "returns": [1.0], "mean_return": 1.0})
    run.finish("finished")
    assert cli.run(["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.html").exists()
    assert "iql" in capsys.readouterr().out


def test_recipes_become_folder_names() -> None:
    from rlalign.cli.training import recipe_slug

    assert recipe_slug("iql/local/hopper-medium-v0") == "iql-local-hopper-medium-v0"
    assert recipe_slug("/tmp/mine.yaml") == "mine"


def test_output_that_cannot_show_a_sign_shows_another(dataset: Path) -> None:
    with h5py.File(dataset, "r+") as file:
        file.attrs.clear()
    done = subprocess.run(
        [sys.executable, "-m", "rlalign", "data", "info", str(dataset)],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
    )
    assert done.returncode == 0, done.stderr
    assert "environment       ?" in done.stdout.decode("latin-1").splitlines()
