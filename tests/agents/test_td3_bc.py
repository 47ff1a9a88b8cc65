from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.errors import SettingsError
from tests.agents.naive import Naive, agree, double
from tests.agents.tiny import batch_of, disturb, gradients, make, metrics_of, replay_of, value_of


def disturbed(name: str = "td3_bc", **settings: Any) -> Any:
    """Agents of one family get the same networks."""
    agent = make(name, **settings)
    for seed, network in enumerate(("actor", "critic", "actor_target", "critic_target")):
        if network in agent.learner.flat:
            disturb(agent, network, seed)
    return agent


def scale_critics(agent: Any, factor: float) -> None:
    with torch.no_grad():
        trunk = agent.learner.nets.critic.trunk
        trunk.weights[-1].mul_(factor)
        trunk.biases[-1].mul_(factor)


@pytest.mark.parametrize("alpha", [0.0, 2.5, 40.0])
def test_the_actor_loss_weighs_the_first_critic_against_cloning(alpha: float) -> None:
    """Written out from the paper; lambda enters the gradient as a number (invariant 16)."""
    agent = disturbed(alpha=alpha)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, *_ = double(batch)
    action = torch.tanh(naive.run("actor", 0, s))
    value = naive.q("critic", 0, s, action)
    weight = alpha / value.detach().abs().mean()
    loss = -weight * value.mean() + ((action - a) ** 2).sum() / a.numel()
    found, by_network = gradients(agent, "actor_loss", batch)
    agree(found, loss)
    agree(by_network["actor"], naive.gradient("actor", loss))


def test_the_hand_computed_value_of_lambda() -> None:
    """Invariant 13: Q = (2, -4), alpha 2.5: lambda 0.8333, critic term +0.8333."""
    agent = make("td3_bc")
    agent.learner.nets.critic.first = lambda *_: torch.tensor([2.0, -4.0])
    batch = batch_of(agent, 2)
    loss, metrics = agent.actor_loss(agent.learner.nets, batch)
    assert metrics["critic_weight"].item() == pytest.approx(0.833333, abs=1e-6)
    assert (loss - metrics["cloning"]).item() == pytest.approx(0.833333, abs=1e-6)


@pytest.mark.parametrize("factor", [0.01, 30.0])
def test_the_actor_s_loss_does_not_depend_on_the_critic_s_scale(factor: float) -> None:
    """Invariant 13."""
    agent = disturbed()
    batch = batch_of(agent)
    before = gradients(agent, "actor_loss", batch)
    scale_critics(agent, factor)
    after = gradients(agent, "actor_loss", batch)
    torch.testing.assert_close(after[0], before[0], rtol=1e-4, atol=0)
    agree(after[1]["actor"], before[1]["actor"], tolerance=1e-4)
    scale_critics(agent, -1.0)
    assert not torch.allclose(gradients(agent, "actor_loss", batch)[1]["actor"], after[1]["actor"])


def test_with_alpha_zero_it_is_behaviour_cloning() -> None:
    """Invariant 14."""
    agent, cloning = disturbed(alpha=0.0), disturbed("bc")
    batch = batch_of(agent)
    first, second = (gradients(a, "actor_loss", batch) for a in (agent, cloning))
    torch.testing.assert_close(first[0], second[0])
    torch.testing.assert_close(first[1]["actor"], second[1]["actor"])
    assert value_of(disturbed(), "actor_loss", batch) != pytest.approx(float(second[0]), rel=1e-3)


def test_with_a_large_alpha_it_is_td3() -> None:
    """The gradient over lambda tends to that of TD3."""
    agent, td3 = disturbed(alpha=1e6), disturbed("td3")
    batch = batch_of(agent)
    weight = metrics_of(agent, "actor_loss", batch)["critic_weight"]
    found = gradients(agent, "actor_loss", batch)[1]["actor"] / weight
    agree(found, gradients(td3, "actor_loss", batch)[1]["actor"], tolerance=1e-4)


def test_the_cloning_term_is_a_mean_over_action_dimensions() -> None:
    """ReBRAC's is a sum: the two papers' weights differ by the number of dimensions."""
    agent = disturbed(alpha=0.0)
    batch = batch_of(agent)
    error = (agent.learner.nets.actor(batch.observations) - batch.actions).square()
    assert value_of(agent, "actor_loss", batch) == pytest.approx(float(error.sum() / 24 / 2))


def regressed(name: str, **settings: Any) -> tuple[Tensor, Tensor]:
    """Actions learned at two states, each with two data actions, and the means of those."""
    agent = make(name, actor_learning_rate=3e-3, **settings)
    generator = torch.Generator().manual_seed(0)
    batch = batch_of(agent, 32)
    states = torch.eye(4)[:2].repeat(16, 1)
    means = torch.tensor([[0.5, -0.3], [-0.6, 0.2]]).repeat(16, 1)
    noise = 0.3 * torch.rand(32, 2, generator=generator)
    batch.observations.copy_(states)
    batch.actions.copy_(means + noise)
    wanted = torch.stack([batch.actions[i::2].mean(0) for i in (0, 1)])
    for _ in range(600):
        agent.learner.step(batch.rows)
    return torch.from_numpy(agent.act(states[:2], deterministic=True)), wanted


@pytest.mark.parametrize(("name", "settings"), [("bc", {}), ("td3_bc", {"alpha": 0.0})])
def test_cloning_learns_the_mean_action_of_each_state(name: str, settings: dict) -> None:
    """Invariant 14, by training."""
    found, wanted = regressed(name, **settings)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)


def test_the_critic_pulls_the_policy_away_from_the_mean_action() -> None:
    found, wanted = regressed("td3_bc", alpha=40.0)
    assert (found - wanted).abs().max() > 0.1


def test_online_cloning_falls_to_its_share() -> None:
    agent = disturbed(online_cloning=0.2, online_cloning_updates=40, policy_delay=1)
    replay, batch = replay_of(agent), batch_of(agent)
    agent.update(replay, 10)

    def weight_of_cloning() -> float:
        loss, metrics = agent.actor_loss(agent.learner.nets, batch)
        agent.settings, settings = replace(agent.settings, alpha=0.0), agent.settings
        only, _ = agent.actor_loss(agent.learner.nets, batch)
        agent.settings = settings
        assert loss.item() != pytest.approx(only.item(), rel=1e-3)
        return float(only / metrics["cloning"])

    assert weight_of_cloning() == 1.0
    agent.begin_online()
    found = []
    for _ in range(4):
        found.append(weight_of_cloning())
        agent.update(replay, 20)
    assert found == pytest.approx([1.0, 0.6, 0.2, 0.2])


@pytest.mark.parametrize("online", [False, True])
def test_checkpoints_from_before_the_fall_are_read(online: bool) -> None:
    agent = disturbed(online_cloning_updates=40)
    agent.update(replay_of(agent), 10)
    if online:
        agent.begin_online()
    tensors, state = agent.state_dict()
    rest = disturbed(online_cloning_updates=40)
    rest.load_state_dict(tensors, {k: v for k, v in state.items() if k != "online_since"})
    rest.begin_online()
    assert float(rest.left_online(0.5, 40)) == 1.0


def test_whole_cloning_can_be_kept_online() -> None:
    agent = disturbed(online_cloning=1.0, online_cloning_updates=5)
    agent.begin_online()
    agent.update(replay_of(agent), 10)
    assert float(agent.left_online(1.0, 5)) == 1.0


@pytest.mark.parametrize("changes", [{"online_cloning": 1.5}, {"online_cloning_updates": 0}])
def test_wrong_settings_of_the_fall_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(changes))} must be"):
        make("td3_bc", **changes)
