"""The tables of a report, as text in rows and columns; files render them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from rlalign.report.groups import Group
from rlalign.report.names import Name
from rlalign.report.published import published
from rlalign.report.statistics import Estimate, over_tasks


@dataclass(frozen=True)
class Table:
    """Cells as text: the first column names things, the others are numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def plain(table: Table) -> str:
    """A table for the terminal, its title above it."""
    rows = [table.columns, *table.rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.columns))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    return "\n".join([table.title, *lines] if table.title else lines)


class Named(Protocol):
    """A group of runs."""

    @property
    def name(self) -> Name:
        """What it is called."""


def number_tables(groups: Iterable[Named]) -> list[Table]:
    """What numbers in names stand for: a table for each method that has some."""
    numbered: dict[str, dict[int, Name]] = {}
    for group in groups:
        name = group.name
        if name.number is not None:
            numbered.setdefault(name.method, {})[name.number] = name
    tables = []
    for method, names in sorted(numbered.items()):
        ordered = [name for _, name in sorted(names.items())]
        keys = sorted({key for name in ordered for key, _ in name.settings})
        rows = tuple(
            (name.label, *(dict(name.settings).get(key, "–") for key in keys)) for name in ordered
        )
        tables.append(Table(f"Settings of {method}", (method, *keys), rows))
    return tables


def scores_table(groups: Sequence[Group]) -> Table:
    """What each agent reached in the end."""
    columns = ("agent", "seeds", "after", "behaviour", "mean ± error", "IQM", "95 % interval")
    rows = []
    for group in groups:
        final = group.final()
        rows.append(
            (
                group.label,
                str(final.count),
                "online" if group.has_online else "offline",
                number(group.behaviour),
                mean_and_error(final),
                number(final.interquartile_mean),
                interval(final),
            )
        )
    return _with_published(Table("Final score", columns, tuple(rows)), groups)


def online_table(groups: Sequence[Group]) -> Table | None:
    """How going online went; None where no run did."""
    columns = (
        "agent",
        "seeds",
        "offline",
        "dip, first 20k steps",
        "online",
        "95 % interval",
        "area",
    )
    rows = []
    groups = [group for group in groups if group.has_online]
    for group in groups:
        final = group.final()
        rows.append(
            (
                group.label,
                str(final.count),
                mean_and_error(group.offline_final()) if group.has_offline else "–",
                mean_and_error(group.lowest_early_online()),
                mean_and_error(final),
                interval(final),
                mean_and_error(group.online_area()),
            )
        )
    return _with_published(Table("Online phase", columns, tuple(rows)), groups) if rows else None


def _with_published(table: Table, groups: Sequence[Group]) -> Table:
    """The table, with a column of published scores if there are any of its groups, row by row."""
    found = [published(group) for group in groups]
    if not any(found):
        return table
    rows = [(*row, score or "–") for row, score in zip(table.rows, found, strict=True)]
    return replace(table, columns=(*table.columns, "published"), rows=tuple(rows))


def overview_table(tasks: Mapping[str, Sequence[Group]]) -> Table | None:
    """Tasks down, agents across, final scores; None where there is only one task."""
    if len(tasks) < 2:
        return None
    labels = sorted({group.label for groups in tasks.values() for group in groups})
    rows = []
    for task, groups in tasks.items():
        known = {group.label: group for group in groups}
        behaviour = next((g.behaviour for g in groups if g.behaviour is not None), None)
        cells = [mean_and_error(known[name].final()) if name in known else "–" for name in labels]
        rows.append((task, number(behaviour), *cells))
    return Table("Final scores of all tasks", ("task", "behaviour", *labels), tuple(rows))


def aggregate_table(tasks: Mapping[str, Sequence[Group]]) -> Table | None:
    """Agents that were trained on every task, over all tasks; None where returns are raw."""
    groups = [group for members in tasks.values() for group in members]
    if len(tasks) < 2 or not all(group.runs[0].normalized for group in groups):
        return None
    rows = []
    for label in sorted({group.label for group in groups}):
        members = [group for group in groups if group.label == label]
        if len(members) < len(tasks):
            continue
        scores = [np.array(group.final_scores()) for group in members]
        found = over_tasks(scores)
        rows.append((label, number(found.mean), number(found.interquartile_mean), interval(found)))
    columns = ("agent", "mean of tasks", "IQM", "95 % interval of the IQM")
    return Table("Over all tasks", columns, tuple(rows)) if rows else None


def number(value: float | None) -> str:
    """One decimal, or a dash for what there is not."""
    return "–" if value is None else f"{value:.1f}"


def mean_and_error(found: Estimate | None) -> str:
    """`67.5 ± 1.2`, or a dash for what there is not."""
    if found is None:
        return "–"
    return number(found.mean) + ("" if found.error is None else f" ± {number(found.error)}")


def interval(found: Estimate) -> str:
    """`[65.1, 70.2]`."""
    if found.interval is None:
        return "–"
    low, high = found.interval
    return f"[{number(low)}, {number(high)}]"
