"""The phases of learning: offline from a dataset, online from environments.

A phase advances in pieces, so that logging, evaluation and checkpoints fall on set points; cut
and resumed at any of them it goes on bit for bit as if never interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from rlalign.checkpoint import select
from rlalign.envs.vector import Environments, StepResult
from rlalign.errors import DatasetError
from rlalign.extras import offline_replay
from rlalign.interaction import Interaction
from rlalign.layout import Batch, Layout
from rlalign.replay import AnnealedReplay, GrowingReplay, MixedReplay, Source
from rlalign.settings import OnlineSettings

if TYPE_CHECKING:
    from rlalign.agent import Agent
    from rlalign.data.dataset import Dataset

State = tuple[dict[str, Tensor], dict[str, Any]]
OnStep = Callable[[StepResult, np.ndarray], bool]


class Phase(Protocol):
    """A stretch of learning that can be advanced, saved and restored."""

    name: str
    agent: Agent
    steps: int
    done: int

    def advance(self, steps: int) -> None:
        """Go on by `steps` units: updates offline, environment steps online."""
        ...

    def metrics(self) -> dict[str, float]:
        """Return the phase's own figures since the last call."""
        ...

    def state_dict(self) -> State:
        """Return everything that the rest of the phase depends on."""
        ...

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


class OfflinePhase:
    """Updates on a fixed dataset; one unit is one gradient update.

    Args:
        agent: learns.
        dataset: of the agent's environment.
        steps: updates in all.
    """

    name = "offline"

    def __init__(self, agent: Agent, dataset: Dataset, steps: int) -> None:
        agent.prepare(dataset)
        agent.begin_offline(steps)
        self.agent = agent
        self.steps = steps
        self.done = 0
        self.replay = offline_replay(agent, dataset)

    def advance(self, steps: int) -> None:
        """Apply `steps` updates."""
        self.agent.update(self.replay, steps)
        self.done += steps
        if self.agent.interaction is not None:
            self.agent.interaction.trained = True

    def metrics(self) -> dict[str, float]:
        """Return nothing: the losses' metrics are the learner's."""
        return {}

    def state_dict(self) -> State:
        """Return the position; the dataset is named and fingerprinted elsewhere."""
        return {}, {"done": self.done}

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.done = int(state["done"])


