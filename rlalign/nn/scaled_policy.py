"""A squashed Gaussian whose log standard deviation has a learned scale and offset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from rlalign.nn.distributions import TanhGaussian
from rlalign.nn.mlp import Initialization
from rlalign.nn.policies import TanhGaussianActor


class ScaledTanhGaussianActor(TanhGaussianActor):
    """SAC's actor with log std = m l + c, where l is the network's output.

    m and c are trained scalars, as in the codes of CQL and Cal-QL (arXiv 2006.04779, 2303.05479).
    With m = 1 and c = 0 it is `TanhGaussianActor`.

    Args:
        observation_size, action_size: lengths of one observation and action.
        hidden: widths of the hidden layers.
        log_std_bounds: clamp of the log standard deviation.
        multiplier: m at the start; 0 makes the spread the same everywhere at first.
        offset: c at the start.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden: Sequence[int] = (256, 256),
        *,
        log_std_bounds: tuple[float, float] = (-20.0, 2.0),
        multiplier: float = 1.0,
        offset: float = -1.0,
        initialization: Initialization = "torch",
    ) -> None:
        super().__init__(
            observation_size,
            action_size,
            hidden,
            log_std_bounds=log_std_bounds,
            initialization=initialization,
        )
        self.log_std_multiplier = nn.Parameter(torch.tensor([float(multiplier)]))
        self.log_std_offset = nn.Parameter(torch.tensor([float(offset)]))

    def forward(self, observations: Tensor) -> TanhGaussian:
        """Return the distribution at observations [batch, obs]."""
        policy = super().forward(observations)
        log_std = torch.addcmul(self.log_std_offset, policy.log_std, self.log_std_multiplier)
        return replace(policy, log_std=log_std)
