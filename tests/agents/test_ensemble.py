from __future__ import annotations

import math
from itertools import combinations, pairwise

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rlalign.agents.ensemble import (
    asymmetric_change,
    confidence_bound,
    disagreement,
    jeffreys_divergence,
    perturbed,
    random_members,
    uncertainty_penalty,
    worst,
)


def test_disagreement_divides_by_one_less_than_the_members() -> None:
    assert disagreement(torch.tensor([1.0, 3.0])).item() == pytest.approx(math.sqrt(2))
    four = torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [6.0, 0.0]])
    assert disagreement(four).tolist() == pytest.approx([2.160247, 0.0])


def test_a_confidence_bound_moves_with_a_constant_and_against_the_spread() -> None:
    """RO2O, invariant 11: -(2 - 4 sqrt 2) = 3.65685; adding c to all adds c."""
    values = torch.tensor([[1.0], [3.0]])
    bound = confidence_bound(values, -4.0)
    assert -bound.item() == pytest.approx(3.656854, abs=1e-5)
    assert (confidence_bound(values + 5.0, -4.0) - bound).item() == pytest.approx(5.0, abs=1e-5)
    assert confidence_bound(values, 0.0).item() == 2.0


# Of uncertainty.


@pytest.mark.parametrize(
    ("values", "weight", "wanted"),
    [
        ([1.0, 3.0], 1.0, 2.0),
        ([1.0, 3.0], 0.5, 0.5),
        ([1.0, 2.0, 3.0, 6.0], 1.0, 14.0 / 3.0),
        ([1.0, 3.0], 0.0, 0.0),
    ],
)
def test_the_penalty_is_the_squared_weight_times_the_variance(
    values: list[float], weight: float, wanted: float
) -> None:
    """RO2O, invariants 4 and 7; the gradient by each value is 2 weight u / count."""
    q = torch.tensor(values, requires_grad=True)
    loss = uncertainty_penalty(q, torch.tensor(weight))
    assert loss.item() == pytest.approx(wanted, abs=1e-6)
    loss.backward()
    gradient = 2 * weight * disagreement(q.detach()) / len(values)
    assert q.grad is not None
    torch.testing.assert_close(q.grad, gradient.expand(len(values)))


def test_the_penalty_of_a_batch_is_its_mean_square_whatever_the_level() -> None:
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(5, 7, 3, generator=generator)
    weight = torch.tensor(0.7)
    wanted = (0.7 * q.std(0)).square().mean()
    for level in (0.0, 10.0):
        torch.testing.assert_close(uncertainty_penalty(q + level, weight), wanted)


def test_the_penalty_alone_lowers_a_table_of_values_for_ever_and_keeps_its_spread() -> None:
    """RO2O, invariant 17: every entry gets the same push."""
    q = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64, requires_grad=True)
    spread, means = disagreement(q.detach()), [q.detach().mean()]
    for _ in range(200):
        (gradient,) = torch.autograd.grad(uncertainty_penalty(q, torch.tensor(1.0)), q)
        q.data.sub_(0.1 * gradient)
        means.append(q.detach().mean())
    assert all(later < earlier for earlier, later in pairwise(means))
    # A straight line: 2 weight u / count at each step.
    assert (means[0] - means[-1]).item() == pytest.approx(200 * 0.1 * 2 * spread.item() / 3)
    torch.testing.assert_close(disagreement(q.detach()), spread)


def test_in_the_data_the_penalty_s_bias_goes_as_the_critics_agree() -> None:
    """RO2O, invariant 18: of the squared error beside it, the fixed point is the target itself."""
    target = 5.0
    q = torch.tensor([0.0, 1.0, 4.0, 9.0], dtype=torch.float64, requires_grad=True)
    for step in range(400):
        penalty = uncertainty_penalty(q, torch.tensor(1.0))
        (gradient,) = torch.autograd.grad((q - target).square().sum() + 0.5 * penalty, q)
        q.data.sub_(0.05 * gradient)
        if step == 20:  # on the way there, values lie below what the error alone would give
            alone = target + 0.9**21 * (torch.tensor([0.0, 1.0, 4.0, 9.0]).mean() - target)
            assert q.detach().mean() < alone - 0.1
    torch.testing.assert_close(q.detach(), torch.full_like(q, target), rtol=0, atol=1e-8)


# Of smoothness.


def test_a_rise_costs_four_times_what_a_fall_does() -> None:
    """RO2O, invariant 6: noised values (+1, -1) and (+2, 0) from a base of 0, tau 0.2."""
    change = torch.tensor([[[1.0, 2.0]], [[-1.0, 0.0]]])  # [member, batch, draw]
    assert asymmetric_change(change, 0.2).tolist() == [pytest.approx([0.5, 1.6])]
    assert asymmetric_change(-change, 0.2).tolist() == [pytest.approx([0.5, 0.4])]
    torch.testing.assert_close(
        asymmetric_change(change, 0.5), 0.5 * change.square().mean(0), rtol=0, atol=0
    )


