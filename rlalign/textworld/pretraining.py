"""A small Llama taught to answer the text world's requests, in about two minutes on two cores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rlalign.textworld.corpus import examples
from rlalign.textworld.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IGNORED = -100  # transformers' label for tokens that are not learned
TOKENIZER_TEXTS = 4000


@dataclass(frozen=True)
class Pretraining:
    """How large the model is and how it is taught.

    Args:
        width: of the hidden states.
        layers: transformer layers.
        heads: attention heads; half as many for keys and values.
        scale: standard deviation of the initial weights; wide ones learn to copy sooner here.
        steps: optimiser steps.
        batch: examples a step.
        learning_rate: at its highest, after `warmup` steps; falls to a tenth along a cosine.
        warmup: steps.
        lessons: examples at the beginning that are faultless.
        seed: of weights and examples.
        max_length: tokens that the model can read.
    """

    width: int = 64
    layers: int = 2
    heads: int = 4
    scale: float = 0.1
    steps: int = 1300
    batch: int = 32
    learning_rate: float = 6e-3
    warmup: int = 50
    lessons: int = 6400
    seed: int = 0
    max_length: int = 512


Batch = dict[str, Tensor]
OnStep = Callable[[int, float], None]


def pretrain(
    settings: Pretraining, on_step: OnStep | None = None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train tokenizer and model from nothing; `on_step` is given the step and its loss.

    The global random state is left as it was. One thread works: two are slower at these sizes,
    and make other sums.
    """
    texts = (p + c for p, c in itertools.islice(examples(settings.seed + 1), TOKENIZER_TEXTS))
    tokenizer = train_tokenizer(texts, settings.max_length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = _model(settings, tokenizer)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        _teach(model, _batches(tokenizer, settings), settings, on_step)
    finally:
        torch.set_num_threads(threads)
    model.eval()
    return model, tokenizer


def _model(settings: Pretraining, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=settings.width,
            intermediate_size=3 * settings.width,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=settings.heads // 2,
            max_position_embeddings=settings.max_length,
            tie_word_embeddings=True,
            initializer_range=settings.scale,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def _teach(
    model: LlamaForCausalLM,
    batches: Iterator[Batch],
    settings: Pretraining,
    on_step: OnStep | None,
) -> None:
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    for step, batch in zip(range(settings.steps), batches, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(settings, step)
        loss = model(**batch).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if on_step is not None:
            on_step(step + 1, float(loss.detach()))


def _learning_rate(settings: Pretraining, step: int) -> float:
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / settings.warmup
    share = (step - settings.warmup) / max(1, settings.steps - settings.warmup)
    return settings.learning_rate * (0.55 + 0.45 * math.cos(math.pi * share))


def _batches(tokenizer: PreTrainedTokenizerFast, settings: Pretraining) -> Iterator[Batch]:
    """Padded batches whose labels are the completions with their end, not the prompts."""
    source = examples(settings.seed, lessons=settings.lessons)
    while True:
        rows = list(itertools.islice(source, settings.batch))
        prompts = tokenizer([prompt for prompt, _ in rows])["input_ids"]
        completions = tokenizer([completion for _, completion in rows])["input_ids"]
        ids = [
            torch.tensor([*prompt, *completion, tokenizer.eos_token_id])
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        tokens = torch.nn.utils.rnn.pad_sequence(
            ids, batch_first=True, padding_value=float(tokenizer.pad_token_id)
        )
        lengths = torch.tensor([len(row) for row in ids])
        starts = torch.tensor([len(prompt) for prompt in prompts])
        position = torch.arange(tokens.shape[1])
        mask = position < lengths[:, None]
        learned = mask & (position >= starts[:, None])
        yield {
            "input_ids": tokens,
            "attention_mask": mask.long(),
            "labels": tokens.masked_fill(~learned, IGNORED),
        }
