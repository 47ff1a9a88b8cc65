"""Densities of action distributions, each as one autograd node instead of ten.

For a small network the number of operations counts more than their arithmetic. The functions of
`rlalign.nn.distributions` are the reference that tests hold these to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rlalign.nn.fast import refuse_second_derivative

LOG_2 = 0.6931471805599453
HALF_LOG_2PI = 0.9189385332046727


def tanh_gaussian(
    mean: Tensor, log_std: Tensor, noise: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Sample a tanh-squashed Gaussian and its log-density.

    Equals `rlalign.nn.distributions.TanhGaussian.sample`.

    Args:
        mean, log_std: [..., act], log_std before clamping to [low, high].
        noise: standard normal [..., act]; the three are broadcast against each other.

    Returns:
        actions [..., act] in (-1, 1) and log-densities [...].
    """
    if not mean.shape == log_std.shape == noise.shape:
        mean, log_std, noise = torch.broadcast_tensors(mean, log_std, noise)
    if torch.is_grad_enabled() and (mean.requires_grad or log_std.requires_grad):
        action, log_prob = _TanhGaussian.apply(mean, log_std, noise, low, high)
        return action, log_prob
    action, log_prob, _ = _sample(mean, log_std, noise, low, high)
    return action, log_prob


def _sample(
    mean: Tensor, log_std: Tensor, noise: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return action, log-density, and spread = std * noise."""
    clamped = log_std.clamp(low, high)
    spread = clamped.exp().mul_(noise)
    raw = mean + spread
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which does not overflow;
    # it is also 2 (log 2 - log(e^u + e^-u)), which is one call.
    volume = torch.logaddexp(raw, -raw)
    density = torch.sub(volume, clamped, alpha=0.5).addcmul_(noise, noise, value=-0.25)
    constant = (HALF_LOG_2PI + 2.0 * LOG_2) * mean.shape[-1]
    return raw.tanh_(), density.sum(-1).mul_(2.0).sub_(constant), spread


class _TanhGaussian(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_std: Tensor, noise: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        action, log_prob, spread = _sample(mean, log_std, noise, low, high)
        ctx.save_for_backward(log_std, spread, action)
        ctx.bounds = low, high
        return action, log_prob

    @staticmethod
    def backward(
        ctx: Any, action_gradient: Tensor, density_gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        refuse_second_derivative()
        log_std, spread, action = ctx.saved_tensors
        low, high = ctx.bounds
        weight = density_gradient.unsqueeze(-1)
        # d tanh(u)/du = 1 - a^2 and d log_prob/du = 2a (the Gaussian part depends on noise alone).
        through_tanh = torch.addcmul(action_gradient, action_gradient * action, action, value=-1.0)
        raw_gradient = through_tanh.addcmul_(weight, action, value=2.0)
        std_gradient = torch.addcmul(-weight.expand_as(spread), raw_gradient, spread)
        inside = (log_std >= low).logical_and_(log_std <= high)
        return raw_gradient, std_gradient.mul_(inside), None, None, None


def gaussian_log_prob(value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of independent normals, summed over the last axis.

    Equals `rlalign.nn.distributions.normal_log_prob`.

    Args:
        value: [batch, act], without gradient.
        mean: [batch, act].
        log_std: [act].

    Returns:
        [batch].
    """
    density: Tensor = _GaussianLogProb.apply(value, mean, log_std)
    return density


class _GaussianLogProb(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
        inverse = (-log_std).exp_()
        error = torch.sub(value, mean).mul_(inverse)
        ctx.save_for_backward(error, inverse)
        constant = log_std.sum().add_(HALF_LOG_2PI * mean.shape[-1])
        return torch.add(constant, (error * error).sum(-1), alpha=0.5).neg_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, Tensor]:
        refuse_second_derivative()
        error, inverse = ctx.saved_tensors
        weighted = gradient.unsqueeze(-1) * error
        # d log_prob/d mean = error / std and d log_prob/d log_std = error^2 - 1.
        std_gradient = (weighted * error).sum(0).sub_(gradient.sum())
        return None, weighted.mul_(inverse), std_gradient
