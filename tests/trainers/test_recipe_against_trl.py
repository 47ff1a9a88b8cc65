"""A recipe's DPO is TRL's DPO: the same losses from the same data, order and seed."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

import trl
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlalign import cli
from rlalign.data.preferences import load_preferences
from rlalign.rundir import RunDirectory
from tests.trainers import tiny
from tests.trainers.runs import QUICK, save_model, save_pairs, write_recipe

STEPS = 50


def test_losses_are_those_of_trls_own_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model")
    save_pairs(tmp_path / "pairs.jsonl", tiny.pairs(40))
    training = {"max_steps": STEPS, "learning_rate": 3e-4}
    write_recipe(tmp_path / "mine.yaml", "model", "pairs.jsonl", training=training, seed=7)
    assert cli.run(["train", "mine.yaml", "--out", "run"]) == 0
    ours = [row["loss"] for row in RunDirectory.open("run").metrics()]

    fields = {k: v for k, v in {**QUICK, **training}.items() if k != "max_new_tokens"}
    trainer = trl.DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained("model", dtype="float32"),
        ref_model=AutoModelForCausalLM.from_pretrained("model", dtype="float32"),
        args=trl.DPOConfig(
            output_dir="trl", seed=7, use_cpu=True, bf16=False, logging_steps=1, **fields
        ),
        train_dataset=load_preferences("pairs.jsonl").rows,
        processing_class=AutoTokenizer.from_pretrained("model"),
    )
    trainer.train()
    theirs = tiny.losses(trainer)
    assert len(ours) == len(theirs) == STEPS
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) < 1e-5
    assert ours[-1] < ours[0] - 0.1  # neither stood still
