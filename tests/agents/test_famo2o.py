"""FamO2O's losses written out from the paper, and what it shares with its base."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlalign.agents import AGENTS
from rlalign.agents.iql import advantage_weight
from rlalign.errors import SettingsError
from rlalign.layout import Batch
from tests.agents.naive import Naive, agree, double, gaussian_log_prob
from tests.agents.tiny import (
    again,
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

IQL, AWAC = "famo2o_iql", "famo2o_awac"
BASES: dict[str, Any] = {  # the base, and its settings that equal a coefficient
    IQL: ("iql", lambda beta: {"beta": beta}),
    AWAC: ("awac", lambda beta: {"temperature": 1.0 / beta}),
}
every_base = pytest.mark.parametrize("name", BASES)
both_phases = pytest.mark.parametrize("online", [False, True])


def disturbed(name: str, *, online: bool = False, **settings: Any) -> Any:
    """An agent in a phase, whose networks all differ, with advantages of both signs."""
    agent = make(name, **{"coefficient_range": [1.0, 4.0], "balance_every": 1, **settings})
    agent.online = online
    for seed, network in enumerate(agent.learner.flat):
        disturb(agent, network, seed)
    nets = agent.learner.nets
    with torch.no_grad():
        nets.balance.policy.log_std.fill_(-0.3)
        if "value" in agent.learner.flat:
            nets.value.trunk.biases[-1].sub_(1.4)
            nets.actor.log_std.copy_(torch.tensor([-0.4, 0.3]))
    return agent


# The paper's formulas in double precision.


def encode(beta: Tensor) -> Tensor:
    columns = []
    for i in range(3):
        angle = beta / 10_000.0 ** (2 * i / 6)
        columns += [torch.sin(angle), torch.cos(angle)]
    return torch.stack(columns, 1)


def balance(naive: Naive, s: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """beta in [1, 4] and log pi_b(u|s), by the density of tanh of a normal."""
    leaves = naive.leaves["balance"]
    naive.leaves["balance"] = {k.removeprefix("policy."): v for k, v in leaves.items()}
    mean, std = naive.run("balance", 0, s), naive.leaves["balance"]["log_std"].exp()
    z = mean + std * noise.double()
    u = torch.tanh(z)
    log_prob = gaussian_log_prob(z, mean, std) - torch.log(1 - u**2).sum(1)
    return (1 + (u + 1) / 2 * 3)[:, 0], log_prob


def phase_beta(naive: Naive, agent: Any, batch: Batch, s: Tensor, prefix: str = "") -> Tensor:
    """Uniform offline, the balance policy's online; without gradient."""
    uniform = batch.noise[f"{prefix}coefficient"].double()[:, 0]
    sampled = balance(naive, s, batch.noise[f"{prefix}balance"])[0].detach()
    return sampled if agent.online else 1 + (uniform + 1) / 2 * 3


