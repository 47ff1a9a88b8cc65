"""Rows that are not alike keep what the chat template is given, and content becomes text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("trl")

from datasets import Dataset

from rlalign.data.preferences import chat_arguments, load_preferences
from rlalign.data.preferences.loading import Reading
from rlalign.errors import DatasetError
from tests.data.preferences.test_loading import CHAT, rows_of, write
from tests.trainers import tiny

if TYPE_CHECKING:
    from pathlib import Path


def tool(name: str, argument: str) -> dict[str, Any]:
    """A function with one argument, as chat templates take it."""
    properties = {argument: {"type": "string"}}
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def call(**arguments: str) -> list[dict[str, Any]]:
    """A completion that calls a tool and says nothing."""
    calls = [{"type": "function", "function": {"name": "search", "arguments": arguments}}]
    return [{"role": "assistant", "content": None, "tool_calls": calls}]


PLAIN = CHAT
SEARCH: dict[str, Any] = {
    **CHAT,
    "tools": [tool("search", "query")],
    "chat_template_kwargs": {"thinking": False},
}
WEATHER: dict[str, Any] = {
    **CHAT,
    "tools": json.dumps([tool("weather", "city")]),
    "chat_template_kwargs": {"date": "today"},
}
# Writes out all that it is given, as templates write out tools.
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% if date is defined %}{{ date or 'no date' }}{% endif %}"
    "{% if thinking is defined %}{{ 'on' if thinking else 'off' }}{% endif %}" + tiny.TEMPLATE
)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("rows", [[PLAIN, SEARCH, WEATHER], [SEARCH, WEATHER, PLAIN]])
def test_each_row_keeps_its_own_tools_and_template_arguments(
    tmp_path: Path, rows: list[Any], streaming: bool
) -> None:
    found = rows_of(write(tmp_path / "a.jsonl", *rows), streaming=streaming)
    for row, source in zip(found, rows, strict=True):
        tools = json.loads(source["tools"]) if source is WEATHER else source.get("tools")
        assert row.get("tools") == tools
        assert row.get("chat_template_kwargs", {}) == source.get("chat_template_kwargs", {})
        assert chat_arguments(row) == chat_arguments(source)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("rows", [[PLAIN, SEARCH, WEATHER], [SEARCH, WEATHER, PLAIN]])
def test_trl_shows_each_row_under_its_own_tools(
    tmp_path: Path, rows: list[Any], streaming: bool
) -> None:
    from trl import DPOConfig, DPOTrainer

    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = TEMPLATE
    name = write(tmp_path / "a.jsonl", *rows)
    trainer = DPOTrainer(
        model=tiny.model(),
        ref_model=tiny.model(),
        args=DPOConfig(**{**tiny.settings(tmp_path / "out"), "max_length": None, "bf16": False}),
        train_dataset=load_preferences(name, Reading(streaming=streaming)).rows,
        processing_class=tokenizer,
    )
    for row, source in zip(trainer.train_dataset, rows, strict=True):
        expected = tokenizer.apply_chat_template(
            source["prompt"], add_generation_prompt=True, return_dict=True, **chat_arguments(source)
        )
        assert row["prompt_ids"] == expected["input_ids"]


def test_tools_that_come_late_survive_filters_and_changes(tmp_path: Path) -> None:
    """Tables are worked on in parts of 1000 rows: the first ones have no tools at all."""
    rows = load_preferences(write(tmp_path / "a.jsonl", *[PLAIN] * 2500, SEARCH)).rows
    last = rows.filter(lambda row: True).map(lambda row: {"size": len(row["prompt"])})[-1]
    assert last["tools"] == SEARCH["tools"]
    assert last["chat_template_kwargs"] == SEARCH["chat_template_kwargs"]


def test_calls_keep_their_own_arguments(tmp_path: Path) -> None:
    rows = [{**CHAT, "chosen": call(query="a")}, {**CHAT, "chosen": call(city="b")}, CHAT]
    assert rows_of(write(tmp_path / "a.jsonl", *rows)) == rows


def test_parts_of_text_become_text(tmp_path: Path) -> None:
    parts = [{"type": "text", "text": "Say "}, {"type": "text", "text": "hi"}]
    other = {**CHAT, "prompt": [{"role": "user", "content": parts}]}
    assert rows_of(write(tmp_path / "a.jsonl", other, CHAT)) == [CHAT, CHAT]


def test_no_tools_are_told_in_whatever_form(tmp_path: Path) -> None:
    nothing: list[Any] = [[], "[]", "null", None]
    for tools in nothing:
        assert rows_of(write(tmp_path / "a.jsonl", {**CHAT, "tools": tools})) == [CHAT]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"tools": "{"}, "tools is text, but not valid JSON"),
        ({"tools": {"name": "f"}}, "tools must be a list of objects, got {'name': 'f'}"),
        ({"tools": ["f"]}, "tools must be a list of objects, got ['f']"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs must be an object, got [1]"),
        ({"chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs holds tokenize"),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image", "url": "a.png"}]}]},
            "prompt: content holds the part {'type': 'image', 'url': 'a.png'}; only parts of",
        ),
        ({"chosen": [{"role": "assistant", "content": 3}]}, "chosen: content must be text, got 3"),
    ],
)
def test_what_cannot_be_read_is_one_sentence(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    name = write(tmp_path / "a.jsonl", CHAT, {**CHAT, **changes})
    with pytest.raises(DatasetError) as caught:
        load_preferences(name)
    assert f"a.jsonl, row 2: {expected}" in str(caught.value)
    assert load_preferences(name, Reading(invalid="drop")).left_out == {"invalid": 1}


def test_rows_of_a_table_of_ones_own_are_read_too() -> None:
    table = Dataset.from_list([SEARCH, {**CHAT, "tools": None}])
    assert chat_arguments(table[0]) == {"tools": SEARCH["tools"], "thinking": False}
    assert chat_arguments(table[1]) == {}
