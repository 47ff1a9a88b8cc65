from __future__ import annotations

import torch

from rlalign.nn.mlp import StackedMLP
from rlalign.nn.normalized import NormalizedMLP


def test_each_member_is_torch_s_own_layers_in_rebrac_s_order() -> None:
    torch.manual_seed(0)
    stack = NormalizedMLP((5, 16, 8, 2), 3)
    with torch.no_grad():
        for parameter in stack.norms:
            parameter.copy_(torch.randn(parameter.shape))
    inputs = torch.randn(9, 5)
    found = stack(inputs)
    for member in range(3):
        hidden = inputs
        for layer, width in enumerate((16, 8)):
            hidden = hidden @ stack.weights[layer][member] + stack.biases[layer][member]
            norm = torch.nn.LayerNorm(width, eps=1e-6)
            with torch.no_grad():
                norm.weight.copy_(stack.norms[2 * layer][member, 0])
                norm.bias.copy_(stack.norms[2 * layer + 1][member, 0])
            hidden = norm(torch.relu(hidden))
        wanted = hidden @ stack.weights[2][member] + stack.biases[2][member]
        torch.testing.assert_close(found[member], wanted)


def test_the_orders_differ() -> None:
    """The same parameters, normalised before and after the ReLU."""
    torch.manual_seed(0)
    after, before = NormalizedMLP((5, 16, 1), 2), StackedMLP((5, 16, 1), 2, layer_norm=True)
    before.load_state_dict(after.state_dict())
    inputs = torch.randn(9, 5)
    assert not torch.allclose(after(inputs), before(inputs))


def test_tail_and_members_are_parts_of_the_whole() -> None:
    torch.manual_seed(0)
    stack = NormalizedMLP((5, 16, 1), 4)
    inputs, tail = torch.randn(9, 3), torch.randn(9, 2)
    whole = stack(torch.cat((inputs, tail), -1))
    torch.testing.assert_close(stack(inputs, tail), whole)
    torch.testing.assert_close(stack(inputs, tail, only=slice(1, 3)), whole[1:3])
    torch.testing.assert_close(stack.minimum(inputs, tail), whole.squeeze(-1).min(0).values)
