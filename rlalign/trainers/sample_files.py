"""Samples of the policy that a later step uses again, kept beside a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlalign.errors import CheckpointError


def save_samples(samples: Sequence[dict[str, Tensor]], path: Path) -> None:
    """Write the samples of a step's micro-batches, making the folder if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = {
        f"{index}.{name}": value.contiguous().cpu()
        for index, rows in enumerate(samples)
        for name, value in rows.items()
    }
    save_file(named, path)


def load_samples(path: Path, device: torch.device) -> list[dict[str, Tensor]]:
    """Read what `save_samples` wrote.

    Raises:
        CheckpointError: if the file is not there.
    """
    if not path.is_file():
        raise CheckpointError(
            f"checkpoint {path.parent} has no {path.name} with the samples that reuse_samples uses "
            "again; resume from a checkpoint that was saved with it"
        )
    samples: dict[int, dict[str, Tensor]] = {}
    for key, value in load_file(path).items():
        index, name = key.split(".", 1)
        samples.setdefault(int(index), {})[name] = value.to(device)
    return [samples[index] for index in sorted(samples)]
