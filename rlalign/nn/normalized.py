"""A stacked perceptron whose hidden layers are normalised after their ReLU."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlalign.nn.mlp import ALL, StackedMLP

EPSILON = 1e-6  # of flax, in which ReBRAC is written


class NormalizedMLP(StackedMLP):
    """Dense, ReLU, LayerNorm: ReBRAC's order (arXiv 2305.09836); `StackedMLP` norms first.

    Layer normalisation comes last, so the features of the output layer have at most the length
    sqrt(width) times the largest gain (plus the shifts), whatever the input.

    Args:
        sizes, members: as of `StackedMLP`.
    """

    def __init__(self, sizes: Sequence[int], members: int = 1) -> None:
        super().__init__(sizes, members, layer_norm=True)

    def forward(self, inputs: Tensor, tail: Tensor | None = None, *, only: slice = ALL) -> Tensor:
        """Map inputs to [member, batch, out]; arguments as of `StackedMLP.forward`."""
        joint = inputs if tail is None else torch.cat((inputs, tail), -1)
        weights, biases, norms = (
            [parameter[only] for parameter in group]
            for group in (self.weights, self.biases, self.norms)
        )
        hidden = joint.expand(len(weights[0]), *joint.shape) if joint.dim() == 2 else joint
        for layer, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            hidden = torch.relu(torch.baddbmm(bias, hidden, weight))
            hidden = nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=EPSILON)
            hidden = torch.addcmul(norms[2 * layer + 1], hidden, norms[2 * layer])
        return torch.baddbmm(biases[-1], hidden, weights[-1])
