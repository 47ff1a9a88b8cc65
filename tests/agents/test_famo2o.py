"""FamO2O's losses over each base, written out from the paper."""

from __future__ import annotations

import pytest
import torch

from rlalign.errors import SettingsError
from tests.agents.families import (
    AWAC,
    CQL,
    IQL,
    balance,
    both_phases,
    disturbed,
    minimum,
    phase_beta,
    policy,
    squashed,
)
from tests.agents.naive import Naive, agree, double, gaussian_log_prob
from tests.agents.tiny import batch_of, gradients, make, metrics_of


@both_phases
def test_iql_s_policy_loss_has_the_same_beta_in_weight_and_input(online: bool) -> None:
    agent = disturbed(IQL, online=online)
    batch, naive = batch_of(agent), Naive(agent)
    s, a, *_ = double(batch)
    beta = phase_beta(naive, agent, batch, s)
    assert beta.std() > 0.3
    advantage = minimum(naive, "critic_target", s, a) - naive.run("value", 0, s)[:, 0]
    weight = torch.exp(beta * advantage).clamp(max=100.0).detach()
    assert weight.std() > 0.1
    loss = -(weight * gaussian_log_prob(a, *policy(naive, agent, s, beta))).mean()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))


@both_phases
def test_awac_s_policy_loss_has_its_member_s_own_baseline(online: bool) -> None:
    agent = disturbed(AWAC, online=online)
    batch, naive = batch_of(agent), Naive(agent)
    s, a, *_ = double(batch)
    beta = phase_beta(naive, agent, batch, s)
    mean, std = policy(naive, agent, s, beta)
    sample = (mean + std * batch.noise["baseline"].double()[:, 0]).clamp(-1, 1)
    advantage = minimum(naive, "critic", s, a) - minimum(naive, "critic", s, sample)
    weight = torch.exp(beta * advantage).clamp(max=100.0).detach()
    loss = -(weight * gaussian_log_prob(a, mean, std)).mean()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))


@both_phases
def test_awac_s_critic_evaluates_the_members_of_the_phase_at_the_next_state(online: bool) -> None:
    agent = disturbed(AWAC, online=online, discount=0.9)
    batch, naive = batch_of(agent), Naive(agent)
    s, a, r, d, s2 = double(batch)
    mean, std = policy(naive, agent, s2, phase_beta(naive, agent, batch, s2, "next_"))
    a2 = (mean + std * batch.noise["next_action"].double()).clamp(-1, 1)
    y = (r + 0.9 * (1 - d) * minimum(naive, "critic_target", s2, a2)).detach()
    loss = torch.stack([((naive.q("critic", i, s, a) - y) ** 2).mean() for i in (0, 1)]).sum()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))


@both_phases
def test_cql_s_policy_loss_multiplies_q_by_beta(online: bool) -> None:
    agent = disturbed(CQL, online=online)
    batch, naive = batch_of(agent), Naive(agent)
    s, *_ = double(batch)
    beta = phase_beta(naive, agent, batch, s)
    action, log_prob = squashed(*policy(naive, agent, s, beta), batch.noise["action"])
    log_alpha = naive.leaves["temperature"]["log"]
    value = minimum(naive, "critic", s, action)
    loss = (log_alpha.exp().detach() * log_prob - beta * value).mean()
    loss = loss - (log_alpha * (log_prob.detach().mean() - 2)).sum()  # two action dimensions
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    for network in ("actor", "temperature"):
        agree(by_network[network], naive.gradient(network, loss))


@both_phases
@pytest.mark.parametrize("where", ["next_state", "state"])
def test_cql_s_critic_meets_the_members_that_will_act(where: str, online: bool) -> None:
    """At s' those of the balance policy in both phases, at s those of the phase."""
    agent = disturbed(CQL, online=online, next_coefficient=where, discount=0.9)
    batch, naive = batch_of(agent), Naive(agent)
    s, _, r, d, s2 = double(batch)
    if where == "state":
        beta, _ = balance(naive, s, batch.noise["balance"])
    else:
        beta, _ = balance(naive, s2, batch.noise["next_balance"])
    here = policy(naive, agent, s, phase_beta(naive, agent, batch, s))
    there = policy(naive, agent, s2, beta)
    both = agent.policies(agent.learner.nets, batch)
    for i, (mean, std) in enumerate((here, there)):
        agree(both.mean[i], mean)
        agree(both.log_std[i].clamp(-20, 2).exp(), std)
    action, _ = squashed(*there, batch.noise["next_action"])
    y = r + 0.9 * (1 - d) * minimum(naive, "critic_target", s2, action)
    agree(metrics_of(agent, "critic_loss", batch)["q_target"], y)


