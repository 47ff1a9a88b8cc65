"""Initial parameters of stacked perceptrons as other codes draw them, over a stack's own."""

from __future__ import annotations

import math
from typing import Literal

import torch

from rlalign.nn.mlp import StackedMLP


@torch.no_grad()
def small_head(stack: StackedMLP, bound: float, *, fan: Literal["in", "out"] = "in") -> None:
    """Draw hidden weights from U(+-1/sqrt(fan)), the last layer from U(+-bound).

    Hidden biases are 0.1 (rlkit, and with it EDAC, RORL and ReBRAC).

    Args:
        stack: changed in place.
        bound: of the last layer's weights and biases.
        fan: ``"out"`` is what CORL's stacked critics come to: torch takes a [in, out] weight's
            second axis for its inputs.
    """
    for weight, bias in zip(stack.weights[:-1], stack.biases[:-1], strict=True):
        limit = 1.0 / math.sqrt(weight.shape[1 if fan == "in" else 2])
        weight.uniform_(-limit, limit)
        bias.fill_(0.1)
    stack.weights[-1].uniform_(-bound, bound)
    stack.biases[-1].uniform_(-bound, bound)


@torch.no_grad()
def xavier_uniform(stack: StackedMLP) -> None:
    """Draw every weight from U(+-sqrt(6 / (fan_in + fan_out))); biases are zero (RLPD)."""
    for weight, bias in zip(stack.weights, stack.biases, strict=True):
        limit = math.sqrt(6.0 / (weight.shape[1] + weight.shape[2]))
        weight.uniform_(-limit, limit)
        bias.zero_()
