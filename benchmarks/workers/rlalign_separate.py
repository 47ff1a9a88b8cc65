"""rlalign's own losses over one network a critic, in plain autograd: what stacking saves.

A critic's stack is replaced by ordinary `torch.nn` networks that run one after another. Losses,
optimiser, replay and loop are the library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import rlalign.nn.critics
from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.rlalign_agent import build, replay


class SeparateMLPs(nn.Module):
    """Stands where a `StackedMLP` of several members stood."""

    def __init__(self, sizes: Sequence[int], members: int = 1, **options: Any) -> None:
        super().__init__()
        assert set(options.values()) <= {"torch", False}, options  # torch's own initialisation
        self.networks = nn.ModuleList()
        for _ in range(members):
            layers: list[nn.Module] = []
            for inner, outer in pairwise(sizes):
                layers += [nn.Linear(inner, outer), nn.ReLU()]
            self.networks.append(nn.Sequential(*layers[:-1]))

    def forward(self, inputs: Tensor, tail: Tensor | None = None) -> Tensor:
        """Return every member's output [member, batch, out]."""
        joint = inputs if tail is None else torch.cat((inputs, tail), -1)
        return torch.stack([network(joint) for network in self.networks])

    def minimum(self, inputs: Tensor, tail: Tensor) -> Tensor:
        """Return the least of the members' outputs [batch]."""
        return self(inputs, tail).squeeze(-1).min(0).values


def own_start(job: Job) -> dict[str, str]:
    """Return the setting that leaves the initialisation to torch, for agents that have one."""
    return {} if job.algorithm.startswith("sac") else {"initialization": "torch"}


def setup(job: Job) -> Contest:
    """Build agent and replay with separate critics."""
    torch.set_num_threads(job.threads)
    rlalign.nn.critics.StackedMLP = SeparateMLPs  # type: ignore[misc, assignment]
    agent, source = build(job, accelerated=False, **own_start(job)), replay(job)

    def run(updates: int) -> None:
        agent.update(source, updates)
        if job.device == "cuda":
            torch.cuda.synchronize()

    return Contest(run)


if __name__ == "__main__":
    serve(setup, ("rlalign", "torch", "numpy"))
