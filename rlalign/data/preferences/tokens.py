"""A pair as token ids, cut into prompt and completions exactly as TRL's trainers do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlalign.data.preferences.messages import chat_arguments

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PairTokens:
    """Token ids of a pair.

    Args:
        prompt: as both sequences begin with it.
        chosen: from where the sequence leaves the prompt, its end token included.
        rejected: likewise.
        cut: tokens of the prompt alone that both sequences do not begin with; they merge with the
            completion's first characters, or the chat template writes the prompt differently.
    """

    prompt: list[int]
    chosen: list[int]
    rejected: list[int]
    cut: list[int]


def tokenize_pair(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> PairTokens:
    """Tokenise a row with explicit prompt, chosen and rejected.

    Texts get the end-of-sequence token where they lack it; messages get what the chat template
    gives them.
    """
    prompt = prompt_ids(row, tokenizer)
    chosen, rejected = (_with_completion(row, name, tokenizer) for name in ("chosen", "rejected"))
    length = min(_common(prompt, chosen), _common(prompt, rejected))
    return PairTokens(prompt[:length], chosen[length:], rejected[length:], prompt[length:])


def prompt_ids(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Token ids of a row's prompt, with what the chat template puts before an answer."""
    prompt = row["prompt"]
    chat = {} if isinstance(prompt, str) else chat_arguments(row)
    return encode_prompt(tokenizer, prompt, **chat)


def encode_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | list[dict[str, Any]], **chat: Any
) -> list[int]:
    """Tokenise a prompt up to where a completion begins, as in training so at inference.

    The end token that some tokenizers add to a text is left out.

    Args:
        tokenizer: of the model.
        prompt: a text, or chat messages, which go through the chat template.
        chat: further arguments of the chat template.
    """
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
        added = bool(ids) and ids[-1] == tokenizer.eos_token_id
        return ids[:-1] if added and not prompt.endswith(str(tokenizer.eos_token)) else ids
    return _chat(tokenizer, prompt, add_generation_prompt=True, **chat)


def ends_properly(
    completion: Sequence[int], tokenizer: PreTrainedTokenizerBase, more: Sequence[int] = ()
) -> bool:
    """Whether one of a completion's last tokens ends it: the tokenizer's, or one of `more`.

    Some templates write a line break after the end of a turn.
    """
    ends = {tokenizer.eos_token_id, *more}
    return any(token in ends for token in completion[-3:])


def _with_completion(
    row: Mapping[str, Any], name: str, tokenizer: PreTrainedTokenizerBase
) -> list[int]:
    if not isinstance(row["prompt"], str):
        return _chat(tokenizer, row["prompt"] + row[name], **chat_arguments(row))
    completion: str = row[name]
    end = str(tokenizer.eos_token)
    whole = completion if completion.endswith(end) else completion + end
    return list(tokenizer(row["prompt"] + whole)["input_ids"])


def _chat(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], **options: Any
) -> list[int]:
    encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)
    return list(encoded["input_ids"])


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    pairs = zip(first, second, strict=False)
    shorter = min(len(first), len(second))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)
