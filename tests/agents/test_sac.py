from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.agents.naive import Naive, agree, double
from tests.agents.soft import disturbed, minimum, squashed
from tests.agents.tiny import (
    batch_of,
    disturb,
    gradients,
    leaks,
    make,
    metrics_of,
    value_of,
    weights,
)
from tests.toy_data import box_spaces

# The losses, written out from the papers.


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_critic_loss_sums_over_critics_toward_the_soft_target(count: int) -> None:
    agent = disturbed(critics=count, initial_temperature=0.3, discount=0.9)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, r, d, s2 = double(batch)
    a2, log_prob = squashed(naive, s2, batch.noise["next_action"])
    value = minimum(naive, "critic_target", s2, a2) - 0.3 * log_prob
    y = (r + 0.9 * (1 - d) * value).detach()
    loss = torch.stack([((naive.q("critic", i, s, a) - y) ** 2).mean() for i in range(count)]).sum()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))
    agree(metrics_of(agent, "critic_loss", batch)["q_target"], y)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("target_entropy", [None, -0.5])
def test_actor_and_temperature_descend_their_losses(
    count: int, target_entropy: float | None
) -> None:
    """L_pi = mean(alpha log pi - min Q); L_alpha = -log alpha mean(log pi + H)."""
    agent = disturbed(critics=count, initial_temperature=0.3, target_entropy=target_entropy)
    batch = batch_of(agent)
    naive = Naive(agent)
    s = double(batch)[0]
    action, log_prob = squashed(naive, s, batch.noise["action"])
    log_alpha = naive.leaves["temperature"]["log"]
    entropy = -2.0 if target_entropy is None else target_entropy
    actor = (0.3 * log_prob - minimum(naive, "critic", s, action)).mean()
    dual = -(log_alpha * (log_prob.detach() + entropy).mean()).sum()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, actor + dual)
    agree(by_network["actor"], naive.gradient("actor", actor))
    agree(by_network["temperature"], naive.gradient("temperature", dual))


# Invariants.


def test_in_a_bandit_the_target_is_the_reward_whatever_else() -> None:
    """Invariant 2."""
    targets = []
    for temperature in (0.01, 100.0):
        agent = disturbed(initial_temperature=temperature)
        disturb(agent, "critic_target", seed=int(temperature) + 50)
        batch = batch_of(agent, terminations=torch.ones(24))
        targets.append(metrics_of(agent, "critic_loss", batch)["q_target"])
        assert torch.equal(targets[-1], batch.rewards)
    going_on = batch_of(agent, terminations=torch.zeros(24))
    assert not torch.equal(metrics_of(agent, "critic_loss", going_on)["q_target"], targets[0])


def test_each_loss_reaches_its_own_networks_alone() -> None:
    """The temperature weighs the actor's loss as a constant."""
    agent = disturbed()
    batch = batch_of(agent)
    assert leaks(agent, "critic_loss", batch) == {"critic"}
    # The learner freezes critics in the actor's step; the loss itself runs through them.
    assert leaks(agent, "actor_loss", batch) == {"actor", "temperature", "critic"}
    _, by_network = gradients(agent, "actor_loss", batch)
    log_prob = -metrics_of(agent, "actor_loss", batch)["entropy"]
    expected = -(log_prob.mean() - 2.0)
    torch.testing.assert_close(by_network["temperature"], expected.view(1))


def test_the_temperature_rests_where_the_entropy_is_its_target() -> None:
    """Invariant 7."""
    agent = disturbed()
    batch = batch_of(agent)
    entropy = metrics_of(agent, "actor_loss", batch)["entropy"]
    resting = disturbed(target_entropy=float(entropy.mean()))
    assert gradients(resting, "actor_loss", batch)[1]["temperature"].abs().item() < 1e-5
    multiplier = agent.learner.nets.temperature
    assert multiplier.dual_loss(torch.zeros(5)).item() == 0


@pytest.mark.parametrize(("offset", "rises"), [(1.0, True), (-1.0, False)])
def test_the_temperature_rises_while_the_entropy_lies_below_its_target(
    offset: float, rises: bool
) -> None:
    """Invariant 7, through training."""
    agent = disturbed()
    batch = batch_of(agent)
    entropy = float(metrics_of(agent, "actor_loss", batch)["entropy"].mean())
    agent = disturbed(target_entropy=entropy + offset, actor_learning_rate=0.0)
    before = agent.learner.nets.temperature().item()
    for _ in range(20):
        agent.learner.step(batch.rows)
    after = agent.learner.nets.temperature().item()
    assert (after > before) == rises
    assert abs(after - before) > 1e-3