def policy(naive: Naive, agent: Any, s: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of pi_u."""
    head = naive.run("actor", 0, torch.cat([s, encode(beta)], 1))
    std = naive.leaves["actor"]["log_std"].exp()
    return (torch.tanh(head) if agent.name == IQL else head), std


def minimum(naive: Naive, network: str, s: Tensor, a: Tensor) -> Tensor:
    return torch.minimum(*(naive.q(network, i, s, a) for i in (0, 1)))


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
@pytest.mark.parametrize(
    ("name", "settings", "critic", "clipped"),
    [
        (IQL, {}, "critic_target", False),
        (IQL, {"clip_balance_actions": True}, "critic_target", True),
        (AWAC, {}, "critic", True),
        (IQL, {"balance_entropy": False}, "critic_target", False),
    ],
)
def test_the_balance_loss_is_sac_s_through_the_frozen_policy(
    name: str, settings: dict, critic: str, clipped: bool, online: bool
) -> None:
    """The same loss in both phases."""
    agent = disturbed(name, online=online, **settings)
    batch, naive = batch_of(agent), Naive(agent)
    s, *_ = double(batch)
    beta, log_prob = balance(naive, s, batch.noise["balance"])
    mean, std = policy(naive, agent, s, beta)
    action = mean + std * batch.noise["balance_action"].double()
    assert (action.abs() > 1).any()
    action = action.clamp(-1, 1) if clipped else action
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


# The base.


@every_base
@both_phases
def test_one_point_of_the_range_is_the_base(name: str, online: bool) -> None:
    """Invariant 4: without weights on the encoding, whole sequences of updates coincide."""
    base_name, settings = BASES[name]
    family = make(name, coefficient_range=[2.5, 2.5], balance_every=2)
    base = make(base_name, **settings(2.5))
    family.online = online
    shared = [network for network in base.learner.flat if network != "actor"]
    for network in shared:  # of one seed: the base's networks are made first, and alike
        assert torch.equal(family.learner.flat[network].data, base.learner.flat[network].data)
    mine, theirs = family.learner.nets.actor, base.learner.nets.actor
    copies = dict(theirs.named_parameters())
    encoded = mine.trunk.weights[0][:, 4:]  # rows of the first layer that read the encoding
    with torch.no_grad():
        for key, parameter in mine.named_parameters():
            parameter[tuple(slice(0, n) for n in copies[key].shape)] = copies[key]
    start = weights(base)
    for step in range(20):
        batch = batch_of(family, 32, seed=step)
        with torch.no_grad():
            encoded.zero_()
        for agent in (family, base):
            noise = {key: batch.noise[key] for key in agent.noise}
            agent.learner.draw_noise = lambda count, noise=noise: noise
            agent.learner.step(batch.rows.clone())
    for network in shared:
        found, wanted = (agent.learner.flat[network].data for agent in (family, base))
        assert (found - wanted).abs().max() < 1e-6, network
        assert (found - start[network]).abs().max() > 1e-4, network
    for key, parameter in mine.named_parameters():
        found = parameter[tuple(slice(0, n) for n in copies[key].shape)]
        assert (found - copies[key]).abs().max() < 1e-6, key
        assert copies[key].abs().max() > 1e-4


@every_base
def test_the_base_s_other_losses_and_settings_are_its_own(name: str) -> None:
    base_name, _ = BASES[name]
    family, base = AGENTS[name], AGENTS[base_name]
    inherited = {update.loss for update in make(base_name).updates}
    assert all(getattr(family, loss) is getattr(base, loss) for loss in inherited)
    mine, theirs = family.settings_type(), base.settings_type()
    changed = {k: v for k, v in theirs.to_dict().items() if mine.to_dict()[k] != v}
    assert changed == ({"actor_schedule": "cosine"} if name == IQL else {})
    assert family.online_defaults == base.online_defaults
    assert family.action_limit == base.action_limit


@every_base
@both_phases
def test_the_range_from_zero_to_zero_is_behaviour_cloning(name: str, online: bool) -> None:
    """Invariant 5: all weights are one."""
    agent = disturbed(name, online=online, coefficient_range=[0.0, 0.0])
    batch = batch_of(agent)
    metrics = metrics_of(agent, "actor_loss", batch)
    assert torch.equal(metrics["advantage_weight"], torch.ones(24))
    assert metrics["advantage"].abs().min() > 1e-4
    nets = agent.learner.nets
    inputs = nets.balance.condition(batch.observations, torch.zeros(24))
    cloning = -nets.actor.log_prob(inputs, batch.actions).mean()
    assert value_of(agent, "actor_loss", batch) == pytest.approx(float(cloning), rel=1e-5)


def test_weights_are_clipped_row_by_row() -> None:
    """Invariant 6: the threshold is beta A = ln 100."""
    beta = torch.tensor([5.0, 4.0, math.log(100) + 1e-3, math.log(100) - 1e-3])
    found = advantage_weight(torch.ones(4), beta, 100.0)
    wanted = [100.0, math.exp(4.0), 100.0, 100 * math.exp(-1e-3)]
    assert found.tolist() == pytest.approx(wanted, rel=1e-5)
    assert found[1].item() == pytest.approx(54.598, abs=1e-3)


def test_a_column_of_coefficients_is_refused_rather_than_broadcast() -> None:
    """Invariant 7."""
    with pytest.raises(AssertionError):
        advantage_weight(torch.ones(4), torch.ones(4, 1), 100.0)


@every_base
def test_coefficients_belong_to_their_rows(name: str) -> None:
    """Invariant 7: permuting them against the batch is another loss."""
    agent = disturbed(name)
    batch = batch_of(agent)
    mixed = dict(batch.noise)
    mixed["coefficient"] = mixed["coefficient"].flip(0)
    other = value_of(agent, "actor_loss", Batch(batch.rows, agent.layout, mixed))
    assert abs(other - value_of(agent, "actor_loss", batch)) > 1e-3
    assert metrics_of(agent, "actor_loss", batch)["advantage_weight"].shape == (24,)


# Gradients.


@every_base
@both_phases
def test_each_loss_trains_its_own_networks_alone(name: str, online: bool) -> None:
    """Invariant 8; the networks that the balance loss goes through are frozen meanwhile."""
    agent = disturbed(name, online=online)
    batch = batch_of(agent)
    assert leaks(agent, "actor_loss", batch) == {"actor"}
    assert leaks(agent, "critic_loss", batch) == {"critic"}
    through = {"actor", agent.balance_critic}
    assert leaks(agent, "balance_loss", batch) == {"balance", "balance_temperature", *through}
    for flat in agent.learner.flat.values():
        flat.grad.zero_()
    gradients(agent, "balance_loss", batch)
    moved = {name for name, flat in agent.learner.flat.items() if flat.grad.any()}
    assert moved == {"balance", "balance_temperature"}


@every_base
def test_the_balance_policy_moves_when_its_own_loss_is_due(name: str) -> None:
    agent = make(name, balance_every=3)
    replay = replay_of(agent)
    for online in (False, True):
        agent.online = online
        for _ in range(4):
            due = agent.learner.step_count % 3 == 0
            before = weights(agent)
            agent.update(replay, 1)
            after = weights(agent)
            for network in before:
                still = torch.equal(before[network], after[network])
                assert still == (network.startswith("balance") and not due), network


@every_base
def test_a_policy_blind_to_the_encoding_leaves_the_entropy_alone_to_the_balance(name: str) -> None:
    """Invariant 8, last line."""
    agent = disturbed(name)
    batch = batch_of(agent)
    with torch.no_grad():
        agent.learner.nets.actor.trunk.weights[0][:, 4:] = 0.0
    _, first = gradients(agent, "balance_loss", batch)
    value = value_of(agent, "balance_loss", batch)
    disturb(agent, agent.balance_critic, seed=50)
    _, second = gradients(agent, "balance_loss", batch)
    assert value_of(agent, "balance_loss", batch) != value
    assert torch.equal(first["balance"], second["balance"])
    assert first["balance"].abs().max() > 1e-3
    no_entropy = disturbed(name, balance_entropy=False)
    with torch.no_grad():
        no_entropy.learner.nets.actor.trunk.weights[0][:, 4:] = 0.0
    assert not gradients(no_entropy, "balance_loss", batch)[1]["balance"].any()


def test_too_much_entropy_lowers_its_weight() -> None:
    """Invariant 9: H = 0.67 against -0.5 at weight 1."""
    agent = make(IQL)
    with torch.no_grad():
        agent.learner.flat["balance"].data.zero_()
    batch = batch_of(agent, 20_000)
    _, found = gradients(agent, "balance_loss", batch)
    assert found["balance_temperature"].item() == pytest.approx(1.17, abs=0.02)
    agent.learner.step(batch.rows)
    log = agent.learner.nets.balance_temperature.log.item()
    assert log == pytest.approx(-3e-4, rel=1e-3)


# One update.


def by_hand(agent: Any, losses: list[str], batch: Batch) -> None:
    """Steps from gradients that are all taken before any of them."""
    found = [gradients(agent, loss, batch)[1] for loss in losses]
    for by_network in found:
        for network, gradient in by_network.items():
            agent.learner.flat[network].grad.copy_(gradient)
            agent.learner.optimizers[network].step()


@pytest.mark.parametrize(
    ("name", "order"),
    [
        (IQL, [["value_loss"], ["balance_loss", "actor_loss"], ["critic_loss"]]),
        (AWAC, [["critic_loss"], ["balance_loss", "actor_loss"]]),
    ],
)
@both_phases
def test_one_update_has_the_authors_order(name: str, order: list, online: bool) -> None:
    """The policy's coefficient is of the balance policy as it was before its step, and the balance
    policy sees the policy before its step.
    """
    agent, twin = disturbed(name, online=online), disturbed(name, online=online)
    batch = batch_of(agent)
    agent.learner.draw_noise = lambda count: dict(batch.noise)
    agent.learner.step(batch.rows)
    for together in order:
        by_hand(twin, together, batch)
    first, second = weights(agent), weights(twin)
    for network in (*order[0][0].split("_")[:1], "actor", "critic", "balance"):
        assert (first[network] - second[network]).abs().max() < 1e-7, network


@pytest.mark.parametrize(
    ("name", "online", "due", "passes"),
    [
        (IQL, False, True, {"balance": 1, "actor": 2}),
        (IQL, False, False, {"balance": 0, "actor": 1}),
        (IQL, True, True, {"balance": 1, "actor": 2}),
        (IQL, True, False, {"balance": 1, "actor": 1}),
        (AWAC, False, True, {"balance": 1, "actor": 3}),
        (AWAC, True, True, {"balance": 2, "actor": 3}),
        (AWAC, True, False, {"balance": 2, "actor": 2}),
    ],
)
def test_no_pass_is_made_twice(name: str, online: bool, due: bool, passes: dict) -> None:
    """At s the balance policy runs once for its own loss and the policy's; AWAC's also at s'."""
    agent = make(name, balance_every=2)
    agent.online = online
    agent.learner.step_count = 0 if due else 1
    counts = dict.fromkeys(passes, 0)

    def count(network: str) -> Any:
        def hook(*_: Any) -> None:
            counts[network] += 1

        return hook

    nets = agent.learner.nets
    nets.balance.policy.trunk.register_forward_hook(count("balance"))
    nets.actor.trunk.register_forward_hook(count("actor"))
    agent.learner.step(batch_of(agent).rows)
    assert counts == passes


# Acting, and what is kept.


@every_base
def test_exploring_draws_actions_but_not_coefficients(name: str) -> None:
    """Invariant 15."""
    agent = disturbed(name)
    observation = np.ones(4, np.float32)
    calm = [agent.predict(observation, deterministic=True)[0] for _ in range(2)]
    assert np.array_equal(*calm)
    lively = [agent.predict(observation, deterministic=False)[0] for _ in range(2)]
    assert not np.array_equal(*lively)
    nets, inputs = agent.learner.nets, torch.ones(1, 4)
    seen = agent.acting_inputs(nets, inputs)
    assert torch.equal(seen, nets.balance.condition(inputs, nets.balance.mode(inputs)))
    wanted = nets.actor.act(seen, torch.tensor([[0.3, -0.2]]))
    assert torch.equal(agent.explore(nets, inputs, torch.tensor([[0.3, -0.2]])), wanted)


@every_base
def test_a_member_of_the_family_can_be_chosen(name: str, tmp_path: Path) -> None:
    agent = disturbed(name)
    observations = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    by_balance = agent.predict(observations, deterministic=True)[0]
    actions = {}
    for beta in (1.0, 4.0):
        agent.choose(beta)
        actions[beta] = agent.predict(observations, deterministic=True)[0]
        inputs = torch.cat([torch.from_numpy(observations), encode(torch.full((8,), beta))], 1)
        wanted = agent.learner.nets.actor.mode(inputs.float()).detach().numpy()
        np.testing.assert_allclose(actions[beta], wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(actions[1.0] - actions[4.0]).max() > 1e-2
    agent.save(tmp_path / "agent")
    loaded = AGENTS[name].load(tmp_path / "agent")
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], actions[4.0])
    agent.choose(None)
    np.testing.assert_array_equal(agent.predict(observations, deterministic=True)[0], by_balance)
    for outside in (0.9, 4.1):
        with pytest.raises(SettingsError, match=r"coefficient must be in \[1, 4\]"):
            agent.choose(outside)


