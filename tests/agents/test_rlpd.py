from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.errors import SettingsError
from rlalign.layout import Batch
from rlalign.replay import FixedReplay, GrowingReplay, MixedReplay
from tests.agents.naive import Normed, agree, double
from tests.agents.soft import all_values, disturbed, squashed
from tests.agents.tiny import SMALL, batch_of, gradients, make, metrics_of, replay_of, weights
from tests.envs.toy import Counter
from tests.toy_data import random_rows

AS_SAC: dict[str, Any] = {
    "target_critics": 4,
    "actor_value": "min",
    "critic_reduction": "sum",
    "layer_norm": False,
    "initialization": "torch",
    "updates_per_actor_update": 1,
    "target_entropy": -2.0,
}


def subset(batch: Batch, size: int) -> list[int]:
    """The members that the noise chooses."""
    return batch.noise["subset"].argsort()[:size].tolist()


@pytest.mark.parametrize("backup", [True, False])
@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_critic_loss_is_a_mean_toward_a_random_subset_s_minimum(
    backup: bool, size: int
) -> None:
    agent = disturbed(
        "rlpd", critics=5, target_critics=size, entropy_backup=backup, initial_temperature=0.3
    )
    batch = batch_of(agent)
    naive = Normed(agent, after_relu=False, epsilon=1e-6)
    s, a, r, d, s2 = double(batch)
    a2, log_prob = squashed(naive, s2, batch.noise["next_action"])
    members = subset(batch, size) if size < 5 else list(range(5))
    value = all_values(naive, "critic_target", s2, a2)[members].min(0).values
    y = r + 0.99 * (1 - d) * (value - (0.3 * log_prob if backup else 0.0))
    loss = ((all_values(naive, "critic", s, a) - y.detach()) ** 2).mean()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))


@pytest.mark.parametrize("reduction", ["mean", "min"])
def test_the_actor_climbs_the_mean_of_all_critics(reduction: str) -> None:
    agent = disturbed("rlpd", critics=5, actor_value=reduction, initial_temperature=0.3)
    batch = batch_of(agent)
    naive = Normed(agent, after_relu=False, epsilon=1e-6)
    s = double(batch)[0]
    action, log_prob = squashed(naive, s, batch.noise["action"])
    values = all_values(naive, "critic", s, action)
    value = values.mean(0) if reduction == "mean" else values.min(0).values
    actor = (0.3 * log_prob - value).mean()
    dual = -(naive.leaves["temperature"]["log"] * (log_prob.detach() - 1.0).mean()).sum()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, actor + dual)
    agree(by_network["actor"], naive.gradient("actor", actor))
    agree(by_network["temperature"], naive.gradient("temperature", dual))


def test_without_offline_data_and_with_equal_settings_it_is_sac_bit_for_bit() -> None:
    """Invariant 21, and the issue's limit: the offline part of a mixture is what differs."""
    agents = [make("rlpd", critics=4, **AS_SAC), make("sac", critics=4)]
    start = weights(agents[1])
    for agent in agents:
        online = GrowingReplay(agent.layout, 1000)
        online.add(random_rows(agent.layout, 300))
        agent.update(online, 30)
    first, second = (weights(agent) for agent in agents)
    for network, found in first.items():
        assert torch.equal(found, second[network]), network
        assert not torch.equal(found, start[network]), network


@pytest.mark.parametrize("different", sorted(AS_SAC))
def test_every_one_of_those_settings_matters(different: str) -> None:
    settings = {name: value for name, value in AS_SAC.items() if name != different}
    agents = [make("rlpd", critics=4, **settings), make("rlpd", critics=4, **AS_SAC)]
    for agent in agents:
        agent.update(replay_of(agent), 5)
    first, second = (weights(agent) for agent in agents)
    if different == "layer_norm":
        assert first["critic"].shape != second["critic"].shape
    else:
        assert any(not torch.equal(first[n], second[n]) for n in first)


def test_the_mean_reduction_of_n_copies_is_one_copy_s_loss() -> None:
    """Invariant 8."""
    agent = disturbed("rlpd", critics=5)
    with torch.no_grad():
        for network in ("critic", "critic_target"):
            for parameter in agent.learner.nets.get_submodule(network).parameters():
                parameter.copy_(parameter[:1].expand_as(parameter).clone())
    batch = batch_of(agent)
    values = metrics_of(agent, "critic_loss", batch)["q"]
    target = metrics_of(agent, "critic_loss", batch)["q_target"]
    wanted = (values[0] - target).square().mean()
    torch.testing.assert_close(gradients(agent, "critic_loss", batch)[0], wanted)


