"""A policy over one scalar, and how that scalar is shown to other networks (FamO2O)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlalign.nn.distributions import TanhGaussian
from rlalign.nn.mlp import Initialization, StackedMLP


class PlainTanhGaussian(nn.Module):
    """A tanh-Gaussian over one scalar, whose spread is one parameter instead of a function of s.

    Args:
        observation_size: length of one observation.
        hidden: widths of the hidden layers.
        log_std_bounds: clamp of the log standard deviation.
    """

    def __init__(
        self,
        observation_size: int,
        hidden: Sequence[int] = (256, 256),
        *,
        log_std_bounds: tuple[float, float] = (-10.0, 2.0),
        initialization: Initialization = "torch",
    ) -> None:
        super().__init__()
        self.trunk = StackedMLP((observation_size, *hidden, 1), initialization=initialization)
        self.log_std = nn.Parameter(torch.zeros(1))
        self.log_std_bounds = log_std_bounds

    def forward(self, observations: Tensor) -> TanhGaussian:
        """Return the distribution of u [batch, 1] at observations [batch, obs]."""
        mean = self.trunk(observations).flatten(0, 1)
        return TanhGaussian(mean, self.log_std, *self.log_std_bounds, self.trunk.accelerated)


class BalancePolicy(nn.Module):
    """pi_b(beta | s): a tanh-Gaussian over u in (-1, 1), stretched to [low, high].

    FamO2O (arXiv 2310.17966). Its densities are those of u, not of beta, so that an entropy's
    target does not depend on the range.

    Args:
        policy: gives the distribution of u [batch, 1] at observations [batch, obs].
        bounds: low and high of beta; equal bounds make it a constant.
        encoding_size: length of beta's encoding, even.
        encoding_base: base of the encoding's wavelengths.
    """

    def __init__(
        self,
        policy: nn.Module,
        *,
        bounds: tuple[float, float],
        encoding_size: int = 6,
        encoding_base: float = 10_000.0,
    ) -> None:
        super().__init__()
        if encoding_size < 2 or encoding_size % 2:
            raise ValueError(f"encoding_size must be even and at least 2, got {encoding_size}")
        self.policy = policy
        self.bounds = bounds
        exponents = torch.arange(0, encoding_size, 2, dtype=torch.float64) / encoding_size
        self.frequencies: Tensor
        self.register_buffer("frequencies", (encoding_base**-exponents).float())

    def forward(self, observations: Tensor) -> TanhGaussian:
        """Return the distribution of u at observations [batch, obs]."""
        distribution: TanhGaussian = self.policy(observations)
        return distribution

    def stretch(self, unit: Tensor) -> Tensor:
        """Map u in [-1, 1] to beta: -1 is low, 0 the middle, 1 high."""
        low, high = self.bounds
        return 0.5 * (low + high) + 0.5 * (high - low) * unit

    def sample(self, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return reparameterised beta [batch] and log pi_b(u | s) [batch].

        Args:
            observations: [batch, obs].
            noise: standard normal [batch, 1].
        """
        unit, log_prob = self(observations).sample(noise)
        return self.stretch(unit.squeeze(-1)), log_prob

    def mode(self, observations: Tensor) -> Tensor:
        """Return the deterministic beta [batch]."""
        return self.stretch(self(observations).mode.squeeze(-1))

    def encode(self, coefficient: Tensor) -> Tensor:
        """Return sin and cos of beta [batch] at each frequency in turn, [batch, encoding_size].

        enc[2i] = sin(beta / n^(2i/d)), enc[2i + 1] = cos(beta / n^(2i/d)), of the raw beta; the
        gradient reaches beta.
        """
        angles = coefficient.unsqueeze(-1) * self.frequencies
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)

    def condition(self, observations: Tensor, coefficient: Tensor) -> Tensor:
        """Return [s, enc(beta)], [batch, obs + encoding_size]: what the universal policy sees."""
        return torch.cat((observations, self.encode(coefficient)), dim=-1)
