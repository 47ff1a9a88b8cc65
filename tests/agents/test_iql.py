from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.agents.iql import advantage_weight, expectile_loss
from rlalign.layout import Layout
from rlalign.phases import OfflinePhase
from tests.agents.naive import Naive, agree, double, gaussian_log_prob
from tests.agents.tiny import (
    batch_of,
    disturb,
    gradients,
    gradients_by_hand,
    leaks,
    make,
    metrics_of,
    replay_of,
    value_of,
    weights,
)
from tests.toy_data import box_spaces, random_dataset


def disturbed(**settings: Any) -> Any:
    """An agent whose targets differ from their networks and whose advantages are not tiny."""
    agent = make("iql", **settings)
    for seed, network in enumerate(agent.learner.flat):
        if network != "actor":
            disturb(agent, network, seed)
    with torch.no_grad():
        agent.learner.nets.value.trunk.biases[-1].sub_(1.4)  # advantages of both signs
        if not agent.settings.deterministic_actor:
            agent.learner.nets.actor.log_std.copy_(torch.tensor([-0.4, 0.3]))
    return agent


def minimum(naive: Naive, network: str, observations: Tensor, actions: Tensor) -> Tensor:
    return torch.minimum(*(naive.q(network, i, observations, actions) for i in (0, 1)))


# The losses, written out from the paper.


@pytest.mark.parametrize("expectile", [0.5, 0.7, 0.9])
def test_the_value_loss_is_expectile_regression_on_the_target_critics(expectile: float) -> None:
    agent = disturbed(expectile=expectile)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, *_ = double(batch)
    difference = minimum(naive, "critic_target", s, a).detach() - naive.run("value", 0, s)[:, 0]
    weight = (expectile - (difference < 0).double()).abs()
    loss = (weight * difference**2).mean()
    found, by_network = gradients(agent, "value_loss", batch)
    agree(found, loss)
    agree(by_network["value"], naive.gradient("value", loss))
    assert (difference > 0).any()
    assert (difference < 0).any()


@pytest.mark.parametrize("beta", [0.0, 3.0, 10.0])
def test_the_actor_loss_weighs_log_densities_by_advantages(beta: float) -> None:
    agent = disturbed(beta=beta)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, *_ = double(batch)
    advantage = minimum(naive, "critic_target", s, a) - naive.run("value", 0, s)[:, 0]
    weight = torch.exp(beta * advantage).clamp(max=100.0).detach()
    std = naive.leaves["actor"]["log_std"].exp()
    assert bool((weight == 100).any()) == (beta == 10)
    assert (weight < 100).any()
    loss = -(weight * gaussian_log_prob(a, torch.tanh(naive.run("actor", 0, s)), std)).mean()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))


def test_the_deterministic_actor_regresses_with_the_same_weights() -> None:
    agent = disturbed(deterministic_actor=True)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, *_ = double(batch)
    advantage = minimum(naive, "critic_target", s, a) - naive.run("value", 0, s)[:, 0]
    weight = torch.exp(3.0 * advantage).clamp(max=100.0).detach()
    error = (torch.tanh(naive.run("actor", 0, s)) - a) ** 2
    loss = (weight * error.sum(1)).mean()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))


def test_the_critic_loss_is_the_sum_over_critics_toward_the_value_of_the_next_state() -> None:
    """Invariant 7: CORL's mean of the two would be half of it."""
    agent = disturbed(discount=0.9)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, r, d, s2 = double(batch)
    y = (r + 0.9 * (1 - d) * naive.run("value", 0, s2)[:, 0]).detach()
    loss = torch.stack([((naive.q("critic", i, s, a) - y) ** 2).mean() for i in (0, 1)]).sum()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))


# Invariants.


def test_the_expectile_loss_at_plus_and_minus_one() -> None:
    one = torch.ones(1)
    assert expectile_loss(one, 0.7).item() == pytest.approx(0.7)
    assert expectile_loss(-one, 0.7).item() == pytest.approx(0.3)
    difference = torch.randn(50, generator=torch.Generator().manual_seed(0))
    half = 0.5 * difference.square().mean()
    torch.testing.assert_close(expectile_loss(difference, 0.5), half)


