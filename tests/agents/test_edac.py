from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from rlalign.agents.edac import gradient_similarity, values_and_action_gradients
from rlalign.errors import SettingsError
from rlalign.nn.mlp import StackedMLP
from tests.agents.naive import Naive, agree, double
from tests.agents.soft import all_values, disturbed, minimum, same_networks, squashed
from tests.agents.tiny import batch_of, gradients, leaks, make, replay_of, value_of, weights

BOUNDS = (-5.0, 2.0)


def corl_similarity(values: Tensor, actions: Tensor) -> Tensor:
    """CORL's term line by line: double backward, a table of pairs, its diagonal masked.

    Args:
        values: [member, batch] of `actions` [member, batch, act], one copy for each member.
    """
    gradient = torch.autograd.grad(values.sum(), actions, retain_graph=True, create_graph=True)[0]
    gradient = gradient / (torch.norm(gradient, p=2, dim=2).unsqueeze(-1) + 1e-10)
    gradient = gradient.transpose(0, 1)
    members = gradient.shape[1]
    masks = torch.eye(members, dtype=gradient.dtype).repeat(len(gradient), 1, 1)
    pairs = (1 - masks) * (gradient @ gradient.permute(0, 2, 1))
    return pairs.sum(dim=(1, 2)).mean() / (members - 1)


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("hidden", [[16, 16], [8, 12, 10], [16]])
def test_loss_and_gradient_are_those_of_double_backward(count: int, hidden: list[int]) -> None:
    settings: dict[str, Any] = {"critics": count, "hidden": hidden, "initial_temperature": 0.3}
    agent = disturbed("edac", diversity=2.5, **settings)
    batch = batch_of(agent)
    naive = Naive(agent)
    s, a, r, d, s2 = double(batch)
    a2, log_prob = squashed(naive, s2, batch.noise["next_action"], *BOUNDS)
    y = r + 0.99 * (1 - d) * (minimum(naive, "critic_target", s2, a2) - 0.3 * log_prob)
    values = all_values(naive, "critic", s, a)
    copies = a.expand(count, -1, -1).clone().requires_grad_()
    at_copies = torch.stack([naive.q("critic", i, s, copies[i]) for i in range(count)])
    similarity = corl_similarity(at_copies, copies)
    loss = ((values - y.detach()) ** 2).mean(1).sum() + 2.5 * similarity
    found, by_network = gradients(agent, "critic_loss", batch)
    agree(found, loss)
    agree(by_network["critic"], naive.gradient("critic", loss))
    # The term's own gradient, which the regression could hide.
    plain = disturbed("sac_n", **settings)
    same_networks(plain, agent)
    regression = gradients(plain, "critic_loss", batch)[1]["critic"]
    difference = (by_network["critic"] - regression).double()
    agree(difference, naive.gradient("critic", 2.5 * similarity), tolerance=1e-3)


def test_the_closed_form_is_the_gradient_of_the_action() -> None:
    torch.manual_seed(0)
    trunk = StackedMLP((7, 20, 16, 1), 4).double()
    inputs = torch.randn(9, 7, dtype=torch.float64)
    values, found = values_and_action_gradients(trunk, inputs, 3)
    copies = inputs.expand(4, -1, -1).clone().requires_grad_()
    outputs = trunk(copies).squeeze(-1)
    wanted = torch.autograd.grad(outputs.sum(), copies)[0][..., -3:]
    torch.testing.assert_close(values, outputs)
    torch.testing.assert_close(found, wanted)
    assert wanted.abs().max() > 1e-3


# Invariants.


def test_identical_opposite_and_orthogonal_critics() -> None:
    """Invariant 9: N, -2 and 0."""
    direction = torch.tensor([0.6, 0.8])
    same = direction.expand(5, 3, 2)
    assert gradient_similarity(same).item() == pytest.approx(5.0, abs=1e-5)
    opposite = torch.stack((direction, -direction)).unsqueeze(1)
    assert gradient_similarity(opposite).item() == pytest.approx(-2.0, abs=1e-6)
    orthogonal = torch.eye(2).unsqueeze(1)
    assert gradient_similarity(orthogonal).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize(("rising", "count"), [(0, 4), (1, 4), (2, 4), (5, 7)])
