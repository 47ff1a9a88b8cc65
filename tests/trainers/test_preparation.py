"""What a recipe holds out of its own pairs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
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


def test_configuration_and_revision_are_the_training_datasets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def load_dataset(name: str, configuration: str | None, *, split: str, **options: Any) -> Any:
        asked[name, split] = (configuration, options["revision"])
        return tiny.pairs(4)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    changes = {"configuration": "c", "revision": "r", "evaluation_split": "test"}
    plain = recipe(tmp_path, **changes, evaluation_share=0.0)
    hub = {"dataset": "a/b", "evaluation_dataset": "c/d"}
    more = plain.evaluation.model_copy(update={"more": {"same": "a/b"}})
    load_pairs(plain.model_copy(update={**hub, "evaluation": more}), tiny.tokenizer())
    assert asked == {
        ("a/b", "train"): ("c", "r"),
        ("c/d", "test"): (None, None),
        ("a/b", "test"): ("c", "r"),
    }


def test_held_out_file_has_no_split(tmp_path: Path) -> None:
    whole = recipe(tmp_path, evaluation_share=0.0, evaluation_split="test")
    found = load_pairs(
        whole.model_copy(update={"evaluation_dataset": whole.dataset}), tiny.tokenizer()
    )
    assert len(found.validation) == 40