@pytest.mark.parametrize(
    ("expectile", "share", "value"), [(0.7, 0.5, 0.7), (0.9, 0.25, 0.75), (0.5, 0.25, 0.25)]
)
def test_training_finds_the_expectile_of_two_outcomes(
    expectile: float, share: float, value: float
) -> None:
    """Invariant 1: V* = tau p / (tau p + (1 - tau)(1 - p)); at 0.5 it is the mean."""
    agent = make(
        "iql",
        spaces=box_spaces(1, 1),
        expectile=expectile,
        target_rate=0.1,
        critic_learning_rate=1e-2,
        value_learning_rate=1e-2,
    )
    good = torch.arange(32) < 32 * share
    rows = Layout(1, 1).pack(
        observations=torch.zeros(32, 1),
        actions=torch.where(good, 0.5, -0.5),
        rewards=good.float(),
        terminations=torch.ones(32),
        next_observations=torch.zeros(32, 1),
    )
    before = agent.learner.nets.value(torch.zeros(1, 1)).item()
    for _ in range(300):
        agent.learner.step(rows)
    found = agent.learner.nets.value(torch.zeros(1, 1)).item()
    assert found == pytest.approx(value, abs=0.01)
    assert abs(before - value) > 0.05


def test_at_half_the_values_are_those_of_the_data_s_policy() -> None:
    """Invariant 2: V and Q together end at SARSA's evaluation of it, upwards of it at 0.9.

    Two states one after the other; in the first the data's policy gambles, in the second one action
    in four pays 1 and the others nothing.
    """
    first, second = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    gambles, good = torch.arange(16) % 2 == 0, torch.arange(16) % 4 == 0
    rows = Layout(2, 1).pack(
        observations=torch.cat((first.expand(16, 2), second.expand(16, 2))),
        actions=torch.cat((gambles, good)).float() - 0.5,
        rewards=torch.cat((torch.where(gambles, -0.4, 0.2), good.float())),
        terminations=torch.cat((torch.zeros(16), torch.ones(16))),
        next_observations=torch.cat((second.expand(16, 2), torch.zeros(16, 2))),
    )
    found = {}
    for expectile in (0.5, 0.9):
        agent = make(
            "iql",
            spaces=box_spaces(2, 1),
            expectile=expectile,
            discount=0.8,
            target_rate=0.1,
            critic_learning_rate=1e-2,
            value_learning_rate=1e-2,
        )
        for _ in range(400):
            agent.learner.step(rows.clone())
        found[expectile] = agent.learner.nets.value(torch.eye(2)).squeeze().tolist()
    # E r + 0.8 V(second), and E r.
    assert found[0.5] == pytest.approx([-0.1 + 0.8 * 0.25, 0.25], abs=0.01)
    # The expectile is 0.75 in the second state; in the first it weighs 0.2 and -0.4 nine to one.
    assert found[0.9] == pytest.approx([0.9 * 0.2 - 0.1 * 0.4 + 0.8 * 0.75, 0.75], abs=0.01)


def test_higher_expectiles_give_higher_values_up_to_the_best_action_s() -> None:
    """Invariant 2: the minimum of the loss in V rises with tau and ends at the maximum."""
    outcomes = torch.tensor([-1.0, 0.0, 0.5, 3.0], dtype=torch.float64)
    found = []
    for expectile in (0.5, 0.7, 0.9, 0.99, 0.9999):
        value = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.LBFGS([value], max_iter=200, line_search_fn="strong_wolfe")

        def loss(value: Tensor = value, expectile: float = expectile) -> Tensor:
            value.grad = None
            result = expectile_loss(outcomes - value, expectile)
            result.backward()
            return result

        optimizer.step(loss)
        found.append(value.item())
    assert found[0] == pytest.approx(outcomes.mean().item(), abs=1e-6)
    assert found == sorted(found)
    assert len(set(found)) == len(found)
    assert found[-1] == pytest.approx(3.0, abs=2e-3)


