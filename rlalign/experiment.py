"""A recipe carried out in a run directory: train, resume, and load what was trained."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rlalign.agent import Agent, select
from rlalign.checkpoint import Checkpoints
from rlalign.envs.vector import Environments
from rlalign.errors import CheckpointError, RlalignError, TrainingError
from rlalign.phases import (
    Events,
    Intervals,
    OfflinePhase,
    OnlinePhase,
    Phase,
    run_phase,
)
from rlalign.recipe import Recipe, agent_class, agent_settings, online_settings
from rlalign.rundir import RunDirectory
from rlalign.training import evaluate_agent

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset


@dataclass
class Experiment:
    """What a recipe names, loaded and checked: agent, dataset, environment."""

    recipe: Recipe
    agent: Agent
    dataset: Dataset | None
    environment: str

    @classmethod
    def from_recipe(cls, recipe: Recipe, environment: str | None = None) -> Experiment:
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
        environment = environment or recipe.environment
        if environment is None and dataset is not None:
            environment = dataset.environment
        if environment is None:
            raise RlalignError(
                f"dataset {recipe.dataset} does not say which environment it is of; "
                "set `environment:` in the recipe"
            )
        agent = agent_class(recipe)(
            environment, seed=recipe.seed, device=recipe.device, **settings.to_dict()
        )
        if dataset is not None:
            agent.prepare(dataset)
        return cls(recipe, agent, dataset, environment)

    def phase(self, name: str) -> Phase:
        """Make a phase at its beginning."""
        recipe = self.recipe
        if name == "offline":
            assert self.dataset is not None  # the recipe's own check
            return OfflinePhase(self.agent, self.dataset, recipe.offline.steps)
        settings = online_settings(recipe)
        environments = Environments(self.environment, settings.environments, seed=recipe.seed)
        return OnlinePhase(
            self.agent, environments, recipe.online.steps, settings, dataset=self.dataset
        )

    @property
    def phases(self) -> list[str]:
        """The phases the recipe asks for, in order."""
        steps = {"offline": self.recipe.offline.steps, "online": self.recipe.online.steps}
        return [name for name, count in steps.items() if count]

    def describe_dataset(self) -> dict[str, Any] | None:
        """Name, fingerprint and behaviour scores, as run.json holds them."""
        if self.dataset is None:
            return None
        behaviour = float(self.dataset.episode_returns().mean())
        reference = self.dataset.reference
        score = None if reference is None else float(self.dataset.normalized_score(behaviour))
        return {
            "name": self.dataset.name,
            "environment": self.environment,
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
    if directory.is_dir() and any(directory.iterdir()):
        RunDirectory.create(directory, recipe)  # raises: it exists, said before hours of loading
    _limit_threads()
    experiment = Experiment.from_recipe(recipe)
    run = RunDirectory.create(directory, recipe, dataset=experiment.describe_dataset())
    return _carry_out(experiment, run, None, progress)


def resume(directory: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Continue an interrupted run exactly where its latest checkpoint was made.

    Raises:
        CheckpointError: if the run is finished, damaged, or its dataset has changed.
    """
    run = RunDirectory.open(directory)
    if run.status == "finished":
        raise CheckpointError(f"{directory}: the run is finished; there is nothing to resume")
    _limit_threads()
    experiment = Experiment.from_recipe(run.recipe)
    recorded, found = run.info.get("dataset"), experiment.describe_dataset()
    if recorded and found and recorded["fingerprint"] != found["fingerprint"]:
        raise CheckpointError(
            f"{directory}: dataset {found['name']} has fingerprint {found['fingerprint'][:12]}, "
            f"the run began with {recorded['fingerprint'][:12]}"
        )
    checkpoints = Checkpoints(run.checkpoints, run.recipe.checkpoint.keep)
    saved = checkpoints.load() if (run.checkpoints / "latest").is_file() else None
    if saved:
        # A checkpoint of something else is refused here, before the logs are cut back to it.
        experiment.agent.load_state_dict(select(saved[0], "agent/"), saved[1]["agent"])
    run.rewind(saved[1]["mark"] if saved else {})
    return _carry_out(experiment, run, saved, progress)


def load_run(directory: str | Path, checkpoint: str = "latest") -> Agent:
    """Return the agent of a run, as it was at a checkpoint.

    Raises:
        CheckpointError: if the directory is no run, or has no such checkpoint.
    """
    run = RunDirectory.open(directory)
    recipe = run.recipe
    environment = (run.info.get("dataset") or {}).get("environment") or recipe.environment
    tensors, state = Checkpoints(run.checkpoints).load(checkpoint)
    agent = agent_class(recipe)(
        environment, seed=recipe.seed, device=recipe.device, **agent_settings(recipe).to_dict()
    )
    agent.load_state_dict(select(tensors, "agent/"), state["agent"])
    return agent


