from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from rlalign.agents.ensemble import uncertainty_penalty
from rlalign.errors import SettingsError
from rlalign.layout import Batch
from tests.agents.naive import Naive, agree, double
from tests.agents.soft import all_values, disturbed, minimum, policy, same_networks, squashed
from tests.agents.tiny import (
    batch_of,
    gradients,
    leaks,
    make,
    metrics_of,
    replay_of,
    value_of,
    weights,
)

BOUNDS = (-5.0, 2.0)
# Large, so that each term counts in single precision.
STRONG: dict[str, Any] = {
    "critics": 4,
    "perturbations": 5,
    "shared_perturbations": False,
    "critic_smoothing": 0.7,
    "critic_radius": 0.3,
    "policy_smoothing": 0.4,
    "policy_radius": 0.25,
    "ood_weight": 0.6,
    "ood_radius": 0.2,
    "uncertainty": 0.9,
    "initial_temperature": 0.3,
    "discount": 0.9,
}
OFF: dict[str, Any] = {"critic_smoothing": 0.0, "policy_smoothing": 0.0, "ood_weight": 0.0}


def moved(batch: Batch, name: str, draw: int, radius: float) -> Tensor:
    """The states of one draw, in double precision."""
    directions = batch.noise[name][..., draw, :].double()  # of each row, or of all alike
    return batch.observations.double() + radius * directions


def regression(naive: Naive, batch: Batch) -> Tensor:
    s, a, r, d, s2 = double(batch)
    a2, log_prob = squashed(naive, s2, batch.noise["next_action"], *BOUNDS)
    y = r + 0.9 * (1 - d) * (minimum(naive, "critic_target", s2, a2) - 0.3 * log_prob)
    return ((all_values(naive, "critic", s, a) - y.detach()) ** 2).mean(1).sum()


def roughness(naive: Naive, batch: Batch, draws: int, radius: float) -> Tensor:
    """mean_b max_j mean_i 0.8 max(diff, 0)^2 + 0.2 min(diff, 0)^2, by loops over draws."""
    s, a, *_ = double(batch)
    base = all_values(naive, "critic", s, a)
    costs = []
    for j in range(draws):
        there = all_values(naive, "critic", moved(batch, "critic_smoothing", j, radius), a)
        diff = there - base
        cost = 0.8 * diff.clamp(min=0) ** 2 + 0.2 * diff.clamp(max=0) ** 2
        costs.append(cost.mean(0))
    return torch.stack(costs).max(0).values.mean()


def penalty(naive: Naive, batch: Batch, draws: int, radius: float, weight: float) -> Tensor:
    """mean (q - sg(q - lambda u))^2, by loops over draws."""
    parts = []
    for j in range(draws):
        state = moved(batch, "ood", j, radius)
        action, _ = squashed(naive, state, batch.noise["ood_action"][:, j], *BOUNDS)
        q = all_values(naive, "critic", state, action.detach())
        u = ((q - q.mean(0)) ** 2).sum(0).div(len(q) - 1).sqrt()
        parts.append((q - (q - weight * u).detach()) ** 2)
    return torch.stack(parts).mean()


# The losses, written out from the papers.


@pytest.mark.parametrize("only", ["both", "critic_smoothing", "ood_weight"])
def test_the_critic_loss_adds_smoothness_and_pessimism_outside_the_data(only: str) -> None:
    off = (
        {} if only == "both" else {n: 0.0 for n in ("critic_smoothing", "ood_weight") if n != only}
    )
    agent = disturbed("rorl", **{**STRONG, **off})
    batch = batch_of(agent)
    naive = Naive(agent)
    wanted = regression(naive, batch)
    if only != "ood_weight":
        wanted = wanted + 0.7 * roughness(naive, batch, 5, 0.3)
    if only != "critic_smoothing":
        wanted = wanted + 0.6 * penalty(naive, batch, 5, 0.2, 0.9)
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, wanted)
    agree(by_network["critic"], naive.gradient("critic", wanted))


@pytest.mark.parametrize("term", ["critic_smoothing", "ood"])
def test_each_term_s_gradient_alone(term: str) -> None:
    """By the difference from the loss without it, which the regression cannot hide."""
    weight = "ood_weight" if term == "ood" else term
    agent, without = disturbed("rorl", **STRONG), disturbed("rorl", **{**STRONG, weight: 0.0})
    same_networks(without, agent)
    batch = batch_of(agent)
    naive = Naive(agent)
    wanted = (
        0.6 * penalty(naive, batch, 5, 0.2, 0.9)
        if term == "ood"
        else 0.7 * roughness(naive, batch, 5, 0.3)
    )
    pair = [gradients(a, "critic_loss", batch)[1]["critic"].double() for a in (agent, without)]
    agree(pair[0] - pair[1], naive.gradient("critic", wanted), tolerance=1e-3)


