"""The stacked ReLU perceptron with a backward of its own.

Plain autograd allocates a gradient for every parameter and layer and adds it to the buffer
afterwards. Here the products of the backward pass add straight into each parameter's `.grad`
(views of the network's one flat buffer, see `rlalign.optim`), the ReLU mask is applied in place,
and only the gradient of the input goes back through autograd. `tests/nn/test_fast.py` holds the
result to plain autograd over many updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlalign.nn.fast_norm import FastNorm, Norms, gradient_buffer, mask_

# Results this narrow are faster as the transposed product (measured on CPU), but a forward product
# with fewer than 8 columns is several times slower so (Intel's library on its own processors).
NARROW, NARROWEST = 48, 8
# From so many rows on a CPU runs the members of a stack one after another: a member's activations
# then stay in the cache from layer to layer. With ten members it saves a tenth, with two nothing.
DEEP_ROWS, DEEP_MEMBERS = 512, 4
ALL = slice(None)


class FastLayer:
    """One affine layer of a stack, as the tensors that its passes use.

    A transposed view, or a walk through a module's attributes, costs as much as a small operation,
    and an update would make a hundred of them; here each is made once.

    Args:
        weight: parameter [member, in, out].
        bias: parameter [member, 1, out].
        members: which of them are run.
        norm: normalises what follows, of a single member's hidden layer.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor, members: slice = ALL, norm: FastNorm | None = None
    ) -> None:
        self.parameters = weight, bias
        self.norm = norm
        self.members = members
        self.weight = weight.detach()[members]
        self.bias = bias.detach()[members]
        self.weight_t = self.weight.transpose(1, 2)
        self.bias_t = self.bias.transpose(1, 2)
        self.size_in, self.size_out = self.weight.shape[1:]
        self._gradient: Tensor | None = None  # of the weight, when `_into` was made
        self._into: tuple[Tensor, Tensor] | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [member, batch, in] @ weight + bias, [member, batch, out]."""
        if NARROWEST <= self.size_out <= NARROW:
            return torch.baddbmm(self.bias_t, self.weight_t, inputs.transpose(1, 2)).transpose(1, 2)
        return torch.baddbmm(self.bias, inputs, self.weight)

    def input_gradient(self, gradient: Tensor, first: int = 0) -> Tensor:
        """gradient [member, batch, out] @ weight^T, of the inputs from `first` on."""
        weight_t = self.weight_t[..., first:] if first else self.weight_t
        if self.size_out == 1:
            return gradient * weight_t  # an outer product: the value head's gradient
        if self.size_in - first <= NARROW:
            weight = self.weight[:, first:] if first else self.weight
            return torch.bmm(weight, gradient.transpose(1, 2)).transpose(1, 2)
        return torch.bmm(gradient, weight_t)

    def activate(self, affine: Tensor, keep: list[Tensor] | None) -> Tensor:
        """Return the hidden layer of `forward`'s result, in its place; append what backward needs.

        That is nothing but the hidden layer itself where nothing is normalised.
        """
        if self.norm is None:
            return affine.relu_()
        hidden, saved = self.norm.forward(affine)
        if keep is not None:
            keep.extend(saved)
        return hidden

    def through_activation(
        self, gradient: Tensor, hidden: Tensor, kept: list[Tensor], trains: bool
    ) -> Tensor:
        """Turn the hidden layer's gradient into that of `forward`'s result, in its place.

        Args:
            hidden: what `activate` returned.
            kept: ends with what `activate` kept; it is taken off.
            trains: whether the normalisation's parameters get their gradients too.
        """
        if self.norm is None:
            mask_(gradient, hidden)
            return gradient
        scale, mean, inputs = kept.pop(), kept.pop(), kept.pop()
        return self.norm.backward(gradient, hidden, (inputs, mean, scale), trains)

    def add_gradients(self, inputs: Tensor, gradient: Tensor) -> None:
        """Add inputs^T @ gradient, and the sum of `gradient` over the batch, to the gradients."""
        weight, bias = self.parameters
        if self._into is None or self._gradient is not weight.grad:
            into = gradient_buffer(weight)[self.members]
            self._into = (
                into.transpose(1, 2) if self.size_out == 1 else into,
                gradient_buffer(bias)[self.members],
            )
            self._gradient = weight.grad
        into_weight, into_bias = self._into
        if self.size_out == 1:
            into_weight.baddbmm_(gradient.transpose(1, 2), inputs)
        else:
            into_weight.baddbmm_(inputs.transpose(1, 2), gradient)
        into_bias.add_(gradient.sum(1, keepdim=True))


class FastStack:
    """A stack of ReLU perceptrons that runs its own backward.

    Args:
        weights: parameters, per layer [member, in, out]; all of them train or none does.
        biases: parameters, per layer [member, 1, out].
        members: which of them are run.
        norms: of the hidden layers; members then run one after the other.

    Gradients of trainable weights are added to their `.grad`, which must exist; they are not
    returned to autograd, so `torch.autograd.grad` with respect to weights and double backward need
    the plain form. The weights' gradients are added even where only that of the input is asked
    for: freeze the weights meanwhile.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        members: slice = ALL,
        norms: Norms | None = None,
    ) -> None:
        self.parameters = tuple(weights), tuple(biases)
        self.norms = norms
        self.weight = weights[0]  # stands for all: autograd runs our backward if it trains
        numbers = range(len(self.weight))[members]
        self.members, self.first = len(numbers), numbers[0]
        self.layers = tuple(
            FastLayer(weight, bias, members, self._norm(layer))
            for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True))
        )
        self._where = self.weight.data_ptr()
        self._parts: tuple[FastStack, ...] = ()

    @property
    def current(self) -> bool:
        """Whether the parameters still lie where they lay; a move to a device moves them."""
        return self.weight.data_ptr() == self._where

    def __call__(self, inputs: Tensor, tail: Tensor | None = None) -> Tensor:
        """Run the stack.

        Args:
            inputs: [batch, in] shared by the members, or [member, batch, in].
            tail: [batch, k], the last k columns of the input, where `inputs` are the first ones
                [batch, in - k] and take no gradient: backward then skips their part.

        Returns:
            [member, batch, out].
        """
        deep = inputs.shape[-2] >= DEEP_ROWS and self.members >= DEEP_MEMBERS
        normalised = self.norms is not None and self.members > 1
        if normalised or (deep and inputs.device.type == "cpu"):
            return self._one_by_one(inputs, tail)
        if tail is not None and inputs.requires_grad:
            inputs, tail = torch.cat((inputs, tail), -1), None
        trained = inputs if tail is None else tail
        if torch.is_grad_enabled() and (trained.requires_grad or self.weight.requires_grad):
            output: Tensor = _StackedReluMLP.apply(inputs, tail, self.weight, self.layers)
            return output
        return _forward(inputs if tail is None else torch.cat((inputs, tail), -1), self.layers)

    @property
    def parts(self) -> tuple[FastStack, ...]:
        """Each member as a stack of its own."""
        if not self._parts:
            self._parts = tuple(
                FastStack(*self.parameters, slice(member, member + 1), self.norms)
                for member in range(self.first, self.first + self.members)
            )
        return self._parts

    def _norm(self, layer: int) -> FastNorm | None:
        hidden = layer < len(self.parameters[0]) - 1
        if self.norms is None or self.members > 1 or not hidden:
            return None
        return FastNorm(self.norms, layer, self.first)

    def _one_by_one(self, inputs: Tensor, tail: Tensor | None) -> Tensor:
        """Run each member through all layers before the next."""
        joint = inputs if tail is None else torch.cat((inputs, tail), -1)
        shared = joint.dim() == 2
        outputs = [part(joint if shared else joint[m : m + 1]) for m, part in enumerate(self.parts)]
        return torch.cat(outputs)

    def minimum(self, inputs: Tensor, tail: Tensor) -> Tensor:
        """Return the least of the members' values [batch]; the weights must not train.

        A row's gradient comes from the member with the least value alone, so backward runs each
        member on its own rows: together one batch instead of one a member.

        Args:
            inputs: the first columns of the input [batch, in - k], without gradient.
            tail: the last k [batch, k].
        """
        least: Tensor = _Minimum.apply(inputs, tail, self)
        return least


