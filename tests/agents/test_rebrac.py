from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rlalign.agents import AGENTS
from rlalign.data.dataset import Dataset
from rlalign.errors import SettingsError
from rlalign.extras import offline_replay
from rlalign.layout import Batch, Layout
from tests.agents.naive import Naive, Normed, agree, double
from tests.agents.tiny import (
    batch_of,
    disturb,
    gradients,
    make,
    metrics_of,
    replay_of,
    value_of,
    weights,
)
from tests.envs.toy import Counter
from tests.test_phases import tagged_dataset
from tests.toy_data import box_spaces

AS_TD3: dict[str, Any] = {"layer_norm": False, "critic_penalty": 0.0}


def disturbed(**settings: Any) -> Any:
    agent = make("rebrac", **settings)
    for seed, network in enumerate(agent.learner.flat):
        disturb(agent, network, seed)
    return agent


def least(naive: Naive, network: str, s: Tensor, a: Tensor) -> Tensor:
    return torch.minimum(naive.q(network, 0, s, a), naive.q(network, 1, s, a))


def known(batch: Batch) -> Batch:
    """A batch whose rows have a next action, but for every third."""
    batch["has_next_action"].copy_((torch.arange(len(batch)) % 3 > 0).float())
    return batch


# The losses, written out from the paper.


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("penalty", [0.0, 0.5])
@pytest.mark.parametrize("size", [1, 2])
def test_the_target_pays_for_leaving_the_data_s_next_action(
    size: int, penalty: float, layer_norm: bool
) -> None:
    settings = {"critic_penalty": penalty, "discount": 0.9, "layer_norm": layer_norm}
    agent = disturbed(spaces=box_spaces(4, size), **settings)
    batch = known(batch_of(agent))
    naive = Normed(agent, after_relu=True, epsilon=1e-6)
    s, a, r, d, s2 = double(batch)
    noise = (0.2 * batch.noise["target"].double()).clamp(-0.5, 0.5)
    a2 = (torch.tanh(naive.run("actor_target", 0, s2)) + noise).clamp(-1, 1)
    distance = ((a2 - batch["next_actions"].double().reshape(24, size)) ** 2).sum(1)
    distance = torch.where(torch.arange(24) % 3 > 0, distance, 0.0)
    y = r + 0.9 * (1 - d) * (least(naive, "critic_target", s2, a2) - penalty * distance)
    errors = [(naive.q("critic", i, s, a) - y.detach()) ** 2 for i in range(2)]
    loss = errors[0].mean() + errors[1].mean()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))


@pytest.mark.parametrize("normalize", [True, False])
def test_the_actor_weighs_both_critics_minimum_against_the_data_s_action(normalize: bool) -> None:
    """Invariant 16: lambda enters the gradient as a number."""
    agent = disturbed(actor_penalty=0.3, normalize_critic=normalize)
    batch = batch_of(agent)
    naive = Normed(agent, after_relu=True, epsilon=1e-6)
    s, a, *_ = double(batch)
    action = torch.tanh(naive.run("actor", 0, s))
    value = least(naive, "critic", s, action)
    weight = 1 / value.detach().abs().mean() if normalize else 1.0
    loss = (0.3 * ((action - a) ** 2).sum(1) - weight * value).mean()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))


def test_the_hand_computed_target() -> None:
    """Invariant 15: penalty 0.05, y = 1 + 0.99 (2 - 0.5 0.05) = 2.95525; y = 1 at the end."""
    agent = make("rebrac", critic_penalty=0.5, target_noise=0.0)
    nets = agent.learner.nets
    with torch.no_grad():
        nets.critic_target.trunk.weights[-1].zero_()
        nets.critic_target.trunk.biases[-1][:, 0, 0] = torch.tensor([2.0, 7.0])
        nets.actor_target.trunk.weights[-1].zero_()
        nets.actor_target.trunk.biases[-1].copy_(torch.tensor([0.3, -0.5]).atanh())
    ends = torch.tensor([0.0, 1.0])
    batch = batch_of(agent, 2, rewards=torch.ones(2), terminations=ends)
    batch["next_actions"].copy_(torch.tensor([0.2, -0.3]).expand(2, 2))
    batch["has_next_action"].fill_(1.0)
    target = metrics_of(agent, "critic_loss", batch)["q_target"]
    assert target.tolist() == pytest.approx([2.95525, 1.0], abs=1e-5)


