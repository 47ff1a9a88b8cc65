"""Preference data: names, files, formats, and one sentence for each damage."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest

pytest.importorskip("datasets")

from rlalign.data.preferences import is_preference_name, load_preferences
from rlalign.data.preferences.formats import Format, standard_row
from rlalign.data.preferences.loading import Reading
from rlalign.errors import DatasetError, DownloadError

TEXT = {"prompt": "Say hi:", "chosen": " hi", "rejected": " no"}
CHAT = {
    "prompt": [{"role": "user", "content": "Say hi"}],
    "chosen": [{"role": "assistant", "content": "hi"}],
    "rejected": [{"role": "assistant", "content": "no"}],
}
HH = {
    "chosen": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: who?\n\nAssistant: me",
    "rejected": "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: who?\n\nAssistant: my cat",
}


def write(path: Path, *rows: Any) -> str:
    """JSON lines; text is written as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def rows_of(name: str, **reading: Any) -> list[dict[str, Any]]:
    """A dataset's rows."""
    return list(load_preferences(name, Reading(**reading)).rows)


@pytest.mark.parametrize("row", [TEXT, CHAT])
def test_explicit_prompt_stays_as_it_is(tmp_path: Path, row: dict[str, Any]) -> None:
    assert rows_of(write(tmp_path / "a.jsonl", row, row)) == [row, row]


def test_implicit_prompt_of_texts_is_their_common_beginning(tmp_path: Path) -> None:
    row = {"chosen": "Say hi: hi", "rejected": "Say hi: no"}
    assert rows_of(write(tmp_path / "a.jsonl", row)) == [TEXT]


def test_implicit_prompt_agrees_with_trl(tmp_path: Path) -> None:
    from trl import extract_prompt

    chat = {side: [*CHAT["prompt"], *CHAT[side]] for side in ("chosen", "rejected")}
    texts = {"chosen": "The sky is blue.", "rejected": "The sky is green."}
    for row in (chat, texts):
        assert rows_of(write(tmp_path / "a.jsonl", row)) == [extract_prompt(row)]


def test_implicit_prompt_agrees_with_trl_on_random_texts_and_conversations() -> None:
    """Among them prefixes of each other, and differences before, in and after spaces."""
    from trl import extract_prompt

    random = Random(0)
    seen = {"prefix": 0, "space": 0, "other": 0}
    for _ in range(1000):
        shared = "?" + "".join(random.choices("ab ", k=random.randint(0, 3)))
        chosen, rejected = (
            shared + "".join(random.choices("ab ", k=random.randint(0, 3))) + random.choice("ab")
            for _ in "12"
        )
        row: dict[str, Any] = {"chosen": chosen, "rejected": rejected}
        expected = extract_prompt(row)
        assert standard_row(row, Format("implicit", False), "here") == expected
        prefix = chosen.startswith(rejected) or rejected.startswith(chosen)
        seen["prefix" if prefix else "space" if expected["chosen"][0] == " " else "other"] += 1
        turns: dict[str, Any] = {
            name: [{"role": "user", "content": f"said {letter}"} for letter in text]
            for name, text in row.items()
        }
        found = standard_row(turns, Format("implicit", True), "here")
        assert found == extract_prompt(turns)
    assert min(seen.values()) > 100


def test_text_that_goes_on_where_the_other_ends_is_a_pair(tmp_path: Path) -> None:
    texts = {"chosen": "The sky is blue", "rejected": "The sky is blue and green"}
    (row,) = rows_of(write(tmp_path / "a.jsonl", texts))
    assert row == {"prompt": "The sky is blu", "chosen": "e", "rejected": "e and green"}
    turns = [*CHAT["prompt"], *CHAT["chosen"]]
    longer = [*turns, {"role": "user", "content": "Again"}, *CHAT["chosen"]]
    (row,) = rows_of(write(tmp_path / "b.jsonl", {"chosen": turns, "rejected": longer}))
    assert row == {"prompt": turns[:1], "chosen": turns[1:], "rejected": longer[1:]}


