"""Sweeps: which runs a grid spans, what is skipped and resumed, and how failures are told."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from rlalign.errors import CheckpointError, RecipeError
from rlalign.recipe import Recipe
from rlalign.rundir import RunDirectory
from rlalign.sweep import plan, run_sweep
from rlalign.sweep_engines import Command, Outcome, Outcomes, local_engine, ray_engine

SMALL = "agent: iql\ndataset: local/hopper-medium-v0\noffline: {steps: 10}\n"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return str(path)


class Recorder:
    """An engine that runs nothing and says what it was asked."""

    def __init__(self, code: int = 0, last_line: str = "fine") -> None:
        self.asked: list[tuple[str, ...]] = []
        self.outcome = Outcome(code, last_line)

    def __call__(self, commands: Mapping[int, Command]) -> Outcomes:
        for key, command in commands.items():
            self.asked.append(command.arguments)
            yield key, self.outcome


def test_grid_spans_all_combinations_and_seeds(recipe: str, tmp_path: Path) -> None:
    grid = ["settings.expectile=0.7,0.9", "settings.hidden=[8,8],[4]", "offline.steps=5"]
    jobs = plan(recipe, grid, seeds=2, folder=tmp_path / "runs")
    assert len(jobs) == 8
    assert len({job.directory for job in jobs}) == 8
    recipes = [job.recipe for job in jobs if isinstance(job.recipe, Recipe)]
    assert {one.settings["expectile"] for one in recipes} == {0.7, 0.9}
    assert [one.settings["hidden"] for one in recipes[:3]] == [[8, 8], [8, 8], [4]]
    assert {one.seed for one in recipes} == {0, 1}
    assert {one.offline.steps for one in recipes} == {5}
    # What does not vary is not part of a folder's name.
    assert not any("steps" in job.directory.parent.name for job in jobs)


def test_without_a_grid_the_seeds_lie_in_the_folder(recipe: str, tmp_path: Path) -> None:
    jobs = plan(recipe, [], seeds=3, folder=tmp_path)
    assert [job.directory for job in jobs] == [tmp_path / f"seed-{seed}" for seed in range(3)]


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (["settings.expectile"], "not of the form"),
        (["offline.stepz=1,2"], "did you mean 'steps'"),
        (["offline.steps=1,-2"], "must be at least 0"),
        (["offline.steps=1", "offline.steps=2"], "given twice"),
        (["seed=1,2"], "--seeds"),
        (["settings.hidden=[1,"], "not valid YAML"),
        (["settings.expectile=0.7,0.70"], "two runs of the sweep would be .*seed-0"),
        (["dataset=a/b.hdf5,a_b.hdf5"], "two runs of the sweep would be .*a_b.hdf5"),
    ],
)
def test_wrong_grid_is_one_sentence(
    recipe: str, tmp_path: Path, grid: list[str], expected: str
) -> None:
    with pytest.raises(RecipeError, match=expected):
        plan(recipe, grid, seeds=1, folder=tmp_path)


def test_unknown_setting_stops_the_sweep_before_anything_runs(recipe: str, tmp_path: Path) -> None:
    engine = Recorder()
    jobs = plan(recipe, ["settings.expectle=0.5,0.7"], seeds=1, folder=tmp_path / "runs")
    with pytest.raises(RecipeError, match="did you mean 'expectile'"):
        run_sweep(jobs, engine, tell=lambda line: None)
    assert engine.asked == []
    assert not (tmp_path / "runs").exists()


def test_date_is_refused_in_a_sentence(recipe: str, tmp_path: Path) -> None:
    jobs = plan(recipe, ["settings.discount=2024-01-01"], seeds=1, folder=tmp_path / "runs")
    with pytest.raises(RecipeError, match="must be a finite number, got '2024-01-01'"):
        run_sweep(jobs, Recorder(), tell=lambda line: None)


def test_finished_runs_are_skipped_and_interrupted_ones_resumed(
    recipe: str, tmp_path: Path
) -> None:
    jobs = plan(recipe, [], seeds=3, folder=tmp_path / "runs")
    RunDirectory.create(jobs[0].directory, jobs[0].recipe, []).finish("finished")
    RunDirectory.create(jobs[1].directory, jobs[1].recipe, []).finish("interrupted")
    engine, told = Recorder(), list[str]()
    assert run_sweep(jobs, engine, tell=told.append) == []
    assert [arguments[0] for arguments in engine.asked] == ["resume", "train"]
    assert engine.asked[0][1] == str(jobs[1].directory)
    assert told[0] == f"finished before: {jobs[0].directory}"
    assert told[-1] == "[3/3] fine"


def test_run_killed_while_it_was_made_is_trained(recipe: str, tmp_path: Path) -> None:
    (job,) = plan(recipe, [], seeds=1, folder=tmp_path / "runs")
    job.directory.mkdir(parents=True)
    (job.directory / ".lock").touch()
    (job.directory / "checkpoints").mkdir()
    command = job.command()
    assert command is not None
    assert command.arguments[0] == "train"


def test_run_of_another_recipe_is_not_taken_for_ones_own(recipe: str, tmp_path: Path) -> None:
    (first,) = plan(recipe, [], seeds=1, folder=tmp_path / "runs")
    RunDirectory.create(first.directory, first.recipe, []).finish("finished")
    jobs = plan(recipe, ["offline.steps=11"], seeds=1, folder=tmp_path / "runs")
    with pytest.raises(CheckpointError, match="another recipe"):
        run_sweep(jobs, Recorder(), tell=lambda line: None)


def test_lines_name_what_varies(recipe: str, tmp_path: Path) -> None:
    grid = ["settings.expectile=0.5,0.7", "offline.steps=1"]
    told = list[str]()
    run_sweep(plan(recipe, grid, seeds=1, folder=tmp_path), Recorder(), tell=told.append)
    assert told == ["[1/2] settings.expectile=0.5: fine", "[2/2] settings.expectile=0.7: fine"]


def test_failures_are_collected_with_their_reason(recipe: str, tmp_path: Path) -> None:
    jobs = plan(recipe, [], seeds=2, folder=tmp_path / "runs")
    engine = Recorder(2, "error: no space left")
    failures = run_sweep(jobs, engine, tell=lambda line: None)
    assert [failure.reason for failure in failures] == ["no space left"] * 2
    assert [failure.directory for failure in failures] == [job.directory for job in jobs]


def commands(folder: Path) -> dict[int, Command]:
    """One that succeeds and one that fails, without any training."""
    return {
        0: Command(("recipes",), folder / "good.log"),
        1: Command(("recipes", "show", "dmeo"), folder / "bad.log"),
    }


def test_local_processes_report_exit_codes_and_errors(tmp_path: Path) -> None:
    outcomes = dict(local_engine(2)(commands(tmp_path)))
    assert outcomes[0].code == 0
    assert outcomes[1].code == 2
    assert outcomes[1].last_line.startswith("error: dmeo: neither")
    assert "demo" in (tmp_path / "good.log").read_text()


def test_a_second_try_s_log_follows_the_first_one_s(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("error: of the first try\n")
    ((_, outcome),) = local_engine(1)({0: Command(("recipes",), log)})
    assert log.read_text().startswith("error: of the first try\n")
    assert outcome.code == 0
    log.write_text("error: of the first try\n")
    ((_, outcome),) = local_engine(1)({0: Command(("recipes", "show", "dmeo"), log)})
    assert "dmeo" in outcome.last_line
    assert log.read_text().count("error: ") == 2


def test_ray_reports_exit_codes_and_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    outcomes = dict(ray_engine(2)(commands(tmp_path)))
    assert outcomes[0].code == 0
    assert outcomes[1].code == 2
    assert outcomes[1].last_line.startswith("error: dmeo: neither")


@pytest.mark.parametrize(
    ("child", "code", "line"),
    [
        ("print('scores'); print('directory')", 0, "scores"),
        ("print('error: of another kind'); print('scores'); print('directory')", 0, "scores"),
        ("print('stopped after a checkpoint'); print(); sys.exit(143)", 143, "stopped after a"),
        ("print('first'); raise ZeroDivisionError('a bug')", 1, "ZeroDivisionError: a bug"),
        ("print('error: no space left'); print('goodbye'); sys.exit(2)", 2, "error: no space left"),
        ("sys.exit(3)", 3, ""),
        ("print('a'); print('b'); os.kill(os.getpid(), 9)", -9, "killed by signal 9 (Killed)"),
    ],
)
def test_line_that_tells_how_a_run_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, child: str, code: int, line: str
) -> None:
    def start(_: Command, log: Any) -> subprocess.Popen[bytes]:
        source = f"import os, sys\n{child}"
        return subprocess.Popen(
            [sys.executable, "-u", "-c", source], stdout=log, stderr=subprocess.STDOUT
        )

    monkeypatch.setattr("rlalign.sweep_engines._start", start)
    ((_, outcome),) = local_engine(1)({0: Command((), tmp_path / "a.log")})
    assert outcome.code == code
    assert outcome.last_line.startswith(line)
    assert bool(outcome.last_line) == bool(line)


CHILD = """
import sys, time
from pathlib import Path
from rlalign import sweep_engines
def start(command, log):
    import subprocess
    return subprocess.Popen([sys.executable, "-c", {child!r}, str(command.log)], stdout=log)
sweep_engines._start = start
folder = Path(sys.argv[1])
commands = {{i: sweep_engines.Command((), folder / str(i)) for i in range(2)}}
list(sweep_engines.local_engine(1)(commands))
"""

WAITING = """
import signal, sys, time
from pathlib import Path
def stop(*_):
    Path(sys.argv[1] + ".saved").write_text("x")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
Path(sys.argv[1] + ".ready").write_text("x")
time.sleep(60)
"""


def test_terminated_sweep_lets_its_runs_save_and_starts_no_others(tmp_path: Path) -> None:
    sweep = subprocess.Popen([sys.executable, "-c", CHILD.format(child=WAITING), str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "0.ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(sweep.pid, signal.SIGTERM)
    assert sweep.wait(60) == 128 + signal.SIGTERM
    assert (tmp_path / "0.saved").exists()
    assert not (tmp_path / "1").exists()
