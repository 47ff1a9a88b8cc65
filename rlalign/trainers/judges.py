"""A judge behind an OpenAI-compatible endpoint: which of two answers is better."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rlalign.trainers.rewards import Judge, RewardError, as_text

if TYPE_CHECKING:
    from rlalign.recipe.trainer_schema import Judge as JudgeSettings

INSTRUCTION = (
    "You compare two answers to a request. Judge helpfulness, correctness and clarity; do not "
    "prefer an answer for its length or its position. Reply with one letter: A or B."
)
_VERDICT = re.compile(r"\b([AB])\b")
ATTEMPTS = 3


def endpoint_judge(settings: JudgeSettings) -> Judge:
    """A judge that asks twice for each prompt, with the answers in either order.

    Each order counts half, so that a judge which prefers the first answer is worth a tie.

    Raises `RewardError` when the key's variable is not set.
    """
    headers = {}
    if settings.key_variable is not None:
        key = os.environ.get(settings.key_variable)
        if not key:
            raise RewardError(
                f"the judge's key is read from the environment variable {settings.key_variable}, "
                "which is not set"
            )
        headers["Authorization"] = f"Bearer {key}"

    def judge(prompts: Sequence[Any], first: Sequence[str], second: Sequence[str]) -> list[float]:
        wins = []
        for prompt, ours, theirs in zip(prompts, first, second, strict=True):
            there = _ask(settings, headers, prompt, ours, theirs)
            back = _ask(settings, headers, prompt, theirs, ours)
            wins.append(0.5 * there + 0.5 * (1.0 - back))
        return wins

    return judge


def _ask(
    settings: JudgeSettings, headers: dict[str, str], prompt: Any, first: str, second: str
) -> float:
    """1 for the first answer, 0 for the second, 0.5 for a reply that names neither or both."""
    import requests

    question = (
        f"Request:\n{as_text(prompt)}\n\nAnswer A:\n{first}\n\nAnswer B:\n{second}\n\nA or B?"
    )
    body = {
        "model": settings.model,
        "messages": [
            {"role": "system", "content": settings.instruction or INSTRUCTION},
            {"role": "user", "content": question},
        ],
        "temperature": 0,
    }
    url = f"{settings.url.rstrip('/')}/chat/completions"
    problem = ""
    for _ in range(ATTEMPTS):
        try:
            reply = requests.post(url, json=body, headers=headers, timeout=settings.timeout)
            reply.raise_for_status()
            said = reply.json()["choices"][0]["message"]["content"]
            letters = set(_VERDICT.findall(str(said)))
            return 0.5 if len(letters) != 1 else float(letters == {"A"})
        except (requests.RequestException, ValueError, KeyError, IndexError, TypeError) as error:
            problem = str(error).splitlines()[0] if str(error) else type(error).__name__
    raise RewardError(f"the judge at {url} gives no verdict after {ATTEMPTS} attempts ({problem})")
