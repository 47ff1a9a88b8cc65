"""Actors: networks from normalised observations to action distributions in [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlalign.nn.distributions import TanhGaussian, normal_log_prob
from rlalign.nn.fused import gaussian_log_prob
from rlalign.nn.mlp import Initialization, StackedMLP


class TanhGaussianActor(nn.Module):
    """Squashed Gaussian with state-dependent spread: SAC's actor (arXiv 1812.05905).

    Args:
        observation_size, action_size: lengths of one observation and action.
        hidden: widths of the hidden layers.
        log_std_bounds: clamp of the log standard deviation.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (256, 256),
        *,
        log_std_bounds: tuple[float, float] = (-20.0, 2.0),
        initialization: Initialization = "torch",
    ) -> None:
        super().__init__()
        sizes = (observation_size, *hidden, 2 * action_size)
        self.trunk = StackedMLP(sizes, initialization=initialization)
        self.log_std_bounds = log_std_bounds

    def forward(self, observations: Tensor) -> TanhGaussian:
        """Return the distribution at observations [batch, obs]."""
        mean, log_std = self.trunk(observations).flatten(0, 1).chunk(2, dim=-1)
        return TanhGaussian(mean, log_std, *self.log_std_bounds, self.trunk.accelerated)

    def mode(self, observations: Tensor) -> Tensor:
        """Return the deterministic actions [batch, act]."""
        return self(observations).mode

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return actions [batch, act] sampled with standard normal noise [batch, act]."""
        distribution = self(observations)
        spread = distribution.log_std.clamp(*self.log_std_bounds).exp() * noise
        return torch.tanh(distribution.mean + spread)


class GaussianActor(nn.Module):
    """A normal around tanh(head), not squashed, with one spread per action dimension.

    IQL's actor (arXiv 2110.06169): the density has no Jacobian term, samples are clipped.

    Args:
        observation_size, action_size: lengths of one observation and action.
        hidden: widths of the hidden layers.
        log_std_bounds: clamp of the log standard deviation.
        tanh_mean: squash the mean into (-1, 1); without it the mean is the head's output, and
            actions are clipped (CORL's AWAC).
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (256, 256),
        *,
        log_std_bounds: tuple[float, float] = (-5.0, 2.0),
        tanh_mean: bool = True,
        initialization: Initialization = "torch",
    ) -> None:
        super().__init__()
        sizes = (observation_size, *hidden, action_size)
        self.trunk = StackedMLP(sizes, initialization=initialization)
        self.log_std = nn.Parameter(torch.zeros(action_size))
        self.log_std_bounds = log_std_bounds
        self.tanh_mean = tanh_mean

    def mean(self, observations: Tensor) -> Tensor:
        """Return the means [batch, act]."""
        head: Tensor = self.trunk(observations).flatten(0, 1)
        return torch.tanh(head) if self.tanh_mean else head

    def clamped_log_std(self) -> Tensor:
        """Return the log standard deviations [act]."""
        return self.log_std.clamp(*self.log_std_bounds)

    def log_prob(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return log-densities [batch] of actions [batch, act], as they are (no clipping)."""
        log_prob = gaussian_log_prob if self.trunk.accelerated else normal_log_prob
        return log_prob(actions, self.mean(observations), self.clamped_log_std())

    def mode(self, observations: Tensor) -> Tensor:
        """Return the deterministic actions [batch, act] in [-1, 1]."""
        return self.mean(observations).clamp(-1.0, 1.0)

    def act(self, observations: Tensor, noise: Tensor) -> Tensor:
        """Return actions [batch, act] sampled with standard normal noise and clipped to [-1, 1]."""
        spread = self.clamped_log_std().exp() * noise
        return (self.mean(observations) + spread).clamp(-1.0, 1.0)


class DeterministicActor(nn.Module):
    """tanh of a perceptron: TD3's actor (arXiv 1802.09477)."""

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (256, 256),
        *,
        initialization: Initialization = "torch",
    ) -> None:
        super().__init__()
        sizes = (observation_size, *hidden, action_size)
        self.trunk = StackedMLP(sizes, initialization=initialization)

    def forward(self, observations: Tensor) -> Tensor:
        """Return actions [batch, act] in (-1, 1)."""
        return torch.tanh(self.trunk(observations).flatten(0, 1))

    def mode(self, observations: Tensor) -> Tensor:
        """Return the actions [batch, act]."""
        actions: Tensor = self(observations)
        return actions
