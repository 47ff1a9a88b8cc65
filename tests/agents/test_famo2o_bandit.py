"""FamO2O where everything has a closed form: two states k = +-1, data a ~ N(0, 0.3^2), Q = k a.

With V = 0 the weighted likelihood of member beta has its maximum at mean 0.09 beta k, std 0.3.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rlalign.layout import Batch
from tests.agents.tiny import gradients, make
from tests.toy_data import box_spaces

SPREAD, COUNT = 0.3, 256
BETAS = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])


class Stub(nn.Module):
    """Critics in agreement on a known Q(s, a)."""

    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def minimum(self, observations: Tensor, actions: Tensor) -> Tensor:
        value: Tensor = self.value(observations[:, 0], actions[:, 0])
        return value

    def joint(self, both: Tensor) -> Tensor:
        return self.minimum(both[:, :1], both[:, 1:]).expand(2, -1)


class Nothing(nn.Module):
    """V = 0."""

    def forward(self, observations: Tensor) -> Tensor:
        return torch.zeros(len(observations))


class Line(nn.Module):
    """A policy that is the closed form, with hardly any noise; it reads beta from its encoding."""

    def mean(self, inputs: Tensor) -> Tensor:
        beta = torch.remainder(torch.atan2(inputs[:, 1], inputs[:, 2]), 2 * math.pi)
        return (0.09 * beta * inputs[:, 0]).unsqueeze(1)

    def clamped_log_std(self) -> Tensor:
        return torch.tensor([-10.0])


def bandit(critic: Any, **settings: Any) -> Any:
    agent = make(
        "famo2o_iql",
        spaces=box_spaces(1, 1),
        coefficient_range=[1.0, 5.0],
        actor_learning_rate=1e-3,
        **{"balance_learning_rate": 1e-2, "balance_entropy": False, **settings},
    )
    agent.learner.nets.critic_target = Stub(critic)
    agent.learner.nets.value = Nothing()
    return agent


def learn(agent: Any, loss: str, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        state = 2.0 * torch.randint(2, (COUNT,), generator=generator) - 1.0
        action = SPREAD * torch.randn(COUNT, generator=generator)
        zeros = torch.zeros(COUNT)
        rows = agent.layout.pack(
            observations=state,
            actions=action,
            rewards=zeros,
            terminations=zeros,
            next_observations=state,
        )
        batch = Batch(rows, agent.layout, agent.learner.draw_noise(COUNT))
        _, found = gradients(agent, loss, batch)
        for network in found:
            agent.learner.optimizers[network].step()


def linear(state: Tensor, action: Tensor) -> Tensor:
    return state * action


def members(agent: Any, state: float) -> list[float]:
    nets = agent.learner.nets
    inputs = nets.balance.condition(torch.full((5, 1), state), BETAS)
    means: list[float] = nets.actor.mean(inputs)[:, 0].tolist()
    return means


def coefficients(agent: Any) -> tuple[float, float]:
    """The balance policy's choice at k = 1 and k = -1."""
    good, bad = agent.learner.nets.balance.mode(torch.tensor([[1.0], [-1.0]])).tolist()
    return good, bad


@cache
def family() -> Any:
    agent = bandit(linear)
    learn(agent, "actor_loss", 2500)
    return agent


def with_family(critic: Any, **settings: Any) -> Any:
    agent = bandit(critic, **settings)
    agent.learner.flat["actor"].data.copy_(family().learner.flat["actor"].data)
    return agent


def test_every_member_learns_its_own_policy() -> None:
    """Invariant 10: 0.09 to 0.45; learned means err by the noise of their batches."""
    agent = family()
    for state in (1.0, -1.0):
        found = torch.tensor(members(agent, state)) * state
        assert (found > 0).all()
        assert (found.diff() > 0.02).all(), found
        assert (found - 0.09 * BETAS).abs().max() < 0.12, found
    std = agent.learner.nets.actor.clamped_log_std().exp().item()
    assert std == pytest.approx(SPREAD, abs=0.03)


@pytest.mark.parametrize("settings", [{}, {"balance_entropy": True}])
def test_q_alone_prefers_the_greediest_member(settings: dict) -> None:
    """Invariant 11: d E[A] / d beta = Var(A) >= 0, so only other terms hold beta back."""
    agent = with_family(linear, **settings, initial_balance_temperature=0.02)
    learn(agent, "balance_loss", 300)
    assert min(coefficients(agent)) > 4.5


def peaked(state: Tensor, action: Tensor) -> Tensor:
    """Best where the line's member is 4 at k = 1 and 2 at k = -1."""
    best = torch.where(state > 0, 0.36, -0.18)
    return -20.0 * (action - best).square()


def test_the_balance_differs_by_state_where_q_asks_for_it() -> None:
    """Invariant 12, through the learned family."""
    agent = with_family(peaked)
    learn(agent, "balance_loss", 300)
    good, bad = coefficients(agent)
    assert good > 3.3
    assert bad < 2.4
    assert good - bad > 1.5


def test_the_balance_finds_the_exact_optimum_of_each_state() -> None:
    """Invariant 12, through the closed form."""
    agent = bandit(peaked)
    agent.learner.nets.actor = Line()
    learn(agent, "balance_loss", 600)
    good, bad = coefficients(agent)
    assert good == pytest.approx(4.0, abs=0.15)
    assert bad == pytest.approx(2.0, abs=0.15)
