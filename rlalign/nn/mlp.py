"""Multi-layer perceptrons with a leading member axis: one batched product runs all members."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rlalign.nn.fast import FastStack
from rlalign.nn.fast_norm import Norms

Initialization = Literal["torch", "orthogonal"]
ALL = slice(None)


class StackedMLP(nn.Module):
    """A stack of independent ReLU perceptrons of one shape.

    Args:
        sizes: width of the input, of each hidden layer, and of the output.
        members: how many networks are stacked, at least 1.
        initialization: ``"torch"`` draws weights and biases from U(+-1/sqrt(fan_in)) as torch's
            linear layer does; ``"orthogonal"`` has gain sqrt(2) on every layer and zero biases.
        layer_norm: normalise each hidden layer before its ReLU.

    Each member is initialised by itself, with its own fan-in. With `accelerated` set, it runs its
    own backward (`rlalign.nn.fast`); the plain autograd form is the reference, and the only one for
    double backward and `torch.func` transforms.
    """

    norm_after_relu = False
    norm_epsilon = 1e-5

    def __init__(
        self,
        sizes: Sequence[int],
        members: int = 1,
        *,
        initialization: Initialization = "torch",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        if len(sizes) < 2 or min(sizes) < 1 or members < 1:
            raise ValueError(
                f"an MLP needs sizes >= 1 for input and output and at least one member, "
                f"got sizes {list(sizes)} and {members} members"
            )
        self.sizes = tuple(sizes)
        self.members = members
        self.accelerated = False
        self._stacks: dict[tuple[Any, Any], FastStack] = {}  # by the members they run
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(sizes):
            weight = torch.empty(members, fan_in, fan_out)
            bias = torch.empty(members, 1, fan_out)
            for member in range(members):
                _initialize(weight[member], bias[member], initialization)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))
        self.layer_norm = layer_norm
        self.norms = nn.ParameterList()
        if layer_norm:
            for width in sizes[1:-1]:
                self.norms.append(nn.Parameter(torch.ones(members, 1, width)))
                self.norms.append(nn.Parameter(torch.zeros(members, 1, width)))

    def forward(
        self, inputs: Tensor, tail: Tensor | None = None, *, only: slice | Tensor = ALL
    ) -> Tensor:
        """Map [batch, in] (shared by all members) or [member, batch, in] to [member, batch, out].

        Args:
            tail: [batch, k], the input's last k columns, where `inputs` are the first ones
                [batch, in - k] and take no gradient.
            only: run these members alone: a slice (TD3's actor loss asks one critic of two), or
                their numbers [k] (RLPD's target asks two of ten), whose weights are copied.
        """
        # Normalised members run one by one, which suits a processor's cache and no GPU.
        suited = not self.layer_norm or inputs.device.type == "cpu"
        if self.accelerated and suited and isinstance(only, slice):
            return self._stack(only)(inputs, tail)
        if tail is not None:
            inputs = torch.cat((inputs, tail), -1)
        weights, biases, norms = tuple(self.weights), tuple(self.biases), tuple(self.norms)
        if isinstance(only, Tensor) or only != ALL:
            weights, biases, norms = (
                tuple(parameter[only] for parameter in group) for group in (weights, biases, norms)
            )
        hidden = inputs.expand(len(weights[0]), *inputs.shape) if inputs.dim() == 2 else inputs
        last = len(weights) - 1
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            hidden = torch.baddbmm(bias, hidden, weight)
            if layer < last:
                around = norms[2 * layer : 2 * layer + 2]
                if around and not self.norm_after_relu:
                    hidden = self._normalized(hidden, *around)
                hidden = torch.relu(hidden)
                if around and self.norm_after_relu:
                    hidden = self._normalized(hidden, *around)
        return hidden

    def _normalized(self, hidden: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
        width = hidden.shape[-1:]
        scaled = nn.functional.layer_norm(hidden, width, eps=self.norm_epsilon)
        return torch.addcmul(shift, scaled, gain)

    def minimum(self, inputs: Tensor, tail: Tensor) -> Tensor:
        """Return the least of the members' single outputs [batch]; arguments as of `forward`."""
        if (
            self.accelerated
            and not self.layer_norm
            and torch.is_grad_enabled()
            and tail.requires_grad
            and not inputs.requires_grad
            and not self.weights[0].requires_grad
            and tail.device.type == "cpu"  # rows are counted, which would make a GPU wait
        ):
            return self._stack(ALL).minimum(inputs, tail)
        values: Tensor = self(inputs, tail)
        return values.squeeze(-1).min(0).values

    def _stack(self, only: slice) -> FastStack:
        key = (only.start, only.stop)
        stack = self._stacks.get(key)
        if stack is None or not stack.current:
            norms = None
            if self.layer_norm:
                gains, shifts = tuple(self.norms[::2]), tuple(self.norms[1::2])
                norms = Norms(gains, shifts, self.norm_epsilon, self.norm_after_relu)
            stack = FastStack(tuple(self.weights), tuple(self.biases), only, norms)
            self._stacks[key] = stack
        return stack


def _initialize(weight: Tensor, bias: Tensor, initialization: Initialization) -> None:
    """Fill one member's weight [in, out] and bias [1, out]."""
    with torch.no_grad():
        if initialization == "orthogonal":
            # Drawn as [out, in] like torch's layers and transposed, so that fan-in is the row.
            weight.copy_(nn.init.orthogonal_(torch.empty_like(weight.T), gain=math.sqrt(2)).T)
            bias.zero_()
        elif initialization == "torch":
            bound = 1.0 / math.sqrt(weight.shape[0])
            weight.uniform_(-bound, bound)
            bias.uniform_(-bound, bound)
        else:
            raise ValueError(
                f"initialization must be 'torch' or 'orthogonal', got {initialization!r}"
            )


def set_accelerated(module: nn.Module, accelerated: bool) -> None:
    """Switch every stacked MLP within `module` between its own backward and plain autograd."""
    for child in module.modules():
        if isinstance(child, StackedMLP):
            child.accelerated = accelerated
