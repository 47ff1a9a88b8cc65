"""Held-out pairs share no prompt with those that are trained on."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("datasets")

from rlalign.data.preferences import load_preferences
from rlalign.data.preferences.loading import Preferences
from rlalign.data.preferences.splitting import split_by_prompt
from rlalign.errors import DatasetError
from tests.data.preferences.test_loading import write


def loaded(folder: Path, sizes: list[int], *, chat: bool = False) -> Preferences:
    """Pairs of which `sizes` have the same prompt, in a random order."""
    prompts = [i for i, size in enumerate(sizes) for _ in range(size)]
    Random(0).shuffle(prompts)
    rows: list[dict[str, Any]] = [
        {"prompt": f"say {prompt}:", "chosen": f" {row}", "rejected": " no"}
        for row, prompt in enumerate(prompts)
    ]
    if chat:
        rows = [
            {
                "prompt": [{"role": "user", "content": row["prompt"]}],
                **{
                    side: [{"role": "assistant", "content": row[side]}]
                    for side in ("chosen", "rejected")
                },
            }
            for row in rows
        ]
    return load_preferences(write(folder / "pairs.jsonl", *rows))


def prompts_of(pairs: Preferences) -> set[str]:
    """Its prompts, as text."""
    return {str(prompt) for prompt in pairs.rows["prompt"]}


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_is_on_both_sides_and_no_pair_is_lost(
    tmp_path: Path, chat: bool, seed: int
) -> None:
    pairs = loaded(tmp_path, [1, 2, 3, 4] * 25, chat=chat)
    rest, held = split_by_prompt(pairs, 0.2, seed)
    assert not prompts_of(rest) & prompts_of(held)
    assert len(held.rows) == 50
    both = [str(row["chosen"]) for side in (rest, held) for row in side.rows]
    assert sorted(both) == sorted(str(row["chosen"]) for row in pairs.rows)
    assert held.name == f"0.2 of {pairs.name}"


def test_the_seed_decides(tmp_path: Path) -> None:
    pairs = loaded(tmp_path, [2] * 50)

    def held(seed: int) -> list[dict[str, Any]]:
        return list(split_by_prompt(pairs, 0.2, seed)[1].rows)

    assert held(1) == held(1)
    assert held(1) != held(2)


@pytest.mark.parametrize(
    ("sizes", "share", "expected"),
    [
        ([1] * 10, 0.25, 2),
        ([4] * 10, 0.25, 8),  # not 12: as close, and no more than was asked for
        ([4] * 10, 0.28, 12),
        ([5, 5], 0.2, 5),  # at least one prompt
        ([9, 1], 0.5, 1),  # never all
    ],
)
def test_whole_prompts_come_close_to_the_share(
    tmp_path: Path, sizes: list[int], share: float, expected: int
) -> None:
    for seed in range(5):
        rest, held = split_by_prompt(loaded(tmp_path, sizes), share, seed)
        assert len(held.rows) == expected
        assert len(rest.rows) == sum(sizes) - expected


@pytest.mark.parametrize(
    ("sizes", "share", "expected"),
    [
        ([1] * 8, 0.01, "of 8 pairs leaves 0 to hold out"),
        ([1] * 8, 0.99, "of 8 pairs leaves 8 to hold out"),
        ([8], 0.5, "all 8 pairs have the same one"),
    ],
)
def test_no_side_is_empty(tmp_path: Path, sizes: list[int], share: float, expected: str) -> None:
    with pytest.raises(DatasetError, match=expected):
        split_by_prompt(loaded(tmp_path, sizes), share, 0)
