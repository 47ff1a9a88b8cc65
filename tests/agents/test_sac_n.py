from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from rlalign.errors import SettingsError
from tests.agents.naive import Naive, agree, double
from tests.agents.soft import all_values, disturbed, minimum, squashed
from tests.agents.tiny import batch_of, gradients, learn_alike, make, weights

BOUNDS = (-5.0, 2.0)
AS_SAC: dict[str, Any] = {
    "log_std_bounds": [-20.0, 2.0],
    "initialization": "torch",
    "update_order": "critic_first",
}


@pytest.mark.parametrize("count", [2, 6])
def test_the_losses_take_the_minimum_of_all_critics(count: int) -> None:
    agent = disturbed("sac_n", critics=count, initial_temperature=0.3, discount=0.9)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, r, d, s2 = double(batch)
    a2, log_prob = squashed(naive, s2, batch.noise["next_action"], *BOUNDS)
    y = r + 0.9 * (1 - d) * (minimum(naive, "critic_target", s2, a2) - 0.3 * log_prob)
    critic = ((all_values(naive, "critic", s, a) - y.detach()) ** 2).mean(1).sum()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, critic)
    agree(by_network["critic"], naive.gradient("critic", critic))
    action, log_prob = squashed(naive, s, batch.noise["action"], *BOUNDS)
    actor = (0.3 * log_prob - minimum(naive, "critic", s, action)).mean()
    _, by_network = gradients(agent, "actor_loss", batch)
    agree(by_network["actor"], naive.gradient("actor", actor))


@pytest.mark.parametrize("count", [2, 5])
def test_with_sac_s_networks_and_order_it_is_sac_bit_for_bit(count: int) -> None:
    """Invariant 5."""
    agents = [make("sac_n", critics=count, **AS_SAC), make("sac", critics=count)]
    start = weights(agents[1])
    learn_alike(agents, start)


def test_the_actor_s_step_comes_first() -> None:
    """Its critics are those of the update before; the critics' target uses the new actor."""
    orders = {
        order: [update.loss for update in make("sac_n", update_order=order).updates]
        for order in ("actor_first", "critic_first")
    }
    assert make("sac_n").settings.update_order == "actor_first"
    assert orders["actor_first"] == ["actor_loss", "critic_loss"]
    assert orders["critic_first"] == ["critic_loss", "actor_loss"]


@pytest.mark.parametrize(("kind", "fan_of_first"), [("edac", 6), ("corl", 64)])
def test_networks_begin_as_the_authors_do(kind: str, fan_of_first: int) -> None:
    """Hidden biases 0.1, heads within 1e-3 and 3e-3; the critics' first layer tells the codes."""
    agent = make("sac_n", initialization=kind, hidden=[64, 32])
    for network, head in (("actor", 1e-3), ("critic", 3e-3)):
        trunk = agent.learner.nets.get_submodule(network).trunk
        for bias in trunk.biases[:-1]:
            assert torch.equal(bias, torch.full_like(bias, 0.1))
        for last in (trunk.weights[-1], trunk.biases[-1]):
            assert 0.5 * head < last.abs().max() <= head
    first = agent.learner.nets.critic.trunk.weights[0].abs().max().item()
    assert first == pytest.approx(1 / math.sqrt(fan_of_first), rel=0.02)
    policy = agent.learner.nets.actor.trunk.weights[0].abs().max().item()
    assert policy == pytest.approx(1 / math.sqrt(4), rel=0.05)


def test_members_begin_apart() -> None:
    weight = make("sac_n").learner.nets.critic.trunk.weights[0]
    assert weight.std(0).min() > 1e-3


def test_the_spread_stays_within_its_bounds() -> None:
    agent = make("sac_n")
    actor, state, noise = agent.learner.nets.actor, torch.zeros(1, 4), torch.full((1, 2), 0.1)
    for bias, wanted in ((-100.0, -5.0), (100.0, 2.0)):
        with torch.no_grad():
            actor.trunk.biases[-1][..., 2:].fill_(bias)
            apart = actor.act(state, noise).atanh() - actor.act(state, -noise).atanh()
        assert apart[0].tolist() == pytest.approx([0.2 * math.exp(wanted)] * 2, rel=1e-2)


def test_bounds_out_of_order_are_refused() -> None:
    with pytest.raises(SettingsError, match="log_std_bounds"):
        make("sac_n", log_std_bounds=[2.0, -5.0])
