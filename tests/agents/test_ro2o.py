from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.errors import SettingsError
from tests.agents.naive import Naive, agree, double
from tests.agents.soft import all_values, disturbed, same_networks, squashed
from tests.agents.test_rorl import BOUNDS, OFF, STRONG
from tests.agents.test_sac_n import AS_SAC
from tests.agents.tiny import (
    batch_of,
    gradients,
    learn_alike,
    make,
    metrics_of,
    replay_of,
    value_of,
    weights,
)

ANTMAZE: dict[str, Any] = {"targets": "independent", "policy_bound": "lcb", "cloning": 5.0}
LOSSES = ("critic_loss", "actor_loss")


# Offline.


def test_offline_it_is_rorl_bit_for_bit() -> None:
    agents = [make(name, critics=4) for name in ("ro2o", "rorl")]
    start = weights(agents[0])
    learn_alike(agents, start)


def test_two_critics_without_its_terms_are_sac_bit_for_bit() -> None:
    """Invariant 2; networks and order of the steps are SAC's too."""
    sac = make("sac", observation_normalization="standard")
    agents = [make("ro2o", critics=2, **OFF, **AS_SAC), sac]
    start = weights(sac)
    learn_alike(agents, start)


def test_each_critic_bootstraps_from_its_own_target() -> None:
    """Independent targets: y_i = r + discount (1 - d) (Q'_i - alpha log pi), section 2.5."""
    settings = {"critic_smoothing": 0.0, "ood_weight": 0.0, "targets": "independent"}
    agent = disturbed("ro2o", **{**STRONG, **settings})
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, r, d, s2 = double(batch)
    a2, log_prob = squashed(naive, s2, batch.noise["next_action"], *BOUNDS)
    y = r + 0.9 * (1 - d) * (all_values(naive, "critic_target", s2, a2) - 0.3 * log_prob)
    loss = ((all_values(naive, "critic", s, a) - y.detach()) ** 2).mean(1).sum()
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))
    agree(metrics_of(agent, "critic_loss", batch)["q_target"], y)
    agent = disturbed("ro2o", **{**STRONG, "targets": "independent"})
    assert metrics_of(agent, "critic_loss", batch_of(agent))["q_target"].shape == (4, 24)


@pytest.mark.parametrize("bound", ["lcb", "min"])
def test_the_actor_climbs_its_bound_and_clones_its_own_sample(bound: str) -> None:
    """Both AntMaze forms: L_BC is of the sampled action, a mean over batch and dimensions."""
    agent = disturbed(
        "ro2o", **{**STRONG, "policy_smoothing": 0.0, "policy_bound": bound}, cloning=5
    )
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, *_ = double(batch)
    action, log_prob = squashed(naive, s, batch.noise["action"], *BOUNDS)
    g = all_values(naive, "critic", s, action) - 0.3 * log_prob
    spread = ((g - g.mean(0)) ** 2).sum(0).div(3).sqrt()
    value = g.mean(0) - 4.0 * spread if bound == "lcb" else g.min(0).values
    loss = -value.mean() + 5.0 * ((action - a) ** 2).sum() / a.numel()
    _, by_network = gradients(agent, "actor_loss", batch)
    agree(by_network["actor"], naive.gradient("actor", loss))


def test_two_members_of_known_values_give_the_known_bound() -> None:
    """Invariant 11: G = (1, 3), beta -4: the loss is 3.65685; a constant c changes it by -c."""
    agent = make("ro2o", critics=2, policy_bound="lcb", hidden=[8])
    trunk = agent.learner.nets.critic.trunk
    for level, wanted in ((0.0, 3.656854), (2.0, 1.656854)):
        with torch.no_grad():
            trunk.weights[-1].zero_()
            trunk.biases[-1][:, 0, 0] = torch.tensor([1.0, 3.0]) + level
        value = agent.policy_value(agent.learner.nets, torch.zeros(3, 4), torch.zeros(3, 2))
        assert (-value).tolist() == pytest.approx([wanted] * 3, abs=1e-5)


def test_rewards_of_antmaze_become_minus_and_plus_two() -> None:
    """4 (r - 0.5), offline and online, as the recipes set it."""
    agent = make("ro2o", reward_scale=4.0, reward_shift=-2.0)
    rows = batch_of(agent, 2).rows
    rows[:, agent.layout.columns["rewards"].start] = torch.tensor([0.0, 1.0])
    transformed = agent._transform(rows)
    assert transformed[:, agent.layout.columns["rewards"].start].tolist() == [-2.0, 2.0]