def test_without_its_penalties_norms_and_normaliser_the_critic_is_td3_s() -> None:
    """Invariant 14: beta_1 = 0, no normaliser: TD3, but for the actor's second critic."""
    agent = disturbed(**AS_TD3, actor_penalty=0.0, normalize_critic=False)
    td3 = make("td3")
    for network, flat in td3.learner.flat.items():
        flat.data.copy_(agent.learner.flat[network].data)
    batch = batch_of(agent)
    other = Batch(batch.rows[:, : td3.layout.width].clone(), td3.layout, batch.noise)
    first, second = gradients(agent, "critic_loss", batch), gradients(td3, "critic_loss", other)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1]["critic"], second[1]["critic"])
    with torch.no_grad():  # where the first critic is the lesser, the actor's loss is TD3's too
        for a in (agent, td3):
            a.learner.nets.critic.trunk.biases[-1][1] += 1000.0
    first, second = gradients(agent, "actor_loss", batch), gradients(td3, "actor_loss", other)
    torch.testing.assert_close(first[1]["actor"], second[1]["actor"], rtol=1e-4, atol=1e-6)


def test_td3_bc_s_weight_is_a_penalty_of_a_tenth_of_four_by_the_action_size() -> None:
    """Section 2.5: alpha 2.5 is beta_1 = 0.4 / A, as TD3+BC's loss over alpha."""
    agent = disturbed(**AS_TD3, actor_penalty=0.4 / 2)
    td3_bc = make("td3_bc", alpha=2.5)
    for network, flat in td3_bc.learner.flat.items():
        flat.data.copy_(agent.learner.flat[network].data)
    with torch.no_grad():
        for a in (agent, td3_bc):
            a.learner.nets.critic.trunk.biases[-1][1] += 1000.0
    batch = batch_of(agent)
    other = Batch(batch.rows[:, : td3_bc.layout.width].clone(), td3_bc.layout, batch.noise)
    found = 2.5 * gradients(agent, "actor_loss", batch)[1]["actor"]
    agree(found, gradients(td3_bc, "actor_loss", other)[1]["actor"], tolerance=1e-4)


@pytest.mark.parametrize("factor", [0.01, 30.0])
def test_the_actor_s_loss_does_not_depend_on_the_critic_s_scale(factor: float) -> None:
    """Invariant 13."""
    agent = disturbed(actor_penalty=0.3)
    batch = batch_of(agent)
    before = gradients(agent, "actor_loss", batch)[1]["actor"]
    with torch.no_grad():
        agent.learner.nets.critic.trunk.weights[-1].mul_(factor)
        agent.learner.nets.critic.trunk.biases[-1].mul_(factor)
    agree(gradients(agent, "actor_loss", batch)[1]["actor"], before, tolerance=1e-4)


def test_a_large_penalty_is_regression_on_the_data() -> None:
    """Invariant 14, by training."""
    agent = make("rebrac", actor_penalty=1e4, actor_learning_rate=3e-3, critic_learning_rate=0.0)
    batch = batch_of(agent, 32)
    batch.actions.copy_(0.5 * torch.sin(3 * batch.observations[:, :2]))
    before = (agent.learner.nets.actor(batch.observations) - batch.actions).abs().mean().item()
    for _ in range(800):
        agent.learner.step(batch.rows)
    after = (agent.learner.nets.actor(batch.observations) - batch.actions).abs().mean().item()
    assert after < 0.2 * before


# The next action.


def test_the_next_action_is_that_of_the_same_trajectory_in_the_agent_s_units() -> None:
    agent = make("rebrac", spaces=box_spaces(1, 1, -2.0, 2.0))
    layout = Layout(1, 1)
    table = layout.pack(
        observations=np.zeros(5),
        actions=np.array([0.0, 1.0, 2.0, -1.0, -2.0]),
        rewards=np.zeros(5),
        terminations=np.array([0.0, 0.0, 1.0, 0.0, 0.0]),
        next_observations=np.zeros(5),
    )
    replay = offline_replay(agent, Dataset(table, layout, np.array([3, 5]), "five"))
    batch = Batch(agent._transform(replay.table.clone()), agent.layout)
    assert batch.actions[:, 0].tolist() == [0.0, 0.5, 1.0, -0.5, -1.0]
    assert batch["next_actions"].tolist() == [0.5, 1.0, 0.0, -1.0, 0.0]
    assert batch["has_next_action"].tolist() == [1.0, 1.0, 0.0, 1.0, 0.0]


# The network.