def test_the_actor_loss_adds_the_largest_divergence_of_the_policy() -> None:
    agent = disturbed("rorl", **STRONG)
    batch = batch_of(agent)
    naive = Naive(agent)
    s = double(batch)[0]
    action, log_prob = squashed(naive, s, batch.noise["action"], *BOUNDS)
    actor = (0.3 * log_prob - minimum(naive, "critic", s, action)).mean()
    here = Normal(*policy(naive, s, 2, *BOUNDS))
    divergences = []
    for j in range(5):
        state = moved(batch, "policy_smoothing", j, 0.25)
        there = Normal(*policy(naive, state, 2, *BOUNDS))
        divergences.append((kl_divergence(here, there) + kl_divergence(there, here)).sum(-1))
    smoothness = 0.4 * torch.stack(divergences).max(0).values.mean()
    log_alpha = naive.leaves["temperature"]["log"]
    dual = -(log_alpha * (log_prob.detach() - 2.0).mean()).sum()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, actor + smoothness + dual)
    agree(by_network["actor"], naive.gradient("actor", actor + smoothness))
    agree(by_network["temperature"], naive.gradient("temperature", dual))
    without = disturbed("rorl", **{**STRONG, "policy_smoothing": 0.0})
    same_networks(without, agent)
    alone = by_network["actor"] - gradients(without, "actor_loss", batch)[1]["actor"]
    agree(alone.double(), naive.gradient("actor", smoothness), tolerance=1e-3)


@pytest.mark.parametrize("loss", ["critic_loss", "actor_loss"])
def test_one_set_of_perturbations_may_serve_the_whole_batch(loss: str) -> None:
    """The same as each row having that very set; and not the same as sets of their own."""
    terms = ("critic_smoothing", "policy_smoothing", "ood")
    alike, own = (
        disturbed("rorl", **{**STRONG, "shared_perturbations": True}),
        disturbed("rorl", **STRONG),
    )
    same_networks(own, alike)
    batch = batch_of(alike)
    assert all(batch.noise[term].dim() == 2 for term in terms)
    repeated = {
        name: noise.expand(len(batch), *noise.shape) if name in terms else noise
        for name, noise in batch.noise.items()
    }
    found = gradients(alike, loss, batch)
    wanted = gradients(own, loss, Batch(batch.rows, own.layout, repeated))
    torch.testing.assert_close(found[0], wanted[0])
    for network, gradient in wanted[1].items():
        agree(found[1][network], gradient, tolerance=1e-4)
    assert gradients(own, loss, batch_of(own))[0] != found[0]


# Limits.


@pytest.mark.parametrize("name", ["rorl", "ro2o"])
def test_without_its_terms_it_is_sac_n_bit_for_bit(name: str) -> None:
    """RO2O, invariant 1, and the issue's limit; the random numbers are the same too."""
    agents = [
        make(name, critics=4, **OFF),
        make("sac_n", critics=4, observation_normalization="standard"),
    ]
    whole = make(name, critics=4)
    for agent in (*agents, whole):
        agent.update(replay_of(agent), 30)
    first, second, third = (weights(agent) for agent in (*agents, whole))
    for network, found in first.items():
        assert torch.equal(found, second[network]), network
        assert not torch.equal(found, third[network]), network


@pytest.mark.parametrize(
    "settings",
    [
        {"critic_radius": 0.0, "policy_radius": 0.0, "ood_weight": 0.0},
        {"critic_smoothing": 0.0, "policy_smoothing": 0.0, "uncertainty": 0.0},
    ],
)
def test_a_term_of_no_radius_or_no_uncertainty_is_not_computed(settings: dict) -> None:
    """RO2O, invariants 3 and 4."""
    settings = {"uncertainty_floor": 0.0, **settings}
    agent = make("rorl", **settings)
    assert set(agent.noise) == {"action", "next_action"}
    assert "ood_penalty" not in metrics_of(agent, "critic_loss", batch_of(agent))


def test_with_radius_zero_and_one_draw_the_penalty_is_at_the_data_s_states() -> None:
    """RO2O, invariant 3: PBRL's."""
    agent = disturbed("rorl", **{**STRONG, "ood_radius": 0.0, "perturbations": 1})
    batch = batch_of(agent)
    naive = Naive(agent)
    agree(
        metrics_of(agent, "critic_loss", batch)["ood_penalty"],
        penalty(naive, batch, 1, 0.0, 0.9),
    )


# Invariants.


def test_a_state_far_above_the_others_does_not_mix_with_them() -> None:
    """RO2O, invariant 6: the repeat-and-reshape bug that RORL's code once had."""
    agent = disturbed("rorl", **STRONG)
    trunk = agent.learner.nets.critic.trunk
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter.zero_()
        trunk.weights[0][:, 0, 0] = 1000.0  # the first unit is 1000 relu(s_0), all after it 0 or 1
        trunk.weights[1][:, 0, 0] = 1.0
        trunk.weights[-1][:, 0, 0] = 1.0
    batch = batch_of(agent, 2)
    batch.observations[:, 0] = torch.tensor([-50.0, 50.0])
    batch.noise["critic_smoothing"][..., 0] = 0.0
    assert metrics_of(agent, "critic_loss", batch)["critic_roughness"].item() == 0.0
    batch.noise["critic_smoothing"][..., 0] = 1.0
    assert metrics_of(agent, "critic_loss", batch)["critic_roughness"].item() > 1.0


