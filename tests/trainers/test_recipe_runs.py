"""Recipes of trainers carried out from end to end on tiny models and local files."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from rlalign import cli
from rlalign.recipe import TrainerRecipe, load_any_recipe
from rlalign.rundir import RunDirectory
from rlalign.trainers import runs as carrying_out
from tests.trainers import tiny
from tests.trainers.runs import save_model, save_pairs, write_recipe


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLALIGN_CACHE", str(tmp_path / "cache"))


def prepare(folder: Path, **changes: Any) -> None:
    """Lay out a tiny model, pairs, and the recipe mine.yaml with these changes."""
    save_model(folder / "model")
    save_pairs(folder / "pairs.jsonl", tiny.pairs())
    write_recipe(folder / "mine.yaml", "model", "pairs.jsonl", **changes)


def losses(run: Path) -> list[float]:
    """The training losses in a run's metrics."""
    return [row["loss"] for row in RunDirectory.open(run).metrics()]


def recipe(path: Path, *overrides: str) -> TrainerRecipe:
    """A trainer's recipe from a file."""
    loaded = load_any_recipe(path, list(overrides))
    assert isinstance(loaded, TrainerRecipe)
    return loaded


@pytest.mark.parametrize(
    ("family", "dtype", "template", "pad"),
    [
        ("llama", torch.float32, True, True),
        ("gpt2", torch.float16, False, False),
        ("qwen2", torch.bfloat16, True, False),
        ("gpt_neox", torch.float32, False, True),
    ],
)
def test_local_model_and_file_train_with_one_command(
    tmp_path: Path, family: str, dtype: torch.dtype, template: bool, pad: bool
) -> None:
    save_model(tmp_path / "model", family, dtype=dtype, template=template, pad=pad)
    rows = tiny.chats() if template else tiny.pairs()
    save_pairs(tmp_path / "pairs.jsonl", rows)
    write_recipe(tmp_path / "mine.yaml", "model", "pairs.jsonl", data={"evaluation_share": 0.25})
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    run = RunDirectory.open("run")
    assert run.status == "finished"
    assert len(losses(tmp_path / "run")) == 4
    assert losses(tmp_path / "run")[0] == pytest.approx(0.6931, abs=1e-3)
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    final = next(row for row in run.evaluations() if row["phase"] == "final")
    assert final["pairs"] == 4
    assert {"accuracy", "kl_reverse", "kl_forward", "policy_length"} <= set(final)
    assert (tmp_path / "run" / "samples.jsonl").read_text().count("\n") == 3


@pytest.mark.parametrize("trainer", ["simpo", "hypo", "srpo"])
def test_each_trainer_has_recipes(tmp_path: Path, trainer: str) -> None:
    changes: dict[str, Any] = {"trainer": trainer, "training": {"max_steps": 2}}
    if trainer == "srpo":
        changes |= {"training": {"max_steps": 2, "max_length": 512}, "evaluation": {"revisions": 1}}
        changes["data"] = {"evaluation_share": 0.25}
    prepare(tmp_path, **changes)
    assert cli.run(["train", "mine.yaml", "model.attention=eager", "--out", "run"]) == 0
    assert len(losses(tmp_path / "run")) == 2


