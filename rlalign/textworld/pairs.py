"""Preference pairs of the text world: two of the writer's answers, judged by Bradley and Terry.

    P(a preferred to b) = sigmoid(reward(a) - reward(b))        (arXiv 2305.18290, equation 1)

Splits: `train` and `validation` share subjects and the number of facts, never a prompt;
`out-of-distribution` asks of other subjects, and for more facts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

from rlalign.errors import DatasetError
from rlalign.suggestions import did_you_mean
from rlalign.textworld.grammar import Request
from rlalign.textworld.reward import judge
from rlalign.textworld.words import KNOWN_SUBJECTS, NEW_SUBJECTS
from rlalign.textworld.writer import draw_request, write_answer


@dataclass(frozen=True)
class Split:
    """How a split's prompts are drawn, and how many pairs it has."""

    pairs: int
    subjects: tuple[str, ...]
    fact_counts: tuple[int, ...]
    seed: int


SPLITS = {
    "train": Split(4096, KNOWN_SUBJECTS, (2, 3), seed=1),
    "validation": Split(256, KNOWN_SUBJECTS, (2, 3), seed=2),
    "out-of-distribution": Split(256, NEW_SUBJECTS, (4, 5), seed=3),
}


NAMES = tuple("textworld" if split == "train" else f"textworld/{split}" for split in SPLITS)


def preference_pairs(split: str = "train") -> list[dict[str, str]]:
    """Rows of `prompt`, `chosen` and `rejected`; the same on every machine.

    Raises `DatasetError` when there is no such split.
    """
    if split not in SPLITS:
        hint = did_you_mean(split, SPLITS)
        raise DatasetError(f"textworld has no split {split!r}, only {', '.join(SPLITS)}{hint}")
    plan = SPLITS[split]
    random = Random(plan.seed)
    kept_apart = (
        {row["prompt"] for row in preference_pairs("validation")} if split == "train" else ()
    )
    rows: list[dict[str, str]] = []
    while len(rows) < plan.pairs:
        request = draw_request(random, plan.subjects, plan.fact_counts)
        row = _compare(request, random)
        if row is not None and request.prompt not in kept_apart:
            rows.append(row)
    return rows


def _compare(request: Request, random: Random) -> dict[str, str] | None:
    """A pair, or None where both answers are the same."""
    first, second = write_answer(request, random), write_answer(request, random)
    difference = judge(request, first).reward - judge(request, second).reward
    preferred = random.random() < 1.0 / (1.0 + math.exp(-difference))
    if first == second:
        return None
    chosen, rejected = (first, second) if preferred else (second, first)
    return {"prompt": request.prompt, "chosen": chosen, "rejected": rejected}
