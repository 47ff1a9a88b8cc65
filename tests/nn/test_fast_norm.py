"""Accelerated stacks with layer normalisation, against plain autograd in double precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlalign.nn.mlp import StackedMLP, set_accelerated
from rlalign.nn.normalized import NormalizedMLP
from rlalign.optim import AdamSettings, FlatAdam, FlatParameters

BEFORE, AFTER = "before", "after"
both_orders = pytest.mark.parametrize("order", [BEFORE, AFTER])


def make(order: str, sizes: tuple[int, ...], members: int) -> StackedMLP:
    """A stack in double precision whose gains and shifts are not 1 and 0."""
    with torch.random.fork_rng():
        torch.manual_seed(len(sizes) + members)
        if order == BEFORE:
            network = StackedMLP(sizes, members, layer_norm=True)
        else:
            network = NormalizedMLP(sizes, members)
        with torch.no_grad():
            for parameter in network.norms:
                parameter.add_(0.5 * torch.randn_like(parameter))
    network = network.double()
    clear(network)
    return network


def clear(network: StackedMLP) -> None:
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)


def gradients(network: StackedMLP) -> list[Tensor]:
    return [p.grad for p in network.parameters() if p.grad is not None]


def run(network: StackedMLP, inputs: Tensor, **how: object) -> tuple[Tensor, list[Tensor], Tensor]:
    """Values, parameters' gradients and the input's gradient of an uneven sum of squares."""
    clear(network)
    followed = inputs.clone().requires_grad_()
    values = network(followed, **how)
    scales = torch.arange(1.0, values.numel() + 1, dtype=values.dtype).view_as(values).sqrt()
    (scales * values.square()).sum().backward()
    assert followed.grad is not None
    return values.detach(), gradients(network), followed.grad


@both_orders
@pytest.mark.parametrize("members", [1, 2, 5])
@pytest.mark.parametrize("sizes", [(3, 8, 1), (5, 60, 50, 2), (4, 1)])
@pytest.mark.parametrize("shared", [True, False])
def test_values_and_gradients_are_those_of_autograd(
    order: str, members: int, sizes: tuple[int, ...], shared: bool
) -> None:
    network = make(order, sizes, members)
    shape = (7, sizes[0]) if shared else (members, 7, sizes[0])
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    found = []
    for accelerated in (False, True):
        set_accelerated(network, accelerated)
        found.append(run(network, inputs))
    torch.testing.assert_close(found[1], found[0])
    if len(sizes) > 2:
        assert all(gradient.any() for gradient in gradients(network))


@both_orders
@pytest.mark.parametrize("only", [slice(0, 1), slice(1, 3)])
def test_some_members_run_alone(order: str, only: slice) -> None:
    network = make(order, (4, 9, 8, 1), 4)
    inputs = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    plain = run(network, inputs, only=only)
    set_accelerated(network, True)
    torch.testing.assert_close(run(network, inputs, only=only), plain)
    for gradient in plain[1]:
        assert not gradient[3].any()
        assert gradient[only].any()


@both_orders
def test_frozen_weights_pass_the_gradient_of_the_input_s_tail(order: str) -> None:
    network = make(order, (5, 9, 8, 1), 3).requires_grad_(False)
    draw = torch.Generator().manual_seed(0)
    head, tail = torch.randn(6, 3, generator=draw).double(), torch.randn(6, 2, generator=draw)
    found = []
    for accelerated in (False, True):
        set_accelerated(network, accelerated)
        followed = tail.double().requires_grad_()
        network.minimum(head, followed).sum().backward()
        found.append(followed.grad)
    torch.testing.assert_close(found[1], found[0])
    assert not any(gradient.any() for gradient in gradients(network))


@both_orders
def test_gradients_add_when_a_network_is_used_twice_in_a_loss(order: str) -> None:
    network = make(order, (3, 8, 1), 2)
    set_accelerated(network, True)
    inputs = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()
    _, once, _ = run(network, inputs)
    clear(network)
    scales = torch.arange(1.0, 13.0).double().view(2, 6, 1).sqrt()
    (scales * (network(inputs).square() + 2 * network(inputs).square())).sum().backward()
    torch.testing.assert_close(gradients(network), [3 * single for single in once])


@both_orders
def test_a_second_derivative_is_refused_at_once(order: str) -> None:
    network = make(order, (3, 8, 1), 2)
    set_accelerated(network, True)
    inputs = torch.randn(6, 3).double().requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(network(inputs).sum(), inputs, create_graph=True)


@both_orders
def test_weights_agree_after_200_steps_of_each_form(order: str) -> None:
    """Float32; normalised and not, Adam makes small differences larger."""
    buffers = []
    for accelerated in (False, True):
        network = make(order, (5, 64, 48, 1), 2).float()
        set_accelerated(network, accelerated)
        flat = FlatParameters(network)
        start = flat.data.clone()
        adam = FlatAdam(flat, AdamSettings(1e-3))
        draw = torch.Generator().manual_seed(1)
        for _ in range(200):
            inputs = torch.randn(32, 5, generator=draw)
            flat.grad.zero_()
            (network(inputs).squeeze(-1) - inputs.prod(1)).square().mean(1).sum().backward()
            adam.step()
        buffers.append(flat.data)
    assert (buffers[0] - buffers[1]).abs().max() < 1e-3
    assert (buffers[0] - start).abs().mean() > 1e-2
