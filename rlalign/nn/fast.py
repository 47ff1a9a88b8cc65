"""The stacked ReLU perceptron with a backward of its own.

Plain autograd allocates a gradient for every parameter and layer and adds it to the buffer
afterwards. Here the products of the backward pass add straight into each parameter's `.grad`
(views of the network's one flat buffer, see `rlalign.optim`), the ReLU mask is applied in place,
and only the gradient of the input goes back through autograd. `tests/nn/test_fast.py` holds the
result to plain autograd over many updates.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def stacked_relu_mlp(
    inputs: Tensor, weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]
) -> Tensor:
    """Run a stack of ReLU perceptrons.

    Args:
        inputs: [batch, in] shared by the members, or [member, batch, in].
        weights: per layer [member, in, out]; all of them train or none does.
        biases: per layer [member, 1, out].

    Returns:
        [member, batch, out]. Gradients of trainable weights are added to their `.grad`, which
        must exist; they are not returned to autograd, so `torch.autograd.grad` with respect to
        weights and double backward need the plain form. The weights' gradients are added even
        where only that of the input is asked for: freeze the weights meanwhile.
    """
    if torch.is_grad_enabled() and (inputs.requires_grad or weights[0].requires_grad):
        # The first weight stands for all: autograd runs our backward if it needs a gradient.
        output: Tensor = _StackedReluMLP.apply(inputs, weights[0], weights, biases)
        return output
    return _forward(inputs, weights, biases, keep=None)


def _forward(
    inputs: Tensor,
    weights: tuple[Tensor, ...],
    biases: tuple[Tensor, ...],
    keep: list[Tensor] | None,
) -> Tensor:
    """Run the layers; append every hidden activation to `keep` if it is given."""
    hidden = inputs.expand(weights[0].shape[0], *inputs.shape) if inputs.dim() == 2 else inputs
    last = len(weights) - 1
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        hidden = _affine(hidden, weight, bias)
        if layer < last:
            hidden.relu_()
            if keep is not None:
                keep.append(hidden)
    return hidden


class _StackedReluMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        anchor: Tensor,
        weights: tuple[Tensor, ...],
        biases: tuple[Tensor, ...],
    ) -> Tensor:
        hidden: list[Tensor] = []
        with torch.no_grad():
            output = _forward(inputs, weights, biases, hidden)
        ctx.save_for_backward(inputs, *hidden)
        ctx.weights, ctx.biases = weights, biases
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, None, None]:
        _refuse_second_derivative()
        inputs, *hidden = ctx.saved_tensors
        weights, biases = ctx.weights, ctx.biases
        wants_input, trains = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        shared = inputs.dim() == 2
        first = inputs.expand(weights[0].shape[0], *inputs.shape) if shared else inputs
        for layer in range(len(weights) - 1, -1, -1):
            before = hidden[layer - 1] if layer > 0 else first
            if trains:
                _add_weight_gradient(weights[layer].grad, before, gradient)
                biases[layer].grad.add_(gradient.sum(1, keepdim=True))
            if layer > 0:
                gradient = _product(gradient, weights[layer].transpose(1, 2))
                torch.ops.aten.threshold_backward.grad_input(
                    gradient, before, 0, grad_input=gradient
                )
        if not wants_input:
            return None, None, None, None
        gradient = _product(gradient, weights[0].transpose(1, 2))
        return (gradient.sum(0) if shared else gradient), None, None, None


def _refuse_second_derivative() -> None:
    """Raise where a graph of the backward pass is wanted.

    torch's `once_differentiable` raises only later, and not at all where the gradient coming in is
    a constant: a penalty on an input's gradient would then train nothing, in silence.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            "the accelerated form has no second derivative (create_graph=True); use the plain one: "
            "accelerated=False, or rlalign.nn.mlp.set_accelerated(network, False)"
        )


