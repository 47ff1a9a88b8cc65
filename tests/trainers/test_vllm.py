"""Sampling with vLLM, as far as it can be tested without vLLM: what is asked of TRL's helper."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from trl.generation import vllm_generation

from rlalign.errors import MissingPackageError
from rlalign.trainers import HyPOConfig, HyPOTrainer
from tests.trainers import tiny


def make(folder: Path, **changes: Any) -> HyPOTrainer:
    settings = {"use_vllm": True, "max_new_tokens": 5, "max_steps": 2, **changes}
    return HyPOTrainer(
        model=tiny.model(),
        args=HyPOConfig(**tiny.settings(folder, **settings)),
        train_dataset=tiny.pairs(),
        processing_class=tiny.tokenizer(),
    )


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_missing_vllm_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(MissingPackageError, match="needs the package vllm"):
        make(tmp_path).train()


class Engine:
    """Takes the helper's place; completes every prompt with "ab", an end, and something after."""

    def __init__(self, **arguments: Any) -> None:
        self.arguments = arguments
        self.calls: list[Any] = []
        made.append(self)

    def sync_weights(self) -> None:
        self.calls.append("sync")

    def generate(self, *, prompts: Any, images: Any, num_generations: int) -> Any:
        assert images is None
        assert num_generations == 1
        self.calls.append(len(prompts))
        return prompts, [[7, 8, 2, 9] for _ in prompts], None, None


made: list[Engine] = []


def test_weights_are_brought_over_once_a_step_and_each_prompt_is_sent_k_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(vllm_generation, "VLLMGeneration", Engine)
    trainer = make(tmp_path, num_samples=3, gradient_accumulation_steps=2)
    trainer.train()
    (engine,) = made
    assert engine.calls == ["sync", 24, "sync", 24]
    assert engine.arguments["max_completion_length"] == 5
    assert engine.arguments["generation_kwargs"] == {"stop_token_ids": [2]}
    row = trainer.state.log_history[0]
    assert (row["samples/length"], row["samples/unfinished"]) == (3.0, 0.0)
