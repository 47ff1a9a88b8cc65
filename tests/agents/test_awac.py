from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.agents.iql import advantage_weight
from tests.agents.naive import Naive, agree, double, gaussian_log_prob
from tests.agents.tiny import (
    batch_of,
    disturb,
    gradients,
    gradients_by_hand,
    leaks,
    make,
    metrics_of,
    value_of,
    weights,
)


def disturbed(**settings: Any) -> Any:
    agent = make("awac", **settings)
    for seed, network in enumerate(agent.learner.flat):
        disturb(agent, network, seed)
    return agent


def critics(naive: Naive, network: str, observations: Tensor, actions: Tensor) -> Tensor:
    return torch.minimum(*(naive.q(network, i, observations, actions) for i in (0, 1)))


def with_advantage(agent: Any, advantage: Tensor) -> Any:
    """The agent, told what its advantages are."""
    agent.advantage = lambda *_: advantage
    return agent


# The losses, written out from the paper.


@pytest.mark.parametrize("tanh_mean", [False, True])
def test_the_critic_loss_evaluates_the_policy_without_entropy(tanh_mean: bool) -> None:
    agent = disturbed(tanh_mean=tanh_mean, discount=0.9)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, r, d, s2 = double(batch)
    mean = naive.run("actor", 0, s2)
    mean = torch.tanh(mean) if tanh_mean else mean
    std = naive.leaves["actor"]["log_std"].exp()
    a2 = (mean + std * batch.noise["next_action"].double()).clamp(-1, 1)
    y = (r + 0.9 * (1 - d) * critics(naive, "critic_target", s2, a2)).detach()
    loss = torch.stack([((naive.q("critic", i, s, a) - y) ** 2).mean() for i in (0, 1)]).sum()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))


@pytest.mark.parametrize("weight_of", ["exp", "softmax"])
@pytest.mark.parametrize("samples", [1, 4])
def test_the_actor_loss_weighs_log_densities_by_advantages(weight_of: str, samples: int) -> None:
    agent = disturbed(weight=weight_of, value_samples=samples, temperature=0.5)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, *_ = double(batch)
    mean, std = naive.run("actor", 0, s), naive.leaves["actor"]["log_std"].exp()
    noise = batch.noise["baseline"].double()
    baselines = [
        critics(naive, "critic", s, (mean + std * noise[:, i]).clamp(-1, 1)) for i in range(samples)
    ]
    advantage = critics(naive, "critic", s, a) - torch.stack(baselines).mean(0)
    if weight_of == "exp":
        weight = torch.exp(advantage / 0.5).clamp(max=100.0)
    else:
        unnormalised = torch.exp(advantage / 0.5)
        weight = len(batch) * unnormalised / unnormalised.sum()
    loss = -(weight.detach() * gaussian_log_prob(a, mean, std)).mean()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))
    agree(metrics_of(agent, "actor_loss", batch)["advantage"], advantage)


# Invariants.


def weights_at(advantage: list[float] | Tensor, **settings: Any) -> Tensor:
    values = torch.as_tensor(advantage, dtype=torch.float32)
    agent = with_advantage(make("awac", **settings), values)
    return metrics_of(agent, "actor_loss", batch_of(agent, len(values)))["advantage_weight"]


def test_softmax_weights_sum_to_the_batch() -> None:
    """Invariant 8."""
    settings: dict[str, Any] = {"weight": "softmax", "temperature": 0.7}
    torch.testing.assert_close(
        weights_at([0.0, 0.7 * math.log(3.0)], **settings), torch.tensor([0.5, 1.5])
    )
    advantage = torch.randn(64, generator=torch.Generator().manual_seed(0))
    weight = weights_at(advantage, **settings)
    assert weight.sum().item() == pytest.approx(64, rel=1e-5)
    assert weight.std() > 0.1
    torch.testing.assert_close(weights_at(advantage + 5.0, **settings), weight)


