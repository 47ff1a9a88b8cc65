"""Mistakes in recipes, models and data of preference trainers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl")

from tests.trainers import tiny
from tests.trainers.runs import save_model, save_pairs, write_recipe


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A recipe that works, over a tiny model and a file of pairs."""
    save_model(tmp_path / "model")
    save_pairs(tmp_path / "pairs.jsonl", tiny.pairs())
    return write_recipe(tmp_path / "mine.yaml", "model", "pairs.jsonl")


def test_recipe_of_the_fixture_works(mine: Path) -> None:
    from rlalign import cli

    assert cli.run(["train", str(mine), "training.max_steps=1", "--out", "run"]) == 0


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("trainer=dop", "there is no trainer 'dop'; did you mean 'dpo'?"),
        ("training.lerning_rate=1", "did you mean 'learning_rate'?"),
        ("training.learning_rate=fast", "training.learning_rate must be a number, got 'fast'"),
        ("training.beta=-1", "beta must be above 0"),
        ("training.loss_type=sigmoyd", "no loss_type 'sigmoyd'; did you mean 'sigmoid'?"),
        ("training.lr_scheduler_type=cosyne", "training does not fit together"),
        ("training.seed=3", "which is decided by seed"),
        ("model.name=nowhere/at/all", "nowhere/at/all: no such folder"),
        ("model.name=pairs.jsonl", "pairs.jsonl: no such folder; a model is a folder"),
        ("model.name=.", "not the folder of a Hugging Face model; it has no config.json"),
        ("model.dtype=float16", "float16 weights cannot be trained"),
        ("model.attention=flash", "model: the model cannot be loaded"),
        ("model.tokenizer=nowhere", "nowhere: the tokenizer cannot be loaded"),
        ("dataset=nowhere.jsonl", "nowhere.jsonl: no such file or folder"),
        ("dataset=mine.yaml", "mine.yaml: expected a file ending in .jsonl"),
        ("dataset=model", "model: no file of the split 'train'"),
        ("dataset=textworld/tset", "textworld has no split 'tset'"),
        ("evaluation_dataset=nowhere.jsonl", "nowhere.jsonl: no such file or folder"),
        ("evaluation.early_stopping=2", "early_stopping needs an evaluation_dataset"),
        ("data.evaluation_share=0.01", "leaves 0 to hold out"),
        ("data.max_prompt_length=1", "every prompt is longer than data.max_prompt_length=1"),
        ("data.evaluation_split=test", "a file has no split 'test'"),
        ("peft.target_modules=[nothing]", "nothing"),
    ],
)
def test_wrong_override(refused: Any, mine: Path, override: str, expected: str) -> None:
    assert expected in refused("train", mine, override, "--out", "run")


def test_model_file_that_is_damaged(refused: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "model" / "model.safetensors").write_bytes(b"nothing")
    assert "model: the model cannot be loaded" in refused("train", mine, "--out", "run")


def test_config_that_is_no_json(refused: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "model" / "config.json").write_text("{")
    assert "cannot be loaded" in refused("train", mine, "--out", "run")


def test_tokenizer_of_another_model(refused: Any, mine: Path, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.add_tokens([f"<word {i}>" for i in range(50)])
    tokenizer.save_pretrained(tmp_path / "model")
    sentence = refused("train", mine, "--out", "run")
    assert "tokens, the model only 80; do they belong together?" in sentence


def test_tokenizer_that_cannot_end(refused: Any, mine: Path, tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "model")
    assert "has no end-of-sequence token" in refused("train", mine, "--out", "run")


def test_chat_without_template(refused: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "model", template=False)
    save_pairs(tmp_path / "pairs.jsonl", tiny.chats())
    recipe = write_recipe(tmp_path / "mine.yaml", "model", "pairs.jsonl")
    sentence = refused("train", recipe, "--out", "run")
    assert "holds chat messages, but the tokenizer has no chat template" in sentence


def test_learned_positions_end(refused: Any, tmp_path: Path) -> None:
    save_model(tmp_path / "model", "gpt2", template=False)
    save_pairs(tmp_path / "pairs.jsonl", tiny.pairs())
    recipe = write_recipe(tmp_path / "mine.yaml", "model", "pairs.jsonl")
    sentence = refused("train", recipe, "training.max_length=512", "--out", "run")
    assert "positions for 128 tokens only; set training.max_length=128" in sentence


def test_prompts_that_leave_no_room(refused: Any, mine: Path) -> None:
    sentence = refused("train", mine, "training.max_length=2", "--out", "run")
    assert "max_length" in sentence


def test_missing_data_is_told_of_before_the_text_world_is_learned(
    refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlalign.trainers import models

    monkeypatch.setattr(models, "model_path", None)
    for key in ("dataset", "evaluation_dataset"):
        sentence = refused("train", "dpo/tiny", f"{key}=nofile.jsonl", "--out", "run")
        assert sentence.startswith("nofile.jsonl: no such file or folder")


def test_damaged_row_is_named(refused: Any, mine: Path, tmp_path: Path) -> None:
    rows = [*tiny.pairs(3).to_list(), {"prompt": "a", "chosen": "", "rejected": "b"}]
    save_pairs(tmp_path / "pairs.jsonl", rows)
    sentence = refused("train", mine, "--out", "run")
    assert sentence.startswith("pairs.jsonl, row 4: the chosen completion is empty")


def test_adapter_as_model(refused: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({}))
    assert "it is an adapter" in refused("train", mine, "model.name=adapter", "--out", "run")


def test_model_that_brings_code(refused: Any, mine: Path, tmp_path: Path) -> None:
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoModelForCausalLM": "code.Mine"}}
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    (tmp_path / "model" / "code.py").write_text("raise SystemExit('this must not run')\n")
    assert "cannot be loaded" in refused("train", mine, "--out", "run")


def test_revisions_by_a_model_that_cannot(refused: Any, mine: Path) -> None:
    arguments = ("evaluation.revisions=2", "data.evaluation_share=0.25", "--out", "run")
    assert "revisions need a model that was trained to revise" in refused("train", mine, *arguments)


def test_reward_that_does_not_exist_is_told_before_training(refused: Any, mine: Path) -> None:
    arguments = ("evaluation.reward=nowhere.py:f", "data.evaluation_share=0.25", "--out", "run")
    assert "nowhere.py cannot be imported" in refused("train", mine, *arguments)


def test_directory_that_holds_something_else(refused: Any, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "something").write_text("kept")
    assert refused("train", mine, "--out", "run").startswith("run: the folder exists already")


def test_launch_of_what_is_not_there(refused: Any, mine: Path) -> None:
    sentence = refused("train", mine, "--launch", "zeroo3", "--out", "run")
    assert "did you mean 'zero3'?" in sentence


def test_launch_is_for_trainers(refused: Any) -> None:
    assert "not for agents" in refused("train", "demo", "--launch", "zero3", "--out", "run")


def test_missing_extra_is_named(refused: Any, mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    for name in [one for one in sys.modules if one.startswith("rlalign.trainers.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "trl", None)
    assert "pip install 'rlalign[llm]'" in refused("train", mine, "--out", "run")


def test_half_precision_weights_stay_finite(mine: Path, tmp_path: Path) -> None:
    from rlalign import cli
    from rlalign.rundir import RunDirectory

    save_model(tmp_path / "model", dtype=torch.float16)
    assert cli.run(["train", str(mine), "--out", "run"]) == 0
    assert all(row["loss"] < 1.0 for row in RunDirectory.open("run").metrics())
