"""The coefficient's encoding, its range and its density: closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlalign.nn.balance import BalancePolicy, PlainTanhGaussian
from rlalign.nn.policies import TanhGaussianActor


def policy(
    low: float = 8.0, high: float = 14.0, *, state_dependent_std: bool = False
) -> BalancePolicy:
    torch.manual_seed(0)
    unit = (
        TanhGaussianActor(3, 1, (16, 16)) if state_dependent_std else PlainTanhGaussian(3, (16, 16))
    )
    return BalancePolicy(unit, bounds=(low, high))


def constant(mean: float, std: float) -> BalancePolicy:
    """A policy that ignores the state."""
    unit = PlainTanhGaussian(3, (16, 16))
    with torch.no_grad():
        for parameter in unit.parameters():
            parameter.zero_()
        unit.trunk.biases[-1].fill_(mean)
        unit.log_std.fill_(math.log(std))
    return BalancePolicy(unit, bounds=(8.0, 14.0))


@pytest.mark.parametrize(
    ("beta", "expected"),
    [
        (0.5, (0.479426, 0.877583, 0.023206, 0.999731, 0.001077, 0.999999)),
        (2.0, (0.909297, -0.416147, 0.092699, 0.995694, 0.004309, 0.999991)),
        (8.0, (0.989358, -0.145500, 0.362852, 0.931847, 0.017235, 0.999851)),
        (14.0, (0.990607, 0.136737, 0.605045, 0.796191, 0.030158, 0.999545)),
    ],
)
def test_encoding_is_the_sinusoid_of_the_raw_coefficient(
    beta: float, expected: tuple[float, ...]
) -> None:
    """Invariant 1: table 2.1."""
    found = policy().encode(torch.tensor([beta, beta]))
    assert found.shape == (2, 6)
    torch.testing.assert_close(found, torch.tensor([expected] * 2), atol=1e-6, rtol=0)


def test_gradient_flows_through_the_encoding() -> None:
    beta = torch.linspace(0.5, 14, 7).requires_grad_()
    encoding = policy().encode(beta)
    for column in range(6):
        divisor = 10_000.0 ** (2 * (column // 2) / 6)
        angle = beta.detach() / divisor
        wanted = (angle.cos() if column % 2 == 0 else -angle.sin()) / divisor
        (found,) = torch.autograd.grad(encoding[:, column].sum(), beta, retain_graph=True)
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("size", [0, 1, 5])
def test_an_odd_encoding_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="even"):
        BalancePolicy(PlainTanhGaussian(3), bounds=(1, 5), encoding_size=size)


def test_the_policy_s_input_is_state_and_encoding() -> None:
    made = policy()
    observations, beta = torch.randn(5, 3), torch.linspace(8, 14, 5)
    inputs = made.condition(observations, beta)
    assert torch.equal(inputs[:, :3], observations)
    assert torch.equal(inputs[:, 3:], made.encode(beta))


def test_the_range_is_stretched_from_minus_one_to_one() -> None:
    """Invariant 2; the authors' CQL code maps to (2 low - high, high), half of it below low."""
    units = torch.tensor([-1.0, 0.0, 1.0])
    assert policy(8, 14).stretch(units).tolist() == [8.0, 11.0, 14.0]
    assert policy(0.5, 1.5).stretch(units).tolist() == [0.5, 1.0, 1.5]
    assert policy(3, 3).stretch(units).tolist() == [3.0, 3.0, 3.0]


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_every_sample_lies_in_the_range(state_dependent_std: bool) -> None:
    made = policy(0.5, 1.5, state_dependent_std=state_dependent_std)
    observations, noise = 3 * torch.randn(5000, 3), 3 * torch.randn(5000, 1)
    beta, log_prob = made.sample(observations, noise)
    assert beta.shape == log_prob.shape == made.mode(observations).shape == (5000,)
    assert beta.min() >= 0.5
    assert beta.max() <= 1.5
    assert beta.min() < 0.55
    assert beta.max() > 1.45
    assert made.mode(observations).std() > 0.01


@pytest.mark.parametrize("state_dependent_std", [False, True])
def test_the_mode_is_the_sample_without_noise(state_dependent_std: bool) -> None:
    made = policy(state_dependent_std=state_dependent_std)
    observations = torch.randn(9, 3)
    beta, _ = made.sample(observations, torch.zeros(9, 1))
    torch.testing.assert_close(made.mode(observations), beta)


def grid(made: BalancePolicy) -> tuple[Tensor, Tensor, Tensor]:
    """Standard normal quantiles, their probabilities, and the policy's log-densities there."""
    edges = torch.linspace(-9, 9, 40_001, dtype=torch.float64)
    width = float(edges[1] - edges[0])
    share = torch.exp(-0.5 * edges**2) / math.sqrt(2 * math.pi) * width
    _, log_prob = made.sample(torch.zeros(len(edges), 3), edges.float().unsqueeze(1))
    return edges, share, log_prob.detach().double()


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.4, 0.3), (-1.0, 0.8)])
def test_the_density_is_that_of_the_unit_before_stretching(mean: float, std: float) -> None:
    """Invariant 3: it integrates to one over (-1, 1)."""
    edges, _, log_prob = grid(constant(mean, std))
    unit = torch.tanh(mean + std * edges)
    area = torch.trapezoid(log_prob.exp(), unit)
    assert float(area) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("std", "entropy"),
    [
        (0.1, -0.894),
        (0.15, -0.500),
        (0.2, -0.230),
        (0.5, 0.500),
        (0.875, 0.684),
        (1.0, 0.670),
        (2.0, -0.001),
    ],
)
def test_entropies_of_a_squashed_normal(std: float, entropy: float) -> None:
    """Invariant 3: the uniform's log 2 is the largest."""
    _, share, log_prob = grid(constant(0.0, std))
    assert -float((share * log_prob).sum()) == pytest.approx(entropy, abs=1e-3)
    assert entropy < math.log(2)