def test_exponential_weights_scale_with_a_constant_and_are_iql_s() -> None:
    """Invariants 8 and 9: beta = 1 / lambda."""
    advantage = 0.5 * torch.randn(64, generator=torch.Generator().manual_seed(0))
    weight = weights_at(advantage, temperature=0.7)
    torch.testing.assert_close(weight, advantage_weight(advantage, 1 / 0.7, 100.0))
    shifted = weights_at(advantage - 0.5, temperature=0.7)
    assert weight.max() < 100
    torch.testing.assert_close(shifted, weight * math.exp(-0.5 / 0.7))
    assert weights_at([10.0], temperature=0.7).item() == 100.0
    assert weights_at([10.0], temperature=0.7, max_weight=20.0).item() == 20.0


@pytest.mark.parametrize("weight_of", ["exp", "softmax"])
def test_without_advantages_or_with_a_large_temperature_it_is_behaviour_cloning(
    weight_of: str,
) -> None:
    """Invariant 9."""
    level = with_advantage(disturbed(weight=weight_of), torch.zeros(24))
    warm = disturbed(weight=weight_of, temperature=1e6)
    sharp = disturbed(weight=weight_of)
    batch = batch_of(sharp)
    nets = sharp.learner.nets
    cloning = -nets.actor.log_prob(batch.observations, batch.actions).mean().item()
    assert value_of(level, "actor_loss", batch) == pytest.approx(cloning, rel=1e-5)
    assert value_of(warm, "actor_loss", batch) == pytest.approx(cloning, rel=1e-5)
    assert abs(value_of(sharp, "actor_loss", batch) - cloning) > 0.01 * abs(cloning)


def test_advantages_use_online_critics_and_targets_the_target_critics() -> None:
    """Invariant 10."""
    agent = disturbed()
    batch = batch_of(agent)
    names = ("critic_loss", "actor_loss")
    before = [value_of(agent, name, batch) for name in names]
    for network, changes in (("critic_target", [True, False]), ("critic", [True, True])):
        kept = agent.learner.flat[network].data.clone()
        disturb(agent, network, seed=77)
        after = [value_of(agent, name, batch) for name in names]
        assert [a != b for a, b in zip(before, after, strict=True)] == changes
        agent.learner.flat[network].data.copy_(kept)


def test_the_target_of_a_terminal_transition_is_its_reward() -> None:
    """Invariant 11."""
    agent = disturbed()
    batch = batch_of(agent, terminations=torch.ones(24))
    target = metrics_of(agent, "critic_loss", batch)["q_target"]
    assert torch.equal(target, batch.rewards)
    going_on = batch_of(agent, terminations=torch.zeros(24))
    assert not torch.equal(metrics_of(agent, "critic_loss", going_on)["q_target"], batch.rewards)


def test_each_loss_reaches_its_own_network_alone() -> None:
    agent = disturbed()
    batch = batch_of(agent)
    assert leaks(agent, "critic_loss", batch) == {"critic"}
    assert leaks(agent, "actor_loss", batch) == {"actor"}


def test_weight_decay_is_the_actor_s_alone() -> None:
    plain, decayed = make("awac"), make("awac", actor_weight_decay=0.5)
    start = weights(plain)
    rows = batch_of(plain).rows
    for agent in (plain, decayed):
        agent.learner.step(rows)
    first, second = weights(plain), weights(decayed)
    assert torch.equal(first["critic"], second["critic"])
    shrunk = first["actor"] - 3e-4 * 0.5 * start["actor"]
    torch.testing.assert_close(second["actor"], shrunk, rtol=0, atol=1e-7)
    assert (second["actor"] - first["actor"]).abs().max() > 1e-5


def test_the_critics_step_first_and_the_actor_sees_them_fresh() -> None:
    """CORL's order; one step of the learner is those two by hand."""
    agent, by_hand = disturbed(), disturbed()
    batch = batch_of(agent)
    agent.learner.draw_noise = lambda count: dict(batch.noise)
    agent.learner.step(batch.rows)
    wanted = gradients_by_hand(by_hand, ("critic_loss", "actor_loss"), batch)
    first, second = weights(agent), weights(by_hand)
    for network in ("critic", "actor"):
        torch.testing.assert_close(agent.learner.flat[network].grad, wanted[network])
        assert (first[network] - second[network]).abs().max() < 1e-7
