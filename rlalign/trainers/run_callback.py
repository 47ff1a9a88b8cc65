"""Writes a trainer's logs, evaluations and checkpoints' marks into the run directory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from rlalign.atomic import write_json
from rlalign.rundir import RunDirectory, read_json_object

RECORD = "rlalign.json"  # in each whole checkpoint: where the logs stood
_SUMMARY = "train_runtime"  # only in the last log of a training
# TRL's names, and how evaluations.jsonl calls them.
_SHORT = {"rewards/accuracies": "accuracy", "rewards/margins": "margin"}


class RunCallback(TrainerCallback):
    """What happens in a run directory while a trainer trains.

    Args:
        run: the directory, open for writing; None on all processes but the first.
        seconds: of earlier parts of the run.
        progress: show a progress bar on stderr.
    """

    def __init__(self, run: RunDirectory | None, *, seconds: float, progress: bool) -> None:
        self.run = run
        self.progress = progress and run is not None
        self.summary: dict[str, float] = {}
        self._seconds = seconds
        self._started = time.perf_counter()
        self._bar: Any = None

    @property
    def seconds(self) -> float:
        """Since the run began, without what lay between its parts."""
        return self._seconds + time.perf_counter() - self._started

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the progress bar."""
        if self.progress:
            from tqdm import tqdm

            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="train", unit="step"
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move the progress bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Close the progress bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        """Append to metrics.jsonl or evaluations.jsonl."""
        if self.run is None or logs is None:
            return
        if _SUMMARY in logs:
            self.summary = dict(logs)
            return
        position = {"step": state.global_step, "time": round(self.seconds, 3)}
        held_out = {
            key.removeprefix("eval_"): value
            for key, value in logs.items()
            if key.startswith("eval_")
        }
        if held_out:
            row = {_SHORT.get(key, key): value for key, value in held_out.items()}
            self.run.log_evaluation({"phase": "validation", **position, **row})
            return
        self.run.log_metrics({"phase": "train", **position, **logs})
        if self._bar is not None and "loss" in logs:
            self._bar.set_postfix_str(f"loss {float(logs['loss']):.4f}")

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say in the checkpoint, once it is whole, where the logs stand."""
        if self.run is None:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        record = {"step": state.global_step, "seconds": self.seconds, "mark": self.run.mark()}
        write_json(folder / RECORD, record)


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a run's folder that were written to their end, oldest first."""
    found = [path.parent for path in folder.glob(f"checkpoint-*/{RECORD}")]
    return sorted(found, key=lambda path: int(path.name.rsplit("-", 1)[1]))


def read_record(checkpoint: Path) -> dict[str, Any]:
    """What `on_save` wrote; raises `CheckpointError` when it is damaged."""
    return read_json_object(checkpoint / RECORD)
