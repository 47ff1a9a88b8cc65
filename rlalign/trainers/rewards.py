"""What says how good an answer is: a Python function, a reward model, or a judge elsewhere."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from rlalign.errors import ModelError, RlalignError
from rlalign.importing import module_of, reason
from rlalign.trainers.models import UNLOADABLE, context_length

log = logging.getLogger(__name__)

Reward = Callable[[Sequence[Any], Sequence[str]], list[float]]
"""Rewards of completions, given their prompts (texts or lists of messages)."""
Judge = Callable[[Sequence[Any], Sequence[str], Sequence[str]], list[float]]
"""For each prompt 1 where the first completion is better, 0 where the second is, 0.5 in a tie."""

BATCH = 16


class RewardError(RlalignError):
    """A reward function, reward model or judge is missing or does not do what it should."""


def load_reward(name: str, *, device: str = "auto") -> Reward:
    """The reward that a recipe names.

    A reward model reads prompt and answer through its own chat template, if it has one. Where both
    are longer than it reads, the prompt's beginning is cut, and a warning counts how often.

    Args:
        name: ``textworld``; ``package.module:function`` or ``file.py:function`` of a function
            (prompt, completion) -> number; or folder or hub name of a sequence-classification
            model with one output.
        device: ``"cpu"`` keeps a reward model there; otherwise it goes to a GPU if there is one.

    Raises:
        RewardError: if there is no such function, or it gives no number.
        ModelError: if the model cannot be loaded or has another head.
    """
    if name == "textworld":
        from rlalign.textworld.reward import reward

        return _one_by_one(reward, name)
    source, separator, function = name.rpartition(":")
    if separator:
        return _one_by_one(_function(source, function, name), name)
    return _reward_model(name, device)


def _function(source: str, function: str, name: str) -> Callable[[Any, str], float]:
    try:
        module = module_of(source)
    except Exception as error:
        raise RewardError(f"reward {name}: {source} cannot be imported ({reason(error)})") from None
    found = getattr(module, function, None)
    if not callable(found):
        raise RewardError(f"reward {name}: {source} has no function {function!r}")
    return found


def _one_by_one(function: Callable[[Any, str], float], name: str) -> Reward:
    def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        values = []
        for prompt, completion in zip(prompts, completions, strict=True):
            try:
                values.append(float(function(prompt, completion)))
            except Exception as error:
                raise RewardError(f"reward {name}: {reason(error)}") from None
        return values

    return reward


def _reward_model(name: str, device: str) -> Reward:
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model = AutoModelForSequenceClassification.from_pretrained(name)
    except (*UNLOADABLE, SafetensorError) as error:
        raise ModelError(f"reward model {name} cannot be loaded ({reason(error)})") from None
    if model.config.num_labels != 1:
        raise ModelError(
            f"reward model {name}: expected one output, its head has {model.config.num_labels}"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.config.pad_token_id = tokenizer.pad_token_id
    if device != "cpu" and torch.cuda.is_available():
        model = model.cuda()
    model.eval()
    readable = min(tokenizer.model_max_length, context_length(model) or tokenizer.model_max_length)

    def reward(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
        rows = [_tokens(p, c, tokenizer) for p, c in zip(prompts, completions, strict=True)]
        too_long = sum(len(row) > readable for row in rows)
        if too_long:
            log.warning(
                "reward model %s reads %d tokens: %d of %d prompts were cut at their beginning",
                *(name, readable, too_long, len(rows)),
            )
        rows = [_end_of(row, readable, tokenizer.bos_token_id) for row in rows]
        values: list[float] = []
        for start in range(0, len(rows), BATCH):
            batch = tokenizer.pad(
                {"input_ids": rows[start : start + BATCH]}, return_tensors="pt"
            ).to(model.device)
            with torch.no_grad():
                values += model(**batch).logits[:, 0].float().tolist()
        return values

    return reward


def _tokens(prompt: Any, completion: str, tokenizer: Any) -> list[int]:
    """Prompt and answer, through the reward model's chat template where it has one."""
    if tokenizer.chat_template is None:
        return list(tokenizer(f"{as_text(prompt)} {completion}")["input_ids"])
    turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    turns.append({"role": "assistant", "content": completion})
    # The template writes the special tokens itself: tokenizing its text would add a second BOS.
    return list(tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False))


def _end_of(tokens: list[int], readable: int, bos: int | None) -> list[int]:
    """The last tokens, which hold the answer, behind the beginning-of-sequence token if any."""
    if len(tokens) <= readable:
        return tokens
    kept = tokens[:1] if tokens[0] == bos else []
    return kept + tokens[len(tokens) - readable + len(kept) :]


def as_text(prompt: Any) -> str:
    """A prompt for people and judges: messages with their roles before them."""
    if isinstance(prompt, str):
        return prompt
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt)
