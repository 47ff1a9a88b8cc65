"""What happens at the set points of a run in a run directory: logs, evaluations, checkpoints."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from rlalign.checkpoint import Checkpoints, join, part
from rlalign.phases import Events, Phase
from rlalign.rundir import RunDirectory
from rlalign.training import evaluate_agent

if TYPE_CHECKING:
    from rlalign.experiment import Experiment


class _StoppedError(Exception):
    """A signal came during an evaluation."""


class RunEvents(Events):
    """Writes a run's logs, evaluations and checkpoints, and stops at signals."""

    def __init__(self, experiment: Experiment, run: RunDirectory, progress: bool) -> None:
        self.experiment = experiment
        self.run = run
        self.checkpoints = Checkpoints(run.checkpoints, experiment.recipe.checkpoint.keep)
        self._seconds = 0.0  # of earlier parts of this run
        self._started = time.perf_counter()
        self._signal: int | None = None
        self._saved: tuple[str, int] | None = None  # phase and step of the latest checkpoint
        self._progress = progress
        self._bar: Any = None
        self._begun = 0  # where in its phase this part of the run began

    def on_log(self, phase: Phase, metrics: Mapping[str, float]) -> None:
        """Write metrics to the run's logs."""
        self.run.log_metrics({**self._position(phase), **metrics})

    def on_evaluate(self, phase: Phase) -> None:
        """Evaluate on separate environments and write the result."""
        episodes = self.experiment.recipe.evaluation.episodes
        venue = self.experiment.venue
        assert venue.environment is not None  # else the recipe was refused
        try:
            result = evaluate_agent(
                self.experiment.agent, phase, episodes, venue.maker, on_step=self._look
            )
        except _StoppedError:
            self._save(phase, owes_evaluation=True)
            self._leave()
        self.run.log_evaluation({**self._position(phase), **result.to_dict(venue.reference)})
        if self._bar is not None:
            self._bar.set_postfix_str(f"return {result.mean_return:.1f}")

    def on_checkpoint(self, phase: Phase) -> None:
        """Save agent, phase and the logs' sizes, unless that was just done."""
        if self._saved != (phase.name, phase.done):
            self._save(phase)

    def _save(self, phase: Phase, *, owes_evaluation: bool = False) -> None:
        tensors, values = join(agent=self.experiment.agent.state_dict(), phase=phase.state_dict())
        state = {
            **values,
            "phase_name": phase.name,
            "mark": self.run.mark(),
            "seconds": self._elapsed(),
            "owes_evaluation": owes_evaluation,
        }
        self.checkpoints.save(f"{phase.name}-{phase.done:08d}", (tensors, state))
        self._saved = phase.name, phase.done

    def on_advance(self, phase: Phase) -> None:
        """Show progress; after a signal save a checkpoint and exit."""
        if self._progress:
            self._show(phase)
        if self._signal is not None:
            self.on_checkpoint(phase)
            self._leave()

    def restore(self, phase: Phase, saved: Any) -> None:
        """Put agent and phase back to a checkpoint made within the phase.

        An evaluation that a signal cut short is made up for; the one at the beginning of a phase
        comes with the phase.
        """
        self.restore_agent(saved)
        phase.load_state_dict(*part(saved, "phase"))
        self._begun = phase.done
        if saved[1].get("owes_evaluation") and phase.done > 0:
            self.on_evaluate(phase)

    def restore_agent(self, saved: Any) -> None:
        """Put the agent back to a checkpoint."""
        self.experiment.agent.load_state_dict(*part(saved, "agent"))
        self._seconds = float(saved[1]["seconds"])

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
        if number == signal.SIGINT == self._signal:
            self._leave()
        self._signal = number
        # Not `print`, which cannot be entered twice: a handler may interrupt one.
        again = "; Ctrl-C again stops at once, without it" if number == signal.SIGINT else ""
        os.write(2, f"\nstopping once a checkpoint is saved{again}\n".encode())

    def _look(self) -> None:
        """Leave an evaluation after a signal."""
        if self._signal is not None:
            raise _StoppedError

    def _leave(self) -> NoReturn:
        assert self._signal is not None
        raise SystemExit(128 + self._signal)

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
            self._bar = tqdm(total=phase.steps, desc=phase.name, unit=unit, initial=self._begun)
            self._begun = 0  # of a phase that follows
        self._bar.update(phase.done - self._bar.n)
