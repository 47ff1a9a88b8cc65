"""The same losses as ordinary PyTorch programs run them: separate networks and `torch.optim`.

As `rlalign_separate`, and besides that each network has a `torch.optim.Adam` with its defaults,
targets are averaged parameter by parameter, and nothing is frozen: the actor's loss leaves
gradients in the critics, which the critics' `zero_grad` throws away. Replay and loop are the
library's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from benchmarks.workers import rlalign_separate
from benchmarks.workers.protocol import Contest, Job, serve
from rlalign.layout import Batch
from rlalign.learner import Learner


def torch_optimizers(learner: Any) -> dict[str, torch.optim.Adam]:
    """Return an optimiser for each trained network; made once, when the parameters thaw."""
    if not hasattr(learner, "torch_optimizers"):
        learner.torch_optimizers = {
            name: torch.optim.Adam(
                learner.flat[name].parameters, lr=update.adam(name).learning_rate
            )
            for update in learner.updates
            for name in update.networks
        }
        for name in learner.torch_optimizers:
            learner.flat[name].requires_grad_(True)
    found: dict[str, torch.optim.Adam] = learner.torch_optimizers
    return found


def apply(
    self: Learner, batches: Mapping[str, Tensor], noise: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Stand in for `Learner.apply`."""
    optimizers = torch_optimizers(self)
    views = {name: Batch(rows, self.layout, noise[name]) for name, rows in batches.items()}
    for update, loss_function in zip(self.updates, self._losses, strict=True):
        if not update.due(self.step_count):
            continue
        for name in update.networks:
            optimizers[name].zero_grad()
        loss, _ = loss_function(self.nets, views[update.source])
        loss.backward()
        for name in update.networks:
            optimizers[name].step()
    for name, target in self.targets.items():
        if self.step_count % target.every == 0:
            average(self.flat[name].parameters, self.flat[target.network].parameters, target.rate)


@torch.no_grad()
def average(slow: list[Any], fast: list[Any], rate: float) -> None:
    """Move each slow parameter toward its fast one."""
    for target, source in zip(slow, fast, strict=True):
        target.mul_(1.0 - rate).add_(rate * source)


def setup(job: Job) -> Contest:
    """Build agent and replay with separate critics and torch's own optimisers."""
    setattr(Learner, "apply", apply)  # noqa: B010
    return rlalign_separate.setup(job)


if __name__ == "__main__":
    serve(setup, ("rlalign", "torch", "numpy"))