def _carry_out(
    experiment: Experiment, run: RunDirectory, saved: Any, progress: bool
) -> dict[str, Any]:
    recipe = experiment.recipe
    intervals = Intervals(
        log=recipe.logging.every,
        evaluate=recipe.evaluation.every,
        checkpoint=recipe.checkpoint.every,
    )
    events = RunEvents(experiment, run, progress)
    finished = 0
    try:
        with events.signals():
            if saved is not None:
                finished = int(saved[1]["phases_finished"])
            for index, name in enumerate(experiment.phases):
                if index < finished:
                    continue
                phase = experiment.phase(name)
                if saved is not None and saved[1]["phase_name"] == name:
                    events.restore(phase, saved)
                    saved = None
                elif saved is not None:  # the checkpoint closed the phase before this one
                    events.restore_agent(saved)
                    phase = experiment.phase(name)
                    saved = None
                events.index = index
                run_phase(phase, intervals, events)
    except TrainingError as error:
        latest = events.checkpoints.names()[-1:]
        where = (
            f"the last good checkpoint is {latest[0]}" if latest else "there is no checkpoint yet"
        )
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


def _scores(run: RunDirectory) -> dict[str, Any]:
    """Return the last evaluation of each phase and the behaviour's score."""
    scores: dict[str, Any] = {}
    dataset = run.info.get("dataset")
    if dataset:
        scores["behaviour"] = {
            "mean_return": dataset["behaviour_return_mean"],
            "normalized_score": dataset["behaviour_normalized"],
        }
    for row in run.evaluations():
        scores[row["phase"]] = {
            key: row[key] for key in ("step", "mean_return", "normalized_score")
        }
    return scores


class RunEvents(Events):
    """Writes a run's logs, evaluations and checkpoints, and stops at signals."""

    def __init__(self, experiment: Experiment, run: RunDirectory, progress: bool) -> None:
        self.experiment = experiment
        self.run = run
        self.checkpoints = Checkpoints(run.checkpoints, experiment.recipe.checkpoint.keep)
        self.index = 0
        self._seconds = 0.0  # of earlier parts of this run
        self._started = time.perf_counter()
        self._signal: int | None = None
        self._progress = progress
        self._bar: Any = None

    def on_log(self, phase: Phase, metrics: Mapping[str, float]) -> None:
        """Write metrics to the run's logs."""
        self.run.log_metrics({**self._position(phase), **metrics})

    def on_evaluate(self, phase: Phase) -> None:
        """Evaluate on separate environments and write the result."""
        episodes = self.experiment.recipe.evaluation.episodes
        result = evaluate_agent(self.experiment.agent, phase, episodes, self.experiment.environment)
        dataset = self.experiment.dataset
        reference = dataset.reference if dataset else _reference(self.experiment.environment)
        self.run.log_evaluation({**self._position(phase), **result.to_dict(reference)})
        if self._bar is not None:
            self._bar.set_postfix_str(f"return {result.mean_return:.1f}")

    def on_checkpoint(self, phase: Phase) -> None:
        """Save agent, phase and the logs' sizes."""
        agent_tensors, agent_state = self.experiment.agent.state_dict()
        phase_tensors, phase_state = phase.state_dict()
        tensors = {f"agent/{name}": tensor for name, tensor in agent_tensors.items()}
        tensors |= {f"phase/{name}": tensor for name, tensor in phase_tensors.items()}
        complete = phase.done >= phase.steps
        state = {
            "agent": agent_state,
            "phase": phase_state,
            "phase_name": phase.name,
            "phases_finished": self.index + int(complete),
            "mark": self.run.mark(),
            "seconds": self._elapsed(),
        }
        self.checkpoints.save(f"{phase.name}-{phase.done:08d}", (tensors, state))

    def on_advance(self, phase: Phase) -> None:
        """Show progress; after a signal save a checkpoint and exit."""
        if self._progress:
            self._show(phase)
        if self._signal is not None:
            self.on_checkpoint(phase)
            raise SystemExit(128 + self._signal)

    def restore(self, phase: Phase, saved: Any) -> None:
        """Put agent and phase back to a checkpoint made within the phase."""
        tensors, state = saved
        self.restore_agent(saved)
        phase.load_state_dict(select(tensors, "phase/"), state["phase"])

    def restore_agent(self, saved: Any) -> None:
        """Put the agent back to a checkpoint."""
        tensors, state = saved
        self.experiment.agent.load_state_dict(select(tensors, "agent/"), state["agent"])
        self._seconds = float(state["seconds"])

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Turn SIGINT and SIGTERM into a checkpoint and a clean exit while inside."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._note) for number in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def close(self) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()

    def _note(self, number: int, _: object) -> None:
        self._signal = number

    def _elapsed(self) -> float:
        return self._seconds + time.perf_counter() - self._started

    def _position(self, phase: Phase) -> dict[str, Any]:
        return {
            "phase": phase.name,
            "step": phase.done,
            "updates": phase.agent.learner.step_count,
            "env_steps": phase.agent.num_timesteps,
            "time": round(self._elapsed(), 3),
        }

    def _show(self, phase: Phase) -> None:
        from tqdm import tqdm

        if self._bar is None or self._bar.desc != phase.name:
            self.close()
            unit = "update" if phase.name == "offline" else "step"
            self._bar = tqdm(total=phase.steps, desc=phase.name, unit=unit, initial=0)
        self._bar.update(phase.done - self._bar.n)


def _reference(environment: str) -> tuple[float, float] | None:
    from rlalign.data.d4rl import reference_of_environment

    return reference_of_environment(environment)


def _limit_threads() -> None:
    # Small networks run several times slower when two threads share a 256 x 256 product.
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
