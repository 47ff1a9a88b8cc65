"""Inference with a model trained by SRPO: a draft, then revisions of it by the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlalign.data.preferences.tokens import encode_prompt
from rlalign.settings import require
from rlalign.trainers.generation import complete, generating, sampling_settings
from rlalign.trainers.revision import Prompt, RevisionTemplate
from rlalign.trainers.rows import Tokens, end_tokens


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
    settings = sampling_settings(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        ends=end_tokens(model, tokenizer),
        pad=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
    )

    def write(views: Sequence[Prompt], chat: Sequence[Mapping[str, Any]]) -> list[str]:
        ids = [encode_prompt(tokenizer, v, **o) for v, o in zip(views, chat, strict=True)]
        answers: Tokens = []
        for start in range(0, len(ids), batch_size):
            part = ids[start : start + batch_size]
            answers += complete(model, part, settings, model.device)
        return [tokenizer.decode(one, skip_special_tokens=True).strip() for one in answers]

    with torch.no_grad(), generating(model, settings, model.device, seed):
        drafts = write([template.generate(prompt) for prompt in prompts], options)
        history = [[draft] for draft in drafts]
        for _ in range(revisions):
            # Decoding is a function of the prompt when greedy: what stayed once, stays.
            settled = [temperature == 0 and len(h) > 1 and h[-1] == h[-2] for h in history]
            todo = [i for i, done in enumerate(settled) if not done]
            shown = [template.revise(prompts[i], history[i][-1]) for i in todo]
            revised = dict(zip(todo, write(shown, [options[i] for i in todo]), strict=True))
            for i, answers in enumerate(history):
                answers.append(revised.get(i, answers[-1]))
    return history
