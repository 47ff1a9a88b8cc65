"""Runs of one recipe put together over their seeds, and what is measured of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlalign.report.names import Head, Name, name_groups
from rlalign.report.online import lowest_early, measures, online_area
from rlalign.report.repeats import seeds_together
from rlalign.report.runs import Run
from rlalign.report.statistics import Estimate, estimate


@dataclass(frozen=True)
class Group:
    """The seeds of one agent, with one configuration, on one task."""

    name: Name
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return self.name.label

    @property
    def task(self) -> str:
        """Dataset, or environment where there is none."""
        return self.runs[0].task

    @property
    def behaviour(self) -> float | None:
        """Mean score of the policy that the dataset was collected with."""
        return self.runs[0].behaviour

    @property
    def has_offline(self) -> bool:
        """Whether every run was evaluated offline."""
        return all(len(run.offline) for run in self.runs)

    @property
    def has_online(self) -> bool:
        """Whether every run was evaluated online."""
        return all(len(run.online) for run in self.runs)

    def final(self) -> Estimate:
        """The score at the end."""
        return estimate(self.final_scores())

    def final_scores(self) -> list[float]:
        """Each seed's score at the end: online where every seed got there, else offline."""
        online = self.has_online
        return [run.online.final if online else run.offline.final for run in self.runs]

    def offline_final(self) -> Estimate:
        """The score when the offline phase ended."""
        return self._over_seeds(lambda run: run.offline.final)

    def lowest_early_online(self) -> Estimate | None:
        """The lowest score within the first 20 000 online steps: how deep the switch dips.

        None where a seed was not evaluated between.
        """
        found = [lowest_early(run) for run in self.runs]
        dips = [dip for dip in found if dip is not None]
        return estimate(dips) if len(dips) == len(found) else None

    def online_area(self) -> Estimate:
        """The mean score while learning online: the curve's area divided by its length."""
        return self._over_seeds(online_area)

    def curve(self, phase: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps [points] and scores [seeds, points] where all seeds were evaluated."""
        curves = [run.offline if phase == "offline" else run.online for run in self.runs]
        common = curves[0].steps
        for curve in curves[1:]:
            common = np.intersect1d(common, curve.steps)
        rows = [curve.scores[np.searchsorted(curve.steps, common)] for curve in curves]
        return common, np.stack(rows)

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as plain JSON types."""
        first = self.runs[0]
        measured: dict[str, Any] = {
            "task": self.task,
            "agent": first.agent,
            "label": self.label,
            "told_apart_by": dict(self.name.settings),
            "normalized": first.normalized,
            "behaviour": self.behaviour,
            "final": self.final().to_dict(),
            "runs": [
                {"path": str(run.path), "seed": run.seed, "measures": measures(run)}
                for run in self.runs
            ],
            "configuration": first.configuration,
        }
        if self.has_offline:
            measured["offline_final"] = self.offline_final().to_dict()
        if self.has_online:
            dip = self.lowest_early_online()
            measured["lowest_in_first_20000_online_steps"] = None if dip is None else dip.to_dict()
            measured["online_area"] = self.online_area().to_dict()
        return measured

    def _over_seeds(self, measure: Callable[[Run], float]) -> Estimate:
        return estimate([measure(run) for run in self.runs])


def make_groups(runs: Sequence[Run]) -> list[Group]:
    """Runs grouped by everything but their seed, ordered by task and label."""
    members = seeds_together(runs)
    heads = [Head(run.agent, run.task, run.configuration) for run, *_ in members]
    groups = map(Group, name_groups(heads, "settings."), members)
    return sorted(groups, key=lambda group: (group.task, group.label))


def by_task(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """The groups of each task."""
    tasks: dict[str, list[Group]] = {}
    for group in groups:
        tasks.setdefault(group.task, []).append(group)
    return tasks
