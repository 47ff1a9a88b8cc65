"""Published scores to set beside ours: those alone whose source could be read and checked."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

from rlalign.report.groups import Group


def published(group: Group) -> str | None:
    """What is published of a group's agent and task, of the phases that the group went through.

    `67.5` after the offline phase, `28.8 → 88.2` where the group went online.
    """
    phase = "online" if group.has_online else "offline"
    task = group.task.removeprefix("d4rl/")
    if task == group.task:  # a dataset of another origin shares no more than a name
        return None
    scores = _figures()[phase].get(group.runs[0].agent, {}).get(task)
    if scores is None:
        return None
    return " → ".join(f"{score:.1f}" for score in (scores if phase == "online" else [scores]))


def note() -> str:
    """Where the scores come from, in a sentence."""
    text: str = _figures()["note"]
    return text


@cache
def _figures() -> dict[str, Any]:
    file = resources.files("rlalign.report") / "published.json"
    figures: dict[str, Any] = json.loads(file.read_text())
    return figures
