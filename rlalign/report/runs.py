"""Runs as reports see them: what was trained, and how its score went."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlalign.errors import CheckpointError
from rlalign.report.repeats import configuration, one_for_each_seed, readable
from rlalign.rundir import LOG_SUFFIX, RunDirectory


@dataclass(frozen=True)
class Curve:
    """Scores at steps of one phase: updates offline, environment steps online."""

    steps: NDArray[np.int64]  # [points], ascending
    scores: NDArray[np.float64]  # [points]

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last_step(self) -> int:
        """The step of the last score; -1 where there is none."""
        return int(self.steps[-1]) if len(self.steps) else -1

    @property
    def final(self) -> float:
        """The last score."""
        return float(self.scores[-1])


@dataclass(frozen=True)
class Run:
    """One run's curves; scores are normalised ones where the task has references."""

    path: Path
    agent: str
    task: str
    seed: int
    status: str
    configuration: dict[str, Any]  # the recipe without its seed, and which data its dataset held
    normalized: bool
    behaviour: float | None
    offline: Curve
    online: Curve
    versions: dict[str, str]

    @property
    def final(self) -> float:
        """The score at the end of the run."""
        return self.online.final if len(self.online) else self.offline.final

    @property
    def group(self) -> str:
        """Equal for runs that differ in nothing but their seed."""
        return json.dumps(self.configuration, sort_keys=True)

    @property
    def came_to(self) -> tuple[int, int]:
        """The last evaluation's step online and offline, -1 where there is none."""
        return self.online.last_step, self.offline.last_step


@dataclass(frozen=True)
class Collection:
    """Runs to report, and one sentence for each that is not."""

    runs: tuple[Run, ...]
    notes: tuple[str, ...]


def collect_runs(paths: Sequence[Path], *, unfinished: bool = False) -> Collection:
    """Read all runs at or below `paths`.

    Runs that are damaged, have no evaluation, repeat a seed, or (unless `unfinished`) did not
    end are named in the notes, as are runs of one recipe on different data. Of those that repeat
    a seed, the one that came furthest is kept. Raises `CheckpointError` when no run is left.
    """
    runs: list[Run] = []
    notes: list[str] = []
    for run in readable(find_runs(paths), read_run, notes):
        if run.status != "finished" and not unfinished:
            notes.append(f"left out, {run.status}: {run.path}{_progress(run)}")
        elif not len(run.offline) and not len(run.online):
            notes.append(f"left out, holds no evaluation: {run.path}")
        else:
            runs.append(run)
    runs = one_for_each_seed(runs, notes)
    if not runs:
        where = ", ".join(str(path) for path in paths)
        why = f" ({'; '.join(notes)})" if notes else ""
        raise CheckpointError(f"{where}: no finished run to report{why}")
    kept = _one_scale(runs, notes)
    return Collection(tuple(kept), (*notes, *_different_data(kept)))


def find_runs(paths: Sequence[Path]) -> Iterable[Path]:
    """Each run directory once; a folder without run.json stands for the runs below it.

    A sweep's logs, which lie beside its runs, are passed over. Raises `CheckpointError` for
    another path that is no directory.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            if path.suffix == LOG_SUFFIX and path.is_file():
                continue
            what = "not a directory" if path.exists() else "no such directory"
            raise CheckpointError(f"{path}: {what}")
        if _looks_like_run(path):
            found.setdefault(path.resolve(), path)
            continue
        for file in sorted([*path.rglob("run.json"), *path.rglob("recipe.yaml")]):
            if _looks_like_run(file.parent):
                found.setdefault(file.parent.resolve(), file.parent)
    return found.values()


def _looks_like_run(path: Path) -> bool:
    # One of the two may be what is damaged; either tells that this was meant to be a run.
    return (path / "run.json").is_file() or (path / "recipe.yaml").is_file()


def read_run(directory: Path) -> Run:
    """Read one run; raises `RlalignError` when its files are damaged."""
    opened = RunDirectory.open(directory)
    recipe = opened.recipe.to_dict()
    dataset = opened.info.get("dataset") or {}
    rows = opened.evaluations()
    scores = [row.get("normalized_score") for row in rows]
    normalized = bool(rows) and all(score is not None for score in scores)
    key = "normalized_score" if normalized else "mean_return"
    try:
        offline, online = (_curve(rows, phase, key) for phase in ("offline", "online"))
    except (KeyError, TypeError, ValueError):
        raise CheckpointError(
            f"{directory}/evaluations.jsonl: a row lacks phase, step or mean_return"
        ) from None
    behaviour = dataset.get("behaviour_normalized" if normalized else "behaviour_return_mean")
    return Run(
        path=directory,
        agent=recipe["agent"],
        task=recipe["dataset"] or recipe["environment"],
        seed=recipe["seed"],
        status=opened.status,
        configuration=configuration(recipe, dataset),
        normalized=normalized,
        behaviour=behaviour,
        offline=offline,
        online=online,
        versions={"rlalign": opened.info.get("rlalign", "?"), **opened.info.get("packages", {})},
    )


def _different_data(runs: Sequence[Run]) -> list[str]:
    """One sentence for each recipe whose runs were not all trained on the same data."""
    found: dict[str, dict[str, Path]] = {}
    for run in runs:
        recipe = {key: value for key, value in run.configuration.items() if key != "fingerprint"}
        data = run.configuration.get("fingerprint", "unknown")
        found.setdefault(json.dumps(recipe, sort_keys=True), {}).setdefault(data, run.path)
    return [
        "kept apart, the same recipe on different data: "
        + ", ".join(f"{path} (fingerprint {data})" for data, path in first.items())
        for first in found.values()
        if len(first) > 1
    ]


def _curve(rows: Sequence[dict[str, Any]], phase: str, key: str) -> Curve:
    points = [(row["step"], row[key]) for row in rows if row["phase"] == phase]
    steps = np.array([int(step) for step, _ in points], dtype=np.int64)
    return Curve(steps, np.array([float(score) for _, score in points], dtype=np.float64))


def _progress(run: Run) -> str:
    if len(run.online):
        return f" (online step {run.online.last_step})"
    return f" (update {run.offline.last_step})" if len(run.offline) else ""


def _one_scale(runs: list[Run], notes: list[str]) -> list[Run]:
    """Runs of a task must be on one scale, else their means say nothing."""
    kept = []
    for run in runs:
        normalized = any(other.normalized for other in runs if other.task == run.task)
        if run.normalized or not normalized:
            kept.append(run)
        else:
            notes.append(f"left out, has no normalised scores as others of its task: {run.path}")
    return kept