def test_prompt_as_text_beside_conversations_gives_way_to_them(tmp_path: Path) -> None:
    row: dict[str, Any] = {
        "prompt": "Say hi",
        **{s: [*CHAT["prompt"], *CHAT[s]] for s in ("chosen", "rejected")},
    }
    row["score_chosen"] = 8.5
    assert rows_of(write(tmp_path / "a.jsonl", row)) == [CHAT]


def test_transcripts_are_cut_at_the_last_reply(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", HH)
    (row,) = rows_of(name)
    assert row["prompt"].endswith("\n\nHuman: who?\n\nAssistant:")
    assert (row["chosen"], row["rejected"]) == (" me", " my cat")
    (row,) = rows_of(name, as_messages=True)
    assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "user"]
    assert row["prompt"][1]["content"] == "hello"
    assert row["chosen"] == [{"role": "assistant", "content": "me"}]
    assert load_preferences(name).form.name == "Anthropic HH transcripts"


def test_columns_for_the_chat_template_are_kept_and_others_left_out(tmp_path: Path) -> None:
    row = {**CHAT, "chat_template_kwargs": {"thinking": False}, "score": 3}
    (found,) = rows_of(write(tmp_path / "a.jsonl", row))
    assert set(found) == {"prompt", "chosen", "rejected", "chat_template_kwargs"}


