"""`Agent.fit` and `Agent.learn`: phases run from Python, with stable-baselines3's tools."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlalign.envs.vector import Environments, StepResult
from rlalign.errors import DatasetError, EnvError, SettingsError
from rlalign.phases import Events, Intervals, OfflinePhase, OnlinePhase, Phase, run_phase
from rlalign.setting_hints import no_effect
from rlalign.settings import OnlineSettings, build_settings, whole_number

if TYPE_CHECKING:
    from rlalign.agent import Agent
    from rlalign.data.dataset import Dataset
    from rlalign.evaluate import Episodes


def fit(
    agent: Agent,
    dataset: Dataset | str | Path,
    steps: float,
    *,
    evaluate_every: int | None,
    episodes: int,
    progress_bar: bool,
) -> None:
    """Run the offline phase of `Agent.fit`."""
    from rlalign.data.dataset import Dataset, load_dataset

    steps = whole_number("steps", steps)
    if evaluate_every is not None:
        evaluate_every = whole_number("evaluate_every", evaluate_every, least=1)
    if isinstance(dataset, str | Path):
        dataset = load_dataset(dataset)
    if not isinstance(dataset, Dataset):
        raise DatasetError(
            f"fit needs a dataset, as load_dataset or Dataset.from_arrays make one, or its name; "
            f"got {type(dataset).__name__}"
        )
    phase = OfflinePhase(agent, dataset, steps)
    with _LoggerEvents(agent, episodes, steps if progress_bar else None) as events:
        run_phase(phase, Intervals(log=1000, evaluate=evaluate_every, log_rest=True), events)


def learn(
    agent: Agent,
    total_timesteps: float,
    *,
    callback: Any,
    log_interval: int | None,
    tb_log_name: str | None,
    reset_num_timesteps: bool,
    progress_bar: bool,
    online: Mapping[str, Any],
) -> None:
    """Run the online phase of `Agent.learn`, with stable-baselines3's callbacks."""
    from rlalign.interop.callbacks import as_callback
    from rlalign.interop.sb3 import step_locals

    if agent.environments is None:
        raise EnvError("learning online needs an environment: the agent was made from spaces")
    total_timesteps = whole_number("total_timesteps", total_timesteps)
    if log_interval is not None:
        log_interval = whole_number("log_interval", log_interval, least=1)
    settings = _online_settings(agent, online)
    if reset_num_timesteps:
        agent.num_timesteps = 0
        if agent.interaction is not None:
            agent.interaction.count_anew()
    agent.name_log(tb_log_name, anew=reset_num_timesteps)
    calls = as_callback(callback, agent, progress_bar=progress_bar)
    started = time.perf_counter()
    phase = OnlinePhase(agent, agent.environments, total_timesteps, settings, dataset=agent.dataset)
    total = agent.num_timesteps + total_timesteps  # as stable-baselines3 counts
    local_values: dict[str, Any] = {"total_timesteps": total, "self": agent}

    def on_step(result: StepResult, actions: np.ndarray) -> bool:
        seconds = time.perf_counter() - started
        local_values.update(step_locals(result, actions, phase.environments, seconds))
        calls.update_locals(local_values)
        return calls.on_step()

    phase.on_step = on_step
    calls.on_training_start(local_values, {})
    calls.on_rollout_start()
    with _LoggerEvents(agent, 0, None) as events:
        run_phase(phase, Intervals(log=log_interval, log_rest=True), events)
    calls.on_rollout_end()
    calls.on_training_end()


def _online_settings(agent: Agent, online: Mapping[str, Any]) -> OnlineSettings:
    """Return the agent's defaults with what `learn` was told; the replay buffer keeps its size."""
    assert agent.environments is not None
    count = agent.environments.count
    known = {**vars(agent.online_defaults), "environments": count}
    if agent.replay_buffer is not None:
        known["buffer_size"] = agent.replay_buffer.capacity
    settings = build_settings(OnlineSettings, {**known, **online}, agent.name)
    unused = settings.without_effect(online)
    if unused:
        warnings.warn(no_effect(unused, settings.replay), stacklevel=4)
    if settings.environments != count:
        raise SettingsError(
            f"setting environments is {settings.environments}, but the agent has {count}: give it "
            "a vector environment, or Environments(id, count, seed=...) of rlalign.envs"
        )
    return settings


class _LoggerEvents(Events):
    """Logs to the agent's stable-baselines3 logger, for `fit` and `learn`."""

    def __init__(self, agent: Agent, episodes: int, total: int | None) -> None:
        self.agent = agent
        self.episodes = episodes
        self._started = time.perf_counter()
        self._bar: Any = None
        if total is not None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, unit="update")

    def __enter__(self) -> _LoggerEvents:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_log(self, phase: Phase, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            self.agent.logger.record(f"{phase.name}/{name}", value)
        count = "updates" if phase.name == "offline" else "total_timesteps"
        self.agent.logger.record(f"time/{count}", _count(phase))
        self.agent.logger.record("time/time_elapsed", round(time.perf_counter() - self._started))
        self.agent.logger.dump(_count(phase))

    def on_evaluate(self, phase: Phase) -> None:
        result = evaluate_agent(self.agent, phase, self.episodes)
        self.agent.logger.record("evaluation/mean_return", result.mean_return)
        self.agent.logger.dump(_count(phase))

    def on_advance(self, phase: Phase) -> None:
        if self._bar is not None:
            self._bar.update(phase.done - self._bar.n)


def _count(phase: Phase) -> int:
    """Return what logs count: the agent's updates offline, its environment steps online."""
    if phase.name == "offline":
        return phase.agent.learner.step_count
    return phase.agent.num_timesteps


def evaluate_agent(
    agent: Agent,
    phase: Phase,
    episodes: int,
    env: Any = None,
    *,
    on_step: Callable[[], None] | None = None,
) -> Episodes:
    """Evaluate on environments of their own, seeded by the agent's seed and the phase's step.

    Args:
        env: id or maker of the evaluation environment; by default the agent's own by its id.
        on_step: called after each step; may raise to end the evaluation.
    """
    from rlalign.evaluate import evaluate

    env = env or (agent.environments.maker if agent.environments is not None else None)
    if env is None:
        raise EnvError("evaluation needs an environment that can be made by its id")
    words = [agent.seed, 2, phase.done, 0 if phase.name == "offline" else 1]
    seed = int(np.random.SeedSequence(words).generate_state(1)[0])
    environments = Environments(env, min(episodes, 10), seed=seed, record=False)
    try:
        return evaluate(agent, environments, episodes, on_step=on_step)
    finally:
        environments.close()
