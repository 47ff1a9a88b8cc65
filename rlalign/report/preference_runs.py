"""Runs of preference trainers as reports see them, put together over their seeds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlalign.errors import CheckpointError
from rlalign.recipe import TrainerRecipe
from rlalign.report.names import Head, Name, name_groups
from rlalign.report.repeats import configuration, seeds_together
from rlalign.report.statistics import Estimate, estimate
from rlalign.rundir import RunDirectory, read_rows

SAMPLES = "samples.jsonl"


@dataclass(frozen=True)
class PreferenceRun:
    """One run of a trainer: its figures at the end, its curves, its samples."""

    path: Path
    trainer: str
    model: str
    dataset: str
    seed: int
    status: str
    configuration: dict[str, Any]  # the recipe without its seed, and which data its dataset held
    final: dict[str, dict[str, float]]  # by held-out dataset
    validation: list[dict[str, Any]]  # rows while training
    samples: list[dict[str, Any]]
    versions: dict[str, str]

    @property
    def task(self) -> str:
        """What was trained on what."""
        return f"{self.model} on {self.dataset}"

    @property
    def group(self) -> str:
        """Equal for runs that differ in nothing but their seed."""
        return json.dumps(self.configuration, sort_keys=True)

    @property
    def came_to(self) -> tuple[int]:
        """The last evaluation's step while training; -1 where there is none."""
        return (max((int(row["step"]) for row in self.validation), default=-1),)


@dataclass(frozen=True)
class PreferenceGroup:
    """The seeds of one trainer with one configuration."""

    name: Name
    runs: tuple[PreferenceRun, ...]

    @property
    def label(self) -> str:
        """What tables and pictures call it."""
        return self.name.label

    @property
    def task(self) -> str:
        """What was trained on what."""
        return self.runs[0].task

    @property
    def datasets(self) -> list[str]:
        """Held-out datasets that every run was evaluated on in the end."""
        first = self.runs[0].final
        return [name for name in first if all(name in run.final for run in self.runs)]

    def figure(self, dataset: str, name: str) -> Estimate | None:
        """A figure over the seeds; None where a run lacks it."""
        values = [run.final.get(dataset, {}).get(name) for run in self.runs]
        if any(value is None for value in values):
            return None
        return estimate([float(value) for value in values if value is not None])

    def figures(self, dataset: str) -> list[str]:
        """Names of a dataset's figures, as the first run has them."""
        return list(self.runs[0].final.get(dataset, {}))

    def curve(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps [points] and values [seeds, points] of a figure while training."""
        curves = [
            {
                int(row["step"]): float(row[name])
                for row in run.validation
                if row.get(name) is not None
            }
            for run in self.runs
        ]
        common = sorted(set(curves[0]).intersection(*curves[1:]))
        rows = [[curve[step] for step in common] for curve in curves]
        return np.array(common, dtype=np.int64), np.array(rows, dtype=np.float64)

    def to_dict(self) -> dict[str, Any]:
        """Everything measured, as plain JSON types."""
        first = self.runs[0]
        found: dict[str, dict[str, Any]] = {}
        for dataset in self.datasets:
            estimates = {name: self.figure(dataset, name) for name in self.figures(dataset)}
            found[dataset] = {k: v.to_dict() for k, v in estimates.items() if v is not None}
        return {
            "task": self.task,
            "trainer": first.trainer,
            "label": self.label,
            "told_apart_by": dict(self.name.settings),
            "final": found,
            "runs": [{"path": str(run.path), "seed": run.seed} for run in self.runs],
            "configuration": first.configuration,
        }


def is_preference_run(directory: Path) -> bool:
    """Whether a run directory is a trainer's; damage elsewhere is told when it is read."""
    path = directory / "recipe.yaml"
    if not path.is_file():
        return False
    return any(line.startswith(b"trainer:") for line in path.read_bytes().splitlines())


def read_preference_run(directory: Path) -> PreferenceRun:
    """Read one run; raises `RlalignError` when its files are damaged or it is an agent's."""
    opened = RunDirectory.open(directory)
    recipe = opened.any_recipe
    if not isinstance(recipe, TrainerRecipe):
        raise CheckpointError(f"{directory}: a run of an agent, not of a trainer")
    rows = opened.evaluations()
    try:
        final = {str(row["dataset"]): _numbers(row) for row in rows if row["phase"] == "final"}
        validation = [row for row in rows if row["phase"] == "validation" and "step" in row]
    except KeyError as error:
        raise CheckpointError(f"{directory}/evaluations.jsonl: a row lacks {error}") from None
    return PreferenceRun(
        path=directory,
        trainer=recipe.trainer,
        model=recipe.model.name,
        dataset=recipe.dataset,
        seed=recipe.seed,
        status=opened.status,
        configuration=configuration(recipe.to_dict(), opened.info.get("dataset") or {}),
        final=final,
        validation=validation,
        samples=read_rows(directory / SAMPLES),
        versions={"rlalign": opened.info.get("rlalign", "?"), **opened.info.get("packages", {})},
    )


def preference_groups(runs: Sequence[PreferenceRun]) -> list[PreferenceGroup]:
    """Runs grouped by everything but their seed, ordered by task and label."""
    members = seeds_together(runs)
    heads = [Head(run.trainer, run.task, run.configuration) for run, *_ in members]
    groups = map(PreferenceGroup, name_groups(heads, "training."), members)
    return sorted(groups, key=lambda group: (group.task, group.label))


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    skipped = ("step", "time")
    return {
        key: float(value)
        for key, value in row.items()
        if key not in skipped and isinstance(value, int | float)
    }
