"""`rlalign train`, `resume` and `sweep`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from rlalign.cli.arguments import Overrides, Progress, RecipeName, progress_wanted
from rlalign.errors import RecipeError
from rlalign.processes import is_first_process, process_count, resume_command

TRAIN_EXAMPLE = "Example: rlalign train iql/local/hopper-medium-v0 seed=1 offline.steps=1e5"
RESUME_EXAMPLE = (
    "Example: rlalign resume runs/demo-seed0, or rlalign resume runs/demo-seed0 online.steps=20000"
)
SWEEP_EXAMPLE = (
    "Example: rlalign sweep iql/local/hopper-medium-v0 --seeds 5 settings.expectile=0.7,0.9"
)
RUNS = Path("runs")
Launch = Annotated[
    str | None,
    typer.Option(
        "--launch",
        help="Language models on several GPUs: zero2, zero3, fsdp2, multi_gpu, or an accelerate "
        "config file.",
    ),
]
Processes = Annotated[
    int | None,
    typer.Option("--processes", min=1, help="With --launch: GPUs. [default: the config's]"),
]


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The run directory. [default: runs/RECIPE-seedN]"),
    ] = None,
    launch: Launch = None,
    processes: Processes = None,
    progress: Progress = None,
) -> None:
    """Train an agent or a language model as a recipe says.

    An agent learns offline on its dataset, online in its environment, or one after the other; a
    language model from preference pairs.
    """
    from rlalign.recipe import TrainerRecipe, check_recipe, load_any_recipe

    loaded = load_any_recipe(recipe, overrides or [])
    check_recipe(loaded, recipe, overrides or [])
    directory = out if out is not None else _free_directory(recipe, loaded.seed)
    _require_launch(launch, processes)
    if launch is not None:
        _require_trainer(isinstance(loaded, TrainerRecipe), recipe)
        _launch(launch, processes, ["train", recipe, *(overrides or []), "--out", str(directory)])
    with _telling_how_to_go_on(directory):
        if isinstance(loaded, TrainerRecipe):
            from rlalign.trainers.runs import train as align

            align(loaded, directory, progress=progress_wanted(progress))
        else:
            from rlalign.experiment import train as run_training

            run_training(loaded, directory, progress=progress_wanted(progress))
    _tell_result(directory)


def resume(
    run: Annotated[Path, typer.Argument(help="A run directory.", metavar="RUN")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(
            help="What lies ahead of an agent, such as online.steps=100000.", metavar="KEY=VALUE"
        ),
    ] = None,
    checkpoint: Annotated[
        str, typer.Option("--checkpoint", "-c", help="An agent's: which one to go on from.")
    ] = "latest",
    launch: Launch = None,
    processes: Processes = None,
    progress: Progress = None,
) -> None:
    """Continue a run from its last checkpoint, or from another one.

    An agent's run that is finished goes on where it is given more steps, offline or online.
    """
    from rlalign.recipe import TrainerRecipe
    from rlalign.rundir import RunDirectory

    of_trainer = isinstance(RunDirectory.open(run).any_recipe, TrainerRecipe)
    if of_trainer and checkpoint != "latest":
        raise RecipeError(f"{run}: --checkpoint is for agents; a trainer goes on from its last one")
    if of_trainer and changes:
        raise RecipeError(f"{run}: {changes[0]}, but a trainer's run goes on as it began")
    _require_launch(launch, processes)
    if launch is not None:
        _require_trainer(of_trainer, str(run))
        _launch(launch, processes, ["resume", str(run)])
    with _telling_how_to_go_on(run):
        if of_trainer:
            from rlalign.trainers.runs import resume as resume_aligning

            resume_aligning(run, progress=progress_wanted(progress))
        else:
            from rlalign.experiment import resume as resume_training

            resume_training(
                run, checkpoint, changes=changes or [], progress=progress_wanted(progress)
            )
    _tell_result(run)


def sweep(
    recipe: RecipeName,
    grid: Annotated[
        list[str] | None,
        typer.Argument(
            help="Changes; several values with commas between them span a grid.",
            metavar="KEY=A,B",
        ),
    ] = None,
    seeds: Annotated[
        int, typer.Option("--seeds", "-s", min=1, help="Seeds 0, 1, ... for each point.")
    ] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder of the runs. [default: runs/RECIPE]"),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Runs at a time. [default: CPU cores]"),
    ] = None,
    ray: Annotated[bool, typer.Option("--ray", help="Run on Ray (extra `ray`).")] = False,
) -> None:
    """Train a recipe for several seeds and settings.

    Each run has a process of its own. Started again, a sweep leaves finished runs alone and
    resumes interrupted ones.
    """
    from rlalign.sweep import plan, run_sweep
    from rlalign.sweep_engines import local_engine, ray_engine

    folder = out if out is not None else RUNS / recipe_slug(recipe)
    planned = plan(recipe, grid or [], seeds=seeds, folder=folder)
    engine = ray_engine(jobs) if ray else local_engine(jobs)
    failures = run_sweep(planned, engine, tell=typer.echo)
    if failures:
        typer.echo(f"{len(failures)} of {len(planned)} runs failed:", err=True)
        for failure in failures:
            typer.echo(f"  {failure.directory}: {failure.reason}", err=True)
        raise typer.Exit(1)


def recipe_slug(recipe: str) -> str:
    """A recipe's name or path as a folder's name: iql/hopper-medium-v2 -> iql-hopper-medium-v2."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        return path.stem
    return "-".join(part for part in path.parts if part not in ("/", ".", ".."))


def _require_trainer(of_trainer: bool, source: str) -> None:
    if not of_trainer:
        raise RecipeError(f"{source}: --launch is for trainers of language models, not for agents")


def _require_launch(launch: str | None, processes: int | None) -> None:
    if launch is None and processes is not None:
        raise RecipeError(f"--processes {processes} goes with --launch; give both or neither")


def _launch(config: str, processes: int | None, arguments: list[str]) -> None:
    from rlalign.trainers.launching import launch

    launch(config, processes, arguments)


def _free_directory(recipe: str, seed: int) -> Path:
    if process_count() > 1:
        raise RecipeError("several processes need the same run directory: give --out DIRECTORY")
    first = RUNS / f"{recipe_slug(recipe)}-seed{seed}"
    candidate, number = first, 2
    while candidate.exists():
        candidate = first.with_name(f"{first.name}-{number}")
        number += 1
    return candidate


@contextmanager
def _telling_how_to_go_on(directory: Path) -> Iterator[None]:
    # Asked before training: a launcher's variable that is no number is told at once.
    first, processes = is_first_process(), process_count()
    try:
        yield
    except SystemExit:
        if first:
            command = resume_command(directory, processes)
            typer.echo(f"stopped; go on from the last checkpoint with: {command}", err=True)
        raise


def _tell_result(directory: Path) -> None:
    if not is_first_process():
        return
    from rlalign.report import describe_run

    typer.echo(describe_run(directory))