def test_twenty_critic_updates_then_one_of_the_actor() -> None:
    """Invariant 20: counts of Adam, and as many averages of the targets."""
    agent = make("rlpd", target_rate=0.1)
    replay = replay_of(agent)
    target = agent.learner.flat["critic_target"].data.clone()
    for done in range(1, 41):
        agent.update(replay, 1)
        assert agent.learner.optimizers["actor"].steps.item() == done // 20
        target.lerp_(agent.learner.flat["critic"].data, 0.1)
    counts = {name: opt.steps.item() for name, opt in agent.learner.optimizers.items()}
    assert counts == {"critic": 40, "actor": 2, "temperature": 2}
    assert torch.equal(agent.learner.flat["critic_target"].data, target)


def test_every_batch_holds_half_of_each_kind() -> None:
    """Invariant 19."""
    agent = make("rlpd")
    assert agent.online_defaults.replay == "mixture"
    offline = FixedReplay(random_rows(agent.layout, 300), agent.layout)
    buffer = GrowingReplay(agent.layout, 1000)
    buffer.add(random_rows(agent.layout, 50))
    for table, tag in ((offline.table, 1.0), (buffer.table[:50], 0.0)):
        table[:, agent.layout.columns["rewards"].start] = tag
    share = agent.online_defaults.offline_fraction
    mixture = MixedReplay([offline, buffer], [share, 1 - share])
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        rewards = Batch(mixture.sample(256, generator), agent.layout).rewards
        assert rewards.sum().item() == 128


def test_the_update_to_data_ratio_is_that_of_the_actor_s_updates() -> None:
    agent = make("rlpd")
    assert agent.online_defaults.updates_per_step == agent.updates[1].every == 20
    assert agent.target_entropy == -1.0  # half of two dimensions


@pytest.mark.parametrize(("given", "moves"), [(None, 30), (2, 60)])
def test_the_actor_moves_once_a_step_at_any_ratio(given: int | None, moves: int) -> None:
    agent: Any = AGENTS["rlpd"](
        partial(Counter, 50), **SMALL, critics=2, updates_per_actor_update=given
    )
    agent.learn(40, replay="online", random_steps=0, warmup_steps=10, updates_per_step=4)
    steps = {name: int(optimizer.steps) for name, optimizer in agent.learner.optimizers.items()}
    assert steps == {"critic": 120, "actor": moves, "temperature": moves}


@pytest.mark.parametrize("layer_norm", [True, False])
def test_normalised_critics_are_bounded_for_any_action(layer_norm: bool) -> None:
    """Invariant 18: the mechanism by which RLPD survives offline data."""
    agent = disturbed("rlpd", critics=3, layer_norm=layer_norm)
    trunk = agent.learner.nets.critic.trunk
    values = [
        agent.learner.nets.critic(torch.zeros(8, 4), torch.full((8, 2), scale)).abs().max().item()
        for scale in (1.0, 1e6)
    ]
    if not layer_norm:
        assert values[1] > 1e4 * values[0]
        return
    gain, shift = trunk.norms[-2].abs().amax(-1).flatten(), trunk.norms[-1].norm(dim=-1).flatten()
    length = trunk.weights[-1].norm(dim=1).flatten()
    limit = length * (16**0.5 * gain + shift) + trunk.biases[-1].abs().flatten()
    assert values[1] <= limit.max().item()


def test_networks_begin_by_xavier() -> None:
    agent = make("rlpd", hidden=[64, 32])
    for network, sizes in (("actor", (4, 64, 32, 4)), ("critic", (6, 64, 32, 1))):
        trunk = agent.learner.nets.get_submodule(network).trunk
        for layer, (weight, bias) in enumerate(zip(trunk.weights, trunk.biases, strict=True)):
            limit = (6 / (sizes[layer] + sizes[layer + 1])) ** 0.5
            assert 0.8 * limit < weight.abs().max() <= limit
            assert not bias.any()


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="target_critics must be from 1 to critics, got 11"):
        make("rlpd", target_critics=11)
    with pytest.raises(SettingsError, match="updates_per_actor_update"):
        make("rlpd", updates_per_actor_update=0)
