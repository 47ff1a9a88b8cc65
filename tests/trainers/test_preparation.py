"""What a recipe holds out of its own pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rlalign.recipe import TrainerRecipe
from rlalign.trainers.preparation import load_pairs
from tests.trainers import tiny


def recipe(folder: Path, **data: Any) -> TrainerRecipe:
    """A recipe for 40 pairs of ten prompts."""
    rows = [
        {"prompt": f"say {row % 10}:", "chosen": f" {row}", "rejected": " no"} for row in range(40)
    ]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return TrainerRecipe.model_validate(
        {
            "trainer": "dpo",
            "model": {"name": "m"},
            "dataset": str(folder / "pairs.jsonl"),
            "data": {"evaluation_share": 0.25, **data},
            "training": {"max_steps": 1},
        }
    )


@pytest.mark.parametrize(("limit", "held"), [(None, 8), (100, 8), (5, 5)])
def test_prompts_that_are_held_out_are_not_trained_on(
    tmp_path: Path, limit: int | None, held: int
) -> None:
    found = load_pairs(recipe(tmp_path, evaluation_limit=limit), tiny.tokenizer())
    assert len(found.validation) == held
    assert len(found.train.rows) == 32
    assert not set(found.train.rows["prompt"]) & set(found.validation["prompt"])


def test_a_stream_cannot_be_held_out_of(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a streamed dataset cannot be cut by"):
        recipe(tmp_path, streaming=True)
