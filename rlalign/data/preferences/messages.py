"""Chat messages of which the content is text, and the columns beside them for the chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rlalign.errors import DatasetError

Message = dict[str, Any]
# Columns that go to the chat template, under the names they have in TRL.
TEMPLATE_COLUMNS = ("tools", "chat_template_kwargs")
# Trainers give these to the chat template themselves.
_DECIDED = ("add_generation_prompt", "return_dict", "tokenize")


def plain_messages(messages: Sequence[Mapping[str, Any]], where: str) -> list[Message]:
    """Messages with text as content, whether it was given as text or as a list of text parts.

    Many chat templates of language models take text alone. Content that is None stays: it is how
    a message looks that only calls tools.

    Args:
        messages: each with role and content.
        where: names them in messages of errors.

    Raises:
        DatasetError: if content is neither text nor parts of text.
    """
    return [
        {
            # A table of rows fills keys that a message lacks with None.
            **{key: value for key, value in message.items() if value is not None},
            "content": _text(message.get("content"), where),
        }
        for message in messages
    ]


def template_columns(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The columns of a row for the chat template, those it has, checked.

    Either may be given as JSON text. An empty list of tools is no tools: some templates
    would announce tools and name none.

    Args:
        row: of a dataset.
        where: names it in messages of errors.

    Returns:
        `tools`, a list of objects, and `chat_template_kwargs`, an object.

    Raises:
        DatasetError: if one of them is something else.
    """
    found: dict[str, Any] = {}
    tools = _parsed(row.get("tools"), "tools", where)
    if tools is not None:
        if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
            raise DatasetError(f"{where}: tools must be a list of objects, got {short(tools)}")
        if tools:
            found["tools"] = tools
    options = _parsed(row.get("chat_template_kwargs"), "chat_template_kwargs", where)
    if options is not None:
        if not isinstance(options, dict):
            raise DatasetError(
                f"{where}: chat_template_kwargs must be an object, got {short(options)}"
            )
        decided = next((name for name in _DECIDED if name in options), None)
        if decided is not None:
            raise DatasetError(
                f"{where}: chat_template_kwargs holds {decided}, which trainers decide themselves"
            )
        found["chat_template_kwargs"] = options
    return found


def chat_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row's columns `tools` and `chat_template_kwargs` say to `apply_chat_template`.

    Raises `DatasetError` when one of them is of another form (see `template_columns`).
    """
    columns = template_columns(row, "a row")
    options = columns.pop("chat_template_kwargs", {})
    return {**columns, **options}


def short(value: Any) -> str:
    """A value as errors show it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _text(content: Any, where: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise DatasetError(f"{where}: content must be text, got {short(content)}")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise DatasetError(
                f"{where}: content holds the part {short(part)}; only parts of the form "
                "{type: text, text: ...} can be read"
            )
    return "".join(part["text"] for part in content)


def _parsed(value: Any, name: str, where: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError as error:
        raise DatasetError(f"{where}: {name} is text, but not valid JSON ({error})") from None
