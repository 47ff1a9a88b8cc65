"""Terms that agents with an ensemble of critics share: bounds, disagreement, smoothness.

Values of an ensemble are [member, ...]; perturbed states are [batch, draw, obs].
"""

from __future__ import annotations

import torch
from torch import Tensor


def disagreement(values: Tensor) -> Tensor:
    """Standard deviation over the members, divided by N - 1 under the root: [...].

    Of (1, 3) it is sqrt(2).
    """
    return values.std(0)


def confidence_bound(values: Tensor, coefficient: float) -> Tensor:
    """mean_i + coefficient std_i over the members, [...]; below 0 it is a lower bound."""
    return values.mean(0) + coefficient * disagreement(values)


def random_members(noise: Tensor, size: int) -> Tensor:
    """A random subset of an ensemble's members, every subset equally likely (REDQ, RLPD).

    Args:
        noise: independent and continuous [member].
        size: members of the subset.

    Returns:
        their numbers [size].
    """
    return noise.argsort()[:size]


def perturbed(observations: Tensor, directions: Tensor, radius: float) -> Tensor:
    """States in the l-infinity ball around each observation, [batch, draw, obs].

    Args:
        observations: [batch, obs].
        directions: uniform on [-1, 1], [batch, draw, obs], or [draw, obs] for all rows alike.
        radius: half-width of the ball.
    """
    return torch.add(observations.unsqueeze(1), directions, alpha=radius)


def worst(penalty: Tensor, candidates: Tensor) -> Tensor:
    """Each row's candidate with the largest penalty, [batch, obs].

    Args:
        penalty: [batch, draw].
        candidates: [batch, draw, obs].
    """
    index = penalty.argmax(1)[:, None, None].expand(-1, 1, candidates.shape[-1])
    return candidates.gather(1, index).squeeze(1)


def asymmetric_change(change: Tensor, asymmetry: float) -> Tensor:
    """Mean over members of the squared change of their values under a perturbation, [...].

    Rises weigh 1 - asymmetry and falls asymmetry (RORL, arXiv 2206.02829).

    Args:
        change: Q_i(perturbed s, a) - Q_i(s, a), [member, ...].
        asymmetry: tau in [0, 1].
    """
    weight = torch.where(change > 0, 1.0 - asymmetry, asymmetry)
    return (weight * change.square()).mean(0)


def uncertainty_penalty(values: Tensor, weight: Tensor) -> Tensor:
    """mean (Q_i - sg(Q_i - weight u))^2, u the members' disagreement (PBRL, arXiv 2202.11566).

    It equals weight^2 mean u^2, and pushes every member down by the same amount: the gradient by
    Q_i is 2 weight u / number of values.

    Args:
        values: [member, ...].
        weight: 0-dim.
    """
    detached = values.detach()
    target = detached - weight * disagreement(detached)
    return torch.nn.functional.mse_loss(values, target)


def jeffreys_divergence(
    mean: Tensor, log_std: Tensor, other_mean: Tensor, other_log_std: Tensor
) -> Tensor:
    """KL(p||q) + KL(q||p) of independent normals, summed over the last axis: [...].

    A common bijection such as tanh leaves it as it is.
    """
    precision = torch.exp(-2.0 * log_std) + torch.exp(-2.0 * other_log_std)
    # (s^2 / t^2 + t^2 / s^2 - 2) / 2 = 2 sinh(log s - log t)^2, exact for nearly equal spreads.
    spread = 2.0 * torch.sinh(log_std - other_log_std).square()
    return (0.5 * (mean - other_mean).square() * precision + spread).sum(-1)
