"""What tests of the agents built on SAC share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tests.agents.naive import Naive
from tests.agents.tiny import disturb, make


def disturbed(name: str = "sac", **settings: Any) -> Any:
    """An agent whose networks are all random and unlike each other; one family, one set of them."""
    agent = make(name, **settings)
    for seed, network in enumerate(agent.learner.flat):
        if network != "temperature":
            disturb(agent, network, seed)
    return agent


def policy(
    naive: Naive, observations: Tensor, size: int, low: float = -20.0, high: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation before the tanh, [batch, act]."""
    head = naive.run("actor", 0, observations)
    return head[:, :size], head[:, size:].clamp(low, high).exp()


def squashed(
    naive: Naive, observations: Tensor, noise: Tensor, low: float = -20.0, high: float = 2.0
) -> tuple[Tensor, Tensor]:
    """Actions and log-densities by the change of variables, without stable forms."""
    mean, std = policy(naive, observations, noise.shape[1], low, high)
    raw = mean + std * noise.double()
    normal = -0.5 * ((raw - mean) / std) ** 2 - torch.log(std) - 0.5 * math.log(2 * math.pi)
    action = torch.tanh(raw)
    return action, (normal - torch.log(1 - action**2)).sum(1)


def all_values(naive: Naive, network: str, s: Tensor, a: Tensor) -> Tensor:
    """Every critic's values [member, batch]."""
    count = len(naive.leaves[network]["trunk.weights.0"])
    return torch.stack([naive.q(network, i, s, a) for i in range(count)])


def minimum(naive: Naive, network: str, s: Tensor, a: Tensor) -> Tensor:
    """The least critic's values [batch]."""
    return all_values(naive, network, s, a).min(0).values


def same_networks(into: Any, source: Any) -> None:
    """Give an agent another's parameters, targets and temperature included."""
    for network, flat in into.learner.flat.items():
        flat.data.copy_(source.learner.flat[network].data)