def critic_members(agent: Any, network: str) -> list[Tensor]:
    return list(agent.learner.nets.get_submodule(network).parameters())


def test_identical_critics_are_one_and_their_losses_add() -> None:
    """Invariants 5 and 8: min = any of them; the loss of N copies is N times that of one."""
    one, many = disturbed(critics=1), disturbed(critics=4)
    with torch.no_grad():
        for network in ("critic", "critic_target"):
            pairs = zip(critic_members(many, network), critic_members(one, network), strict=True)
            for into, source in pairs:
                into.copy_(source.expand_as(into))
    batch = batch_of(one)
    alone, copies = (gradients(agent, "critic_loss", batch) for agent in (one, many))
    torch.testing.assert_close(copies[0], 4 * alone[0])
    sizes = [parameter.numel() // 4 for parameter in critic_members(many, "critic")]
    parts = zip(copies[1]["critic"].split([4 * n for n in sizes]), sizes, strict=True)
    first = torch.cat([part[:size] for part, size in parts])
    torch.testing.assert_close(first, alone[1]["critic"], rtol=1e-4, atol=1e-5)
    alone, copies = (gradients(agent, "actor_loss", batch) for agent in (one, many))
    torch.testing.assert_close(copies[0], alone[0])
    torch.testing.assert_close(copies[1]["actor"], alone[1]["actor"], rtol=1e-4, atol=1e-5)


def test_the_actor_follows_the_lowest_critic_alone() -> None:
    """Invariant 5: the gradient flows to the argmin member only."""
    agent = disturbed(critics=3)
    with torch.no_grad():
        agent.learner.nets.critic.trunk.biases[-1][1:] += 1000.0
    batch = batch_of(agent)
    before = gradients(agent, "actor_loss", batch)[1]["actor"]
    with torch.no_grad():
        agent.learner.nets.critic.trunk.weights[0][1:] *= -2.0
    after = gradients(agent, "actor_loss", batch)[1]["actor"]
    assert torch.equal(before, after)
    with torch.no_grad():
        agent.learner.nets.critic.trunk.weights[0][:1] *= -2.0
    assert not torch.equal(before, gradients(agent, "actor_loss", batch)[1]["actor"])


def test_more_critics_never_raise_the_target() -> None:
    """The minimum over an ensemble is at most that over part of it."""
    many, few = disturbed(critics=6), disturbed(critics=2)
    few.learner.flat["actor"].data.copy_(many.learner.flat["actor"].data)
    with torch.no_grad():
        pairs = zip(
            critic_members(few, "critic_target"),
            critic_members(many, "critic_target"),
            strict=True,
        )
        for into, source in pairs:
            into.copy_(source[:2])
    batch = batch_of(many, terminations=torch.zeros(24))
    lower, higher = (metrics_of(a, "critic_loss", batch)["q_target"] for a in (many, few))
    assert (lower <= higher + 1e-6).all()
    assert (lower < higher - 1e-3).any()


def test_targets_enter_the_critic_s_loss_alone_and_critics_the_actor_s() -> None:
    agent = disturbed()
    batch = batch_of(agent)
    names = ("critic_loss", "actor_loss")
    before = [value_of(agent, name, batch) for name in names]
    disturb(agent, "critic_target", seed=77)
    after = [value_of(agent, name, batch) for name in names]
    assert [a != b for a, b in zip(before, after, strict=True)] == [True, False]


def test_noise_of_the_two_samples_is_not_shared() -> None:
    agent = disturbed()
    batch = batch_of(agent)
    before = [value_of(agent, name, batch) for name in ("critic_loss", "actor_loss")]
    batch.noise["action"].add_(1.0)
    middle = [value_of(agent, name, batch) for name in ("critic_loss", "actor_loss")]
    batch.noise["next_action"].add_(1.0)
    after = [value_of(agent, name, batch) for name in ("critic_loss", "actor_loss")]
    assert [a != b for a, b in zip(before, middle, strict=True)] == [False, True]
    assert [a != b for a, b in zip(middle, after, strict=True)] == [True, False]


def test_a_bandit_s_policy_has_the_entropy_it_is_asked_for() -> None:
    """Reward -4 a^2 at every state: temperature and spread settle at the target entropy."""
    agent = make(
        "sac",
        hidden=[32],
        target_entropy=-0.5,
        actor_learning_rate=3e-3,
        critic_learning_rate=5e-3,
        temperature_learning_rate=2e-2,
    )
    generator = torch.Generator().manual_seed(0)
    entropies = []
    for step in range(700):
        batch = batch_of(agent, 64, terminations=torch.ones(64))
        batch.actions.copy_(2 * torch.rand(64, 2, generator=generator) - 1)
        batch.rewards.copy_(-4 * batch.actions.square().sum(1))
        agent.learner.step(batch.rows)
        if step >= 500:
            entropies.append(agent.learner.metrics()["entropy"])
    assert sum(entropies) / len(entropies) == pytest.approx(-0.5, abs=0.1)
    start = make("sac", hidden=[32])
    assert metrics_of(start, "actor_loss", batch)["entropy"].mean().item() > 0.5
    mode = agent.act(torch.zeros(1, 4), deterministic=True)
    assert abs(mode).max() < 0.2
    assert weights(agent)["temperature"].item() != pytest.approx(0.0, abs=0.1)


def small_bandit(**settings: Any) -> tuple[float, float]:
    """Spread and temperature learned where Q(a) = -100 |a|^2, so small that tanh is the identity.

    Means of the last 200 of 800 updates, all at one state, the second half at a tenth of the rates.
    """
    agent = make("sac", hidden=[8], actor_learning_rate=2e-2, critic_learning_rate=0.0, **settings)
    agent.policy_value = lambda nets, observations, action: -100.0 * action.square().sum(-1)
    batch = batch_of(agent, 128)
    batch.observations.zero_()
    spreads, temperatures = [], []
    for step in range(800):
        if step == 400:
            for optimizer in agent.learner.optimizers.values():
                optimizer.set_learning_rate(0.1 * float(optimizer.learning_rate))
        agent.learner.step(batch.rows)
        if step >= 600:
            with torch.no_grad():
                policy = agent.learner.nets.actor(batch.observations[:1])
            assert policy.mean.abs().max() < 0.03
            spreads.append(policy.log_std.exp().mean().item())
            temperatures.append(agent.learner.nets.temperature().item())
    return sum(spreads) / 200, sum(temperatures) / 200


def test_a_bandit_s_best_policy_is_a_normal_of_variance_alpha_over_curvature() -> None:
    """Invariant 3, at a fixed temperature: N(0, 0.5 / 200), a deviation of 0.05."""
    spread, temperature = small_bandit(initial_temperature=0.5, temperature_learning_rate=0.0)
    assert temperature == pytest.approx(0.5)
    assert spread == pytest.approx(0.05, rel=0.06)


def test_a_bandit_s_temperature_settles_where_the_entropy_is_its_target() -> None:
    """Invariant 3: sigma = exp(H - log(2 pi e) / 2) per dimension, alpha = 200 sigma^2 = 0.5."""
    entropy = 2 * (math.log(0.05) + 0.5 * math.log(2 * math.pi * math.e))
    spread, temperature = small_bandit(target_entropy=entropy, temperature_learning_rate=2e-2)
    assert spread == pytest.approx(0.05, rel=0.06)
    assert temperature == pytest.approx(0.5, rel=0.15)


def test_a_linear_quadratic_regulator_s_critic_solves_the_riccati_equation() -> None:
    """Invariant 4: s' = s + a, r = -(s^2 + a^2), discount 1/2, alpha near 0.

    P = 1 + P / (2 + P) gives P = sqrt 2, so Q = -(s^2 + a^2 + (s + a)^2 / sqrt 2). The data fill
    the set that the dynamics do not leave. Measured: errors of 0.03 on average, 0.08 at most.
    """
    agent = make(
        "sac",
        spaces=box_spaces(1, 1),
        hidden=[32],
        discount=0.5,
        target_rate=0.05,
        initial_temperature=1e-4,
        temperature_learning_rate=0.0,
        actor_learning_rate=5e-3,
        critic_learning_rate=5e-3,
    )
    axis = torch.linspace(-1, 1, 41)
    s, a = (part.flatten() for part in torch.meshgrid(axis, axis, indexing="ij"))
    inside = (s + a).abs() <= 1
    s, a = s[inside], a[inside]
    wanted = -(s**2 + a**2 + (s + a) ** 2 / math.sqrt(2))

    def error() -> Tensor:
        with torch.no_grad():
            return (agent.learner.nets.critic(s[:, None], a[:, None]).mean(0) - wanted).abs()

    assert error().mean() > 0.5
    generator = torch.Generator().manual_seed(0)
    for _ in range(1000):
        index = torch.randint(len(s), (128,), generator=generator)
        state, action = s[index], a[index]
        rows = agent.layout.pack(
            observations=state,
            actions=action,
            rewards=-(state**2 + action**2),
            terminations=torch.zeros(128),
            next_observations=state + action,
        )
        agent.learner.step(rows)
    assert error().mean() < 0.05
    assert error().max() < 0.15
