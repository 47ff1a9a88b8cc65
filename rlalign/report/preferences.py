"""The report of preference trainers' runs: what the policy became, next to the initial model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlalign.errors import CheckpointError
from rlalign.report.curves import COLOURS, DPI, LINES, PANEL_HEIGHT, as_png, legend_below
from rlalign.report.preference_pages import markdown, page
from rlalign.report.preference_runs import (
    PreferenceGroup,
    PreferenceRun,
    preference_groups,
    read_preference_run,
)
from rlalign.report.repeats import one_for_each_seed, readable
from rlalign.report.statistics import Estimate, band
from rlalign.report.tables import Table, number_tables, plain

# Columns of the main table: heading, figure, digits.
COLUMNS = (
    ("accuracy", "accuracy", 3),
    ("margin", "margin", 2),
    ("accuracy per token", "average_accuracy", 3),
    ("win rate", "win_rate", 3),
    ("judged win rate", "judge_win_rate", 3),
    ("reward", "reward", 2),
    ("initial reward", "initial_reward", 2),
    ("reverse KL", "kl_reverse", 2),
    ("per token", "kl_reverse_per_token", 3),
    ("forward KL", "kl_forward", 2),
    ("length", "policy_length", 1),
    ("initial length", "initial_length", 1),
    ("unfinished", "policy_unfinished", 3),
    ("distinct-2", "policy_distinct_2", 3),
)
_CURVES = (("accuracy", "preference accuracy"), ("loss", "held-out loss"))


@dataclass(frozen=True)
class PreferenceReport:
    """A report's files as text and bytes, and what to print."""

    html: str
    markdown: str
    results: dict[str, Any]
    pictures: dict[str, bytes]
    summary: str


def make_preference_report(
    directories: Sequence[Path], *, title: str, unfinished: bool
) -> PreferenceReport:
    """Lay out the report of trainers' runs; raises `CheckpointError` when none is left."""
    runs, notes = _collect(directories, unfinished=unfinished)
    groups = preference_groups(runs)
    tasks: dict[str, list[PreferenceGroup]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    tables = {task: _tables(members) for task, members in tasks.items()}
    # Not every task was evaluated while training.
    curves = {
        task: (f"curves-{number}.png", _draw(members))
        for number, (task, members) in enumerate(tasks.items(), start=1)
        if any(len(group.curve(name)[0]) for group in members for name, _ in _CURVES)
    }
    return PreferenceReport(
        html=page(title, notes, tasks, tables, curves),
        markdown=markdown(title, notes, tables, curves),
        results={"notes": notes, "groups": [group.to_dict() for group in groups]},
        pictures=dict(curves.values()),
        summary="\n".join(
            [*(plain(t) for ts in tables.values() for t in ts), *(f"note: {n}" for n in notes)]
        ),
    )


def describe_preference_run(directory: Path) -> str:
    """One run in a few lines: what it reached on each held-out dataset, and where it lies."""
    run = read_preference_run(directory)
    lines = [f"{run.trainer} on {run.dataset} from {run.model}, seed {run.seed}"]
    for dataset, figures in run.final.items():
        told = [
            f"{heading} {figures[name]:.{digits}f}"
            for heading, name, digits in COLUMNS
            if name in figures and name in _IN_SHORT
        ]
        lines.append(f"{dataset}: {', '.join(told)}")
    if not run.final:
        lines.append("no evaluation on held-out pairs")
    return "\n".join([*lines, f"{run.status}: {run.path}"])


_IN_SHORT = ("accuracy", "margin", "win_rate", "judge_win_rate", "kl_reverse", "policy_length")


def _collect(
    directories: Sequence[Path], *, unfinished: bool
) -> tuple[list[PreferenceRun], list[str]]:
    runs: list[PreferenceRun] = []
    notes: list[str] = []
    for run in readable(directories, read_preference_run, notes):
        if run.status != "finished" and not unfinished:
            notes.append(f"left out, {run.status}: {run.path}")
        else:
            runs.append(run)
    runs = one_for_each_seed(runs, notes)
    if not runs:
        why = f" ({'; '.join(notes)})" if notes else ""
        raise CheckpointError(f"no finished run to report{why}")
    return runs, notes


def _tables(groups: Sequence[PreferenceGroup]) -> list[Table]:
    datasets = dict.fromkeys(name for group in groups for name in group.datasets)
    tables = number_tables(groups)
    for dataset in datasets:
        members = [group for group in groups if dataset in group.datasets]
        tables.append(_figures_table(dataset, members))
        revised = _revisions_table(dataset, members)
        if revised is not None:
            tables.append(revised)
    return tables


def _figures_table(dataset: str, groups: Sequence[PreferenceGroup]) -> Table:
    present = [
        (heading, name, digits)
        for heading, name, digits in COLUMNS
        if any(group.figure(dataset, name) is not None for group in groups)
    ]
    rows = tuple(
        (
            group.label,
            str(len(group.runs)),
            *(_cell(group.figure(dataset, name), digits) for _, name, digits in present),
        )
        for group in groups
    )
    return Table(dataset, ("trainer", "seeds", *(heading for heading, _, _ in present)), rows)


def _revisions_table(dataset: str, groups: Sequence[PreferenceGroup]) -> Table | None:
    """Reward and win rate after each self-revision."""
    rows = []
    for group in groups:
        number = 0
        while group.figure(dataset, f"revision_{number}_reward") is not None:
            reward = group.figure(dataset, f"revision_{number}_reward")
            wins = group.figure(dataset, f"revision_{number}_win_rate")
            rows.append((group.label, str(number), _cell(reward, 2), _cell(wins, 3)))
            number += 1
    if not rows:
        return None
    columns = ("trainer", "revisions", "reward", "win rate")
    return Table(f"{dataset}: self-revision", columns, tuple(rows))


def _cell(found: Estimate | None, digits: int) -> str:
    if found is None:
        return "–"
    error = "" if found.error is None else f" ± {found.error:.{digits}f}"
    return f"{found.mean:.{digits}f}{error}"


def _draw(groups: Sequence[PreferenceGroup]) -> bytes:
    """Accuracy and loss on held-out pairs while training."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.8, PANEL_HEIGHT), layout="constrained", dpi=DPI)
    for panel, (name, title) in zip(figure.subplots(1, len(_CURVES)), _CURVES, strict=True):
        for index, group in enumerate(groups):
            steps, values = group.curve(name)
            if not len(steps):
                continue
            colour, style = COLOURS[index % len(COLOURS)], LINES[index // len(COLOURS) % len(LINES)]
            panel.plot(steps, values.mean(axis=0), color=colour, linestyle=style, label=group.label)
            bounds = band(values)
            if bounds is not None:
                panel.fill_between(steps, *bounds, color=colour, alpha=0.2, linewidth=0)
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlabel("optimiser steps")
        panel.grid(alpha=0.4, linewidth=0.7)
        panel.spines[["top", "right"]].set_visible(False)
    legend_below(figure, "#000000")
    return as_png(figure)
