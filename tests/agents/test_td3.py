from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.agents.naive import Naive, agree, double
from tests.agents.tiny import (
    batch_of,
    disturb,
    gradients,
    leaks,
    make,
    metrics_of,
    replay_of,
    value_of,
    weights,
)

BOTH = pytest.mark.parametrize("name", ["td3", "td3_bc"])


def disturbed(name: str = "td3", **settings: Any) -> Any:
    agent = make(name, **settings)
    for seed, network in enumerate(agent.learner.flat):
        disturb(agent, network, seed)
    return agent


# The losses, written out from the paper; TD3+BC shares the critics' part.


@BOTH
def test_the_critic_loss_is_two_mean_squared_errors_toward_the_smoothed_target(name: str) -> None:
    agent = disturbed(name, discount=0.9, target_noise=0.4, target_noise_clip=0.5)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, r, d, s2 = double(batch)
    noise = (0.4 * batch.noise["target"].double()).clamp(-0.5, 0.5)
    a2 = (torch.tanh(naive.run("actor_target", 0, s2)) + noise).clamp(-1, 1)
    value = torch.minimum(*(naive.q("critic_target", i, s2, a2) for i in (0, 1)))
    y = (r + 0.9 * (1 - d) * value).detach()
    loss = ((naive.q("critic", 0, s, a) - y) ** 2).mean()
    loss = loss + ((naive.q("critic", 1, s, a) - y) ** 2).mean()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))
    agree(metrics_of(agent, "critic_loss", batch)["q_target"], y)


def test_the_actor_climbs_the_first_critic() -> None:
    agent = disturbed()
    batch = batch_of(agent)
    naive = Naive(agent)
    s = double(batch)[0]
    loss = -naive.q("critic", 0, s, torch.tanh(naive.run("actor", 0, s))).mean()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))


@BOTH
def test_the_second_critic_has_no_say_in_the_actor_s_loss(name: str) -> None:
    agent = disturbed(name)
    batch = batch_of(agent)
    before = gradients(agent, "actor_loss", batch)
    with torch.no_grad():
        agent.learner.nets.critic.trunk.weights[0][1] += 1.0
    after = gradients(agent, "actor_loss", batch)
    assert torch.equal(before[1]["actor"], after[1]["actor"])
    with torch.no_grad():
        agent.learner.nets.critic.trunk.weights[0][0] += 1.0
    assert not torch.equal(before[1]["actor"], gradients(agent, "actor_loss", batch)[1]["actor"])


# Invariants.


def target_actions(agent: Any, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The action the target critics are asked about, and the target actor's own."""
    batch = batch_of(agent, len(noise))
    batch.noise["target"].copy_(noise)
    seen: list[Tensor] = []
    hook = agent.learner.nets.critic_target.register_forward_pre_hook(
        lambda _, arguments: seen.append(arguments[1].clone())
    )
    metrics_of(agent, "critic_loss", batch)
    hook.remove()
    with torch.no_grad():
        return seen[0], agent.learner.nets.actor_target(batch.next_observations)


@BOTH
def test_target_noise_stays_within_its_bounds_and_actions_within_theirs(name: str) -> None:
    """Invariant 17: +-0.5 around the target actor, never beyond [-1, 1]."""
    agent = disturbed(name)
    noise = 5 * torch.randn(2000, 2, generator=torch.Generator().manual_seed(0))
    action, mean = target_actions(agent, noise)
    assert (action - mean).abs().max() <= 0.5 + 1e-6
    assert action.abs().max() <= 1.0
    inside = mean.abs() < 0.5
    far = (0.2 * noise).abs() > 0.5
    assert int((inside & far).sum()) > 100
    moved = (action - mean)[inside & far].abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.5))
    near = inside & ~far
    torch.testing.assert_close((action - mean)[near], (0.2 * noise)[near], rtol=0, atol=1e-6)


def test_without_noise_the_target_action_is_the_target_actor_s() -> None:
    agent = disturbed(target_noise=0.0)
    action, mean = target_actions(agent, torch.ones(24, 2))
    assert torch.equal(action, mean)


@BOTH
@pytest.mark.parametrize("delay", [2, 3])
def test_actor_and_all_targets_move_on_every_nth_step_alone(name: str, delay: int) -> None:
    """Invariant 17: on even steps with TD3's delay of two."""
    agent = make(name, policy_delay=delay)
    replay = replay_of(agent)
    for step in range(7):
        before = weights(agent)
        agent.update(replay, 1)
        after = weights(agent)
        moved = {network for network in after if not torch.equal(before[network], after[network])}
        slow = {"actor", "actor_target", "critic_target"} if step % delay == 0 else set()
        assert moved == {"critic"} | slow
    assert float(agent.learner.optimizers["critic"].steps) == 7
    assert float(agent.learner.optimizers["actor"].steps) == -(-7 // delay)


@BOTH
def test_the_target_of_a_terminal_transition_is_its_reward(name: str) -> None:
    agent = disturbed(name)
    batch = batch_of(agent, terminations=torch.ones(24))
    assert torch.equal(metrics_of(agent, "critic_loss", batch)["q_target"], batch.rewards)
    going_on = batch_of(agent, terminations=torch.zeros(24))
    assert not torch.equal(metrics_of(agent, "critic_loss", going_on)["q_target"], batch.rewards)


@BOTH
def test_targets_enter_the_critic_s_loss_alone_and_online_networks_the_actor_s(name: str) -> None:
    agent = disturbed(name)
    batch = batch_of(agent)
    names = ("critic_loss", "actor_loss")
    expected = {
        "actor_target": [True, False],
        "critic_target": [True, False],
        "actor": [False, True],
        "critic": [True, True],
    }
    before = [value_of(agent, name, batch) for name in names]
    for network, changes in expected.items():
        kept = agent.learner.flat[network].data.clone()
        disturb(agent, network, seed=77)
        after = [value_of(agent, name, batch) for name in names]
        assert [a != b for a, b in zip(before, after, strict=True)] == changes, network
        agent.learner.flat[network].data.copy_(kept)


@BOTH
def test_the_critic_s_loss_reaches_the_critics_alone(name: str) -> None:
    agent = disturbed(name)
    assert leaks(agent, "critic_loss", batch_of(agent)) == {"critic"}


@BOTH
def test_exploration_adds_clipped_noise_to_the_policy(name: str) -> None:
    agent = disturbed(name, exploration_noise=0.3)
    observations = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))
    nets = agent.learner.nets
    action = agent.explore(nets, observations, noise)
    torch.testing.assert_close(action, (nets.actor(observations) + 0.3 * noise).clamp(-1, 1))
    assert action.abs().max() == 1
    assert torch.equal(agent.exploit(nets, observations), nets.actor(observations))
