"""FamO2O's agents for tests, and the paper's formulas in double precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.layout import Batch
from tests.agents.naive import Naive, gaussian_log_prob
from tests.agents.tiny import disturb, make

IQL, AWAC, CQL = "famo2o_iql", "famo2o_awac", "famo2o_cql"
NAMES = (IQL, AWAC, CQL)
every_base = pytest.mark.parametrize("name", NAMES)
both_phases = pytest.mark.parametrize("online", [False, True])


def base_of(name: str, coefficient: float) -> Any:
    """The base agent that a family of one point equals."""
    if name == IQL:
        return make("iql", beta=coefficient)
    if name == AWAC:
        return make("awac", temperature=1.0 / coefficient)
    assert coefficient == 1.0
    return make(
        "cql",
        actor_learning_rate=3e-4,
        temperature_learning_rate=3e-4,
        cql_weight=1.0,
        layer_norm=True,
        head_gain=0.1,
        observation_normalization="none",
    )


def disturbed(name: str, *, online: bool = False, **settings: Any) -> Any:
    """An agent in a phase, whose networks all differ, with advantages of both signs."""
    settings = {"coefficient_range": [1.0, 4.0], "balance_every": 1, **settings}
    agent = make(name, **({"layer_norm": False, **settings} if name == CQL else settings))
    agent.online = online
    for seed, network in enumerate(agent.learner.flat):
        disturb(agent, network, seed)
    nets = agent.learner.nets
    with torch.no_grad():
        if name != CQL:
            nets.balance.policy.log_std.fill_(-0.3)
        if name == IQL:
            nets.value.trunk.biases[-1].sub_(1.4)
            nets.actor.log_std.copy_(torch.tensor([-0.4, 0.3]))
    return agent


def encode(beta: Tensor) -> Tensor:
    """Table 2.1 of the six columns."""
    columns = []
    for i in range(3):
        angle = beta / 10_000.0 ** (2 * i / 6)
        columns += [torch.sin(angle), torch.cos(angle)]
    return torch.stack(columns, 1)


def _moments(naive: Naive, network: str, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation behind a Gaussian network, by either parametrisation."""
    leaves = naive.leaves[network]
    head = naive.run(network, 0, inputs)
    if "log_std" in leaves:
        return head, leaves["log_std"].exp()
    mean, output = head.chunk(2, 1)
    log_std = leaves["log_std_multiplier"] * output + leaves["log_std_offset"]
    return mean, log_std.clamp(-20, 2).exp()


def squashed(mean: Tensor, std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """tanh of a normal's sample, and its log-density by the change of variables."""
    z = mean + std * noise.double()
    u = torch.tanh(z)
    return u, gaussian_log_prob(z, mean, std) - torch.log(1 - u**2).sum(1)


def balance(naive: Naive, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """beta in [1, 4] and log pi_b(u|s)."""
    leaves = naive.leaves["balance"]
    naive.leaves["balance"] = {k.removeprefix("policy."): v for k, v in leaves.items()}
    u, log_prob = squashed(*_moments(naive, "balance", s), noise)
    return (1 + (u + 1) / 2 * 3)[:, 0], log_prob


def phase_beta(naive: Naive, agent: Any, batch: Batch, s: Tensor, prefix: str = "") -> Tensor:
    """Uniform offline, the balance policy's online; without gradient."""
    if agent.online:
        return balance(naive, s, batch.noise[f"{prefix}balance"])[0].detach()
    return 1 + (batch.noise[f"{prefix}coefficient"].double()[:, 0] + 1) / 2 * 3


def policy(naive: Naive, agent: Any, s: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of pi_u, before CQL's squashing."""
    mean, std = _moments(naive, "actor", torch.cat([s, encode(beta)], 1))
    return (torch.tanh(mean) if agent.name == IQL else mean), std


def minimum(naive: Naive, network: str, s: Tensor, a: Tensor) -> Tensor:
    """The least of two critics."""
    return torch.minimum(*(naive.q(network, i, s, a) for i in (0, 1)))
