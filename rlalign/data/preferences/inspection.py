"""What `rlalign data info` says of preference data: sizes, lengths, and what would go wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rlalign.data.preferences.loading import Preferences
from rlalign.data.preferences.tokens import PairTokens, ends_properly, tokenize_pair
from rlalign.errors import DatasetError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PERCENTILES = (5, 50, 95, 99, 100)
PARTS = ("prompt", "chosen", "rejected")


def describe_preferences(
    pairs: Preferences,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    max_length: int | None = None,
    sample: int = 0,
    ends: Sequence[int] = (),
) -> dict[str, Any]:
    """Facts of a preference dataset, as plain JSON types.

    Args:
        pairs: the dataset, with identical pairs kept (`Reading(drop_identical=False)`).
        tokenizer: counts tokens and looks at boundaries and ends; without it words are counted.
        max_length: tokens at which trainers cut prompt and completion together.
        sample: number of the row that is rendered.
        ends: further ids of end tokens, from the model's generation settings.

    Raises:
        DatasetError: if `sample` is beyond the end, or messages meet no chat template.
    """
    rows = list(pairs.rows)
    if not 0 <= sample < len(rows):
        raise DatasetError(f"{pairs.name}: there is no pair {sample}, only 0 to {len(rows) - 1}")
    facts: dict[str, Any] = {
        "name": pairs.name,
        "format": pairs.form.name,
        "pairs": len(rows),
        "prompts": len({str(row["prompt"]) for row in rows}),
        "identical_pairs": sum(row["chosen"] == row["rejected"] for row in rows),
        "duplicate_pairs": len(rows) - len({str([row[name] for name in PARTS]) for row in rows}),
        "left_out": pairs.left_out,
        "fingerprint": pairs.fingerprint,
    }
    if tokenizer is None:
        facts["unit"] = "words"
        facts |= _lengths({name: [_words(row[name]) for row in rows] for name in PARTS})
        return {**facts, "sample": _as_text(rows[sample])}
    if tokenizer.chat_template is None and isinstance(rows[0]["prompt"], list):
        raise DatasetError(f"{pairs.name}: holds chat messages, but the tokenizer has no template")
    tokens = [tokenize_pair(row, tokenizer) for row in rows]
    facts["unit"] = "tokens"
    facts |= _lengths({name: [len(getattr(one, name)) for one in tokens] for name in PARTS})
    facts |= _problems(tokens, tokenizer, ends)
    if max_length is not None:
        facts["max_length"] = max_length
        facts |= _truncation(tokens, max_length)
    return {**facts, "sample": _rendered(tokens[sample], tokenizer)}


def _lengths(lengths: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    return {
        f"{name}_length": {
            "mean": float(np.mean(values)),
            **{f"p{p}": float(np.percentile(values, p)) for p in PERCENTILES},
        }
        for name, values in lengths.items()
    }


def _problems(
    tokens: Sequence[PairTokens], tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]
) -> dict[str, Any]:
    """Pairs whose prompt and completion grow together, and completions that do not end.

    `longer_chosen` is a share in [0, 1]: far from a half, length alone tells what is preferred.
    """
    moved = [pair for pair in tokens if pair.cut]
    longer = [float(len(p.chosen) > len(p.rejected)) for p in tokens]
    return {
        "longer_chosen": float(np.mean(longer)),
        "boundary_moved": len(moved),
        "boundary_example": tokenizer.decode(moved[0].cut) if moved else None,
        "without_end": sum(
            not ends_properly(completion, tokenizer, ends)
            for pair in tokens
            for completion in (pair.chosen, pair.rejected)
        ),
        "double_bos": sum(_starts_twice(pair.prompt, tokenizer.bos_token_id) for pair in tokens),
    }


def _starts_twice(prompt: Sequence[int], bos: int | None) -> bool:
    return bos is not None and list(prompt[:2]) == [bos, bos]


def _truncation(tokens: Sequence[PairTokens], max_length: int) -> dict[str, int]:
    """How many pairs trainers cut (they keep the beginning), or leave out."""
    longest = [len(p.prompt) + max(len(p.chosen), len(p.rejected)) for p in tokens]
    return {
        "truncated": sum(length > max_length for length in longest),
        "dropped": sum(len(pair.prompt) >= max_length for pair in tokens),
    }


def _words(text: Any) -> int:
    return len(_plain(text).split())


def _plain(text: Any) -> str:
    if isinstance(text, str):
        return text
    return "\n".join(f"{turn['role']}: {turn['content']}" for turn in text)


def _as_text(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: _plain(row[name]) for name in PARTS}


def _rendered(pair: PairTokens, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """The pair as the model reads it, special tokens shown."""
    return {name: tokenizer.decode(getattr(pair, name)) for name in PARTS}