# Online.


@pytest.mark.parametrize(
    ("kept", "critic", "ood", "policy"),
    [
        ("none", False, False, False),
        ("all", True, True, True),
        ("ood", False, True, False),
        ("smooth", True, False, True),
    ],
)
def test_online_only_the_named_terms_stay(kept: str, critic: bool, ood: bool, policy: bool) -> None:
    agent = disturbed("ro2o", **STRONG, online_regularizers=kept)
    batch = batch_of(agent)
    for online in (False, True):
        if online:
            agent.begin_online()
        metrics = {n for loss in LOSSES for n in metrics_of(agent, loss, batch)}
        assert ("critic_roughness" in metrics) == (critic or not online)
        assert ("ood_penalty" in metrics) == (ood or not online)
        assert ("policy_roughness" in metrics) == (policy or not online)


def test_online_an_update_is_sac_n_s() -> None:
    """Invariant 5."""
    agent, plain = disturbed("ro2o", **STRONG), disturbed("sac_n", critics=4, discount=0.9)
    same_networks(plain, agent)
    batch = batch_of(agent)
    for online in (False, True):
        if online:
            agent.begin_online()
        for loss in LOSSES:
            first, second = (gradients(a, loss, batch) for a in (agent, plain))
            assert torch.equal(first[0], second[0]) == online
            for network in {"critic", "actor"} & set(first[1]):
                assert torch.equal(first[1][network], second[1][network]) == online


def test_online_uncertainty_weighs_at_its_floor() -> None:
    agent = disturbed("ro2o", **STRONG, online_regularizers="all")
    batch = batch_of(agent)
    before = metrics_of(agent, "critic_loss", batch)
    agent.begin_online()
    after = metrics_of(agent, "critic_loss", batch)
    assert before["uncertainty_weight"].item() == pytest.approx(0.9)
    assert after["uncertainty_weight"].item() == pytest.approx(0.1)
    assert after["ood_penalty"] == pytest.approx(before["ood_penalty"].item() / 81, rel=1e-4)


def test_a_saved_agent_knows_that_it_is_online(tmp_path: Path) -> None:
    """The regularisers do not come back by a reload, and the moments of Adam do not go."""
    whole = make("ro2o", **STRONG)
    replay = replay_of(whole)
    whole.update(replay, 10)
    whole.begin_online()
    whole.update(replay, 10)
    whole.save(tmp_path / "agent")
    rest = AGENTS["ro2o"].load(tmp_path / "agent")
    for agent in (whole, rest):
        agent.update(replay, 10)
    first, second = (agent.state_dict()[0] for agent in (whole, rest))
    assert all(torch.equal(first[name], second[name]) for name in first)
    rest.begin_offline(10)
    batch = batch_of(rest)
    assert "ood_penalty" in metrics_of(rest, "critic_loss", batch)


def test_it_trains_in_the_antmaze_form() -> None:
    agent = make("ro2o", **{**STRONG, **ANTMAZE})
    start = weights(agent)
    agent.update(replay_of(agent), 20)
    assert all(not torch.equal(start[n], end) for n, end in weights(agent).items())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="cloning"):
        make("ro2o", cloning=-1.0)
    with pytest.raises(SettingsError, match="online_regularizers must be one of"):
        make("ro2o", online_regularizers="some")
    assert value_of(make("ro2o"), "actor_loss", batch_of(make("ro2o"))) != 0


def test_min_of_independent_targets_is_not_the_shared_target() -> None:
    """The two forms agree where the targets do."""
    agent, shared = disturbed("ro2o", **STRONG, targets="independent"), disturbed("ro2o", **STRONG)
    same_networks(shared, agent)
    batch = batch_of(agent)
    own, common = (metrics_of(a, "critic_loss", batch)["q_target"] for a in (agent, shared))
    torch.testing.assert_close(own.min(0).values, common)
    assert (own - common).abs().max() > 0.1
    with torch.no_grad():
        for a in (agent, shared):
            for parameter in a.learner.nets.critic_target.parameters():
                parameter.copy_(parameter[:1].expand_as(parameter).clone())
    own, common = (metrics_of(a, "critic_loss", batch)["q_target"] for a in (agent, shared))
    torch.testing.assert_close(own, common.expand_as(own))