class OnlinePhase:
    """Interaction and updates; one unit is one environment step.

    Args:
        agent: learns, from where it is.
        environments: to act in; episodes that the agent's last phase left in them run on.
        steps: environment steps in all.
        settings: of interaction and replay.
        dataset: for the replays that draw from it, all but ``"online"``.
        on_step: called after each vector step with its result and actions; False ends the phase.

    Raises:
        DatasetError: if the replay needs a dataset and there is none.
        SettingsError: if the agent's normalisation needs a dataset that it has not been given.

    Warm-up, random steps and the moving share of a mixture count the agent's `num_timesteps`, so
    that many short phases are as one long one.
    """

    name = "online"

    def __init__(
        self,
        agent: Agent,
        environments: Environments,
        steps: int,
        settings: OnlineSettings,
        *,
        dataset: Dataset | None = None,
        on_step: OnStep | None = None,
    ) -> None:
        if settings.replay != "online" and dataset is None:
            raise DatasetError(
                f"online replay {settings.replay!r} needs the offline dataset, and none was given; "
                "call prepare(dataset) first, or use replay 'online' to learn from interaction "
                "alone"
            )
        if dataset is not None:
            agent.prepare(dataset)
        agent.preprocessing.check_prepared(agent.settings)
        if settings.reset_optimizers and not agent.online:
            for optimizer in agent.learner.optimizers.values():
                optimizer.reset()
        agent.set_update_ratio(settings.updates_per_step)
        agent.begin_online()
        self.agent = agent
        self.environments = environments
        self.steps = steps
        self.settings = settings
        self.on_step = on_step
        self.done = 0
        self.stopped = False
        self.interaction = Interaction.of(agent, environments, settings.buffer_size)
        assert agent.replay_buffer is not None
        self.buffer = agent.replay_buffer
        self.source = _source(agent, self.buffer, settings, dataset)
        self._returns: list[float] = []
        self._lengths: list[int] = []

    def advance(self, steps: int) -> None:
        """Take at least `steps` environment steps, with the updates that go with them."""
        target = self.done + steps
        while self.done < target and not self.stopped:
            self._step()

    def _step(self) -> None:
        agent, environments, settings = self.agent, self.environments, self.settings
        interaction = self.interaction
        observations = environments.current
        if agent.num_timesteps < settings.random_steps and not interaction.trained:
            size = environments.count, agent.spec.action_size
            unit = interaction.random.uniform(-1.0, 1.0, size)
            actions = agent.action_scale.to_environment(unit.astype(np.float32))
        else:
            inputs = torch.from_numpy(observations)
            unit = agent.act(inputs, deterministic=settings.exploration == "deterministic")
            actions = agent.action_scale.to_environment(unit)
        result = environments.step(actions)
        interaction.moves = environments.moves
        rows = interaction.episodes.add(
            _rows(agent.layout, observations, actions, result),
            [episode.environment for episode in result.finished],
        )
        # A whole episode may be longer than the buffer: its end is what is kept.
        self.buffer.add(rows[-settings.buffer_size :].to(agent.device))
        self.done += environments.count
        agent.num_timesteps += environments.count
        for episode in result.finished:
            self._returns.append(episode.episode_return)
            self._lengths.append(episode.length)
        if agent.num_timesteps - interaction.begun > settings.warmup_steps:
            interaction.owed += settings.updates_per_step * environments.count
            if self._updates_are_due(bool(result.finished)):
                self._update()
        if self.on_step is not None and not self.on_step(result, actions):
            self.stopped = True

    def _updates_are_due(self, finished: bool) -> bool:
        after = self.settings.update_after
        if after == "episode":
            return finished
        steps = self.agent.num_timesteps
        return steps // after > (steps - self.environments.count) // after

    def _update(self) -> None:
        """Make the updates that are due, once there is something to learn from."""
        if len(self.source) == 0:
            return
        if isinstance(self.source, AnnealedReplay):
            self.source.set_step(self.agent.num_timesteps)
        updates = int(self.interaction.owed)
        self.interaction.owed -= updates
        self.agent.update(self.source, updates)

    def metrics(self) -> dict[str, float]:
        """Return the training episodes since the last call: how many, mean return and length."""
        figures = {"episodes": float(len(self._returns))}
        if self._returns:
            figures["train_return"] = float(np.mean(self._returns))
            figures["train_length"] = float(np.mean(self._lengths))
        self._returns, self._lengths = [], []
        return figures

    def state_dict(self) -> State:
        """Return position, replay buffer, running episodes and random generators."""
        tensors, buffer = self.buffer.state_dict()
        named = {f"replay/{name}": tensor for name, tensor in tensors.items()}
        running, interaction = self.interaction.state_dict()
        named |= {f"episodes/{name}": tensor for name, tensor in running.items()}
        arrays, environments = self.environments.state_dict()
        named |= {f"environments/{k}": torch.from_numpy(v) for k, v in arrays.items()}
        return named, {
            **interaction,
            "settings": vars(self.settings),
            "done": self.done,
            "returns": self._returns,
            "lengths": self._lengths,
            "replay": buffer,
            "environments": environments,
        }

    def load_state_dict(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned; running episodes are replayed to where they were."""
        self.buffer.load_state_dict(select(tensors, "replay/"), state["replay"])
        self.interaction.load_state_dict(select(tensors, "episodes/"), state)
        arrays = {k: v.numpy() for k, v in select(tensors, "environments/").items()}
        self.environments.load_state_dict(arrays, state["environments"])
        self.interaction.moves = self.environments.moves
        self.done = int(state["done"])
        self._returns, self._lengths = list(state["returns"]), list(state["lengths"])


def _source(
    agent: Agent, buffer: GrowingReplay, settings: OnlineSettings, dataset: Dataset | None
) -> Source:
    if settings.replay == "online" or dataset is None:
        return buffer
    offline = offline_replay(agent, dataset)
    share = settings.offline_fraction
    if settings.replay == "union":
        return MixedReplay([offline, buffer], None)
    if settings.replay == "mixture":
        return MixedReplay([offline, buffer], [share, 1.0 - share])
    return AnnealedReplay(
        offline,
        buffer,
        start=share,
        end=settings.final_offline_fraction,
        steps=settings.anneal_steps,
    )


def _rows(
    layout: Layout, observations: np.ndarray, actions: np.ndarray, result: StepResult
) -> Tensor:
    """Pack a vector step into rows [count, width]; only true terminations end the bootstrap.

    Extra columns are 0 until their episode has ended.
    """
    rows = torch.zeros(len(observations), layout.width)
    batch = Batch(rows, layout)
    batch.observations.copy_(torch.from_numpy(observations))
    batch.actions.copy_(torch.from_numpy(actions))
    batch.rewards.copy_(torch.from_numpy(result.rewards))
    batch.terminations.copy_(torch.from_numpy(result.terminated))
    batch.next_observations.copy_(torch.from_numpy(result.next_observations))
    return rows


@dataclass(frozen=True)
class Intervals:
    """Units between events; None for never.

    `log_rest` logs at the end too what came after the last multiple.
    """

    log: int | None = None
    evaluate: int | None = None
    checkpoint: int | None = None
    log_rest: bool = False


class Events:
    """What happens at a phase's set points; by default nothing."""

    def on_log(self, phase: Phase, metrics: Mapping[str, float]) -> None:
        """Record metrics."""

    def on_evaluate(self, phase: Phase) -> None:
        """Evaluate the agent; also called before the first unit of a phase."""

    def on_checkpoint(self, phase: Phase) -> None:
        """Save everything; also called after the last unit of a phase."""

    def on_advance(self, phase: Phase) -> None:
        """Look at the clock, move a progress bar, or raise to stop."""


PIECE = 250  # units between looks at signals and the progress bar, at most
LOOK = 1.0  # seconds between them, where a unit takes less


def run_phase(phase: Phase, intervals: Intervals, events: Events) -> None:
    """Advance a phase from where it is to its end, with events at multiples of their intervals.

    Raises:
        TrainingError: if a loss is not finite; it names the latest checkpoint if there is one.
    """
    periods = [p for p in (intervals.log, intervals.evaluate, intervals.checkpoint) if p]
    if phase.done == 0 and intervals.evaluate:
        events.on_evaluate(phase)
    spent, logged_updates = 0.0, phase.agent.learner.step_count  # since the last log
    piece = 1
    while phase.done < phase.steps:
        before, began = phase.done, time.perf_counter()
        ahead = [period - before % period for period in periods]
        phase.advance(min([piece, phase.steps - before, *ahead]))
        if phase.done == before or getattr(phase, "stopped", False):
            break
        seconds = time.perf_counter() - began
        spent += seconds
        per_unit = seconds / (phase.done - before)
        piece = max(1, min(PIECE, int(LOOK / max(per_unit, 1e-9))))

        def due(period: int | None, before: int = before) -> bool:
            return bool(period) and phase.done // period > before // period  # type: ignore[operator]

        ends = phase.done >= phase.steps
        if due(intervals.log) or (intervals.log and intervals.log_rest and ends):
            updates = phase.agent.learner.step_count - logged_updates
            speed = updates / max(spent, 1e-9)
            spent, logged_updates = 0.0, phase.agent.learner.step_count
            figures = {**phase.agent.learner.metrics(), **phase.metrics()}
            phase.agent.learner.check_finite()
            events.on_log(phase, {**figures, "updates_per_second": speed})
        if due(intervals.evaluate) or (intervals.evaluate and ends):
            events.on_evaluate(phase)
        if due(intervals.checkpoint) and not ends:
            events.on_checkpoint(phase)
        events.on_advance(phase)
    if intervals.checkpoint:
        events.on_checkpoint(phase)
