"""EDAC with dQ/da from `torch.autograd.grad(create_graph=True)`, as CORL publishes it.

Everything else is rlalign's, which writes the same derivative as a chain of products.
"""

from __future__ import annotations

import torch
from torch import Tensor

import rlalign.agents.edac
from benchmarks.workers.protocol import Contest, Job, serve
from benchmarks.workers.rlalign_agent import setup as accelerated
from rlalign.nn.mlp import StackedMLP


def values_and_action_gradients(
    trunk: StackedMLP, observation_actions: Tensor, action_size: int
) -> tuple[Tensor, Tensor]:
    """Return Q_i(s, a) [member, batch] and dQ_i/da [member, batch, act] by double backward."""
    observations, actions = observation_actions.split(
        (observation_actions.shape[1] - action_size, action_size), dim=1
    )
    # Every member has an action of its own, so that one call gives every member's gradient.
    own = actions.expand(trunk.members, -1, -1).clone().requires_grad_()
    joint = torch.cat((observations.expand(trunk.members, -1, -1), own), -1)
    trunk.accelerated = False
    values = trunk(joint).squeeze(-1)
    trunk.accelerated = True
    return values, torch.autograd.grad(values.sum(), own, create_graph=True)[0]


def setup(job: Job) -> Contest:
    """Build agent and replay with that form of the term."""
    rlalign.agents.edac.values_and_action_gradients = values_and_action_gradients
    return accelerated(job)


if __name__ == "__main__":
    serve(setup, ("rlalign", "torch", "numpy"))
