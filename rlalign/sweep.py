"""Many runs of one recipe: a grid of overrides times seeds, each run in its own process."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from rlalign.errors import CheckpointError, RecipeError
from rlalign.new_run import is_free
from rlalign.recipe import AnyRecipe, load_any_recipe
from rlalign.recipe.yaml_files import parse_value
from rlalign.rundir import LOG_SUFFIX, RunDirectory
from rlalign.sweep_engines import Command, Engine

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One run of a sweep: where it goes and what it is trained by.

    `point` names it among the others by the settings that vary, and is empty where none does.
    """

    directory: Path
    point: str
    recipe_name: str
    overrides: tuple[str, ...]
    recipe: AnyRecipe

    def command(self) -> Command | None:
        """What brings the run to its end: train, resume, or nothing where it has ended.

        Raises `CheckpointError` when the directory holds another run.
        """
        log = self.directory.with_name(f"{self.directory.name}{LOG_SUFFIX}")
        if not self.directory.exists() or is_free(self.directory):
            arguments = ("train", self.recipe_name, *self.overrides)
            return Command((*arguments, "--out", str(self.directory), "--no-progress"), log)
        run = RunDirectory.open(self.directory)
        if run.any_recipe != self.recipe:
            raise CheckpointError(
                f"{self.directory}: holds a run of another recipe; choose another --out"
            )
        if run.status == "finished":
            return None
        return Command(("resume", str(self.directory), "--no-progress"), log)


@dataclass(frozen=True)
class Failure:
    """A run that did not end, and its error in one line."""

    directory: Path
    reason: str


def plan(recipe: str, grid: Sequence[str], *, seeds: int, folder: Path) -> list[Job]:
    """All runs of a sweep, each one's recipe checked.

    `grid` holds overrides whose values may be several with commas between them, such as
    `settings.expectile=0.7,0.9` or `settings.hidden=[256,256],[512,512]`; all combinations are
    run with seeds 0 to `seeds` - 1 into `folder`/COMBINATION/seed-N. Raises `RecipeError`.
    """
    axes = [_axis(override) for override in grid]
    names = [key for key, _ in axes]
    twice = next((key for key in names if names.count(key) > 1), None)
    if twice is not None:
        raise RecipeError(f"the command line: {twice!r} is given twice; write {twice}=A,B")
    if "seed" in names:
        raise RecipeError("the command line: a sweep counts its seeds itself; use --seeds N")
    varied = {key for key, values in axes if len(values) > 1}
    jobs = []
    for values in itertools.product(*(values for _, values in axes)):
        point = dict(zip(names, values, strict=True))
        name = _folder_name(
            ",".join(f"{key}={value}" for key, value in point.items() if key in varied)
        )
        for seed in range(seeds):
            overrides = (*(f"{key}={value}" for key, value in point.items()), f"seed={seed}")
            jobs.append(
                Job(
                    directory=folder / name / f"seed-{seed}",
                    point=name,
                    recipe_name=recipe,
                    overrides=overrides,
                    recipe=load_any_recipe(recipe, overrides),
                )
            )
    places = [job.directory for job in jobs]
    twice_trained = next((place for place in places if places.count(place) > 1), None)
    if twice_trained is not None:
        raise RecipeError(
            f"the command line: two runs of the sweep would be {twice_trained}; give each value "
            "once, and names that differ in more than signs"
        )
    return jobs


def run_sweep(jobs: Sequence[Job], engine: Engine, *, tell: Tell) -> list[Failure]:
    """Bring all jobs to their end and return those that failed; `tell` gets a line for each."""
    from rlalign.recipe import check_recipe

    for job in jobs:
        check_recipe(job.recipe, job.recipe_name, job.overrides)
    commands = {index: job.command() for index, job in enumerate(jobs)}
    done = [index for index, command in commands.items() if command is None]
    todo = {index: command for index, command in commands.items() if command is not None}
    for index in done:
        tell(f"finished before: {jobs[index].directory}")
    for command in todo.values():
        command.log.parent.mkdir(parents=True, exist_ok=True)
    failures = []
    # Closed at once when telling fails or is interrupted: no run outlives its sweep.
    with closing(engine(todo)) as outcomes:
        for count, (index, outcome) in enumerate(outcomes, start=len(done) + 1):
            directory = jobs[index].directory
            if outcome.code == 0:
                point = f"{jobs[index].point}: " if jobs[index].point else ""
                tell(f"[{count}/{len(jobs)}] {point}{outcome.last_line}")
            else:
                reason = outcome.last_line or f"exit code {outcome.code}"
                failures.append(Failure(directory, reason.removeprefix("error: ")))
                tell(f"[{count}/{len(jobs)}] failed: {directory}")
    return failures


def _axis(override: str) -> tuple[str, list[str]]:
    """Key and values of `key=a,b`; each value as text that YAML reads back as it was."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise RecipeError(f"override {override!r} is not of the form key=value or key=A,B")
    try:
        # Commas inside brackets and quotes belong to a value, which YAML's own lists know.
        values = parse_value(f"[{text}]") if text else [None]
    except ValueError as error:
        raise RecipeError(f"override {override!r}: the value is not valid YAML, {error}") from None
    return key, [json.dumps(value) for value in values]


def _folder_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._=,+-]+", "_", name.replace('"', ""))
