"""Inference with a model trained by SRPO: a draft, then revisions of it by the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from rlalign.settings import require
from rlalign.trainers.revision import Prompt, RevisionTemplate, encode_prompt
from rlalign.trainers.rows import Tokens, end_tokens, until_end


def self_revise(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Prompt],
    *,
    template: RevisionTemplate,
    revisions: int = 1,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    batch_size: int = 16,
    seed: int = 0,
    chat: Sequence[Mapping[str, Any]] | None = None,
) -> list[list[str]]:
    """Answer prompts, then revise each answer `revisions` times (arXiv 2406.01660).

    y_0 ~ pi(. | x) and y_k ~ pi(. | x, y_{k-1}): each revision sees the last draft alone.

    Args:
        model: a causal language model, in memory.
        tokenizer: its tokenizer.
        prompts: texts, or lists of chat messages.
        template: the one the model was trained with (`RevisionTemplate.load(folder)`).
        revisions: N, at least 0; 0 is the plain policy.
        max_new_tokens: length at most of each answer, in tokens.
        temperature: of the sampling; 0 decodes greedily, and a draft that stays the same once is
            then not revised again.
        batch_size: prompts answered at once.
        seed: of the sampling; the program's own random numbers stay as they are.
        chat: for each prompt, what else the chat template is given, such as
            ``{"tools": [...]}``; `rlalign.data.preferences.chat_arguments` reads it off a row.

    Returns:
        For each prompt the texts y_0 to y_N; the answer is the last.
    """
    require(revisions >= 0, "revisions", revisions, "at least 0")
    require(temperature >= 0, "temperature", temperature, "at least 0")
    options = chat if chat is not None else [{}] * len(prompts)
    require(len(options) == len(prompts), "chat", len(options), f"one for each of {len(prompts)}")
    writer = _Writer(model, tokenizer, max_new_tokens, temperature, batch_size)
    with torch.random.fork_rng(_devices(model)):
        torch.manual_seed(seed)
        drafts = writer.write([template.generate(prompt) for prompt in prompts], options)
        history = [[draft] for draft in drafts]
        for _ in range(revisions):
            # Decoding is a function of the prompt when greedy: what stayed once, stays.
            settled = [temperature == 0 and len(h) > 1 and h[-1] == h[-2] for h in history]
            todo = [i for i, done in enumerate(settled) if not done]
            shown = [template.revise(prompts[i], history[i][-1]) for i in todo]
            written = writer.write(shown, [options[i] for i in todo])
            revised = dict(zip(todo, written, strict=True))
            for i, answers in enumerate(history):
                answers.append(revised.get(i, answers[-1]))
    return history


class _Writer:
    """Completes views of prompts with a model in evaluation mode."""

    def __init__(
        self, model: Any, tokenizer: Any, max_new_tokens: int, temperature: float, batch_size: int
    ) -> None:
        self.model, self.tokenizer, self.batch_size = model, tokenizer, batch_size
        self.ends = end_tokens(model, tokenizer)
        pad = tokenizer.pad_token_id
        self.pad = pad if pad is not None else tokenizer.eos_token_id
        sampling = {"temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {}
        self.generation = GenerationConfig(
            do_sample=temperature > 0,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.ends) or None,
            pad_token_id=self.pad,
            **sampling,
        )

    def write(self, views: Sequence[Prompt], chat: Sequence[Mapping[str, Any]]) -> list[str]:
        if not views:
            return []
        ids = [
            encode_prompt(self.tokenizer, view, **options)
            for view, options in zip(views, chat, strict=True)
        ]
        answers: Tokens = []
        training, before = self.model.training, self.model.generation_config
        self.model.eval()
        self.model.generation_config = self.generation
        try:
            for start in range(0, len(ids), self.batch_size):
                answers += self._complete(ids[start : start + self.batch_size])
        finally:
            self.model.generation_config = before
            self.model.train(training)
        texts = self.tokenizer.batch_decode(answers, skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _complete(self, prompts: Tokens) -> Tokens:
        width = max(len(prompt) for prompt in prompts)
        ids = [[self.pad] * (width - len(prompt)) + prompt for prompt in prompts]
        mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        with torch.no_grad():
            drawn = self.model.generate(
                input_ids=torch.tensor(ids, device=self.model.device),
                attention_mask=torch.tensor(mask, device=self.model.device),
                generation_config=self.generation,
            )
        return [until_end(row, self.ends) for row in drawn[:, width:].tolist()]


def _devices(model: Any) -> list[int]:
    return [model.device.index or 0] if model.device.type == "cuda" else []
