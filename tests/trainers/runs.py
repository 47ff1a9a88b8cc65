"""Folders of tiny models, files of pairs, and recipes over them, for whole runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM

from tests.trainers import tiny

QUICK: dict[str, Any] = {
    "max_steps": 4,
    "per_device_train_batch_size": 4,
    "per_device_eval_batch_size": 4,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "constant",
    "gradient_checkpointing": False,
    "max_length": 64,
    "max_new_tokens": 4,
}


def teach(folder: Path, config: Any, rows: list[dict[str, str]], seed: int) -> Path:
    """A folder with a model of that configuration after 500 steps of supervised learning."""
    import trl  # here, as tests without a trainer use this file too

    torch.manual_seed(seed)
    settings = tiny.settings(
        folder / "teaching",
        bf16=False,
        seed=seed,
        max_steps=500,
        per_device_train_batch_size=64,
        learning_rate=3e-3,
        logging_steps=500,
    )
    trainer = trl.SFTTrainer(
        model=AutoModelForCausalLM.from_config(config),
        args=trl.SFTConfig(**settings),
        train_dataset=Dataset.from_list(rows),
        processing_class=tiny.tokenizer(),
    )
    trainer.train()
    trainer.save_model(str(folder / "taught"))
    return folder / "taught"


def save_model(
    folder: Path,
    family: str = "llama",
    *,
    dtype: torch.dtype = torch.float32,
    template: bool = True,
    pad: bool = True,
) -> Path:
    """A model and its tokenizer as files, with or without chat template and padding token."""
    tokenizer = tiny.tokenizer()
    model = tiny.model(family)
    if not template:
        tokenizer.chat_template = None
    if not pad:
        tokenizer.pad_token = None
        model.config.pad_token_id = None
        model.generation_config.pad_token_id = None
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_pairs(path: Path, rows: Any) -> Path:
    """Pairs as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def document(model: Path | str, dataset: Path | str, **changes: Any) -> dict[str, Any]:
    """A recipe for a few quick steps; keyword arguments replace or, for mappings, update keys."""
    made: dict[str, Any] = {
        "trainer": "dpo",
        "model": {"name": str(model)},
        "dataset": str(dataset),
        "training": dict(QUICK),
        "evaluation": {"every": 2, "prompts": 3, "max_new_tokens": 4, "batch_size": 4},
        "checkpoint": {"every": 2},
        "logging": {"every": 1, "tensorboard": False},
    }
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(made.get(key), dict):
            made[key] = {**made[key], **value}
        else:
            made[key] = value
    return made


def write_recipe(path: Path, *arguments: Any, **changes: Any) -> Path:
    """`document` as a file."""
    path.write_text(yaml.safe_dump(document(*arguments, **changes)))
    return path
