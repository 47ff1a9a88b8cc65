"""Prompts and completions as token ids, and as the padded rows that models score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

Tokens = list[list[int]]


def prompts_of(inputs: dict[str, Tensor], pairs: int) -> Tokens:
    """Return the prompts of a collated batch: its first `pairs` rows without completions.

    Args:
        inputs: `input_ids`, `attention_mask` and `completion_mask`, each [rows, length].
        pairs: how many rows to read; all collators begin with prompt and chosen completion.
    """
    prompt = (inputs["attention_mask"] * (1 - inputs["completion_mask"]))[:pairs].bool()
    return [ids[mask].tolist() for ids, mask in zip(inputs["input_ids"], prompt, strict=False)]


def as_rows(
    prompts: Tokens,
    completions: Tokens,
    *,
    pad: int,
    device: torch.device | None = None,
    multiple: int | None = None,
) -> dict[str, Tensor]:
    """Lay prompts and completions out as the collators do: flush left, padded on the right.

    Padding on the right leaves every token at its own position, so that models with learned
    positions score samples exactly as they score pairs.

    Args:
        prompts: token ids.
        completions: token ids.
        pad: id of the padding token.
        device: of the tensors.
        multiple: pad to a length that it divides.

    Returns:
        `input_ids`, `attention_mask` and `completion_mask`, each [rows, length].
    """
    length = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    length += -length % (multiple or 1)
    shape = (len(prompts), length)
    ids = torch.full(shape, pad)
    attention, completion = (
        torch.zeros(shape, dtype=torch.long),
        torch.zeros(shape, dtype=torch.long),
    )
    for row, (prompt, answer) in enumerate(zip(prompts, completions, strict=True)):
        end = len(prompt) + len(answer)
        ids[row, :end] = torch.tensor(prompt + answer)
        attention[row, :end] = 1
        completion[row, len(prompt) : end] = 1
    rows = {"input_ids": ids, "attention_mask": attention, "completion_mask": completion}
    return {name: value.to(device) for name, value in rows.items()}


def until_end(completion: Sequence[int], ends: set[int]) -> list[int]:
    """Cut after the first end token, which stays."""
    for place, token in enumerate(completion):
        if token in ends:
            return list(completion[: place + 1])
    return list(completion)


def end_tokens(model: Any, tokenizer: Any) -> set[int]:
    """Token ids that end a completion: the tokenizer's, and those of the model's own settings."""
    configured = model.generation_config.eos_token_id
    ends = set(configured) if isinstance(configured, list | tuple) else {configured}
    return {int(token) for token in ends | {tokenizer.eos_token_id} if token is not None}