def test_a_critic_that_norms_last_is_bounded_for_any_action() -> None:
    """Invariant 18."""
    agent = disturbed()
    trunk = agent.learner.nets.critic.trunk
    values = agent.learner.nets.critic(torch.zeros(8, 4), torch.full((8, 2), 1e6))
    length = trunk.weights[-1].norm(dim=1).flatten()
    gain, shift = trunk.norms[-2].abs().amax(-1).flatten(), trunk.norms[-1].norm(dim=-1).flatten()
    limit = length * (16**0.5 * gain + shift) + trunk.biases[-1].abs().flatten()
    assert (values.abs().amax(1) <= limit).all()
    without = disturbed(layer_norm=False)
    assert without.learner.nets.critic(torch.zeros(8, 4), torch.full((8, 2), 1e6)).abs().max() > 1e4


def test_targets_and_actor_move_on_even_updates_alone() -> None:
    """Invariant 17."""
    agent = make("rebrac")
    replay = replay_of(agent)
    for step in range(4):
        before = weights(agent)
        agent.update(replay, 1)
        after = weights(agent)
        for network in ("actor", "actor_target", "critic_target"):
            assert torch.equal(before[network], after[network]) == (step % 2 == 1), network
        assert not torch.equal(before["critic"], after["critic"])


# Online.


def test_online_the_target_s_penalty_ends_and_the_actor_s_falls_to_its_share() -> None:
    agent = make("rebrac", actor_penalty=0.2, critic_penalty=0.5, online_penalty_updates=40)
    replay = replay_of(agent)
    agent.update(replay, 10)
    batch = known(batch_of(agent, terminations=torch.zeros(24)))
    before = value_of(agent, "critic_loss", batch)
    assert agent.penalty_weight == 0.2
    agent.begin_online()
    assert value_of(agent, "critic_loss", batch) != pytest.approx(before, rel=1e-3)
    found = []
    for _ in range(5):
        found.append(float(agent.penalty_weight))
        agent.update(replay, 20)
    assert found == pytest.approx([0.2, 0.15, 0.1, 0.1, 0.1])


def test_a_saved_agent_s_penalty_goes_on_falling(tmp_path: Path) -> None:
    whole = make("rebrac", actor_penalty=0.2, online_penalty_updates=60)
    replay = replay_of(whole)
    whole.update(replay, 10)
    whole.begin_online()
    whole.update(replay, 30)
    whole.save(tmp_path / "agent")
    rest: Any = AGENTS["rebrac"].load(tmp_path / "agent")
    rest.begin_online()  # as a phase that is made again does
    assert float(rest.penalty_weight) == pytest.approx(0.15)
    for agent in (whole, rest):
        agent.update(replay, 20)
    first, second = (agent.state_dict()[0] for agent in (whole, rest))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_fall_begins_anew_with_fresh_optimisers() -> None:
    agent = make("rebrac", actor_penalty=0.2, online_penalty_updates=40)
    replay = replay_of(agent)
    agent.update(replay, 100)
    for optimizer in agent.learner.optimizers.values():
        optimizer.reset()
    agent.begin_online()
    assert float(agent.penalty_weight) == pytest.approx(0.2)
    agent.update(replay, 20)
    assert float(agent.penalty_weight) == pytest.approx(0.15)


def test_the_weight_stays_within_its_fall() -> None:
    """Even where the optimiser is reset while the agent is online."""
    agent = make("rebrac", actor_penalty=0.2, online_penalty_updates=40)
    agent.update(replay_of(agent), 30)
    agent.begin_online()
    agent.learner.optimizers["critic"].reset()
    assert float(agent.penalty_weight) == pytest.approx(0.2)


def test_interaction_is_learnt_from_before_its_episode_ends() -> None:
    """The next action, which is known later, matters to the target offline alone."""
    agent: Any = AGENTS["rebrac"](partial(Counter, 50), hidden=[16, 16], batch_size=32)
    agent.fit(tagged_dataset(), 3)
    agent.learn(7)
    rows = Batch(agent.replay_buffer.newest(7), agent.layout)
    assert rows.observations[:, 0].tolist() == list(range(7))
    assert rows["has_next_action"].abs().sum() == 0


def test_settings_out_of_range_are_refused() -> None:
    for negative in ({"actor_penalty": -0.1}, {"critic_penalty": -0.1}):
        settings: dict[str, Any] = dict(negative)
        with pytest.raises(SettingsError, match=next(iter(settings))):
            make("rebrac", **settings)
    with pytest.raises(SettingsError, match="online_penalty must be in"):
        make("rebrac", online_penalty=1.5)
