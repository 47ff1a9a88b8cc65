"""FamO2O and its base: where they are one, and which loss trains what."""

from __future__ import annotations

import math

import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.agents.iql import advantage_weight
from rlalign.layout import Batch
from tests.agents.families import AWAC, CQL, IQL, base_of, both_phases, disturbed, every_base
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


@every_base
@both_phases
def test_one_point_of_the_range_is_the_base(name: str, online: bool) -> None:
    """Invariant 4: without weights on the encoding, whole sequences of updates coincide."""
    point = 1.0 if name == CQL else 2.5
    family, base = make(name, coefficient_range=[point, point]), base_of(name, point)
    family.online = base.online = online
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
def test_the_base_s_losses_and_settings_are_its_own(name: str) -> None:
    base, family = type(base_of(name, 1.0)), AGENTS[name]
    inherited = {update.loss for update in base_of(name, 1.0).updates}
    assert all(getattr(family, loss) is getattr(base, loss) for loss in inherited)
    mine, theirs = family.settings_type().to_dict(), base.settings_type().to_dict()
    changed = {key for key, value in theirs.items() if mine[key] != value}
    assert (
        changed
        == {
            IQL: {"actor_schedule"},
            AWAC: set(),
            CQL: {
                "hidden",
                "observation_normalization",
                "actor_learning_rate",
                "temperature_learning_rate",
                "cql_weight",
                "layer_norm",
                "head_gain",
            },
        }[name]
    )
    assert family.online_defaults == base.online_defaults
    assert family.action_limit == base.action_limit


@pytest.mark.parametrize("name", [IQL, AWAC])
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
    if name != CQL:
        assert metrics_of(agent, "actor_loss", batch)["advantage_weight"].shape == (24,)


# Gradients.


@every_base
@both_phases
def test_each_loss_trains_its_own_networks_alone(name: str, online: bool) -> None:
    """Invariant 8; the networks that the balance loss goes through are frozen meanwhile."""
    agent = disturbed(name, online=online)
    batch = batch_of(agent)
    own = {"balance"} if name == CQL else {"balance", "balance_temperature"}
    for loss in ("actor_loss", "critic_loss"):
        assert not leaks(agent, loss, batch) & own
    through = {"actor", agent.balance_critic}
    assert leaks(agent, "balance_loss", batch) == {*own, *through}
    for flat in agent.learner.flat.values():
        flat.grad.zero_()
    gradients(agent, "balance_loss", batch)
    moved = {name for name, flat in agent.learner.flat.items() if flat.grad.any()}
    assert moved == own


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
    agent = disturbed(name, balance_entropy=True)
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
