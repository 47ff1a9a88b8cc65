"""A report's content, free of any file format: headings, tables, pictures, notes."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlalign.report import curves
from rlalign.report.groups import Group, by_task
from rlalign.report.online import measures
from rlalign.report.published import note
from rlalign.report.runs import Collection, Run
from rlalign.report.tables import (
    Table,
    aggregate_table,
    number_tables,
    online_table,
    overview_table,
    scores_table,
)

EXPLANATION = (
    "Scores are {what}, means over seeds ± one standard error. IQM is the interquartile mean (with "
    "fewer than four seeds it is the mean). Intervals are 95 % percentile bootstraps over seeds; "
    "bands around curves likewise. The dip is the lowest evaluation in the first 20 000 steps "
    "online, where there is one after step 0; the area is the mean score over the online phase, by "
    "the trapezoidal rule."
)


@dataclass(frozen=True)
class Section:
    """One task: a picture of its learning curves, light and dark, and tables."""

    task: str
    file_stem: str
    light: bytes
    dark: bytes
    tables: tuple[Table, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True)
class Document:
    """A whole report."""

    title: str
    explanation: str
    notes: tuple[str, ...]
    tables: tuple[Table, ...]
    sections: tuple[Section, ...]
    versions: tuple[str, ...]


def make_document(title: str, collection: Collection, groups: Sequence[Group]) -> Document:
    """Draw the curves and lay out the tables."""
    tasks = by_task(groups)
    labels = sorted({group.label for group in groups})
    scales = {group.runs[0].normalized for group in groups}
    what = "D4RL's normalised scores where the task has them, else returns"
    if scales == {True}:
        what = (
            "D4RL's normalised scores (0 is its random, 100 its expert policy; played in today's "
            "gymnasium tasks, whose physics differ a little from D4RL's)"
        )
    elif scales == {False}:
        what = "undiscounted returns"
    sentences = [EXPLANATION.format(what=what), note(groups)]
    overall = (*number_tables(groups), overview_table(tasks), aggregate_table(tasks))
    return Document(
        title=title,
        explanation=" ".join(sentence for sentence in sentences if sentence),
        notes=collection.notes,
        tables=tuple(table for table in overall if table is not None),
        sections=tuple(
            _section(task, members, labels, stem)
            for (task, members), stem in zip(tasks.items(), _stems(tasks), strict=True)
        ),
        versions=_versions(groups),
    )


def _stems(tasks: Iterable[str]) -> list[str]:
    """Names of the tasks' pictures, no two alike."""
    stems: list[str] = []
    for task in tasks:
        stem = "curves-" + re.sub(r"[^A-Za-z0-9.]+", "-", task).strip("-.")
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        stems.append(next(name for name in itertools.chain([stem], numbered) if name not in stems))
    return stems


def _section(task: str, groups: Sequence[Group], labels: Sequence[str], file_stem: str) -> Section:
    tables = (scores_table(groups), online_table(groups))
    return Section(
        task=task,
        file_stem=file_stem,
        light=curves.draw(groups, labels, "light"),
        dark=curves.draw(groups, labels, "dark"),
        tables=tuple(table for table in tables if table is not None),
        runs=tuple(
            f"{group.label}, seed {run.seed}: {_figures(run)} ({run.path})"
            for group in groups
            for run in group.runs
        ),
    )


def _figures(run: Run) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in measures(run).items())


def _versions(groups: Sequence[Group]) -> tuple[str, ...]:
    """Each package with every version the runs were made with."""
    found: dict[str, set[str]] = {}
    for group in groups:
        for run in group.runs:
            for package, version in run.versions.items():
                found.setdefault(package, set()).add(version)
    return tuple(f"{package} {', '.join(sorted(versions))}" for package, versions in found.items())
