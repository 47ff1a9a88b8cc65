"""New run directories: two processes at once, and what a kill leaves behind."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

import pytest

from rlalign.errors import CheckpointError
from rlalign.provenance import describe_machine
from rlalign.recipe import parse_recipe
from rlalign.rundir import RunDirectory

RECIPE: dict[str, Any] = {"agent": "iql", "dataset": "x.hdf5", "offline": {"steps": 10}}


def make(path: Path) -> RunDirectory:
    return RunDirectory.create(path, parse_recipe(RECIPE), ["rlalign"])


def test_locked_directory_is_left_alone(tmp_path: Path) -> None:
    """Another process holds the lock and has written nothing yet."""
    run = tmp_path / "run"
    run.mkdir()
    with (run / ".lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(CheckpointError, match="another process"):
            make(run)
        assert (run / ".lock").exists()


@pytest.mark.parametrize("existed", [False, True])
@pytest.mark.parametrize("still_open", [False, True])
def test_run_made_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existed: bool, still_open: bool
) -> None:
    """Another process makes its run between our look at the folder and our lock."""
    path = tmp_path / "run"
    if existed:
        path.mkdir()
    winners: list[RunDirectory] = []

    def slow() -> dict[str, Any]:
        monkeypatch.setattr("rlalign.rundir.describe_machine", describe_machine)
        winners.append(make(path))
        if not still_open:
            winners[0].close()
        return describe_machine()

    monkeypatch.setattr("rlalign.rundir.describe_machine", slow)
    with pytest.raises(CheckpointError, match="another process" if still_open else "exists"):
        make(path)
    assert RunDirectory.open(path).info["id"] == winners[0].info["id"]
    winners[0].finish("finished")


@pytest.mark.parametrize("left", [1, 2, 3, 4, 5])
def test_what_a_kill_left_counts_as_nothing(tmp_path: Path, left: int) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".lock").touch()
    if left > 1:
        (run / "checkpoints").mkdir()
    for name in (".recipe.yaml.abc", "recipe.yaml", ".run.json.abc")[: left - 2 if left > 2 else 0]:
        (run / name).write_text("half")
    make(run).close()
    assert RunDirectory.open(run).recipe == parse_recipe(RECIPE)
    names = {child.name for child in run.iterdir()}
    assert names == {".lock", "checkpoints", "recipe.yaml", "run.json"}


@pytest.mark.parametrize("name", ["recipe.yaml", "notes.txt", "checkpoints/step-1"])
def test_files_of_ones_own_are_not_taken_for_remains(tmp_path: Path, name: str) -> None:
    file = tmp_path / "run" / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    with pytest.raises(CheckpointError, match="exists already"):
        make(tmp_path / "run")
    assert file.read_text() == "mine"