@every_base
def test_a_run_cut_at_the_switch_goes_on_as_if_it_were_not(name: str, tmp_path: Path) -> None:
    """Invariant 16, and the phase itself is kept where the cut is later."""
    whole = make(name, balance_every=2)
    replay = replay_of(whole)
    whole.update(replay, 7)
    whole.save(tmp_path / "switch")
    whole.begin_online()
    whole.update(replay, 3)
    whole.save(tmp_path / "later")
    start = weights(whole)
    whole.update(replay, 5)
    rest = AGENTS[name].load(tmp_path / "switch")
    assert not rest.online
    rest.begin_online()
    rest.update(replay, 8)
    later = AGENTS[name].load(tmp_path / "later")
    assert later.online
    later.update(replay, 5)
    tensors, state = whole.state_dict()
    for other in (rest, later):
        found, found_state = other.state_dict()
        assert found_state == state
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)
    assert not torch.equal(start["balance_temperature"], weights(whole)["balance_temperature"])


@every_base
def test_the_switch_changes_where_coefficients_come_from(name: str) -> None:
    agent = disturbed(name)
    batch = batch_of(agent)
    offline = agent.coefficient(agent.learner.nets, again(batch, agent))
    agent.begin_online()
    online = agent.coefficient(agent.learner.nets, again(batch, agent))
    assert not torch.equal(offline, online)
    for beta in (offline, online):
        assert beta.min() >= 1
        assert beta.max() <= 4
        assert not beta.requires_grad


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
