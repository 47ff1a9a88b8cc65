"""What an HDF5 file of rlalign says about its arrays: JSON in one attribute, written and read."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlalign.data.d4rl import Task
from rlalign.errors import DatasetError

if TYPE_CHECKING:
    from rlalign.data.dataset import Dataset

ATTRIBUTE = "rlalign"
Array = NDArray[Any]


@dataclass(frozen=True)
class Facts:
    """Everything about a dataset that is not in its arrays; see `Dataset`."""

    environment: str | None = None
    action_low: Array | None = None
    action_high: Array | None = None
    reference: tuple[float, float] | None = None
    fingerprint: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


def encode(dataset: Dataset) -> str:
    """Return the attribute's text for a dataset."""
    kept = {key: value for key, value in dataset.metadata.items() if key != "stored_fingerprint"}
    return json.dumps(
        {
            "name": dataset.name,
            "environment": dataset.environment,
            "action_low": _listed(dataset.action_low),
            "action_high": _listed(dataset.action_high),
            "reference": dataset.reference,
            "fingerprint": dataset.fingerprint,
            "metadata": kept,
        }
    )


def _listed(bounds: Array | None) -> list[float] | None:
    return None if bounds is None else [float(bound) for bound in bounds]


def decode(text: Any, path: Path, action_size: int) -> Facts:
    """Return the facts in the attribute's text.

    Raises:
        DatasetError: if it is not what `encode` writes.
    """
    try:
        stored = json.loads(text)
        reference = stored.get("reference")
        if reference is not None:
            random, expert = reference
            reference = (float(random), float(expert))
        environment, fingerprint = stored.get("environment"), stored.get("fingerprint")
        return Facts(
            environment=None if environment is None else str(environment),
            action_low=_bounds(stored.get("action_low"), action_size),
            action_high=_bounds(stored.get("action_high"), action_size),
            reference=reference,
            fingerprint=None if fingerprint is None else str(fingerprint),
            metadata=dict(stored.get("metadata") or {}),
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: its attribute {ATTRIBUTE!r} is damaged ({error})") from error


def _bounds(values: Any, size: int) -> Array | None:
    if values is None:
        return None
    bounds = np.asarray(values, dtype=np.float32)
    if bounds.shape != (size,):
        raise ValueError(f"bounds of {bounds.size} actions for {size}")
    return bounds


def of_task(task: Task | None, action_size: int) -> Facts:
    """Return what is known of a file from its D4RL task; all of D4RL's actions are in [-1, 1]."""
    if task is None:
        return Facts()
    return Facts(
        environment=task.played_as,
        action_low=np.full(action_size, -1.0, dtype=np.float32),
        action_high=np.full(action_size, 1.0, dtype=np.float32),
        reference=task.reference,
        metadata={"d4rl_task": task.name},
    )
