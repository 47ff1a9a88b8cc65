"""Completions drawn from a model at rest, and what two models think of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rlalign.trainers.generation import complete, generating, sampling_settings
from rlalign.trainers.rows import Tokens, as_rows, end_tokens
from rlalign.trainers.scoring import score


@dataclass(frozen=True)
class Voice:
    """A model that speaks: as it is, or with its adapter switched off.

    Args:
        model: a causal language model with TRL's fused head.
        tokenizer: its tokenizer.
        adapter_off: speak as the model did before its adapter was trained.
        autocast: compute in this type as training did; None is the weights' own.
    """

    model: Any
    tokenizer: Any
    adapter_off: bool = False
    autocast: torch.dtype | None = None

    @contextlib.contextmanager
    def resting(self) -> Iterator[Any]:
        """The model in evaluation mode, without gradients, at its precision."""
        training = self.model.training
        kind = self.model.device.type
        precision = (
            contextlib.nullcontext()
            if self.autocast is None
            else torch.autocast(kind, dtype=self.autocast)
        )
        off = self.model.disable_adapter() if self.adapter_off else contextlib.nullcontext()
        try:
            with torch.no_grad(), precision, off:
                self.model.eval()
                yield self.model
        finally:
            self.model.train(training)


def draw(
    voice: Voice,
    prompts: Tokens,
    *,
    max_new_tokens: int,
    temperature: float,
    batch_size: int,
    seed: int,
) -> Tokens:
    """One completion for each prompt, each to its end token or the limit.

    Args:
        voice: who speaks.
        prompts: token ids.
        max_new_tokens: length at most.
        temperature: above 0; 1 draws from the model's own distribution.
        batch_size: prompts completed at once.
        seed: of the draws; the program's own random numbers stay as they are.
    """
    settings = sampling_settings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        ends=end_tokens(voice.model, voice.tokenizer),
        pad=voice.tokenizer.pad_token_id,
    )
    completions: Tokens = []
    with voice.resting() as model, generating(model, settings, model.device, seed):
        for start in range(0, len(prompts), batch_size):
            part = prompts[start : start + batch_size]
            completions += complete(model, part, settings, model.device)
    return completions


def log_probabilities(
    voice: Voice, prompts: Tokens, completions: Tokens, *, batch_size: int
) -> Tensor:
    """[count], log-probability in nats of each completion given its prompt."""
    parts = []
    with voice.resting() as model:
        for start in range(0, len(prompts), batch_size):
            stop = start + batch_size
            rows = as_rows(
                prompts[start:stop],
                completions[start:stop],
                pad=voice.tokenizer.pad_token_id,
                device=model.device,
            )
            parts.append(score(model, rows).sums.float().cpu())
    return torch.cat(parts)


def texts_of(completions: Sequence[list[int]], tokenizer: Any) -> list[str]:
    """Completions as text, without special tokens and outer spaces."""
    return [text.strip() for text in tokenizer.batch_decode(completions, skip_special_tokens=True)]