def test_a_linear_critic_is_as_rough_as_its_weights_allow() -> None:
    """RO2O, invariant 16: at most 0.8 (eps |w|_1)^2, and near it with many draws."""
    agent = make(
        "rorl",
        hidden=[],
        critics=2,
        perturbations=400,
        critic_radius=0.1,
        shared_perturbations=False,
    )
    with torch.no_grad():
        weight = agent.learner.nets.critic.trunk.weights[0]
        weight[:] = torch.tensor([0.5, -1.0, 2.0, 0.1, 3.0, 3.0]).view(1, 6, 1)
    batch = batch_of(agent, 40)
    found = metrics_of(agent, "critic_loss", batch)["critic_roughness"].item()
    limit = 0.8 * (0.1 * 3.6) ** 2
    assert 0.6 * limit < found <= limit * (1 + 1e-5)


def test_a_linear_policy_of_fixed_spread_diverges_by_its_mean_alone() -> None:
    """RO2O, invariant 16: D_J = |W d|^2 / sigma^2."""
    agent = make("rorl", hidden=[], perturbations=1, policy_radius=0.3, shared_perturbations=False)
    trunk = agent.learner.nets.actor.trunk
    with torch.no_grad():
        trunk.weights[0][:, :, 2:] = 0.0
        trunk.biases[0][..., 2:] = 0.5
        trunk.weights[0][:, :, :2] = torch.randn(1, 4, 2)
        matrix = trunk.weights[0][0, :, :2]
    batch = batch_of(agent)
    shift = 0.3 * batch.noise["policy_smoothing"][:, 0] @ matrix
    wanted = (shift.square().sum(1) / torch.tensor(0.5).exp().square()).mean()
    found = metrics_of(agent, "actor_loss", batch)["policy_roughness"]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_more_draws_find_rougher_places() -> None:
    """RO2O, invariant 14."""
    found = []
    for draws in (1, 4, 16):
        agent = disturbed("rorl", **{**STRONG, "perturbations": draws})
        batch = batch_of(agent)
        critic = metrics_of(agent, "critic_loss", batch)["critic_roughness"].item()
        found.append((critic, metrics_of(agent, "actor_loss", batch)["policy_roughness"].item()))
    assert found[0][0] < found[1][0] < found[2][0]
    assert found[0][1] < found[1][1] < found[2][1]


def test_the_gradient_flows_through_both_ends_of_a_difference() -> None:
    """RO2O, invariant 15: a constant added to every value changes nothing."""
    agent = disturbed("rorl", **{**STRONG, "ood_weight": 0.0})
    without = disturbed("rorl", **{**STRONG, "ood_weight": 0.0, "critic_smoothing": 0.0})
    batch = batch_of(agent)
    last = agent.learner.nets.critic.trunk.biases[-1].numel()  # the end of the flat gradient
    pair = [gradients(a, "critic_loss", batch)[1]["critic"] for a in (agent, without)]
    difference = pair[0] - pair[1]
    assert difference.abs().max() > 1e-3
    assert difference[-last:].abs().max() < 1e-5


def test_each_loss_reaches_its_own_networks_alone() -> None:
    """RO2O, invariant 13: no gradient of the penalty reaches the actor."""
    agent = disturbed("rorl", **STRONG)
    batch = batch_of(agent)
    assert leaks(agent, "critic_loss", batch) == {"critic"}
    assert leaks(agent, "actor_loss", batch) == {"actor", "temperature", "critic"}


def test_the_penalty_alone_pushes_the_values_down() -> None:
    """RO2O, invariant 17: they fall without end where nothing holds them."""
    agent = make("rorl", critics=4, uncertainty=5.0, hidden=[32, 32])
    critic = agent.learner.nets.critic
    inputs = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    means = []
    flat = agent.learner.flat["critic"]
    flat.requires_grad_(True)
    for _ in range(200):
        flat.grad.zero_()
        values = critic.joint(inputs)
        means.append(values.mean().item())
        uncertainty_penalty(values, torch.tensor(5.0)).backward()
        agent.learner.optimizers["critic"].step()
    assert means[-1] < means[100] - 0.01 < means[0] - 0.02


@pytest.mark.parametrize(
    "settings",
    [
        {"critics": 1},
        {"perturbations": 0},
        {"critic_radius": -0.1},
        {"ood_weight": -1.0},
        {"critic_asymmetry": 1.5},
        {"uncertainty": 0.05},
        {"uncertainty_decay": -1e-6},
    ],
)
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    name = next(iter(settings))
    with pytest.raises(SettingsError, match=name):
        make("rorl", **settings)
    assert value_of(make("rorl"), "critic_loss", batch_of(make("rorl"))) > 0
