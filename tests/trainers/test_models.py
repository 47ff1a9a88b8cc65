"""Which files a recipe's model and tokenizer are read from."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("trl")

from transformers import AutoTokenizer

from rlalign.recipe.trainer_schema import Model
from rlalign.trainers.models import load_tokenizer
from tests.trainers import tiny


@pytest.mark.parametrize(
    ("tokenizer", "expected"),
    [(None, ("owner/model", "v2")), ("other/tokenizer", ("other/tokenizer", None))],
)
def test_revision_is_the_models_and_not_that_of_another_tokenizer(
    monkeypatch: pytest.MonkeyPatch, tokenizer: str | None, expected: tuple[str, str | None]
) -> None:
    asked = []

    def from_pretrained(source: str, *, revision: str | None) -> Any:
        asked.append((source, revision))
        return tiny.tokenizer()

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", from_pretrained)
    load_tokenizer(Model(name="owner/model", revision="v2", tokenizer=tokenizer), "owner/model")
    assert asked == [expected]
