"""Run directories, checkpoints and agents' files that are missing, damaged or wrong."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from rlalign import cli

LINES = (
    "dataset: data.hdf5",
    "environment: Hopper-v5",
    "settings: {hidden: [8, 8], batch_size: 4}",
    "offline: {steps: 4}",
    "evaluation: {episodes: 1, every: 4}",
    "checkpoint: {every: 2}",
    "logging: {every: 2, tensorboard: false}",
)


@pytest.fixture
def run(recipe: Any, make_dataset: Any, tmp_path: Path) -> Path:
    """A finished run of a few updates."""
    make_dataset()
    assert cli.run(["train", str(recipe(*LINES)), "--out", "run"]) == 0
    return tmp_path / "run"


@pytest.fixture
def agent_file(run: Path, tmp_path: Path) -> Path:
    """The run's agent, saved to a file of its own."""
    from rlalign.experiment import load_run

    load_run(run).save(tmp_path / "agent")
    return tmp_path / "agent.safetensors"


def test_agent_is_named_with_and_without_its_ending(agent_file: Path) -> None:
    for name in (agent_file, agent_file.with_suffix("")):
        assert cli.run(["evaluate", str(name), "--episodes", "1"]) == 0


def unfinished(run: Path) -> None:
    """Put a finished run back to its first checkpoint, in the middle of its phase."""
    (run / "checkpoints" / "latest").write_text("offline-00000002")
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "status": "interrupted"}))


def newest_checkpoint(run: Path) -> Path:
    return run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()


def test_run_directory_that_exists(refused: Any, run: Path) -> None:
    assert "exists already" in refused("train", "small.yaml", "--out", "run")


def test_folder_of_something_else_is_not_trained_into(
    refused: Any, recipe: Any, make_dataset: Any, tmp_path: Path
) -> None:
    make_dataset()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    sentence = refused("train", recipe(*LINES), "--out", "thesis")
    assert sentence == "thesis: the folder exists already, with other files in it"


@pytest.mark.parametrize("out", ["file", "file/run"])
def test_output_in_place_of_a_file(
    refused: Any, recipe: Any, make_dataset: Any, tmp_path: Path, out: str
) -> None:
    make_dataset()
    (tmp_path / "file").write_text("mine")
    assert "file" in refused("train", recipe(*LINES), "--out", out)


