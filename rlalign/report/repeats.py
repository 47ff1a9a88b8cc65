"""Which runs can be reported, which are seeds of one recipe, and which repeat a seed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rlalign.errors import RlalignError

# Keys of a recipe that change what a run costs or where it is written, not what it measures.
NOT_PART_OF_A_GROUP = ("seed", "device", "logging", "checkpoint")


def configuration(recipe: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What runs of a group have in common: the recipe, and which data its dataset held.

    A file may have been replaced, or a relative name mean another one elsewhere; streams have no
    fingerprint.
    """
    kept = {key: value for key, value in recipe.items() if key not in NOT_PART_OF_A_GROUP}
    fingerprint = dataset.get("fingerprint")
    return {**kept, "fingerprint": str(fingerprint)[:8]} if fingerprint else kept


class Repeatable(Protocol):
    """What a run of an agent and one of a trainer have in common."""

    @property
    def path(self) -> Path:
        """The run directory."""

    @property
    def seed(self) -> int:
        """Of the run."""

    @property
    def status(self) -> str:
        """As run.json has it."""

    @property
    def group(self) -> str:
        """Equal for runs that differ in nothing but their seed."""

    @property
    def came_to(self) -> tuple[int, ...]:
        """The last evaluation's step in each phase, the later phase first; -1 for none."""


AnyRun = TypeVar("AnyRun", bound=Repeatable)


def readable(
    directories: Iterable[Path], read: Callable[[Path], AnyRun], notes: list[str]
) -> Iterator[AnyRun]:
    """Yield the runs that `read` can read, and name the others in `notes`."""
    for directory in directories:
        try:
            run = read(directory)
        except RlalignError as error:
            notes.append(f"left out, damaged: {error}")
        except OSError as error:
            notes.append(f"left out, cannot be read: {directory}: {error.strerror}")
        else:
            yield run


def one_for_each_seed(runs: Sequence[AnyRun], notes: list[str]) -> list[AnyRun]:
    """Of runs with the same recipe and seed the one that came furthest, else the first.

    The others, and those kept that did not end, are named in `notes`.
    """
    best: dict[tuple[str, int], AnyRun] = {}
    for run in runs:
        twin = best.setdefault((run.group, run.seed), run)
        if _reached(run) > _reached(twin):
            best[run.group, run.seed] = run
    kept = []
    for run in runs:
        twin = best[run.group, run.seed]
        if run is not twin:
            notes.append(f"left out, the same recipe and seed as {twin.path}: {run.path}")
            continue
        kept.append(run)
        if run.status != "finished":
            notes.append(f"{run.status}, reported as far as it got: {run.path}")
    return kept


def seeds_together(runs: Iterable[AnyRun]) -> list[tuple[AnyRun, ...]]:
    """Runs put together that differ in nothing but their seed, ordered by it."""
    groups: dict[str, list[AnyRun]] = {}
    for run in runs:
        groups.setdefault(run.group, []).append(run)
    return [tuple(sorted(group, key=lambda run: run.seed)) for group in groups.values()]


def _reached(run: Repeatable) -> tuple[bool, tuple[int, ...]]:
    return run.status == "finished", run.came_to
