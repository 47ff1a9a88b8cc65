"""A recipe carried out in a run directory: train, resume, and load what was trained."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlalign.agent import Agent
from rlalign.checkpoint import Checkpoints, part
from rlalign.errors import CheckpointError, TrainingError
from rlalign.new_run import require_free
from rlalign.phases import (
    Intervals,
    OfflinePhase,
    OnlinePhase,
    Phase,
    run_phase,
)
from rlalign.prolonging import (
    phase_steps,
    phases_left,
    prolonged,
    require_constant_rates,
    steps_done,
)
from rlalign.recipe import Recipe, agent_class, agent_settings, online_settings
from rlalign.run_events import RunEvents
from rlalign.rundir import RunDirectory, require_trackers
from rlalign.settings import require_unchanged
from rlalign.venue import Venue

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset


@dataclass
class Experiment:
    """What a recipe names, loaded and checked: agent, dataset, where the agent acts."""

    recipe: Recipe
    agent: Agent
    dataset: Dataset | None
    venue: Venue

    @classmethod
    def from_recipe(cls, recipe: Recipe) -> Experiment:
        """Load the dataset and make the agent.

        Raises:
            RlalignError: if a part of the recipe does not exist or the parts do not fit.
        """
        settings = agent_settings(recipe)
        online_settings(recipe)
        dataset = None
        if recipe.dataset is not None:
            from rlalign.data.dataset import load_dataset

            dataset = load_dataset(recipe.dataset)
        venue = Venue.of(recipe, dataset)
        agent = agent_class(recipe)(
            venue.for_agent(recipe.seed),
            seed=recipe.seed,
            device=recipe.device,
            **settings.to_dict(),
        )
        if dataset is not None:
            agent.prepare(dataset)
        return cls(recipe, agent, dataset, venue)

    def phase(self, name: str) -> Phase:
        """Make a phase at its beginning."""
        recipe = self.recipe
        if name == "offline":
            assert self.dataset is not None  # the recipe's own check
            return OfflinePhase(self.agent, self.dataset, recipe.offline.steps)
        settings = online_settings(recipe)
        environments = self.venue.environments(settings.environments, seed=recipe.seed)
        return OnlinePhase(
            self.agent, environments, recipe.online.steps, settings, dataset=self.dataset
        )

    def describe_dataset(self) -> dict[str, Any] | None:
        """Name, fingerprint and behaviour scores, as run.json holds them."""
        if self.dataset is None:
            return None
        from rlalign.data.d4rl import normalized_score

        behaviour = float(self.dataset.episode_returns().mean())
        reference = self.venue.reference
        score = None if reference is None else float(normalized_score(behaviour, reference))
        return {
            "name": self.dataset.name,
            **self.venue.to_dict(),
            "fingerprint": self.dataset.fingerprint,
            "transitions": len(self.dataset),
            "behaviour_return_mean": behaviour,
            "behaviour_normalized": score,
        }


def train(recipe: Recipe, directory: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Carry out a recipe in a new run directory.

    Args:
        recipe: what to do.
        directory: must not exist, or be empty.
        progress: show a progress bar on stderr.

    Returns:
        the scores that scores.json holds.

    Raises:
        RlalignError: if something is wrong with the recipe, the dataset or the directory.
        SystemExit: 130 or 143 after SIGINT or SIGTERM, once a checkpoint was written.
    """
    directory = Path(directory)
    require_free(directory)  # said before hours of loading
    _limit_threads()
    experiment = Experiment.from_recipe(recipe)
    run = RunDirectory.create(directory, recipe, dataset=experiment.describe_dataset())
    return _carry_out(experiment, run, None, progress)


def resume(
    directory: str | Path,
    checkpoint: str = "latest",
    *,
    changes: Sequence[str] = (),
    progress: bool = True,
) -> dict[str, Any]:
    """Continue an interrupted run exactly where a checkpoint was made, or a finished one beyond.

    Args:
        directory: of the run.
        checkpoint: its name; what the run did after it is done again.
        changes: overrides of what lies ahead, such as ``online.steps=1e5``; see `prolonged`.
        progress: show a progress bar on stderr.

    Raises:
        CheckpointError: if the run is finished and nothing more is wanted of it, is damaged, or its
            dataset has changed.
        RecipeError: for a change of what has been done.
    """
    run = RunDirectory.open(directory)
    if run.status == "finished" and not changes:
        raise _finished(run)
    _limit_threads()
    checkpoints = Checkpoints(run.checkpoints, run.recipe.checkpoint.keep)
    saved = None
    if checkpoint != "latest" or checkpoints.latest is not None:
        saved = checkpoints.load(checkpoint)
    elif _had_checkpoint(run):
        raise CheckpointError(
            f"{run.checkpoints}: holds no checkpoint any more, though the run went on beyond its "
            "first; train anew in another directory"
        )
    reached = steps_done(run.recipe, saved)
    recipe = prolonged(run, changes, reached) if changes else run.recipe
    if saved and _ends_unseen(run, recipe, reached):
        saved[1]["owes_evaluation"] = True
    if run.status == "finished" and not phases_left(recipe, saved):
        raise _finished(run)
    experiment = Experiment.from_recipe(recipe)
    require_constant_rates(experiment.agent, run.recipe, recipe, str(directory))
    recorded, found = run.info.get("dataset"), experiment.describe_dataset()
    if recorded and found and recorded["fingerprint"] != found["fingerprint"]:
        raise CheckpointError(
            f"{directory}: dataset {found['name']} has fingerprint {found['fingerprint'][:12]}, "
            f"the run began with {recorded['fingerprint'][:12]}"
        )
    if saved:
        # A checkpoint of something else is refused here, before the logs are cut back to it.
        tensors, values = part(saved, "agent")
        experiment.agent.load_state_dict(tensors, values)
        require_unchanged("settings", values["settings"], experiment.agent.settings.to_dict())
        if "online" in reached:
            began = part(saved, "phase")[1].get("settings", {})  # older checkpoints lack it
            require_unchanged("online", began, vars(online_settings(recipe)))
    require_trackers(recipe.to_dict()["logging"])
    mark = saved[1]["mark"] if saved else {}
    run.hold(mark)
    if saved and checkpoint != "latest":
        # First, so that a run killed from here on is resumed from this one too.
        checkpoints.go_back_to(checkpoint)
    run.rewind(mark)
    if changes:
        run.replace_recipe(recipe)
    return _carry_out(experiment, run, saved, progress)


