"""Token ids of pairs agree with TRL's own, and inspection counts what would go wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rlalign import cli
from rlalign.data.preferences import load_preferences
from rlalign.data.preferences.inspection import describe_preferences
from rlalign.data.preferences.loading import Reading
from rlalign.data.preferences.tokens import prompt_ids, tokenize_pair
from rlalign.errors import DatasetError
from tests.trainers import tiny


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Pairs of letters grow together, across the end of a prompt, too."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(["xaxaxaxaxaxa"] * 9, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>", pad_token="<eos>")


def trl_rows(rows: Any, tokenizer: Any, tmp_path: Path) -> Any:
    """What TRL's own trainer makes of the rows."""
    import trl

    config = trl.DPOConfig(**tiny.settings(tmp_path, bf16=False, max_length=None))
    model = tiny.model()
    model.resize_token_embeddings(max(len(tokenizer), 80))
    return trl.DPOTrainer(
        model=model,
        ref_model=tiny.model(),
        args=config,
        train_dataset=rows,
        processing_class=tokenizer,
    ).train_dataset


@pytest.mark.parametrize("kind", ["text", "chat", "merging"])
def test_tokens_are_those_of_trl(kind: str, tmp_path: Path) -> None:
    tokenizer = merging_tokenizer() if kind == "merging" else tiny.tokenizer()
    rows = tiny.chats() if kind == "chat" else tiny.pairs()
    if kind == "merging":
        rows = Dataset.from_list([{"prompt": "say x", "chosen": "axa", "rejected": "b"}] * 4)
    expected = trl_rows(rows, tokenizer, tmp_path)
    for row, wanted in zip(rows, expected, strict=True):
        found = tokenize_pair(row, tokenizer)
        assert found.prompt == wanted["prompt_ids"]
        assert found.chosen == wanted["chosen_ids"]
        assert found.rejected == wanted["rejected_ids"]
        assert bool(found.cut) == (kind == "merging")


def save(path: Path, rows: Any) -> str:
    """Rows as JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def inspected(name: str, tokenizer: Any = None, **options: Any) -> dict[str, Any]:
    """The facts of a file, identical pairs kept."""
    pairs = load_preferences(name, Reading(drop_identical=False))
    return describe_preferences(pairs, tokenizer, **options)


def test_inspection_counts(tmp_path: Path) -> None:
    rows = [
        {"prompt": "aa:", "chosen": "eeee", "rejected": "b"},
        {"prompt": "aa:", "chosen": "eeee", "rejected": "b"},
        {"prompt": "aaaaaaaaaa:", "chosen": "i", "rejected": "i"},
        {"prompt": "aa:", "chosen": "oooooooooo", "rejected": "cc"},
    ]
    facts = inspected(save(tmp_path / "a.jsonl", rows), tiny.tokenizer(), max_length=8)
    assert (facts["pairs"], facts["prompts"]) == (4, 2)
    assert (facts["identical_pairs"], facts["duplicate_pairs"]) == (1, 1)
    assert facts["chosen_length"]["p100"] == 11  # the end token counts
    assert facts["longer_chosen"] == 0.75
    assert (facts["truncated"], facts["dropped"]) == (2, 1)
    assert facts["without_end"] == 0
    assert facts["sample"]["chosen"] == "eeee<eos>"


def test_boundaries_and_missing_ends_are_found(tmp_path: Path) -> None:
    rows = [{"prompt": "say x", "chosen": "axa", "rejected": "b"}] * 3
    facts = inspected(save(tmp_path / "a.jsonl", rows), merging_tokenizer())
    assert facts["boundary_moved"] == 3
    assert facts["boundary_example"] == "x"
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    facts = inspected(save(tmp_path / "b.jsonl", tiny.chats(4)), tokenizer)
    assert facts["without_end"] == 8


def test_messages_without_template_are_refused(tmp_path: Path) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(DatasetError, match="holds chat messages"):
        inspected(save(tmp_path / "a.jsonl", tiny.chats(4)), tokenizer)


def test_info_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.jsonl", tiny.pairs())
    tiny.model().save_pretrained("model")
    tiny.tokenizer().save_pretrained("model")
    assert cli.run(["data", "info", "a.jsonl"]) == 0
    assert "unit              words" in capsys.readouterr().out
    command = ["data", "info", "a.jsonl", "--model", "model", "--max-length", "12", "--json"]
    assert cli.run(command) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["unit"] == "tokens"
    assert facts["truncated"] > 0
    assert cli.run(["data", "info", "a.jsonl", "--sample", "99"]) == 2
    assert "there is no pair 99, only 0 to 15" in capsys.readouterr().err


def test_end_token_that_a_tokenizer_adds_is_no_part_of_a_prompt() -> None:
    tokenizer = tiny.tokenizer()
    expected = prompt_ids({"prompt": "ab"}, tokenizer)
    pair = {"prompt": "ab", "chosen": "cd", "rejected": "e"}
    cut = tokenize_pair(pair, tokenizer)
    tokenizer._tokenizer.post_processor = TemplateProcessing("$A <eos>", None, [("<eos>", 2)])
    assert tokenizer("ab")["input_ids"][-1] == 2
    assert prompt_ids({"prompt": "ab"}, tokenizer) == expected
    assert prompt_ids({"prompt": "ab<eos>"}, tokenizer)[-1] == 2
    assert tokenize_pair(pair, tokenizer).prompt == cut.prompt
    assert tokenize_pair(pair, tokenizer).cut == []
