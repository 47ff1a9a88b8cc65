"""How a prompt is shown to a model that writes, and to one that revises a draft (SRPO)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rlalign.atomic import write_json
from rlalign.data.preferences.messages import plain_messages, short
from rlalign.errors import CheckpointError, DatasetError, SettingsError
from rlalign.settings import require

FILE = "revision_template.json"
Prompt = str | list[dict[str, Any]]


@dataclass(frozen=True)
class RevisionTemplate:
    """Two views of a prompt: the plain one, and one that also shows a draft to be improved.

    Both work on texts and on chat messages, where the last user turn is rewritten: a draft belongs
    into the user's turn, never into an assistant's before, so that completions follow the same
    generation prompt either way. A draft cannot close its block: the delimiters in it are broken,
    those of one character left out.

    Args:
        name: for messages.
        generation: the plain view; `{prompt}` stands for the prompt.
        revision: the other one; `{prompt}` and `{draft}` stand for prompt and draft.
        opening: what begins the draft's block in `revision`.
        closing: what ends it.
        cue: an ending of prompts that both views bring themselves, and which is taken off.
    """

    name: str
    generation: str
    revision: str
    opening: str
    closing: str
    cue: str = ""

    def __post_init__(self) -> None:
        for field in ("generation", "revision"):
            require(
                "{prompt}" in getattr(self, field), field, getattr(self, field), "with {prompt}"
            )
        block = f"{self.opening}{{draft}}{self.closing}"
        framed = bool(self.opening.strip() and self.closing.strip()) and block in self.revision
        require(framed, "revision", self.revision, f"with the block {block!r}")
        for name in ("opening", "closing"):
            delimiter = getattr(self, name).strip()
            breakable = "\\" not in delimiter or " " not in delimiter
            require(breakable, name, delimiter, "without a backslash or without a space")

    def generate(self, prompt: Prompt) -> Prompt:
        """Return the plain view of a prompt: text for text, messages for messages.

        Raises `DatasetError` for messages with content that is neither text nor parts of text.
        """
        return self._in_user_turn(prompt, lambda text: self._fill(self.generation, prompt=text))

    def revise(self, prompt: Prompt, draft: str | list[dict[str, Any]]) -> Prompt:
        """Return the view of a prompt that shows `draft`: a text, or messages of the assistant.

        Raises `DatasetError` for messages that call tools, and for content as `generate` does.
        """
        inert = self._broken(_words(draft).strip())
        return self._in_user_turn(
            prompt, lambda text: self._fill(self.revision, prompt=text, draft=inert)
        )

    def save(self, folder: Path) -> None:
        """Write the template beside a tokenizer: without it the model's second role is lost."""
        write_json(folder / FILE, asdict(self))

    @classmethod
    def load(cls, path: str | Path) -> RevisionTemplate:
        """Read a template from a file, or from the folder of a model trained with it.

        Raises:
            CheckpointError: if there is none, or it is damaged.
        """
        file = Path(path) / FILE if Path(path).is_dir() else Path(path)
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise TypeError(type(values).__name__)
            return cls(**values)
        except FileNotFoundError:
            raise CheckpointError(f"there is no revision template at {file}") from None
        except (ValueError, TypeError) as error:
            wanted = ", ".join(field.name for field in fields(cls))
            raise CheckpointError(
                f"{file} is no revision template, which is a JSON object of {wanted}: {error}"
            ) from error

    def _in_user_turn(self, prompt: Prompt, change: Any) -> Prompt:
        if isinstance(prompt, str):
            return str(change(self._without_cue(prompt)))
        turns = plain_messages(prompt, "a prompt")
        users = [turn for turn in turns if turn["role"] == "user"]
        if not users:
            raise SettingsError("a conversation without a user turn has no place for a draft")
        users[-1]["content"] = change(self._without_cue(users[-1]["content"] or ""))
        return turns

    def _without_cue(self, text: str) -> str:
        if self.cue and text.rstrip().endswith(self.cue):
            return text.rstrip()[: -len(self.cue)].rstrip()
        return text

    def _broken(self, draft: str) -> str:
        for delimiter in (self.opening.strip(), self.closing.strip()):
            mark = "\\" if "\\" not in delimiter else " "
            broken = f"{delimiter[0]}{mark}{delimiter[1:]}" if len(delimiter) > 1 else ""
            while delimiter in draft:  # again, for those that overlap
                draft = draft.replace(delimiter, broken)
        return draft

    @staticmethod
    def _fill(view: str, **values: str) -> str:
        # In one pass, so that "{draft}" in a prompt stays what it is.
        return re.sub(r"\{(prompt|draft)\}", lambda found: values[found[1]], view)


def _words(draft: str | list[dict[str, Any]]) -> str:
    if isinstance(draft, str):
        return draft
    for turn in draft:
        if turn.get("tool_calls"):
            raise DatasetError(
                f"a draft calls tools ({short(turn['tool_calls'])}), and only text can be shown to "
                "be revised; leave such pairs out"
            )
    return "\n".join(turn["content"] or "" for turn in plain_messages(draft, "a draft"))


CHAT = RevisionTemplate(
    name="chat",
    generation="{prompt}",
    revision=(
        "{prompt}\n\nBelow is a draft of an answer to the request above.\n<draft>\n{draft}\n"
        "</draft>\nWrite a better answer to the request."
    ),
    opening="<draft>\n",
    closing="\n</draft>",
)
# The parts and their order follow a public reimplementation for TL;DR; the wording is ours, and the
# paper's own could not be read (unverified).
TLDR = RevisionTemplate(
    name="tldr",
    generation=(
        "Below is a reddit POST with its SUBREDDIT and TITLE.\n"
        "Write a precise and concise summary of the POST.\n\n{prompt}\n\nTL;DR:"
    ),
    revision=(
        "Below is a reddit POST with its SUBREDDIT and TITLE, and an EXAMPLE SUMMARY.\n"
        "Write a precise and concise summary of the POST.\n\n{prompt}\n\n"
        "EXAMPLE SUMMARY:\n<<<\n{draft}\n>>>\n\nTL;DR:"
    ),
    opening="<<<\n",
    closing="\n>>>",
    cue="TL;DR:",
)
TEMPLATES: Mapping[str, RevisionTemplate] = {"chat": CHAT, "tldr": TLDR}


def revision_template(name: str) -> RevisionTemplate:
    """Return a template by its name, or read it from a file or a model's folder."""
    return TEMPLATES[name] if name in TEMPLATES else RevisionTemplate.load(name)
