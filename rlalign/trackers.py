"""Where a run's numbers go besides its own files: TensorBoard, Weights & Biases, trackio.

All are writers of stable-baselines3's logger, so that its callbacks and ours share one logger.
What was sent to a service cannot be taken back: a run that was killed and resumed may repeat there
the rows after its last checkpoint, which its own files and TensorBoard do not.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, TensorBoardOutputFormat

PROJECT = "rlalign"


class WandbWriter(KVWriter):
    """Sends scalars to Weights & Biases; a resumed run continues under its id.

    Each phase counts its own steps, so rows carry `PHASE/step` and W&B plots against that.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], identity: str) -> None:
        wandb: Any = importlib.import_module("wandb")
        self.run = wandb.init(
            project=PROJECT,
            dir=str(folder),
            name=folder.name,
            id=identity,
            config=dict(config),
            resume="allow",
        )
        for phase in ("offline", "online", "train", "validation", "final"):
            self.run.define_metric(f"{phase}/*", step_metric=f"{phase}/step")

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Send one row."""
        self.run.log(_scalars(key_values, step))

    def close(self) -> None:
        """Finish the upload."""
        self.run.finish()


class TrackioWriter(KVWriter):
    """Writes scalars to trackio's local store."""

    def __init__(self, folder: Path, config: Mapping[str, Any], identity: str) -> None:
        self.trackio: Any = importlib.import_module("trackio")
        self.trackio.init(
            project=PROJECT,
            name=f"{folder.name}-{identity}",
            config=dict(config),
            resume="allow",
        )

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Store one row."""
        self.trackio.log(_scalars(key_values, step))

    def close(self) -> None:
        """Flush the store."""
        self.trackio.finish()


def _scalars(key_values: Mapping[str, Any], step: int) -> dict[str, Any]:
    row = {key: value for key, value in key_values.items() if isinstance(value, (int, float))}
    for phase in {key.split("/")[0] for key in row if "/" in key}:
        row[f"{phase}/step"] = step
    return row


def make_logger(folder: Path, recipe: Mapping[str, Any], identity: str) -> Logger:
    """The logger that a recipe's `logging:` section asks for.

    `identity` names the run to services that resume by name.
    """
    wanted = recipe.get("logging", {})
    writers: list[KVWriter] = []
    if wanted.get("tensorboard", True):
        writers.append(TensorBoardOutputFormat(str(folder / "tensorboard")))
    if wanted.get("wandb", False):
        writers.append(WandbWriter(folder, recipe, identity))
    if wanted.get("trackio", False):
        writers.append(TrackioWriter(folder, recipe, identity))
    return Logger(folder=str(folder), output_formats=writers)
