"""Action distributions, written as functions of tensors and of given noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from rlalign.nn.fused import HALF_LOG_2PI, tanh_gaussian


def normal_log_prob(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of independent normals, summed over the last axis.

    Args:
        value, mean: [..., act].
        log_std: broadcastable to them.

    Returns:
        [...]. At value = mean, log_std 0 and six dimensions it is -5.513631.
    """
    error = (value - mean) * torch.exp(-log_std)
    return (-0.5 * error.square() - log_std - HALF_LOG_2PI).sum(-1)


@dataclass(frozen=True)
class TanhGaussian:
    """tanh of a normal: SAC's policy (arXiv 1812.05905, appendix C).

    Args:
        mean, log_std: [..., act]; log_std is clamped to [low, high].
        accelerated: sample through one fused autograd node instead of plain autograd.
    """

    mean: Tensor
    log_std: Tensor
    low: float = -20.0
    high: float = 2.0
    accelerated: bool = False

    @property
    def mode(self) -> Tensor:
        """The action of the mean, tanh(mean) [..., act]."""
        return torch.tanh(self.mean)

    def sample(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return reparameterised actions [..., act] and their log-densities [...].

        Args:
            noise: standard normal [..., act].
        """
        if self.accelerated:
            return tanh_gaussian(self.mean, self.log_std, noise, self.low, self.high)
        log_std = self.log_std.clamp(self.low, self.high)
        raw = self.mean + log_std.exp() * noise
        gaussian = -0.5 * noise.square() - log_std - HALF_LOG_2PI
        # log(1 - tanh(u)^2) in a form that does not overflow for large |u|.
        volume = 2.0 * (math.log(2.0) - raw - torch.nn.functional.softplus(-2.0 * raw))
        return torch.tanh(raw), (gaussian - volume).sum(-1)

    def log_prob(self, action: Tensor, limit: float = 1.0 - 1e-6) -> Tensor:
        """Log-density of given actions [..., act], clipped to +-limit where atanh is finite."""
        raw = torch.atanh(action.clamp(-limit, limit))
        log_std = self.log_std.clamp(self.low, self.high)
        volume = 2.0 * (math.log(2.0) - raw - torch.nn.functional.softplus(-2.0 * raw))
        return normal_log_prob(raw, self.mean, log_std) - volume.sum(-1)
