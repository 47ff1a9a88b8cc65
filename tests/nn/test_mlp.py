from __future__ import annotations

import math

import pytest
import torch

from rlalign.nn.critics import EnsembleCritic, ValueCritic
from rlalign.nn.mlp import StackedMLP


def make(*sizes: int, members: int = 1, seed: int = 0, **options: object) -> StackedMLP:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return StackedMLP(sizes, members, **options)  # type: ignore[arg-type]


def test_every_member_is_drawn_by_itself_within_the_bounds_of_its_fan_in() -> None:
    """Not of the stack: kaiming on a [member, in, out] tensor takes another fan-in."""
    network = make(400, 100, 1, members=3)
    for fan_in, weight, bias in zip((400, 100), network.weights, network.biases, strict=True):
        bound = 1 / math.sqrt(fan_in)
        for values in (weight, bias):
            assert values.abs().max() <= bound
        assert weight.abs().max() > 0.9 * bound
        # Uniform: a variance of bound^2 / 3; false-alarm rate below 1e-6.
        assert weight.var().item() == pytest.approx(bound**2 / 3, rel=5 / weight.numel() ** 0.5)
        assert not torch.equal(weight[0], weight[1])
        assert not torch.equal(weight[1], weight[2])


def test_orthogonal_layers_keep_lengths_up_to_their_gain() -> None:
    network = make(6, 16, 16, 2, members=2, initialization="orthogonal")
    for weight, bias in zip(network.weights, network.biases, strict=True):
        assert (bias == 0).all()
        for matrix in weight:
            short = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            product = short @ short.T
            torch.testing.assert_close(product, 2 * torch.eye(len(short)), atol=1e-5, rtol=0)
    assert not torch.equal(network.weights[0][0], network.weights[0][1])


def test_layer_norm_lies_before_the_relu() -> None:
    network = make(3, 8, 1, members=2, layer_norm=True)
    with torch.no_grad():
        for norm in network.norms:
            norm.add_(torch.randn(norm.shape, generator=torch.Generator().manual_seed(1)))
    inputs = torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    for member in range(2):
        raw = inputs @ network.weights[0][member] + network.biases[0][member]
        centred = raw - raw.mean(1, keepdim=True)
        unit = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        hidden = torch.relu(unit * network.norms[0][member] + network.norms[1][member])
        wanted = hidden @ network.weights[1][member] + network.biases[1][member]
        torch.testing.assert_close(network(inputs)[member], wanted)


def test_layer_norm_bounds_the_critic_for_any_action() -> None:
    """Spec, ReBRAC 18: the mechanism that keeps values of unseen actions finite."""
    far = 1e6 * torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    observations = torch.zeros(64, 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        normed, plain = (EnsembleCritic(3, 2, (32, 32), layer_norm=n) for n in (True, False))
    last = normed.trunk.weights[-1][:, :, 0]  # [member, 32]
    bound = last.norm(dim=1) * math.sqrt(32) + normed.trunk.biases[-1][:, 0, 0].abs()
    assert (normed(observations, far).abs() <= bound[:, None]).all()
    assert plain(observations, far).abs().max() > 1e3


def test_critics_value_observation_and_action_side_by_side() -> None:
    critic = EnsembleCritic(3, 2, (8,), members=4)
    draw = torch.Generator().manual_seed(0)
    observations, actions = torch.randn(5, 3, generator=draw), torch.randn(5, 2, generator=draw)
    values = critic(observations, actions)
    assert values.shape == (4, 5)
    joint = torch.cat((observations, actions), 1)
    torch.testing.assert_close(critic.joint(joint), values)
    torch.testing.assert_close(critic.trunk(joint)[..., 0], values)
    torch.testing.assert_close(critic.first(observations, actions), values[0])
    assert not torch.allclose(values[0], values[1])


def test_state_values_are_vectors() -> None:
    assert ValueCritic(3, (8,))(torch.zeros(5, 3)).shape == (5,)


@pytest.mark.parametrize("sizes", [(3,), (3, 0), (0, 3)])
def test_impossible_sizes_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="sizes >= 1"):
        StackedMLP(sizes)
    with pytest.raises(ValueError, match="0 members"):
        StackedMLP((3, 2), 0)