def stacked_relu_mlp(inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
    """Run a stack of ReLU perceptrons once; see `FastStack`, which keeps what repeated runs share.

    Args:
        inputs: [batch, in] shared by the members, or [member, batch, in].
        weights: per layer [member, in, out].
        biases: per layer [member, 1, out].

    Returns:
        [member, batch, out].
    """
    return FastStack(weights, biases)(inputs)


def _forward(
    inputs: Tensor, layers: tuple[FastLayer, ...], keep: list[Tensor] | None = None
) -> Tensor:
    """Run the layers; append to `keep` if it is given each one's input and what backward needs."""
    hidden = inputs
    if inputs.dim() == 2:
        hidden = inputs.expand(layers[0].weight.shape[0], *inputs.shape)
    for layer in layers[:-1]:
        if keep is not None:
            keep.append(hidden)
        hidden = layer.activate(layer.forward(hidden), keep)
    if keep is not None:
        keep.append(hidden)
    return layers[-1].forward(hidden)


class _StackedReluMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        tail: Tensor | None,
        weight: Tensor,
        layers: tuple[FastLayer, ...],
    ) -> Tensor:
        joint = inputs if tail is None else torch.cat((inputs, tail), -1)
        kept: list[Tensor] = []
        output = _forward(joint, layers, kept)
        ctx.save_for_backward(*kept)
        ctx.layers = layers
        ctx.shared = joint.dim() == 2
        ctx.first = 0 if tail is None else inputs.shape[-1]
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        refuse_second_derivative()
        kept, layers = list(ctx.saved_tensors), ctx.layers
        of_inputs, of_tail, trains, _ = ctx.needs_input_grad
        for index in range(len(layers) - 1, -1, -1):
            layer, inputs = layers[index], kept.pop()
            if trains:
                layer.add_gradients(inputs, gradient)
            if index > 0:
                gradient = layer.input_gradient(gradient)
                gradient = layers[index - 1].through_activation(gradient, inputs, kept, trains)
        if not (of_inputs or of_tail):
            return None, None, None, None
        gradient = layers[0].input_gradient(gradient, ctx.first)
        if ctx.shared:
            gradient = gradient[0] if len(gradient) == 1 else gradient.sum(0)
        return (None, gradient, None, None) if of_tail else (gradient, None, None, None)


