"""rlalign's own losses over one network a critic, in plain autograd: what stacking saves.

A critic's stack is replaced by ordinary `torch.nn` networks that run one after another. Losses,
optimiser, replay and loop are the library's, except that RORL's and RO2O's maxima over perturbed
states are written as the papers' equations read: autograd follows every perturbation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import rlalign.nn.critics
from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.rlalign_agent import build, contest
from rlalign.agents.ensemble import asymmetric_change, jeffreys_divergence, perturbed
from rlalign.agents.rorl import RORL, normal_of
from rlalign.layout import Batch
from rlalign.learner import Networks
from rlalign.nn.distributions import TanhGaussian
from rlalign.nn.mlp import ALL


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

    def forward(self, inputs: Tensor, tail: Tensor | None = None, *, only: slice = ALL) -> Tensor:
        """Return every member's output [member, batch, out]."""
        joint = inputs if tail is None else torch.cat((inputs, tail), -1)
        return torch.stack([network(joint) for network in self.networks[only]])

    def minimum(self, inputs: Tensor, tail: Tensor) -> Tensor:
        """Return the least of the members' outputs [batch]."""
        return self(inputs, tail).squeeze(-1).min(0).values


def own_start(job: Job) -> dict[str, str]:
    """Return the setting that leaves the initialisation to torch, for agents that have one."""
    return {} if job.algorithm.startswith("sac") else {"initialization": "torch"}


def critic_roughness(self: RORL, nets: Networks, batch: Batch, values: Tensor) -> Tensor:
    """Return mean over s of max over s^ of the critics' asymmetric change (equation 4)."""
    s = self.settings
    states = perturbed(batch.observations, batch.noise["critic_smoothing"], s.critic_radius)
    actions = batch.actions.unsqueeze(1).expand(-1, s.perturbations, -1)
    moved = nets.critic(states.flatten(0, 1), actions.flatten(0, 1))
    change = moved.unflatten(1, (len(batch), -1)) - values.unsqueeze(-1)
    return asymmetric_change(change, s.critic_asymmetry).amax(1).mean()


def policy_roughness(self: RORL, nets: Networks, batch: Batch, policy: TanhGaussian) -> Tensor:
    """Return mean over s of max over s^ of the policies' divergence (equation 8)."""
    radius = self.settings.policy_radius
    states = perturbed(batch.observations, batch.noise["policy_smoothing"], radius)
    moved = normal_of(nets.actor(states.flatten(0, 1)))
    others = (part.unflatten(0, (len(batch), -1)) for part in moved)
    mean, log_std = normal_of(policy)
    return jeffreys_divergence(mean.unsqueeze(1), log_std.unsqueeze(1), *others).amax(1).mean()


def setup(job: Job) -> Contest:
    """Build agent and replay with separate critics."""
    torch.set_num_threads(job.threads)
    setattr(rlalign.nn.critics, "StackedMLP", SeparateMLPs)  # noqa: B010
    RORL.critic_roughness = critic_roughness  # type: ignore[method-assign]
    RORL.policy_roughness = policy_roughness  # type: ignore[method-assign]
    return contest(build(job, accelerated=False, **own_start(job)), job)


if __name__ == "__main__":
    serve(setup, ("rlalign", "torch", "numpy"))
