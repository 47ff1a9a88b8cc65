"""Metrics that stay on the device until they are logged, and a watch for losses gone astray."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rlalign.errors import TrainingError


class Ledger:
    """Sums of metrics of one mode, training or evaluation.

    TRL's trainer brings each metric to the CPU at each micro-batch, some fifteen waits for the
    GPU. Here they add up where they are; `flush` gathers all of them in one call.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Tensor]) -> None:
        """Add the mean of each metric, of any shape."""
        for name, values in metrics.items():
            mean = values.detach().float().mean()
            self._sums[name] = self._sums[name] + mean if name in self._sums else mean
            self._counts[name] = self._counts.get(name, 0) + 1

    def count(self, name: str) -> int:
        """How often a metric was added since the last flush."""
        return self._counts.get(name, 0)

    def flush(self, accelerator: Any) -> dict[str, float]:
        """Return the mean of each metric over what was added, on all processes; begin anew."""
        if not self._sums:
            return {}
        names = sorted(self._sums)
        means = torch.stack([self._sums[name] / self._counts[name] for name in names])
        gathered = accelerator.gather(means[None]).mean(0).tolist()
        self._sums, self._counts = {}, {}
        return dict(zip(names, gathered, strict=True))


class FiniteWatch:
    """Remembers, without waiting for the device, the first step whose loss was not finite."""

    def __init__(self) -> None:
        self._first: Tensor | None = None

    def see(self, loss: Tensor, step: int) -> None:
        """Look at the loss of a micro-batch of optimiser step `step`, counted from 1."""
        now = torch.where(torch.isfinite(loss.detach()), 0, step)
        if self._first is None:
            self._first = now
        else:
            self._first = torch.where(self._first == 0, now, self._first)

    def check(self, name: str, last_checkpoint: Callable[[], str | None], accelerator: Any) -> None:
        """Raise TrainingError in all processes where a loss was not finite in one of them.

        One alone would leave the others waiting for it, and the run without a word of why.

        Args:
            name: of the loss.
            last_checkpoint: finds where the last good checkpoint lies, if there is one.
            accelerator: gathers from the processes.
        """
        first, self._first = self._first, None
        own = torch.zeros((), device=accelerator.device) if first is None else first
        steps = accelerator.gather(own.long().reshape(1))
        step = min(filter(None, steps.tolist()), default=0)
        if step:
            good = last_checkpoint()
            where = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
            raise TrainingError(
                f"the {name} loss of step {step} is not finite; {where} (a lower learning rate, "
                "bf16 instead of fp16, or gradient clipping often helps)"
            )
