"""Cal-QL: the bound in the penalty, the returns that it needs, and what is left without them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from rlalign.agents import AGENTS
from rlalign.agents.cal_ql import trajectory_ends
from rlalign.data.dataset import Dataset
from rlalign.errors import SettingsError
from rlalign.extras import offline_replay
from rlalign.layout import Batch, Layout
from rlalign.replay import FixedReplay
from tests.agents.naive import Naive, agree
from tests.agents.test_cql import critic_loss, disturbed, random_values
from tests.agents.tiny import batch_of, gradients, make, metrics_of, value_of, weights
from tests.toy_data import box_spaces

ANTMAZE: dict[str, Any] = {"reward_scale": 10.0, "reward_shift": -5.0, "failure_reward": 0.0}


def chain(rewards: list[list[float]], terminated: list[bool], *, marked: bool = True) -> Dataset:
    """Trajectories on a line, one after another; unmarked ones have a common end alone."""
    layout = Layout(4, 2)
    parts, start = [], 0.0
    ends: list[int] = []
    for values, ended in zip(rewards, terminated, strict=True):
        steps = start + np.arange(len(values) + 1, dtype=np.float32)
        states = np.repeat(steps[:, None], 4, 1)
        done = np.zeros(len(values))
        done[-1] = float(ended)
        parts.append(
            layout.pack(
                observations=states[:-1],
                actions=np.zeros((len(values), 2)),
                rewards=np.asarray(values),
                terminations=done,
                next_observations=states[1:],
            )
        )
        ends.append(len(values) + (ends[-1] if ends else 0))
        start += 100.0
    return Dataset(torch.cat(parts), layout, np.array(ends if marked else ends[-1:]), "chain")


def returns(dataset: Dataset, **settings: Any) -> np.ndarray:
    """The column that the agent's losses read."""
    agent = make("cal_ql", **settings)
    agent.prepare(dataset)
    rows = offline_replay(agent, dataset).table
    return Batch(rows, agent.layout)["mc_returns"].numpy()


# The loss.


@pytest.mark.parametrize("lagrange", [False, True])
@pytest.mark.parametrize("importance_sampling", [False, True])
def test_critics_descend_the_paper_s_loss(lagrange: bool, importance_sampling: bool) -> None:
    agent = disturbed("cal_ql", lagrange=lagrange, importance_sampling=importance_sampling)
    batch = batch_of(agent)
    rate = metrics_of(agent, "critic_loss", batch)["bound_rate"].mean()
    assert 0.2 < rate < 0.8  # the bound is neither everywhere nor nowhere
    naive = Naive(agent)
    loss = critic_loss(naive, agent, batch, batch["mc_returns"].double())
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    for network, gradient in by_network.items():
        agree(gradient, naive.gradient(network, loss), 1e-4)


