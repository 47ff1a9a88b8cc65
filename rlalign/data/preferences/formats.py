"""The formats of a preference pair, checked row by row and brought to TRL's explicit prompt.

explicit prompt   {prompt, chosen, rejected}: texts, or lists of {role, content}
implicit prompt   {chosen, rejected}: both begin with the prompt
transcript        {chosen, rejected}: Anthropic HH's texts of Human: and Assistant: turns
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rlalign.data.preferences.messages import Message, plain_messages, short, template_columns
from rlalign.errors import DatasetError

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
_ROLES = {HUMAN: "user", ASSISTANT: "assistant"}
Text = str | list[Message]
Kind = Literal["explicit", "implicit", "transcript"]


@dataclass(frozen=True)
class Format:
    """What a dataset's first row says of all its rows.

    Args:
        kind: where the prompt stands.
        conversational: messages instead of texts.
    """

    kind: Kind
    conversational: bool

    @property
    def name(self) -> str:
        """For people."""
        prompt = {"explicit": "prompt, chosen, rejected", "implicit": "implicit prompt"}
        what = "conversational" if self.conversational else "text"
        return (
            "Anthropic HH transcripts"
            if self.kind == "transcript"
            else (f"{what}, {prompt[self.kind]}")
        )


def recognise(row: Mapping[str, Any], source: str) -> Format:
    """The format of a dataset by its first row.

    Raises `DatasetError` when it is no preference data.
    """
    missing = [name for name in ("chosen", "rejected") if name not in row]
    if missing:
        raise DatasetError(
            f"{source}: no column {missing[0]!r}; preference data has the columns prompt, chosen "
            f"and rejected, found {', '.join(row) or 'none'}"
        )
    conversational = isinstance(row["chosen"], list)
    prompt = row.get("prompt")
    # A prompt as text beside whole conversations (UltraFeedback) repeats their first message.
    explicit = prompt is not None and isinstance(prompt, list) == conversational
    if explicit:
        return Format("explicit", conversational)
    texts = (row["chosen"], row["rejected"])
    if all(isinstance(text, str) and text.startswith(HUMAN) for text in texts):
        return Format("transcript", False)
    return Format("implicit", conversational)


def standard_row(
    row: Mapping[str, Any],
    form: Format,
    where: str,
    *,
    as_messages: bool = False,
    drop_identical: bool = False,
) -> dict[str, Any] | None:
    """A row with explicit prompt, `chosen` and `rejected`, checked.

    `tools` and `chat_template_kwargs` stay where a row has them; all other columns are left out.

    Args:
        row: as the dataset has it.
        form: of the dataset.
        where: names the row in messages, such as "pairs.jsonl, row 3".
        as_messages: bring transcripts to messages, for a model with a chat template.
        drop_identical: give None for a pair whose completions are the same.

    Raises:
        DatasetError: if a column is missing, of another type than the first row's, or empty.
    """
    names = ["prompt", "chosen", "rejected"] if form.kind == "explicit" else ["chosen", "rejected"]
    texts = {name: _checked(row.get(name), name, form, where) for name in names}
    # Before they are split: equal texts do not say where their prompt ends.
    if drop_identical and texts["chosen"] == texts["rejected"]:
        return None
    if form.kind == "implicit":
        texts = _split_prompt(texts["chosen"], texts["rejected"])
    elif form.kind == "transcript":
        texts = _split_transcript(str(texts["chosen"]), str(texts["rejected"]), where)
        if as_messages:
            texts = _as_messages(texts)
    if not texts["prompt"]:
        raise DatasetError(f"{where}: the prompt is empty")
    for name in ("chosen", "rejected"):
        if _is_empty(texts[name]):
            raise DatasetError(f"{where}: the {name} completion is empty")
    # Messages are stripped, which may have made them the same.
    if drop_identical and texts["chosen"] == texts["rejected"]:
        return None
    parts = {name: texts[name] for name in ("prompt", "chosen", "rejected")}
    return {**parts, **template_columns(row, where)}


def _checked(value: Any, name: str, form: Format, where: str) -> Text:
    if value is None:
        raise DatasetError(f"{where}: {name} is missing")
    if not form.conversational:
        if not isinstance(value, str):
            raise DatasetError(f"{where}: {name} must be text, got {type(value).__name__}")
        return value
    if not isinstance(value, list) or not all(_is_message(one) for one in value):
        raise DatasetError(
            f"{where}: {name} must be a list of {{role, content}} messages, got {short(value)}"
        )
    return plain_messages(value, f"{where}: {name}")


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and isinstance(value.get("role"), str) and "content" in value


def _is_empty(completion: Text) -> bool:
    if isinstance(completion, str):
        return not completion.strip()
    return not completion or not any(_said(message) for message in completion)


def _said(message: Message) -> bool:
    content = message.get("content")
    return bool(content.strip() if isinstance(content, str) else content) or bool(
        message.get("tool_calls")
    )


def _split_prompt(chosen: Text, rejected: Text) -> dict[str, Text]:
    """The common beginning is the prompt, as in `trl.extract_prompt`.

    A completion keeps at least its last character or message. In texts a space before the first
    difference belongs to the completions.
    """
    common, shorter = _common(chosen, rejected), min(len(chosen), len(rejected))
    length = min(common, max(shorter - 1, 0))
    if isinstance(chosen, str) and common < shorter and chosen[:length].endswith(" "):
        length -= 1
    return {"prompt": chosen[:length], "chosen": chosen[length:], "rejected": rejected[length:]}


def _common(first: Sequence[Any], second: Sequence[Any]) -> int:
    pairs = zip(first, second, strict=False)
    shorter = min(len(first), len(second))
    return next((i for i, (a, b) in enumerate(pairs) if a != b), shorter)


def _split_transcript(chosen: str, rejected: str, where: str) -> dict[str, Text]:
    """Both go apart within the reply after the last Assistant: that they share."""
    shared = chosen[: _common(chosen, rejected)]
    if chosen == rejected or not shared.rfind(ASSISTANT) >= 0:
        end = chosen.rfind(ASSISTANT) if chosen == rejected else -1
    else:
        end = shared.rfind(ASSISTANT)
    if end < 0:
        raise DatasetError(f"{where}: the transcripts share no prompt that ends in 'Assistant:'")
    end += len(ASSISTANT)
    return {"prompt": chosen[:end], "chosen": chosen[end:], "rejected": rejected[end:]}


def _as_messages(texts: Mapping[str, Text]) -> dict[str, Text]:
    prompt = str(texts["prompt"]).removesuffix(ASSISTANT)
    messages: list[Message] = []
    # Every turn begins with its speaker's name.
    for part in (
        prompt.replace(ASSISTANT, f"\0{ASSISTANT}").replace(HUMAN, f"\0{HUMAN}").split("\0")
    ):
        for speaker, role in _ROLES.items():
            if part.startswith(speaker):
                messages.append({"role": role, "content": part.removeprefix(speaker).strip()})
    result: dict[str, Text] = {"prompt": messages}
    for name in ("chosen", "rejected"):
        result[name] = [{"role": "assistant", "content": str(texts[name]).strip()}]
    return result
