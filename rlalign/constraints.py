"""Multipliers learned by dual ascent: SAC's temperature, Lagrange multipliers of constraints."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LogMultiplier(nn.Module):
    """A positive scalar exp(l), trained through l.

    Args:
        initial: starting value, above 0.
    """

    def __init__(self, initial: float = 1.0) -> None:
        super().__init__()
        if initial <= 0:
            raise ValueError(f"a multiplier must start above 0, got {initial}")
        self.log = nn.Parameter(torch.tensor([math.log(initial)]))

    def forward(self) -> Tensor:
        """Return the multiplier [1], without gradient: it weighs other losses."""
        return self.log.detach().exp()

    def dual_loss(self, violation: Tensor) -> Tensor:
        """Return the loss whose descent raises the multiplier while `violation` is positive.

        Args:
            violation: constraint value minus its limit [batch], used without gradient.

        Returns:
            -l * mean(violation), the log form (l rather than exp(l) in front): same fixed point,
            steps that do not vanish with a small multiplier.
        """
        return -(self.log * violation.detach().mean()).sum()