@pytest.mark.parametrize("lowest", [-math.inf, -1e9])
def test_with_returns_of_minus_infinity_it_is_cql(
    lowest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20: the same loss and gradients, and the same weights after many updates."""
    cal_ql = disturbed("cal_ql")
    shared = {k: v for k, v in cal_ql.settings.to_dict().items() if k in vars(make("cql").settings)}
    cql = AGENTS["cql"](box_spaces(), **shared)
    monkeypatch.setattr(type(cql), "action_limit", cal_ql.action_limit)
    cql._set_transform()
    cql.learner.flat["critic_target"].data.copy_(cal_ql.learner.flat["critic_target"].data)
    start = weights(cql)
    assert all(torch.equal(start[name], value) for name, value in weights(cal_ql).items())
    batch = batch_of(cal_ql, mc_returns=torch.full((24,), lowest))
    plain = Batch(batch.rows[:, : cql.layout.width], cql.layout, batch.noise)
    (ours, bounded), (theirs, free) = (
        gradients(agent, "critic_loss", rows) for agent, rows in ((cal_ql, batch), (cql, plain))
    )
    assert torch.equal(ours, theirs)
    assert all(torch.equal(bounded[name], value) for name, value in free.items())

    rows = torch.randn(200, cal_ql.layout.width, generator=torch.Generator().manual_seed(0))
    Batch(rows, cal_ql.layout)["mc_returns"].fill_(lowest)
    cal_ql.update(FixedReplay(rows, cal_ql.layout), 40)
    cql.update(FixedReplay(rows[:, : cql.layout.width].contiguous(), cql.layout), 40)
    for name, value in weights(cql).items():
        assert torch.equal(weights(cal_ql)[name], value)
        assert (value - start[name]).abs().max() > 1e-3


def test_the_bound_changes_the_policy_s_actions_alone() -> None:
    """21."""
    agent = disturbed("cal_ql", lagrange=False)
    bound = torch.linspace(-1, 1, 5)
    batch = batch_of(agent, 5, mc_returns=bound)
    data, sampled, density = random_values()
    found, metrics = agent.conservative_gap(batch, data, sampled, density)
    raised = sampled.clone()
    raised[..., 3:] = torch.maximum(sampled[..., 3:], bound[:, None])
    wanted = (torch.logsumexp(raised - density, -1) - data).mean(1)
    torch.testing.assert_close(found, wanted)
    assert float(metrics["bound_rate"].mean()) == pytest.approx(
        float((sampled[..., 3:] < bound[:, None]).float().mean())
    )


def test_far_above_every_value_only_random_and_data_s_actions_are_moved() -> None:
    """20."""
    agent = disturbed("cal_ql")
    batch = batch_of(agent, 5, mc_returns=torch.full((5,), 5.0))
    data, sampled, density = random_values()
    sampled.requires_grad_()
    agent.conservative_gap(batch, data, sampled, density)[0].sum().backward()
    assert sampled.grad is not None
    assert torch.equal(sampled.grad[..., 3:], torch.zeros(2, 5, 6))
    assert (sampled.grad[..., :3] > 0).all()


def test_the_penalty_does_not_fall_with_the_returns() -> None:
    """21."""
    agent = disturbed("cal_ql", lagrange=False)
    losses = [
        value_of(agent, "critic_loss", batch_of(agent, mc_returns=torch.full((24,), level)))
        for level in (-math.inf, -1.0, 0.0, 1.0, 10.0)
    ]
    assert losses == sorted(losses)
    assert losses[0] < losses[2] < losses[4]


# The returns.


def test_returns_of_a_goal_and_of_failure_are_known_numbers() -> None:
    """22: discount 0.99, rewards 10 r - 5."""
    dataset = chain([[0.0] * 100 + [1.0], [0.0] * 30], [True, False])
    found = returns(dataset, **ANTMAZE)
    expected = {0: 5.0, 1: -0.05, 2: -5.0495, 100: -315.1537}
    for back, value in expected.items():
        assert found[100 - back] == pytest.approx(value, abs=1e-3)
    assert np.array_equal(found[101:], np.full(30, -500.0, np.float32))


def test_what_follows_a_goal_is_not_counted_and_a_late_failure_is_a_trajectory_of_its_own() -> None:
    dataset = chain([[0.0, 1.0], [0.0, 0.0]], [True, False])
    alone = chain([[0.0, 1.0]], [True])
    assert np.array_equal(returns(dataset, **ANTMAZE)[:2], returns(alone, **ANTMAZE))
    glued = Dataset(dataset.table, dataset.layout, np.array([4]), "one end for both")
    assert np.array_equal(returns(glued, **ANTMAZE), returns(dataset, **ANTMAZE))


@pytest.mark.parametrize("settings", [{}, ANTMAZE])
def test_trajectories_glued_together_get_returns_of_their_own(settings: dict[str, Any]) -> None:
    """23: s_{t+1} is not s'_t where one ends without a mark."""
    rewards, cut = [[0.0, 0.0], [0.0, 1.0, 0.0], [0.0]], [False] * 3
    marked, glued = chain(rewards, cut), chain(rewards, cut, marked=False)
    assert trajectory_ends(glued).tolist() == marked.ends.tolist() == [2, 5, 6]
    assert glued.ends.tolist() == [6]
    assert np.array_equal(returns(glued, **settings), returns(marked, **settings))


def test_rounded_next_observations_part_no_trajectories() -> None:
    """As where s' was normalised and back: many dimensions off by a rounding error each."""
    steps, layout = 200, Layout(29, 1)
    walk = 10.0 * np.random.default_rng(0).normal(size=(steps + 1, 29)).astype(np.float32)
    table = torch.zeros(steps, layout.width)
    table[:, layout.columns["observations"]] = torch.from_numpy(walk[:-1])
    later = torch.from_numpy(np.nextafter(walk[1:], np.float32(np.inf)))
    table[:, layout.columns["next_observations"]] = later
    dataset = Dataset(table, layout, np.array([steps]), "rounded")
    assert trajectory_ends(dataset).tolist() == [steps]


def test_dense_rewards_end_with_the_data_or_go_on_forever() -> None:
    dataset = chain([[1.0, 2.0], [3.0, 4.0]], [True, False])
    ended = returns(dataset, discount=0.5)
    assert ended.tolist() == [2.0, 2.0, 5.0, 4.0]
    endless = returns(dataset, discount=0.5, endless_reward=True)
    assert endless.tolist() == [2.0, 2.0, 7.0, 8.0]


def test_a_range_of_returns_scales_them_as_it_scales_rewards() -> None:
    dataset = chain([[1.0, 2.0], [3.0, 4.0]], [True, False])
    found = returns(dataset, discount=0.5, reward_scale="return_range")
    assert found.tolist() == pytest.approx([500.0, 500.0, 1250.0, 1000.0])  # 1000 / (7 - 3)


@pytest.mark.parametrize(("online", "calibrate"), [(True, False), (True, True), (False, False)])
def test_calibration_may_end_with_the_offline_phase(online: bool, calibrate: bool) -> None:
    agent = make("cal_ql", calibrate_online=calibrate)
    dataset = chain([[1.0, 2.0]], [True])
    agent.begin_offline(1)
    if online:
        agent.begin_online()
    found = agent.extra_columns(dataset)["mc_returns"]
    assert bool((found == -math.inf).all()) == (online and not calibrate)


def test_rewards_without_end_need_a_discount() -> None:
    for settings in ({"failure_reward": 0.0}, {"endless_reward": True}):
        with pytest.raises(SettingsError, match="setting discount must be below 1"):
            make("cal_ql", discount=1.0, **settings)
    make("cal_ql", discount=1.0)