def _finished(run: RunDirectory) -> CheckpointError:
    more = run.recipe.online.steps + 10_000
    return CheckpointError(
        f"{run.path}: the run is finished; there is nothing to resume, unless it is given more, "
        f"such as online.steps={more}"
    )


def _ends_unseen(run: RunDirectory, recipe: Recipe, reached: Mapping[str, int]) -> bool:
    """Whether the phase last begun ends where it is now, which was no step to evaluate at."""
    phase, done = list(reached.items())[-1]
    if phase_steps(recipe).get(phase) != done or not _intervals(recipe, phase).evaluate:
        return False
    return all((row["phase"], row["step"]) != (phase, done) for row in run.evaluations())


def _had_checkpoint(run: RunDirectory) -> bool:
    """Whether the logs go beyond where the first checkpoint was made."""
    every = run.recipe.checkpoint.every
    return any(row["step"] > every for row in run.metrics()) or not run.checkpoints.is_dir()


def load_run(
    directory: str | Path,
    checkpoint: str = "latest",
    device: str | torch.device | None = None,
) -> Agent:
    """Return the agent of a run, as it was at a checkpoint.

    Args:
        directory: of the run.
        checkpoint: its name.
        device: where to put the agent, wherever it was trained; None: the CPU.

    Raises:
        CheckpointError: if the directory is no run, or has no such checkpoint.
        SettingsError: if there is no such device here.
    """
    run = RunDirectory.open(directory)
    recipe = run.recipe
    venue = Venue.of_run(recipe, run.info.get("dataset"))
    saved = Checkpoints(run.checkpoints).load(checkpoint)
    agent = agent_class(recipe)(
        venue.for_agent(recipe.seed),
        seed=recipe.seed,
        device=device or "cpu",
        **agent_settings(recipe).to_dict(),
    )
    agent.load_state_dict(*part(saved, "agent"))
    return agent


def _carry_out(
    experiment: Experiment, run: RunDirectory, saved: Any, progress: bool
) -> dict[str, Any]:
    recipe = experiment.recipe
    events = RunEvents(experiment, run, progress)
    try:
        with events.signals():
            if saved is not None:
                # Before any phase is made: a phase begins from the agent as it is then.
                events.restore_agent(saved)
            for name in phases_left(recipe, saved):
                phase = experiment.phase(name)
                if saved is not None and saved[1]["phase_name"] == name:
                    events.restore(phase, saved)
                run_phase(phase, _intervals(recipe, name), events)
    except TrainingError as error:
        latest = events.checkpoints.latest
        where = f"the last good checkpoint is {latest}" if latest else "there is no checkpoint yet"
        message = f"{error}; {where}"
        run.finish("failed", message)
        raise TrainingError(message) from None
    except SystemExit as stop:
        run.finish("interrupted", f"stopped by signal, exit code {stop.code}")
        raise
    except BaseException as error:
        run.finish("failed", f"{type(error).__name__}: {error}")
        raise
    finally:
        events.close()
    scores = _scores(run)
    run.write_scores(scores)
    run.finish("finished")
    return scores


def _intervals(recipe: Recipe, phase: str) -> Intervals:
    evaluate = recipe.evaluation.every
    if phase == "online":
        evaluate = recipe.evaluation.online_every or evaluate
    return Intervals(
        log=recipe.logging.every, evaluate=evaluate, checkpoint=recipe.checkpoint.every
    )


def _scores(run: RunDirectory) -> dict[str, Any]:
    """Return the last evaluation of each phase and the behaviour's score."""
    scores: dict[str, Any] = {}
    dataset = run.info.get("dataset")
    if dataset:
        scores["behaviour"] = {
            "mean_return": dataset.get("behaviour_return_mean"),
            "normalized_score": dataset.get("behaviour_normalized"),
        }
    for row in run.evaluations():
        scores[row["phase"]] = {
            key: row[key] for key in ("step", "mean_return", "normalized_score")
        }
    return scores


def _limit_threads() -> None:
    # Small networks run several times slower when two threads share a 256 x 256 product.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