def test_advantage_weights_and_their_limit() -> None:
    """Invariant 3."""
    weight = advantage_weight(torch.tensor([0.0, 1.0, 2.0, 1000.0, -1000.0]), 3.0, 100.0)
    torch.testing.assert_close(weight, torch.tensor([1.0, 20.0855369, 100.0, 100.0, 0.0]))
    assert not advantage_weight(torch.ones(1, requires_grad=True), 3.0, 100.0).requires_grad


def test_without_temperature_it_is_behaviour_cloning() -> None:
    agent = disturbed(beta=0.0)
    batch = batch_of(agent)
    assert (metrics_of(agent, "actor_loss", batch)["advantage_weight"] == 1).all()
    nets = agent.learner.nets
    cloning = -nets.actor.log_prob(batch.observations, batch.actions).mean()
    assert value_of(agent, "actor_loss", batch) == pytest.approx(float(cloning))
    spread = metrics_of(disturbed(), "actor_loss", batch)["advantage_weight"]
    assert spread.std() > 0.1


@pytest.mark.parametrize("deterministic", [False, True])
def test_each_loss_reaches_its_own_network_alone(deterministic: bool) -> None:
    agent = disturbed(deterministic_actor=deterministic)
    batch = batch_of(agent)
    assert leaks(agent, "actor_loss", batch) == {"actor"}
    assert leaks(agent, "value_loss", batch) == {"value"}
    assert leaks(agent, "critic_loss", batch) == {"critic"}


def test_garbage_in_the_policy_leaves_values_and_critics_bit_for_bit() -> None:
    """Invariant 6: nothing is ever asked about actions outside the data."""
    whole, garbage = make("iql"), make("iql")
    disturb(garbage, "actor")
    garbage.learner.flat["actor"].data.mul_(5)
    start = weights(whole)
    for agent in (whole, garbage):
        agent.update(replay_of(agent), 60)
    first, second = weights(whole), weights(garbage)
    for network in ("critic", "value", "critic_target"):
        assert torch.equal(first[network], second[network])
        assert (first[network] - start[network]).abs().max() > 1e-3
    assert not torch.equal(first["actor"], second["actor"])


def chain(*, terminated: bool) -> Tensor:
    """Three states in a row, one action, rewards 0, 0, 1; then the end, or a time limit there."""
    states = torch.eye(3)
    return (
        Layout(3, 1)
        .pack(
            observations=states,
            actions=torch.zeros(3, 1),
            rewards=[0.0, 0.0, 1.0],
            terminations=[0.0, 0.0, float(terminated)],
            next_observations=states[[1, 2, 2]],
        )
        .repeat(8, 1)
    )


def trained_on(rows: Tensor, steps: int) -> Tensor:
    agent = make(
        "iql",
        spaces=box_spaces(3, 1),
        hidden=[64],
        target_rate=0.02,
        critic_learning_rate=3e-3,
        value_learning_rate=3e-3,
    )
    for _ in range(steps):
        agent.learner.step(rows)
    values: Tensor = agent.learner.nets.value(torch.eye(3)).detach()
    return values


def test_values_of_a_chain_are_discounted_rewards() -> None:
    """Invariant 5."""
    values = trained_on(chain(terminated=True), 700)
    torch.testing.assert_close(values, torch.tensor([0.9801, 0.99, 1.0]), atol=0.01, rtol=0)


def test_a_time_limit_at_the_end_of_the_chain_is_bootstrapped() -> None:
    """There the last state's value is on its way to 1 / (1 - 0.99) = 100."""
    values = trained_on(chain(terminated=False), 700)
    assert values.min() > 2


def test_values_regress_on_target_critics_and_critics_on_online_values() -> None:
    agent = disturbed()
    batch = batch_of(agent)
    names = ("value_loss", "actor_loss", "critic_loss")

    def losses() -> list[float]:
        return [value_of(agent, name, batch) for name in names]

    before = losses()
    expected = {
        "critic_target": [True, True, False],
        "critic": [False, False, True],
        "value": [True, True, True],
        "actor": [False, True, False],
    }
    for network, changes in expected.items():
        data = agent.learner.flat[network].data
        kept = data.clone()
        disturb(agent, network, seed=77)
        assert [a != b for a, b in zip(before, losses(), strict=True)] == changes, network
        data.copy_(kept)


