"""Layer normalisation around a ReLU with a backward of its own; `rlalign.nn.fast` calls it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Saved = tuple[Tensor, Tensor, Tensor]  # what was normalised, its means, and 1 / its deviations


@dataclass(frozen=True)
class Norms:
    """The layer normalisations of a stack's hidden layers.

    Args:
        gains, shifts: parameters, per hidden layer [member, 1, width].
        epsilon: added to variances.
        after_relu: normalise what comes out of the ReLU, not what goes in.
    """

    gains: Sequence[Tensor]
    shifts: Sequence[Tensor]
    epsilon: float
    after_relu: bool


class FastNorm:
    """The normalisation of one member's hidden layer, together with its ReLU.

    Args:
        norms: of the stack.
        layer: index of the hidden layer.
        member: index of the member.
    """

    def __init__(self, norms: Norms, layer: int, member: int) -> None:
        self.parameters = norms.gains[layer], norms.shifts[layer]
        self.member = member
        self.gain, self.shift = (tensor.detach()[member, 0] for tensor in self.parameters)
        self.epsilon, self.after_relu = norms.epsilon, norms.after_relu

    def forward(self, inputs: Tensor) -> tuple[Tensor, Saved]:
        """Return the hidden layer [1, batch, width] of its inputs, which are overwritten."""
        if self.after_relu:
            inputs.relu_()
        hidden, mean, scale = torch.native_layer_norm(
            inputs, self.gain.shape, self.gain, self.shift, self.epsilon
        )
        if not self.after_relu:
            hidden.relu_()
        return hidden, (inputs, mean, scale)

    def backward(self, gradient: Tensor, hidden: Tensor, saved: Saved, trains: bool) -> Tensor:
        """Return the inputs' gradient [1, batch, width]; add those of gain and shift if it trains.

        Args:
            gradient: of the hidden layer; it is overwritten.
            hidden, saved: what `forward` returned.
        """
        inputs, mean, scale = saved
        if not self.after_relu:
            mask_(gradient, hidden)
        gradient, of_gain, of_shift = torch.ops.aten.native_layer_norm_backward(
            gradient,
            inputs,
            self.gain.shape,
            mean,
            scale,
            self.gain,
            self.shift,
            [True, trains, trains],
        )
        if trains:
            for parameter, found in zip(self.parameters, (of_gain, of_shift), strict=True):
                gradient_buffer(parameter)[self.member, 0].add_(found)
        if self.after_relu:
            mask_(gradient, inputs)
        return gradient


def gradient_buffer(parameter: Tensor) -> Tensor:
    """Return the gradient to add to; raises `RuntimeError` where there is none."""
    if parameter.grad is None:
        raise RuntimeError(
            "the accelerated MLP adds to existing gradients; flatten the network's "
            "parameters first (rlalign.optim.FlatParameters) or use the plain form"
        )
    return parameter.grad


def mask_(gradient: Tensor, hidden: Tensor) -> None:
    """Set the gradient to 0, in place, where `hidden`, which came out of a ReLU, is 0."""
    torch.ops.aten.threshold_backward.grad_input(gradient, hidden, 0, grad_input=gradient)
