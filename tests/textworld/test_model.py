"""The text world's tokenizer and model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")

from rlalign.textworld.grammar import Request, revision_prompt
from rlalign.textworld.pairs import preference_pairs
from rlalign.textworld.pretraining import Pretraining
from rlalign.textworld.reward import reward
from rlalign.textworld.store import model_folder
from rlalign.trainers.revision import FILE, RevisionTemplate

QUICK = Pretraining(width=16, heads=2, steps=12, batch=8, lessons=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model that was hardly taught, in a cache of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RLALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield model_folder(QUICK)


def load(folder: Path) -> tuple[Any, Any]:
    """Model and tokenizer as any user of transformers loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_model_is_made_once_and_the_same_each_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "model.safetensors").stat().st_mtime_ns
    monkeypatch.setenv("RLALIGN_CACHE", str(folder.parents[1]))
    state = torch.random.get_rng_state()
    assert model_folder(QUICK) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    monkeypatch.setenv("RLALIGN_CACHE", str(tmp_path))
    again = model_folder(QUICK)
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert torch.equal(torch.random.get_rng_state(), state)


def test_words_are_single_tokens_and_any_text_comes_back(folder: Path) -> None:
    _, tokenizer = load(folder)
    rows = preference_pairs("validation")
    words = sum(len(row["chosen"].split()) for row in rows)
    tokens = sum(len(tokenizer(row["chosen"])["input_ids"]) for row in rows)
    assert tokens < 1.05 * words
    for text in ("Héllo, wörld! 日本", rows[0]["prompt"] + rows[0]["chosen"]):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_prompt_and_completion_do_not_grow_together(folder: Path) -> None:
    from rlalign.data.preferences.tokens import tokenize_pair

    _, tokenizer = load(folder)
    for row in preference_pairs("validation"):
        pair = tokenize_pair(row, tokenizer)
        assert pair.cut == []
        assert pair.chosen[-1] == tokenizer.eos_token_id


def test_template_asks_for_revisions_as_the_corpus_does(folder: Path) -> None:
    template = RevisionTemplate.load(folder)
    assert (folder / FILE).is_file()
    prompt = Request("fox", {"colour": "red"}).prompt
    assert template.generate(prompt) == prompt
    assert template.revise(prompt, " the fox waits .") == revision_prompt(
        prompt, " the fox waits ."
    )


@pytest.mark.slow
def test_pretrained_model_answers_nearly_as_well_as_its_teacher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rlalign.trainers.drawing import Voice, draw, texts_of

    monkeypatch.setenv("RLALIGN_CACHE", str(tmp_path))
    model, tokenizer = load(model_folder())
    rows = preference_pairs("validation")
    prompts = [tokenizer(row["prompt"])["input_ids"] for row in rows]
    voice = Voice(model, tokenizer)
    drawn = draw(voice, prompts, max_new_tokens=96, temperature=1.0, batch_size=128, seed=0)
    own = [reward(r["prompt"], t) for r, t in zip(rows, texts_of(drawn, tokenizer), strict=True)]
    teacher = [reward(row["prompt"], row[side]) for row in rows for side in ("chosen", "rejected")]
    # Measured: 2.75 next to the teacher's 2.88; the standard error of the first is 0.11.
    assert sum(own) / len(own) > sum(teacher) / len(teacher) - 0.7