def test_cql_s_coefficient_leaves_the_entropy_alone() -> None:
    """Invariant 14: the gradient is a line in beta, whose slope is Q's part."""
    found = []
    for beta in (0.0, 1.0, 2.0):
        agent = disturbed(CQL, coefficient_range=[beta, beta])
        with torch.no_grad():
            agent.learner.nets.actor.trunk.weights[0][:, 4:] = 0.0
        inside = slice(0, agent.learner.nets.actor.trunk.weights[0].numel())
        gradient = gradients(agent, "actor_loss", batch_of(agent))[1]["actor"]
        found.append(torch.cat([gradient[:2], gradient[2 + inside.stop :]]))  # not the encoding's
    none, once, twice = found
    agree(twice - once, once - none)
    assert (once - none).abs().max() > 1e-3
    assert none.abs().max() > 1e-3


@both_phases
@pytest.mark.parametrize(
    ("name", "settings", "critic", "clipped"),
    [
        (IQL, {}, "critic_target", False),
        (IQL, {"clip_balance_actions": True}, "critic_target", True),
        (AWAC, {}, "critic", True),
        (IQL, {"balance_entropy": False}, "critic_target", False),
        (CQL, {}, "critic", None),
        (CQL, {"balance_entropy": True}, "critic", None),
    ],
)
def test_the_balance_loss_is_sac_s_through_the_frozen_policy(
    name: str, settings: dict, critic: str, clipped: bool | None, online: bool
) -> None:
    """The same loss in both phases; CQL's policy is squashed, with nothing to clip."""
    agent = disturbed(name, online=online, **settings)
    batch, naive = batch_of(agent), Naive(agent)
    s, *_ = double(batch)
    beta, log_prob = balance(naive, s, batch.noise["balance"])
    mean, std = policy(naive, agent, s, beta)
    noise = batch.noise["balance_action"]
    action = mean + std * noise.double()
    assert (action.abs() > 1).any()
    if clipped is None:
        action, _ = squashed(mean, std, noise)
    elif clipped:
        action = action.clamp(-1, 1)
    loss = -minimum(naive, critic, s, action).mean()
    if agent.settings.balance_entropy:
        alpha = naive.leaves["balance_temperature"]["log"].exp()
        entropy = -log_prob.mean()
        loss = loss + (alpha.detach() * log_prob).mean()
        loss = loss + (alpha * (entropy.detach() + 0.5)).sum()
    found, by_network = gradients(agent, "balance_loss", batch)
    agree(found, loss)
    for network, gradient in by_network.items():
        agree(gradient, naive.gradient(network, loss))
    assert set(by_network) == {"balance", *({"balance_temperature"} & set(agent.learner.flat))}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (IQL, {"coefficient_range": [5.0, 1.0]}, "coefficient_range must be a lower and a higher"),
        (IQL, {"coefficient_range": [-1.0, 1.0]}, "coefficient_range must be"),
        (IQL, {"encoding_size": 5}, "encoding_size must be even"),
        (IQL, {"balance_every": 0}, "balance_every must be at least 1"),
        (IQL, {"balance_target_entropy": 1.0}, "below log 2"),
        (IQL, {"beta": 10.0}, "beta must be left at 3.0 by FamO2O"),
        (IQL, {"deterministic_actor": True}, "deterministic_actor must be left at False"),
        (AWAC, {"temperature": 1.0}, "temperature must be left at"),
        (AWAC, {"weight": "softmax"}, "weight must be left at 'exp'"),
    ],
)
def test_settings_without_meaning_are_refused(name: str, settings: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        make(name, **settings)
