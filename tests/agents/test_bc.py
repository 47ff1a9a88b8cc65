from __future__ import annotations

import torch

from tests.agents.naive import Naive, agree, double
from tests.agents.tiny import batch_of, disturb, gradients, make, value_of


def test_the_loss_is_the_mean_squared_error_of_actions() -> None:
    agent = make("bc")
    disturb(agent, "actor")
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, *_ = double(batch)
    loss = ((torch.tanh(naive.run("actor", 0, s)) - a) ** 2).sum() / a.numel()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))


def test_rewards_and_successors_do_not_matter() -> None:
    agent = make("bc")
    batch = batch_of(agent)
    before = value_of(agent, "actor_loss", batch)
    for column in (batch.rewards, batch.terminations, batch.next_observations):
        column.fill_(5.0)
    assert value_of(agent, "actor_loss", batch) == before
    batch.actions.fill_(0.1)
    assert value_of(agent, "actor_loss", batch) != before


def test_it_acts_without_noise() -> None:
    agent = make("bc")
    observations = torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    nets = agent.learner.nets
    explored = agent.explore(nets, observations, torch.ones(7, 2))
    assert torch.equal(explored, nets.actor(observations))
    assert torch.equal(agent.exploit(nets, observations), nets.actor(observations))