class _Minimum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, tail: Tensor, stack: FastStack) -> Tensor:
        kept: list[Tensor] = []
        values = _forward(torch.cat((inputs, tail), -1), stack.layers, kept)
        least, chosen = values.squeeze(-1).min(0)
        ctx.save_for_backward(chosen, *kept[1:])
        ctx.parts = stack.parts
        ctx.first = inputs.shape[-1]
        return least

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        refuse_second_derivative()
        chosen, *hidden = ctx.saved_tensors
        parts, first = ctx.parts, ctx.first
        result = gradient.new_empty(len(gradient), parts[0].layers[0].size_in - first)
        for member, part in enumerate(parts):
            rows = (chosen == member).nonzero().squeeze(-1)
            of_member = gradient.index_select(0, rows).view(1, -1, 1)
            for layer, before in zip(part.layers[:0:-1], reversed(hidden), strict=True):
                of_member = layer.input_gradient(of_member)
                mask_(of_member, before[member].index_select(0, rows).unsqueeze(0))
            result.index_copy_(0, rows, part.layers[0].input_gradient(of_member, first)[0])
        return None, result, None


def refuse_second_derivative() -> None:
    """Raise where a graph of the backward pass is wanted.

    torch's `once_differentiable` raises only later, and not at all where the gradient coming in is
    a constant: a penalty on an input's gradient would then train nothing, in silence.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the accelerated form has no second derivative (create_graph=True); use the plain one: "
            "accelerated=False, or rlalign.nn.mlp.set_accelerated(network, False)"
        )
