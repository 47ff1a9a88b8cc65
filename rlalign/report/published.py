"""Published scores to set beside ours: those alone whose source could be read and checked.

`published.json` has for each phase a list of tables: an agent, the source of its scores, and its
scores by D4RL's names of the tasks. A score of the online phase is a pair, before and after it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from rlalign.report.groups import Group


def published(group: Group) -> str | None:
    """What is published of a group's agent and task, of the phases that the group went through.

    `67.5` after the offline phase, `28.8 → 88.2` where the group went online.
    """
    table = _table(group)
    if table is None:
        return None
    scores = table["scores"][_task(group)]
    return " → ".join(f"{score:.1f}" for score in (scores if group.has_online else [scores]))


def note(groups: Sequence[Group]) -> str | None:
    """Where the published scores of these groups come from; None where there are none."""
    agents: dict[str, set[str]] = {}
    for group in groups:
        table = _table(group)
        if table is not None:
            agents.setdefault(table["source"], set()).add(table["agent"])
    if not agents:
        return None
    sources = "; ".join(f"{', '.join(sorted(agents[source]))}: {source}" for source in agents)
    return (
        "Published scores are of D4RL's own simulators and their sources' settings; an arrow goes "
        f"from before to after the online phase. Their sources: {sources}."
    )


def _table(group: Group) -> dict[str, Any] | None:
    """The table that has the group's agent, task and last phase."""
    task = _task(group)
    for table in _tables()["online" if group.has_online else "offline"]:
        if table["agent"] == group.runs[0].agent and task in table["scores"]:
            return table
    return None


def _task(group: Group) -> str | None:
    """D4RL's name of the task; None of another origin, which shares no more than a name."""
    name = group.task.removeprefix("d4rl/")
    return None if name == group.task else name


@cache
def _tables() -> dict[str, list[dict[str, Any]]]:
    file = resources.files("rlalign.report") / "published.json"
    tables: dict[str, list[dict[str, Any]]] = json.loads(file.read_text())
    return tables
