"""EDAC: an ensemble whose members' action gradients are kept apart (arXiv 2110.01548)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlalign.agents.sac import summed_squared_error
from rlalign.agents.sac_n import SACN, SACNSettings, require_ensemble
from rlalign.layout import Batch
from rlalign.learner import Metrics, Networks
from rlalign.nn.mlp import StackedMLP
from rlalign.settings import require


@dataclass(frozen=True)
class EDACSettings(SACNSettings):
    """Settings of EDAC.

    Args:
        diversity: eta, the weight of the critics' similarity; 0 is SAC-N.
    """

    diversity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.diversity >= 0, "diversity", self.diversity, "at least 0")
        require_ensemble(self, "EDAC")


def gradient_similarity(gradients: Tensor) -> Tensor:
    """mean over the batch of sum_{i != j} <g_i, g_j> / (N - 1), g normalised to length 1.

    It is N for identical members and -N / (N - 1) at best, where the directions sum to nothing.

    Args:
        gradients: of each member by the action [member, batch, act].
    """
    length = torch.linalg.vector_norm(gradients, dim=-1, keepdim=True)
    unit = gradients / (length + 1e-10)  # a member that is flat in the action has none
    # sum_{i != j} <g_i, g_j> = |sum_i g_i|^2 - sum_i |g_i|^2: no [N, N] table.
    pairs = unit.sum(0).square().sum(-1) - unit.square().sum((0, 2))
    return pairs.mean() / (len(gradients) - 1)


def values_and_action_gradients(
    trunk: StackedMLP, observation_actions: Tensor, action_size: int
) -> tuple[Tensor, Tensor]:
    """Q_i(s, a) and dQ_i/da in closed form, both with gradients by the weights.

    A ReLU perceptron is linear in its input while no unit switches, so dQ/da is the product of its
    weight matrices with the rows of units at rest set to zero: a polynomial in the weights, whose
    derivative plain autograd takes in one backward pass. Double backward (`create_graph=True`)
    builds the same numbers from a graph of the backward pass. It needs the plain form of the MLP:
    the accelerated one keeps the activations to itself, and has no second derivative.

    Args:
        trunk: critics of one output, without layer normalisation.
        observation_actions: [batch, obs + act].
        action_size: length of an action.

    Returns:
        values [member, batch], gradients [member, batch, act].
    """
    weights, biases = tuple(trunk.weights), tuple(trunk.biases)
    hidden = observation_actions.expand(len(weights[0]), *observation_actions.shape)
    active = []
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        hidden = torch.relu(torch.baddbmm(bias, hidden, weight))
        active.append(hidden.detach() > 0)
    values = torch.baddbmm(biases[-1], hidden, weights[-1]).squeeze(-1)
    of_action = (weights[0][:, -action_size:], *weights[1:])
    gradient = of_action[-1].transpose(1, 2).expand(-1, len(observation_actions), -1)
    for weight, mask in zip(of_action[-2::-1], active[::-1], strict=True):
        gradient = torch.bmm(gradient * mask, weight.transpose(1, 2))
    return values, gradient


class EDAC(SACN):
    """SAC-N with a tenth of the critics, made to differ in where they would have the action go."""

    name = "edac"
    settings_type = EDACSettings
    settings: EDACSettings

    def critic_loss(self, nets: Networks, batch: Batch) -> tuple[Tensor, Metrics]:
        """sum_i mean (Q_i(s, a) - y)^2 + eta ES, ES the `gradient_similarity`."""
        eta = self.settings.diversity
        if eta == 0:
            return super().critic_loss(nets, batch)
        target = self.critic_target(nets, batch)
        values, gradients = values_and_action_gradients(
            nets.critic.trunk, batch.observation_actions, self.spec.action_size
        )
        similarity = gradient_similarity(gradients)
        loss = summed_squared_error(values, target) + eta * similarity
        return loss, {"q": values, "q_target": target, "gradient_similarity": similarity}