def test_slopes_of_one_action_dimension_can_only_be_counted(rising: int, count: int) -> None:
    """Invariant 9: ((2p - N)^2 - N) / (N - 1)."""
    slopes = torch.tensor([1.0] * rising + [-1.0] * (count - rising)).view(count, 1, 1)
    wanted = ((2 * rising - count) ** 2 - count) / (count - 1)
    assert gradient_similarity(3.0 * slopes).item() == pytest.approx(wanted, abs=1e-5)


def test_the_scale_of_a_critic_does_not_matter() -> None:
    """Invariant 10."""
    gradient = torch.randn(5, 8, 3, generator=torch.Generator().manual_seed(0))
    scale = torch.tensor([0.1, 1.0, 7.0, 100.0, 3.0]).view(5, 1, 1)
    torch.testing.assert_close(gradient_similarity(scale * gradient), gradient_similarity(gradient))


def test_with_eta_zero_it_is_sac_n_bit_for_bit() -> None:
    """Invariant 10, and the issue's limit."""
    agents = [make("edac", diversity=0.0, critics=4), make("sac_n", critics=4)]
    other = make("edac", critics=4)
    for agent in (*agents, other):
        agent.update(replay_of(agent), 30)
    first, second, diverse = (weights(agent) for agent in (*agents, other))
    for network, found in first.items():
        assert torch.equal(found, second[network]), network
        assert not torch.equal(found, diverse[network]), network


def test_descent_on_the_term_alone_spreads_linear_critics_evenly() -> None:
    """Invariant 11: down to -N / (N - 1)."""
    torch.manual_seed(0)
    directions = torch.randn(4, 1, 3, requires_grad=True)
    assert gradient_similarity(directions).item() > -1.0
    optimizer = torch.optim.Adam([directions], lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        loss = gradient_similarity(directions)
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(-4 / 3, abs=1e-3)
    unit = directions.detach() / directions.detach().norm(dim=-1, keepdim=True)
    assert unit.sum(0).abs().max() < 0.05


def test_critics_that_are_flat_in_the_action_do_no_harm() -> None:
    """Invariant 12: no NaN where every unit rests."""
    agent = disturbed("edac", critics=3)
    with torch.no_grad():
        agent.learner.nets.critic.trunk.biases[0].fill_(-1000.0)
    loss, by_network = gradients(agent, "critic_loss", batch_of(agent))
    assert loss.isfinite()
    assert by_network["critic"].isfinite().all()
    assert gradient_similarity(torch.zeros(3, 5, 2)).item() == 0.0


def test_the_term_reaches_the_critics_alone() -> None:
    agent = disturbed("edac", critics=3)
    assert leaks(agent, "critic_loss", batch_of(agent)) == {"critic"}


def test_training_on_the_term_makes_the_critics_differ() -> None:
    similarities = []
    for diversity in (0.0, 5.0):
        agent = make("edac", critics=4, diversity=diversity, critic_learning_rate=3e-3)
        batch = batch_of(agent, 32)
        for _ in range(150):
            agent.learner.step(batch.rows)
        _, gradient = values_and_action_gradients(
            agent.learner.nets.critic.trunk, batch.observation_actions, 2
        )
        similarities.append(gradient_similarity(gradient).item())
    assert similarities[1] < similarities[0] - 1.0
    assert similarities[1] >= -4 / 3 - 1e-5


def test_a_single_critic_and_a_negative_eta_are_refused() -> None:
    with pytest.raises(SettingsError, match="critics must be at least 2 for EDAC, got 1"):
        make("edac", critics=1)
    with pytest.raises(SettingsError, match="diversity"):
        make("edac", diversity=-1.0)
    assert value_of(make("edac"), "critic_loss", batch_of(make("edac"))) > 0
