"""An agent's networks once more, in double precision and without anything clever."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rlalign.agent import Agent
from rlalign.layout import Batch


class Naive:
    """Copies of an agent's parameters as double-precision leaves, run member by member.

    The formulas of the losses are written out in the tests, from the papers.
    """

    def __init__(self, agent: Agent) -> None:
        self.leaves = {
            network: {
                name: parameter.detach().double().clone().requires_grad_()
                for name, parameter in module.named_parameters()
            }
            for network, module in agent.learner.nets.named_children()
        }

    def run(self, network: str, member: int, inputs: Tensor) -> Tensor:
        """One member's perceptron [batch, out]."""
        leaves = self.leaves[network]
        depth = sum(name.startswith("trunk.weights.") for name in leaves)
        hidden = inputs
        for layer in range(depth):
            weight = leaves[f"trunk.weights.{layer}"][member]
            hidden = hidden @ weight + leaves[f"trunk.biases.{layer}"][member]
            if layer < depth - 1:
                hidden = torch.where(hidden > 0, hidden, torch.zeros_like(hidden))
        return hidden

    def q(self, network: str, member: int, observations: Tensor, actions: Tensor) -> Tensor:
        """One critic's values [batch]."""
        return self.run(network, member, torch.cat((observations, actions), 1))[:, 0]

    def gradient(self, network: str, loss: Tensor) -> Tensor:
        """Of a loss by a network's parameters, flat and in the module's order."""
        leaves = list(self.leaves[network].values())
        parts = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True)
        pairs = zip(parts, leaves, strict=True)
        return torch.cat([(torch.zeros_like(b) if a is None else a).flatten() for a, b in pairs])


class Normed(Naive):
    """Perceptrons with layer normalisation, where a network has any.

    Args:
        after_relu: normalise after the ReLU (ReBRAC) or before it (RLPD).
        epsilon: added to the variance.
    """

    def __init__(self, agent: Agent, *, after_relu: bool, epsilon: float) -> None:
        super().__init__(agent)
        self.after_relu, self.epsilon = after_relu, epsilon

    def run(self, network: str, member: int, inputs: Tensor) -> Tensor:
        leaves = self.leaves[network]
        if "trunk.norms.0" not in leaves:
            return super().run(network, member, inputs)
        depth = sum(name.startswith("trunk.weights.") for name in leaves)
        hidden = inputs
        for layer in range(depth):
            weight, bias = leaves[f"trunk.weights.{layer}"], leaves[f"trunk.biases.{layer}"]
            hidden = hidden @ weight[member] + bias[member]
            if layer == depth - 1:
                break
            if self.after_relu:
                hidden = hidden.clamp(min=0)
            centred = hidden - hidden.mean(1, keepdim=True)
            scaled = centred / (centred.square().mean(1, keepdim=True) + self.epsilon).sqrt()
            gain, shift = leaves[f"trunk.norms.{2 * layer}"], leaves[f"trunk.norms.{2 * layer + 1}"]
            hidden = scaled * gain[member] + shift[member]
            if not self.after_relu:
                hidden = hidden.clamp(min=0)
        return hidden


def double(batch: Batch) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(s, a, r, d, s') in double precision."""
    return (
        batch.observations.double(),
        batch.actions.double(),
        batch.rewards.double(),
        batch.terminations.double(),
        batch.next_observations.double(),
    )


def gaussian_log_prob(value: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Textbook density of independent normals [batch]."""
    exponent = -((value - mean) ** 2) / (2 * std**2)
    return (exponent - torch.log(std) - 0.5 * math.log(2 * math.pi)).sum(-1)


def agree(found: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    """Single against double precision, relative to the largest number; neither may be nothing."""
    wanted = wanted.detach().double()
    scale = float(wanted.abs().max())
    assert scale > 1e-6
    error = float((found.detach().double() - wanted).abs().max())
    assert error <= tolerance * scale, (error, scale)