NARROW = 48  # results this narrow are faster as the transposed product (measured on CPU)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """left [member, batch, k] @ right [member, k, n], in the form that is fastest for its shape."""
    if left.shape[-1] == 1:
        return left * right  # an outer product: the value head's gradient
    if right.shape[-1] <= NARROW:
        return torch.bmm(right.transpose(1, 2), left.transpose(1, 2)).transpose(1, 2)
    return torch.bmm(left, right)


def _affine(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """inputs @ weight + bias in one call, narrow results as the transposed product."""
    if weight.shape[-1] <= NARROW:
        transposed = torch.baddbmm(
            bias.transpose(1, 2), weight.transpose(1, 2), inputs.transpose(1, 2)
        )
        return transposed.transpose(1, 2)
    return torch.baddbmm(bias, inputs, weight)


def _add_weight_gradient(into: Tensor | None, before: Tensor, gradient: Tensor) -> None:
    """into [member, in, out] += before^T @ gradient, without a temporary."""
    if into is None:
        raise RuntimeError(
            "the accelerated MLP adds to existing gradients; flatten the network's parameters "
            "first (rlalign.optim.FlatParameters) or use the plain form"
        )
    if gradient.shape[-1] == 1:
        into.transpose(1, 2).baddbmm_(gradient.transpose(1, 2), before)
    else:
        into.baddbmm_(before.transpose(1, 2), gradient)


def tanh_gaussian(
    mean: Tensor, log_std: Tensor, noise: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """Sample a tanh-squashed Gaussian and its log-density as one autograd node.

    Equals `rlalign.nn.distributions.TanhGaussian.sample`, which is the reference.

    Args:
        mean, log_std: [..., act], log_std before clamping to [low, high].
        noise: standard normal [..., act]; the three are broadcast against each other.

    Returns:
        actions [..., act] in (-1, 1) and log-densities [...].
    """
    if not mean.shape == log_std.shape == noise.shape:
        mean, log_std, noise = torch.broadcast_tensors(mean, log_std, noise)
    action, log_prob = _TanhGaussian.apply(mean, log_std, noise, low, high)
    return action, log_prob


LOG_2 = 0.6931471805599453
HALF_LOG_2PI = 0.9189385332046727


class _TanhGaussian(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, log_std: Tensor, noise: Tensor, low: float, high: float
    ) -> tuple[Tensor, Tensor]:
        clamped = log_std.clamp(low, high)
        spread = clamped.exp().mul_(noise)
        raw = mean + spread
        action = raw.tanh()
        # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), which does not overflow;
        # it is also 2 (log 2 - log(e^u + e^-u)), which is one call.
        volume = torch.logaddexp(raw, -raw)
        density = torch.sub(volume, clamped, alpha=0.5).addcmul_(noise, noise, value=-0.25)
        constant = (HALF_LOG_2PI + 2.0 * LOG_2) * mean.shape[-1]
        log_prob = density.sum(-1).mul_(2.0).sub_(constant)
        ctx.save_for_backward(log_std, spread, action)
        ctx.bounds = low, high
        return action, log_prob

    @staticmethod
    def backward(
        ctx: Any, action_gradient: Tensor, density_gradient: Tensor
    ) -> tuple[Tensor, Tensor, None, None, None]:
        _refuse_second_derivative()
        log_std, spread, action = ctx.saved_tensors
        low, high = ctx.bounds
        weight = density_gradient.unsqueeze(-1)
        # d tanh(u)/du = 1 - a^2 and d log_prob/du = 2a (the Gaussian part depends on noise alone).
        through_tanh = torch.addcmul(action_gradient, action_gradient * action, action, value=-1.0)
        raw_gradient = through_tanh.addcmul_(weight, action, value=2.0)
        std_gradient = torch.addcmul(-weight.expand_as(spread), raw_gradient, spread)
        inside = (log_std >= low).logical_and_(log_std <= high)
        return raw_gradient, std_gradient.mul_(inside), None, None, None