def test_each_row_s_worst_candidate_is_its_own() -> None:
    candidates = torch.arange(2 * 3 * 2.0).view(2, 3, 2)
    penalty = torch.tensor([[0.0, 5.0, 1.0], [9.0, 5.0, 1.0]])
    assert worst(penalty, candidates).tolist() == [[2.0, 3.0], [6.0, 7.0]]


def test_the_worst_of_more_draws_is_never_better() -> None:
    """RO2O, invariant 14."""
    generator = torch.Generator().manual_seed(0)
    penalty = torch.rand(50, 20, generator=generator)
    states = penalty.unsqueeze(-1)  # a state that names its penalty
    sizes = [worst(penalty[:, :n], states[:, :n]).mean().item() for n in (1, 5, 20)]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]


@pytest.mark.parametrize("shared", [False, True])
def test_perturbed_states_fill_the_ball_around_their_own_state(shared: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    observations = 100 * torch.randn(6, 3, generator=generator, dtype=torch.float64)
    shape = (400, 3) if shared else (6, 400, 3)
    directions = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    offset = perturbed(observations, directions, 0.05) - observations.unsqueeze(1)
    assert offset.abs().max() <= 0.05 + 1e-9
    assert offset.amax((0, 1)).min() > 0.049
    assert offset.amin((0, 1)).max() < -0.049
    torch.testing.assert_close(offset, (0.05 * directions).expand(6, 400, 3))


def test_jeffreys_divergence_of_known_pairs() -> None:
    """RO2O, invariant 8."""
    zero, half, one, two = (torch.tensor([x]) for x in (0.0, 0.5, 1.0, 2.0))
    assert jeffreys_divergence(zero, zero, half, zero).item() == pytest.approx(0.25)
    assert jeffreys_divergence(zero, zero, zero, two.log()).item() == pytest.approx(1.125)
    assert jeffreys_divergence(one, two, one, two).item() == 0.0


def test_jeffreys_divergence_is_both_of_torch_s_divergences() -> None:
    generator = torch.Generator().manual_seed(0)
    m, n, s, t = torch.randn(4, 30, 5, generator=generator, dtype=torch.float64)
    first, second = Normal(m, s.exp()), Normal(n, t.exp())
    wanted = (kl_divergence(first, second) + kl_divergence(second, first)).sum(-1)
    torch.testing.assert_close(jeffreys_divergence(m, s, n, t), wanted)
    torch.testing.assert_close(jeffreys_divergence(n, t, m, s), wanted)


# Of minima.


def test_a_random_subset_has_no_member_twice_and_every_pair_alike() -> None:
    """RLPD, invariant 22: 6000 draws of 2 in 4; each of 6 pairs 1000 times within 5 deviations."""
    generator = torch.Generator().manual_seed(0)
    counts = dict.fromkeys(combinations(range(4), 2), 0)
    for _ in range(6000):
        first, second = random_members(2 * torch.rand(4, generator=generator) - 1, 2).tolist()
        counts[min(first, second), max(first, second)] += 1  # a KeyError if one came twice
    deviation = math.sqrt(6000 * (1 / 6) * (5 / 6))
    assert all(abs(count - 1000) < 5 * deviation for count in counts.values()), counts


@pytest.mark.parametrize(
    ("members", "wanted"),
    [
        (2, 0.564),
        (5, 1.163),
        (10, 1.539),
        (20, 1.868),
        (50, 2.249),
        (100, 2.508),
        (200, 2.746),
        (500, 3.037),
    ],
)
def test_the_minimum_of_n_is_a_confidence_bound(members: int, wanted: float) -> None:
    """E min of N standard normals = -k_N (invariant 6): integral of x N phi(x) (1 - Phi(x))^(N-1).

    The clipped double target is the bound at 0.564, ten critics are at 1.539.
    """
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    normal = Normal(torch.zeros((), dtype=torch.float64), 1.0)
    density = members * normal.log_prob(x).exp() * (1 - normal.cdf(x)) ** (members - 1)
    assert torch.trapezoid(density, x).item() == pytest.approx(1.0, abs=1e-9)
    bound = -torch.trapezoid(x * density, x).item()
    assert bound == pytest.approx(wanted, abs=6e-4)
    draws = torch.randn(members, 4000, generator=torch.Generator().manual_seed(members))
    # 4000 draws of a minimum with a deviation below 0.83: 5 of its errors.
    assert draws.amin(0).mean().item() == pytest.approx(-bound, abs=5 * 0.83 / math.sqrt(4000))
