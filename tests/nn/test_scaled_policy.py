from __future__ import annotations

import torch

from rlalign.nn.policies import TanhGaussianActor
from rlalign.nn.scaled_policy import ScaledTanhGaussianActor


def actors(multiplier: float, offset: float) -> tuple[ScaledTanhGaussianActor, TanhGaussianActor]:
    """The same network with and without scale and offset."""
    torch.manual_seed(0)
    scaled = ScaledTanhGaussianActor(4, 2, (8,), multiplier=multiplier, offset=offset)
    torch.manual_seed(0)
    return scaled, TanhGaussianActor(4, 2, (8,))


def test_log_std_is_scaled_and_shifted_before_its_clamp() -> None:
    scaled, plain = actors(2.0, -1.0)
    observations = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    found, base = scaled(observations), plain(observations)
    torch.testing.assert_close(found.mean, base.mean)
    torch.testing.assert_close(found.log_std, 2.0 * base.log_std - 1.0)
    noise = torch.zeros(6, 2)
    torch.testing.assert_close(scaled.act(observations, noise), plain.act(observations, noise))


def test_scale_one_and_offset_zero_are_the_plain_actor() -> None:
    scaled, plain = actors(1.0, 0.0)
    observations, noise = torch.randn(6, 4), torch.randn(6, 2)
    for found, wanted in zip(
        scaled(observations).sample(noise), plain(observations).sample(noise), strict=True
    ):
        assert torch.equal(found, wanted)


def test_scale_zero_gives_one_spread_everywhere_and_both_scalars_learn() -> None:
    scaled, _ = actors(0.0, -1.0)
    policy = scaled(torch.randn(6, 4))
    assert torch.equal(policy.log_std, torch.full((6, 2), -1.0))
    policy.log_std.sum().backward()
    for parameter in (scaled.log_std_multiplier, scaled.log_std_offset):
        assert parameter.grad is not None
        assert parameter.grad.abs().item() > 1e-3