def test_with_a_value_of_zero_critics_regress_on_the_reward() -> None:
    """Invariant 7."""
    agent = disturbed()
    agent.learner.flat["value"].data.zero_()
    batch = batch_of(agent)
    q = agent.learner.nets.critic.joint(batch.observation_actions)
    wanted = (q - batch.rewards).square().mean(1).sum()
    assert value_of(agent, "critic_loss", batch) == pytest.approx(float(wanted))


def test_a_step_is_value_then_actor_then_critic_each_from_the_one_before() -> None:
    """The official order; one step of the learner is those three by hand."""
    agent, by_hand = disturbed(), disturbed()
    batch = batch_of(agent)
    agent.learner.step(batch.rows)
    wanted = gradients_by_hand(by_hand, ("value_loss", "actor_loss", "critic_loss"), batch)
    for network, gradient in wanted.items():
        torch.testing.assert_close(agent.learner.flat[network].grad, gradient)
    target, online = by_hand.learner.flat["critic_target"].data, by_hand.learner.flat["critic"].data
    target.lerp_(online, 0.005)
    first, second = weights(agent), weights(by_hand)
    for network in first:
        assert (first[network] - second[network]).abs().max() < 1e-7


def test_values_before_their_step_give_the_gradients_of_one_and_the_same_parameters() -> None:
    """CORL's order."""
    agent, still = disturbed(fresh_value=False), disturbed()
    rows = batch_of(agent).rows
    agent.learner.step(rows)
    for loss in ("value_loss", "actor_loss", "critic_loss"):
        _, wanted = gradients(still, loss, batch_of(still))
        ((network, gradient),) = wanted.items()
        assert torch.equal(agent.learner.flat[network].grad, gradient)
    later = disturbed()
    later.learner.step(rows)
    for network in ("actor", "critic"):  # the official order differs in these
        mine, other = agent.learner.flat[network].grad, later.learner.flat[network].grad
        assert (mine - other).abs().max() > 1e-5


def test_the_actor_s_rate_falls_to_zero_offline_and_is_constant_online() -> None:
    agent = make("iql")
    phase = OfflinePhase(agent, random_dataset(), 40)
    rates = agent.learner.optimizers
    phase.advance(21)
    expected = 3e-4 * 0.5 * (1 + math.cos(math.pi * 20 / 40))
    assert float(rates["actor"].learning_rate) == pytest.approx(expected, rel=1e-4)
    phase.advance(19)
    assert float(rates["actor"].learning_rate) < 1e-5
    for network in ("critic", "value"):
        assert float(rates[network].learning_rate) == pytest.approx(3e-4)
    agent.begin_online()
    agent.update(phase.replay, 3)
    for network in ("actor", "critic", "value"):
        assert float(rates[network].learning_rate) == pytest.approx(3e-4)


def test_the_data_s_actions_are_kept_off_the_bounds() -> None:
    agent = make("iql")
    dataset = random_dataset()
    dataset.table[:, agent.layout.columns["actions"]] = 1.0
    seen: list[Tensor] = []
    step = agent.learner.step

    def watch(rows: Tensor) -> None:
        seen.append(rows.clone())
        step(rows)

    agent.learner.step = watch
    phase = OfflinePhase(agent, dataset, 1)
    phase.advance(1)
    actions = seen[0][:, agent.layout.columns["actions"]]
    torch.testing.assert_close(actions, torch.full_like(actions, 1 - 1e-5), rtol=0, atol=1e-7)


def test_online_actions_are_clipped_samples_of_the_unsquashed_normal() -> None:
    agent = make("iql")
    observations = torch.zeros(4000, 4)
    noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(0))
    nets = agent.learner.nets
    actions = agent.explore(nets, observations, noise)
    wanted = (torch.tanh(nets.actor.trunk(observations)[0]) + noise).clamp(-1, 1)
    torch.testing.assert_close(actions, wanted)
    assert (actions.abs() == 1).float().mean() > 0.1
    deterministic = make("iql", deterministic_actor=True, exploration_noise=0.3)
    nets = deterministic.learner.nets
    wanted = (nets.actor(observations) + 0.3 * noise).clamp(-1, 1)
    torch.testing.assert_close(deterministic.explore(nets, observations, noise), wanted)