def test_output_where_nothing_may_be_written(
    refused: Any, recipe: Any, make_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_dataset()
    path = recipe(*LINES)

    def read_only(self: Path, *_: Any, **__: Any) -> None:
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", read_only)
    assert refused("train", path, "--out", "run") == "run: Read-only file system"


def test_full_disk_while_training(recipe: Any, make_dataset: Any, tmp_path: Path) -> None:
    """A real limit on file sizes stands for the disk: the last good checkpoint must survive it."""
    make_dataset()
    path = recipe(*LINES, "seed: 1")
    size = 60_000  # checkpoints of the small networks fit, those of the large ones do not
    done = subprocess.run(
        [sys.executable, "-m", "rlalign", "train", path, "settings.hidden=[512,512]", "-o", "big"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "big" / "run.json").read_text())["status"] == "failed"
    assert not [p for p in (tmp_path / "big").rglob("*") if p.is_file() and p.stat().st_size > size]


def test_damaged_checkpoint_names_the_one_to_go_on_from(refused: Any, run: Path) -> None:
    unfinished(run)
    (run / "checkpoints" / "latest").write_text("offline-00000004")
    file = run / "checkpoints" / "offline-00000004" / "state.json"
    content, weights = file.read_bytes(), file.with_name("state.safetensors").read_bytes()
    for damage in (lambda: file.write_bytes(content[:-9]), file.unlink):
        damage()
        assert "; there are offline-00000002" in refused("resume", run)
    assert cli.run(["resume", str(run), "--checkpoint", "offline-00000002"]) == 0
    assert file.with_name("state.safetensors").read_bytes() == weights


def test_run_whose_pointer_is_lost_goes_on_from_its_newest_checkpoint(run: Path) -> None:
    unfinished(run)
    shutil.rmtree(run / "checkpoints" / "offline-00000004")
    (run / "checkpoints" / "latest").unlink()
    begun = (run / "metrics.jsonl").read_text().splitlines()[0]
    assert cli.run(["resume", str(run)]) == 0
    assert (run / "metrics.jsonl").read_text().splitlines()[0] == begun


@pytest.mark.parametrize("folder_too", [False, True])
def test_run_without_its_checkpoints_does_not_begin_again(
    refused: Any, run: Path, folder_too: bool
) -> None:
    unfinished(run)
    shutil.rmtree(run / "checkpoints")
    if not folder_too:
        (run / "checkpoints").mkdir()
    assert "holds no checkpoint any more" in refused("resume", run)


def test_resuming_what_is_not_there(refused: Any) -> None:
    assert refused("resume", "nowhere") == "nowhere: no such run directory"


def test_resuming_what_is_no_run(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "not a run directory, it has no run.json" in refused("resume", "folder")


def test_resuming_a_finished_run(refused: Any, run: Path) -> None:
    assert "the run is finished" in refused("resume", "run")


def test_resuming_with_damaged_run_file(refused: Any, run: Path) -> None:
    (run / "run.json").write_text('{"status": "run')
    assert "run.json: damaged" in refused("resume", "run")


def test_resuming_with_damaged_recipe(refused: Any, run: Path) -> None:
    unfinished(run)
    (run / "recipe.yaml").write_text("agent: [iql")
    assert "recipe.yaml: not valid YAML" in refused("resume", "run")


def test_resuming_with_another_dataset(refused: Any, run: Path, make_dataset: Any) -> None:
    unfinished(run)
    make_dataset(rows=80)
    assert "has fingerprint" in refused("resume", "run")


def test_resuming_without_the_dataset(refused: Any, run: Path, tmp_path: Path) -> None:
    unfinished(run)
    (tmp_path / "data.hdf5").unlink()
    assert "data.hdf5" in refused("resume", "run")


@pytest.mark.parametrize("name", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["changed", "cut short", "missing"])
def test_damaged_checkpoint(refused: Any, run: Path, name: str, damage: str) -> None:
    unfinished(run)
    path = newest_checkpoint(run) / name
    content = bytearray(path.read_bytes())
    if damage == "changed":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif damage == "cut short":
        path.write_bytes(content[: len(content) // 2])
    else:
        path.unlink()
    assert "checkpoints" in refused("resume", "run")
    assert "checkpoints" in refused("evaluate", "run")


def test_checkpoint_of_another_agent(refused: Any, run: Path) -> None:
    unfinished(run)
    recipe = (run / "recipe.yaml").read_text().replace("agent: iql", "agent: awac")
    (run / "recipe.yaml").write_text(recipe)
    sentence = refused("resume", "run")
    assert "iql" in sentence
    assert "awac" in sentence


def test_checkpoint_of_other_sizes(refused: Any, run: Path) -> None:
    unfinished(run)
    text = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(text.replace("- 8\n  - 8", "- 16\n  - 8"))
    assert (run / "recipe.yaml").read_text() != text
    assert refused("resume", "run")


def test_log_that_was_cut_by_hand(refused: Any, run: Path) -> None:
    unfinished(run)
    (run / "metrics.jsonl").write_text("")
    assert "metrics.jsonl: 0 bytes long" in refused("resume", "run")


def test_unknown_checkpoint(refused: Any, run: Path) -> None:
    assert "there are offline-" in refused("evaluate", "run", "--checkpoint", "best")


def test_evaluating_what_is_not_there(refused: Any) -> None:
    assert "nowhere: no such file" in refused("evaluate", "nowhere")


def test_evaluating_a_file_that_is_no_agent(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not an agent")
    assert "notes.txt" in refused("evaluate", "notes.txt")


def test_evaluating_a_truncated_agent(refused: Any, agent_file: Path) -> None:
    agent_file.write_bytes(agent_file.read_bytes()[:-100])
    assert "damaged" in refused("evaluate", "agent.safetensors")


def test_evaluating_a_file_of_other_tensors(refused: Any, agent_file: Path) -> None:
    save_file(load_file(agent_file), agent_file)
    assert "not a file written by rlalign" in refused("evaluate", "agent.safetensors")


def test_evaluating_a_model_that_holds_code(refused: Any, tmp_path: Path) -> None:
    pickled = b"cos\nsystem\n(S'touch pwned'\ntR."
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {":serialized:": "gASVAAA="}}))
        archive.writestr("policy.pth", pickled)
    sentence = refused("evaluate", "model.zip", "--environment", "Hopper-v5")
    assert "policy.pth" in sentence
    assert not (tmp_path / "pwned").exists()


def test_evaluating_in_an_unknown_environment(refused: Any, run: Path) -> None:
    sentence = refused("evaluate", "run", "--environment", "Hoper-v5")
    assert "did you mean 'Hopper-v5'?" in sentence


def test_evaluating_in_an_environment_of_other_sizes(refused: Any, run: Path) -> None:
    sentence = refused("evaluate", "run", "--environment", "Walker2d-v5")
    assert "observations of shape (17,), but the agent was trained with (11,)" in sentence


def test_collecting_in_an_environment_of_other_sizes(refused: Any, run: Path) -> None:
    for env_id, told in (("Walker2d-v5", "observations of shape (17,)"), ("CartPole-v1", "(4,)")):
        sentence = refused("collect", "run", "--environment", env_id, "--out", "new.hdf5")
        assert told in sentence
        assert "the agent was trained with (11,)" in sentence


@pytest.mark.parametrize("command", [["evaluate"], ["collect", "--out", "new.hdf5"]])
def test_acting_on_a_device_that_is_not_there(
    refused: Any, run: Path, agent_file: Path, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for source in (run, agent_file):
        assert "no CUDA device here" in refused(*command, source, "--device", "cuda")
        for name in ("gpu", "mps"):
            assert f"device must be 'cpu' or 'cuda[:n]', got {name!r}" in refused(
                *command, source, "--device", name
            )


def test_going_on_with_a_tracker_that_is_not_installed(
    refused: Any, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    sentence = refused("resume", run, "online.steps=4", "logging.wandb=true")
    assert "pip install 'rlalign[wandb]'" in sentence


def test_networks_beyond_the_memory(refused: Any, recipe: Any, make_dataset: Any) -> None:
    make_dataset()
    sentence = refused("train", recipe(*LINES), "--out", "new", "settings.hidden=[1000000000000]")
    assert "needs more memory than there is" in sentence
    assert "tried to allocate" in sentence


def test_device_where_nothing_could_use_it(refused: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("policy.pth", b"")
    for arguments in (("evaluate", "model.zip"), ("collect", "local/hopper-random-v0")):
        assert "on the CPU alone" in refused(*arguments, "--device", "cuda")


def test_device_of_a_language_model_is_its_recipe_s(refused: Any, tmp_path: Path) -> None:
    from rlalign.rundir import RunDirectory

    recipe = {"trainer": "dpo", "model": {"name": "textworld"}, "dataset": "textworld"}
    RunDirectory.create(tmp_path / "aligned", recipe, []).finish("finished")
    assert "the device that its recipe names" in refused("evaluate", "aligned", "--device", "cuda")


def test_training_in_an_unknown_environment(refused: Any, recipe: Any, make_dataset: Any) -> None:
    make_dataset()
    path = recipe(*LINES)
    sentence = refused("train", path, "environment=Hoper-v5", "--out", "run")
    assert "did you mean 'Hopper-v5'?" in sentence


def test_videos_over_videos(refused: Any, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("moviepy")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "old.mp4").write_bytes(b"")
    assert "holds videos already" in refused("evaluate", "run", "--video", "videos")


def test_report_of_nothing(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "no finished run" in refused("report", "empty")
    assert "nowhere: no such directory" in refused("report", "nowhere")
    (tmp_path / "nothing.log").write_text("a sweep's")
    assert "no finished run" in refused("report", "nothing.log")


def test_report_of_a_file(refused: Any, run: Path) -> None:
    assert refused("report", "run", "small.yaml") == "small.yaml: not a directory"
    assert refused("report", "run/run.json") == "run/run.json: not a directory"
    assert refused("report", "run", "old.log") == "old.log: no such directory"


def test_report_in_place_of_a_file(refused: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "report").write_text("mine")
    assert "a file is in the place" in refused("report", "run", "--out", "report")


def test_sweep_over_runs_of_another_recipe(refused: Any, run: Path, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    shutil.move(run, tmp_path / "runs" / "seed-0")
    sentence = refused("sweep", "small.yaml", "offline.steps=9", "--out", "runs")
    assert "holds a run of another recipe" in sentence


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