class _Interrupt(TrainerCallback):
    """Sends this process a signal in the middle of a step."""

    number = signal.SIGTERM

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == self.step:
            signal.raise_signal(self.number)


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the next trainers be told to stop during a step."""
    plain = carrying_out._make_trainer

    def make(*args: Any, **kwargs: Any) -> Any:
        trainer, callback = plain(*args, **kwargs)
        trainer.add_callback(_Interrupt(step))
        return trainer, callback

    monkeypatch.setattr(carrying_out, "_make_trainer", make)


def cut_at(monkeypatch: pytest.MonkeyPatch, step: int) -> Any:
    """Train mine.yaml into the folder "cut", interrupted during a step; return the exit code."""
    with monkeypatch.context() as patched:
        interrupt_at(patched, step)
        with pytest.raises(SystemExit) as stopped:
            cli.run(["train", "mine.yaml", "--out", "cut"])
    return stopped.value.code


@pytest.mark.parametrize("adapter", [False, True])
def test_interrupted_run_is_resumed_to_the_same_losses(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    adapter: bool,
) -> None:
    changes: dict[str, Any] = {"training": {"max_steps": 6}, "data": {"evaluation_share": 0.25}}
    if adapter:
        changes["peft"] = {"r": 2, "alpha": 4}
    prepare(tmp_path, **changes)
    assert cli.run(["train", "mine.yaml", "--out", "whole"]) == 0
    assert cut_at(monkeypatch, 3) == 143
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .endswith("from the last checkpoint with: rlalign resume cut")
    )
    assert RunDirectory.open("cut").status == "interrupted"
    assert len(losses(tmp_path / "cut")) == 4
    assert cli.run(["resume", "cut"]) == 0
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")
    tokens = [
        [row["num_tokens"] for row in RunDirectory.open(run).metrics()] for run in ("cut", "whole")
    ]
    assert tokens[0] == tokens[1]
    assert len(set(losses(tmp_path / "whole"))) > 3
    weights = "adapter_model.safetensors" if adapter else "model.safetensors"
    cut, whole = (tmp_path / name / "model" / weights for name in ("cut", "whole"))
    assert cut.read_bytes() == whole.read_bytes()
    finals = [RunDirectory.open(name).evaluations()[-1] for name in ("cut", "whole")]
    for row in finals:
        row.pop("time")
    assert finals[0] == finals[1]


def test_other_number_of_processes_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path)
    cut_at(monkeypatch, 1)
    capsys.readouterr()
    with monkeypatch.context() as patched:
        patched.setenv("WORLD_SIZE", "4")
        assert cli.run(["resume", "cut"]) == 2
        told = "trained by 1 process, and now there are 4; go on with: rlalign resume cut\n"
        assert told in capsys.readouterr().err
    info = json.loads((tmp_path / "cut" / "run.json").read_text())
    (tmp_path / "cut" / "run.json").write_text(json.dumps({**info, "processes": 2}))
    assert cli.run(["resume", "cut"]) == 2
    assert "rlalign resume cut --launch CONFIG --processes 2" in capsys.readouterr().err


def test_checkpoint_cut_short_by_a_kill_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, training={"max_steps": 6})
    cut_at(monkeypatch, 3)
    (tmp_path / "cut" / "checkpoints" / "checkpoint-4" / "rlalign.json").unlink()
    assert cli.run(["resume", "cut"]) == 0
    assert [row["step"] for row in RunDirectory.open("cut").metrics()] == [1, 2, 3, 4, 5, 6]


def test_adapter_is_saved_alone_and_evaluated_on_its_base(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(
        tmp_path,
        peft={"r": 2, "alpha": 4},
        data={"evaluation_share": 0.25},
    )
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    assert (tmp_path / "run" / "model" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "run" / "model" / "model.safetensors").exists()
    capsys.readouterr()
    assert cli.run(["evaluate", "run", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)["validation"]["figures"]
    final = RunDirectory.open("run").evaluations()[-1]
    assert figures["accuracy"] == final["accuracy"]
    assert figures["kl_reverse"] == pytest.approx(final["kl_reverse"], abs=1e-4)


def test_run_is_evaluated_with_other_data_and_rewards(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_pairs(tmp_path / "others.jsonl", tiny.pairs(5, seed=9))
    prepare(tmp_path)
    (tmp_path / "vowels.py").write_text(
        "def count(prompt, answer):\n    return sum(letter in 'aeiou' for letter in answer)\n"
    )
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    capsys.readouterr()
    command = ["evaluate", "run", "--dataset", "others.jsonl", "--reward", "vowels.py:count"]
    assert cli.run([*command, "--json", "--record"]) == 0
    assert RunDirectory.open("run").evaluations()[-1]["dataset"] == "others.jsonl"
    found = json.loads(capsys.readouterr().out)["others.jsonl"]
    assert found["figures"]["pairs"] == 5
    assert 0 <= found["figures"]["win_rate"] <= 1
    assert "policy_reward" in found["samples"][0]
    assert cli.run([*command, "--checkpoint", "checkpoint-2", "--prompts", "0"]) == 0


def test_streamed_dataset_trains(tmp_path: Path) -> None:
    prepare(tmp_path, data={"streaming": True})
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    assert len(losses(tmp_path / "run")) == 4


def test_early_stopping_ends_training(tmp_path: Path) -> None:
    prepare(
        tmp_path,
        # Without a step to take nothing can improve.
        training={"max_steps": 40, "learning_rate": 0.0},
        data={"evaluation_share": 0.25},
        evaluation={"early_stopping": 2, "prompts": 0},
    )
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    assert RunDirectory.open("run").metrics()[-1]["step"] < 12


def test_loss_that_is_not_finite_stops_the_run_and_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(
        tmp_path,
        training={"max_steps": 20, "learning_rate": 1e30, "max_grad_norm": 1e30},
    )
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 2
    assert "not finite" in capsys.readouterr().err
    assert RunDirectory.open("run").status == "failed"


def test_runs_of_trainers_are_reported_with_samples_side_by_side(tmp_path: Path) -> None:
    prepare(tmp_path, data={"evaluation_share": 0.25})
    for trainer, seed in (("dpo", 0), ("dpo", 1), ("simpo", 0)):
        command = ["train", "mine.yaml", f"trainer={trainer}", f"seed={seed}"]
        assert cli.run([*command, "--out", f"runs/{trainer}-{seed}"]) == 0
    assert cli.run(["report", "runs", "--out", "report"]) == 0
    page = (tmp_path / "report" / "report.html").read_text()
    assert "initial model" in page
    assert "data:image/png" in page
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert [(g["label"], len(g["runs"])) for g in results["groups"]] == [("dpo", 2), ("simpo", 1)]
    assert results["groups"][0]["final"]["validation"]["accuracy"]["seeds"] == 2


@pytest.mark.parametrize("trainer", ["dpo", "srpo"])
def test_template_that_a_model_brings_is_used(tmp_path: Path, trainer: str) -> None:
    from rlalign.trainers.revision import RevisionTemplate

    prepare(
        tmp_path,
        trainer=trainer,
        data={"evaluation_share": 0.25},
        evaluation={"revisions": 2, "reward": "operator:countOf"},
        training={"max_steps": 2},
    )
    tiny.SHORT.save(tmp_path / "model")
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    final = RunDirectory.open("run").evaluations()[-1]
    assert {f"revision_{n}_win_rate" for n in (0, 1, 2)} <= set(final)
    samples = (tmp_path / "run" / "samples.jsonl").read_text().splitlines()
    assert len(json.loads(samples[0])["revisions"]) == 3
    if trainer == "srpo":
        assert RevisionTemplate.load(tmp_path / "run" / "model") == tiny.SHORT


def test_interrupt_from_the_keyboard_saves_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, training={"max_steps": 6})
    monkeypatch.setattr(_Interrupt, "number", signal.SIGINT)
    assert cut_at(monkeypatch, 2) == 130
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-3" / "rlalign.json").is_file()


def test_changed_data_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(tmp_path, training={"max_steps": 6})
    cut_at(monkeypatch, 2)
    save_pairs(tmp_path / "pairs.jsonl", tiny.pairs(seed=5))
    assert cli.run(["resume", "cut"]) == 2
    assert "pairs.jsonl has changed since the run began" in capsys.readouterr().err


def test_agents_and_trainers_are_not_reported_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from rlalign.recipe import parse_recipe

    (tmp_path / "runs").mkdir()
    agent = parse_recipe({"agent": "iql", "dataset": "x", "offline": {"steps": 1}})
    RunDirectory.create(tmp_path / "runs" / "agent", agent).finish("finished")
    trainer = load_any_recipe("dpo/tiny")
    RunDirectory.create(tmp_path / "runs" / "trainer", trainer).finish("finished")
    assert cli.run(["report", "runs"]) == 2
    assert "have nothing in common to compare" in capsys.readouterr().err
