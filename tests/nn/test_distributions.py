from __future__ import annotations

import pytest
import torch

from rlalign.nn.distributions import TanhGaussian, normal_log_prob
from rlalign.nn.policies import DeterministicActor, GaussianActor, TanhGaussianActor


def tanh_gaussian(mean: float, std: float, **options: object) -> TanhGaussian:
    values = torch.tensor([[mean]]).double(), torch.tensor([[std]]).double().log()
    return TanhGaussian(*values, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize(("raw", "density"), [(0.0, -0.918939), (0.5, -0.803709)])
def test_squashed_densities_have_their_closed_form(
    raw: float, density: float, accelerated: bool
) -> None:
    """Spec, SAC 1: mean 0, deviation 1."""
    distribution = tanh_gaussian(0.0, 1.0, accelerated=accelerated)
    action, log_prob = distribution.sample(torch.tensor([[raw]]).double())
    assert log_prob.item() == pytest.approx(density, abs=1e-6)
    assert distribution.log_prob(action).item() == pytest.approx(density, abs=1e-6)


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.0, 0.5), (0.2, 2.0)])
def test_squashed_densities_integrate_to_one(mean: float, std: float, accelerated: bool) -> None:
    noise = torch.linspace(-9, 9, 20_001).double().unsqueeze(1)
    distribution = tanh_gaussian(mean, std, accelerated=accelerated)
    action, log_prob = distribution.sample(noise)
    assert torch.trapezoid(log_prob.exp(), action[:, 0]).item() == pytest.approx(1.0, abs=1e-5)
    given = distribution.log_prob(action)
    inside = action[:, 0].abs() < 1 - 1e-6
    assert int(inside.sum()) > 5_000
    torch.testing.assert_close(given[inside], log_prob[inside], rtol=0, atol=1e-4)


def test_densities_of_actions_at_the_bounds_are_finite() -> None:
    values = tanh_gaussian(0.0, 1.0).log_prob(torch.tensor([[-1.0], [1.0]]).double())
    assert values.isfinite().all()
    assert values[0].item() == pytest.approx(values[1].item())


def test_a_normal_s_density_at_its_mean_in_six_dimensions() -> None:
    """Spec, IQL 4."""
    mean = torch.full((1, 6), 0.3)
    assert normal_log_prob(mean, mean, torch.zeros(6)).item() == pytest.approx(-5.513631, abs=1e-6)


def test_a_normal_s_density_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    value, mean = (torch.randn(7, 3, generator=generator) for _ in range(2))
    log_std = torch.randn(3, generator=generator)
    wanted = torch.distributions.Normal(mean, log_std.exp()).log_prob(value).sum(-1)
    torch.testing.assert_close(normal_log_prob(value, mean, log_std), wanted)


@pytest.mark.parametrize("accelerated", [False, True])
def test_beyond_its_clamp_the_deviation_is_the_bound_and_learns_nothing(accelerated: bool) -> None:
    mean = torch.zeros(1, 3)
    log_std = torch.tensor([[-30.0, 0.0, 5.0]], requires_grad=True)
    distribution = TanhGaussian(mean, log_std, -20.0, 2.0, accelerated)
    action, log_prob = distribution.sample(torch.tensor([[0.1, 0.1, 0.1]]))
    spread = torch.tensor([-20.0, 0.0, 2.0]).exp() * 0.1
    torch.testing.assert_close(action[0].detach(), spread.tanh())
    (action.sum() + log_prob.sum()).backward()
    assert log_std.grad is not None
    assert log_std.grad[0, 0] == 0
    assert log_std.grad[0, 1] != 0
    assert log_std.grad[0, 2] == 0


# Actors.


def test_the_gaussian_actor_has_no_jacobian_and_clips_its_actions() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actor = GaussianActor(4, 6, (16,))
    observations = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    mean = actor.mean(observations)
    torch.testing.assert_close(mean, torch.tanh(actor.trunk(observations)[0]))
    assert mean.abs().max() < 1
    expected = torch.full((5,), -5.513631)
    torch.testing.assert_close(actor.log_prob(observations, mean).detach(), expected)
    noise = torch.linspace(-5, 5, 30).view(5, 6)
    torch.testing.assert_close(actor.act(observations, noise), (mean + noise).clamp(-1, 1))
    torch.testing.assert_close(actor.mode(observations), mean)


def test_an_actor_without_tanh_has_any_mean_and_bounded_actions() -> None:
    actor = GaussianActor(4, 2, (), tanh_mean=False)
    observations = 100 * torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    assert actor.mean(observations).abs().max() > 1
    torch.testing.assert_close(actor.mean(observations), actor.trunk(observations)[0])
    assert actor.mode(observations).abs().max() == 1


def test_the_spread_of_the_gaussian_actor_is_clamped() -> None:
    actor = GaussianActor(4, 3, (8,), log_std_bounds=(-5.0, 2.0))
    with torch.no_grad():
        actor.log_std.copy_(torch.tensor([-9.0, 0.5, 9.0]))
    assert actor.clamped_log_std().tolist() == [-5.0, 0.5, 2.0]
    actor.log_prob(torch.zeros(2, 4), torch.zeros(2, 3)).sum().backward()
    assert actor.log_std.grad is not None
    assert (actor.log_std.grad != 0).tolist() == [False, True, False]


def test_the_squashed_actor_acts_as_it_samples() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        actor = TanhGaussianActor(4, 3, (16,))
    generator = torch.Generator().manual_seed(1)
    observations = torch.randn(5, 4, generator=generator)
    noise = torch.randn(5, 3, generator=generator)
    action, _ = actor(observations).sample(noise)
    torch.testing.assert_close(actor.act(observations, noise), action)
    torch.testing.assert_close(actor.mode(observations), actor.act(observations, 0 * noise))
    mean, log_std = actor.trunk(observations)[0, :, :3], actor.trunk(observations)[0, :, 3:]
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise))


def test_the_deterministic_actor_is_tanh_of_its_network() -> None:
    actor = DeterministicActor(4, 3, (16,))
    observations = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(actor(observations), torch.tanh(actor.trunk(observations)[0]))
    assert torch.equal(actor.mode(observations), actor(observations))