def test_json_lists_and_parquet_hold_the_same_rows(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (tmp_path / "a.json").write_text(json.dumps([TEXT, TEXT]))
    parquet.write_table(pyarrow.Table.from_pylist([TEXT, TEXT]), tmp_path / "a.parquet")
    lines = load_preferences(write(tmp_path / "a.jsonl", TEXT, TEXT))
    for name in ("a.json", "a.parquet"):
        found = load_preferences(str(tmp_path / name))
        assert list(found.rows) == list(lines.rows)
        assert found.fingerprint == lines.fingerprint


def test_folder_holds_a_file_for_each_split(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.jsonl", TEXT)
    write(tmp_path / "set" / "test.jsonl", {**TEXT, "chosen": " hello"})
    assert rows_of(str(tmp_path / "set"))[0]["chosen"] == " hi"
    assert rows_of(str(tmp_path / "set"), split="test")[0]["chosen"] == " hello"
    with pytest.raises(DatasetError, match="no file of the split 'dev'"):
        rows_of(str(tmp_path / "set"), split="dev")


def test_rows_can_be_streamed_and_limited(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", *[{**TEXT, "chosen": f" {i}"} for i in range(5)])
    streamed = load_preferences(name, Reading(streaming=True, limit=3))
    assert [row["chosen"] for row in streamed.rows] == [" 0", " 1", " 2"]
    assert streamed.fingerprint is None
    assert len(rows_of(name, limit=2)) == 2


def test_identical_pairs_teach_nothing_and_are_left_out(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", TEXT, {**TEXT, "rejected": " hi"})
    found = load_preferences(name)
    assert len(found.rows) == 1
    assert found.left_out == {"identical": 1}
    assert len(rows_of(name, drop_identical=False)) == 2


@pytest.mark.parametrize(
    "same",
    [
        "Say hi: hi\n",
        "\n\nHuman: hi",
        HH["chosen"],
        CHAT["prompt"],
        [*CHAT["prompt"], *CHAT["chosen"]],
    ],
)
def test_identical_pairs_without_a_prompt_column_are_left_out_too(
    tmp_path: Path, same: Any
) -> None:
    pair: dict[str, Any] = {"chosen": "Say hi: hi", "rejected": "Say hi: no"}
    if same == HH["chosen"]:
        pair = HH
    elif isinstance(same, list):
        pair = {side: [*CHAT["prompt"], *CHAT[side]] for side in ("chosen", "rejected")}
    name = write(tmp_path / "a.jsonl", pair, {"chosen": same, "rejected": same})
    found = load_preferences(name)
    assert len(found.rows) == 1
    assert found.left_out == {"identical": 1}


def test_completion_missing_on_both_sides_is_damage_and_not_identical(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", TEXT, {**TEXT, "chosen": None, "rejected": None})
    assert load_preferences(name, Reading(invalid="drop")).left_out == {"invalid": 1}


def test_damaged_rows_can_be_left_out(tmp_path: Path) -> None:
    name = write(tmp_path / "a.jsonl", TEXT, {**TEXT, "chosen": ""}, {**TEXT, "rejected": None})
    found = load_preferences(name, Reading(invalid="drop"))
    assert found.left_out == {"invalid": 2}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "there are no rows"),
        ([{"prompt": "a", "chosen": "b"}], "no column 'rejected'"),
        ([{"question": "a", "answer": "b"}], "no column 'chosen'"),
        ([TEXT, {**TEXT, "chosen": "  "}], "row 2: the chosen completion is empty"),
        ([TEXT, {**TEXT, "rejected": 3}], "row 2: rejected must be text, got int"),
        ([TEXT, {**TEXT, "prompt": None}], "row 2: prompt is missing"),
        ([TEXT, {**TEXT, "prompt": ""}], "row 2: the prompt is empty"),
        ([CHAT, {**CHAT, "chosen": "hi"}], "row 2: chosen must be a list of {role, content}"),
        ([CHAT, {**CHAT, "chosen": [{"text": "hi"}]}], "chosen must be a list of {role, content}"),
        ([CHAT, {**CHAT, "chosen": []}], "row 2: the chosen completion is empty"),
        ([{"chosen": "yes", "rejected": "no"}], "row 1: the prompt is empty"),
        ([{"chosen": "same", "rejected": "same"}], "no pair is left (1 identical)"),
        ([{"chosen": "a", "rejected": "a b"}], "row 1: the prompt is empty"),
        ([{"chosen": "a ", "rejected": "a b"}], "row 1: the chosen completion is empty"),
        ([{**TEXT, "rejected": " hi"}], "no pair is left (1 identical)"),
        ([HH, {**HH, "rejected": "Human: hi"}], "share no prompt that ends in 'Assistant:'"),
        ([TEXT, '{"prompt": "a", '], "a.jsonl, line 2: not valid JSON"),
        ([TEXT, "[1, 2]"], "a.jsonl, line 2: expected an object, found list"),
    ],
)
def test_damage_is_one_sentence(tmp_path: Path, rows: list[Any], expected: str) -> None:
    name = write(tmp_path / "a.jsonl", *rows)
    with pytest.raises(DatasetError) as caught:
        load_preferences(name)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "a.jsonl" in str(caught.value)


def test_damaged_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DatasetError, match="not a readable Parquet file"):
        load_preferences(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nowhere.jsonl", "no such file or folder"),
        ("./nowhere", "no such file or folder"),
        ("textworld/tset", "textworld has no split 'tset'"),
    ],
)
def test_unknown_names_are_told(name: str, expected: str) -> None:
    with pytest.raises(DatasetError, match=expected):
        load_preferences(name)


def test_hub_dataset_without_a_network_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def refuse(*_: Any, **__: Any) -> None:
        raise ConnectionError("offline")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(DownloadError, match="name a local file or folder"):
        load_preferences("owner/name")


def test_names_of_pairs_are_told_from_names_of_transitions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "set" / "train.jsonl", TEXT)
    monkeypatch.chdir(tmp_path)
    write(Path("local/hopper-medium-v0/metadata.json"), "{}")  # hides no dataset
    for name in ("textworld", "textworld/validation", "owner/name", str(tmp_path / "set")):
        assert is_preference_name(name)
    for name in ("local/hopper-medium-v0", "d4rl/hopper-medium-v2", "mine.hdf5", "hopper"):
        assert not is_preference_name(name)
